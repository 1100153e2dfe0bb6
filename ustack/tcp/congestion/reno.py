"""Reno: +1 segment a round trip, half of it at a loss (RFC 5681; Linux `tcp_reno`)."""

from __future__ import annotations

from typing import ClassVar

from ustack.tcp.congestion.base import AckSample, CongestionControl


class Reno(CongestionControl):
    __slots__ = ()

    name: ClassVar[str] = "reno"

    def ssthresh(self) -> int:
        return max(self.snd_cwnd >> 1, 2)

    def cong_avoid(self, ack: AckSample) -> None:
        if not ack.is_cwnd_limited:
            return
        acked = ack.acked
        if self.snd_cwnd < self.snd_ssthresh:
            acked = self.slow_start(acked)
            if not acked:
                return
        self.cong_avoid_ai(self.snd_cwnd, acked)
