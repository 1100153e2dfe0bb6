"""When to acknowledge: at once, later, or with the next data.

Every piece of data received schedules an ACK. It leaves at once when more than a
segment's worth has come since the last one and the application keeps up, in *quick* mode
(the first segments of a connection, after a pause, after anything odd), or when a hole
was opened or filled. Else it is delayed, in the hope of travelling on data: 40 ms at
first, adapted to the gaps between segments (`ato`). A connection that answers what it
receives is interactive (`pingpong`) and waits for the answer.

Sources: RFC 9293 section 3.8.6.3, RFC 5681 section 4.2, Linux `__tcp_ack_snd_check`,
`tcp_event_data_recv`, `tcp_cleanup_rbuf`; rules B-50 to B-57.
"""

from __future__ import annotations

from ustack.sock.deadlines import NEVER
from ustack.sock.sock import RCV_SHUTDOWN
from ustack.tcp.rcvbuf import MIN_GROW_LEN, grow_window, measure_ratio, new_window, rcv_rtt_measure
from ustack.tcp.segment import Segment
from ustack.tcp.sock import (
    ACK_NOW,
    ACK_PUSHED,
    ACK_PUSHED2,
    ACK_SCHED,
    MAX_QUICKACKS,
    MSS_DEFAULT,
    T_COMPRESSED_ACK,
    TCP_ATO_MIN,
    TcpSock,
)
from ustack.tcp.timers import in_ticks, rto_ns, send_delayed_ack, whole_ticks
from ustack.tcp.transmit import send_ack
from ustack.wire.tcp import FIN, PSH, SYN, URG

MIN_MSS = 88  # a smaller size is no estimate
_DUP_ACKS_AT_ONCE = 3  # TCP_FASTRETRANS_THRESH: then duplicate ACKs may be merged


def event_data_recv(sk: TcpSock, seg: Segment) -> None:
    """Data was queued: estimate segment size and gap, open the window."""
    now = seg.now
    sk.ack_pending |= ACK_SCHED
    measure_rcv_mss(sk, seg)
    if sk.rcv_nxt >= sk.rcv_rtt_seq or not sk.rcv_rtt_time:
        rcv_rtt_measure(sk, now)
    if not sk.ato:
        incr_quickack(sk, MAX_QUICKACKS)
        sk.ato = TCP_ATO_MIN
    else:
        gap = now - sk.lrcvtime
        if gap <= TCP_ATO_MIN // 2:
            if sk.ato != TCP_ATO_MIN:
                sk.ato = whole_ticks(sk, sk.ato >> 1) + TCP_ATO_MIN // 2
        elif gap < sk.ato:
            gap = whole_ticks(sk, now) - whole_ticks(sk, sk.lrcvtime)
            sk.ato = min(whole_ticks(sk, sk.ato >> 1) + gap, in_ticks(sk, sk.rtt.rto_us) * 1000)
        elif gap > rto_ns(sk):
            incr_quickack(sk, MAX_QUICKACKS)
    sk.lrcvtime = now
    if seg.len >= MIN_GROW_LEN:
        grow_window(sk, seg)


def measure_rcv_mss(sk: TcpSock, seg: Segment) -> None:
    """Estimate the peer's segment size, and notice ends of writes (rule B-51)."""
    last, sk.last_seg_size = sk.last_seg_size, 0
    length = seg.rx.gso_size or seg.len
    if length >= sk.rcv_mss:
        if length != sk.rcv_mss:
            measure_ratio(sk, seg)
        sk.rcv_mss = min(length, sk.advmss)
        if seg.flags & PSH:
            sk.ack_pending |= ACK_PUSHED
        return
    whole = length + seg.hdr_len  # this does not jitter with the number of SACK blocks
    if whole >= MSS_DEFAULT + 20 or (
        whole >= MIN_MSS + 20 and not seg.flags & (FIN | URG | SYN | PSH)
    ):
        length = whole - sk.tcp_header_len
        sk.last_seg_size = length
        if length == last:
            sk.rcv_mss = length
            return
    if sk.ack_pending & ACK_PUSHED:
        sk.ack_pending |= ACK_PUSHED2
    sk.ack_pending |= ACK_PUSHED


