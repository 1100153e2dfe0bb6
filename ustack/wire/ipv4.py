"""The IPv4 header (RFC 791): building it, and its constants."""

from __future__ import annotations

from struct import Struct

from ustack.wire.checksum import checksum

# version and ihl, tos, total length, id, flags and fragment offset, ttl, protocol,
# checksum, source, destination
HEADER = Struct("!BBHHHBBH4s4s")
HEADER_LEN = 20

DF = 0x4000
MF = 0x2000
OFFSET_MASK = 0x1FFF  # of the fragment field, in units of 8 bytes

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


def with_options(header: bytes, options: bytes) -> bytes:
    """A header of `build_header` with these options, whole words, behind it."""
    if not options:
        return header
    _, tos, length, ident, frag, ttl, proto, _, src, dst = HEADER.unpack(header)
    size = HEADER_LEN + len(options)
    made = bytearray(
        HEADER.pack(
            0x40 | size >> 2, tos, length + len(options), ident, frag, ttl, proto, 0, src, dst
        )
    )
    made += options
    made[10:12] = checksum(bytes(made)).to_bytes(2, "big")
    return bytes(made)
