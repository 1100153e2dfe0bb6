"""Y14: MSG_PEEK, SO_PEEK_OFF, MSG_TRUNC, requests for nothing, TCP_INQ, SIOCINQ."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import (
    MSG_DONTWAIT,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    SIOCINQ,
    SOL_SOCKET,
    SOL_TCP,
)

SO_PEEK_OFF, TCP_INQ = 42, 36


def queued(t, *pieces):
    s, f = t.connected()
    for piece in pieces:
        f.send("PA", data=piece)
    t.run(60)
    return s, f


@parity("B-11")
def test_peek(t):
    t.rule("B-11")
    s, _ = queued(t, b"abc", b"defg")
    t.check(s.recv(5, MSG_PEEK).data == b"abcde")
    t.check(s.recv(100, MSG_PEEK).data == b"abcdefg")
    s.ioctl(SIOCINQ)
    s.recv(4)
    s.recv(100, MSG_PEEK)
    s.recv(100)
    t.check(s.recv(100, MSG_PEEK) == "EAGAIN")


@parity("B-11")
def test_peek_offset(t):
    t.rule("B-11")
    s, f = queued(t, b"abc", b"defg")
    for value in (-5, -1, 3):
        s.set(SOL_SOCKET, SO_PEEK_OFF, value)
        s.get(SOL_SOCKET, SO_PEEK_OFF)
    for flags, length in ((MSG_PEEK, 2), (MSG_PEEK, 100), (MSG_PEEK, 100), (0, 1), (MSG_PEEK, 1)):
        s.recv(length, flags | MSG_DONTWAIT)
        s.get(SOL_SOCKET, SO_PEEK_OFF)
    f.send("PA", data=b"hij")
    t.run(60)
    s.recv(100, MSG_PEEK)
    s.get(SOL_SOCKET, SO_PEEK_OFF)
    s.recv(100)
    s.get(SOL_SOCKET, SO_PEEK_OFF)
    s.set(SOL_SOCKET, SO_PEEK_OFF, 2)
    call = s.start_recv(4, MSG_PEEK)
    f.send("PA", data=b"klm")
    t.run(60)
    t.check(call.done)
    s.set(SOL_SOCKET, SO_PEEK_OFF, -1)
    s.recv(10, MSG_PEEK)


@parity("B-12")
def test_trunc(t):
    """Consumed and counted, not copied."""
    t.rule("B-12")
    s, _ = queued(t, b"abcdefgh")
    t.check(s.recv(4, MSG_TRUNC).n == 4)
    s.ioctl(SIOCINQ)
    s.recv(2, MSG_TRUNC | MSG_PEEK)
    s.ioctl(SIOCINQ)
    s.recv(100)
    s.recv(5, MSG_TRUNC)


@parity("B-6", cases=["empty", "data", "fin", "blocked"])
def test_length_zero(t, case):
    t.rule("B-6")
    s, f = t.connected()
    if case == "data":
        f.send("PA", data=5)
        t.run(60)
    elif case == "fin":
        f.send("FA")
        t.run(60)
    if case == "blocked":
        call = s.start_recv(0, 0)
        t.run()
        t.check(not call.done)
        f.send("PA", data=5)
        t.run(60)
        t.check(call.done)
        return
    s.recv(0)
    s.recv(0, MSG_PEEK)
    s.recv(0, MSG_WAITALL | MSG_DONTWAIT)
    s.ioctl(SIOCINQ)


@parity("B-13", "B-14", "B-32")
def test_inq(t):
    t.rule("B-14")
    s, f = queued(t, b"abcdefgh")
    for value in (2, -1, 1):
        s.set(SOL_TCP, TCP_INQ, value)
        s.get(SOL_TCP, TCP_INQ)
    s.ioctl(SIOCINQ)
    s.recv(3)
    s.recv(2, MSG_PEEK)
    s.recv(5)
    s.recv(5)
    f.send("FPA", data=b"xy")
    t.run(60)
    s.ioctl(SIOCINQ)
    s.recv(1)
    s.recv(1)
    s.recv(1)
    s.ioctl(SIOCINQ)


@parity("B-32", cases=["syn_sent", "ooo", "fin"])
def test_siocinq(t, case):
    t.rule("B-32")
    if case == "syn_sent":
        s = t.socket()
        t.flow()
        s.ioctl(SIOCINQ)
        s.connect()
        s.ioctl(SIOCINQ)
        return
    s, f = t.connected(sack=True)
    if case == "ooo":
        f.send("A", seq=11, data=10)
        t.run(60)
        s.ioctl(SIOCINQ)
        f.send("A", seq=1, data=10)
        t.run(60)
        s.ioctl(SIOCINQ)
    else:
        f.send("FPA", data=4)
        t.run(60)
        s.ioctl(SIOCINQ)
        s.recv(10)
        s.ioctl(SIOCINQ)
    s.mem("rmem")
