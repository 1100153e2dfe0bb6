"""Is this segment part of the conversation? Checks for synchronised connections.

In order: timestamps not from the past (PAWS, RFC 7323 section 5), sequence numbers inside
the window, RST at exactly the expected place (RFC 5961 section 3), no SYN. What fails is
answered by an ACK that tells the peer where we are, at most one per 500 ms if it carried
no data, so that two confused ends cannot make a storm.

Sources: RFC 9293 section 3.10.7.4, RFC 5961, Linux `tcp_validate_incoming`,
`tcp_sequence`, `tcp_paws_check`, `tcp_send_challenge_ack`; rules C-20 to C-26.
"""

from __future__ import annotations

from ustack.tcp.acking import enter_quickack_mode
from ustack.tcp.paws import paws_ok, ts_diff
from ustack.tcp.segment import Segment
from ustack.tcp.sock import MAX_QUICKACKS, MS, TcpSock
from ustack.tcp.state import CLOSE_WAIT, CLOSING, LAST_ACK, SYN_RECV
from ustack.tcp.timers import rto_ns
from ustack.tcp.transmit import send_ack
from ustack.wire.tcp import ACK, RST, SYN

PAWS_WINDOW = 1  # ms of backward movement that is forgiven

# what `validate_incoming` says
OK, DROP, RESET = 0, 1, 2


def replace_ts_recent(sk: TcpSock, seg: Segment) -> None:
    """Remember the peer's clock, from a segment that is not ahead of what we acknowledged
    (rule C-26)."""
    if seg.seq <= sk.rcv_wup and sk.tstamp_ok:
        tsval = seg.options.tsval
        if paws_ok(sk.ts_recent, sk.ts_recent_stamp, tsval, 0, seg.now):
            sk.ts_recent = tsval
            sk.ts_recent_stamp = seg.now


def is_next(sk: TcpSock, seg: Segment) -> bool:
    """Header prediction: the next segment in order, in the window, its timestamp not older
    than the last one. Nothing in `validate_incoming` can object to that."""
    options = seg.options
    return (
        seg.seq == sk.rcv_nxt
        and seg.flags & (ACK | RST | SYN) == ACK
        and (seg.end_seq <= sk.rcv_wup + sk.rcv_wnd or seg.end_seq == seg.seq)
        and (
            not options.has_ts
            or not sk.tstamp_ok
            or (options.tsval - sk.ts_recent) & 0x80000000 == 0
        )
    )


def paws_reason(sk: TcpSock, seg: Segment) -> str:
    """ "" if the timestamp is not older than the last one we took, else the drop reason
    (`tcp_disordered_ack_check`)."""
    options = seg.options
    if not (sk.tstamp_ok and options.has_ts) or paws_ok(
        sk.ts_recent, sk.ts_recent_stamp, options.tsval, PAWS_WINDOW, seg.now
    ):
        return ""
    if not seg.flags & ACK or seg.seq != seg.end_seq:
        return "TCP_RFC7323_PAWS"
    if seg.seq != sk.rcv_nxt:
        return "TCP_RFC7323_PAWS_ACK" if seg.seq < sk.rcv_nxt else "TCP_RFC7323_PAWS"
    return "" if _harmless_duplicate(sk, seg) else "TCP_RFC7323_PAWS"


def _harmless_duplicate(sk: TcpSock, seg: Segment) -> bool:
    """A pure ACK that says nothing new: it may have been overtaken by another."""
    window = seg.window << sk.snd_wscale
    limit_ms = rto_ns(sk) * 12 // 10 // MS
    return (
        seg.ack == sk.snd_una
        and not (seg.seq > sk.snd_wl1)
        and not (seg.seq == sk.snd_wl1 and (window > sk.snd_wnd or not window))
        and ts_diff(sk.ts_recent, seg.options.tsval) <= limit_ms
    )


def sequence_ok(sk: TcpSock, seg: Segment) -> str:
    """ "" if the segment touches the window, else the drop reason (`tcp_sequence`)."""
    if seg.end_seq < sk.rcv_wup:
        return "TCP_OLD_SEQUENCE"
    edge = sk.rcv_nxt + sk.cur_win
    end = seg.end_seq - (seg.flags & 1)  # a FIN may lie just beyond
    if end > edge:
        if seg.seq > edge:
            return "TCP_INVALID_SEQUENCE"
        if sk.receive_queue:  # since 6.17: across the edge only into an empty queue
            return "TCP_INVALID_END_SEQUENCE"
    return ""


def validate_incoming(sk: TcpSock, seg: Segment) -> int:
    """OK to process, DROP (already answered if an answer is due), or RESET: a valid RST."""
    reason = paws_reason(sk, seg)
    if reason and not seg.flags & RST:
        return _from_the_past(sk, seg, reason)
    reason = sequence_ok(sk, seg)
    if reason:
        return _out_of_sequence(sk, seg, reason)
    if seg.flags & RST:
        return _rst(sk, seg)
    if seg.flags & SYN and not _answers_our_syn(sk, seg):
        return _syn_challenge(sk, seg)
    return OK


