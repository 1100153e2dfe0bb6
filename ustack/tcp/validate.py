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
from ustack.tcp.segment import Segment
from ustack.tcp.sock import ACK_SCHED, MAX_QUICKACKS, MS, SEC, TcpSock
from ustack.tcp.state import CLOSE_WAIT, CLOSING, LAST_ACK
from ustack.tcp.timers import rto_ns
from ustack.tcp.transmit import MAX_SACK_BLOCKS, send_ack
from ustack.wire.tcp import ACK, RST, SYN

PAWS_24DAYS = 60 * 60 * 24 * 24 * SEC
PAWS_WINDOW = 1  # ms of backward movement that is forgiven

# what `validate_incoming` says
OK, DROP, RESET = 0, 1, 2


def ts_diff(a: int, b: int) -> int:
    """a - b as signed 32-bit timestamps."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def replace_ts_recent(sk: TcpSock, seg: Segment) -> None:
    """Remember the peer's clock, from a segment that is not ahead of what we acknowledged
    (rule C-26)."""
    if seg.seq <= sk.rcv_wup:
        if ts_diff(sk.ts_recent, seg.options.tsval) <= 0 or _ts_recent_is_stale(sk, seg.now):
            sk.ts_recent = seg.options.tsval
            sk.ts_recent_stamp = seg.now


def _ts_recent_is_stale(sk: TcpSock, now: int) -> bool:
    return not sk.ts_recent_stamp or now - sk.ts_recent_stamp >= PAWS_24DAYS


def paws_reject(sk: TcpSock, seg: Segment) -> bool:
    """Is the timestamp older than the last one we took? (`tcp_paws_discard`)"""
    if not (sk.tstamp_ok and seg.options.has_ts) or not sk.ts_recent:
        return False
    behind = ts_diff(sk.ts_recent, seg.options.tsval)
    if behind <= PAWS_WINDOW or _ts_recent_is_stale(sk, seg.now):
        return False
    return not _disordered_ack(sk, seg, behind)


def _disordered_ack(sk: TcpSock, seg: Segment, behind: int) -> bool:
    """A harmless duplicate of a pure ACK that overtook another (`tcp_disordered_ack`)."""
    limit_ms = rto_ns(sk) * 12 // 10 // MS
    return (
        bool(seg.flags & ACK)
        and seg.seq == sk.rcv_nxt
        and seg.seq == seg.end_seq
        and seg.ack == sk.snd_una
        and behind <= limit_ms
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
    if paws_reject(sk, seg) and not seg.flags & RST:
        sk.net.mib.inc("TcpExtPAWSEstab")
        sk.net.mib.drop("TCP_RFC7323_PAWS")
        if not oow_rate_limited(sk, seg, "TcpExtTCPACKSkippedPAWS"):
            send_dupack(sk, seg)
        return DROP
    reason = sequence_ok(sk, seg)
    if reason:
        return _out_of_sequence(sk, seg, reason)
    if seg.flags & RST:
        return _rst(sk, seg)
    if seg.flags & SYN:
        sk.net.mib.inc("TcpExtTCPSYNChallenge")
        sk.net.mib.drop("TCP_INVALID_SYN")
        send_challenge_ack(sk, seg.now)
        return DROP
    return OK


def _out_of_sequence(sk: TcpSock, seg: Segment, reason: str) -> int:
    sk.net.mib.drop(reason)
    if seg.flags & RST:
        return RESET if _reset_check(sk, seg) else DROP
    if seg.flags & SYN:
        sk.net.mib.inc("TcpExtTCPSYNChallenge")
        send_challenge_ack(sk, seg.now)
    elif not oow_rate_limited(sk, seg, "TcpExtTCPACKSkippedSeq"):
        send_dupack(sk, seg)
    return DROP


def _rst(sk: TcpSock, seg: Segment) -> int:
    """A RST counts only where the peer can know to put it (RFC 5961 section 3.2)."""
    if seg.seq == sk.rcv_nxt or _reset_check(sk, seg):
        return RESET
    if sk.sack_ok and sk.sacks.num_sacks:
        edge = max(right for _, right in sk.sacks.blocks(MAX_SACK_BLOCKS))
        if seg.seq == edge:
            return RESET
    send_challenge_ack(sk, seg.now)
    sk.net.mib.drop("TCP_RESET")
    return DROP


def _reset_check(sk: TcpSock, seg: Segment) -> bool:
    """After a FIN some stacks reset one below (`tcp_reset_check`)."""
    return seg.seq == sk.rcv_nxt - 1 and sk.state in (CLOSE_WAIT, LAST_ACK, CLOSING)


def oow_rate_limited(sk: TcpSock, seg: Segment, counter: str) -> bool:
    """Segments with data are always answered, others once per 500 ms (rule C-24)."""
    if seg.len and not seg.flags & SYN:
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
        if sk.sack_ok and sk.net.sysctl.tcp_dsack:
            dsack_set(sk, seg.seq, min(seg.end_seq, sk.rcv_nxt))
    send_ack(sk, seg.now)


def dsack_set(sk: TcpSock, seq: int, end: int) -> None:
    """Report [seq, end) as received twice (RFC 2883)."""
    if sk.sack_ok and sk.net.sysctl.tcp_dsack:
        old = seq < sk.rcv_nxt
        sk.net.mib.inc("TcpExtTCPDSACKOldSent" if old else "TcpExtTCPDSACKOfoSent")
        sk.sacks.dsack_set(seq, end)


def schedule_ack(sk: TcpSock) -> None:
    sk.ack_pending |= ACK_SCHED
