"""Y26: bursts that keep to SO_MAX_PACING_RATE, and how that option is read and written."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_SOCKET, SOL_TCP

RATE = 47
RATES = ("pacing_rate", "max_pacing_rate")


def limited(t, rate, *, rtt=30, **settings):
    """An open connection that may send `rate` bytes a second."""
    s, f = t.connected(rtt=rtt, **{"sack": True, **settings})
    s.set(SOL_SOCKET, RATE, struct.pack("Q", rate))
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 1000000)
    return s, f


@parity("D-50", cases=["tcp", "udp"])
def test_forms(t, case):
    """Four bytes or eight, and what stands for no limit."""
    s = t.socket(case)
    t.rule("D-50")
    values = [struct.pack("I", n) for n in (0, 1, 100000, 2**31, 2**32 - 1)]
    values += [struct.pack("Q", n) for n in (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1)]
    values += [b"", b"\1", b"\1\0\0", b"\1\0\0\0\0", bytes([1, 0, 0, 0, 1, 0, 0]), b"\2" * 16]
    for value in [b"\xff" * 8, *values]:
        s.set(SOL_SOCKET, RATE, value)
        for size in (0, 1, 3, 4, 5, 7, 8, 9, 16):
            s.get_bytes(SOL_SOCKET, RATE, size)
        if case == "tcp":
            s.info(*RATES)


@parity("D-50", cases=["small", "zero", "large"])
def test_what_tcp_info_says(t, case):
    """The rate in force is the limit as soon as that is set, and with every ACK."""
    limit = {"small": 50000, "zero": 0, "large": 1 << 50}[case]
    s = t.socket()
    t.rule("D-50")
    s.set(SOL_SOCKET, RATE, struct.pack("Q", limit))
    s.info(*RATES)
    f = t.flow()
    s.connect(f.port)
    t.run(30)
    f.syn_ack()
    t.settle()
    if case != "large":
        s.info(*RATES)
    s.send(20000)
    t.settle()
    f.ack()
    t.settle()
    if case != "large":
        s.info(*RATES)
        s.set(SOL_SOCKET, RATE, -1)
        s.info("max_pacing_rate")


@parity("D-50", "C-6")
def test_accepted_sockets_inherit_it(t):
    s, f = t.accepted(rtt=30, prepare=lambda x: x.set(SOL_SOCKET, RATE, 100000), sack=True)
    t.rule("D-50")
    s.info("max_pacing_rate")
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 1000000)
    s.send(60000)
    t.run(60)
    f.ack()
    t.run(150)


@parity("D-50", "A-31", tcp_min_tso_segs=2, cases=[50000, 200000, 3000000])
def test_burst_size_by_rate(t, case):
    """About a millisecond of the rate, two segments at least."""
    s, f = limited(t, case)
    t.rule("D-50")
    s.send(60000)
    t.run(60)
    f.ack()
    t.run(170)
    f.ack()
    t.run(170)


@parity("D-50")
def test_small_writes(t):
    """The first ten packets do not wait, whatever their size; after an idle time the wait
    is half as long."""
    s, f = limited(t, 1000)
    t.rule("D-50")
    s.set(SOL_TCP, socket.TCP_NODELAY, 1)
    for _ in range(13):
        s.send(100)
        t.settle()
    t.run(300)
    f.ack()
    t.run(600)
    for _ in range(3):
        s.send(100)
        t.settle()
    t.run(300)


@parity("D-50", "B-56")
def test_acknowledgements_use_the_credit(t):
    """A pure ACK is not paced, but the time before it no longer counts."""
    s, f = limited(t, 10000)
    t.rule("D-50")
    s.set(SOL_TCP, socket.TCP_NODELAY, 1)
    for _ in range(11):
        s.send(1000)
    t.run(60)
    f.ack()
    t.run(400)
    for _ in range(2):
        f.send("PA", data=10)
        t.settle()
    s.send(1000)
    s.send(1000)
    t.run(250)


@parity("D-50", cases=["raised", "lowered", "lifted"])
def test_changed_while_waiting(t, case):
    """The burst that waits does so to the end; the new rate is for those after it."""
    s, f = limited(t, 50000)
    t.rule("D-50")
    s.send(60000)
    t.run(40)
    f.ack()
    t.run(120)
    s.set(SOL_SOCKET, RATE, {"raised": 400000, "lowered": 20000, "lifted": -1}[case])
    s.info(*RATES) if case != "lifted" else s.info("max_pacing_rate")
    t.run(80)
    f.ack()
    t.run(270)


@parity("D-50", "D-18", tcp_min_tso_segs=2)
def test_retransmissions_wait_too(t):
    s, f = limited(t, 100000)
    t.rule("D-50")
    mss = 1460 if not t.v6 else 1440
    s.send(20 * mss)
    t.run(30)
    for n in range(1, 11):
        f.ack(1 + n * mss)
    t.run(200)
    f.ack(1 + 10 * mss, sacks=[(1 + 14 * mss, 1 + 18 * mss)])
    t.run(120)
    f.ack()
    t.run(50)


@parity("D-50", "D-4", "D-20", "D-5", tcp_min_tso_segs=2)
def test_timers_start_when_the_burst_has_left(t):
    """The probe and the timeout are later by what is left of the last wait."""
    s, f = limited(t, 20000)
    t.rule("D-50")
    mss = 1460 if not t.v6 else 1440
    s.send(12 * mss)
    t.run(30)
    for n in range(1, 11):
        f.ack(1 + n * mss)
    t.run(1200)
