"""The loopback device: what a host sends to itself."""

from __future__ import annotations

from ustack.link.gso import UDP_CSUM_OFFSET, finish
from ustack.sock.dst import SoftDevice
from ustack.sock.truesize import segmented_truesize
from ustack.wire.packet import F_ALL, TAKEN, Frame, Packet

LOOPBACK_MTU = 65536
_MAX_MERGED = 65536 - 14 - 1  # to Linux it is an Ethernet, whose header counts
_TCP_CSUM = 16  # where TCP's checksum is, which reckons what it has received by itself


def loop_frame(packet: Packet) -> Frame:
    """`packet` as the receiver in the same process sees it.

    Its checksum need not be completed nor its segments be cut: no wire lies between.
    The payload is copied, so that the sender may release its buffers on the ACK.
    """
    buf = b"".join((packet.header, *packet.payload))
    charge = packet.charge if packet.csum_offset != _TCP_CSUM else 0
    return Frame(buf, 0, packet.gso_size, True, charge)


class Loopback(SoftDevice):
    """`lo` (Linux: `drivers/net/loopback.c`). Never drops and never charges the sender."""

    def __init__(self, name: str = "lo", mtu: int = LOOPBACK_MTU) -> None:
        super().__init__(name, mtu, F_ALL)
        self.loopback = True
        self._queue: list[Frame] = []

    def xmit(self, packet: Packet) -> int:
        frame = loop_frame(packet)
        if len(frame.buf) > _MAX_MERGED and packet.gso_size:
            if packet.csum_offset == UDP_CSUM_OFFSET:
                return self._xmit_cut(packet)
        self.tx_packets += 1
        self.tx_bytes += len(frame.buf)
        self._queue.append(frame)
        self.pending = True
        return TAKEN

    def _xmit_cut(self, packet: Packet) -> int:
        """Datagrams too long to be kept together (Linux: `gso_features_check`)."""
        for piece in finish(packet):
            buf = b"".join((piece.header, *piece.payload))
            self.tx_packets += 1
            self.tx_bytes += len(buf)
            self._queue.append(Frame(buf, 0, 0, True, segmented_truesize(piece.payload_len)))
        self.pending = True
        return TAKEN

    def drain(self) -> list[Frame]:
        frames, self._queue = self._queue, []
        self.pending = False
        return frames
