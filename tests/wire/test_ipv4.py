"""IPv4 headers against dpkt."""

from __future__ import annotations

import dpkt
from hypothesis import given
from hypothesis import strategies as st

from ustack.wire import ipv4
from ustack.wire.checksum import verify

address = st.binary(min_size=4, max_size=4)
byte = st.integers(0, 255)


@given(
    address, address, byte, st.integers(0, 65515), st.integers(0, 65535), st.booleans(),
    byte, byte, st.booleans(), st.integers(0, 8191).map(lambda n: n * 8),
)  # fmt: skip
def test_a_built_header_is_what_dpkt_reads(
    src: bytes, dst: bytes, proto: int, size: int, ident: int, df: bool,
    ttl: int, tos: int, more: bool, offset: int,
) -> None:  # fmt: skip
    header = ipv4.build_header(src, dst, proto, size, ident, df, ttl, tos, more, offset)
    assert len(header) == ipv4.HEADER_LEN
    assert verify(header, 0, 20, 0)
    ip = dpkt.ip.IP(header)
    assert (ip.v, ip.hl, ip.tos, ip.len, ip.id) == (4, 5, tos, 20 + size, ident)
    assert (ip.ttl, ip.p, ip.src, ip.dst) == (ttl, proto, src, dst)
    assert (ip.df, ip.mf, ip.offset * 8) == (df, more, offset)
    fields = ipv4.HEADER.unpack(header)
    assert fields[:4] == (0x45, tos, 20 + size, ident)
    assert fields[4] & ipv4.OFFSET_MASK == offset // 8
    assert bool(fields[4] & ipv4.DF) is df
    assert bool(fields[4] & ipv4.MF) is more
    assert fields[8:] == (src, dst)


@given(st.binary(max_size=10).map(lambda b: b * 4), address, st.integers(0, 1000))
def test_options_behind_a_header(options: bytes, src: bytes, size: int) -> None:
    header = ipv4.with_options(ipv4.build_header(src, src, 17, size, 7, True, 64, 0), options)
    assert verify(header, 0, len(header), 0)
    ip = dpkt.ip.IP(header)
    assert (ip.hl * 4, ip.len, ip.opts) == (len(header), len(header) + size, options)