def _answers_our_syn(sk: TcpSock, seg: Segment) -> bool:
    """The SYN-ACK of a simultaneous open, which completes it."""
    return (
        sk.state == SYN_RECV
        and bool(seg.flags & ACK)
        and seg.seq + 1 == seg.end_seq == sk.rcv_nxt
        and seg.ack == sk.snd_nxt
    )


def _syn_challenge(sk: TcpSock, seg: Segment) -> int:
    """A SYN into a connection: the peer may have restarted, or somebody tries (C-23)."""
    sk.net.mib.inc("TcpExtTCPSYNChallenge")
    sk.drop("TCP_INVALID_SYN")
    send_challenge_ack(sk, seg.now)
    return DROP


def _from_the_past(sk: TcpSock, seg: Segment, reason: str) -> int:
    """PAWS says no."""
    if seg.flags & SYN:
        return _syn_challenge(sk, seg)
    sk.drop(reason)
    if reason == "TCP_RFC7323_PAWS_ACK":
        sk.net.mib.inc("TcpExtPAWSOldAck")
        return DROP
    sk.net.mib.inc("TcpExtPAWSEstab")
    if not oow_rate_limited(sk, seg, "TcpExtTCPACKSkippedPAWS"):
        send_dupack(sk, seg)
    return DROP


def _out_of_sequence(sk: TcpSock, seg: Segment, reason: str) -> int:
    if seg.flags & RST:
        if _reset_check(sk, seg):
            return RESET
        sk.drop(reason)
        return DROP
    if seg.flags & SYN:
        return _syn_challenge(sk, seg)
    sk.drop(reason)
    if reason != "TCP_OLD_SEQUENCE":
        sk.net.mib.inc("TcpExtBeyondWindow")
    if not oow_rate_limited(sk, seg, "TcpExtTCPACKSkippedSeq"):
        send_dupack(sk, seg)
    return DROP


def _rst(sk: TcpSock, seg: Segment) -> int:
    """A RST counts only where the peer can know to put it (RFC 5961 section 3.2)."""
    if seg.seq == sk.rcv_nxt or _reset_check(sk, seg):
        return RESET
    if sk.sacks.num_sacks and seg.seq == sk.sacks.right_edge:
        return RESET
    send_challenge_ack(sk, seg.now)
    sk.drop("TCP_RESET")
    return DROP


def _reset_check(sk: TcpSock, seg: Segment) -> bool:
    """After a FIN some stacks reset one below (`tcp_reset_check`)."""
    return seg.seq == sk.rcv_nxt - 1 and sk.state in (CLOSE_WAIT, LAST_ACK, CLOSING)


def oow_rate_limited(sk: TcpSock, seg: Segment, counter: str) -> bool:
    """Segments with data are always answered, others once per 500 ms (rule C-24)."""
    if seg.seq != seg.end_seq and not seg.flags & SYN:
        return False
    return _rate_limited(sk, seg.now, counter)


def _rate_limited(sk: TcpSock, now: int, counter: str) -> bool:
    limit = sk.net.sysctl.tcp_invalid_ratelimit * MS
    if sk.last_oow_ack_time and 0 <= now - sk.last_oow_ack_time < limit:
        sk.net.mib.inc(counter)
        return True
    sk.last_oow_ack_time = now
    return False


def send_challenge_ack(sk: TcpSock, now: int) -> None:
    """Tell the peer where we are; an attacker learns nothing (RFC 5961 section 7)."""
    if not _rate_limited(sk, now, "TcpExtTCPACKSkippedChallenge"):
        sk.net.mib.inc("TcpExtTCPChallengeACK")
        send_ack(sk, now)


def send_dupack(sk: TcpSock, seg: Segment) -> None:
    """An ACK for something out of place, with a DSACK for old data (`tcp_send_dupack`)."""
    if seg.end_seq != seg.seq and seg.seq < sk.rcv_nxt:
        sk.net.mib.inc("TcpExtDelayedACKLost")
        enter_quickack_mode(sk, MAX_QUICKACKS)
        dsack_set(sk, seg.seq, min(seg.end_seq, sk.rcv_nxt))
    send_ack(sk, seg.now)


def dsack_set(sk: TcpSock, seq: int, end: int) -> None:
    """Report [seq, end) as received twice (RFC 2883)."""
    if sk.sack_ok and sk.net.sysctl.tcp_dsack:
        old = seq < sk.rcv_nxt
        sk.net.mib.inc("TcpExtTCPDSACKOldSent" if old else "TcpExtTCPDSACKOfoSent")
        sk.sacks.dsack_set(seq, end)
