"""What happens when a timer of a connection fires.

    T_RETRANS        by `pending`: retransmission timeout, tail loss probe, reordering
                     timeout, zero-window probe
    T_DELACK         the ACK that was held back goes out
    T_KEEPALIVE      keepalive probes; the wait of an orphan in FIN_WAIT2
    T_COMPRESSED_ACK merged duplicate ACKs go out
    T_PACING         the next paced burst may go

A timer that finds nothing to do any more does nothing. Giving up (rule D-9) is judged by
time, not by a count: as long as the back-off would have taken for the configured number
of retries, or TCP_USER_TIMEOUT.

Sources: RFC 6298, RFC 9293 section 3.8, Linux tcp_timer.c; rules A-50, A-71, A-73, A-76,
C-13, D-4, D-5, D-9.
"""

from __future__ import annotations

from ustack.sock.deadlines import NEVER
from ustack.tcp import mtu_probe
from ustack.tcp.acking import flush_compressed_ack
from ustack.tcp.cwnd import in_initial_slowstart
from ustack.tcp.lifecycle import done, fin_time, time_wait, write_err
from ustack.tcp.output import sync_mss
from ustack.tcp.probe import send_loss_probe, write_wakeup
from ustack.tcp.recovery import enter_loss, reo_timeout
from ustack.tcp.retransmit import LOCAL_DROP, retransmit_skb, tsq_write
from ustack.tcp.skb import Skb
from ustack.tcp.sock import (
    ACK_SCHED,
    ACK_TIMER,
    MS,
    PENDING_LOSS_PROBE,
    PENDING_NONE,
    PENDING_PROBE0,
    PENDING_REO,
    PENDING_RETRANS,
    T_COMPRESSED_ACK,
    T_DELACK,
    T_KEEPALIVE,
    T_PACING,
    T_RETRANS,
    TCP_ATO_MIN,
    TCP_RTO_MIN,
    TcpSock,
)
from ustack.tcp.state import CLOSE, ESTABLISHED, FIN_WAIT2, LISTEN, SYN_RECV, SYN_SENT
from ustack.tcp.timers import (
    clamp_probe0,
    in_ticks,
    pacing_delay,
    probe0_interval,
    rearm_rto,
    reset_xmit_timer,
    rto_ns,
)
from ustack.tcp.timewait import TIMEWAIT_LEN
from ustack.tcp.transmit import send_ack, send_active_reset, send_probe_ack

_RESOURCE_PROBE_INTERVAL = 500 * MS  # after a local drop
_ORPHAN_RETRIES = 8
_THIN_LINEAR_RETRIES = 6


def handle_timers(sk: TcpSock, now: int) -> None:
    """Run every timer of `sk` that is due."""
    timers = sk.timers
    if timers[T_DELACK] <= now:
        _delack_timer(sk, now)
    if timers[T_COMPRESSED_ACK] <= now:
        flush_compressed_ack(sk, now)
        sk.disarm(T_COMPRESSED_ACK)
    if timers[T_PACING] <= now:
        sk.disarm(T_PACING)
        tsq_write(sk, now)
    if sk.timers[T_RETRANS] <= now:
        _write_timer(sk, now)
    if sk.timers[T_KEEPALIVE] <= now:
        _keepalive_timer(sk, now)


def _write_timer(sk: TcpSock, now: int) -> None:
    what = sk.pending
    sk.disarm(T_RETRANS)
    if sk.state in (CLOSE, LISTEN):
        sk.pending = PENDING_NONE
    elif what == PENDING_REO:
        reo_timeout(sk, now)
    elif what == PENDING_LOSS_PROBE:
        if send_loss_probe(sk, now):
            sk.pending = PENDING_NONE  # so that the timeout counts from now
        rearm_rto(sk, now)
    elif what == PENDING_RETRANS:
        sk.pending = PENDING_NONE
        retransmit_timer(sk, now)
    elif what == PENDING_PROBE0:
        sk.pending = PENDING_NONE
        _probe_timer(sk, now)


def _delack_timer(sk: TcpSock, now: int) -> None:
    sk.disarm(T_DELACK)
    if sk.state in (CLOSE, LISTEN) or not sk.ack_pending & ACK_TIMER:
        return
    sk.ack_pending &= ~ACK_TIMER
    if not sk.ack_pending & ACK_SCHED:
        return
    if sk.pingpong:
        sk.pingpong = 0  # no answer came to travel on
        sk.ato = TCP_ATO_MIN
    else:
        sk.ato = min(sk.ato << 1, in_ticks(sk, sk.rtt.rto_us) * 1000)
    send_ack(sk, now)
    sk.net.mib.inc("TcpExtDelayedACKs")


