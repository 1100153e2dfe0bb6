"""Data that has arrived: into the receive queue, beside it, or away.

A segment that starts at rcv_nxt is queued and may pull waiting out-of-order data with
it; one beyond a hole waits in the out-of-order queue and is reported by SACK; one that
was received before is reported by DSACK. What does not fit into the buffer is dropped
and the peer told so.

Sources: RFC 9293 section 3.10.7.4 (seventh and eighth steps), RFC 2018, RFC 2883, Linux
`tcp_data_queue`, `tcp_data_queue_ofo`, `tcp_ofo_queue`, `tcp_urg`; rules B-20 to B-35.
"""

from __future__ import annotations

from ustack.tcp.acking import (
    enter_quickack_mode,
    event_data_recv,
    flush_compressed_ack,
    measure_rcv_mss,
)
from ustack.tcp.lifecycle import fin
from ustack.tcp.predict import fast_path_check, reserve_in_vain
from ustack.tcp.rcvbuf import grow_window, rcvbuf_grow, rmem_schedule
from ustack.tcp.segment import Segment
from ustack.tcp.sock import (
    ACK_NOW,
    ACK_SCHED,
    MAX_QUICKACKS,
    PREDICTION_OFF,
    URG_NOTYET,
    URG_VALID,
    TcpSock,
)
from ustack.tcp.validate import dsack_set
from ustack.wire.tcp import FIN, URG

_BLOCKS_EXPECTED = 2  # TCP_SACK_BLOCKS_EXPECTED


def data_queue(sk: TcpSock, seg: Segment) -> None:
    """Take the payload and the FIN of a segment that has passed validation."""
    if seg.seq == seg.end_seq:
        return
    rcv_nxt = sk.rcv_nxt
    if sk.sacks.eff_sacks:
        sk.sacks.dsack_sent()  # reported once, at once, or not at all
    if seg.seq == rcv_nxt:
        win = sk.rcv_wup + sk.rcv_wnd - rcv_nxt
        if win <= 0 and not (seg.len == 0 and seg.flags & FIN):
            _zero_window_drop(sk, seg)
            return
        _queue_in_order(sk, seg)
        return
    if seg.end_seq <= rcv_nxt:
        sk.net.mib.inc("TcpExtDelayedACKLost")
        sk.drop("TCP_OLD_DATA")
        dsack_set(sk, seg.seq, seg.end_seq)
        _out_of_window(sk)
    elif seg.seq >= rcv_nxt + sk.cur_win:
        sk.drop("TCP_OVERWINDOW")
        _out_of_window(sk)
    elif seg.seq < rcv_nxt:
        dsack_set(sk, seg.seq, rcv_nxt)
        if sk.cur_win:
            _queue_in_order(sk, seg)
        else:
            _zero_window_drop(sk, seg)
    else:
        _queue_out_of_order(sk, seg)


def _zero_window_drop(sk: TcpSock, seg: Segment) -> None:
    """The peer ignores that our window is closed (rule B-35)."""
    sk.net.mib.inc("TcpExtTCPZeroWindowDrop")
    sk.drop("TCP_ZEROWINDOW")
    _out_of_window(sk)


def _out_of_window(sk: TcpSock) -> None:
    enter_quickack_mode(sk, MAX_QUICKACKS)
    sk.ack_pending |= ACK_SCHED


def _queue_in_order(sk: TcpSock, seg: Segment) -> None:
    """`seg` starts at or before rcv_nxt and ends after it."""
    if sk.rmem_alloc > sk.rcvbuf and not rmem_schedule(sk, seg.seq, True):
        sk.rcvq_overflow = True
        sk.ack_pending |= ACK_SCHED | ACK_NOW
        sk.data_ready()  # let the reader make room
        if sk.receive_queue and seg.len:
            sk.net.mib.inc("TcpExtTCPRcvQDrop")
            sk.drop("PROTO_MEM")
            return
    if not queue_rcv(sk, seg):
        reserve_in_vain(sk, seg.truesize)
    if seg.len:
        event_data_recv(sk, seg)
    if seg.flags & FIN:
        fin(sk, seg.now)
    if sk.ofo_queue.truesize:
        _merge_out_of_order(sk, seg.now)
        if not sk.ofo_queue:
            sk.ack_pending |= ACK_NOW  # the hole is filled: say so (RFC 5681, 4.2)
    if sk.sacks.eff_sacks:
        sk.sacks.remove(sk.rcv_nxt)
    if sk.pred_wnd == PREDICTION_OFF:
        fast_path_check(sk)
    if not sk.dead:
        data_ready(sk)


def queue_rcv(sk: TcpSock, seg: Segment) -> int:
    """Append payload and FIN to the receive queue; the charge (`tcp_queue_rcv`)."""
    charge = sk.receive_queue.append(seg.rx_skb())
    sk.rmem_alloc += charge
    sk.bytes_received += seg.end_seq - sk.rcv_nxt
    sk.rcv_nxt = seg.end_seq
    return charge


