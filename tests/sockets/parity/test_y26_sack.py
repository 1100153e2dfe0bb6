"""Y26: the scoreboard under any blocks that a peer may send, and what a reduction proves
to have been: duplicate reports, old timestamps, late packets."""

from __future__ import annotations

import socket
from random import Random

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.test_y26_recovery import STATE, flight
from tests.sockets.parity.trial import SOL_SOCKET, SOL_TCP

FULL_STATE = (*STATE, "delivered", "reord_seen")
COUNTERS = tuple(
    "TcpExt" + name
    for name in (
        "TCPFullUndo", "TCPPartialUndo", "TCPDSACKUndo", "TCPLossUndo", "TCPSACKReorder",
        "TCPTSReorder", "TCPRenoReorder", "TCPSACKDiscard", "TCPDSACKRecv", "TCPDSACKOfoRecv",
        "TCPDSACKIgnoredOld", "TCPDSACKIgnoredNoUndo", "TCPDSACKIgnoredDubious",
        "TCPDSACKRecvSegs", "TCPSackRecovery", "TCPRenoRecovery", "TCPLostRetransmit",
        "TCPFastRetrans", "TCPSlowStartRetrans", "TCPTimeouts", "TCPSpuriousRTOs",
        "TCPSACKReneging", "TCPLossProbes", "TCPLossProbeRecovery",
    )
)  # fmt: skip


def look(t, s):
    s.info(*FULL_STATE)
    s.mem("wmem_queued")
    t.counters(*COUNTERS)


def random_block(rng, at, count, una):
    """Mostly whole segments, sometimes not; sometimes nonsense."""
    a, z = sorted((rng.randint(una, count), rng.randint(una, count)))
    left, right = at(a), at(z)
    kind = rng.random()
    if kind < 0.15:
        left += rng.randint(-20, 20)
        right += rng.randint(-20, 20)
    elif kind < 0.18:
        left, right = right, left
    elif kind < 0.2:
        right += 100000
    return left, right


def random_acks(t, case, *, ts, sack=True, wait=20.0):
    """A flight, and `wait` ms later ACKs with blocks at random, faster than any timer."""
    rng = Random(case)
    count = rng.choice((10, 10, 8, 5))
    s, f, at = flight(t, count, extra=rng.choice((0, 0, 3000, 30000)), ts=ts, sack=sack)
    t.rule("D-12")
    t.run(wait)
    stamps = [f.ecr, f.ecr - 1, f.ecr + 1, f.ecr - 400]
    una = 0
    held = []
    for _ in range(rng.randint(4, 14)):
        if rng.random() < 0.25:
            una = min(count, una + rng.randint(0, 3))
        blocks = [block for block in held if rng.random() < 0.8]
        if rng.random() < 0.7 or not held:
            held.insert(0, random_block(rng, at, count, una))
            blocks.insert(0, held[0])
        if rng.random() < 0.3:  # a duplicate, of what is known or at random
            lo = max(0, una - 3)
            dup = (at(lo), at(lo + rng.randint(1, 3)))
            blocks.insert(0, dup if rng.random() < 0.7 or not held else rng.choice(held))
        if not sack:
            blocks = []
        ack = at(una) if rng.random() < 0.9 else at(max(0, una - 1))
        fields = {"tsecr": rng.choice(stamps)} if ts and rng.random() < 0.5 else {}
        f.ack(ack, sacks=blocks[: 3 if ts else 4], **fields)
        look(t, s)
    for seen in t.run(1, quietly=True):  # whenever they came
        t.event("wire", seen.text)
    look(t, s)


# Among the cases are those in which each kind of undo happens.


@parity("D-12", "D-15", "D-26", "D-27", cases=[0, 1, 2, 3, 4, 5, 18, 91, 135])
def test_random_blocks(t, case):
    random_acks(t, case, ts=False)


@parity("D-12", "D-15", "D-26", "D-27", cases=[0, 1, 2, 4, 7, 10, 12, 20, 21, 29, 37])
def test_random_blocks_with_timestamps(t, case):
    random_acks(t, case, ts=True)


@parity("D-13", "D-15", "D-26", "D-27", cases=[0, 1, 2, 5, 9])
def test_random_acks_without_sack(t, case):
    random_acks(t, case, ts=bool(case % 2), sack=False)


@parity("D-5", "D-12", "D-26", "D-28", cases=[0, 1, 2, 3, 4, 5, 55, 61])
def test_random_blocks_after_a_timeout(t, case):
    """The probe and one or two timeouts have gone before."""
    random_acks(t, case, ts=bool(case % 2), sack=case % 5 != 0, wait=450 if case % 3 else 900)


@parity("D-26", "D-14", "D-43", cases=["reno", "cubic"])
def test_duplicate_reports_after_recovery(t, case):
    """Recovery has ended with the smaller window when the reports come."""
    s, f, at = flight(t, 10, cc=case)
    t.rule("D-26")
    t.run(20)
    f.ack(1, sacks=[(at(2), at(6))])
    t.run(2)
    look(t, s)
    f.ack(at(10))
    t.run(2)
    look(t, s)
    f.ack(at(10), sacks=[(1, at(1))])
    look(t, s)
    f.ack(at(10), sacks=[(at(1), at(2))])
    look(t, s)
    s.send(15000)
    t.run(2)
    look(t, s)


