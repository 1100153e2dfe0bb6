"""What leaves in which segment: PSH, Nagle, cork, size goal, urgent data (rules A-20 to
A-34, A-60, A-75)."""

from __future__ import annotations

import pytest

from tests.tcp.harness import SOL_SOCKET, SOL_TCP, Bench
from ustack.sock.sock import MSG_EOR, MSG_MORE, MSG_OOB, SHUT_WR
from ustack.tcp import chrono
from ustack.tcp.pmtu import simple_retransmit
from ustack.wire.packet import QUEUED, TAKEN

TCP_NODELAY, TCP_MAXSEG, TCP_CORK = 1, 2, 3
SO_SNDBUF = 7


def cork(b: Bench, value: int) -> None:
    b.setopt(SOL_TCP, TCP_CORK, value)


def nodelay(b: Bench, value: int) -> None:
    b.setopt(SOL_TCP, TCP_NODELAY, value)


def test_a20_a_plain_send_is_pushed_and_more_is_not():
    b = Bench.connected()
    b.send(10)
    assert b.brief() == [("PA", 1, 10)]
    b = Bench.connected()
    b.send(10, MSG_MORE)
    b.expect_nothing()
    b.send(10)
    assert b.brief() == [("PA", 1, 20)]
    b = Bench.connected()
    b.send(1460, MSG_MORE)
    assert b.brief() == [("A", 1, 1460)]


def test_a21_forced_push_starts_before_the_write_is_copied():
    b = Bench.connected(window=65535)
    b.send(1_000_000)
    first = b.dev.bursts[0]
    assert first.payload_len == 10 * 1460 // 2  # half the window a burst
    for _ in range(100):
        b.inject()
    sent = [s for s in b.take() if s.len]
    marks = [s.seq + s.len for s in sent if "P" in s.flags]
    assert max(z - a for a, z in zip([0, *marks], marks, strict=False)) <= 65535 // 2 + 1


def test_a22_psh_ends_every_burst():
    b = Bench.connected()
    b.send(3000)
    assert b.brief() == [("A", 1, 1460), ("A", 1461, 1460), ("PA", 2921, 80)]
    b = Bench.connected()
    cork(b, 1)
    b.send(3000)
    assert b.brief() == [("A", 1, 1460), ("PA", 1461, 1460)]
    cork(b, 0)
    assert b.brief() == [("PA", 2921, 80)]


def test_a22_psh_and_fin_stay_with_the_rear_part():
    b = Bench.connected(window=1460)
    b.send(2000)
    b.shutdown(SHUT_WR)
    while b.sk.write_queue:
        b.inject()
    sent = b.take()
    assert all("P" in s.flags and "F" in s.flags for s in sent[-1:])
    assert not any("F" in s.flags for s in sent[:-1])


def test_a22_appending_in_a_new_call_clears_psh():
    b = Bench.connected()
    b.send(10)
    b.take()
    b.send(10)  # held by Nagle, marked
    b.send(10, MSG_MORE)
    b.inject()
    assert b.brief() == [("A", 11, 20)]


def test_a23_small_writes_wait_for_the_ack_of_a_small_one():
    b = Bench.connected()
    for _ in range(3):
        b.send(10)
    assert b.lens() == [10]
    b.inject(ack=11)
    assert b.lens() == [20]


def test_a23_minshall_a_full_segment_in_flight_holds_nothing():
    b = Bench.connected()
    b.send(1460)
    b.send(10)
    assert b.lens() == [1460, 10]
    b.send(10)
    b.expect_nothing()


def test_a23_two_writes_of_two_segments_and_ten_bytes():
    b = Bench.connected()
    b.send(2930)
    b.send(2930)
    assert b.lens() == [1460, 1460, 10, 1460, 1460]
    assert b.sk.write_seq - b.sk.snd_nxt == 10


def test_a24_nodelay_sends_at_once():
    b = Bench.connected()
    nodelay(b, 1)
    for _ in range(3):
        b.send(10)
    assert b.lens() == [10, 10, 10]
    nodelay(b, 0)
    b.send(10)
    b.expect_nothing()


