"""From an entry of a queue, or from nothing at all, to a packet on the wire.

There are two ways out of a connection. Data (and SYN and FIN, which occupy sequence
space) leave through `transmit_skb`, from the write queue the first time and from the
retransmit queue afterwards. Everything else is built on the spot and never queued: pure
ACKs, resets, window and keepalive probes.

Whatever goes out on an established connection acknowledges: it carries rcv_nxt and the
current window, takes pending SACK blocks along, and cancels a delayed ACK. The checksum
field is left holding the pseudo-header sum; the device completes it, and cuts packets
with a `gso_size`.

Sources: RFC 9293 section 3.1, Linux `__tcp_transmit_skb`; rules A-22, A-35, A-60.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from ustack.sock.deadlines import NEVER
from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp import txstamp
from ustack.tcp.congestion.base import EVENT_TX_START
from ustack.tcp.mss import advertise_mss
from ustack.tcp.pacing import gap_after
from ustack.tcp.rcvbuf import select_window
from ustack.tcp.skb import Skb
from ustack.tcp.sock import (
    ACK_SCHED,
    MS,
    T_COMPRESSED_ACK,
    T_DELACK,
    TCP_ATO_MIN,
    TcpSock,
)
from ustack.wire.packet import DROPPED, QUEUED, Buffer
from ustack.wire.seq import MASK
from ustack.wire.tcp import ACK, PSH, RST, SYN, URG, data_options, syn_options

_PLAIN = Struct("!HHLLHHHH")  # ports, seq, ack, offset and flags, window, checksum, urgent
_WITH_TS = Struct("!HHLLHHHHLLL")  # ... and NOP NOP timestamps
_TS_ALIGNED = 0x0101080A

MAX_SACK_BLOCKS = 4


def tcp_time_stamp(sk: TcpSock, now: int) -> int:
    """TSval: a millisecond clock with an offset of the connection's own (rule C-14)."""
    return (now // MS + sk.tsoffset) & MASK


def acceptable_seq(sk: TcpSock) -> int:
    """Sequence number for packets without data (rule A-52, `tcp_acceptable_seq`): snd_nxt,
    unless the peer has shrunk its window below it by more than a scale unit."""
    end = sk.wnd_end
    if end >= sk.snd_nxt or (sk.wscale_ok and sk.snd_nxt - end < (1 << sk.rcv_wscale)):
        return sk.snd_nxt
    return end


def transmit(
    sk: TcpSock,
    seq: int,
    flags: int,
    now: int,
    payload: Sequence[Buffer] = (),
    length: int = 0,
    gso_size: int = 0,
) -> int:
    """Send one packet of a synchronised connection; the device's verdict."""
    win = select_window(sk)
    urg = 0
    if sk.snd_up != sk.snd_una:
        urg = _urgent_pointer(sk, seq)
        if urg:
            flags |= URG
    ack = sk.rcv_nxt & MASK
    if sk.sacks.eff_sacks:
        header = _header_with_sacks(sk, seq, flags, win, urg, length, now)
    elif sk.tstamp_ok:
        header = _WITH_TS.pack(
            sk.sport, sk.dport, seq & MASK, ack, 0x8000 | flags, win,
            (sk.csum_base + 32 + length) % 65535, urg,
            _TS_ALIGNED, (now // MS + sk.tsoffset) & MASK, sk.ts_recent,
        )  # fmt: skip
    else:
        header = _PLAIN.pack(
            sk.sport, sk.dport, seq & MASK, ack, 0x5000 | flags, win,
            (sk.csum_base + 20 + length) % 65535, urg,
        )  # fmt: skip
    event_ack_sent(sk)
    sk.segs_out += 1
    charge = length + TX_OVERHEAD if length else 0
    return sk.net.queue_xmit(sk, header, payload, length, gso_size, charge, now)


def _urgent_pointer(sk: TcpSock, seq: int) -> int:
    """Offset of the end of urgent data from `seq`, 0 outside urgent mode (rule A-60)."""
    if sk.snd_una == sk.snd_up or not seq < sk.snd_up:
        return 0
    if sk.snd_up < seq + 0x10000:
        return sk.snd_up - seq
    return 0xFFFF if seq + 0xFFFF > sk.snd_nxt else 0  # out of reach: "further on"


def _header_with_sacks(
    sk: TcpSock, seq: int, flags: int, win: int, urg: int, length: int, now: int
) -> bytes:
    """The header of a packet that reports out-of-order data."""
    ts = ((now // MS + sk.tsoffset) & MASK, sk.ts_recent) if sk.tstamp_ok else None
    blocks = sk.sacks.blocks(MAX_SACK_BLOCKS - 1 if ts else MAX_SACK_BLOCKS)
    options = data_options(ts, [(left & MASK, right & MASK) for left, right in blocks])
    size = 20 + len(options)
    csum = (sk.csum_base + size + length) % 65535
    offset = size << 10  # header length in words, in the top four bits
    return (
        _PLAIN.pack(
            sk.sport, sk.dport, seq & MASK, sk.rcv_nxt & MASK, offset | flags, win, csum, urg
        )
        + options
    )


def event_ack_sent(sk: TcpSock) -> None:
    """Every packet out carries the ACK that was owed (`tcp_event_ack_sent`)."""
    if sk.compressed_ack:
        sk.net.mib.inc("TcpExtTCPAckCompressed", sk.compressed_ack)
        sk.compressed_ack = 0
        sk.disarm(T_COMPRESSED_ACK)
    if sk.sacks.eff_sacks:
        sk.sacks.dsack_sent()
    if sk.ack_pending:
        if sk.quick and sk.ack_pending & ACK_SCHED:
            dec_quickack_mode(sk)
        sk.ack_pending = 0
        sk.timers[T_DELACK] = NEVER


def dec_quickack_mode(sk: TcpSock) -> None:
    """One quick ACK used (`tcp_dec_quickack_mode`)."""
    if sk.quick:
        sk.quick = max(sk.quick - 1, 0)
        if sk.quick == 0:
            sk.ato = TCP_ATO_MIN


def transmit_skb(sk: TcpSock, skb: Skb, now: int) -> int:
    """Send a queue entry, for the first time or again; the device's verdict.

    On DROPPED the caller leaves the entry where it is: the kernel's local drop.
    """
    stamped = sk.notify is not None and txstamp.leaves(sk, skb)
    if skb.flags & SYN:
        verdict = _transmit_syn(sk, skb, now)
    elif skb.pcount > 1:  # PSH ends the burst, not the entry, should it go again (rule A-22)
        verdict = transmit(sk, skb.seq, skb.flags | PSH, now, skb.parts, skb.len, skb.gso_size)
    else:
        verdict = transmit(sk, skb.seq, skb.flags, now, skb.parts, skb.len, 0)
    if verdict == DROPPED:
        if stamped:
            txstamp.left(sk, skb, DROPPED, now)
        return verdict
    if verdict == QUEUED and skb.len:
        sk.tx_charged += skb.len + TX_OVERHEAD
        skb.tx_mark = sk.tx_charged
    if stamped:
        txstamp.left(sk, skb, verdict, now)
    if not sk.packets_out:
        sk.first_tx = sk.delivered_at = now
    # snapshot for the delivery rate sample (rule D-49, `tcp_rate_skb_sent`)
    skb.first_tx = sk.first_tx
    skb.tx_delivered_at = sk.delivered_at
    skb.tx_delivered = sk.delivered
    skb.is_app_limited = sk.app_limited != 0
    # strictly increasing, for RACK: a batch of ACKs is processed at one time, and what the
    # first let go was sent before what the second did
    sent_at = sk.last_tx + 1
    skb.tx_time = sk.last_tx = now if now > sent_at else sent_at
    pcount = skb.pcount
    if skb.end_seq > sk.snd_nxt:
        sk.net.mib.values["TcpOutSegs"] += pcount  # what goes again is in RetransSegs
    if skb.len:
        _event_data_sent(sk, now)
        sk.data_segs_out += pcount
        sk.bytes_sent += skb.len
    if pcount > 1:
        sk.segs_out += pcount - 1
    if sk.pacing_status:
        _pace(sk, skb, now)
    return verdict


def _pace(sk: TcpSock, skb: Skb, now: int) -> None:
    """When may the next one go? (rule D-50, `tcp_update_skb_after_send`)"""
    start = now
    if sk.wstamp > now:  # a timeout or a probe does not wait
        start = sk.wstamp
        skb.tx_time = sk.last_tx = max(skb.tx_time, start)
    credit = start - sk.wstamp
    sk.wstamp = start + gap_after(skb.len, sk.pacing_rate, credit, sk.data_segs_out)


def _event_data_sent(sk: TcpSock, now: int) -> None:
    """Interactive traffic is recognised by replies within an ATO (rule B-56)."""
    if not sk.packets_out or not sk.in_flight:
        sk.cc.cwnd_event(EVENT_TX_START, now, now - sk.lsndtime if sk.lsndtime else 0)
    sk.lsndtime = now
    if now - sk.lrcvtime < sk.ato and sk.pingpong < 255:
        sk.pingpong += 1


def _transmit_syn(sk: TcpSock, skb: Skb, now: int) -> int:
    """SYN, or the SYN-ACK of a simultaneous open, which offers the same whatever the peer
    has offered (rule C-16): options, unscaled window."""
    is_ack = bool(skb.flags & ACK)
    sysctl = sk.net.sysctl
    ts = (tcp_time_stamp(sk, now), sk.ts_recent) if sysctl.tcp_timestamps else None
    wscale = sk.rcv_wscale if sysctl.tcp_window_scaling else None
    options = syn_options(advertised_mss(sk, now), wscale, sysctl.tcp_sack, ts)
    size = 20 + len(options)
    header = _PLAIN.pack(
        sk.sport, sk.dport, skb.seq & MASK, sk.rcv_nxt & MASK if is_ack else 0,
        size << 10 | skb.flags, min(sk.rcv_wnd, 65535), (sk.csum_base + size) % 65535, 0,
    )  # fmt: skip
    if is_ack:
        sk.rcv_wup = sk.rcv_nxt
        event_ack_sent(sk)
    sk.segs_out += 1
    return sk.net.queue_xmit(sk, header + options, (), 0, 0, 0, now)


def advertised_mss(sk: TcpSock, now: int) -> int:
    """The MSS that our SYN offers: what the path is known to carry (rule A-41)."""
    dst = sk.dst
    assert dst is not None  # routed before anything is sent
    return advertise_mss(dst.mtu(now), dst.version == 6, sk.user_mss, sk.net.sysctl.min_adv_mss)


def send_ack(sk: TcpSock, now: int) -> None:
    """Acknowledge now (`tcp_send_ack`)."""
    transmit(sk, acceptable_seq(sk), ACK, now)
    if now > sk.last_tx:
        sk.last_tx = now  # a burst that follows may wait for another ACK (rule A-32)
    sk.net.mib.values["TcpOutSegs"] += 1
    if sk.pacing_status and sk.wstamp < now:
        sk.wstamp = now


def send_active_reset(sk: TcpSock, now: int) -> None:
    """RST|ACK for a connection that we give up (rule C-22, `tcp_send_active_reset`)."""
    if sk.dst is None:
        return
    transmit(sk, acceptable_seq(sk), RST | ACK, now)
    sk.net.mib.inc("TcpOutRsts")


def send_probe_ack(sk: TcpSock, urgent: bool, now: int) -> None:
    """A segment the peer must answer: an empty ACK one byte before snd_una, or at snd_una
    with urgent data pending (rule A-50, `tcp_xmit_probe_skb`)."""
    transmit(sk, sk.snd_una - (0 if urgent else 1), ACK, now)
    sk.net.mib.values["TcpOutSegs"] += 1
