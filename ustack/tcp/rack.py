"""RACK: what is lost, told by time (RFC 8985).

Whatever was sent long enough before something that has arrived since is lost. The
reference point is the most recently *sent* entry known to be delivered
(`rack_mstamp`, ties broken by `rack_end_seq`). An entry sent before it is lost once a
round trip plus a reordering allowance has passed since it was sent; one still within the
allowance makes the reordering timer run.

The queue may be long, and most of it SACKed: every look at all of it for every ACK would
cost its square. So `rack_list` holds what was sent before the reference point and is neither
acknowledged, nor SACKed, nor found lost already, up to the sequence number `rack_upto`. An
entry that was never retransmitted was sent in sequence order, so a look goes on from there
to the first such entry sent after the reference point, once it is past everything that was
retransmitted (`retransmit_high`). What was found lost is off the list (UNLISTED) until it
goes again, even if an undo takes the mark off it. Who cuts an entry below `rack_upto` adds the
rear (`listed`); what has left the queue is dropped at the next look. There is no list
(None) in state Open.

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


def listed(sk: TcpSock, skb: Skb) -> None:
    """`skb` is new in the queue, or has gone again."""
    if sk.rack_list is not None and skb.seq < sk.rack_upto:
        sk.rack_list.append(skb)


def detect_loss(sk: TcpSock, now: int) -> int:
    """Mark what is lost; returns ns until the next entry may be, 0 if none."""
    candidates = sk.rack_list
    if candidates is None:
        candidates = []
        sk.rack_upto = sk.snd_una
    _take_in(sk, candidates)
    reo_wnd = reo_wnd_us(sk)
    wait = 0
    mstamp, end_seq, una = sk.rack_mstamp, sk.rack_end_seq, sk.snd_una
    kept: list[Skb] = []
    for skb in candidates:
        sacked = skb.sacked
        if sacked & _SETTLED or skb.end_seq <= una:
            continue
        known = sacked & LOST and not sacked & SACKED_RETRANS
        if not known and _sent_after(mstamp, end_seq, skb.tx_time, skb.end_seq):
            remaining = skb_timeout_ns(sk, skb, reo_wnd, now)
            if remaining <= 0:
                mark_skb_lost(sk, skb)
                skb.sacked |= UNLISTED
                continue
            wait = max(wait, remaining)
        kept.append(skb)
    sk.rack_list = kept
    return wait


def _take_in(sk: TcpSock, candidates: list[Skb]) -> None:
    """Go on from where the last look at the queue ended, to the first entry that was sent
    after the reference point and never again."""
    queue = sk.rtx_queue
    upto = max(sk.rack_upto, sk.snd_una)
    for i in range(queue.index_of(upto), len(queue)):
        skb = queue.at(i)
        if skb.end_seq <= upto:
            continue
        if skb.seq >= sk.retransmit_high and not _sent_after(
            sk.rack_mstamp, sk.rack_end_seq, skb.tx_time, skb.end_seq
        ):
            break
        if not skb.sacked & _SETTLED:
            candidates.append(skb)
        upto = skb.end_seq
    sk.rack_upto = upto


def mark_lost(sk: TcpSock, now: int) -> bool:
    """After an ACK that moved the reference point: true if the reordering timer now runs
    (`tcp_rack_mark_lost`)."""
    if not sk.rack_advanced:
        return False
    sk.rack_advanced = False
    wait = detect_loss(sk, now)
    if not (sk.sacked_out or sk.lost_out):
        sk.rack_list = None  # hold nothing back for an episode that is none
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


def check(sk: TcpSock) -> None:
    """The invariant of `rack_list`, for tests."""
    if sk.rack_list is None:
        return
    found = set(map(id, sk.rack_list))
    for skb in sk.rtx_queue:
        if skb.end_seq <= sk.rack_upto and not skb.sacked & _SETTLED:
            assert id(skb) in found, "an entry that RACK has lost sight of"
