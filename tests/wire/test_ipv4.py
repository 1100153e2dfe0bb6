"""IPv4 headers against dpkt, and the option walker."""

from __future__ import annotations

import dpkt
import pytest
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


@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_options_are_judged_without_an_exception(data: bytes, start: int) -> None:
    start = min(start, len(data))
    verdict = ipv4.scan_options(data, start, len(data))
    assert verdict in (None, "IP_INHDR", "IP_SOURCE_ROUTED")
    assert ipv4.scan_options(memoryview(data), start, len(data)) == verdict


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ("", None),
        ("00ffffff", None),  # nothing after the end of the list counts
        ("01010101", None),
        ("94040000", None),  # router alert
        ("9403 0000", "IP_INHDR"),
        ("86060000 0001 0000", None),  # a security label that nobody here reads
        ("07", "IP_INHDR"),  # no length
        ("0701", "IP_INHDR"),  # impossible lengths
        ("0700", "IP_INHDR"),
        ("0708 04000000", "IP_INHDR"),  # longer than what is there
        ("0707 04 00000000 00", None),
        ("0707 08 00000000 00", None),  # full
        ("0707 03 00000000 00", "IP_INHDR"),
        ("0707 05 00000000 00", "IP_INHDR"),  # room left, but not for an address
        ("0702 0000", "IP_INHDR"),
        ("0703 04 0703 04 0000", "IP_INHDR"),  # twice
        ("8307 04 0a000001 00", "IP_SOURCE_ROUTED"),
        ("8907 04 0a000001 00", "IP_SOURCE_ROUTED"),
        ("8307 03 0a000001 00", "IP_INHDR"),
        ("8303 04 8903 04 0000", "IP_INHDR"),
        ("8307 04 0a000001 0701", "IP_INHDR"),  # the fault behind it counts first
        ("4408 05 00 00000000", None),
        ("4408 09 00 00000000", None),  # full, no overflow yet
        ("4408 09 f0 00000000", "IP_INHDR"),  # the overflow count overflows
        ("4408 04 00 00000000", "IP_INHDR"),
        ("4408 06 00 00000000", "IP_INHDR"),
        ("4408 05 01 00000000", "IP_INHDR"),  # no room for address and time
        ("440c 05 01 0000000000000000", None),
        ("440c 05 03 0000000000000000", None),
        ("4403 05 00", "IP_INHDR"),
    ],
)
def test_options(options: str, verdict: str | None) -> None:
    data = bytes.fromhex(options)
    assert ipv4.scan_options(b"head" + data + b"tail", 4, 4 + len(data)) == verdict
