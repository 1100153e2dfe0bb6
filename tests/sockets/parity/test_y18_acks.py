"""Y18: when data is acknowledged: at once, later, with the answer."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_TCP

QUICKACK = socket.TCP_QUICKACK


@parity("B-55", "B-52", cases=["small", "full"])
def test_start(t, case):
    """The first segments are acknowledged at once, the rest with a delay."""
    s, f = t.connected()
    t.rule("B-55")
    for _ in range(24):
        f.send("PA", data=100 if case == "small" else 1460)
        t.run(60)
    s.info("ato", "rcv_mss")


@parity("B-52", "B-53", "B-51")
def test_two_full_segments(t):
    s, f = t.connected()
    for _ in range(18):
        f.send("PA", data=100)
        t.run(60)
    s.recv(10000)
    t.run(60)
    t.rule("B-52")
    for _ in range(3):
        f.send("A", data=1460)
        f.send("A", data=1460)
        t.run(60)
        s.info("rcv_mss", "ato")
        s.recv(10000)
        t.run(60)
    f.send("A", data=1460)
    t.run(80)


@parity("B-52")
def test_more_than_one_segment(t):
    """Exactly one full segment waits; one byte more does not, while the reader wants more."""
    s, f = t.connected()
    for _ in range(20):
        f.send("A", data=1460)
        t.run(60)
        s.recv(10000)
    s.set(1, socket.SO_RCVLOWAT, 20000)
    t.rule("B-52")
    f.send("A", data=1460)
    t.run(80)
    f.send("A", data=1459)
    t.settle()
    f.send("A", data=1)
    t.run(80)
    f.send("A", data=1460)
    t.settle()
    f.send("A", data=1)
    t.run(80)


@parity("B-56", "B-53")
def test_request_and_reply(t):
    """Replies carry the ACK; without a reply it comes after the delay."""
    s, f = t.connected()
    t.rule("B-56")
    for _ in range(4):
        f.send("PA", data=50)
        t.settle()
        s.recv(100)
        s.send(70)
        t.settle()
        f.ack()
        t.run()
    s.get(SOL_TCP, QUICKACK)
    f.send("PA", data=50)
    t.run(80)
    s.recv(100)
    f.send("PA", data=50)
    t.run(80)
    s.recv(100)
    f.send("PA", data=50)
    t.run(80)
    s.get(SOL_TCP, QUICKACK)


@parity("B-56", "B-53")
def test_reply_before_the_delay(t):
    s, f = t.connected()
    s.send(10)
    t.settle()
    f.ack()
    t.settle()
    t.rule("B-56")
    f.send("PA", data=50)
    t.settle()
    s.send(10)
    t.run()
    f.ack()
    f.send("PA", data=50)
    t.run(15)
    s.send(10)
    t.run(80)


@parity("B-57", cases=[0, 1, 2, 3])
def test_quickack_option(t, case):
    s, f = t.connected()
    t.rule("B-57")
    s.get(SOL_TCP, QUICKACK)
    s.send(10)
    t.settle()
    f.ack()
    f.send("PA", data=50)
    t.settle()
    s.set(SOL_TCP, QUICKACK, case)
    s.get(SOL_TCP, QUICKACK)
    t.run(80)
    f.send("PA", data=50)
    t.run(80)
    s.recv(100)
    f.send("PA", data=50)
    t.run(80)
    s.get(SOL_TCP, QUICKACK)


@parity("B-50", "B-53", "B-51")
def test_reading_everything(t):
    """After a full read a pushed segment is acknowledged at once when not in pingpong."""
    s, f = t.connected()
    for _ in range(18):
        f.send("PA", data=100)
        t.run(60)
    t.run(60)
    s.recv(10000)
    t.run(60)
    t.rule("B-50")
    for flags in ("PA", "A", "PA"):
        f.send(flags, data=200)
        t.settle()
        s.recv(10000)
        t.run(60)
    f.send("PA", data=200)
    f.send("PA", data=200)
    t.settle()
    s.recv(100)
    t.run(60)


@parity("B-53", "C-25")
def test_fin_is_acknowledged(t):
    s, f = t.connected()
    t.rule("B-53")
    s.send(10)
    t.settle()
    f.ack()
    t.run()
    f.send("FA")
    t.run(80)


@parity("B-52", "B-80")
def test_old_data(t):
    """Old and out-of-window data is acknowledged at once and starts quick ACKs."""
    s, f = t.connected()
    for _ in range(18):
        f.send("PA", data=100)
        t.run(60)
    s.recv(10000)
    t.run(60)
    t.rule("B-52")
    f.send("PA", seq=f.seq - 50, data=50)
    t.run(60)
    f.send("PA", data=100)
    t.run(60)
    f.send("PA", data=100)
    t.run(80)
