"""Taking a reduction of the window back (rule D-26)."""

from __future__ import annotations

from tests.tcp.harness import Bench
from tests.tcp.test_loss import MSS, flight, sack, seg
from ustack.tcp.state import CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY


def is_whole(b: Bench) -> bool:
    """Has the window the size and the threshold that it had before? The ACK that gave it
    back may have let it grow."""
    return b.sk.cc.snd_cwnd >= 10 and b.sk.cc.snd_ssthresh == 0x7FFFFFFF


def undone(b: Bench) -> dict[str, int]:
    mib = b.stack.mib.nonzero()
    return {name: n for name, n in mib.items() if name.endswith("Undo") and "Ignored" not in name}


def timed_flight(count: int = 10, **settings) -> Bench:
    """As `flight`, with timestamps."""
    b = Bench.connected(mss=MSS + 12, rtt=20, ts=True, **settings)
    b.inject(seq=1, win=65535)
    b.send(count * MSS)
    assert len(b.take()) == count
    return b


def in_recovery(**settings) -> Bench:
    """Segments 0 and 1 of ten are believed lost and went again."""
    b = flight(**settings)
    b.run(20)
    sack(b, (2, 6))
    sack(b, (2, 8))
    assert b.sk.ca_state == CA_RECOVERY
    return b


def test_d26_every_retransmission_reported_as_a_duplicate():
    b = in_recovery()
    assert b.sk.undo_retrans == b.sk.retrans_out == 2
    sack(b, (0, 1), (2, 8), ack=2)
    assert b.sk.undo_retrans == 1
    assert not is_whole(b)
    sack(b, (1, 2), (2, 8), ack=2)
    assert b.sk.undo_marker is None
    assert is_whole(b)
    assert b.sk.ca_state == CA_DISORDER
    assert undone(b) == {"TcpExtTCPDSACKUndo": 1}


def test_d26_reports_may_come_after_the_recovery():
    b = in_recovery()
    sack(b, ack=10)
    assert b.sk.ca_state == CA_OPEN
    assert not is_whole(b)
    sack(b, (0, 1), ack=10)
    sack(b, (1, 2), ack=10)
    assert is_whole(b)


def test_d26_no_report_no_undo():
    b = in_recovery()
    sack(b, (0, 1), ack=10)  # one of two
    assert b.sk.ca_state == CA_OPEN
    assert not is_whole(b)
    assert not undone(b)


def test_d26_an_old_echo_undoes_when_all_is_acknowledged():
    b = timed_flight()
    b.run(20)
    stamp = b.sk.tsoffset + b.now // 1_000_000 - 20
    sack(b, (2, 6))
    assert b.sk.ca_state == CA_RECOVERY
    b.inject(ack=seg(10), tsecr=stamp & 0xFFFFFFFF)
    assert b.sk.ca_state == CA_OPEN
    assert is_whole(b)
    assert undone(b) == {"TcpExtTCPFullUndo": 1}


def test_d26_without_sack_the_state_is_held():
    """The threshold comes back at high_seq, the state with the next ACK above it."""
    b = timed_flight(sack=False)
    b.run(20)
    stamp = (b.sk.tsoffset + b.now // 1_000_000 - 20) & 0xFFFFFFFF
    for _ in range(3):
        b.inject(ack=1)
    assert b.sk.ca_state == CA_RECOVERY
    b.send(2000)
    b.inject(ack=seg(10), tsecr=stamp)
    assert b.sk.ca_state == CA_RECOVERY
    assert b.sk.cc.snd_ssthresh == 0x7FFFFFFF
    b.inject(ack=seg(11))
    assert b.sk.ca_state == CA_OPEN


def test_d26_a_timeout_that_came_too_early():
    b = timed_flight(5)
    stamp = (b.sk.tsoffset + b.now // 1_000_000) & 0xFFFFFFFF
    b.run(400)
    assert b.sk.ca_state == CA_LOSS
    assert b.sk.lost_out == 5
    b.inject(ack=seg(1), tsecr=stamp)
    assert b.sk.ca_state == CA_OPEN
    assert not b.sk.lost_out
    assert b.sk.retransmits == 0
    assert is_whole(b)
    assert undone(b) == {"TcpExtTCPLossUndo": 1}


def test_d26_a_probe_in_flight_counts_as_a_retransmission():
    b = flight(4)
    b.run(60)
    assert b.sk.tlp_retrans
    sack(b, (1, 4))
    assert b.sk.ca_state == CA_RECOVERY
    assert b.sk.undo_retrans == 2
