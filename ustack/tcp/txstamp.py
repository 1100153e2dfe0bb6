"""Transmit timestamps of a stream: SO_TIMESTAMPING on TCP (rule B-15).

A stamp belongs to the queue entry that held the last byte of a call when the call ended,
and its number is that of the byte. An entry has one: calls that were gathered in one entry
share the last one's number and the moments that any of them asked for. Where entries are
cut or merged the stamp stays with its byte, so it is kept by sequence number, not in the
entry. Three moments can be told: the entry goes to the device (SCHED), has left it (SND),
both again each time it is sent, and is acknowledged (ACK).

Invariants: `TxNotify.stamps` is sorted by `key` and holds nothing below snd_una.

Sources: Linux `tcp_tx_timestamp`, `tcp_fragment_tstamp`, `tcp_skb_collapse_tstamp`,
`tcp_ack_tstamp`, `__skb_tstamp_tx`.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter

from ustack.sock import notify
from ustack.sock.notify import ACKED, OPT_ID, OPT_TSONLY, SCHED, SND, Notice, StreamStamp
from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp.skb import Skb
from ustack.tcp.sock import TcpSock
from ustack.wire.packet import DROPPED, QUEUED

_KEY = attrgetter("key")


def want(sk: TcpSock, flags: int) -> None:
    """A call ends that wants stamps; one whose bytes have all left already gets none."""
    if not sk.write_queue:
        return
    stamps = notify.of(sk).stamps
    start = sk.write_queue[-1].seq
    while stamps and stamps[-1].key >= start:
        flags |= stamps.pop().flags
    stamps.append(StreamStamp(sk.write_seq - 1, flags))


def leaves(sk: TcpSock, skb: Skb) -> bool:
    """`skb` is about to be sent: is it to be stamped?"""
    tx = notify.of(sk)
    if not tx.stamps or _within(tx.stamps, skb) is None:
        return False
    tx.capture = not sk.tsflags & OPT_TSONLY
    return True


def left(sk: TcpSock, skb: Skb, verdict: int, now: int) -> None:
    """`skb` has been sent."""
    tx = notify.of(sk)
    packet, tx.packet = tx.packet, b""
    tx.capture = False
    stamp = _within(tx.stamps, skb)
    if stamp is None or sk.dst is None:
        return
    key = _number(sk, stamp.key)
    charge = TX_OVERHEAD + (skb.len if packet else 0)
    iif = sk.dst.dev.ifindex if packet else 0
    if stamp.flags & notify.TX_SCHED:
        notify.deliver(sk, Notice(0, SCHED, key, packet, iif, charge), now)
    if stamp.flags & notify.TX_SOFTWARE and verdict != DROPPED:
        mark = sk.tx_charged if verdict == QUEUED else 0
        tx.leaving.append(Notice(mark, SND, key, packet, iif, charge))
        notify.deliver_until(sk, tx.leaving, sk.tx_charged - sk.wmem_alloc, now)


def acked(sk: TcpSock, una: int, now: int) -> None:
    """The bytes before `una` are acknowledged, their entries still in the queue."""
    tx = notify.of(sk)
    stamps = tx.stamps
    count = bisect_left(stamps, una, key=_KEY)
    told = stamps[:count]
    del stamps[:count]
    for stamp in told:
        if stamp.flags & notify.TX_ACK:
            payload = b"" if sk.tsflags & OPT_TSONLY else _payload(sk, stamp.key, una)
            charge = TX_OVERHEAD + len(payload)
            key = _number(sk, stamp.key)
            notify.deliver(sk, Notice(0, ACKED, key, payload, 0, charge), now)
    if tx.waiting:
        notify.deliver_until(sk, tx.waiting, una, now)


def _within(stamps: list[StreamStamp], skb: Skb) -> StreamStamp | None:
    """The stamp of `skb`: of several, which were merged with it, the last with all flags."""
    first = bisect_left(stamps, skb.seq, key=_KEY)
    last = bisect_left(stamps, skb.end_seq, lo=first, key=_KEY) - 1
    if last < first:
        return None
    for stamp in stamps[first:last]:
        stamps[last].flags |= stamp.flags
    del stamps[first:last]
    return stamps[first]


def is_stamped(sk: TcpSock, skb: Skb) -> bool:
    """Has `skb` a stamp?"""
    if sk.notify is None:
        return False
    stamps = sk.notify.stamps
    at = bisect_left(stamps, skb.seq, key=_KEY)
    return at < len(stamps) and stamps[at].key < skb.end_seq


def _number(sk: TcpSock, key: int) -> int:
    """What the program knows the byte by."""
    return key - notify.of(sk).tskey & 0xFFFFFFFF if sk.tsflags & OPT_ID else 0


def _payload(sk: TcpSock, key: int, una: int) -> bytes:
    """The entry that holds byte `key`, or what is unacknowledged of it."""
    skb = sk.rtx_queue.at(sk.rtx_queue.index_of(key))
    data = b"".join(skb.parts)
    return data[una - skb.seq :] if una < skb.end_seq else data
