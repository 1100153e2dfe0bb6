"""Finding and repairing loss (rules D-12 to D-28)."""

from __future__ import annotations

import pytest

from tests.tcp.harness import Bench
from ustack.tcp.skb import LOST, SACKED_ACKED
from ustack.tcp.state import CA_CWR, CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY
from ustack.wire.packet import DROPPED, QUEUED, TAKEN

MSS = 1000


def flight(count: int = 10, rtt: float = 20, **settings) -> Bench:
    """A connection with `count` segments of 1000 bytes out."""
    b = Bench.connected(mss=MSS, rtt=rtt, **settings)
    b.inject(seq=1, win=65535)  # a first ACK, so that the next ones are no window updates
    b.send(count * MSS)
    assert len(b.take()) == count
    return b


def seg(n: int) -> int:
    """Where segment `n` (from 0) starts."""
    return 1 + n * MSS


def sack(b: Bench, *ranges: tuple[int, int], ack: int = 0) -> None:
    """Acknowledge up to segment `ack`, report the segments [first, last) of each range."""
    b.inject(ack=seg(ack), sacks=[(seg(a), seg(z)) for a, z in ranges])


def pipe(b: Bench) -> tuple[int, int, int, int]:
    return (b.sk.packets_out, b.sk.sacked_out, b.sk.lost_out, b.sk.retrans_out)


# -- the scoreboard ------------------------------------------------------------------------


def test_d12_a_block_cuts_a_large_entry_on_segment_borders():
    b = flight()
    b.run(20)
    entries = len(b.sk.rtx_queue)
    sack(b, (1, 3))
    assert pipe(b) == (10, 2, 0, 0)
    assert len(b.sk.rtx_queue) == entries + 1  # what is SACKed stands in one
    assert [(b.rel(s.seq), s.len) for s in b.sk.rtx_queue][:3] == [
        (1, MSS), (seg(1), 2 * MSS), (seg(3), MSS),
    ]  # fmt: skip
    assert b.sk.in_flight == 8


def test_d12_sacked_neighbours_are_merged():
    """However they were reported, and what they are charged for goes with them."""
    b = flight()
    before = b.wq()
    entries = len(b.sk.rtx_queue)
    sack(b, (2, 4))
    sack(b, (6, 8))
    sack(b, (2, 8))
    tagged = [skb for skb in b.sk.rtx_queue if skb.sacked & SACKED_ACKED]
    assert [(b.rel(s.seq), s.len, s.pcount) for s in tagged] == [(seg(2), 6 * MSS, 6)]
    assert b.wq() == before - 832 * (entries - len(b.sk.rtx_queue))
    assert pipe(b)[1] == 6


def test_d12_only_whole_segments_count():
    b = flight()
    b.inject(ack=1, sacks=[(seg(2) + 10, seg(5) - 10)])
    assert b.sk.sacked_out == 1
    tagged = [skb for skb in b.sk.rtx_queue if skb.sacked & SACKED_ACKED]
    assert [(b.rel(s.seq), s.len) for s in tagged] == [(seg(3), MSS)]


@pytest.mark.parametrize(
    "block",
    [(1, 1001), (-500, 2001), (3001, 2001), (9001, 10002), (20001, 30001), (-5000, -4000)],
)
def test_d12_invalid_blocks_are_ignored(block):
    b = flight()
    b.inject(ack=1, sacks=[block])
    assert b.sk.sacked_out == 0


def test_d12_blocks_repeat_and_grow():
    b = flight()
    sack(b, (4, 5))
    sack(b, (4, 6))
    sack(b, (3, 6))
    sack(b, (8, 9), (3, 6))
    assert b.sk.sacked_out == 4
    sack(b, (2, 10), ack=1)
    assert b.sk.sacked_out == 8


def test_d12_a_fin_is_not_covered_by_the_data_before_it():
    b = Bench.connected(mss=MSS)
    b.inject(win=0, ack=1)
    b.send(3000)
    b.shutdown()
    b.take()
    b.inject(win=60000, ack=1)
    b.inject(ack=1, sacks=[(seg(1), seg(3))])
    tail = b.sk.rtx_queue.tail()
    assert tail.len == 0
    assert not tail.sacked & SACKED_ACKED
    assert b.sk.sacked_out == 2
    assert b.sk.packets_out == 4


