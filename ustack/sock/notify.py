"""Telling a program what became of what it sent: SO_TIMESTAMPING, MSG_ZEROCOPY (A-67, B-15).

A program may want to know when a datagram was queued and when it left (transmit
timestamps), and when it may use the buffer again that it sent from (MSG_ZEROCOPY). Both
come to the error queue, marked with a number that counts the calls. Nothing is sent
without a copy here, so every notice of the second kind says COPIED: it is true, and the
program's bookkeeping works.

Structure. A socket has a `TxNotify` from the first call that wants a notice; without one
the send paths pay one test. A notice waits in `waiting` for a mark: for a datagram, the
total of bytes that the devices have given back to the socket; for a stream, the sequence
number after its last byte. Datagrams of a socket leave in order, so does a stream get
acknowledged; the queue is looked at only at its head. The stamps of a stream belong to the
entries of its queues: `tcp.txstamp`.

An entry of the error queue holds the time and, without OPT_TSONLY, the packet. What a
program is told of them follows the options that are set when it reads (`sock.recv_error`).

Notices of finished calls that follow each other are one entry of the error queue with a
range of numbers, while nobody has read it.

Limits: there is no hardware to stamp. The packet is as it was handed to the device: its
checksum may still be to complete, a burst is whole (the kernel shows the SND stamp of a
device without segmentation offload with the one segment that holds the last byte).
OPT_STATS is accepted, but no statistics come.

Sources: Linux `sock_set_timestamping`, `__skb_tstamp_tx`, `__skb_complete_tx_timestamp`,
`msg_zerocopy_realloc`, `__msg_zerocopy_callback`, `skb_zerocopy_notify_extend`;
Documentation/networking/timestamping.rst, msg_zerocopy.rst.
"""

from __future__ import annotations

from collections import deque
from errno import EINVAL, ENOMSG, EOPNOTSUPP
from struct import Struct

from ustack.sock.error_queue import ORIGIN_TIMESTAMPING, ORIGIN_ZEROCOPY, Cmsg, ErrEntry, queue
from ustack.sock.errors import error
from ustack.sock.sock import F_TIMESTAMPING_NEW, Sock
from ustack.sock.truesize import TX_OVERHEAD

SO_TIMESTAMPING, SO_TIMESTAMPING_NEW = 37, 65

TX_SOFTWARE, RX_SOFTWARE, SOFTWARE = 1 << 1, 1 << 3, 1 << 4
OPT_ID, TX_SCHED, TX_ACK, OPT_CMSG, OPT_TSONLY = 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11
OPT_RX_FILTER, _TX_HARDWARE, _TX_COMPLETION = 1 << 17, 1, 1 << 18
_TX_ANY = TX_SOFTWARE | TX_SCHED | _TX_HARDWARE | _TX_COMPLETION  # what a datagram can have
TX_RECORD = _TX_ANY | TX_ACK  # what a control message may ask for
_OPT_STATS, _BIND_PHC, _OPT_ID_TCP = 1 << 12, 1 << 15, 1 << 16
_ALL = (1 << 19) - 1

# ee_info: which of the moments
SND, SCHED, ACKED = 0, 1, 2
_COPIED = 1  # ee_code
_ZEROCOPY = -1  # as a kind of notice

LOOPBACK, FRAME_HEADER_LEN = 1, 14  # the index of that device, and what `framed` adds

_SOL_SOCKET = 1
_THREE_TIMES = Struct("6q")
_SEC = 1_000_000_000


def set_timestamping(sk: Sock, flags: int) -> None:
    """SO_TIMESTAMPING (Linux: `sock_set_timestamping`)."""
    if flags & ~_ALL or (flags & _OPT_ID_TCP and not flags & OPT_ID):
        raise error(EINVAL)
    if flags & _OPT_STATS and not flags & OPT_TSONLY:
        raise error(EINVAL)
    if flags & _BIND_PHC:  # there is no hardware clock
        raise error(EOPNOTSUPP)
    if flags & OPT_ID and not sk.tsflags & OPT_ID:
        base = sk.timestamping_base(flags & _OPT_ID_TCP != 0)
        of(sk).tskey = base
    sk.tsflags = flags


