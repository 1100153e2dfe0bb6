"""What a congestion control algorithm is to the engine: numbers in, numbers out.

The algorithm owns the window (`snd_cwnd`, counted in segments) and the threshold; loss
recovery decides what was lost and when, and asks `ssthresh` what may remain. No algorithm
holds the socket: everything it may know about an ACK is in `AckSample`. The hooks carry the
names of Linux's `struct tcp_congestion_ops`, and so do the states and events.

The engine's part: it assigns `snd_ssthresh` and `snd_cwnd` when recovery begins and ends (with
PRR in between), sets `prior_cwnd` before a reduction, and calls `cong_avoid` for ACKs that
may open the window. An algorithm with `has_cong_control` replaces all that by
`cong_control`, which then sets the window and the pacing rate itself.

Sources: RFC 5681; Linux `net/ipv4/tcp_cong.c`.
"""

from __future__ import annotations

from typing import ClassVar

from mypy_extensions import mypyc_attr

INFINITE_SSTHRESH = 0x7FFFFFFF
INIT_CWND = 10

# ca_state, as in TCP_INFO
CA_OPEN, CA_DISORDER, CA_CWR, CA_RECOVERY, CA_LOSS = 0, 1, 2, 3, 4

# What `cwnd_event` reports: first transmission with nothing in flight; congestion window
# restarted after idle; end of a reduction; an RTO that is a loss.
EVENT_TX_START, EVENT_CWND_RESTART, EVENT_COMPLETE_CWR, EVENT_LOSS = 0, 1, 2, 3


class AckSample:
    """What one ACK says. One object per socket is enough: fill it again for each ACK."""

    __slots__ = (
        "acked",
        "delivered",
        "delivery_rate",
        "in_flight",
        "is_cwnd_limited",
        "losses",
        "min_rtt_us",
        "now",
        "rtt_us",
        "snd_nxt",
        "snd_una",
        "srtt_us",
    )

    def __init__(self, now: int = 0, acked: int = 0, rtt_us: int = -1) -> None:
        self.now = now  # ns
        self.acked = acked  # packets newly acknowledged
        self.rtt_us = rtt_us  # -1: this ACK gave no sample
        self.srtt_us = 0  # scaled by 8
        self.min_rtt_us = 0xFFFFFFFF
        self.in_flight = 0
        self.is_cwnd_limited = True
        self.snd_una = 0
        self.snd_nxt = 0
        self.delivered = 0  # packets delivered so far
        self.delivery_rate = 0  # bytes/s
        self.losses = 0  # packets newly marked lost


@mypyc_attr(allow_interpreted_subclasses=True)
class CongestionControl:
    """The numbers every algorithm has, and hooks that do what Linux does by default."""

    __slots__ = ("prior_cwnd", "snd_cwnd", "snd_cwnd_clamp", "snd_cwnd_cnt", "snd_ssthresh")

    name: ClassVar[str] = ""
    has_cong_control: ClassVar[bool] = False  # `cong_control` sets the window, not `cong_avoid`
    needs_pacing: ClassVar[bool] = False  # bursts wait for their time at the pacing rate
    sndbuf_expand: ClassVar[int] = 2  # send buffer auto-tuning: windows to hold (rule A-13)

    def __init__(self) -> None:
        self.snd_cwnd = INIT_CWND
        self.snd_ssthresh = INFINITE_SSTHRESH
        self.snd_cwnd_cnt = 0  # packets acknowledged towards the next +1
        self.snd_cwnd_clamp = 0xFFFFFFFF
        self.prior_cwnd = 0  # window before the last reduction

    # -- hooks -----------------------------------------------------------------------

    def init(self, now: int) -> None:
        """The connection is established, or has changed to this algorithm."""

    def ssthresh(self) -> int:
        """The threshold after a loss. Called once per reduction, on entering it."""
        raise NotImplementedError

    def cong_avoid(self, ack: AckSample) -> None:
        """New data was acknowledged and nothing is wrong: open the window."""
        raise NotImplementedError

    def set_state(self, ca_state: int) -> None:
        """`ca_state` is about to change to this."""

    def cwnd_event(self, event: int, now: int, idle_ns: int = 0) -> None:
        """An EVENT_*; for EVENT_TX_START, `idle_ns` is the time since the last sending."""

    def pkts_acked(self, ack: AckSample) -> None:
        """Packets left the network, by ACK or SACK; `ack.rtt_us` may be a sample."""

    def cong_control(self, ack: AckSample) -> None:
        """For algorithms with `has_cong_control`: every ACK, after loss detection."""

    def undo_cwnd(self) -> int:
        """The window to return to: the reduction was not called for."""
        return max(self.snd_cwnd, self.prior_cwnd)

    # -- shared arithmetic -------------------------------------------------------------

    def in_slow_start(self) -> bool:
        return self.snd_cwnd < self.snd_ssthresh

    def slow_start(self, acked: int) -> int:
        """+1 per packet acknowledged, up to the threshold; return the packets left over
        (Linux: `tcp_slow_start`)."""
        cwnd = min(self.snd_cwnd + acked, self.snd_ssthresh)
        acked -= cwnd - self.snd_cwnd
        self.snd_cwnd = min(cwnd, self.snd_cwnd_clamp)
        return acked

    def cong_avoid_ai(self, w: int, acked: int) -> None:
        """+1 per `w` packets acknowledged (Linux: `tcp_cong_avoid_ai`)."""
        if self.snd_cwnd_cnt >= w:
            # credit from a time when w was larger: spend it gently
            self.snd_cwnd_cnt = 0
            self.snd_cwnd += 1
        self.snd_cwnd_cnt += acked
        if self.snd_cwnd_cnt >= w:
            delta, self.snd_cwnd_cnt = divmod(self.snd_cwnd_cnt, w)
            self.snd_cwnd += delta
        self.snd_cwnd = min(self.snd_cwnd, self.snd_cwnd_clamp)

    def check(self) -> None:
        assert 1 <= self.snd_cwnd <= self.snd_cwnd_clamp
        assert self.snd_ssthresh >= 2
        assert self.snd_cwnd_cnt >= 0
