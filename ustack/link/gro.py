"""Receive offload in software: consecutive TCP segments of one flow become one frame.

Problem: without offloads every 1448 bytes come as a frame of their own, and most of what
a frame costs above (lookup, TCP input, an ACK) is the same for 1 KiB and for 60 KiB.

Structure: `merge` goes once over the frames of one batch. For each flow at most one
segment is held open, at the place in the output where its first frame stood; a segment
that continues it exactly is added, anything else of that flow closes it. Nothing is held
over the end of the batch, so merging never delays a packet.

A segment is added when all of this holds (Linux: `inet_gro_receive`, `tcp_gro_receive`):
its IPv4 header has no options and is no fragment, its IPv6 header has no extensions, and
TOS, TTL and DF equal the first one's; ports, ack, window, flags but PSH and FIN, and TCP
options are equal; its sequence number is the next; it carries data, at most as much as
the first segment; the whole stays within an IP packet. It is the last one to be added if
it is shorter than the first or has PSH or FIN. SYN, RST and URG are never merged. Unlike
the kernel the IPv4 id is not looked at, and CWR ends a merge too.

Checksums, of IPv4 and of TCP, are verified before a segment is merged, so that the merged
frame can vouch for them; a wrong one passes as it came and is counted where it is
verified again. A merged frame's TCP checksum field is stale; `link.gso.split_frame` makes
the original segments of it again, but for their IPv4 ids.

Limits: order is kept within a flow, not between flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from ustack.link.gso import word_sum
from ustack.wire.packet import Buffer, Frame

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ENDS = FIN | PSH
_MAX_IP = 65535

_IP4 = Struct(">HHHHBB")  # version and TOS, length, id, fragment, TTL, protocol
_TCP = Struct(">IIHH")  # seq, ack, offset and flags, window
_H = Struct(">H")


class _Held:
    """A merge in progress: the first frame, and the payloads behind it."""

    __slots__ = (
        "ack", "bits", "data", "end", "frame", "ip_bits", "l4", "next_seq", "options", "parts",
        "size", "total", "window",
    )  # fmt: skip

    def __init__(
        self, frame: Frame, l4: int, data: int, end: int, ip_bits: object,
        seq: int, ack: int, bits: int, window: int,
    ) -> None:  # fmt: skip
        self.frame = frame
        self.l4 = l4
        self.data = data
        self.end = end
        self.ip_bits = ip_bits
        self.ack = ack
        self.bits = bits
        self.window = window
        self.options = frame.buf[l4 + 20 : data]
        self.size = self.total = end - data
        self.next_seq = (seq + self.size) & 0xFFFFFFFF
        self.parts: list[Buffer] = []


def _verified(frame: Frame, l4: int, end: int, addresses: bytes) -> bool:
    """Whether the TCP checksum holds (a sum of 0 modulo 65535 is the 0xFFFF it must be,
    since the header is not all zeros)."""
    if frame.csum_ok:
        return True
    segment = word_sum(frame.buf[l4:end])
    return not (segment + int.from_bytes(addresses, "big") + 6 + end - l4) % 65535


def _finish(held: _Held) -> Frame:
    """The merged frame: the first one's headers over all the data."""
    frame = held.frame
    if not held.parts:
        return frame
    buf, off, l4 = frame.buf, frame.off, held.l4
    length = held.data - off + held.total
    if buf[off] >> 4 == 4:
        ip = buf[off : off + 2] + _H.pack(length) + buf[off + 4 : off + 10] + b"\0\0"
        ip += buf[off + 12 : l4]
        ip = ip[:10] + _H.pack(-int.from_bytes(ip, "big") % 65535) + ip[12:]
    else:
        ip = buf[off : off + 4] + _H.pack(length - 40) + buf[off + 6 : l4]
    tcp = buf[l4 : l4 + 12] + _H.pack(held.bits) + buf[l4 + 14 : held.end]
    return Frame(b"".join((ip, tcp, *held.parts)), 0, held.size, True)


class _Merger:
    """The flows of one batch."""

    __slots__ = ("flows", "out")

    def __init__(self) -> None:
        self.out: list[Frame | _Held] = []
        self.flows: dict[bytes, _Held] = {}

    def feed(self, frame: Frame) -> None:
        """Look at the IP header: find the flow and where TCP begins."""
        buf, off = frame.buf, frame.off
        room = len(buf) - off
        if room >= 40 and buf[off] == 0x45:
            tos, length, _, fragment, ttl, proto = _IP4.unpack_from(buf, off)
            if proto == 6 and 40 <= length <= room and not fragment & 0x3FFF:
                l4 = off + 20
                if not int.from_bytes(buf[off:l4], "big") % 65535:
                    addresses = buf[off + 12 : l4]
                    self._segment(frame, l4, off + length, addresses, (tos, fragment, ttl))
                    return
        elif room >= 60 and buf[off] >> 4 == 6 and buf[off + 6] == 6:
            length = 40 + _H.unpack_from(buf, off + 4)[0]
            if 60 <= length <= room:
                ip_bits = buf[off : off + 4] + buf[off + 7 : off + 8]
                self._segment(frame, off + 40, off + length, buf[off + 8 : off + 40], ip_bits)
                return
        self.out.append(frame)

    def _segment(self, frame: Frame, l4: int, end: int, addresses: bytes, ip_bits: object) -> None:
        """Add a TCP segment to its flow's, or let it stand alone."""
        buf = frame.buf
        key = addresses + buf[l4 : l4 + 4]
        seq, ack, bits, window = _TCP.unpack_from(buf, l4 + 4)
        data = l4 + (bits >> 12) * 4
        size = end - data
        held = self.flows.get(key)
        mergeable = (
            size > 0 and bits & 0xFFF & ~_ENDS == ACK and data >= l4 + 20 and not frame.gso_size
        )
        if not mergeable or not _verified(frame, l4, end, addresses):
            if held is not None:
                del self.flows[key]
            self.out.append(frame)
            return
        if (
            held is not None
            and seq == held.next_seq
            and ack == held.ack
            and window == held.window
            and size <= held.size
            and held.data - held.frame.off + held.total + size <= _MAX_IP
            and ip_bits == held.ip_bits
            and buf[l4 + 20 : data] == held.options
        ):
            held.parts.append(memoryview(buf)[data:end])
            held.total += size
            held.next_seq = (seq + size) & 0xFFFFFFFF
            held.bits |= bits
            if size < held.size or bits & _ENDS:
                del self.flows[key]
            return
        if not frame.csum_ok:
            frame = Frame(buf, frame.off, 0, True)
        held = _Held(frame, l4, data, end, ip_bits, seq, ack, bits, window)
        self.out.append(held)
        if bits & _ENDS:
            self.flows.pop(key, None)
        else:
            self.flows[key] = held


def merge(frames: Sequence[Frame]) -> list[Frame]:
    """The frames of one batch with consecutive segments merged. A frame whose checksum
    was verified on the way comes back with `csum_ok`."""
    if len(frames) < 2:
        return list(frames)
    merger = _Merger()
    feed = merger.feed
    for frame in frames:
        feed(frame)
    return [_finish(item) if type(item) is _Held else item for item in merger.out]  # type: ignore[misc]
