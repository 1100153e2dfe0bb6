"""MLD (RFC 2710, 3810): the messages of a host. ICMPv6 with a Router Alert in front.

The records of a version 2 report are those of `wire.igmp`. A query of 24 bytes is of
version 1, longer ones are of version 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from ustack.wire import icmpv6, ipv6
from ustack.wire.addr import is_multicast, is_unspecified
from ustack.wire.igmp import Query, Record, pack_record
from ustack.wire.packet import IPPROTO_ICMPV6, Buffer

QUERY, V1_REPORT, V1_DONE, V2_REPORT = 130, 131, 132, 143
MESSAGES = (QUERY, V1_REPORT, V1_DONE, V2_REPORT)

ALL_ROUTERS = b"\xff\x02" + bytes(13) + b"\x02"
V2_ROUTERS = b"\xff\x02" + bytes(13) + b"\x16"
OVERHEAD = 40 + 8 + 8  # of a report: IP header, hop-by-hop header, and the report's own
RECORD_LEN = 20
EXPONENTIAL = 0x8000  # response codes from here on are floating point

_QUERY = Struct("!BBHHH16s")
_MORE = Struct("!BBH")  # what version 2 adds: S flag and QRV, QQIC, number of sources
_RECORD = Struct("!BBH16s")
_V1_LEN, _V2_LEN = 24, 28
_ROUTER_ALERT = b"\x05\x02\0\0"  # for MLD
_HOP_BY_HOP = bytes((IPPROTO_ICMPV6, 0)) + _ROUTER_ALERT + b"\x01\0"


def header(src: bytes, dst: bytes, payload_len: int) -> bytes:
    """The IP header of every message, and its hop-by-hop options."""
    length = len(_HOP_BY_HOP) + payload_len
    return ipv6.build_header(src, dst, ipv6.NEXTHDR_HOP, length, 1, 0, 0) + _HOP_BY_HOP


def build(src: bytes, dst: bytes, kind: int, group: bytes) -> bytes:
    """A message of version 1."""
    return icmpv6.build(src, dst, kind, 0, 0, group)


def build_report(src: bytes, dst: bytes, records: Sequence[Record]) -> bytes:
    """A report of version 2."""
    body = b"".join(pack_record(_RECORD, record) for record in records)
    return icmpv6.build(src, dst, V2_REPORT, 0, len(records), body)


def parse_query(buf: Buffer, start: int, end: int) -> Query | None:
    """The query in `buf[start:end]`; None if it is none: cut short, or not about a group."""
    length = end - start
    if length < _V1_LEN:
        return None
    _, _, _, code, _, group = _QUERY.unpack_from(buf, start)
    if not (is_unspecified(group) or is_multicast(group)):
        return None
    if length == _V1_LEN:
        return Query(1, code, group)
    query = Query(2, code, group)
    if length < _V2_LEN:
        return None
    flags, query.qqic, count = _MORE.unpack_from(buf, start + _V1_LEN)
    query.qrv = flags & 7
    at = start + _V2_LEN
    if at + 16 * count > end:
        return None
    query.sources = [bytes(buf[at + 16 * i : at + 16 * i + 16]) for i in range(count)]
    return query


def has_router_alert(buf: Buffer, l3: int, end: int) -> bool:
    """Does the packet, its extension headers already walked, carry the alert of MLD?"""
    if buf[l3 + 6] != ipv6.NEXTHDR_HOP:
        return False
    at = l3 + ipv6.HEADER_LEN
    after = min(at + 8 * (buf[at + 1] + 1), end)
    at += 2
    while at + 1 < after:
        if buf[at : at + 4] == _ROUTER_ALERT:
            return True
        at += 1 if not buf[at] else 2 + buf[at + 1]
    return False


def decode_delay(code: int) -> int:
    """The milliseconds that a sixteen-bit response code stands for."""
    return code if code < EXPONENTIAL else (code & 0xFFF | 0x1000) << (code >> 12 & 7) + 3
