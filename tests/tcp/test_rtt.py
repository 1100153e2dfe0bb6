"""RTT estimator and windowed minimum, against numbers worked out by hand and a scan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.tcp.rtt import NO_RTT, MinRttFilter, RttEstimator

MS = 1000


def test_first_sample() -> None:
    rtt = RttEstimator()
    assert rtt.rto_us == 1_000_000
    rtt.sample(100, 0, 1000)
    assert (rtt.srtt_us, rtt.mdev_us, rtt.rttvar_us) == (800, 200, 200_000)
    assert rtt.rto_us == 200_100
    slow = RttEstimator()
    slow.sample(300 * MS, 0, 1000)
    assert slow.rto_us == 900 * MS  # 3 x RTT (RFC 6298, 2.2)


def test_series_by_hand() -> None:
    """100, 100, 300, 50 ms, each sample in a round trip of its own."""
    rtt = RttEstimator()
    seen = []
    for i, sample in enumerate((100, 100, 300, 50)):
        rtt.sample(sample * MS, snd_una=1000 * i, snd_nxt=1000 * i + 999)
        seen.append((rtt.srtt_us, rtt.mdev_us, rtt.mdev_max_us, rtt.rttvar_us, rtt.rto_us))
    assert seen == [
        # srtt x8, mdev x4: first sample 8m and 2m
        (800_000, 200_000, 200_000, 200_000, 300_000),
        # err 0: mdev falls by a quarter; the floor holds rttvar
        (800_000, 150_000, 200_000, 200_000, 300_000),
        # err +200000 - 37500: mdev 312500 goes into rttvar at once; una passed: max restarts
        (1_000_000, 312_500, 200_000, 312_500, 437_500),
        # err -75000: 75000 - 78125 < 0, not damped; rttvar falls by 3125 / 4
        (925_000, 309_375, 200_000, 311_719, 427_344),
    ]


def test_falling_rtt_raises_the_deviation_by_an_eighth() -> None:
    rtt = RttEstimator(rto_min_us=1)
    rtt.sample(1000 * MS, 0, 10)
    for i in range(40):
        rtt.sample(1000 * MS, 10 * i, 10 * i)  # settle: mdev near 0
    mdev = rtt.mdev_us
    rtt.sample(200 * MS, 1000, 2000)
    assert rtt.mdev_us == mdev + ((800 * MS - (mdev >> 2)) >> 3)


def test_back_off_doubles_up_to_the_maximum() -> None:
    rtt = RttEstimator(rto_max_us=3_000_000)
    values = []
    for _ in range(3):
        rtt.back_off()
        values.append(rtt.rto_us)
    assert values == [2_000_000, 3_000_000, 3_000_000]
    assert rtt.backoff == 3
    rtt.clear_backoff()
    assert (rtt.backoff, rtt.rto_us) == (0, 3_000_000)
    rtt.sample(0, 0, 1)
    assert (rtt.srtt_us, rtt.rto_us) == (8, 200_001)


def test_bound_follows_a_lowered_maximum() -> None:
    rtt = RttEstimator()
    rtt.sample(30_000_000, 0, 1)
    assert rtt.rto_us == 90_000_000
    rtt.rto_max_us = 1_000_000
    rtt.bound()
    assert rtt.rto_us == 1_000_000
    rtt.rto_max_us = 120_000_000
    rtt.set_rto()
    assert rtt.rto_us == 90_000_000


class TextbookRtt:
    """RFC 6298 with Linux's three differences, in fractions: no scaling, no rounding."""

    def __init__(self) -> None:
        self.srtt = self.mdev = self.rttvar = self.highest = 0.0
        self.seq = 0

    def sample(self, rtt: float, una: int, nxt: int) -> float:
        if not self.srtt:
            self.srtt, self.mdev, self.seq = rtt, rtt / 2, nxt
            self.rttvar = self.highest = max(4 * self.mdev, 200_000)
            return self.srtt + self.rttvar
        err = rtt - self.srtt
        step = abs(err) - self.mdev
        if err < 0 and step > 0:
            step /= 8
        self.srtt += err / 8
        self.mdev += step / 4
        self.highest = max(self.highest, 4 * self.mdev)
        self.rttvar = max(self.rttvar, self.highest)
        if una > self.seq:
            self.rttvar -= max(self.rttvar - self.highest, 0) / 4
            self.seq, self.highest = nxt, 200_000
        return self.srtt + self.rttvar


