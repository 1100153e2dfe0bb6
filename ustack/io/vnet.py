"""The virtio network header: what is left to do to a packet, in 10 bytes before it.

With IFF_VNET_HDR every read from and write to a TUN begins with `struct
virtio_net_hdr`. Inbound it says that the transport checksum is vouched for (or still
partial: the packet never left this machine) and that the packet is several segments
merged; outbound it asks the kernel to complete the checksum and to cut the segments.

The fields are in host byte order, which is the TUN's default (TUNSETVNETLE unset).
Sources: virtio 1.2 section 5.1.6; Linux `virtio_net_hdr_to_skb`.
"""

from __future__ import annotations

from struct import Struct

from ustack.wire.packet import Frame, Packet

HDR_LEN = 10

NEEDS_CSUM, DATA_VALID = 1, 2
_VOUCHED = NEEDS_CSUM | DATA_VALID

GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80
# gso_type, whose ECN bit says only that a TCP burst carries CWR
_GSO_TYPES = frozenset([GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN, GSO_TCPV6 | GSO_ECN])
_UDP_CSUM_OFFSET = 6  # in the UDP header; TCP's is 16

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_HDR = Struct("=BBHHHH")
_pack = _HDR.pack
_unpack_rx = Struct("=BB2xH4x").unpack_from  # what a receiver needs

NO_OFFLOAD = bytes(HDR_LEN)
_MIN_FRAME = HDR_LEN + 20


def decode(buf: bytes) -> Frame | None:
    """The frame in one read, or None if its header is bad (SKB_DROP_REASON_DEV_HDR)."""
    if len(buf) < _MIN_FRAME:
        return None
    flags, gso_type, gso_size = _unpack_rx(buf)
    if gso_type:
        if gso_type not in _GSO_TYPES or not gso_size:
            return None
        return Frame(buf, HDR_LEN, gso_size, flags & _VOUCHED != 0)
    return Frame(buf, HDR_LEN, 0, flags & _VOUCHED != 0)


def encode(packet: Packet) -> bytes:
    """The header for an outbound packet."""
    start = packet.csum_start
    if not start:
        return NO_OFFLOAD
    offset = packet.csum_offset
    gso_size = packet.gso_size
    if not gso_size or packet.payload_len <= gso_size:
        return _pack(NEEDS_CSUM, GSO_NONE, 0, 0, start, offset)
    header = packet.header
    if offset == _UDP_CSUM_OFFSET:
        gso_type = GSO_UDP_L4
    else:
        gso_type = GSO_TCPV4 if header[0] >> 4 == 4 else GSO_TCPV6
    return _pack(NEEDS_CSUM, gso_type, len(header), gso_size, start, offset)