def test_d12_without_sack_duplicate_acks_are_counted():
    b = flight(3, sack=False)
    for _ in range(5):
        b.inject(ack=1)
    assert b.sk.sacked_out == 2  # at least one has not arrived
    b = flight(10, sack=False)
    b.inject(ack=1)
    assert b.sk.sacked_out == 1
    b.inject(ack=seg(1))
    assert b.sk.sacked_out == 0


# -- recovery ------------------------------------------------------------------------------


def test_d13_d16_d17_three_sacks_start_a_recovery():
    """The observed sequence of rule D-16."""
    b = flight()
    b.run(20)
    sack(b, (1, 2))
    sack(b, (1, 3))
    b.expect_nothing()
    assert b.sk.ca_state == CA_DISORDER
    sack(b, (1, 4))
    assert b.brief() == [("A", 1, MSS)]
    assert b.sk.ca_state == CA_RECOVERY
    assert b.sk.cc.snd_ssthresh == 5
    assert b.sk.cc.snd_cwnd == 7
    cwnds = []
    for last in range(5, 11):
        sack(b, (1, last))
        cwnds.append(b.sk.cc.snd_cwnd)
    assert cwnds == [6, 5, 5, 5, 5, 5]
    b.run(20)
    sack(b, ack=10)
    assert b.sk.ca_state == CA_OPEN
    assert b.sk.cc.snd_cwnd == 5


def test_d15_with_time_one_sack_is_enough():
    """What was sent a round trip and a quarter before something that arrived is lost."""
    b = flight(4)
    b.run(20)
    sack(b, (1, 2))
    b.expect_nothing()
    b.run(6)
    assert ("A", 1, MSS) not in b.brief()
    b.run(2)
    assert b.sk.ca_state == CA_RECOVERY
    assert pipe(b)[2:] == (1, 1)


def test_d15_the_reordering_timer_survives_the_ack_that_started_it():
    b = flight(4)
    b.run(20)
    sack(b, (2, 3), ack=1)
    at = b.sk.timers[0]
    assert (at - b.now) / 1e6 == pytest.approx(20 / 4 + 2, abs=0.1)
    b.run(8)
    assert [s.seq for s in b.take()] == [seg(1)]


def test_d15_no_recovery_when_the_reordered_segment_arrives():
    b = flight(4)
    b.run(20)
    sack(b, (1, 2))
    b.run(3)
    sack(b, ack=2)
    assert b.sk.reord_seen == 1
    assert b.sk.ca_state == CA_OPEN
    b.run(4)
    assert not b.sk.lost_out
    assert b.sk.total_retrans == 0


def test_d15_without_sack_three_duplicates_and_partial_acks():
    b = flight(10, sack=False)
    b.run(20)
    for _ in range(2):
        b.inject(ack=1)
    b.take()
    b.inject(ack=1)
    assert ("A", 1, MSS) in b.brief()
    assert b.sk.ca_state == CA_RECOVERY
    for _ in range(6):
        b.inject(ack=1)
    b.take()
    b.run(20)
    b.inject(ack=seg(4))  # a partial ACK: the next head is lost too
    assert b.take()[0].seq == seg(4)
    b.run(20)
    b.inject(ack=seg(10))
    assert b.sk.ca_state == CA_RECOVERY  # held until something above high_seq
    b.send(MSS)
    b.inject()
    assert b.sk.ca_state == CA_OPEN


def test_d17_the_reduction_spreads_over_the_round_trip():
    b = flight()
    b.run(20)
    for last in range(2, 11):
        sack(b, (1, last))
    assert b.sk.cc.snd_cwnd <= 6
    assert b.sk.prr_delivered >= 7
    assert b.sk.prr_out >= 1


def test_d18_retransmissions_in_order_then_new_data():
    b = flight()
    b.send(5000)
    b.run(20)
    sack(b, (3, 4))
    sack(b, (3, 5))
    b.take()
    sack(b, (3, 8))
    first = b.take()
    assert [s.seq for s in first[:1]] == [1]
    sack(b, (3, 10))
    sent = [s.seq for s in first[1:] + b.take()]
    assert sent[:2] == [seg(1), seg(2)]
    assert sent[2:] == sorted(sent[2:])


