"""The IPv6 header (RFC 8200): building it, and a bounded walk over extension headers.

`walk` goes from the fixed header to the upper-layer header and stops at the first thing
that ends the walk: an upper layer (or a next header that nobody here knows: the caller
decides), a real fragment, a problem that RFC 8200 wants reported, or a reason to drop.
A packet consists of at most 64 KiB of them, so the walk is bounded by MAX_HEADERS
headers and MAX_OPTIONS options in each, not only by the length.

Sources: RFC 8200 section 4, RFC 7112; Linux `ip6_parse_tlv`, `ipv6_rthdr_rcv`,
`ipv6_frag_rcv`, `ipv6frag_thdr_truncated`, sysctls `max_dst_opts_number`,
`max_hbh_opts_number`. Left out: mobility, segment and RPL routing, jumbograms, IPsec.
"""

from __future__ import annotations

from struct import Struct

from ustack.wire.packet import IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Buffer

# version, traffic class and flow label; payload length, next header, hop limit, source,
# destination
HEADER = Struct("!LHBB16s16s")
HEADER_LEN = 40

FRAGMENT = Struct("!BBHL")  # next header, reserved, offset and M, identification
FRAGMENT_LEN = 8
FRAG_OFFSET_MASK = 0xFFF8  # of the fragment field: the offset in bytes
FRAG_MORE = 1

NEXTHDR_HOP, NEXTHDR_ROUTING, NEXTHDR_FRAGMENT = 0, 43, 44
NEXTHDR_AUTH, NEXTHDR_NONE, NEXTHDR_DEST = 51, 59, 60

MIN_MTU = 1280
MAX_HEADERS = 8
MAX_OPTIONS = 8

# Parameter Problem codes
HDR_FIELD, UNK_NEXTHDR, UNK_OPTION, HDR_INCOMP = 0, 1, 2, 3

_TLV_PAD1, _TLV_PADN, _TLV_ROUTERALERT = 0, 1, 5
_MAX_PADDING = 7
_UPPER_LEN = {IPPROTO_TCP: 20, IPPROTO_UDP: 8, IPPROTO_ICMPV6: 8}


def build_header(
    src: bytes,
    dst: bytes,
    next_header: int,
    payload_len: int,
    hop_limit: int,
    tclass: int,
    flow: int,
) -> bytes:
    """The fixed header."""
    word = 0x60000000 | tclass << 20 | flow
    return HEADER.pack(word, payload_len, next_header, hop_limit, src, dst)


class Walk:
    """Where a walk ended.

    `proto` and `l4`: the upper-layer protocol and the offset of its header in the buffer.
    `nhoff`: the offset of the field that named it, counted from the IP header (what a
    Parameter Problem points to). `frag`: the offset of the fragment header in the buffer,
    0 if the packet is whole; `proto` and `l4` are then what it says and what follows it.
    `problem`: (code, pointer) of the Parameter Problem to send, or `drop`: a reason to
    drop silently; both None if all is well.
    """

    __slots__ = ("drop", "frag", "l4", "nhoff", "problem", "proto")

    def __init__(self, proto: int, l4: int, nhoff: int) -> None:
        self.proto = proto
        self.l4 = l4
        self.nhoff = nhoff
        self.frag = 0
        self.problem: tuple[int, int] | None = None
        self.drop: str | None = None


def walk(buf: Buffer, l3: int, end: int) -> Walk:
    """Walk the extension headers of the packet in `buf[l3:end]` (at least 40 bytes)."""
    at = Walk(buf[l3 + 6], l3 + HEADER_LEN, 6)
    for count in range(MAX_HEADERS + 1):
        proto = at.proto
        if proto in (NEXTHDR_DEST, NEXTHDR_ROUTING) or (proto == NEXTHDR_HOP and count == 0):
            more = _walk_sized(at, buf, l3, end)
        elif proto == NEXTHDR_FRAGMENT:
            more = _walk_fragment(at, buf, l3, end)
        else:
            if proto == NEXTHDR_NONE:
                at.drop = "IP_NOPROTO"
            return at
        if not more:
            return at
    at.drop = "IPV6_BAD_EXTHDR"
    return at


