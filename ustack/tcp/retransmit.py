"""Sending again what was sent before.

`xmit_retransmit_queue` walks the retransmit queue from the front and resends what is
marked LOST and not already on its way again, while the congestion window has room; what
remains of the room is for new data. Before an entry goes out again it is trimmed to
what is unacknowledged, cut to what the window and the MSS allow now, or filled up with
small entries behind it, since a full segment costs no more than a small one.

Sources: Linux `tcp_retransmit_skb`, `tcp_xmit_retransmit_queue`, `tcp_fragment`,
`tcp_retrans_try_collapse`; rules D-5, D-18, A-36, A-52.
"""

from __future__ import annotations

from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp.cwnd import in_cwnd_reduction
from ustack.tcp.output import current_mss, split
from ustack.tcp.skb import EVER_RETRANS, LOST, MAX_PARTS, SACKED_ACKED, SACKED_RETRANS, Skb
from ustack.tcp.sock import PENDING_REO, PENDING_RETRANS, TcpSock
from ustack.tcp.state import CA_LOSS
from ustack.tcp.timers import reset_xmit_timer, rto_ns
from ustack.tcp.transmit import transmit_skb
from ustack.wire.packet import DROPPED
from ustack.wire.tcp import FIN, SYN


def fragment(sk: TcpSock, skb: Skb, nbytes: int, mss_now: int) -> Skb:
    """Cut a sent entry after `nbytes` payload bytes and keep every counter right; returns
    the rear part, already in the queue (`tcp_fragment`)."""
    old = skb.pcount
    rear = split(skb, nbytes)
    skb.set_pcount(mss_now)
    rear.set_pcount(mss_now)
    sk.wmem_queued += TX_OVERHEAD
    sk.rtx_queue.insert_after(skb, rear)
    adjust_pcount(sk, skb, old - skb.pcount - rear.pcount)
    return rear


def adjust_pcount(sk: TcpSock, skb: Skb, decr: int) -> None:
    """`skb`'s queue stands for `decr` packets fewer (`tcp_adjust_pcount`)."""
    if not decr:
        return
    sk.packets_out -= decr
    if skb.sacked & SACKED_ACKED:
        sk.sacked_out -= decr
    if skb.sacked & SACKED_RETRANS:
        sk.retrans_out -= decr
    if skb.sacked & LOST:
        sk.lost_out -= decr
    if not sk.sack_ok and decr > 0:
        sk.sacked_out -= min(sk.sacked_out, decr)


def retransmit_skb(sk: TcpSock, skb: Skb, segs: int, now: int) -> bool:
    """Send `skb` again, at most `segs` segments of it; false if that is not possible."""
    if skb.flags & SYN == 0 and skb.seq < sk.snd_una < skb.end_seq:
        trim_head(sk, skb, sk.snd_una - skb.seq)
    mss_now = current_mss(sk, now)
    room = sk.wnd_end - skb.seq
    if room <= 0 and skb.seq != sk.snd_una:
        return False  # the peer shrank its window; only the head may act as a probe
    nbytes = mss_now * segs
    if 0 < room < skb.len:
        nbytes = min(nbytes, max(room // mss_now, 1) * mss_now)
    if skb.len > nbytes:
        fragment(sk, skb, nbytes, mss_now)
    else:
        _refresh_pcount(sk, skb, mss_now)
        if skb.len < mss_now:
            _try_collapse(sk, skb, mss_now)
    sk.net.mib.values["TcpRetransSegs"] += skb.pcount
    if transmit_skb(sk, skb, now) == DROPPED:
        sk.net.mib.inc("TcpExtTCPRetransFail")
        return False
    sk.total_retrans += skb.pcount
    sk.bytes_retrans += skb.len
    if not sk.retrans_stamp:
        sk.retrans_stamp = now
    skb.sacked |= EVER_RETRANS
    if not skb.sacked & SACKED_RETRANS:
        skb.sacked |= SACKED_RETRANS
        sk.retrans_out += skb.pcount
    sk.retransmit_high = max(sk.retransmit_high, skb.end_seq)
    return True


def trim_head(sk: TcpSock, skb: Skb, nbytes: int) -> None:
    """The peer has acknowledged the first `nbytes` of an entry (`tcp_trim_head`)."""
    nbytes = min(nbytes, skb.len)
    skb.take_front(nbytes)
    skb.seq += nbytes
    sk.wmem_queued -= nbytes


def _refresh_pcount(sk: TcpSock, skb: Skb, mss_now: int) -> None:
    """The MSS may have changed since the entry was counted (`tcp_init_tso_segs`)."""
    old = skb.pcount
    if skb.gso_size != mss_now or not old:
        adjust_pcount(sk, skb, old - skb.set_pcount(mss_now))


def _try_collapse(sk: TcpSock, skb: Skb, mss_now: int) -> None:
    """Merge small entries behind into one segment (`tcp_retrans_try_collapse`)."""
    if skb.flags & (SYN | FIN) or skb.sacked & SACKED_ACKED:
        return
    while skb.len < mss_now and not skb.eor:
        behind = sk.rtx_queue.next_of(skb)
        if (
            behind is None
            or behind.sacked & SACKED_ACKED
            or behind.len > mss_now - skb.len
            or behind.flags & SYN
            or behind.end_seq > sk.wnd_end
            or len(skb.parts) + len(behind.parts) > MAX_PARTS
        ):
            return
        _collapse(sk, skb, behind)


def _collapse(sk: TcpSock, skb: Skb, behind: Skb) -> None:
    """Take all of `behind` into `skb`: one packet where there were two."""
    sk.rtx_queue.remove_after(skb)
    skb.parts.extend(behind.parts)
    skb.len += behind.len
    skb.end_seq = behind.end_seq
    skb.flags |= behind.flags
    skb.eor = behind.eor
    sk.wmem_queued -= TX_OVERHEAD
    skb.sacked |= behind.sacked & EVER_RETRANS
    adjust_pcount(sk, behind, behind.pcount)


def xmit_retransmit_queue(sk: TcpSock, now: int) -> None:
    """Resend what is lost, in order, while the window has room (rule D-18)."""
    if not sk.packets_out or not sk.lost_out > 0:
        return
    rearm = False
    head = sk.rtx_queue.head()
    for skb in sk.rtx_queue:
        segs = sk.cc.snd_cwnd - sk.in_flight
        if segs <= 0:
            break
        sacked = skb.sacked
        if not sacked & LOST or sacked & (SACKED_ACKED | SACKED_RETRANS):
            continue
        if not retransmit_skb(sk, skb, segs, now):
            break
        name = "TcpExtTCPSlowStartRetrans" if sk.ca_state == CA_LOSS else "TcpExtTCPFastRetrans"
        sk.net.mib.values[name] += skb.pcount
        if in_cwnd_reduction(sk):
            sk.prr_out += skb.pcount
        if skb is head and sk.pending != PENDING_REO:
            rearm = True
    if rearm:
        reset_xmit_timer(sk, PENDING_RETRANS, now + rto_ns(sk))