def test_a24_nodelay_pushes_once_through_a_cork():
    b = Bench.connected()
    cork(b, 1)
    b.send(100)
    b.expect_nothing()
    nodelay(b, 1)
    assert b.brief() == [("PA", 1, 100)]
    b.send(50)
    b.expect_nothing()


def test_a25_cork_holds_the_partial_tail_only():
    b = Bench.connected()
    cork(b, 1)
    for _ in range(40):
        b.send(100)
    assert b.lens() == [1460, 1460]
    b.inject()
    b.expect_nothing()
    cork(b, 0)
    assert b.lens() == [1080]


def test_a25_close_overrides_the_cork():
    b = Bench.connected()
    cork(b, 1)
    b.send(100)
    b.close()
    assert b.brief() == [("FPA", 1, 100)]


def test_a25_zero_bytes_push_nothing_and_a_plain_send_pushes_all():
    b = Bench.connected()
    b.send(100, MSG_MORE)
    b.send(0)
    b.expect_nothing()
    b.send(1)
    assert b.lens() == [101]


def test_a25_nodelay_defeats_neither_more_nor_cork():
    b = Bench.connected()
    nodelay(b, 1)
    b.send(100, MSG_MORE)
    b.expect_nothing()
    b.send(1)
    b.take()
    cork(b, 1)
    b.send(100)
    b.expect_nothing()
    cork(b, 0)
    assert b.lens() == [100]


def test_a26_an_idle_cork_lasts_200_ms():
    b = Bench.connected()
    b.send(100, MSG_MORE)
    b.run(199)
    b.expect_nothing()
    b.run(10)
    sent = b.expect("PA", len=100)
    assert 200 <= sent.at <= 206


def test_a26_with_a_slow_path_the_ceiling_is_the_rto():
    b = Bench.connected(rtt=100)
    b.send(100, MSG_MORE)
    b.run_until(399)
    b.expect_nothing()
    b.run_until(401)
    assert b.expect("PA", len=100).at == pytest.approx(400, abs=1)


def test_a26_a_corked_tail_goes_as_tail_loss_probe():
    b = Bench.connected(rtt=1)
    cork(b, 1)
    b.send(3000)
    assert b.lens() == [1460, 1460]
    b.run(10)
    probe = b.expect("PA", seq=2921, len=80)
    assert probe.at - 1 == pytest.approx(4, abs=0.1)  # two round trips and 2 ms


def test_a27_autocork_while_the_device_holds_our_data():
    b = Bench.connected()
    b.dev.verdict = QUEUED
    b.send(1460)
    nodelay(b, 1)
    b.send(10)
    b.send(10)
    assert b.lens() == [1460]
    b.dev.verdict = TAKEN
    b.drain()
    assert b.lens() == [20]


def test_a27_as_much_as_the_new_entry_is_enough():
    b = Bench.connected()
    b.dev.verdict = QUEUED
    nodelay(b, 1)
    b.send(10)
    b.send(10)
    assert b.lens() == [10]


def test_a27_a_drain_releases_nothing_that_did_not_wait_for_it():
    b = Bench.connected()
    b.dev.verdict = QUEUED
    b.send(1460)
    b.take()
    b.send(100, MSG_MORE)
    b.sk.tsq_throttled = False
    b.drain()
    b.expect_nothing()


def test_a30_size_goal():
    b = Bench.connected(window=65535)
    b.inject(win=0, ack=1)
    b.send(50_000)
    assert [skb.len for skb in b.sk.write_queue] == [22 * 1460, 50_000 - 22 * 1460]
    b = Bench.connected(wscale=7, window=65535)
    b.inject(win=65535)
    b.inject(win=0, ack=1)
    b.sk.sndbuf = 10**6
    b.send(150_000)
    assert [skb.len for skb in b.sk.write_queue][:2] == [44 * 1460] * 2


