"""Reno and CUBIC: hand-derived integers, and CUBIC against its formula in floats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.tcp.congestion.base import (
    CA_LOSS,
    CA_OPEN,
    CA_RECOVERY,
    EVENT_COMPLETE_CWR,
    EVENT_TX_START,
    AckSample,
    CongestionControl,
)
from ustack.tcp.congestion.cubic import Cubic, cubic_root
from ustack.tcp.congestion.registry import registry
from ustack.tcp.congestion.reno import Reno

MS = 1_000_000


def ack(cc: CongestionControl, acked: int = 1, now_ms: int = 0, limited: bool = True) -> None:
    sample = AckSample(now_ms * MS, acked)
    sample.is_cwnd_limited = limited
    cc.cong_avoid(sample)
    cc.check()


def reduce(cc: CongestionControl) -> None:
    """What recovery does to the numbers, from loss to its end."""
    cc.prior_cwnd = cc.snd_cwnd
    cc.snd_ssthresh = cc.ssthresh()
    cc.snd_cwnd = cc.snd_ssthresh


def test_registry_is_fresh_each_time() -> None:
    table = registry()
    assert {name: cls().name for name, cls in table.items()} == {"reno": "reno", "cubic": "cubic"}
    table["mine"] = Reno
    assert "mine" not in registry()


@pytest.mark.parametrize("name", ["reno", "cubic"])
class TestBoth:
    def test_slow_start_from_ten(self, name: str) -> None:
        cc = registry()[name]()
        cc.init(0)
        seen = []
        for _ in range(10):
            ack(cc)
            seen.append(cc.snd_cwnd)
        assert seen == list(range(11, 21))

    def test_only_a_limiting_window_grows(self, name: str) -> None:
        cc = registry()[name]()
        ack(cc, 5, limited=False)
        assert cc.snd_cwnd == 10

    def test_clamp(self, name: str) -> None:
        cc = registry()[name]()
        cc.snd_cwnd_clamp = 12
        ack(cc, 8)
        assert cc.snd_cwnd == 12

    def test_undo_gives_back_what_there_was(self, name: str) -> None:
        cc = registry()[name]()
        cc.snd_cwnd = 50
        reduce(cc)
        assert cc.snd_cwnd < 50
        assert cc.undo_cwnd() == 50
        cc.snd_cwnd = 60
        assert cc.undo_cwnd() == 60

    def test_threshold_is_never_below_two(self, name: str) -> None:
        cc = registry()[name]()
        cc.snd_cwnd = 1
        assert cc.ssthresh() == 2


class TestReno:
    def test_halves(self) -> None:
        cc = Reno()
        cc.snd_cwnd = 11
        assert cc.ssthresh() == 5

    def test_one_segment_per_window(self) -> None:
        cc = Reno()
        cc.snd_cwnd = cc.snd_ssthresh = 5
        seen = []
        for _ in range(11):
            ack(cc)
            seen.append((cc.snd_cwnd, cc.snd_cwnd_cnt))
        assert seen == [
            *((5, n) for n in range(1, 5)),
            *((6, n) for n in range(6)),
            (7, 0),
        ]

    def test_slow_start_ends_at_the_threshold_and_the_rest_counts(self) -> None:
        cc = Reno()
        cc.snd_ssthresh = 12
        ack(cc, 9)
        assert (cc.snd_cwnd, cc.snd_cwnd_cnt) == (12, 7)

    def test_old_credit_is_spent_gently(self) -> None:
        cc = Reno()
        cc.snd_cwnd, cc.snd_ssthresh, cc.snd_cwnd_cnt = 4, 4, 100
        ack(cc)
        assert (cc.snd_cwnd, cc.snd_cwnd_cnt) == (5, 1)

    def test_stretch_ack(self) -> None:
        cc = Reno()
        cc.snd_cwnd = cc.snd_ssthresh = 4
        ack(cc, 11)
        assert (cc.snd_cwnd, cc.snd_cwnd_cnt) == (6, 3)


@given(st.integers(0, 1 << 80))
def test_cubic_root(x: int) -> None:
    root = cubic_root(x)
    assert root**3 <= x < (root + 1) ** 3


@given(st.integers(0, 5000))
def test_cubic_root_near_cubes(n: int) -> None:
    assert cubic_root(n**3) == n
    assert n == 0 or cubic_root(n**3 - 1) == n - 1


class TestCubic:
    def test_loss_at_one_hundred(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = 100
        assert (cc.ssthresh(), cc.last_max_cwnd) == (70, 100)

    def test_fast_convergence(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = 100
        reduce(cc)
        cc.snd_cwnd = 90
        assert cc.ssthresh() == 63
        assert cc.last_max_cwnd == 76  # 90 * 1741 / 2048

    def test_epoch_by_hand(self) -> None:
        """After a loss at 100: K = cbrt(2^40 / 410 * 30)."""
        cc = Cubic()
        cc.snd_cwnd = 100
        reduce(cc)
        ack(cc, now_ms=5000)
        assert cc.k == 4316  # 4.215 s; cbrt(30 / 0.4) is 4.217
        assert (cc.origin_point, cc.epoch_start) == (100, 5000)
        # t = 0: the curve starts at the window, but for rounding: 100 - 29 is one above it
        assert cc.cnt == 70
        # 2.5 s on, the curve is at 100 - 410 * 1756^3 / 2^40: 98, and 70 / 28 is 2
        ack(cc, now_ms=7500)
        assert cc.cnt == 2

    def test_unknown_path_grows_five_percent(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = cc.snd_ssthresh = 1000
        ack(cc, now_ms=10)
        assert cc.cnt == 20

    @pytest.mark.parametrize(
        ("acked", "left", "reno", "cnt"), [(30, 30, 16, 20), (60, 30, 17, 16), (61, 1, 18, 8)]
    )
    def test_reno_by_hand(self, acked: int, left: int, reno: int, cnt: int) -> None:
        """At a window of 16, Reno's average takes 16 * 15/8 = 30 packets for +1."""
        cc = Cubic()
        cc.snd_cwnd = cc.snd_ssthresh = 16
        ack(cc, acked, now_ms=10)
        assert (cc.ack_cnt, cc.tcp_cwnd, cc.cnt) == (left, reno, cnt)

    def test_the_curve_is_computed_once_a_millisecond(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = cc.snd_ssthresh = 16
        ack(cc, 16, now_ms=10)
        assert (cc.snd_cwnd, cc.cnt, cc.last_cwnd) == (16, 20, 16)
        ack(cc, 4, now_ms=10)
        assert (cc.snd_cwnd, cc.cnt) == (17, 20)
        ack(cc, 12, now_ms=10)
        assert cc.last_cwnd == 16  # the window has changed, the clock has not
        assert (cc.tcp_cwnd, cc.ack_cnt, cc.cnt) == (17, 1, 20)

    def test_at_most_one_segment_per_two_acknowledged(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = 100
        reduce(cc)
        ack(cc, now_ms=1000)
        ack(cc, now_ms=60_000)
        assert cc.cnt == 2

    def test_idle_time_is_not_on_the_curve(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = 100
        reduce(cc)
        ack(cc, now_ms=1000)
        cc.cwnd_event(EVENT_TX_START, 9000 * MS, idle_ns=3000 * MS)
        assert cc.epoch_start == 4000
        cc.cwnd_event(EVENT_TX_START, 9000 * MS, idle_ns=60_000 * MS)
        assert cc.epoch_start == 9000
        cc.cwnd_event(EVENT_COMPLETE_CWR, 9500 * MS, idle_ns=100 * MS)
        assert cc.epoch_start == 9000

    def test_a_timeout_forgets_the_path(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = 100
        reduce(cc)
        cc.set_state(CA_RECOVERY)
        cc.set_state(CA_OPEN)
        assert cc.last_max_cwnd == 100
        cc.set_state(CA_LOSS)
        assert cc.last_max_cwnd == 0

    def test_delay_min_ignores_the_second_after_a_loss(self) -> None:
        cc = Cubic()
        cc.pkts_acked(AckSample(0, 1, 30_000))
        cc.pkts_acked(AckSample(0, 1, -1))
        cc.pkts_acked(AckSample(0, 1, 40_000))
        assert cc.delay_min_us == 30_000
        cc.snd_cwnd = 100
        reduce(cc)
        ack(cc, now_ms=1000)
        cc.pkts_acked(AckSample(1999 * MS, 1, 10_000))
        assert cc.delay_min_us == 30_000
        cc.pkts_acked(AckSample(2000 * MS, 1, 0))
        assert cc.delay_min_us == 1

    def test_window_and_clock_hold_the_answer(self) -> None:
        cc = Cubic()
        cc.snd_cwnd = 400
        reduce(cc)
        ack(cc, now_ms=1000)
        first = cc.cnt
        ack(cc, now_ms=1031)
        assert cc.cnt == first
        ack(cc, now_ms=1032)
        assert cc.last_time == 1032


@pytest.mark.parametrize(("wmax", "rtt_ms"), [(200, 100), (1000, 50)])
def test_window_follows_the_cubic(wmax: int, rtt_ms: int) -> None:
    """Driven by the ACKs of a steady flow, the window is W(t) = C (t - K)^3 + Wmax.

    C = 410/1024, t in s; within 3 % from the loss until well past Wmax, on paths where
    Reno's growth stays below the curve's.
    """
    cc = Cubic()
    cc.pkts_acked(AckSample(0, 1, rtt_ms * 1000))
    cc.snd_cwnd = wmax
    reduce(cc)
    start, c = cc.snd_cwnd, 410 / 1024
    k = ((wmax - start) / c) ** (1 / 3)
    now_us, end_us = 0, int((k + 3) * 1e6)
    while now_us < end_us:
        ack(cc, 2, now_us // 1000)
        now_us += 2000 * rtt_ms // cc.snd_cwnd
        t = now_us / 1e6
        assert cc.snd_cwnd == pytest.approx(c * (t - k) ** 3 + wmax, rel=0.03)


def test_short_path_grows_like_reno() -> None:
    """At an RTT of 1 ms the curve is slower than Reno, so CUBIC keeps to Reno's average:
    +1 for each 15/8 windows acknowledged, which is +0.53 a round trip."""
    cc = Cubic()
    cc.snd_cwnd = 100
    reduce(cc)
    now_us = 0
    while now_us < 40_000:
        ack(cc, 1, now_us // 1000)
        now_us += 1000 // cc.snd_cwnd
    assert cc.snd_cwnd == pytest.approx(70 + 40 * 8 / 15, abs=4)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200), st.integers(1, 90)), max_size=80),
    st.sampled_from(["reno", "cubic"]),
)
def test_any_history_keeps_the_numbers_sane(steps: list[tuple[int, int, int]], name: str) -> None:
    cc = registry()[name]()
    cc.init(0)
    now_ms = 0
    for kind, wait, acked in steps:
        now_ms += wait
        before = cc.snd_cwnd
        if kind == 3:
            reduce(cc)
            assert 1 <= cc.snd_cwnd <= max(before, 2)
        else:
            if kind == 2:
                cc.cwnd_event(EVENT_TX_START, now_ms * MS, wait * MS)
            cc.pkts_acked(AckSample(now_ms * MS, acked, wait * 1000))
            ack(cc, acked, now_ms)
            assert before <= cc.snd_cwnd <= before + max(acked, 1) + 1