@parity("D-26", "D-15", cases=["sack", "nosack"])
def test_late_packets_undo_a_recovery(t, case):
    """The ACK that fills the hole echoes the original: at once, or when no retransmission
    is out any more."""
    sack = case == "sack"
    s, f, at = flight(t, 10, extra=20000, ts=True, sack=sack)
    t.rule("D-26")
    t.run(20)
    early = f.ecr
    for end in (3, 4, 5):
        f.ack(1, sacks=[(at(2), at(end))] if sack else ())
        t.run(2)
    look(t, s)
    f.ack(at(1), sacks=[(at(2), at(5))] if sack else (), tsecr=early)
    t.run(2)
    look(t, s)
    f.ack(at(6), tsecr=early)
    t.run(2)
    look(t, s)
    f.ack(at(10), tsecr=early)
    t.run(2)
    look(t, s)
    f.ack()
    t.run(2)
    look(t, s)


@parity("D-26", "D-5", "D-14", cases=["timestamps", "timestamps-nosack", "dsack", "cubic"])
def test_undo_of_a_timeout(t, case):
    """Every packet was only late."""
    sack = not case.endswith("nosack")
    cc = "cubic" if case == "cubic" else "reno"
    s, f, at = flight(t, 6, extra=20000, ts=case != "dsack", sack=sack, cc=cc)
    early = f.ecr
    t.rule("D-26")
    t.run(420, quietly=True)
    look(t, s)
    if case == "dsack":  # one of the window probe, one for each retransmission
        f.ack(at(1), sacks=[(1, at(1))])
        t.run(2)
        look(t, s)
        f.ack(at(6), sacks=[(at(1), at(3))])
        t.run(2)
        look(t, s)
    else:
        f.ack(at(2), tsecr=early)
        t.run(2)
        look(t, s)
        f.ack(at(6), tsecr=early)
        t.run(2)
    look(t, s)
    f.ack()
    t.run(2)
    look(t, s)


@parity("D-26", "D-40", "D-3", cases=["first", "second", "none", "nosack"])
def test_a_handshake_that_was_only_late(t, case):
    """Two SYNs are repeated; the SYN-ACK echoes one of them."""
    s = t.socket()
    f = t.flow(sack=case != "nosack", ts=case != "none")
    s.connect(f.port)
    t.rule("D-26")
    t.settle()
    stamps = [f.ecr]
    for _ in range(2):
        t.run(1050, quietly=True)
        stamps.append(f.ecr)
    f.ecr = stamps[0] if case in ("first", "nosack") else stamps[2]
    f.syn_ack()
    t.settle()
    look(t, s)
    s.set(SOL_TCP, socket.TCP_NODELAY, 1)
    s.send(30000)
    t.run(2)
    look(t, s)
    f.ack(1 + 1460, sacks=[(1, 1461)] if case != "nosack" else ())
    t.run(2)
    look(t, s)
    f.ack(sacks=[(1, 1461)] if case != "nosack" else ())
    t.run(2)
    look(t, s)


@parity("D-26", "D-40", "D-3", cases=["first", "second"])
def test_a_passive_handshake_that_was_only_late(t, case):
    """Two SYN-ACKs are repeated; the ACK echoes one of them."""
    listener = t.listener()
    f = t.flow(sport=7000, sack=True, ts=True)
    f.syn()
    t.rule("D-26")
    t.settle()
    stamps = [f.ecr]
    for wait in (1100, 2200):
        t.run(wait, quietly=True)
        stamps.append(f.ecr)
    f.ecr = stamps[0] if case == "first" else stamps[2]
    f.ack(1)
    t.settle()
    s = listener.accept()
    look(t, s)
    s.send(30000)
    t.run(2)
    look(t, s)


@parity("D-12", "A-1", cases=["growing", "every-second", "backwards", 1, 2, 3], v6=False)
def test_a_large_flight(t, case):
    """Hundreds of packets in entries of many: what is merged, up to the size of an entry."""
    s, f = t.connected(sack=True, wscale=8, rtt=30)
    t.rule("D-12")
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 4000000)
    for count in (20, 40, 80, 160, 320, 640, 640):
        una = f.seen
        f.ack()
        s.send(count * 1460)
        t.run(20, quietly=True)
    count = s.info("unacked")["unacked"]
    t.check(count > 600, count)
    s.mem("wmem_queued")
    rng = Random(case)
    blocks = []
    for i in range(40):
        if case == "growing":
            blocks = [(una + 1460, una + 1460 * (2 + 15 * i))]
        elif case == "every-second":
            at = una + 1460 * (1 + i * 14)
            blocks = [(at, at + 7 * 1460), *blocks][:4]
        elif case == "backwards":
            at = una + 1460 * (585 - i * 14)
            blocks = [(at, una + 600 * 1460)]
        else:
            at = una + 1460 * rng.randint(1, 500)
            blocks = [(at, at + 1460 * rng.randint(1, 90)), *blocks][:4]
        f.ack(una, sacks=blocks)
        s.info("sacked", "lost", "retrans", "delivered")
        s.mem("wmem_queued")
    f.ack()
    s.mem("wmem_queued")


@parity("D-26", "D-15", cases=["quiet", "sacks"])
def test_what_is_unmarked_is_not_found_again(t, case):
    """After a partial undo time alone tells nothing of what was marked before."""
    s, f, at = flight(t, 10, ts=True)
    t.rule("D-26")
    t.run(20)
    early = f.ecr
    f.ack(1, sacks=[(at(5), at(8))])
    t.run(2)
    look(t, s)
    f.ack(at(3), sacks=[(at(5), at(8))], tsecr=early)
    look(t, s)
    if case == "sacks":
        t.run(30)
        look(t, s)
        f.ack(at(3), sacks=[(at(5), at(10))])
    t.run(60)
    look(t, s)
    t.run(300)
    look(t, s)
