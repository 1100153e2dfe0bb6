"""Capture files in pcapng, readable by Wireshark, tcpdump and dpkt.

Problem: a capture must show what a wire would have carried. Inside, packets are
super-segments with open checksums; so every tap first finishes what it is given
(`link.gso`), in both directions, and only then writes it.

Structure: `PcapngWriter` writes blocks to a file object; `CaptureDevice` sits in front of
a device and records what is sent; `Tap` is the writer with a clock, which records frames
as they come in. A file has one section with one interface a device: link type RAW (the
packet starts at its IP header), timestamps in ns of the wall clock, and the direction of
each packet in `epb_flags`.

Invariants: the recorder never changes, delays or drops what passes. Everything that is
written is a function of the arguments: the same packets give the same bytes.

Sources: draft-ietf-opsawg-pcapng sections 4.1 (section header), 4.2 (interface
description, if_tsresol), 4.3 (enhanced packet, epb_flags).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import BinaryIO

from ustack.link.gso import finish, split_frame
from ustack.sock.dst import Device
from ustack.wire.packet import Buffer, Frame, Packet

LINKTYPE_RAW = 101
INBOUND, OUTBOUND = 1, 2  # epb_flags, direction bits

_SHB = Struct("<IHHq")  # byte order, version, section length unknown
_IDB = Struct("<HHI")  # link type, reserved, snaplen
_EPB = Struct("<IIIIIII")
_OPTION = Struct("<HH")
_FLAGS = Struct("<HHIHHI")  # epb_flags, end of options, block length again
_LENGTH = Struct("<I")
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")

_OPT_IF_NAME, _OPT_IF_TSRESOL, _OPT_USERAPPL, _OPT_EPB_FLAGS = 2, 9, 4, 2


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _PAD[len(value) & 3]


def _block(kind: int, body: bytes) -> bytes:
    length = _LENGTH.pack(len(body) + 12)
    return _LENGTH.pack(kind) + length + body + length


class PcapngWriter:
    """Writes one section to `file`, which it neither flushes nor closes.

    `snaplen` 0 records whole packets. The first interface is made at construction, more
    with `add_interface`.
    """

    def __init__(self, file: BinaryIO, name: str = "ustack0", snaplen: int = 0) -> None:
        self._file = file
        self._snaplen = snaplen
        self.interfaces = 0
        self.packets = 0
        header = _SHB.pack(0x1A2B3C4D, 1, 0, -1)
        file.write(_block(0x0A0D0D0A, header + _option(_OPT_USERAPPL, b"ustack") + bytes(4)))
        self.add_interface(name)

    def add_interface(self, name: str) -> int:
        """Describe another interface; returns its number in the file."""
        body = _IDB.pack(LINKTYPE_RAW, 0, self._snaplen)
        body += _option(_OPT_IF_NAME, name.encode()) + _option(_OPT_IF_TSRESOL, b"\x09")
        self._file.write(_block(1, body + bytes(4)))
        self.interfaces += 1
        return self.interfaces - 1

    def packet(
        self,
        now_wall_ns: int,
        data_buffers: Sequence[Buffer],
        direction: int,
        interface: int = 0,
    ) -> None:
        """Write one packet, which is `data_buffers` joined."""
        data = b"".join(data_buffers)
        length = len(data)
        if 0 < self._snaplen < length:
            data = data[: self._snaplen]
        kept = len(data)
        pad = _PAD[kept & 3]
        total = 28 + kept + len(pad) + 16
        stamp = now_wall_ns & 0xFFFFFFFFFFFFFFFF
        self._file.write(
            b"".join(
                (
                    _EPB.pack(6, total, interface, stamp >> 32, stamp & 0xFFFFFFFF, kept, length),
                    data,
                    pad,
                    _FLAGS.pack(_OPT_EPB_FLAGS, 4, direction, 0, 0, total),
                )
            )
        )
        self.packets += 1


class Tap:
    """One interface of a capture with its clock: `clock()` is the wall time in ns."""

    def __init__(
        self, writer: PcapngWriter, clock: Callable[[], int], mtu: int, interface: int = 0
    ) -> None:
        self.writer = writer
        self.clock = clock
        self.mtu = mtu
        self.interface = interface

    def inbound(self, frames: Iterable[Frame]) -> None:
        """Record received frames, each cut as the wire carried it."""
        write, now, mtu = self.writer.packet, self.clock(), self.mtu
        for frame in frames:
            for part in split_frame(frame, mtu):
                data = memoryview(part.buf)[part.off :] if part.off else part.buf
                write(now, (data,), INBOUND, self.interface)

    def outbound(self, packet: Packet) -> None:
        """Record a packet that is being sent, finished."""
        write, now = self.writer.packet, self.clock()
        for part in finish(packet):
            write(now, (part.header, *part.payload), OUTBOUND, self.interface)


class CaptureDevice(Device):
    """Records what is handed to `inner`, before `inner` sees it and whatever it answers
    (as tcpdump does: `dev_queue_xmit_nit` comes before the driver)."""

    def __init__(self, inner: Device, tap: Tap) -> None:
        super().__init__(inner.name, inner.mtu, inner.features)
        self.inner = inner
        self.loopback = inner.loopback
        self.tap = tap

    def xmit(self, packet: Packet) -> int:
        self.tap.outbound(packet)
        self.tx_packets += 1
        self.tx_bytes += len(packet.header) + packet.payload_len
        return self.inner.xmit(packet)
