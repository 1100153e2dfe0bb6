"""Y20: backlog, what happens when it is full, accept, closing a listener."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import PORT, SOL_SOCKET, SOL_TCP, Socket

TCP_DEFER_ACCEPT = 9


def peers(t, count, **settings):
    return [t.flow(40000 + i, sport=PORT, **settings) for i in range(count)]


def establish(t, flow):
    flow.syn()
    t.settle()
    flow.ack(1)
    t.settle()


@parity("C-1", "B-80")
def test_listen_calls(t):
    t.rule("C-1")
    s = t.socket()
    t.check(s.listen(5) is None, "an unbound socket gets a port")
    s.name()
    s.get(SOL_SOCKET, socket.SO_ACCEPTCONN)
    s.listen(3)
    s.listen(-1)
    s.listen(100000)
    s.info("state", "unacked", "sacked")
    s.poll()
    s.connect()
    s.bind("", 7001)
    s.recv(1)
    u = t.socket("udp")
    u.listen(1)
    c, _ = t.connected()
    c.listen(1)
    d = t.socket()
    t.flow(40050)
    d.connect(40050)
    d.listen(1)
    a, b = t.socket(), t.socket()
    for each in (a, b):
        each.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind("", 7100)
    a.listen(1)
    t.check(b.listen(1) == "EADDRINUSE")


@parity("C-2", "C-3", "C-5", cases=[0, 1, 2])
def test_accept_queue_full(t, case):
    """backlog + 1 connections complete; further SYNs are left unanswered."""
    listener = t.listener(case)
    t.rule("C-2")
    for flow in peers(t, case + 3):
        establish(t, flow)
        listener.info("unacked", "sacked")
    listener.poll()
    for _ in range(case + 2):
        listener.accept()
    flow = t.flow(40090, sport=PORT)
    establish(t, flow)
    listener.accept()


@parity("C-2", "C-3")
def test_syn_queue_full(t):
    """Half-open connections beyond the backlog."""
    t.listener(4)
    t.rule("C-2")
    for flow in peers(t, 8):
        flow.syn()
        t.settle()


@parity("C-5", "C-4", cases=[False, True], per_case={True: {"tcp_abort_on_overflow": True}})
def test_ack_when_full(t, case):
    """The last ACK finds the queue full: it is dropped, or answered by a RST."""
    listener = t.listener(0)
    t.rule("C-5")
    one, two = peers(t, 2)
    one.syn()
    two.syn()
    t.settle()
    one.ack(1)
    t.settle()
    two.ack(1)
    t.run(1100)
    two.send("PA", data=b"hello", ack=1)
    t.run()
    listener.accept()
    two.send("PA", data=b"hello", ack=1, seq=1)
    t.run()
    s = listener.accept()
    if isinstance(s, Socket):
        s.recv(10)


@parity("C-5", cases=["bad-ack", "bad-seq", "rst", "rst-inexact", "syn", "no-flags", "fin", "data"])
def test_half_open_input(t, case):
    """What may arrive instead of the completing ACK."""
    listener = t.listener()
    t.rule("C-5")
    (flow,) = peers(t, 1)
    flow.syn()
    t.settle()
    if case == "bad-ack":
        flow.send("A", seq=1, ack=100)
    elif case == "bad-seq":
        flow.send("A", seq=100000, ack=1)
    elif case == "rst":
        flow.send("R", seq=1)
    elif case == "rst-inexact":
        flow.send("R", seq=2)
    elif case == "syn":
        flow.send("S", seq=0, options=flow.syn_options())
        t.run(600)
        flow.send("S", seq=0, options=flow.syn_options())
    elif case == "no-flags":
        flow.send("P", seq=1, data=b"x")
    elif case == "fin":
        flow.send("FA", seq=1, ack=1)
    else:
        flow.send("PA", seq=1, ack=1, data=b"hello")
    t.run()
    flow.seq = 1 + 5 * (case == "data") + (case == "fin")
    flow.ack(1)
    t.run()
    s = listener.accept()
    if isinstance(s, Socket):
        s.recv(10)
        s.info("state")


@parity("C-3", "C-10", cases=["S", "A", "FA", "SA", "R", "SF", "P", "SR", "SP", "F"])
def test_segments_to_a_listener(t, case):
    t.listener()
    t.rule("C-10")
    (flow,) = peers(t, 1)
    flow.send(case, seq=0, ack=77, data=b"x" if case in ("P", "SP") else b"")
    t.run()


@parity("C-6")
def test_accept(t):
    """Order, what is inherited, a connection that was reset, errors."""
    t.rule("C-6")
    s = t.socket()
    t.check(s.accept() == "EINVAL")
    t.check(t.socket("udp").accept() == "ENOTSUP")
    listener = t.listener()
    t.check(listener.accept() == "EAGAIN")
    t.check(listener.accept(0x10) == "EINVAL")
    one, two = peers(t, 2)
    establish(t, two)
    establish(t, one)
    one.send("PA", data=b"data")
    one.send("R")
    t.run(60)
    listener.poll()
    first = listener.accept(0x800)
    first.peername()
    first.name()
    second = listener.accept()
    second.recv(10)
    second.recv(10)
    second.recv(10)
    second.poll()


@parity("C-6", cases=[
    (SOL_SOCKET, socket.SO_SNDBUF, 20000), (SOL_SOCKET, socket.SO_RCVBUF, 20000),
    (SOL_TCP, socket.TCP_NODELAY, 1), (SOL_TCP, socket.TCP_CORK, 1),
    (SOL_SOCKET, socket.SO_KEEPALIVE, 1), (SOL_TCP, 4, 100), (SOL_TCP, 5, 9), (SOL_TCP, 6, 3),
    (SOL_SOCKET, socket.SO_OOBINLINE, 1), (SOL_SOCKET, socket.SO_RCVLOWAT, 50),
    (SOL_SOCKET, socket.SO_PRIORITY, 3), (SOL_SOCKET, 36, 7), (SOL_TCP, socket.TCP_MAXSEG, 600),
    (SOL_TCP, 25, 4000), (SOL_TCP, 18, 5000), (SOL_TCP, 12, 0), (SOL_TCP, 8, 7), (SOL_TCP, 36, 1),
    (SOL_TCP, 7, 3), (SOL_TCP, 10, 9000), (SOL_SOCKET, socket.SO_DONTROUTE, 1),
])  # fmt: skip
def test_inherited(t, case):
    """What a connection has from its listener."""
    level, name, value = case
    t.rule("C-6")
    listener = t.listener()
    listener.set(level, name, value)
    listener.get(level, name)
    s, _ = t.accepted(listener)
    s.get(level, name)
    s.get_bytes(SOL_TCP, socket.TCP_CONGESTION, 16)


@parity("C-7")
def test_closing_a_listener(t):
    """Waiting children are reset, half-open ones forgotten."""
    listener = t.listener()
    t.rule("C-7")
    one, two, three = peers(t, 3)
    establish(t, one)
    establish(t, two)
    two.send("PA", data=b"unread")
    three.syn()
    t.run(60)
    listener.close()
    t.run()
    three.ack(1)
    t.run()


@parity("C-9", cases=[1, 3, 8])
def test_defer_accept(t, case):
    listener = t.listener()
    t.rule("C-9")
    listener.set(SOL_TCP, TCP_DEFER_ACCEPT, case)
    listener.get(SOL_TCP, TCP_DEFER_ACCEPT)
    one, two = peers(t, 2)
    establish(t, one)
    listener.poll()
    t.check(listener.accept() == "EAGAIN")
    two.syn()
    t.settle()
    two.send("PA", data=b"hello", ack=1)
    t.run()
    listener.poll()
    listener.accept()
    one.send("PA", data=b"hi", ack=1)
    t.run()
    s = listener.accept()
    s.recv(10)


@parity("C-6")
def test_blocking_accept(t):
    listener = t.listener()
    t.rule("C-6")
    call = listener.start_accept()
    t.run()
    t.check(not call.done)
    (flow,) = peers(t, 1)
    establish(t, flow)
    t.check(call.done)
    listener.set(SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 50000))
    call = listener.start_accept()
    t.run(90)
    t.check(call.value == "EAGAIN")
