"""Y31: receiving datagrams: buffer and drops, truncation, peeking, nothing at all."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import (
    MSG_DONTWAIT,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SIOCINQ,
    SOL_SOCKET,
)

SO_PEEK_OFF, SO_RXQ_OVFL, SO_NO_CHECK = 42, 40, 11


def bound(t, rcvbuf=None):
    s = t.socket("udp")
    s.bind("", 7000)
    if rcvbuf is not None:
        s.set(SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    return s


@parity("E-26", "B-33", cases=[(0, 10), (1152, 10), (10000, 10), (10000, 1472), (5000, 600)])
def test_buffer(t, case):
    rcvbuf, size = case
    s = bound(t, rcvbuf)
    t.rule("E-26")
    for _ in range(30):
        t.udp(bytes(size))
        s.mem("rmem", "rcvbuf", "drops")
    s.poll()
    while s.recv(5000) != "EAGAIN":
        pass
    s.mem("rmem", "drops")


@parity("E-26", "E-45")
def test_drops_are_reported(t):
    s = bound(t, 0)
    t.rule("E-26")
    s.set(SOL_SOCKET, SO_RXQ_OVFL, 1)
    s.get(SOL_SOCKET, SO_RXQ_OVFL)
    for i in range(6):
        t.udp(bytes([i]))
    while s.recv(10) != "EAGAIN":
        pass
    t.udp(b"later")
    s.recv(10)


@parity("E-26", cases=[300, 600, 1000, 1200, 1472])
def test_charges(t, case):
    s = bound(t)
    t.rule("E-26")
    for size in (0, 1, case):
        t.udp(bytes(size))
        s.mem("rmem")


@parity("E-27", "B-11")
def test_trunc_and_peek(t):
    s = bound(t)
    t.rule("E-27")
    for data in (b"abcdef", b"ghij", b"kl"):
        t.udp(data)
    s.ioctl(SIOCINQ)
    s.recv(3, MSG_PEEK)
    s.recv(3, MSG_PEEK | MSG_TRUNC)
    s.recv(3)
    s.recv(3, MSG_TRUNC)
    s.recv(10, MSG_WAITALL)
    s.recv(10, MSG_WAITALL)
    t.udp(b"x")
    s.recv(1, 0x1)


@parity("E-27", "B-11")
def test_peek_offset(t):
    s = bound(t)
    t.rule("E-27")
    for data in (b"abc", b"defg", b"", b"hi"):
        t.udp(data)
    s.set(SOL_SOCKET, SO_PEEK_OFF, 1)
    for length in (1, 5, 5, 5, 5):
        s.recv(length, MSG_PEEK)
        s.get(SOL_SOCKET, SO_PEEK_OFF)
    s.recv(10)
    s.get(SOL_SOCKET, SO_PEEK_OFF)
    s.recv(10, MSG_PEEK)


@parity("E-28", "E-27")
def test_empty_datagrams(t):
    s = bound(t)
    t.rule("E-28")
    t.check("IN" not in s.poll())
    t.udp(b"")
    t.check("IN" in s.poll())
    s.ioctl(SIOCINQ)
    s.recv(10)
    s.recv(10)
    t.udp(b"abc")
    s.recv(0)
    s.recv(10)
    t.udp(b"")
    s.recv(0, MSG_PEEK)
    s.recv(0)


@parity("E-25", "E-14", "E-30", cases=["bad-csum", "no-csum", "short-length", "long-length",
                                       "tiny-length", "trailing", "truncated"])  # fmt: skip
def test_what_is_accepted(t, case):
    s = bound(t)
    t.rule("E-25")
    plant = {
        "bad-csum": {"csum": 0x1234}, "no-csum": {"csum": 0}, "short-length": {"length": 10},
        "long-length": {"length": 50}, "tiny-length": {"length": 7}, "trailing": {"length": 12},
        "truncated": {"length": 8},
    }[case]  # fmt: skip
    if "length" in plant and not t.v6:
        plant["csum"] = 0
    t.udp(b"payload", **plant)
    t.settle()
    s.poll()
    s.recv(100)
    s.mem("rmem", "drops")


@parity("E-29", "E-17", "E-19", cases=["rd", "wr", "rdwr", "unconnected"])
def test_shutdown(t, case):
    s = bound(t)
    t.rule("E-17")
    s.poll()
    if case != "unconnected":
        s.connect(40000)
    call = s.start_recv(10, 0)
    how = {"rd": SHUT_RD, "wr": SHUT_WR, "rdwr": SHUT_RDWR, "unconnected": SHUT_RD}[case]
    s.shutdown(how)
    t.run()
    s.poll()
    if not call.done:
        t.udp(b"late")
        t.run()
    s.recv(10, MSG_DONTWAIT)
    s.send(b"x", 0, None if case != "unconnected" else (None, 40000))
    t.run()
    s.poll()
    again = s.start_recv(10, 0)
    t.run()
    t.check(again.done or case == "wr")


@parity("E-27", "B-10", cases=["data", "timeout"])
def test_blocking(t, case):
    s = bound(t)
    t.rule("E-27")
    if case == "timeout":
        s.set(SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 100000))
    s.set(SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    call = s.start_recv(10, MSG_WAITALL)
    t.run(150)
    if case == "data":
        t.udp(b"abc")
        t.run()
    t.check(call.done)


@parity("E-14", cases=["v4-none", "default"])
def test_checksum_sent(t, case):
    s = bound(t)
    t.rule("E-14")
    if case == "v4-none":
        s.set(SOL_SOCKET, SO_NO_CHECK, 1)
        s.set(17, 101, 1)
    s.get(SOL_SOCKET, SO_NO_CHECK)
    s.send(b"hello", 0, (None, 40000))
    s.send(2000, 0, (None, 40000))
    t.settle()


@parity("E-31", "B-16")
def test_several_readers(t):
    """Each datagram goes to one of the calls that wait, the first to have come."""
    s = bound(t)
    t.rule("E-31")
    calls = [s.start_recv(10, 0) for _ in range(3)]
    t.run()
    for i in range(2):
        t.udp(bytes([i]))
        t.run()
        t.check(sum(call.done for call in calls) == i + 1)
    t.check(not calls[2].done)