@given(
    st.lists(st.tuples(st.integers(1, 2_000_000), st.integers(0, 3000)), max_size=60),
    st.sampled_from([0, -5000, 2**32 - 5000]),
)
def test_follows_the_textbook(samples: list[tuple[int, int]], isn: int) -> None:
    rtt, model, una = RttEstimator(), TextbookRtt(), isn
    for sample, acked in samples:
        una += acked
        rtt.sample(sample, una, una + 2000)
        rtt.check()
        expected = model.sample(sample, una, una + 2000)
        assert rtt.rto_us == pytest.approx(expected, abs=40)
        assert rtt.srtt_us / 8 == pytest.approx(model.srtt, abs=8)


def test_minimum_is_empty_at_first() -> None:
    low = MinRttFilter()
    assert low.get() == low.value == NO_RTT
    assert low.update(5_000_000, 40) == 40


def test_the_second_choice_takes_over() -> None:
    low = MinRttFilter(window_us=100)
    low.update(0, 10)
    low.update(30, 12)  # more than a quarter later: second choice
    low.update(60, 14)  # more than half: third
    assert low.update(90, 50) == 10
    assert low.update(101, 50) == 12
    assert low.update(131, 50) == 14
    assert low.update(400, 90) == 90


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 100)), min_size=1, max_size=80))
def test_minimum_is_a_recent_sample(steps: list[tuple[int, int]]) -> None:
    low, now = MinRttFilter(window_us=100), 0
    history: list[tuple[int, int]] = []
    for step, value in steps:
        now += step
        history.append((now, value))
        got = low.update(now, value)
        low.check()
        recent = [v for t, v in history if now - t <= 100]
        assert got == low.get()
        assert got in recent
        assert min(recent) <= got <= value


def test_variation_falls_once_a_round_trip() -> None:
    rtt = RttEstimator()
    rtt.sample(400 * MS, 0, 1000)  # rttvar 800 ms; the next round ends beyond 1000
    rtt.sample(400 * MS, 1000, 2000)
    assert (rtt.rttvar_us, rtt.rtt_seq, rtt.mdev_max_us) == (800 * MS, 1000, 800 * MS)
    rtt.sample(400 * MS, 1001, 2000)  # mdev has fallen, its maximum has not: first round over
    assert (rtt.rttvar_us, rtt.rtt_seq, rtt.mdev_max_us) == (800 * MS, 2000, 200 * MS)
    rtt.sample(400 * MS, 2000, 3000)
    assert (rtt.mdev_us, rtt.mdev_max_us, rtt.rttvar_us) == (337_500, 337_500, 800 * MS)
    rtt.sample(400 * MS, 2001, 3000)
    assert rtt.rttvar_us == 800 * MS - (800 * MS - 337_500) // 4


def test_minimum_when_the_window_ends() -> None:
    """Each choice is good for exactly the window, and equal samples make it younger."""
    low = MinRttFilter(window_us=100)
    low.update(10, 7)
    low.update(20, 7)
    assert low.update(120, 9) == 7
    assert low.update(121, 9) == 9


def test_second_and_third_choice_come_from_later_parts() -> None:
    low = MinRttFilter(window_us=100)
    low.update(1, 10)
    low.update(26, 20)  # a quarter old exactly: not yet
    low.update(27, 30)  # second and third choice
    low.update(51, 40)  # half: not yet
    low.update(52, 50)
    assert low.update(101, 60) == 10
    assert low.update(102, 60) == 30
    assert low.update(127, 60) == 30
    assert low.update(128, 60) == 50
    assert low.update(153, 70) == 60


def test_a_better_second_choice_replaces_both() -> None:
    low = MinRttFilter(window_us=100)
    low.update(0, 10)
    low.update(30, 30)
    low.update(60, 40)
    low.update(70, 35)  # better third
    low.update(80, 30)  # as good as the second, and younger
    assert low.update(101, 99) == 30
    assert low.update(180, 99) == 30
    assert low.update(181, 99) == 99


def test_old_third_choice_resets() -> None:
    low = MinRttFilter(window_us=100)
    low.update(0, 10)
    assert low.update(100, 50) == 10
    low = MinRttFilter(window_us=100)
    low.update(0, 10)
    assert low.update(101, 50) == 50