def incr_quickack(sk: TcpSock, limit: int) -> None:
    """Refill the budget of immediate ACKs (rule B-55)."""
    budget = sk.rcv_wnd // (2 * sk.rcv_mss) if sk.rcv_mss else 0
    sk.quick = max(sk.quick, min(budget or 2, limit))


def enter_quickack_mode(sk: TcpSock, limit: int) -> None:
    incr_quickack(sk, limit)
    sk.pingpong = 0
    sk.ato = TCP_ATO_MIN


def in_quickack_mode(sk: TcpSock) -> bool:
    return bool(sk.quick) and not sk.pingpong


def ack_snd_check(sk: TcpSock, now: int) -> None:
    """After a segment: acknowledge now or later, if at all (`tcp_ack_snd_check`)."""
    if not sk.ack_pending & ACK_SCHED:
        return
    received = sk.rcv_nxt - sk.rcv_wup
    if (
        (
            received > sk.rcv_mss
            and (sk.rcv_nxt - sk.copied_seq < sk.rcvlowat or new_window(sk) >= sk.rcv_wnd)
        )
        or in_quickack_mode(sk)
        or sk.ack_pending & ACK_NOW
    ):
        send_ack(sk, now)
    elif sk.ofo_queue:
        _ack_out_of_order(sk, now)
    elif send_delayed_ack(sk, now):
        send_ack(sk, now)


def _ack_out_of_order(sk: TcpSock, now: int) -> None:
    """Duplicate ACKs: the first ones at once, then merged for a little (rule B-54)."""
    sysctl = sk.net.sysctl
    if not sk.sack_ok or sk.compressed_ack >= sysctl.tcp_comp_sack_nr:
        send_ack(sk, now)
        return
    if sk.compressed_ack_rcv_nxt != sk.rcv_nxt:
        sk.compressed_ack_rcv_nxt = sk.rcv_nxt
        sk.dup_ack_counter = 0
    if sk.dup_ack_counter < _DUP_ACKS_AT_ONCE:
        sk.dup_ack_counter += 1
        send_ack(sk, now)
        return
    sk.compressed_ack += 1
    if sk.timers[T_COMPRESSED_ACK] != NEVER:
        return
    rtt_us = sk.rcv_rtt_us
    if sk.rtt.srtt_us:
        rtt_us = min(rtt_us, sk.rtt.srtt_us)
    delay = min(sysctl.tcp_comp_sack_delay_ns, rtt_us * 1000 // 8 // 20)
    sk.arm(T_COMPRESSED_ACK, now + delay)


def flush_compressed_ack(sk: TcpSock, now: int) -> None:
    """Send the ACK that stands for the merged ones (`tcp_sack_compress_send_ack`)."""
    if sk.compressed_ack:
        sk.net.mib.inc("TcpExtTCPAckCompressed", sk.compressed_ack - 1)
        sk.compressed_ack = 0
        sk.disarm(T_COMPRESSED_ACK)
        send_ack(sk, now)


def cleanup_rbuf(sk: TcpSock, copied: int, now: int) -> None:
    """A read has taken `copied` bytes, or is about to sleep: is an ACK due, or has the
    window opened enough to say so? (rule B-50)"""
    pending = sk.ack_pending
    if pending & ACK_SCHED:
        if sk.rcv_nxt - sk.rcv_wup > sk.rcv_mss or (
            copied > 0
            and not sk.rmem_alloc
            and (pending & ACK_PUSHED2 or (pending & ACK_PUSHED and not sk.pingpong))
        ):
            send_ack(sk, now)
            return
    if copied > 0 and not sk.shutdown & RCV_SHUTDOWN:
        win = sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt
        win = win if win > 0 else 0
        if 2 * win <= sk.window_clamp:
            fresh = new_window(sk)
            if fresh and fresh >= 2 * win:
                send_ack(sk, now)
