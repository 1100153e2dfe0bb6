"""The congestion window between its two masters.

Congestion control (`sk.cc`) says how it grows and where it falls to. Recovery reduces
it over a round trip by proportional rate reduction (RFC 6937), so that the flight
shrinks without a silence. This file also keeps it honest: it grows only while it is
what limits the sender, and decays over idle time (RFC 7661's predecessor in Linux).

Sources: Linux `tcp_cwnd_reduction`, `tcp_enter_cwr`, `tcp_cwnd_validate`,
`tcp_cwnd_restart`; rules D-17, D-45, D-46.
"""

from __future__ import annotations

from ustack.tcp import chrono
from ustack.tcp.congestion.base import (
    EVENT_COMPLETE_CWR,
    EVENT_CWND_RESTART,
    INFINITE_SSTHRESH,
)
from ustack.tcp.skb import EVER_RETRANS
from ustack.tcp.sock import TCP_INIT_CWND, TcpSock
from ustack.tcp.state import CA_CWR, CA_DISORDER, CA_OPEN, CA_RECOVERY, CLOSE_WAIT, ESTABLISHED
from ustack.tcp.timers import rto_ns


def set_ca_state(sk: TcpSock, state: int) -> None:
    """Move between Open, Disorder, CWR, Recovery and Loss; congestion control hears of it."""
    sk.cc.set_state(state)
    sk.ca_state = state
    if state == CA_OPEN:
        sk.rack_list = None


def in_initial_slowstart(sk: TcpSock) -> bool:
    return sk.cc.snd_ssthresh >= INFINITE_SSTHRESH


def init_cwnd_reduction(sk: TcpSock) -> None:
    """Start a reduction (CWR or Recovery); it ends when snd_una passes high_seq."""
    sk.high_seq = sk.snd_nxt
    sk.tlp_high_seq = None
    sk.cc.prior_cwnd = sk.cc.snd_cwnd
    sk.cc.snd_cwnd_cnt = 0
    sk.prr_delivered = 0
    sk.prr_out = 0
    sk.cc.snd_ssthresh = sk.cc.ssthresh()


def cwnd_reduction(sk: TcpSock, newly_acked: int, newly_lost: int, snd_una_advanced: bool) -> None:
    """One ACK's worth of proportional rate reduction (rule D-17)."""
    cc = sk.cc
    if newly_acked <= 0 or not cc.prior_cwnd:
        return
    in_flight = sk.in_flight
    delta = cc.snd_ssthresh - in_flight
    sk.prr_delivered += newly_acked
    if delta < 0:
        dividend = cc.snd_ssthresh * sk.prr_delivered + cc.prior_cwnd - 1
        allowed = dividend // cc.prior_cwnd - sk.prr_out
    else:
        allowed = max(sk.prr_delivered - sk.prr_out, newly_acked)
        if snd_una_advanced and not newly_lost:
            allowed += 1
        allowed = min(delta, allowed)
    allowed = max(allowed, 0 if sk.prr_out else 1)  # the fast retransmit itself goes
    cc.snd_cwnd = in_flight + allowed


def end_cwnd_reduction(sk: TcpSock, now: int) -> None:
    """The reduction is over: cwnd becomes ssthresh."""
    cc = sk.cc
    if cc.has_cong_control:
        return
    if cc.snd_ssthresh < INFINITE_SSTHRESH and (
        sk.ca_state == CA_CWR or sk.undo_marker is not None
    ):
        cc.snd_cwnd = cc.snd_ssthresh
        sk.snd_cwnd_stamp = now
    cc.cwnd_event(EVENT_COMPLETE_CWR, now)


def enter_cwr(sk: TcpSock) -> None:
    """Reduce without loss: a local drop, or a tail loss that the probe repaired."""
    sk.prior_ssthresh = 0
    if sk.ca_state < CA_CWR:
        sk.undo_marker = None
        init_cwnd_reduction(sk)
        set_ca_state(sk, CA_CWR)


def try_keep_open(sk: TcpSock) -> None:
    """Back to Open, or to Disorder while something is still SACKed or lost."""
    left_out = sk.sacked_out or sk.lost_out or any_retrans_done(sk)
    state = CA_DISORDER if left_out else CA_OPEN
    if sk.ca_state != state:
        set_ca_state(sk, state)
        sk.high_seq = sk.snd_nxt


