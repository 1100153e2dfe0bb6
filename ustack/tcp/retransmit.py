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
from ustack.tcp import mtu_probe, rack
from ustack.tcp.cwnd import in_cwnd_reduction
from ustack.tcp.mss import GSO_MAX_SIZE
from ustack.tcp.output import (
    burst_segs,
    current_mss,
    pacing_test,
    push_pending_frames,
    small_queue_test,
    split,
)
from ustack.tcp.skb import (
    EVER_RETRANS,
    LOST,
    MAX_PARTS,
    SACKED_ACKED,
    SACKED_RETRANS,
    UNLISTED,
    Skb,
)
from ustack.tcp.sock import PENDING_REO, PENDING_RETRANS, TcpSock
from ustack.tcp.state import (
    CA_LOSS,
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    LAST_ACK,
)
from ustack.tcp.timers import pacing_delay, reset_xmit_timer, rto_ns
from ustack.tcp.transmit import transmit_skb
from ustack.wire.packet import DROPPED
from ustack.wire.tcp import FIN, SYN

# what `retransmit_skb` answers
SENT, LOCAL_DROP, REFUSED = 0, 1, -1


def fragment(sk: TcpSock, skb: Skb, nbytes: int, mss_now: int) -> Skb:
    """Cut a sent entry after `nbytes` payload bytes and keep every counter right; returns
    the rear part, already in the queue (`tcp_fragment`)."""
    old = skb.pcount
    rear = split(skb, nbytes)
    skb.set_pcount(mss_now)
    rear.set_pcount(mss_now)
    sk.wmem_queued += TX_OVERHEAD
    sk.rtx_queue.insert_after(skb, rear)
    rack.listed(sk, rear)
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


def too_fragmented(sk: TcpSock, skb: Skb) -> bool:
    """A peer with a small MSS and odd SACK blocks could have every entry cut to pieces, each
    with its overhead. Beyond twice the send buffer only the ends of the queue are cut."""
    if sk.wmem_queued >> 1 <= sk.sndbuf + 2 * (GSO_MAX_SIZE + TX_OVERHEAD):
        return False
    if skb is sk.rtx_queue.first or skb is sk.rtx_queue.tail():
        return False
    sk.net.mib.inc("TcpExtTCPWqueueTooBig")
    return True


def _still_queued(sk: TcpSock, skb: Skb) -> bool:
    """Does the device still hold the last transmission? Then another one is of no use, and
    `tsq_write` tries again (`skb_still_in_host_queue`)."""
    if skb.tx_mark <= sk.tx_charged - sk.wmem_alloc:
        return False
    sk.tsq_throttled = True
    sk.net.mib.inc("TcpExtTCPSpuriousRtxHostQueues")
    return True


def retransmit_skb(sk: TcpSock, skb: Skb, segs: int, now: int) -> int:
    """Send `skb` again, at most `segs` segments of it, and count it as in flight once more;
    SENT, REFUSED or LOCAL_DROP (`tcp_retransmit_skb`)."""
    result = resend(sk, skb, segs, now)
    if result == SENT:
        skb.sacked |= SACKED_RETRANS
        sk.retrans_out += skb.pcount
    if not sk.retrans_stamp:  # of the first attempt, sent or not: giving up counts from it
        sk.retrans_stamp = skb.tx_time if result == REFUSED else now
    sk.undo_retrans = max(sk.undo_retrans, 0) + skb.pcount
    return result


