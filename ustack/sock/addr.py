"""Addresses inside the core: network-order bytes, 4 or 16 of them; b"" is the wildcard.

An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is kept as its 4 bytes, so that
the length alone says which protocol carries a packet; `present` gives it back its
prefix for the IPv6 socket that shows it to a program. The mapped wildcard, `ANY4` on an
IPv6 socket, is every IPv4 address and no IPv6 address.
"""

from __future__ import annotations

MAPPED_PREFIX = bytes(10) + b"\xff\xff"
ANY4 = bytes(4)
ANY6 = bytes(16)
LOOPBACK4 = b"\x7f\0\0\x01"
LOOPBACK6 = bytes(15) + b"\x01"
BROADCAST4 = b"\xff" * 4


def normalize(addr: bytes) -> bytes:
    """`addr` as the core keeps it: mapped addresses shortened, the wildcard empty."""
    if len(addr) == 16 and addr[:12] == MAPPED_PREFIX:
        return addr[12:]
    return addr if any(addr) else b""


def present(addr: bytes, v6: bool) -> bytes:
    """`addr` as a socket of that family shows it."""
    if v6:
        return MAPPED_PREFIX + addr if len(addr) == 4 else addr or ANY6
    return addr or ANY4


def is_multicast(addr: bytes) -> bool:
    """224.0.0.0/4 or ff00::/8."""
    return 224 <= addr[0] < 240 if len(addr) == 4 else len(addr) == 16 and addr[0] == 0xFF
