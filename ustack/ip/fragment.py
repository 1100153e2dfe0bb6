"""Cutting a datagram into fragments (Linux: `ip_do_fragment`, `ip6_fragment`).

Every fragment but the last carries as many bytes as fit, rounded down to 8; over IPv6 the
last does too. All share one identification. Only datagrams without options or extension
headers are cut: no other leaves this host. Reassembly is `ip.reassembly`.
"""

from __future__ import annotations

from ustack.wire import ipv4, ipv6


def fragments4(
    src: bytes, dst: bytes, proto: int, ident: int, ttl: int, tos: int, data: memoryview, mtu: int
) -> list[tuple[bytes, memoryview]]:
    """(header, payload) of each fragment; `mtu` leaves room for at least 8 bytes."""
    room = mtu - ipv4.HEADER_LEN
    pieces = []
    offset, more = 0, True
    while more:
        more = len(data) - offset > room
        piece = data[offset : offset + (room & ~7)] if more else data[offset:]
        header = ipv4.build_header(
            src, dst, proto, len(piece), ident, False, ttl, tos, more, offset
        )
        pieces.append((header, piece))
        offset += len(piece)
    return pieces


def fragments6(
    src: bytes, dst: bytes, proto: int, ident: int, hops: int, tclass: int, flow: int,
    data: memoryview, mtu: int,
) -> list[tuple[bytes, memoryview]]:  # fmt: skip
    """The same with the Fragment header of RFC 8200 4.5; `ident` has 32 bits."""
    size = (mtu - ipv6.HEADER_LEN - ipv6.FRAGMENT_LEN) & ~7
    pieces = []
    for offset in range(0, len(data), size):
        piece = data[offset : offset + size]
        field = offset | ipv6.FRAG_MORE if offset + size < len(data) else offset
        length = ipv6.FRAGMENT_LEN + len(piece)
        header = ipv6.build_header(
            src, dst, ipv6.NEXTHDR_FRAGMENT, length, hops, tclass, flow
        ) + ipv6.FRAGMENT.pack(proto, 0, field, ident)
        pieces.append((header, piece))
    return pieces