def times(sk: Sock, at: int) -> Cmsg:
    """SCM_TIMESTAMPING for the time of day `at`, ns."""
    name = SO_TIMESTAMPING_NEW if sk.inet_flags & F_TIMESTAMPING_NEW else SO_TIMESTAMPING
    return _SOL_SOCKET, name, _THREE_TIMES.pack(at // _SEC, at % _SEC, 0, 0, 0, 0)


class Notice:
    """What is due when `mark` is reached: of which kind, with which number, about what packet
    (with its headers, if `iif` says to which device it went), charged with how much."""

    __slots__ = ("charge", "iif", "key", "kind", "mark", "packet")

    def __init__(
        self,
        mark: int,
        kind: int,
        key: int,
        packet: bytes = b"",
        iif: int = 0,
        charge: int = TX_OVERHEAD,
    ) -> None:
        self.mark = mark
        self.kind = kind
        self.key = key
        self.packet = packet
        self.iif = iif
        self.charge = charge


class StreamStamp:
    """Bytes of a stream up to and including number `key` are to be stamped: at the moments
    that `flags` name."""

    __slots__ = ("flags", "key")

    def __init__(self, key: int, flags: int) -> None:
        self.key = key
        self.flags = flags


class TxNotify:
    """What a socket's program is still to be told."""

    __slots__ = (
        "capture", "leaving", "packet", "released", "stamps", "tskey", "waiting", "zckey",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tskey = 0  # number of the next stamped call; for a stream, where it starts
        self.zckey = 0  # number of the next MSG_ZEROCOPY call
        self.waiting: deque[Notice] = deque()
        self.released = 0  # bytes that devices have given back in all
        # of a stream: what is to be stamped, in order, and stamps that wait for the device
        self.stamps: list[StreamStamp] = []
        self.leaving: deque[Notice] = deque()
        self.capture = False  # is the IP layer to leave the next packet in `packet`?
        self.packet = b""


def of(sk: Sock) -> TxNotify:
    """The socket's notices, made if it has none yet."""
    if sk.notify is None:
        sk.notify = TxNotify()
    return sk.notify


def number(sk: Sock, opt_id: int) -> int:
    """The number of a corked datagram, which it has from its first call on: that of a control
    message, or the next one (-1 if none is wanted)."""
    if opt_id >= 0 or not sk.tsflags & OPT_ID:
        return opt_id
    tx = of(sk)
    key = tx.tskey
    tx.tskey = key + 1 & 0xFFFFFFFF
    return key


def datagram_leaves(sk: Sock, stamps: int) -> None:
    """To be called before a datagram for which notices are wanted goes to the IP layer."""
    of(sk).capture = stamps != 0 and not sk.tsflags & OPT_TSONLY


def datagram_left(
    sk: Sock, stamps: int, opt_id: int, zerocopy: int, dropped: bool, charge: int, iif: int,
    now: int,
) -> None:  # fmt: skip
    """It is at its device `iif`, `zerocopy` calls have made it: notices for what has happened,
    and for what will. `opt_id`: its number, -1 for the next one."""
    tx = of(sk)
    packet, tx.packet = tx.packet, b""
    tx.capture = False
    key = max(opt_id, 0)
    if stamps & _TX_ANY and sk.tsflags & OPT_ID and opt_id < 0:
        key = tx.tskey
        tx.tskey = key + 1 & 0xFFFFFFFF
    if not packet:
        charge, iif = TX_OVERHEAD, 0
    if stamps & TX_SCHED:
        deliver(sk, Notice(0, SCHED, key, packet, iif, charge), now)
    mark = tx.released + sk.wmem_alloc
    if stamps & TX_SOFTWARE and not dropped:
        tx.waiting.append(Notice(mark, SND, key, packet, iif, charge))
    for _ in range(zerocopy):
        tx.waiting.append(Notice(mark, _ZEROCOPY, _zerocopy_key(tx)))
    deliver_until(sk, tx.waiting, tx.released, now)


def _zerocopy_key(tx: TxNotify) -> int:
    key = tx.zckey
    tx.zckey = key + 1 & 0xFFFFFFFF
    return key


def tx_done(sk: Sock, charge: int, now: int) -> None:
    """A device has given `charge` back to a datagram socket."""
    tx = sk.notify
    if tx is not None:
        tx.released += charge
        if tx.waiting:
            deliver_until(sk, tx.waiting, tx.released, now)


def stream_zerocopy(sk: Sock, end: int, una: int, now: int) -> None:
    """A MSG_ZEROCOPY call has put bytes up to sequence number `end` in the queue of a stream,
    of which those before `una` are acknowledged already."""
    tx = of(sk)
    tx.waiting.append(Notice(end, _ZEROCOPY, _zerocopy_key(tx)))
    deliver_until(sk, tx.waiting, una, now)


def stream_dead(sk: Sock, now: int) -> None:
    """The queues of a stream have been emptied: buffers are free, stamps will not come."""
    tx = sk.notify
    if tx is not None:
        tx.stamps.clear()
        waiting, tx.waiting = tx.waiting, deque()
        for notice in waiting:
            deliver(sk, notice, now)


def deliver_until(sk: Sock, waiting: deque[Notice], reached: int, now: int) -> None:
    """Deliver what is due now that `reached` is."""
    while waiting and waiting[0].mark <= reached:
        deliver(sk, waiting.popleft(), now)


def deliver(sk: Sock, notice: Notice, now: int) -> None:
    """Queue one notice."""
    if notice.kind == _ZEROCOPY:
        _deliver_zerocopy(sk, notice.key)
        return
    packet = framed(notice.packet) if notice.iif == LOOPBACK else notice.packet
    entry = ErrEntry(ENOMSG, ORIGIN_TIMESTAMPING, 0, 0, notice.kind, None, b"", packet, notice.key)
    entry.at, entry.iif, entry.charge = now, notice.iif, notice.charge
    queue(sk, entry)


def framed(packet: bytes) -> bytes:
    """A packet as it is on loopback, which to Linux is an Ethernet."""
    return bytes(12) + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def _deliver_zerocopy(sk: Sock, key: int) -> None:
    """Queue the notice, or make the last one's range longer."""
    entries = sk.error_queue
    last = entries[-1] if entries else None
    if (
        last is not None
        and last.origin == ORIGIN_ZEROCOPY
        and last.data + 1 & 0xFFFFFFFF == key
    ):  # fmt: skip
        last.data = key
        return
    entry = ErrEntry(0, ORIGIN_ZEROCOPY, 0, _COPIED, key, None, b"", b"", key)
    entry.charge = 0
    queue(sk, entry)
