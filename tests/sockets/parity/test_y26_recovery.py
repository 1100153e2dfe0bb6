"""Y26: loss recovery, limited transmit, slow start, RTO; with SACK and without."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_SOCKET, SOL_TCP

STATE = (
    "ca_state", "snd_cwnd", "snd_ssthresh", "unacked", "sacked", "lost", "retrans", "reordering",
    "total_retrans", "dsack_dups", "retransmits",
)  # fmt: skip


def flight(t, count, *, extra=0, **settings):
    """`count` full segments in flight after a round trip of 30 ms, `extra` bytes waiting."""
    settings = {"sack": True, "rtt": 30, "cc": "reno", **settings}
    s, f = t.connected(**settings)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 1000000)
    mss = s.get(SOL_TCP, socket.TCP_MAXSEG)
    s.send(count * mss + extra)
    t.settle()
    return s, f, lambda n: 1 + n * mss


@parity("D-40", "D-42", "A-34", cases=["reno", "cubic"])
def test_slow_start(t, case):
    """Ten segments, then two for each acknowledged."""
    s, f, at = flight(t, 10, extra=100000, cc=case)
    t.rule("D-42")
    s.info(*STATE)
    for i in range(1, 11):
        f.ack(at(i))
        t.run(2)
        s.info(*STATE)


@parity("D-15", "D-16", "D-17", "D-18", "D-12", "D-14", cases=["reno", "cubic"])
def test_fast_retransmit_with_sack(t, case):
    s, f, at = flight(t, 10, cc=case)
    t.rule("D-16")
    t.run(20)
    for end in (2, 3, 4, 5, 6):
        f.ack(1, sacks=[(at(1), at(end))])
        t.run(2)
        s.info(*STATE)
    f.ack(at(6))
    t.run(2)
    s.info(*STATE)
    f.ack(at(10))
    t.run(2)
    s.info(*STATE)
    s.send(30000)
    t.run(2)


@parity("D-15", "D-16", "D-12", "D-13", "D-17", cases=["reno", "cubic"])
def test_fast_retransmit_without_sack(t, case):
    s, f, at = flight(t, 10, extra=20000, sack=False, cc=case)
    t.rule("D-15")
    t.run(20)
    for _ in range(6):
        f.ack(1)
        t.run(2)
        s.info(*STATE)
    f.ack(at(3))  # partial: the next hole
    t.run(2)
    s.info(*STATE)
    f.ack(at(10))
    t.run(2)
    s.info(*STATE)


@parity("D-19", "D-12")
def test_limited_transmit(t):
    s, f, at = flight(t, 10, extra=10000)
    t.rule("D-19")
    t.run(10)
    for end in (2, 3):
        f.ack(1, sacks=[(at(1), at(end))])
        t.run(3)
        s.info(*STATE)


@parity("D-13", "D-12")
def test_window_update_is_no_duplicate(t):
    s, f, _at = flight(t, 10, sack=False)
    t.rule("D-13")
    t.run(10)
    for win in (60000, 61000, 62000, 63000):
        f.ack(1, win=win)
        t.run(2)
        s.info(*STATE)


@parity("D-18", "D-15", "D-17")
def test_two_holes(t):
    s, f, at = flight(t, 12)
    t.rule("D-18")
    t.run(20)
    f.ack(1, sacks=[(at(1), at(3))])
    t.run(2)
    f.ack(1, sacks=[(at(4), at(6)), (at(1), at(3))])
    t.run(2)
    s.info(*STATE)
    f.ack(1, sacks=[(at(4), at(10)), (at(1), at(3))])
    t.run(2)
    s.info(*STATE)
    f.ack(at(3), sacks=[(at(4), at(10))])
    t.run(2)
    s.info(*STATE)
    f.ack(at(10))
    t.run(2)
    s.info(*STATE)


@parity("D-20", cases=["new-data", "last", "acked", "dsack"])
def test_tail_loss_probe(t, case):
    s, f, at = flight(t, 4, extra=0)
    t.rule("D-20")
    if case == "new-data":
        s.set(SOL_TCP, socket.TCP_CORK, 1)
        s.send(10)
    t.run(120)
    s.info(*STATE)
    if case == "acked":
        f.ack(at(4))
    elif case == "dsack":
        f.ack(at(4), sacks=[(at(3), at(4))])
    else:
        f.ack(1, sacks=[(at(1), at(4))])
    t.run(20)
    s.info(*STATE)


@parity("D-5", "D-25", "D-18", cases=["sack", "nosack"])
def test_rto_and_slow_start(t, case):
    s, f, at = flight(t, 5, extra=0, sack=case == "sack")
    t.rule("D-5")
    t.run(400)
    s.info(*STATE)
    f.ack(at(1))
    t.run(10)
    s.info(*STATE)
    f.ack(at(3))
    t.run(10)
    s.info(*STATE)
    f.ack(at(5))
    t.run(10)
    s.info(*STATE)


@parity("D-26", "D-27", cases=["dsack", "timestamps"])
def test_undo(t, case):
    """The retransmission was not needed: the window comes back."""
    s, f, at = flight(t, 10, ts=case == "timestamps")
    t.rule("D-26")
    t.run(20)
    early = f.ecr
    f.ack(1, sacks=[(at(1), at(5))])
    t.run(3)
    s.info(*STATE)
    if case == "dsack":
        f.ack(at(5))
        t.run(3)
        f.ack(at(10), sacks=[(1, at(1))])
    else:
        f.ack(at(10), tsecr=early)
    t.run(3)
    s.info(*STATE)


@parity("D-26", "D-5", cases=["sack", "without"])
def test_undo_of_half_a_retransmission(t, case):
    """The mark of what was sent again outlives the undo; at the next timeout it counts twice."""
    s, f, at = flight(t, 3, ts=True, sack=case == "sack")
    t.rule("D-26")
    t.run(20)
    early = f.ecr
    t.run(400)
    s.info(*STATE)
    f.ack(at(1) // 2, tsecr=early)
    t.run(3)
    s.info(*STATE)
    t.run(700)
    s.info(*STATE)
    f.ack(at(3))
    t.run(3)
    s.info(*STATE)


@parity("D-27", "D-15")
def test_reordering(t):
    """A segment that arrives late, not lost."""
    s, f, at = flight(t, 10)
    t.rule("D-27")
    t.run(10)
    f.ack(1, sacks=[(at(3), at(4))])
    t.run(2)
    s.info(*STATE)
    f.ack(1, sacks=[(at(1), at(4))])
    t.run(2)
    s.info(*STATE)
    f.ack(at(4))
    t.run(2)
    s.info(*STATE)
    f.ack(at(10))
    t.run(2)
    s.info(*STATE)


@parity("D-12", "D-15", cases=["beyond", "below", "empty", "reversed", "partial", "whole"])
def test_odd_sack_blocks(t, case):
    s, f, at = flight(t, 6)
    t.rule("D-12")
    t.run(10)
    blocks = {
        "beyond": (at(5), at(8)), "below": (-100, 1), "empty": (at(2), at(2)),
        "reversed": (at(4), at(2)), "partial": (at(1) + 10, at(3) - 10), "whole": (1, at(6)),
    }  # fmt: skip
    f.ack(1, sacks=[blocks[case]])
    t.run(3)
    s.info(*STATE)
    s.mem("wmem_queued")


@parity("D-50", "A-31")
def test_pacing_rate(t):
    """SO_MAX_PACING_RATE is enforced: ten at once, then by rate."""
    s, f = t.connected(rtt=30, sack=True)
    t.rule("D-50")
    s.set(SOL_SOCKET, 47, struct.pack("Q", 100000))
    s.get_bytes(SOL_SOCKET, 47, 8)
    s.get(SOL_SOCKET, 47)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 1000000)
    s.send(60000)
    t.run(60)
    f.ack()
    t.run(400)


@parity("A-31", "A-22", tcp_min_tso_segs=2, tcp_tso_win_divisor=3)
def test_burst_size(t):
    """On a path of 30 ms a burst has two segments, PSH on each second one."""
    s, f = t.connected(rtt=30)
    t.rule("A-31")
    s.send(14600)
    t.run(28)
    f.ack()
    t.run(2)