def resend(sk: TcpSock, skb: Skb, segs: int, now: int) -> int:
    """Send `skb` again as it is needed now: trimmed, cut or filled up. A tail loss probe
    stops here, it is no answer to a loss (`__tcp_retransmit_skb`)."""
    if sk.wmem_alloc and _still_queued(sk, skb):
        return REFUSED
    mtu_probe.inconclusive(sk)
    if skb.flags & SYN == 0 and skb.seq < sk.snd_una < skb.end_seq:
        trim_head(sk, skb, sk.snd_una - skb.seq)
    mss_now = current_mss(sk, now)
    room = sk.wnd_end - skb.seq
    if room <= 0:
        if skb.seq != sk.snd_una:
            return REFUSED  # the peer shrank its window; only the head may act as a probe
        room = mss_now
    nbytes = mss_now * segs
    if nbytes > room:
        nbytes = room - room % mss_now or room
    if skb.len > nbytes:
        if too_fragmented(sk, skb):
            return REFUSED
        fragment(sk, skb, nbytes, mss_now)
    else:
        _refresh_pcount(sk, skb, mss_now)
        room = min(room, mss_now)
        if skb.len < room:
            _try_collapse(sk, skb, room)
    sk.net.mib.values["TcpRetransSegs"] += skb.pcount
    sk.total_retrans += skb.pcount
    sk.bytes_retrans += skb.len
    skb.sacked |= EVER_RETRANS  # also if it fails: its round trip can no longer be told
    sk.retransmit_high = max(sk.retransmit_high, skb.end_seq)
    if transmit_skb(sk, skb, now) == DROPPED:
        sk.net.mib.inc("TcpExtTCPRetransFail", skb.pcount)
        return LOCAL_DROP
    if skb.sacked & UNLISTED:
        skb.sacked &= ~UNLISTED
        rack.listed(sk, skb)
    return SENT


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


def _try_collapse(sk: TcpSock, skb: Skb, space: int) -> None:
    """Merge small entries behind, up to `space` bytes (`tcp_retrans_try_collapse`)."""
    if skb.flags & (SYN | FIN) or skb.sacked & SACKED_ACKED:
        return
    while skb.len < space and not skb.eor:
        behind = sk.rtx_queue.next_of(skb)
        if (
            behind is None
            or behind.sacked & SACKED_ACKED
            or behind.pcount > 1
            or behind.len > space - skb.len
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
    behind.sacked |= UNLISTED  # it is no more


def xmit_retransmit_queue(sk: TcpSock, now: int) -> None:
    """Resend what is lost, in order, while the window has room (rule D-18)."""
    if not sk.packets_out or not sk.lost_out > 0:
        return
    rearm = False
    head = sk.rtx_queue.first
    max_segs = burst_segs(sk, current_mss(sk, now))
    for skb in sk.rtx_queue:
        segs = min(sk.cc.snd_cwnd - sk.in_flight, max_segs)
        if segs <= 0 or sk.retrans_out >= sk.lost_out:
            break
        if sk.pacing_status and not pacing_test(sk, now):
            break
        sacked = skb.sacked
        if not sacked & LOST or sacked & (SACKED_ACKED | SACKED_RETRANS):
            continue
        if sk.wmem_alloc and not small_queue_test(sk, skb, 1):
            break
        if retransmit_skb(sk, skb, segs, now) != SENT:
            break
        name = "TcpExtTCPSlowStartRetrans" if sk.ca_state == CA_LOSS else "TcpExtTCPFastRetrans"
        sk.net.mib.values[name] += skb.pcount
        if in_cwnd_reduction(sk):
            sk.prr_out += skb.pcount
        if skb is head and sk.pending != PENDING_REO:
            rearm = True
    if rearm:
        reset_xmit_timer(sk, PENDING_RETRANS, now + rto_ns(sk) + pacing_delay(sk, now))


def tsq_write(sk: TcpSock, now: int) -> None:
    """The device has let go of packets that something waited for, or it is time for the
    next paced burst (`tcp_tsq_write`)."""
    sk.tsq_throttled = False
    if sk.state in (ESTABLISHED, FIN_WAIT1, CLOSING, CLOSE_WAIT, LAST_ACK):
        if sk.lost_out > sk.retrans_out and sk.cc.snd_cwnd > sk.in_flight:
            xmit_retransmit_queue(sk, now)
        push_pending_frames(sk, now)