def test_a31_bursts_are_half_the_window_at_most():
    b = Bench.connected(rtt=1)
    b.send(14600)
    assert [p.payload_len for p in b.dev.bursts] == [7300, 7300]
    assert [p.gso_size for p in b.dev.bursts] == [1460, 1460]


def test_a31_slow_paths_have_small_bursts():
    b = Bench.connected(rtt=100)
    b.send(14600)
    assert [p.payload_len for p in b.dev.bursts] == [2920] * 5


def test_a33_small_queues():
    b = Bench.connected(wscale=7, rtt=100)
    b.dev.verdict = QUEUED
    b.send(14600)
    assert b.sk.wmem_alloc == 2 * (2920 + 832)  # at the limit nothing more goes
    assert b.sk.write_queue
    while b.dev.held:
        b.drain(1)
    assert not b.sk.write_queue
    assert b.sk.wmem_alloc == 0


def test_a34_never_beyond_window_or_cwnd():
    b = Bench.connected(window=5000)
    b.send(20_000)
    assert b.lens() == [1460] * 3  # 620 bytes of the window are too few for a segment
    b = Bench.connected()
    b.send(50_000)
    assert len(b.take()) == 10
    assert b.sk.in_flight == 10


def test_a34_nodelay_fills_a_window_of_more_than_one_segment():
    """A partial last piece of a burst goes when Nagle does not mind."""
    b = Bench.connected()
    b.inject(win=0, ack=1)
    nodelay(b, 1)
    b.send(20_000)
    b.inject(win=5000)
    assert b.lens() == [1460, 1460, 1460, 620]


def test_a34_neighbours_are_merged_when_they_leave_together():
    b = Bench.connected()
    b.send(14600)
    for _ in range(5):
        b.send(500, 0x80)  # MSG_EOR: five entries
        b.sk.write_queue[-1].eor = False
    before = b.wq()
    b.inject()
    assert b.lens()[-1] == 1040
    assert b.wq() < before


def test_a35_options_are_laid_out_as_linux_does():
    b = Bench.connected(ts=True)
    b.send(10)
    assert b.expect(len=10).raw_options[:4] == bytes((1, 1, 8, 10))
    b.inject(seq=b.peer_seq + 100, data=b"late")
    ack = b.take()[-1]
    assert ack.sacks == [(101, 105)]
    assert ack.raw_options[12:16] == bytes((1, 1, 5, 10))


@pytest.mark.parametrize(
    ("peer", "got"),
    [(None, 536), (1, 48), (40, 48), (88, 88), (100, 100), (536, 536), (1460, 1460), (9000, 1460)],
)
def test_a40_mss_from_the_peers_option(peer, got):
    b = Bench.connected(mss=peer)
    assert b.getopt(SOL_TCP, TCP_MAXSEG) == got


@pytest.mark.parametrize(
    ("window", "got"), [(536, 536), (537, 268), (1000, 500), (3000, 1460)]
)  # fmt: skip
def test_a40_half_of_a_small_window(window, got):
    b = Bench.connected(window=window)
    assert b.getopt(SOL_TCP, TCP_MAXSEG) == got


def test_a40_timestamps_and_sack_blocks_take_room():
    b = Bench.connected(ts=True)
    assert b.getopt(SOL_TCP, TCP_MAXSEG) == 1448
    b.inject(seq=b.peer_seq + 100, data=b"late")
    b.take()
    b.send(3000)
    assert b.lens()[0] == 1448 - 12


def test_a42_a_smaller_path_resends_at_once_without_reducing():
    b = Bench.connected()
    b.send(5 * 1460)
    b.take()
    cwnd = b.sk.cc.snd_cwnd
    b.sk.net.update_pmtu(b.peer, 1000, b.now)
    simple_retransmit(b.sk, b.now)
    b.step()
    assert b.lens() == [960] * 7 + [580]
    assert b.sk.cc.snd_cwnd == cwnd


