"""Arming the timers of a connection. What happens when one fires is in `timeouts`.

One timer (T_RETRANS) serves four purposes, of which only one can be meant at a time:
the retransmission timeout, the tail loss probe, the reordering timeout of RACK and the
zero-window probe. `sk.pending` says which. The rest have a slot each.

Sources: Linux `inet_csk_reset_xmit_timer`, `tcp_rearm_rto`, `tcp_schedule_loss_probe`,
`tcp_send_delayed_ack`; rules D-4, D-20, A-50, B-53.
"""

from __future__ import annotations

from ustack.sock.deadlines import NEVER
from ustack.tcp.sock import (
    ACK_PUSHED,
    ACK_SCHED,
    ACK_TIMER,
    MS,
    PENDING_LOSS_PROBE,
    PENDING_NONE,
    PENDING_PROBE0,
    PENDING_REO,
    PENDING_RETRANS,
    SEC,
    T_DELACK,
    T_RETRANS,
    TCP_ATO_MIN,
    TCP_DELACK_MAX,
    TCP_RTO_MIN,
    TcpSock,
)
from ustack.tcp.state import CA_CWR, CA_OPEN

TLP_MIN_GAP = 2 * MS  # added to two round trips (TCP_TIMEOUT_MIN_US)
_PROBE0_BACKOFF_MAX = 10  # 200 ms doubled until it passes 120 s


def reset_xmit_timer(sk: TcpSock, what: int, at: int) -> None:
    """Let the shared timer fire at `at` for purpose `what`."""
    sk.pending = what
    sk.arm(T_RETRANS, at)


def clear_xmit_timer(sk: TcpSock) -> None:
    sk.pending = PENDING_NONE
    sk.disarm(T_RETRANS)


def rto_ns(sk: TcpSock) -> int:
    """The current retransmission timeout, back-off included, in ns. The user may have
    lowered the maximum since it was computed."""
    rto_us: int = sk.rtt.rto_us
    return (rto_us if rto_us < sk.rto_max_us else sk.rto_max_us) * 1000


def pacing_delay(sk: TcpSock, now: int) -> int:
    """What was just sent leaves when pacing lets it: so much later its timer starts
    (`tcp_pacing_delay`). Where it would cost a call for each ACK `pacing_status` is asked
    before."""
    return max(sk.wstamp - now, 0) if sk.pacing_status else 0


def rearm_rto(sk: TcpSock, now: int) -> None:
    """After progress or a new transmission (`tcp_rearm_rto`).

    When a TLP or a reordering timeout stood in the slot, the time that has already
    passed since the head was sent counts.
    """
    if not sk.packets_out:
        clear_xmit_timer(sk)
        return
    at = now + rto_ns(sk)
    if sk.pending in (PENDING_REO, PENDING_LOSS_PROBE):
        head = sk.rtx_queue.head()
        if head is not None:
            at = max(head.tx_time + rto_ns(sk), now + 1)
    if sk.pacing_status:
        at += pacing_delay(sk, now)
    reset_xmit_timer(sk, PENDING_RETRANS, at)


def schedule_loss_probe(sk: TcpSock, advancing_rto: bool, now: int) -> bool:
    """Arm the tail loss probe if this connection uses one (rule D-20)."""
    if (
        not sk.packets_out
        or not sk.sack_ok
        or sk.ca_state not in (CA_OPEN, CA_CWR)
        or sk.net.sysctl.tcp_early_retrans not in (3, 4)
    ):
        return False
    if sk.rtt.srtt_us:
        timeout = (sk.rtt.srtt_us >> 2) * 1000  # two round trips
        timeout += sk.rto_min_us * 1000 if sk.packets_out == 1 else TLP_MIN_GAP
    else:
        timeout = 1_000 * MS
    at = now + timeout
    rto_at = now + sk.rtt.rto_us * 1000 if advancing_rto else _rto_expiry(sk)
    if now < rto_at < at:
        at = rto_at
    sk.pending = PENDING_LOSS_PROBE
    sk.arm(T_RETRANS, at + pacing_delay(sk, now) if sk.pacing_status else at)
    return True