def data_ready(sk: TcpSock) -> None:
    """Wake readers if there is enough for them (rule B-7, `tcp_data_ready`)."""
    target = sk.rcvlowat
    if sk.rcv_nxt - sk.copied_seq >= target or sk.fin_received or sk.epollin_ready(target):
        sk.data_ready()


def _merge_out_of_order(sk: TcpSock, now: int) -> None:
    """Move what rcv_nxt has reached into the receive queue (`tcp_ofo_queue`)."""
    queue = sk.ofo_queue
    before = queue.dropped
    ready, dropped, dsack = queue.pop_ready(sk.rcv_nxt)
    sk.rmem_alloc -= dropped
    sk.reserved = 0
    sk.drops += queue.dropped - before
    if dsack is not None and sk.sack_ok and sk.net.sysctl.tcp_dsack:
        sk.sacks.dsack_extend(*dsack)
    for skb in ready:
        sk.rmem_alloc += sk.receive_queue.append(skb) - skb.truesize
        sk.bytes_received += skb.end_seq - sk.rcv_nxt
        sk.rcv_nxt = skb.end_seq
        if skb.fin:
            fin(sk, now)
            return


def _queue_out_of_order(sk: TcpSock, seg: Segment) -> None:
    """`seg` lies beyond a hole (rule B-31, `tcp_data_queue_ofo`)."""
    mib = sk.net.mib
    skb = seg.rx_skb()
    if sk.rmem_alloc > sk.rcvbuf and not rmem_schedule(sk, seg.seq, False):
        mib.inc("TcpExtTCPOFODrop")
        sk.drop("PROTO_MEM")
        sk.data_ready()
        return
    measure_rcv_mss(sk, seg)
    sk.pred_wnd = PREDICTION_OFF
    mib.inc("TcpExtTCPOFOQueue")
    sk.rcv_ooopack += seg.segs
    before = sk.ofo_queue.dropped
    result = sk.ofo_queue.insert(skb)
    if result.freed:
        sk.rmem_alloc -= result.freed
        sk.reserved = 0
    elif result.accepted and not result.charge:
        reserve_in_vain(sk, seg.truesize)
    if result.merged:
        mib.inc("TcpExtTCPOFOMerge", result.merged)
        sk.drops += sk.ofo_queue.dropped - before
    if result.dsack is not None:
        dsack_set(sk, *result.dsack)
    if sk.sack_ok:
        _sack(sk, seg)
        if result.accepted:
            if not seg.len and not result.charge:
                seg.truesize = 0  # a lone FIN, gone into the entry before it
            grow_window(sk, seg)
    sk.rmem_alloc += result.charge
    sk.ack_pending |= ACK_SCHED
    if not sk.dead and sk.parent is None:
        rcvbuf_grow(sk, sk.rcvq_space)


def _sack(sk: TcpSock, seg: Segment) -> None:
    """Report `seg`. Peers expect two blocks of news in an ACK, no more: a merged ACK that
    would hide one goes out first."""
    if sk.compressed_ack and sk.sacks.place_of(seg.seq, seg.end_seq) >= _BLOCKS_EXPECTED:
        flush_compressed_ack(sk, seg.now)
    sk.sacks.new_ofo(seg.seq, seg.end_seq)


# -- urgent data ---------------------------------------------------------------------------


def urg(sk: TcpSock, seg: Segment) -> None:
    """The urgent pointer, and the byte it points at (rule B-21, `tcp_urg`)."""
    if seg.flags & URG:
        _check_urg(sk, seg)
    if sk.urg_data == URG_NOTYET:
        offset = sk.urg_seq - seg.seq
        if -seg.hdr_len <= offset < seg.len:  # the kernel counts from the header, too
            sk.urg_data = URG_VALID | seg.rx.buf[seg.data_off + offset]
            if not sk.dead:
                sk.data_ready()


def _check_urg(sk: TcpSock, seg: Segment) -> None:
    """A newer pointer replaces an unread older one (`tcp_check_urg`)."""
    ptr = seg.seq + seg.urg
    if seg.urg and not sk.net.sysctl.tcp_stdurg:
        ptr -= 1
    if ptr < sk.copied_seq or ptr < sk.rcv_nxt:
        return
    if sk.urg_data and ptr <= sk.urg_seq:
        return
    if (
        sk.urg_seq == sk.copied_seq
        and sk.urg_data
        and not sk.oobinline
        and sk.copied_seq != sk.rcv_nxt
    ):
        _skip_old_urgent_byte(sk)
    sk.urg_data = URG_NOTYET
    sk.urg_seq = ptr
    sk.pred_wnd = PREDICTION_OFF


def _skip_old_urgent_byte(sk: TcpSock) -> None:
    """The old urgent byte is the next to be read, and never will be."""
    found = sk.receive_queue.find(sk.copied_seq)
    sk.copied_seq += 1
    if found is not None and found[0].end_seq <= sk.copied_seq and not found[0].fin:
        sk.rmem_alloc -= sk.receive_queue.eat().truesize
        sk.reserved = 0
