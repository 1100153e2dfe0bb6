"""ICMP for IPv4 (RFC 792, 1191): the messages that a host sends and understands.

Every message is an 8-byte header, whose last four bytes depend on the type, and data.
Errors quote the packet that they are about; `parse_quote` reads such a quotation.
"""

from __future__ import annotations

from struct import Struct

from ustack.wire.checksum import checksum
from ustack.wire.packet import Buffer

HEADER = Struct("!BBHL")  # type, code, checksum, rest
HEADER_LEN = 8

ECHO_REPLY, DEST_UNREACH, SOURCE_QUENCH, REDIRECT, ECHO = 0, 3, 4, 5, 8
TIME_EXCEEDED, PARAM_PROBLEM, TIMESTAMP, TIMESTAMP_REPLY = 11, 12, 13, 14
MAX_TYPE = 18
MAX_UNREACH_CODE = 15

NET_UNREACH, HOST_UNREACH, PROT_UNREACH, PORT_UNREACH, FRAG_NEEDED = 0, 1, 2, 3, 4
EXC_TTL, EXC_FRAGTIME = 0, 1


def build(kind: int, code: int, rest: int, data: Buffer = b"") -> bytes:
    """A whole message, checksum included."""
    csum = checksum(b"".join((HEADER.pack(kind, code, 0, rest), data)))
    return b"".join((HEADER.pack(kind, code, csum, rest), data))


def echo(ident: int, seq: int, data: Buffer) -> bytes:
    """An echo request."""
    return build(ECHO, 0, ident << 16 | seq, data)


def echo_reply(rest: int, data: Buffer) -> bytes:
    """The answer to a request: its last header word (id and sequence) and its data."""
    return build(ECHO_REPLY, 0, rest, data)


def timestamp_reply(rest: int, originated: Buffer, received_ms: int) -> bytes:
    """The answer to a timestamp request: its times in ms since midnight UT, ours twice."""
    ours = received_ms.to_bytes(4, "big")
    return build(TIMESTAMP_REPLY, 0, rest, b"".join((originated, ours, ours)))


def dest_unreach(code: int, quote: Buffer) -> bytes:
    """Destination unreachable, but for FRAG_NEEDED."""
    return build(DEST_UNREACH, code, 0, quote)


def frag_needed(mtu: int, quote: Buffer) -> bytes:
    """Fragmentation needed and DF set, with the next hop's MTU (RFC 1191)."""
    return build(DEST_UNREACH, FRAG_NEEDED, mtu, quote)


def time_exceeded(code: int, quote: Buffer) -> bytes:
    return build(TIME_EXCEEDED, code, 0, quote)


def param_problem(pointer: int, quote: Buffer) -> bytes:
    """`pointer` is the offset of the offending byte in the quoted packet."""
    return build(PARAM_PROBLEM, 0, pointer << 24, quote)


class Quote:
    """The packet that an error is about, as far as it was quoted.

    `buf[l4:end]` is its transport header, at least 8 bytes of it; `src` is us.
    """

    __slots__ = ("dst", "end", "l3", "l4", "proto", "src")

    def __init__(self, src: bytes, dst: bytes, proto: int, l3: int, l4: int, end: int) -> None:
        self.src = src
        self.dst = dst
        self.proto = proto
        self.l3 = l3
        self.l4 = l4
        self.end = end


def parse_quote(buf: Buffer, start: int, end: int) -> Quote | None:
    """The IPv4 packet quoted in `buf[start:end]`; None if it is cut too short to tell
    whose it was, or is no packet."""
    if end - start < 20 or buf[start] >> 4 != 4:
        return None
    l4 = start + (buf[start] & 15) * 4
    if l4 < start + 20 or l4 + 8 > end:
        return None
    src, dst = bytes(buf[start + 12 : start + 16]), bytes(buf[start + 16 : start + 20])
    return Quote(src, dst, buf[start + 9], start, l4, end)
