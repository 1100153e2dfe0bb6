"""Y2: what queued bytes cost, through sends, partial acknowledgements and splits."""

from __future__ import annotations

import random
import socket

import pytest

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_SOCKET

OVERHEAD = 832


def charge(t, s, partly=False):
    """wmem_queued is the payload and 832 an entry; with a first entry `partly` acknowledged
    it may be more."""
    outq = s.queues()[0]
    queued = s.mem("wmem_queued")["wmem_queued"]
    t.check(partly or (queued - outq) % OVERHEAD == 0, (queued, outq))
    t.check(queued >= outq, (queued, outq))
    return queued


@parity("A-1", "A-36", "A-14", cases=range(6), tcp_slow_start_after_idle=False)
def test_random_walk(t, case):
    """Sizes and acknowledgements at random; silence never lasts 200 ms."""
    rng = random.Random(case)
    s, f = t.connected(window=65535 if case % 2 else 20000, wscale=3 if case > 3 else None)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 30000)
    una = 1
    t.rule("A-1")
    for _ in range(40):
        if rng.random() < 0.6:
            s.send(rng.choice((1, 10, 100, 536, 1459, 1460, 1461, 5000, 20000)))
        elif f.seen > una:
            una = rng.randint(una, f.seen) if rng.random() < 0.5 else f.seen
            f.ack(una)
        t.settle()
        s.info("snd_cwnd", "unacked")
        charge(t, s, una not in (1, f.seen))
        s.poll()


@parity("A-36", "A-1")
def test_partly_acked(t):
    """An entry of one MSS or less is kept whole; a longer one is trimmed to the byte."""
    s, f = t.connected()
    t.rule("A-36")
    s.send(100)
    t.settle()
    before = charge(t, s)
    f.ack(51)
    t.settle()
    t.check(charge(t, s, True) == before, "kept whole")
    f.ack(101)
    t.settle()
    t.check(charge(t, s) == 0, "all acknowledged")
    s.send(5000)
    t.settle()
    charge(t, s)
    for ack in (102, 1000, 1561, 1562, 3000, 4481, 5100):
        f.ack(ack)
        t.settle()
        charge(t, s, True)


@parity("A-14", "C-28", cases=["listen", "syn_sent", "fin"])
def test_queue_ioctls(t, case):
    t.rule("A-14")
    if case == "listen":
        s = t.listener()
        t.check(s.queues() == ("EINVAL",) * 3)
        return
    if case == "syn_sent":
        s = t.socket()
        t.flow()
        s.queues()
        s.connect()
        t.settle()
        t.check(s.queues() == (0, 0, 0))
        return
    s, f = t.connected(window=2000)
    s.send(3000)
    t.settle()
    s.queues()
    s.shutdown(socket.SHUT_WR)
    t.settle()
    t.check(s.queues()[:2] == (3001, 1001), "the FIN counts")
    for ack in (1001, 3001, 3002):
        f.ack(ack)
        t.settle()
        s.queues()


@parity(
    "A-13",
    "A-2",
    cases=["v4", "ts", "mss536"],
    per_case={"mss536": {"tcp_min_tso_segs": 119}},
)
def test_sndbuf_tuning(t, case):
    """The buffer grows with the window while the application is short of it."""
    settings = {"ts": {"ts": True}, "mss536": {"mss": 536}}.get(case, {})
    t.rule("A-13")
    s, f = t.connected(wscale=7, **settings)
    first = s.get(SOL_SOCKET, socket.SO_SNDBUF)
    if case == "v4" and not t.v6:
        t.check(first == 46080, first)
    for _ in range(3):
        while isinstance(s.send(20000), int):
            pass
        t.settle()
        s.mem("sndbuf", "wmem_queued")
        f.ack()
        t.settle()
        s.info("snd_cwnd")
        s.mem("sndbuf", "wmem_queued")
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 20000)
    s.get(SOL_SOCKET, socket.SO_SNDBUF)
    f.ack()
    t.settle()
    s.get(SOL_SOCKET, socket.SO_SNDBUF)
    s.info("snd_cwnd")


def test_charge_identity_is_checked():
    """`charge` notices a byte that is not accounted for."""

    class Off:
        def queues(self):
            return (100, 0, 0)

        def mem(self, *only):
            return {"wmem_queued": 100 + OVERHEAD + 1}

    class Script:
        def check(self, fact, why=""):
            assert fact, why

    with pytest.raises(AssertionError):
        charge(Script(), Off())
