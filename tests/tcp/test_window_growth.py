"""Round trips, the congestion window and pacing on a whole socket (rules D-1 to D-4, D-40
to D-50)."""

from __future__ import annotations

import pytest

from tests.tcp.harness import Bench
from ustack.sock.sock import MSG_PEEK
from ustack.tcp.congestion.base import INFINITE_SSTHRESH

MSS = 1000


def connected(rtt: float = 20, **settings) -> Bench:
    b = Bench.connected(mss=MSS, rtt=rtt, **settings)
    b.inject(seq=1)
    b.sk.sndbuf = 10**7
    return b


def ack_each(b: Bench, count: int) -> list[tuple[int, int]]:
    """Acknowledge `count` segments one by one: (cwnd, segments sent) after each."""
    out = []
    for _ in range(count):
        b.inject(ack=b.rel(b.sk.snd_una) + MSS)
        out.append((b.sk.cc.snd_cwnd, len(b.take())))
    return out


def test_d1_the_first_rto_is_the_round_trip_and_200_ms():
    b = connected(rtt=50)
    assert b.sk.rtt.srtt_us == 8 * 50_000
    assert b.sk.rtt.rto_us == 50_000 + 200_000


def test_d2_karn_no_sample_from_what_was_sent_twice():
    b = connected()
    b.send(MSS)
    b.run(700)
    srtt = b.sk.rtt.srtt_us
    backoff = b.sk.rtt.backoff
    assert backoff
    b.inject()
    assert b.sk.rtt.srtt_us == srtt
    assert b.sk.rtt.backoff == backoff


def test_d2_timestamps_tell_after_all():
    b = connected(ts=True)
    b.send(MSS)
    b.run(700)
    b.inject()
    assert b.sk.rtt.backoff == 0


def test_d2_a_delayed_ack_does_not_raise_min_rtt():
    b = connected(rtt=5)
    b.send(100)
    b.run(40)
    b.inject()
    assert b.sk.min_rtt.value == 5000


def test_d3_no_sample_from_a_repeated_syn():
    b = Bench.syn_sent(cc="reno")
    b.run(1500)
    b.take()
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert b.sk.rtt.rto_us == 3_000_000
    assert b.sk.cc.snd_ssthresh == INFINITE_SSTHRESH


def test_d4_the_timer_restarts_on_each_ack_of_new_data():
    b = connected(sack=False)
    b.send(5 * MSS)
    b.run(100)
    b.inject(ack=1 + MSS)
    assert (b.sk.timers[0] - b.now) / 1e3 == pytest.approx(b.sk.rtt.rto_us, abs=2)
    b.inject()
    assert b.sk.pending == 0


def test_d40_ten_segments():
    b = connected()
    b.send(50 * MSS)
    assert len(b.take()) == 10
    assert b.sk.cc.snd_ssthresh == INFINITE_SSTHRESH == 2**31 - 1


def test_d40_one_segment_after_two_lost_syns():
    b = Bench.syn_sent(cc="reno", mss=MSS)
    b.run(2500)
    b.take()
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    b.take()
    b.send(5 * MSS)
    assert len(b.take()) == 1


def test_d42_slow_start_one_more_for_each_ack():
    b = connected(wscale=4)
    b.send(60 * MSS)
    b.take()
    b.run(20)
    assert ack_each(b, 10) == [(cwnd, 2) for cwnd in range(11, 21)]


def test_d42_reno_one_more_a_round_trip():
    b = connected(wscale=4)
    b.sk.cc.snd_ssthresh = 10
    b.send(100 * MSS)
    b.take()
    b.run(20)
    assert [cwnd for cwnd, _ in ack_each(b, 11)] == [10] * 9 + [11, 11]


def test_d43_cubic_falls_to_seven_tenths():
    b = connected(cc="cubic", wscale=7)
    b.sk.cc.snd_cwnd = 100
    b.send(100 * MSS)
    b.take()
    b.run(20)
    b.inject(ack=1, sacks=[(1 + 50 * MSS, 1 + 60 * MSS)])
    assert b.sk.cc.snd_ssthresh == 70


def test_d45_no_growth_while_the_application_is_the_limit():
    b = connected(wscale=4)
    for _ in range(40):
        b.send(2 * MSS)
        b.run(20)
        b.inject()
    assert b.sk.cc.snd_cwnd == 10
    b.sk.cc.snd_ssthresh = 8
    for _ in range(40):
        b.send(4 * MSS)
        b.run(20)
        b.inject()
    assert b.sk.cc.snd_cwnd == 10


def test_d45_an_unused_window_decays_in_an_rto():
    b = connected(wscale=4)
    b.sk.cc.snd_cwnd = 40
    b.send(MSS)
    b.inject()
    for cwnd in (25, 17):  # halfway to ten
        b.sk.snd_cwnd_stamp = b.now - 10**9
        b.send(MSS)
        assert b.sk.cc.snd_cwnd == cwnd
        b.inject()
    assert b.sk.cc.snd_ssthresh == INFINITE_SSTHRESH


def test_d46_idle_restart():
    b = connected(wscale=4)
    b.send(MSS)
    b.run(20)
    b.inject()
    b.sk.cc.snd_cwnd = 40
    b.run(5 * 220)
    b.send(50 * MSS)
    assert b.sk.cc.snd_cwnd == 10
    b = connected(wscale=4, tcp_slow_start_after_idle=False)
    b.sk.cc.snd_cwnd = 40
    b.run(5 * 220)
    b.send(50 * MSS)
    assert len(b.take()) == 40


def test_d46_a_window_update_after_idle_restarts_too():
    b = connected(wscale=4)
    b.send(MSS)
    b.inject(win=0)
    b.sk.cc.snd_cwnd = 40
    b.send(60 * MSS)
    b.run(3000)
    b.take()
    b.inject(win=65535)
    assert len(b.take()) == 10


def test_d49_a_delivery_rate():
    b = connected(wscale=4, rtt=100)
    b.send(10 * MSS)
    b.run(100)
    b.inject()
    assert b.sk.rate_delivered == 10
    assert b.sk.rate_interval_us == pytest.approx(100_000, abs=5)


def test_d50_a_peer_that_opens_without_a_window_leaves_the_rate_at_the_default_mss():
    b = connected(rtt=100, window=0)
    assert b.sk.pacing_rate == pytest.approx(2 * 10 * 524 * 10, rel=0.01)


def test_d50_the_rate_is_twice_the_window_in_slow_start():
    b = connected(rtt=100)
    room = MSS - 12  # for timestamps, which the peer does not have
    assert b.sk.pacing_rate == pytest.approx(2 * 10 * room * 10, rel=0.01)
    b.sk.cc.snd_ssthresh = 10
    b.send(MSS)
    b.run(100)
    b.inject()
    assert b.sk.pacing_rate == pytest.approx(1.2 * 10 * MSS * 10, rel=0.01)


def test_b70_the_ack_of_a_syn_ack_does_not_hide_its_echo_from_the_first_data():
    b = Bench.accepted(ts=True, rtt=50)
    assert not b.sk.rcv_rtt_us
    b.inject("A", data=b"x" * 1000)
    assert b.sk.rcv_rtt_us >> 3 == 50_000


def test_b70_a_peek_begins_a_new_interval_of_reading():
    b = Bench.connected(ts=True, rtt=50)
    b.sk.rcv_rtt_us = 50_000 << 3
    b.run(60)
    b.inject("A", data=b"x" * 1000)
    b.recv(10, MSG_PEEK)
    assert b.sk.rcvq_time == b.now