def _walk_sized(at: Walk, buf: Buffer, l3: int, end: int) -> bool:
    """Step over a header that carries its own length; false if the walk ends here."""
    start = at.l4
    after = start + 8 * (buf[start + 1] + 1) if start + 2 <= end else end + 1
    if after > end:
        at.drop = "IP_INHDR"
        return False
    if at.proto == NEXTHDR_ROUTING:
        _check_routing(at, buf, l3)
    else:
        _check_options(at, buf, l3, after)
    if at.drop is not None or at.problem is not None:
        return False
    at.proto, at.nhoff, at.l4 = buf[start], start - l3, after
    return True


def _check_routing(at: Walk, buf: Buffer, l3: int) -> None:
    """No routing type is supported: only one that is used up passes (RFC 8200 4.4)."""
    kind, segments_left = buf[at.l4 + 2], buf[at.l4 + 3]
    if buf[l3 + 24] == 0xFF or kind in (2, 3, 4):
        at.drop = "IPV6_BAD_EXTHDR"
    elif segments_left:
        at.problem = (HDR_FIELD, at.l4 + 2 - l3)


def _check_options(at: Walk, buf: Buffer, l3: int, end: int) -> None:
    """The options of a hop-by-hop or destination header that ends at `end`."""
    pos = at.l4 + 2
    padding = options = 0
    while pos < end:
        kind = buf[pos]
        after = pos + 1 if kind == _TLV_PAD1 else pos + 2 + (buf[pos + 1] if pos + 1 < end else end)
        if kind <= _TLV_PADN:
            padding += after - pos
            bad = padding > _MAX_PADDING or any(buf[pos + 2 : after])
        else:
            padding = 0
            options += 1
            bad = options > MAX_OPTIONS
        if bad or after > end:
            at.drop = "IP_INHDR"
            return
        if kind > _TLV_PADN and kind != _TLV_ROUTERALERT and _refuse_option(at, buf, l3, pos):
            return
        pos = after


def _refuse_option(at: Walk, buf: Buffer, l3: int, pos: int) -> bool:
    """What the two high bits of an unknown option ask for (RFC 8200 4.2)."""
    action = buf[pos] >> 6
    if action == 0:
        return False
    if action == 2 or (action == 3 and buf[l3 + 24] != 0xFF):
        at.problem = (UNK_OPTION, pos - l3)
    else:
        at.drop = "IP_INHDR"
    return True


def _walk_fragment(at: Walk, buf: Buffer, l3: int, end: int) -> bool:
    """Step over an atomic fragment's header (RFC 6946); any other fragment ends the walk."""
    start = at.l4
    if start + FRAGMENT_LEN > end:
        at.drop = "IP_INHDR"
        return False
    field = buf[start + 2] << 8 | buf[start + 3]
    at.proto, at.nhoff, at.l4 = buf[start], start - l3, start + FRAGMENT_LEN
    if field & (FRAG_OFFSET_MASK | FRAG_MORE) == 0:
        return True
    at.frag = start
    if field & FRAG_OFFSET_MASK == 0:
        upper = skip_exthdr(buf, at.l4, end, at.proto)
        if upper is None or upper[1] + _UPPER_LEN.get(upper[0], 1) > end:
            at.problem = (HDR_INCOMP, 0)
    return False


def skip_exthdr(buf: Buffer, off: int, end: int, proto: int) -> tuple[int, int, int] | None:
    """Find the upper layer without judging what lies between (Linux: `ipv6_skip_exthdr`).

    For quoted packets: (protocol, offset, fragment offset in bytes), or None if the
    packet ends before. A fragment that is not the first ends the search.
    """
    for _ in range(MAX_HEADERS + 1):
        if proto not in (
            NEXTHDR_HOP, NEXTHDR_ROUTING, NEXTHDR_FRAGMENT, NEXTHDR_AUTH, NEXTHDR_DEST,
        ):  # fmt: skip
            return proto, off, 0
        if off + 8 > end:
            return None
        after = off + 8 * (buf[off + 1] + 1)
        if proto == NEXTHDR_FRAGMENT:
            after = off + FRAGMENT_LEN
            if offset := (buf[off + 2] << 8 | buf[off + 3]) & FRAG_OFFSET_MASK:
                return buf[off], after, offset
        elif proto == NEXTHDR_AUTH:
            after = off + 4 * (buf[off + 1] + 2)
        proto, off = buf[off], after
    return None
