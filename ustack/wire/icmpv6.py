"""ICMPv6 (RFC 4443): the messages that a host sends and understands.

As ICMP for IPv4, but for the numbers, and the checksum covers a pseudo header.
"""

from __future__ import annotations

from ustack.wire.checksum import fold, partial_sum, pseudo_sum
from ustack.wire.icmp import HEADER, HEADER_LEN, Quote
from ustack.wire.ipv6 import skip_exthdr
from ustack.wire.packet import IPPROTO_ICMPV6, Buffer

DEST_UNREACH, PACKET_TOO_BIG, TIME_EXCEEDED, PARAM_PROBLEM = 1, 2, 3, 4
ECHO, ECHO_REPLY = 128, 129
INFO_MASK = 0x80  # set in the type of every message that is no error

NOROUTE, ADM_PROHIBITED, NOT_NEIGHBOUR, ADDR_UNREACH, PORT_UNREACH = 0, 1, 2, 3, 4
EXC_HOPLIMIT, EXC_FRAGTIME = 0, 1
HDR_FIELD, UNK_NEXTHDR, UNK_OPTION, HDR_INCOMP = 0, 1, 2, 3


def build(src: bytes, dst: bytes, kind: int, code: int, rest: int, data: Buffer = b"") -> bytes:
    """A whole message from `src` to `dst`, checksum included."""
    header = HEADER.pack(kind, code, 0, rest)
    pseudo = pseudo_sum(src, dst, IPPROTO_ICMPV6, HEADER_LEN + len(data))
    csum = 0xFFFF ^ fold(pseudo + partial_sum(header, data))
    return b"".join((HEADER.pack(kind, code, csum, rest), data))


def echo(src: bytes, dst: bytes, ident: int, seq: int, data: Buffer) -> bytes:
    """An echo request."""
    return build(src, dst, ECHO, 0, ident << 16 | seq, data)


def echo_reply(src: bytes, dst: bytes, rest: int, data: Buffer) -> bytes:
    """The answer to a request: its last header word (id and sequence) and its data."""
    return build(src, dst, ECHO_REPLY, 0, rest, data)


def dest_unreach(src: bytes, dst: bytes, code: int, quote: Buffer) -> bytes:
    return build(src, dst, DEST_UNREACH, code, 0, quote)


def packet_too_big(src: bytes, dst: bytes, mtu: int, quote: Buffer) -> bytes:
    return build(src, dst, PACKET_TOO_BIG, 0, mtu, quote)


def time_exceeded(src: bytes, dst: bytes, code: int, quote: Buffer) -> bytes:
    return build(src, dst, TIME_EXCEEDED, code, 0, quote)


def param_problem(src: bytes, dst: bytes, code: int, pointer: int, quote: Buffer) -> bytes:
    """`pointer` is the offset of the offending byte in the quoted packet."""
    return build(src, dst, PARAM_PROBLEM, code, pointer, quote)


def parse_quote(buf: Buffer, start: int, end: int) -> Quote | None:
    """The IPv6 packet quoted in `buf[start:end]`; None if it is cut too short to tell
    whose it was, is a later fragment, or is no packet."""
    if end - start < 40 or buf[start] >> 4 != 6:
        return None
    upper = skip_exthdr(buf, start + 40, end, buf[start + 6])
    if upper is None or upper[2] or upper[1] + 8 > end:
        return None
    src, dst = bytes(buf[start + 8 : start + 24]), bytes(buf[start + 24 : start + 40])
    return Quote(src, dst, upper[0], start, upper[1], end)