def test_d18_a_lost_retransmission_is_found_and_sent_again():
    b = flight()
    b.run(20)
    sack(b, (1, 4))
    assert b.take()[0].seq == 1
    b.run(1)
    b.send(2 * MSS)
    sack(b, (1, 10))
    assert {s.seq for s in b.take()} >= {seg(10)}
    b.run(26)
    sack(b, (1, 11))
    b.run(10)
    assert 1 in [s.seq for s in b.take()]
    assert b.sk.net.mib["TcpExtTCPLostRetransmit"] == 1


def test_d19_limited_transmit():
    b = flight(10)
    b.send(5000)
    b.expect_nothing()
    b.run(20)
    sack(b, (1, 2))
    assert b.brief()[0][1:] == (seg(10), MSS)
    b.run(2)  # within 1 ms it would wait for the next ACK (rule A-32)
    sack(b, (1, 3))
    assert b.brief()[0][1:] == (seg(11), MSS)


def test_d14_a_new_loss_in_the_same_window_does_not_reduce_twice():
    b = flight(10)
    b.run(20)
    sack(b, (1, 4))
    ssthresh = b.sk.cc.snd_ssthresh
    sack(b, (1, 4), (5, 9))
    b.run(20)
    sack(b, (5, 9), ack=4)
    b.run(40)
    assert b.sk.cc.snd_ssthresh == ssthresh


# -- the probe for the tail ----------------------------------------------------------------


def test_d20_the_last_segment_again_after_two_round_trips():
    b = flight(3)
    start = b.ms
    b.run(41.9)
    b.expect_nothing()
    b.run(0.2)
    probe = b.expect("PA", seq=seg(2), len=MSS)
    assert probe.at - start == pytest.approx(42, abs=0.1)
    assert pipe(b) == (3, 0, 0, 0)
    b.run(150)
    b.expect_nothing()  # one probe an episode
    b.run(100)
    assert b.take()[0].seq == 1  # the RTO, from the probe on


def test_d20_new_data_goes_rather_than_old():
    b = flight(10)
    b.send(2 * MSS)
    b.expect_nothing()
    b.run(50)
    assert b.brief() == [("A", seg(10), MSS)]
    assert b.sk.in_flight == 11
    b.run(20)
    b.inject()
    assert b.sk.ca_state == CA_OPEN
    assert b.sk.tlp_high_seq is None


def test_d20_a_loss_that_the_probe_repaired_costs_a_reduction():
    b = flight(3)
    b.run(45)
    b.take()
    b.send(MSS)
    b.run(20)
    b.inject(ack=seg(4))
    assert b.sk.net.mib["TcpExtTCPLossProbeRecovery"] == 1
    assert b.sk.ca_state == CA_OPEN
    assert b.sk.cc.snd_cwnd == b.sk.cc.snd_ssthresh == 5


def test_d20_a_dsack_says_the_probe_was_not_needed():
    b = flight(3)
    b.run(45)
    b.take()
    b.inject(ack=seg(3), sacks=[(seg(2), seg(3))])
    assert b.sk.tlp_high_seq is None
    assert b.sk.cc.snd_cwnd >= 10
    assert not b.sk.dsack_seen


def test_d20_none_without_sack():
    b = flight(3, sack=False)
    b.run(219)
    b.expect_nothing()
    b.run(5)
    assert b.take()[0].seq == 1


def test_d20_a_probe_revealing_a_loss_starts_a_recovery():
    b = flight(5)
    b.run(45)
    b.expect(seq=seg(4))
    b.run(20)
    sack(b, (4, 5))
    b.run(1)
    assert b.sk.ca_state == CA_RECOVERY
    assert b.sk.lost_out >= 1
    assert b.take()[0].seq == 1


# -- timeouts ------------------------------------------------------------------------------


def test_d5_a_timeout_marks_all_lost_and_sends_the_head():
    b = flight(10)
    b.run(400)
    sent = b.take()
    assert sent[-1].seq == 1
    assert b.sk.ca_state == CA_LOSS
    assert b.sk.cc.snd_cwnd == 1
    assert b.sk.cc.snd_ssthresh == 5
    assert pipe(b) == (10, 0, 10, 1)
    b.run(20)
    b.inject(ack=seg(1))
    assert [s.seq for s in b.take()] == [seg(1), seg(2)]  # slow start over what is lost


def test_d5_small_entries_are_filled_up():
    b = Bench.connected(rtt=20)
    b.setopt(6, 1, 1)
    for _ in range(3):
        b.send(100)
    b.take()
    b.run(500)
    again = b.take()[-1]
    assert (again.seq, again.len) == (1, 300)
    assert b.sk.packets_out == 1
    assert b.wq() == 300 + 832


