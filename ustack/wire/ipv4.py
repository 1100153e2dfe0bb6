"""The IPv4 header (RFC 791): building it, its constants, and a walk over its options."""

from __future__ import annotations

from struct import Struct

from ustack.wire.packet import Buffer

# version and ihl, tos, total length, id, flags and fragment offset, ttl, protocol,
# checksum, source, destination
HEADER = Struct("!BBHHHBBH4s4s")
HEADER_LEN = 20

DF = 0x4000
MF = 0x2000
OFFSET_MASK = 0x1FFF  # of the fragment field, in units of 8 bytes

OPT_EOL, OPT_NOP, OPT_RR, OPT_TIMESTAMP = 0, 1, 7, 68
OPT_LSRR, OPT_SSRR, OPT_RA = 131, 137, 148

_BUILD = Struct("!HHHHHH4s4s")


def build_header(
    src: bytes,
    dst: bytes,
    proto: int,
    payload_len: int,
    ident: int,
    df: bool,
    ttl: int,
    tos: int,
    more_fragments: bool = False,
    frag_offset: int = 0,
) -> bytes:
    """A header without options, checksum included. `frag_offset` is in bytes."""
    first = 0x4500 | tos
    length = HEADER_LEN + payload_len
    frag = frag_offset >> 3
    if df:
        frag |= DF
    if more_fragments:
        frag |= MF
    hops = ttl << 8 | proto
    # Nothing needs to be laid out to be summed: 2**16 is 1 modulo 65535 (wire.checksum).
    total = first + length + ident + frag + hops + int.from_bytes(src + dst, "big")
    csum = 0xFFFF ^ (total % 65535 or 65535)
    return _BUILD.pack(first, length, ident, frag, hops, csum, src, dst)


def scan_options(buf: Buffer, start: int, end: int) -> str | None:
    """Walk the options in `buf[start:end]`: the reason to drop the packet, or None.

    Malformed options and those that may stand only once but do not are "IP_INHDR"; a
    source route is refused, as with Linux's accept_source_route off, under a reason of
    our own. Source: RFC 791 section 3.1, Linux `ip_options_compile`.
    """
    seen = 0  # bit 0: source route, 1: record route, 2: timestamp
    at = start
    while at < end:
        kind = buf[at]
        if kind == OPT_EOL:
            break
        if kind == OPT_NOP:
            at += 1
            continue
        length = buf[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            return "IP_INHDR"
        once = _ONCE.get(kind, 0)
        if seen & once or not _option_ok(kind, buf[at : at + length]):
            return "IP_INHDR"
        seen |= once
        at += length
    return "IP_SOURCE_ROUTED" if seen & 1 else None


_ONCE = {OPT_LSRR: 1, OPT_SSRR: 1, OPT_RR: 2, OPT_TIMESTAMP: 4}


def _option_ok(kind: int, option: Buffer) -> bool:
    """Whether length and pointer of one option (its bytes, at least 2) agree."""
    length = len(option)
    if kind in (OPT_LSRR, OPT_SSRR):
        return length >= 3 and option[2] >= 4
    if kind == OPT_RR:
        return length >= 3 and option[2] >= 4 and _slot_fits(option[2], length, 4)
    if kind == OPT_TIMESTAMP:
        return length >= 4 and option[2] >= 5 and _timestamp_ok(option)
    return kind != OPT_RA or length >= 4


def _slot_fits(pointer: int, length: int, size: int) -> bool:
    """A pointer (counted from 1) past the end means full; else `size` bytes must be free."""
    return pointer > length or pointer + size - 1 <= length


def _timestamp_ok(option: Buffer) -> bool:
    """The timestamp option: room for an entry, or an overflow count that can still grow."""
    pointer, flags, length = option[2], option[3], len(option)
    if pointer > length:
        return flags >> 4 != 15
    with_address = flags & 15 in (1, 3)
    return _slot_fits(pointer, length, 8 if with_address else 4)
