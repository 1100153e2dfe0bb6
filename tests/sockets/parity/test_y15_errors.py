"""Y15: which call gets a pending error, and in which order with data and end of stream."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SHUT_WR, SOL_SOCKET

CALLS = ("recv", "send", "error", "connect", "poll-recv", "send-send")


def first(t, s, case):
    if case.endswith("recv"):
        if case.startswith("poll"):
            s.poll()
        s.recv(10)
    elif case.startswith("send"):
        s.send(10)
    elif case == "error":
        s.get(SOL_SOCKET, socket.SO_ERROR)
    else:
        s.connect()


def everything(t, s):
    s.poll()
    s.recv(10)
    s.recv(10)
    s.send(10)
    s.send(10)
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.poll()
    s.peername()
    s.shutdown(SHUT_WR)
    s.info("state")
    s.mem()
    s.queues()
    t.run()


@parity("A-9", "B-5", "B-82", "C-21", cases=CALLS)
def test_reset(t, case):
    s, f = t.connected()
    t.rule("A-9")
    f.send("R")
    t.run()
    first(t, s, case)
    everything(t, s)


@parity("A-9", "B-5", "B-82", cases=CALLS)
def test_reset_with_data(t, case):
    """Data beats the error on the receiving side only."""
    s, f = t.connected()
    t.rule("B-5")
    s.send(100)
    f.send("PA", data=b"abc", ack=1)
    t.run(60)
    f.send("R")
    t.run()
    s.poll()
    first(t, s, case)
    everything(t, s)


@parity("A-9", "C-21", "B-5", cases=CALLS)
def test_reset_after_fin(t, case):
    s, f = t.connected()
    t.rule("C-21")
    f.send("FPA", data=b"end")
    t.run(60)
    f.send("R")
    t.run()
    first(t, s, case)
    everything(t, s)


@parity("A-9", "A-7", "B-82", cases=["send", "recv"])
def test_reset_wakes_sleepers(t, case):
    s, f = t.connected(window=1000)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 5000)
    t.rule("A-9")
    if case == "send":
        call = s.start_send(100000)
    else:
        call = s.start_recv(10, 0)
    t.run()
    t.check(not call.done)
    f.send("R")
    t.run()
    t.check(call.done)
    everything(t, s)


@parity("B-82", "C-12", cases=["refused", "refused-error", "refused-send", "refused-recv"])
def test_refused(t, case):
    """A failed connect: its error once, then the socket may be used again."""
    t.rule("B-82")
    s = t.socket()
    f = t.flow()
    s.connect()
    t.settle()
    s.poll()
    f.send("RA", seq=0, ack=1)
    t.run()
    s.poll()
    first(t, s, case.removeprefix("refused-") if "-" in case else "connect")
    s.poll()
    s.connect(40001)
    s.connect(40001)
    s.poll()
    t.run()