def test_a60_urgent_pointer():
    b = Bench.connected()
    b.send(b"ab")
    b.send(b"cd", MSG_OOB)
    first, second = b.take()
    assert (first.flags, first.urg) == ("PA", 0)
    assert (second.flags, second.seq, second.urg) == ("PAU", 3, 2)
    b = Bench.connected()
    b.send(3000, MSG_OOB)
    assert [(s.len, s.urg) for s in b.take()] == [(1460, 3000), (1460, 1540), (80, 80)]
    b.inject()
    b.send(10)
    b.expect("PA", urg=0)


def test_a75_a_bare_fin_is_something_to_send():
    b = Bench.connected()
    b.shutdown()
    b.run(100)
    assert chrono.total(b.sk, chrono.BUSY, b.now) == pytest.approx(100_000, abs=100)
    b.inject(ack=2)
    assert not b.sk.chrono_type


def test_a75_fin_rides_on_the_last_unsent_entry():
    b = Bench.connected(window=1000)
    b.send(500)
    b.take()
    b.send(1500)
    b.close()
    b.take()
    b.run(1)
    b.inject(ack=501, win=2000)
    last = b.take()[-1]
    assert last.flags == "FPA"
    assert last.seq + last.len == 2001
    b = Bench.connected()
    b.send(500)
    b.take()
    b.close()
    assert b.brief() == [("FA", 501, 0)]


# -- deferring a burst ---------------------------------------------------------------------


def deferring(cwnd: int = 19, after: float = 9.5, last: float = 0.9) -> Bench:
    """13 segments of 1000 have been in flight for `after` of an RTT of 10 ms, the last burst
    left `last` ms ago."""
    b = Bench.connected(mss=1000, sack=False, rtt=10, tcp_min_tso_segs=40)
    b.sk.cc.snd_cwnd = 20
    b.send(13000)
    b.take()
    b.run(after)
    b.sk.last_tx = b.now - round(last * 1_000_000)
    b.sk.cc.snd_cwnd = cwnd
    return b


def test_a32_a_burst_waits_for_an_ack_that_is_due() -> None:
    b = deferring()
    b.send(10000)
    b.expect_nothing()
    assert b.sk.is_cwnd_limited
    b.inject(ack=2001)
    assert sum(b.lens()) == 10000


@pytest.mark.parametrize(
    "settings", [{"after": 0.9}, {"last": 1.1}, {"cwnd": 20}], ids=["far", "long ago", "a third"]
)
def test_a32_it_does_not_wait(settings: dict[str, float]) -> None:
    b = deferring(**settings)  # type: ignore[arg-type]
    b.send(10000)
    assert sum(b.lens()) in (6000, 7000)


def test_a32_a_short_entry_waits_unless_nothing_can_follow_it() -> None:
    b = deferring()
    b.send(5000)
    b.expect_nothing()
    b = deferring()
    b.send(5000, MSG_EOR)
    assert sum(b.lens()) == 5000


def test_a20_a_fin_gets_the_push_of_a_call_that_shutdown_ends():
    b = Bench.connected(window=5000)
    b.setopt(SOL_SOCKET, SO_SNDBUF, 3000)
    call = b.start_send(5000)
    b.take()
    b.run(500)  # the window has fallen: the FIN has to wait
    b.take()
    b.shutdown(SHUT_WR)
    assert call.result == 4380
    b.inject(ack=4381)
    assert b.flags()[-1] == "FPA"


def test_a32_an_ack_of_ours_is_a_recent_transmission_too():
    b = Bench.connected()
    b.run(50)
    b.inject("A", seq=0, data=b"x")  # old: acknowledged at once
    b.expect("A")
    assert b.sk.last_tx == b.now


def test_a34_two_halves_of_a_window_are_one_burst_if_they_fit_into_a_packet():
    b = Bench.connected(mtu=65535, mss=65495, window=65535)
    b.inject(win=1000)
    b.send(60000)  # the window admits none of it
    assert b.wq() == 60000 + 832
    b.inject(win=65535)
    assert [len(packet.payload) > 0 and packet.gso_size for packet in b.dev.bursts] == [32767]
    assert sum(b.lens()) == 60000