def _rto_expiry(sk: TcpSock) -> int:
    """When the RTO of the head of the queue falls due (`tcp_rto_delta_us`)."""
    head = sk.rtx_queue.first
    return NEVER if head is None else head.tx_time + sk.rtt.rto_us * 1000


def in_ticks(sk: TcpSock, us: int) -> int:
    """Whole ticks if the stack has them (`hz`): the kernel doubles intervals so rounded."""
    hz: int = sk.net.sysctl.hz
    if not hz:
        return us
    tick = 1_000_000 // hz
    return -(-us // tick) * tick


def whole_ticks(sk: TcpSock, ns: int) -> int:
    """A time or an interval in ns as a count of jiffies has it."""
    hz: int = sk.net.sysctl.hz
    return ns - ns % (SEC // hz) if hz else ns


def probe0_base(sk: TcpSock) -> int:
    """The first zero-window probe interval in ns: RTO, at least 200 ms."""
    return in_ticks(sk, max(sk.rtt.rto_us, TCP_RTO_MIN // 1000)) * 1000


def probe0_interval(sk: TcpSock) -> int:
    """The interval in ns with back-off (rule A-50, `tcp_probe0_when`)."""
    backoff = min(sk.rtt.backoff, _PROBE0_BACKOFF_MAX)
    return min(probe0_base(sk) << backoff, sk.rto_max_us * 1000)


def clamp_probe0(sk: TcpSock, at: int, now: int) -> int:
    """Fire no later than TCP_USER_TIMEOUT runs out (`tcp_clamp_probe0_to_user_timeout`)."""
    if sk.user_timeout and sk.probes_tstamp:
        return min(at, max(sk.probes_tstamp + sk.user_timeout, now + TLP_MIN_GAP))
    return at


def check_probe_timer(sk: TcpSock, now: int) -> None:
    """Unsent data and nothing in flight: probe, so that it cannot stand for ever."""
    if not sk.packets_out and sk.pending == PENDING_NONE:
        at = now + probe0_base(sk) + pacing_delay(sk, now)
        reset_xmit_timer(sk, PENDING_PROBE0, at)


def delack_max(sk: TcpSock) -> int:
    """A delayed ACK comes before the peer's shortest RTO, by a tick where there are any
    (`tcp_delack_max`)."""
    hz: int = sk.net.sysctl.hz
    longest: int = sk.rto_min_us * 1000
    if hz:
        longest = max(longest, 2 * SEC // hz) - SEC // hz
    return longest if longest < sk.delack_max else sk.delack_max


def _expires_within(sk: TcpSock, pending_at: int, ato: int, now: int) -> bool:
    """Is the pending timer due within a quarter of `ato`? With ticks all of it is counted
    in them, and `arm` has added one to the deadline."""
    hz: int = sk.net.sysctl.hz
    if not hz:
        return pending_at <= now + (ato >> 2)
    tick = SEC // hz
    return pending_at // tick - 1 <= now // tick + (ato // tick >> 2)


def send_delayed_ack(sk: TcpSock, now: int, ack_now: bool = False) -> bool:
    """Schedule the delayed ACK; true if it should rather be sent at once (rule B-53)."""
    ato = sk.ato
    if ato > TCP_ATO_MIN:
        longest = 500 * MS
        if sk.pingpong or sk.ack_pending & ACK_PUSHED:
            longest = TCP_DELACK_MAX
        if sk.rtt.srtt_us:
            longest = min(longest, max(in_ticks(sk, sk.rtt.srtt_us >> 3) * 1000, TCP_ATO_MIN))
        ato = min(ato, longest)
    at = now + min(ato, delack_max(sk))
    if sk.ack_pending & ACK_TIMER:
        pending_at = sk.timers[T_DELACK]
        if _expires_within(sk, pending_at, ato, now):
            return True
        if pending_at <= at:
            sk.ack_pending |= ACK_SCHED
            return False
    sk.ack_pending |= ACK_SCHED | ACK_TIMER
    sk.arm(T_DELACK, at)
    return False
