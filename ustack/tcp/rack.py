"""RACK: what is lost, told by time (RFC 8985).

Whatever was sent long enough before something that has arrived since is lost. The
reference point is the most recently *sent* entry known to be delivered
(`rack_mstamp`, ties broken by `rack_end_seq`). An entry sent before it is lost once a
round trip plus a reordering allowance has passed since it was sent; one still within the
allowance makes the reordering timer run.

An entry that was never retransmitted was sent in sequence order, so the walk over the
retransmit queue ends at the first such entry sent after the reference point, once it is
past everything that was retransmitted (`retransmit_high`). What was found lost once is not
looked at again before it goes again, not even when an undo has taken the mark off it.

Sources: RFC 8985 section 6.2, Linux tcp_recovery.c; rules D-15, D-27.
"""

from __future__ import annotations

from ustack.tcp.rtt import NO_RTT
from ustack.tcp.skb import EVER_RETRANS, LOST, SACKED_ACKED, SACKED_RETRANS, UNLISTED, Skb
from ustack.tcp.sock import PENDING_REO, TcpSock
from ustack.tcp.state import CA_RECOVERY
from ustack.tcp.timers import reset_xmit_timer, rto_ns

_TIMER_SLACK = 2_000_000  # ns added to the reordering timer (TCP_TIMEOUT_MIN_US)
_SETTLED = SACKED_ACKED | UNLISTED
REO_WND_PERSIST = 16  # recoveries that a widened allowance survives


def advance(sk: TcpSock, skb: Skb, now: int) -> None:
    """`skb` has been delivered: it may become the reference point (`tcp_rack_advance`)."""
    rtt_us = (now - skb.tx_time) // 1000
    if skb.sacked & EVER_RETRANS and rtt_us < sk.min_rtt.value:
        return  # the ACK is for the original, not for the retransmission
    sk.rack_advanced = True
    sk.rack_rtt_us = rtt_us
    sent = skb.tx_time
    if sent > sk.rack_mstamp or (sent == sk.rack_mstamp and skb.end_seq > sk.rack_end_seq):
        sk.rack_mstamp = sent
        sk.rack_end_seq = skb.end_seq


def _sent_after(t1: int, end1: int, t2: int, end2: int) -> bool:
    return t1 > t2 or (t1 == t2 and end1 > end2)


def reo_wnd_us(sk: TcpSock) -> int:
    """How much reordering in time to allow for, in us (`tcp_rack_reo_wnd`)."""
    if not sk.reord_seen and (sk.ca_state >= CA_RECOVERY or sk.sacked_out >= sk.reordering):
        return 0
    min_rtt = sk.min_rtt.get()
    if min_rtt == NO_RTT:
        return sk.rtt.srtt_us >> 3
    return min((min_rtt >> 2) * sk.reo_wnd_steps, sk.rtt.srtt_us >> 3)


def skb_timeout_ns(sk: TcpSock, skb: Skb, reo_wnd: int, now: int) -> int:
    """Time left until `skb` counts as lost; zero or less: it is."""
    return skb.tx_time + (sk.rack_rtt_us + reo_wnd) * 1000 - now


def mark_skb_lost(sk: TcpSock, skb: Skb) -> None:
    """Count an entry as lost, or its retransmission as lost again."""
    sacked = skb.sacked
    if sacked & SACKED_ACKED:
        return
    if sacked & LOST:
        if sacked & SACKED_RETRANS:
            skb.sacked &= ~SACKED_RETRANS
            sk.retrans_out -= skb.pcount
            sk.lost += skb.pcount
            sk.net.mib.inc("TcpExtTCPLostRetransmit", skb.pcount)
    else:
        sk.lost_out += skb.pcount
        sk.lost += skb.pcount
        skb.sacked |= LOST


def detect_loss(sk: TcpSock, now: int) -> int:
    """Mark what is lost; returns ns until the next entry may be, 0 if none."""
    reo_wnd = reo_wnd_us(sk)
    wait = 0
    mstamp, end_seq = sk.rack_mstamp, sk.rack_end_seq
    for skb in sk.rtx_queue:
        sacked = skb.sacked
        if sacked & _SETTLED or (sacked & LOST and not sacked & SACKED_RETRANS):
            continue
        if not _sent_after(mstamp, end_seq, skb.tx_time, skb.end_seq):
            if skb.seq >= sk.retransmit_high:
                break
            continue
        remaining = skb_timeout_ns(sk, skb, reo_wnd, now)
        if remaining <= 0:
            mark_skb_lost(sk, skb)
            skb.sacked |= UNLISTED
        else:
            wait = max(wait, remaining)
    return wait


def mark_lost(sk: TcpSock, now: int) -> bool:
    """After an ACK that moved the reference point: true if the reordering timer now runs
    (`tcp_rack_mark_lost`)."""
    if not sk.rack_advanced:
        return False
    sk.rack_advanced = False
    wait = detect_loss(sk, now)
    if wait:
        reset_xmit_timer(sk, PENDING_REO, now + min(wait + _TIMER_SLACK, rto_ns(sk)))
    return wait > 0


def update_reo_wnd(sk: TcpSock, delivered_before: int) -> None:
    """Widen the allowance after a DSACK, once a round trip; narrow it again after a while
    (`tcp_rack_update_reo_wnd`)."""
    if not delivered_before:
        return
    if delivered_before < sk.last_delivered:
        sk.dsack_seen = False  # no round trip has passed since the last widening
    if sk.dsack_seen:
        sk.dsack_seen = False
        sk.reo_wnd_steps = min(0xFF, sk.reo_wnd_steps + 1)
        sk.last_delivered = sk.delivered
        sk.reo_wnd_persist = REO_WND_PERSIST
    elif not sk.reo_wnd_persist:
        sk.reo_wnd_steps = 1


def check_sack_reordering(sk: TcpSock, low_seq: int, by_timestamp: bool) -> None:
    """`low_seq` arrived late without a retransmission: how far below the highest SACK is
    that? (rule D-27)"""
    fack = max(sk.highest_sack, sk.snd_una) if sk.sacked_out else sk.snd_una
    if low_seq >= fack:
        return
    metric = fack - low_seq
    mss = sk.mss_cache
    if metric > sk.reordering * mss:
        sk.reordering = min((metric + mss - 1) // mss, sk.net.sysctl.tcp_max_reordering)
    sk.reord_seen += 1
    sk.net.mib.inc("TcpExtTCPTSReorder" if by_timestamp else "TcpExtTCPSACKReorder")