# -- retransmission ------------------------------------------------------------------------


def retransmit_timer(sk: TcpSock, now: int) -> None:
    """The RTO has passed without an ACK (rule D-5, `tcp_retransmit_timer`)."""
    head = sk.rtx_queue.head()
    if not sk.packets_out or head is None:
        return
    opening = sk.state in (SYN_SENT, SYN_RECV)
    if not sk.snd_wnd and not sk.dead and not opening:
        if _window_probe_timed_out(sk, head, now):
            write_err(sk, now)
            return
        enter_loss(sk, now)
        retransmit_skb(sk, head, 1, now)
        _backoff_and_rearm(sk, now)
        return
    sk.net.mib.inc("TcpExtTCPTimeouts")
    if _write_timeout(sk, now):
        return
    enter_loss(sk, now)
    sk.retransmits += 1
    if retransmit_skb(sk, head, 1, now) == LOCAL_DROP:
        reset_xmit_timer(sk, PENDING_RETRANS, now + _RESOURCE_PROBE_INTERVAL)
        return
    if opening:
        sk.net.mib.inc("TcpExtTCPSynRetrans")
    _backoff_and_rearm(sk, now)


def _backoff_and_rearm(sk: TcpSock, now: int) -> None:
    """Wait twice as long for the next one, except for the first SYNs and thin streams."""
    sysctl = sk.net.sysctl
    if (
        (sk.thin_lto or sysctl.tcp_thin_linear_timeouts)
        and sk.state == ESTABLISHED
        and sk.packets_out < 4
        and not in_initial_slowstart(sk)
        and sk.retransmits <= _THIN_LINEAR_RETRIES
    ):
        sk.rtt.backoff = 0
        sk.rtt.set_rto()
    elif sk.state != SYN_SENT or sk.retransmits > sysctl.tcp_syn_linear_timeouts:
        sk.rtt.rto_us = in_ticks(sk, sk.rtt.rto_us)
        sk.rtt.back_off()
    reset_xmit_timer(sk, PENDING_RETRANS, _clamp_to_user_timeout(sk, now))


def _clamp_to_user_timeout(sk: TcpSock, now: int) -> int:
    """Fire no later than TCP_USER_TIMEOUT runs out (rule A-71)."""
    at = now + rto_ns(sk)
    if sk.user_timeout and sk.retrans_stamp:
        return min(at, max(sk.retrans_stamp + sk.user_timeout, now + MS))
    return at


def _window_probe_timed_out(sk: TcpSock, head: Skb, now: int) -> bool:
    """The window is closed and data is in flight: how long may the peer be silent?
    (`tcp_rtx_probe0_timed_out`)"""
    trying = now - (sk.retrans_stamp or head.tx_time)
    timeout = 2 * sk.rto_max_us * 1000
    if sk.user_timeout:
        if trying > sk.user_timeout:
            return True
        timeout = min(timeout, sk.user_timeout)
    return now - sk.rcv_tstamp > timeout and trying > timeout


