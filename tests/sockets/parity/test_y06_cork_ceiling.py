"""Y6: how long a corked tail waits: the probe timer when idle, a loss probe in flight."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_MORE, SOL_TCP


@parity("A-26", "A-50", cases=["more", "cork"])
def test_idle(t, case):
    s, f = t.connected(sack=True)
    t.rule("A-26")
    if case == "cork":
        s.set(SOL_TCP, socket.TCP_CORK, 1)
        s.send(100)
    else:
        s.send(100, MSG_MORE)
    seen = t.run(260)
    t.check(len(seen) == 1 and 195 < seen[0].at < 225, seen)
    f.ack()
    t.run()
    s.send(50, MSG_MORE)
    seen = t.run(260)
    t.check(len(seen) == 1, seen)


@parity("A-26", "D-20")
def test_in_flight(t):
    """With data in flight the tail leaves as a tail loss probe."""
    s, f = t.connected(sack=True)
    t.rule("A-26")
    s.set(SOL_TCP, socket.TCP_CORK, 1)
    s.send(3000)
    t.run(60)
    f.ack()
    t.run(300)


@parity("A-26")
def test_in_flight_without_sack(t):
    """No loss probe without SACK: the tail waits for the ACK, then for the timer."""
    s, f = t.connected()
    t.rule("A-26")
    s.set(SOL_TCP, socket.TCP_CORK, 1)
    s.send(3000)
    t.run(60)
    f.ack()
    t.run(260)
