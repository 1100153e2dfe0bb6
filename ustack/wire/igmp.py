"""IGMP (RFC 1112, 2236, 3376): the messages of a host, and what MLD has in common with it.

A message of versions 1 and 2 is eight bytes: type, code, checksum, group. A report of
version 3 is a list of records, each a kind, a group and sources; those of MLDv2 are the same
but for the size of addresses. Queries differ in length: one of eight bytes is an old
router's. Every message of ours carries the Router Alert option, TTL 1 and TOS 0xc0.

Where codes stand for times, values of 128 and more are floating point: three bits of
exponent, four of mantissa (RFC 3376 4.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from ustack.wire.checksum import checksum
from ustack.wire.ipv4 import DF
from ustack.wire.packet import IPPROTO_IGMP, Buffer

QUERY, V1_REPORT, V2_REPORT, LEAVE, V3_REPORT = 0x11, 0x12, 0x16, 0x17, 0x22

# kinds of records
IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW, BLOCK = 1, 2, 3, 4, 5, 6

ALL_ROUTERS = b"\xe0\0\0\x02"
V3_ROUTERS = b"\xe0\0\0\x16"
HEADER_LEN = 8
OVERHEAD = 24 + 8  # of a report: IP header with its option, and the report's own
RECORD_LEN = 8

_HEADER = Struct("!BBH4s")
_REPORT = Struct("!BBHHH")
_RECORD = Struct("!BBH4s")
_QUERY = Struct("!BBH4sBBH")
_IP = Struct("!HHHHHH4s4sI")
_ALERT = 148 << 24 | 4 << 16  # the option
_FIRST = 0x46C0  # version 4, six words, TOS 0xc0


class Record:
    """What a report says of one group."""

    __slots__ = ("group", "kind", "sources")

    def __init__(self, kind: int, group: bytes) -> None:
        self.kind = kind
        self.group = group
        self.sources: list[bytes] = []


class Query:
    """A membership query. `version` 1 to 3 by length and code; `code`, `qrv` and `qqic` are
    as they were sent."""

    __slots__ = ("code", "group", "qqic", "qrv", "sources", "version")

    def __init__(self, version: int, code: int, group: bytes) -> None:
        self.version = version
        self.code = code
        self.group = group
        self.qrv = 0
        self.qqic = 0
        self.sources: list[bytes] = []


def header(src: bytes, dst: bytes, payload_len: int) -> bytes:
    """The IP header of every message."""
    length = 24 + payload_len
    hops = 1 << 8 | IPPROTO_IGMP
    total = _FIRST + length + DF + hops + int.from_bytes(src + dst, "big") + _ALERT
    csum = 0xFFFF ^ (total % 65535 or 65535)
    return _IP.pack(_FIRST, length, 0, DF, hops, csum, src, dst, _ALERT)


def build(kind: int, group: bytes) -> bytes:
    """A message of version 1 or 2."""
    return _HEADER.pack(kind, 0, checksum(_HEADER.pack(kind, 0, 0, group)), group)


def build_report(records: Sequence[Record]) -> bytes:
    """A report of version 3."""
    body = b"".join(pack_record(_RECORD, record) for record in records)
    csum = checksum(_REPORT.pack(V3_REPORT, 0, 0, 0, len(records)) + body)
    return _REPORT.pack(V3_REPORT, 0, csum, 0, len(records)) + body


def pack_record(shape: Struct, record: Record) -> bytes:
    """A record with its sources; `shape` is its header."""
    sources = record.sources
    return shape.pack(record.kind, 0, len(sources), record.group) + b"".join(sources)


def parse_query(buf: Buffer, start: int, end: int) -> Query | None:
    """The query in `buf[start:end]`, at least eight bytes; None if its length is no query's."""
    length = end - start
    _, code, _, group = _HEADER.unpack_from(buf, start)
    if length == HEADER_LEN:
        return Query(2 if code else 1, code, group)
    if length < _QUERY.size:
        return None
    query = Query(3, code, group)
    _, _, _, _, flags, query.qqic, count = _QUERY.unpack_from(buf, start)
    query.qrv = flags & 7
    at = start + _QUERY.size
    if at + 4 * count > end:
        return None
    query.sources = [bytes(buf[at + 4 * i : at + 4 * i + 4]) for i in range(count)]
    return query


def decode_time(code: int) -> int:
    """The number that an eight-bit code stands for."""
    return code if code < 0x80 else (code & 15 | 16) << (code >> 4 & 7) + 3