def model_timeout(boundary: int, base_ns: int, rto_max_ns: int) -> int:
    """How long `boundary` retries take with doubling from `base_ns` (`tcp_model_timeout`)."""
    thresh = (rto_max_ns // base_ns).bit_length() - 1
    if boundary <= thresh:
        return ((2 << boundary) - 1) * base_ns
    return ((2 << thresh) - 1) * base_ns + (boundary - thresh) * rto_max_ns


def retransmits_timed_out(sk: TcpSock, boundary: int, timeout: int, now: int) -> bool:
    """Has as much time passed as `boundary` retries take, or `timeout` ns?"""
    if not sk.retransmits:
        return False
    if not timeout:
        opening = sk.state in (SYN_SENT, SYN_RECV)
        base = 1_000 * MS if opening else TCP_RTO_MIN
        timeout = model_timeout(boundary, base, sk.rto_max_us * 1000)
    return now - sk.retrans_stamp >= timeout


def orphan_retries(sk: TcpSock, alive: bool) -> int:
    """How often data without an owner is repeated (`tcp_orphan_retries`)."""
    retries = sk.net.sysctl.tcp_orphan_retries
    if sk.err_soft and not alive:
        return 0
    return retries or (_ORPHAN_RETRIES if alive else 0)


def _write_timeout(sk: TcpSock, now: int) -> bool:
    """Is it time to give up? Then the connection is gone (rules C-13, D-9)."""
    sysctl = sk.net.sysctl
    expired = False
    if sk.state in (SYN_SENT, SYN_RECV):
        retry_until = sk.syn_retries or sysctl.tcp_syn_retries
        extra = sysctl.tcp_syn_linear_timeouts if sk.state == SYN_SENT else 0
        expired = sk.retransmits >= retry_until + extra
    else:
        if sysctl.tcp_mtu_probing and retransmits_timed_out(sk, sysctl.tcp_retries1, 0, now):
            mtu_probe.black_hole(sk, now)
            sync_mss(sk, sk.pmtu_cookie)
        retry_until = sysctl.tcp_retries2
        if sk.dead:
            alive = sk.rtt.rto_us < sk.rto_max_us
            retry_until = orphan_retries(sk, alive)
    if expired or retransmits_timed_out(sk, retry_until, sk.user_timeout, now):
        write_err(sk, now)
        return True
    return False


def _probe_timer(sk: TcpSock, now: int) -> None:
    """Zero-window probe (rule A-50, `tcp_probe_timer`, `tcp_send_probe0`)."""
    if sk.packets_out or not sk.write_queue:
        sk.probes_out = 0
        sk.probes_tstamp = 0
        return
    if not sk.probes_tstamp:
        sk.probes_tstamp = now
    elif sk.user_timeout and now - sk.probes_tstamp >= sk.user_timeout:
        write_err(sk, now)
        return
    max_probes = sk.net.sysctl.tcp_retries2
    if sk.dead:
        alive = probe0_interval(sk) < sk.rto_max_us * 1000
        max_probes = orphan_retries(sk, alive)
        if not alive and sk.rtt.backoff >= max_probes:
            write_err(sk, now)
            return
    if sk.probes_out >= max_probes:
        write_err(sk, now)
        return
    sk.net.mib.inc("TcpExtTCPWinProbe")
    sent = write_wakeup(sk, now)
    if sk.rtx_queue or not sk.write_queue:
        sk.probes_out = 0
        sk.probes_tstamp = 0
        sk.rtt.backoff = 0
        return
    sk.probes_out += 1
    wait = _RESOURCE_PROBE_INTERVAL
    if sent:
        if sk.rtt.backoff < sk.net.sysctl.tcp_retries2:
            sk.rtt.backoff += 1
        wait = probe0_interval(sk)
    at = clamp_probe0(sk, now + wait, now) + pacing_delay(sk, now)
    reset_xmit_timer(sk, PENDING_PROBE0, at)


# -- keepalive and FIN_WAIT2 ---------------------------------------------------------------


def _keepalive_timer(sk: TcpSock, now: int) -> None:
    """`tcp_keepalive_timer` (rules A-73, A-76)."""
    sk.disarm(T_KEEPALIVE)
    if sk.state == LISTEN:
        return
    if sk.state == FIN_WAIT2 and sk.dead:
        rest = fin_time(sk) - TIMEWAIT_LEN
        if sk.linger2 >= 0 and rest > 0:
            time_wait(sk, FIN_WAIT2, rest, now)
            return
        send_active_reset(sk, now)
        done(sk, now)
        return
    if not sk.keepopen or sk.state in (CLOSE, SYN_SENT):
        return
    if sk.packets_out or sk.write_queue:
        sk.arm(T_KEEPALIVE, now + sk.keepalive_time)
        return
    sk.arm(T_KEEPALIVE, _keepalive_step(sk, now))


def keepalive_elapsed(sk: TcpSock, now: int) -> int:
    """Time since anything was heard of the peer, in ns."""
    return now - max(sk.lrcvtime, sk.rcv_tstamp)


def _keepalive_step(sk: TcpSock, now: int) -> int:
    """Probe if the peer has been silent for long enough; when to look again. NEVER once
    the connection has been given up."""
    elapsed = keepalive_elapsed(sk, now)
    if elapsed < sk.keepalive_time:
        return now + sk.keepalive_time - elapsed
    gone = sk.probes_out >= sk.keepalive_probes
    if sk.user_timeout:
        gone = elapsed >= sk.user_timeout and sk.probes_out > 0
    if gone:
        send_active_reset(sk, now)
        write_err(sk, now)
        return NEVER
    send_probe_ack(sk, False, now)
    sk.net.mib.inc("TcpExtTCPKeepAlive")
    sk.probes_out += 1
    return now + sk.keepalive_intvl
