"""Y13: how much a receive call waits for, and what wakes it."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, SOL_SOCKET


def timeval(seconds, micro=0):
    return struct.pack("qq", seconds, micro)


def lowat(s, value):
    s.set(SOL_SOCKET, socket.SO_RCVLOWAT, value)
    s.get(SOL_SOCKET, socket.SO_RCVLOWAT)


@parity("B-2", "B-3", "B-4")
def test_what_is_there(t):
    """One call takes everything queued, over segment boundaries."""
    s, f = t.connected()
    t.rule("B-3")
    for size in (10, 20, 30):
        f.send("PA", data=size)
    t.run(60)
    t.check(s.recv(15).n == 15)
    t.check(s.recv(100).n == 45)
    t.check(s.recv(100) == "EAGAIN")


@parity("B-2", "B-9", "B-4", "B-8", cases=["full", "fin", "rst", "timeout", "dontwait", "peek"])
def test_waitall(t, case):
    s, f = t.connected()
    t.rule("B-9")
    if case == "timeout":
        s.set(SOL_SOCKET, socket.SO_RCVTIMEO, timeval(0, 100000))
    f.send("PA", data=60)
    t.run(60)
    if case == "dontwait":
        s.recv(100, MSG_WAITALL | MSG_DONTWAIT)
        s.recv(100, MSG_WAITALL | MSG_DONTWAIT)
        return
    call = s.start_recv(100, MSG_WAITALL | (MSG_PEEK if case == "peek" else 0))
    t.run()
    if case == "fin":
        f.send("FA")
    elif case == "rst":
        f.send("R")
    elif case == "full":
        f.send("PA", data=30)
        t.run(60)
        t.check(not call.done)
        f.send("PA", data=30)
    elif case == "peek":
        f.send("PA", data=60)
    t.run(120)
    t.check(call.done, "returned")
    s.recv(100)
    s.recv(100)


@parity("B-10", "B-9")
def test_timeout_with_nothing(t):
    s, _f = t.connected()
    t.rule("B-10")
    for sec, usec in ((0, 1000000), (0, -1), (-1, 0), (0, 0), (1, 500), (0, 100000)):
        s.set(SOL_SOCKET, socket.SO_RCVTIMEO, timeval(sec, usec))
        s.get_bytes(SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    call = s.start_recv(10, 0)
    t.run(150)
    t.check(call.value == "EAGAIN", call.value)
    s.set(SOL_SOCKET, socket.SO_RCVTIMEO, timeval(-1))
    call = s.start_recv(10, 0)
    t.run()
    t.check(call.done)


@parity("B-10", cases=["accept", "connect"])
def test_timeouts_of_other_calls(t, case):
    t.rule("B-10")
    if case == "accept":
        s = t.listener()
        s.set(SOL_SOCKET, socket.SO_RCVTIMEO, timeval(0, 100000))
        call = s.start_accept()
        t.run(150)
        t.check(call.value == "EAGAIN")
        return
    s = t.socket()
    t.flow()
    s.set(SOL_SOCKET, socket.SO_SNDTIMEO, timeval(0, 100000))
    call = s.start_connect()
    t.run(150)
    t.check(call.value == "EINPROGRESS", call.value)
    t.check(s.connect() == "EALREADY")


@parity("B-2", "B-7", "B-80")
def test_lowat_and_poll(t):
    s, f = t.connected()
    lowat(s, 100)
    t.rule("B-80")
    f.send("PA", data=60)
    t.run(60)
    t.check("IN" not in s.poll())
    t.check(s.recv(200).n == 60, "a non-blocking call takes what there is")
    f.send("PA", data=60)
    t.run(60)
    f.send("PA", data=60)
    t.run(60)
    t.check("IN" in s.poll())
    s.recv(30)
    s.poll()


@parity("B-7", "B-2")
def test_quirk_one(t):
    """A blocked recv(10) is not woken by 60 bytes with a mark of 100."""
    s, f = t.connected()
    lowat(s, 100)
    t.rule("B-7")
    call = s.start_recv(10, 0)
    f.send("PA", data=60)
    t.run(60)
    t.check(not call.done)
    f.send("PA", data=60)
    t.run(60)
    t.check(call.done and call.value.n == 10)


@parity("B-7", "B-2")
def test_quirk_two(t):
    """recv(1000) with 60 bytes already taken is not woken by 60 more."""
    s, f = t.connected()
    lowat(s, 100)
    t.rule("B-7")
    f.send("PA", data=60)
    t.run(60)
    call = s.start_recv(1000, 0)
    t.run()
    t.check(not call.done)
    f.send("PA", data=60)
    t.run(60)
    t.check(not call.done)
    f.send("PA", data=60)
    t.run(60)
    t.check(call.done)


@parity("B-7", "B-2")
def test_quirk_three(t):
    """Bytes queued at the time of the call satisfy it at once."""
    s, f = t.connected()
    lowat(s, 100)
    t.rule("B-7")
    f.send("PA", data=60)
    t.run(60)
    call = s.start_recv(10, 0)
    t.run()
    t.check(call.done and call.value.n == 10)


@parity("B-7", "B-8", cases=["data", "fin", "rst", "shutdown", "syn_sent", "listen", "fresh"])
def test_sleeping_reader(t, case):
    t.rule("B-7")
    if case in ("listen", "fresh"):
        s = t.listener() if case == "listen" else t.socket()
        t.check(s.recv(5) == "ENOTCONN")
        return
    if case == "syn_sent":
        s = t.socket()
        f = t.flow()
        s.connect()
        t.settle()
        s.recv(5)
        call = s.start_recv(5, 0)
        f.syn_ack()
        t.run()
        f.send("PA", data=3)
        t.run(60)
        t.check(call.done)
        return
    s, f = t.connected()
    call = s.start_recv(10, 0)
    t.run()
    if case == "data":
        f.send("A", data=1)
    elif case == "fin":
        f.send("FA")
    elif case == "rst":
        f.send("R")
    else:
        s.shutdown(socket.SHUT_RD)
    t.run(60)
    t.check(call.done)
    s.recv(10)
    s.poll()


@parity("B-71", "B-2")
def test_lowat_values(t):
    t.rule("B-71")
    s, _ = t.connected()
    for value in (1000, 100000, -1, 0, 1):
        lowat(s, value)
        s.mem("rcvbuf")
        s.get(6, socket.TCP_WINDOW_CLAMP)
    locked, _ = t.connected(prepare=lambda s: s.set(SOL_SOCKET, socket.SO_RCVBUF, 20000))
    lowat(locked, 10**6)
    locked.mem("rcvbuf")
