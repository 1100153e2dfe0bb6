"""A received segment, parsed, with its numbers unwrapped for one connection."""

from __future__ import annotations

from struct import Struct

from ustack.sock.truesize import rx_truesize
from ustack.tcp.recv_queue import RxSkb, spare_room
from ustack.wire.packet import RxPacket
from ustack.wire.seq import MASK
from ustack.wire.tcp import EMPTY, FIN, TcpOptions

_HEADER = Struct("!HHLLHHHH")


class Segment:
    """One segment, or several merged into one frame (`gso_size`).

    `raw_seq` and `raw_ack` are as on the wire; `place` unwraps them against a connection
    into `seq`, `end_seq` (SYN and FIN counted) and `ack`.
    """

    __slots__ = (
        "ack",
        "data_off",
        "dport",
        "end_seq",
        "flags",
        "hdr_len",
        "len",
        "now",
        "options",
        "raw_ack",
        "raw_seq",
        "rx",
        "seq",
        "sport",
        "truesize",
        "urg",
        "window",
    )

    sport: int
    dport: int
    raw_seq: int
    raw_ack: int
    window: int
    urg: int
    hdr_len: int
    flags: int
    len: int

    def __init__(self, rx: RxPacket) -> None:
        (
            self.sport, self.dport, self.raw_seq, self.raw_ack, off_flags, self.window, _, self.urg,
        ) = _HEADER.unpack_from(rx.buf, rx.l4)  # fmt: skip
        hdr_len = off_flags >> 10 & 0x3C
        self.hdr_len = hdr_len
        self.flags = off_flags & 0xFF
        self.rx = rx
        self.now = rx.now
        self.data_off = rx.l4 + hdr_len
        self.len = rx.end - self.data_off
        self.seq = self.end_seq = self.ack = 0
        self.options: TcpOptions = EMPTY
        self.truesize = 0

    def place(self, rcv_nxt: int, snd_una: int) -> None:
        """Unwrap against a connection."""
        seq = rcv_nxt + ((self.raw_seq - rcv_nxt + 0x80000000) & MASK) - 0x80000000
        self.seq = seq
        self.end_seq = seq + self.len + (self.flags & FIN) + (self.flags >> 1 & 1)
        self.ack = snd_una + ((self.raw_ack - snd_una + 0x80000000) & MASK) - 0x80000000

    def in_window(self, start: int, end: int) -> bool:
        """Does any of it lie in [start, end)? An empty one may stand at either edge
        (`tcp_in_window`)."""
        seq = self.seq
        return (
            seq == start
            or (self.end_seq > start and seq < end)
            or (seq == end and seq == self.end_seq)
        )

    def rx_skb(self) -> RxSkb:
        """The payload as a receive-queue entry, charged as the kernel charges it."""
        rx = self.rx
        ip_len = rx.end - rx.l3
        truesize = self.truesize or self.charge()
        room = 0 if rx.gso_size else spare_room(ip_len, truesize)
        fin = self.flags & FIN != 0
        data = memoryview(rx.buf)[self.data_off : rx.end]
        skb = RxSkb(self.seq, self.end_seq, data, truesize, fin, self.now, room)
        if rx.gso_size:
            skb.segs = self.segs
        return skb

    def charge(self) -> int:
        """What the kernel charges for it (rule 0.3); noted in `truesize`."""
        rx = self.rx
        self.truesize = rx.truesize or rx_truesize(rx.end - rx.l3, rx.gso_size)
        return self.truesize

    @property
    def segs(self) -> int:
        """How many wire segments this stands for."""
        gso: int = self.rx.gso_size
        return 1 if not gso else max(-(-self.len // gso), 1)
