"""CUBIC: the window is a cubic function of the time since the last loss.

Problem. Reno needs a round trip for each segment, so a long fat path takes minutes to
refill. CUBIC aims at W(t) = C (t - K)^3 + Wmax, where Wmax is the window at the last
loss and K the time at which the curve, starting at beta * Wmax, is back there: steep at first, flat
around Wmax, then probing. Growth depends on time, not on the round trip.

Structure. An epoch begins with the first ACK after a loss: it fixes K and the origin. `_update`
then turns the target for one round trip ahead into `cnt`, how many packets must be
acknowledged for +1, which `cong_avoid_ai` spends. `tcp_cwnd` follows what Reno with the same
average would have; where that is more, it wins (RFC 9438 section 4.3). When the
window was still below the last Wmax at a loss, others want room, and Wmax gives way
further (fast convergence). Idle time is not part of the curve: the epoch is moved by it.

Units are Linux's, and so is the integer arithmetic, of a kernel whose clock ticks every
millisecond: times are kept in ms, the curve is computed in 1/1024 s, at most once a ms, C is
410 / 1024 (about 0.4), beta 717 / 1024 (about 0.7). The cube root is exact, where the kernel's
is a table and one Newton step (0.2 % off).

Limits: no HyStart; it would hook into `pkts_acked`.

Sources: RFC 9438; Linux `net/ipv4/tcp_cubic.c` (`bictcp_update`, `cubictcp_recalc_ssthresh`).
"""

from __future__ import annotations

from typing import ClassVar

from ustack.tcp.congestion.base import CA_LOSS, EVENT_TX_START, AckSample, CongestionControl

BETA = 717
BETA_SCALE = 1024
_C_SCALED = 410  # C = 410 / 1024
_TIME_SHIFT = 10  # the curve's time unit is 1/1024 s
_DELTA_SHIFT = 10 + 3 * _TIME_SHIFT
_CUBE_FACTOR = (1 << _DELTA_SHIFT) // _C_SCALED
_RENO_SCALE = 8 * (BETA_SCALE + BETA) // 3 // (BETA_SCALE - BETA)
_HOLD_MS = 31  # cnt stays for this long while the window does not change
_NS_PER_MS = 1_000_000
_NO_EPOCH = -1


def cubic_root(x: int) -> int:
    """The integer part of the cube root."""
    if x < 8:
        return int(x > 0)
    root = 1 << -(-x.bit_length() // 3)  # not below the root
    while True:
        better = (2 * root + x // (root * root)) // 3
        if better >= root:
            return root
        root = better


class Cubic(CongestionControl):
    __slots__ = (
        "ack_cnt",
        "cnt",
        "delay_min_us",
        "epoch_start",
        "k",
        "last_cwnd",
        "last_max_cwnd",
        "last_time",
        "origin_point",
        "tcp_cwnd",
    )

    name: ClassVar[str] = "cubic"

    def __init__(self) -> None:
        super().__init__()
        self._reset()

    def _reset(self) -> None:
        self.cnt = 0  # +1 per this many packets
        self.last_max_cwnd = 0  # Wmax, 0 while unknown
        self.last_cwnd = 0
        self.last_time = 0  # ms, of the last update
        self.origin_point = 0
        self.k = 0  # 1/1024 s
        self.delay_min_us = 0
        self.epoch_start = _NO_EPOCH  # ms
        self.ack_cnt = 0
        self.tcp_cwnd = 0

    def init(self, now: int) -> None:
        self._reset()

    def ssthresh(self) -> int:
        cwnd = self.snd_cwnd
        self.epoch_start = _NO_EPOCH
        if cwnd < self.last_max_cwnd:
            self.last_max_cwnd = cwnd * (BETA_SCALE + BETA) // (2 * BETA_SCALE)
        else:
            self.last_max_cwnd = cwnd
        return max(cwnd * BETA // BETA_SCALE, 2)

    def cong_avoid(self, ack: AckSample) -> None:
        if not ack.is_cwnd_limited:
            return
        acked = ack.acked
        if self.snd_cwnd < self.snd_ssthresh:
            acked = self.slow_start(acked)
            if not acked:
                return
        self._update(ack.now // _NS_PER_MS, acked)
        self.cong_avoid_ai(self.cnt, acked)

    def set_state(self, ca_state: int) -> None:
        if ca_state == CA_LOSS:
            self._reset()

    def cwnd_event(self, event: int, now: int, idle_ns: int = 0) -> None:
        if event == EVENT_TX_START and self.epoch_start != _NO_EPOCH and idle_ns > 0:
            self.epoch_start = min(self.epoch_start + idle_ns // _NS_PER_MS, now // _NS_PER_MS)

    def pkts_acked(self, ack: AckSample) -> None:
        if ack.rtt_us < 0:
            return
        if self.epoch_start != _NO_EPOCH and ack.now // _NS_PER_MS - self.epoch_start < 1000:
            return  # just after recovery the queues are not what they will be
        delay = ack.rtt_us or 1
        if self.delay_min_us == 0 or delay < self.delay_min_us:
            self.delay_min_us = delay

    def _update(self, now: int, acked: int) -> None:
        """Compute `cnt` (Linux: `bictcp_update`). `now` is in ms."""
        cwnd = self.snd_cwnd
        self.ack_cnt += acked
        if self.last_cwnd == cwnd and now - self.last_time <= _HOLD_MS:
            return
        if self.epoch_start == _NO_EPOCH or now != self.last_time:
            self.last_cwnd = cwnd
            self.last_time = now
            if self.epoch_start == _NO_EPOCH:
                self._begin_epoch(now, acked)
            self._follow_curve(now)
        self._follow_reno()
        self.cnt = max(self.cnt, 2)

    def _begin_epoch(self, now: int, acked: int) -> None:
        cwnd = self.snd_cwnd
        self.epoch_start = now
        self.ack_cnt = acked
        self.tcp_cwnd = cwnd
        if self.last_max_cwnd <= cwnd:
            self.k = 0
            self.origin_point = cwnd
        else:
            self.k = cubic_root(_CUBE_FACTOR * (self.last_max_cwnd - cwnd))
            self.origin_point = self.last_max_cwnd

    def _follow_curve(self, now: int) -> None:
        cwnd = self.snd_cwnd
        ahead_ms = -(-self.delay_min_us // 1000)
        offset = ((now - self.epoch_start + ahead_ms) << _TIME_SHIFT) // 1000 - self.k
        delta = _C_SCALED * abs(offset) ** 3 >> _DELTA_SHIFT
        target = self.origin_point + (delta if offset >= 0 else -delta)
        self.cnt = cwnd // (target - cwnd) if target > cwnd else 100 * cwnd
        if self.last_max_cwnd == 0 and self.cnt > 20:
            self.cnt = 20  # nothing is known of the path yet: at least 5 % a round trip

    def _follow_reno(self) -> None:
        cwnd = self.snd_cwnd
        per_step = max(cwnd * _RENO_SCALE >> 3, 1)
        if self.ack_cnt > per_step:
            steps = (self.ack_cnt - 1) // per_step
            self.ack_cnt -= steps * per_step
            self.tcp_cwnd += steps
        if self.tcp_cwnd > cwnd:
            self.cnt = min(self.cnt, cwnd // (self.tcp_cwnd - cwnd))
