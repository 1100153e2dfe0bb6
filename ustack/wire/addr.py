"""Addresses as text and as network-order bytes (4 or 16: the length is the family)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

ANY4, ANY6 = bytes(4), bytes(16)
BROADCAST = b"\xff\xff\xff\xff"
LOOPBACK4, LOOPBACK6 = b"\x7f\0\0\1", bytes(15) + b"\1"
MAPPED = bytes(10) + b"\xff\xff"  # the prefix of IPv4-mapped IPv6 addresses


def parse_addr(text: str) -> bytes:
    """The bytes of an IPv4 or IPv6 address without a zone; ValueError if it is none."""
    if "%" in text:
        raise ValueError(f"{text!r}: an address with a zone is not supported here")
    return ip_address(text).packed


def format_addr(addr: bytes) -> str:
    """The address as inet_ntop(3) prints it."""
    if len(addr) == 4:
        return str(IPv4Address(addr))
    tail = ".".join(map(str, addr[12:]))
    if addr.startswith(MAPPED):
        return "::ffff:" + tail
    if addr.startswith(bytes(12)) and any(addr[12:14]):
        return "::" + tail
    return str(IPv6Address(addr))


def parse_cidr(text: str) -> tuple[bytes, int]:
    """ "10.9.0.2/24" as (address bytes, prefix length); host bits are kept.

    Without a slash the prefix is the whole address. ValueError if it is no CIDR.
    """
    host, slash, length = text.partition("/")
    addr = parse_addr(host)
    if not slash:
        return addr, len(addr) * 8
    if not (length.isascii() and length.isdigit() and int(length) <= len(addr) * 8):
        raise ValueError(f"{text!r}: the prefix length must be 0 to {len(addr) * 8}")
    return addr, int(length)


def format_cidr(addr: bytes, prefix_len: int) -> str:
    return f"{format_addr(addr)}/{prefix_len}"


def prefix_match(addr: bytes, prefix: bytes, prefix_len: int) -> bool:
    """True if `addr` is of the family of `prefix` and agrees in the first bits."""
    bits = len(prefix) * 8
    if len(addr) * 8 != bits:
        return False
    differing = int.from_bytes(addr, "big") ^ int.from_bytes(prefix, "big")
    return differing >> bits - prefix_len == 0


def network(addr: bytes, prefix_len: int) -> bytes:
    """`addr` with its host bits cleared."""
    host_bits = len(addr) * 8 - prefix_len
    return (int.from_bytes(addr, "big") >> host_bits << host_bits).to_bytes(len(addr), "big")


def is_loopback(addr: bytes) -> bool:
    return addr[0] == 127 if len(addr) == 4 else addr == LOOPBACK6


def is_multicast(addr: bytes) -> bool:
    return addr[0] & 0xF0 == 0xE0 if len(addr) == 4 else addr[:1] == b"\xff"


def is_broadcast(addr: bytes) -> bool:
    """The limited broadcast address."""
    return addr == BROADCAST


def is_unspecified(addr: bytes) -> bool:
    return addr in (ANY4, ANY6)


def is_linklocal(addr: bytes) -> bool:
    if len(addr) == 4:
        return addr[0] == 169 and addr[1] == 254
    return addr[:1] == b"\xfe" and addr[1] & 0xC0 == 0x80
