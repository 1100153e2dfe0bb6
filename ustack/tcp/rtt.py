"""Round-trip time: the smoothed estimate with its RTO, and the windowed minimum.

Problem. The retransmission timeout must exceed nearly every round trip, and the
estimate must be fed by cheap integer arithmetic on every ACK.

`RttEstimator` keeps the mean scaled by 8 and the mean deviation scaled by 4 (RFC 6298
with Van Jacobson's arithmetic). Beyond the RFC, as in Linux: the deviation that enters
the RTO (`rttvar_us`) is the *maximum* of the last round trip, not the mean, and it falls
by a quarter of the difference once a round trip; a *falling* RTT raises the deviation by
only an eighth; and the floor of 200 ms lies on `rttvar_us`, not on the RTO, so that the
RTO stays that far above a long round trip too.

`MinRttFilter` is the minimum over a sliding window in constant space: the best, second
best and third best sample, each from a later part of the window than the one before. When
the best one expires, the second takes its place.

All times are microseconds. RTO and back-off are exact here; rounding them up to ticks is
the timers' affair.

Sources: RFC 6298; Linux `tcp_rtt_estimator`, `tcp_set_rto`, `lib/win_minmax.c`.
"""

from __future__ import annotations

NO_RTT = 0xFFFFFFFF


class RttEstimator:
    """SRTT, its variation, the RTO and its back-off."""

    __slots__ = (
        "backoff",
        "mdev_max_us",
        "mdev_us",
        "rto_init_us",
        "rto_max_us",
        "rto_min_us",
        "rto_us",
        "rtt_seq",
        "rttvar_us",
        "srtt_us",
    )

    def __init__(
        self,
        rto_min_us: int = 200_000,
        rto_max_us: int = 120_000_000,
        rto_init_us: int = 1_000_000,
    ) -> None:
        self.rto_min_us = rto_min_us
        self.rto_max_us = rto_max_us
        self.rto_init_us = rto_init_us
        self.srtt_us = 0  # scaled by 8; 0: no sample yet
        self.mdev_us = 0  # scaled by 4
        self.mdev_max_us = 0
        self.rttvar_us = 0  # scaled by 4
        self.rtt_seq = 0  # rttvar may fall when snd_una passes this
        self.rto_us = min(rto_init_us, rto_max_us)
        self.backoff = 0

    def sample(self, rtt_us: int, snd_una: int, snd_nxt: int) -> None:
        """Take a measurement: new SRTT, new RTO, no back-off
        (Linux: `tcp_rtt_estimator`, `tcp_set_rto`)."""
        if rtt_us < 1:
            rtt_us = 1
        if self.srtt_us:
            self._update(rtt_us, snd_una, snd_nxt)
        else:
            self.srtt_us = rtt_us << 3
            self.mdev_us = rtt_us << 1
            self.rttvar_us = self.mdev_max_us = max(self.mdev_us, self.rto_min_us)
            self.rtt_seq = snd_nxt
        self.backoff = 0
        rto = (self.srtt_us >> 3) + self.rttvar_us
        self.rto_us = rto if rto < self.rto_max_us else self.rto_max_us

    def _update(self, rtt_us: int, snd_una: int, snd_nxt: int) -> None:
        err = rtt_us - (self.srtt_us >> 3)
        self.srtt_us = self.srtt_us + err or 1
        if err < 0:
            err = -err - (self.mdev_us >> 2)
            if err > 0:
                err >>= 3
        else:
            err -= self.mdev_us >> 2
        self.mdev_us += err
        if self.mdev_us > self.mdev_max_us:
            self.mdev_max_us = self.mdev_us
            if self.mdev_us > self.rttvar_us:
                self.rttvar_us = self.mdev_us
        if snd_una > self.rtt_seq:
            if self.mdev_max_us < self.rttvar_us:
                self.rttvar_us -= (self.rttvar_us - self.mdev_max_us) >> 2
            self.rtt_seq = snd_nxt
            self.mdev_max_us = self.rto_min_us

    def set_rto(self) -> None:
        """Compute the RTO from the estimate, forgetting any back-off in it."""
        rto = (self.srtt_us >> 3) + self.rttvar_us if self.srtt_us else self.rto_init_us
        self.rto_us = max(rto, self.rto_min_us)
        self.bound()

    def bound(self) -> None:
        """Hold the RTO to its maximum, which the user may just have lowered."""
        if self.rto_us > self.rto_max_us:
            self.rto_us = self.rto_max_us

    def back_off(self) -> None:
        """A timeout: wait twice as long for the next one (RFC 6298, 5.5)."""
        self.backoff += 1
        self.rto_us = min(self.rto_us << 1, self.rto_max_us)

    def revert_backoff(self) -> None:
        """Take back the last doubling (RFC 6069)."""
        self.backoff -= 1
        rto = (self.srtt_us >> 3) + self.rttvar_us if self.srtt_us else self.rto_init_us
        self.rto_us = rto << self.backoff
        self.bound()

    def clear_backoff(self) -> None:
        """Count back-offs from 0 again. The RTO itself changes with the next sample."""
        self.backoff = 0

    def check(self) -> None:
        assert self.srtt_us >= 0
        assert self.mdev_us >= 0
        assert self.backoff >= 0
        assert 0 < self.rto_us <= self.rto_max_us
        if self.srtt_us:
            assert self.rttvar_us >= self.rto_min_us
            assert self.mdev_max_us >= self.rto_min_us


class MinRttFilter:
    """The smallest RTT of the last `window_us` (Linux: `minmax_running_min`)."""

    __slots__ = ("_t0", "_t1", "_t2", "_v1", "_v2", "value", "window_us")

    def __init__(self, window_us: int = 300_000_000) -> None:
        self.window_us = window_us
        self.reset(0, NO_RTT)

    def get(self) -> int:
        """The minimum, 0xFFFFFFFF if there is no sample."""
        return self.value

    def reset(self, now_us: int, rtt_us: int) -> int:
        """Forget everything but this sample."""
        self._t0 = self._t1 = self._t2 = now_us
        self.value = self._v1 = self._v2 = rtt_us
        return rtt_us

    def update(self, now_us: int, rtt_us: int) -> int:
        """Take a sample; return the new minimum."""
        if rtt_us <= self.value or now_us - self._t2 > self.window_us:
            return self.reset(now_us, rtt_us)
        if rtt_us <= self._v1:
            self._set_second(now_us, rtt_us)
        elif rtt_us <= self._v2:
            self._set_third(now_us, rtt_us)
        age = now_us - self._t0
        if age > self.window_us:
            self._shift(now_us, rtt_us)
            if now_us - self._t0 > self.window_us:
                self._shift(now_us, rtt_us)
        elif self._t1 == self._t0 and age > self.window_us >> 2:
            self._set_second(now_us, rtt_us)  # a quarter passed without a second choice
        elif self._t2 == self._t1 and age > self.window_us >> 1:
            self._set_third(now_us, rtt_us)
        return self.value

    def _set_second(self, now_us: int, rtt_us: int) -> None:
        self._t1 = self._t2 = now_us
        self._v1 = self._v2 = rtt_us

    def _set_third(self, now_us: int, rtt_us: int) -> None:
        self._t2, self._v2 = now_us, rtt_us

    def _shift(self, now_us: int, rtt_us: int) -> None:
        self._t0, self.value = self._t1, self._v1
        self._t1, self._v1 = self._t2, self._v2
        self._t2, self._v2 = now_us, rtt_us

    def check(self) -> None:
        assert self._t0 <= self._t1 <= self._t2
        assert self.value <= self._v1 <= self._v2