def test_d5_ssthresh_falls_once_a_window():
    b = flight(10)
    b.run(2000)
    assert b.sk.cc.snd_ssthresh == 5


def test_d5_what_left_just_now_is_not_lost():
    b = flight(8, rtt=100, tcp_early_retrans=0)
    b.run(100)
    b.inject(ack=seg(2))
    b.run(250)
    b.take()
    b.send(2 * MSS)
    b.run(60)
    assert b.sk.ca_state == CA_LOSS
    lost = [b.rel(skb.seq) for skb in b.sk.rtx_queue if skb.sacked & LOST]
    assert lost[0] == seg(2)
    assert lost[-1] < seg(8) < b.rel(b.sk.snd_nxt)


def test_loss_ends_at_high_seq_and_new_losses_start_a_recovery():
    b = flight(10)
    b.run(400)
    b.take()
    high = b.rel(b.sk.high_seq)
    for _ in range(30):
        b.run(20)
        sent = b.take()
        if b.rel(b.sk.snd_una) >= high:
            break
        b.inject(ack=max((s.seq + s.len for s in sent), default=b.rel(b.sk.snd_una)))
    assert b.sk.ca_state == CA_OPEN
    assert not b.sk.lost_out


def test_d28_reneging_waits_a_little_then_forgets_the_blocks():
    b = flight(10)
    b.run(20)
    sack(b, (3, 6))
    b.take()
    b.inject(ack=seg(3))  # all before is here, and yet it does not acknowledge the rest
    assert (b.sk.timers[0] - b.now) / 1e6 == pytest.approx(10, abs=0.5)
    b.run(11)
    assert b.sk.net.mib["TcpExtTCPSACKReneging"] == 1
    assert b.sk.sacked_out == 0
    assert b.take()[-1].seq == seg(3)


def test_d27_late_data_raises_reordering():
    b = flight(10)
    b.run(20)
    sack(b, (6, 7))
    sack(b, (6, 7), ack=1)
    assert b.sk.reordering == 7
    assert b.sk.reord_seen == 1


def test_dsack_of_nothing_we_sent_twice_is_ignored():
    b = flight(10)
    b.inject(ack=seg(2), sacks=[(1, seg(1))])
    assert not b.sk.dsack_seen
    assert b.sk.net.mib["TcpExtTCPDSACKIgnoredDubious"] == 1


def test_an_old_ack_with_blocks_counts():
    b = flight(10)
    b.inject(ack=seg(2))
    b.inject(ack=seg(1), sacks=[(seg(4), seg(5))])
    assert b.sk.sacked_out == 1


def test_cwr_after_a_local_drop():
    b = flight(5)
    b.dev.verdict = DROPPED
    b.send(MSS)
    b.dev.verdict = TAKEN
    assert b.sk.ca_state == CA_CWR
    assert b.sk.cc.snd_ssthresh == 5
    b.run(20)
    b.inject()
    b.run(1)
    b.inject()
    assert b.sk.cc.snd_cwnd <= 6


def test_nothing_is_sent_again_while_the_device_holds_it():
    b = Bench.connected(mss=MSS, rtt=20)
    b.dev.verdict = QUEUED
    b.send(3 * MSS)
    b.take()
    b.run(3000)
    b.expect_nothing()
    assert b.sk.net.mib["TcpExtTCPSpuriousRtxHostQueues"] > 0
    b.drain()
    assert b.take()[0].seq == 1  # now it may be lost
    b.drain()
    b.inject()
    assert not b.sk.packets_out


def test_a_peer_cannot_have_the_queue_cut_to_pieces():
    b = Bench.connected(mss=48, cc="reno", wscale=7)
    b.inject(win=65535)
    b.sk.userlocks |= 1
    b.sk.sndbuf = 200_000
    b.sk.cc.snd_cwnd = 10_000
    b.sk.cc.snd_ssthresh = 10
    b.send(200_000)
    b.take()
    last = (b.rel(b.sk.snd_nxt) - 1) // 48
    for n in range(1, last, 2):
        b.inject(ack=1, sacks=[(1 + 48 * n, 1 + 48 * (n + 1))])
        b.take()
    assert b.sk.net.mib["TcpExtTCPWqueueTooBig"] > 0
    assert b.wq() < 3 * (200_000 + 2 * 65535)