def any_retrans_done(sk: TcpSock) -> bool:
    """Is something in flight that was retransmitted? (`tcp_any_retrans_done`)"""
    head = sk.rtx_queue.first
    return bool(sk.retrans_out or (head is not None and head.sacked & EVER_RETRANS))


def in_cwnd_reduction(sk: TcpSock) -> bool:
    return sk.ca_state in (CA_CWR, CA_RECOVERY)


def cwnd_validate(sk: TcpSock, is_cwnd_limited: bool, now: int) -> None:
    """After sending: was it the congestion window that stopped us? (rule D-45)"""
    if (
        is_cwnd_limited
        or sk.snd_una >= sk.cwnd_usage_seq
        or (not sk.is_cwnd_limited and sk.packets_out > sk.max_packets_out)
    ):
        sk.is_cwnd_limited = is_cwnd_limited
        sk.max_packets_out = sk.packets_out
        sk.cwnd_usage_seq = sk.snd_nxt
    if sk.is_cwnd_limited or is_cwnd_limited_now(sk):
        sk.snd_cwnd_used = 0
        sk.snd_cwnd_stamp = now
        return
    if sk.packets_out > sk.snd_cwnd_used:
        sk.snd_cwnd_used = sk.packets_out
    if (
        sk.net.sysctl.tcp_slow_start_after_idle
        and now - sk.snd_cwnd_stamp >= sk.rtt.rto_us * 1000
        and not sk.cc.has_cong_control
    ):
        _cwnd_application_limited(sk, now)
    if sk.nospace and not sk.write_queue and sk.state in (ESTABLISHED, CLOSE_WAIT):
        chrono.start(sk, chrono.SNDBUF_LIMITED, now)  # all is out, and more would like to be


def is_cwnd_limited_now(sk: TcpSock) -> bool:
    """May this ACK grow the window? (`tcp_is_cwnd_limited`)"""
    if sk.is_cwnd_limited:
        return True
    cc = sk.cc
    return cc.snd_cwnd < cc.snd_ssthresh and cc.snd_cwnd < 2 * sk.max_packets_out


def _cwnd_application_limited(sk: TcpSock, now: int) -> None:
    """An RTO passed without filling the window: forget half of what was not used."""
    cc = sk.cc
    if sk.ca_state == CA_OPEN and not sk.nospace and not sk.dead:
        used = max(sk.snd_cwnd_used, init_cwnd(sk))
        if used < cc.snd_cwnd:
            cc.snd_ssthresh = current_ssthresh(sk)
            cc.snd_cwnd = (cc.snd_cwnd + used) >> 1
        sk.snd_cwnd_used = 0
    sk.snd_cwnd_stamp = now


def current_ssthresh(sk: TcpSock) -> int:
    """What ssthresh should remember of a window about to be given up."""
    cc = sk.cc
    if in_cwnd_reduction(sk):
        return cc.snd_ssthresh
    return max(cc.snd_ssthresh, (cc.snd_cwnd >> 1) + (cc.snd_cwnd >> 2))


def init_cwnd(sk: TcpSock) -> int:
    return TCP_INIT_CWND


def slow_start_after_idle_check(sk: TcpSock, now: int) -> None:
    """Before sending: after an idle time the old window is no longer known to fit
    (rule D-46)."""
    if (
        not sk.net.sysctl.tcp_slow_start_after_idle
        or sk.packets_out
        or sk.cc.has_cong_control
        or not sk.lsndtime
    ):
        return
    idle = now - sk.lsndtime
    rto = rto_ns(sk)
    if idle > rto:
        _cwnd_restart(sk, idle, rto, now)


def _cwnd_restart(sk: TcpSock, idle: int, rto: int, now: int) -> None:
    cc = sk.cc
    restart = min(init_cwnd(sk), cc.snd_cwnd)
    cc.cwnd_event(EVENT_CWND_RESTART, now)
    cc.snd_ssthresh = current_ssthresh(sk)
    cwnd = cc.snd_cwnd
    idle -= rto
    while idle > 0 and cwnd > restart:
        cwnd >>= 1
        idle -= rto
    cc.snd_cwnd = max(cwnd, restart)
    sk.snd_cwnd_stamp = now
    sk.snd_cwnd_used = 0
