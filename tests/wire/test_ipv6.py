"""IPv6 headers against dpkt, and the walk over extension headers."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.wire import ipv6
from ustack.wire.packet import IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

SRC, DST = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")
GROUP = bytes.fromhex("ff02" + "00" * 13 + "01")
PAD = 3  # where the packet starts in its buffer

HOP, ROUTING, FRAGMENT, DEST = 0, 43, 44, 60


def header(kind: int, body: bytes) -> tuple[int, bytes]:
    """A header that carries its own length: body padded to 8 with a PadN or Pad1."""
    gap = -(len(body) + 2) % 8
    pad = b"" if gap == 0 else b"\0" if gap == 1 else bytes((1, gap - 2)) + bytes(gap - 2)
    return kind, bytes(((len(body) + 2 + gap) // 8 - 1,)) + body + pad


def fragment(offset: int, more: bool) -> tuple[int, bytes]:
    return FRAGMENT, b"\0" + (offset | more).to_bytes(2, "big") + b"\0\0\0\7"


def packet(headers: list[tuple[int, bytes]], proto: int, payload: bytes, dst: bytes = DST) -> bytes:
    kinds = [kind for kind, _ in headers] + [proto]
    chain = b"".join(
        bytes((after,)) + body for (_, body), after in zip(headers, kinds[1:], strict=True)
    )
    size = len(chain) + len(payload)
    return ipv6.build_header(SRC, dst, kinds[0], size, 64, 0, 0) + chain + payload


def walk(data: bytes) -> ipv6.Walk:
    return ipv6.walk(bytes(PAD) + data + b"trailer", PAD, PAD + len(data))


@given(
    st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16),
    st.integers(0, 255), st.integers(0, 65535), st.integers(0, 255), st.integers(0, 255),
    st.integers(0, 0xFFFFF),
)  # fmt: skip
def test_a_built_header_is_what_dpkt_reads(
    src: bytes, dst: bytes, proto: int, size: int, hops: int, tclass: int, flow: int
) -> None:
    data = ipv6.build_header(src, dst, proto, size, hops, tclass, flow)
    assert len(data) == ipv6.HEADER_LEN
    word, length, nxt, hlim, got_src, got_dst = ipv6.HEADER.unpack(data)
    assert word >> 28 == 6
    assert (length, nxt, hlim, got_src, got_dst) == (size, proto, hops, src, dst)
    ip = dpkt.ip6.IP6(ipv6.build_header(src, dst, 59, size, hops, tclass, flow))
    assert (ip.v, ip.fc, ip.flow, ip.plen, ip.hlim) == (6, tclass, flow, size, hops)
    assert (ip.src, ip.dst) == (src, dst)


CHAINS: list[list[tuple[int, bytes]]] = [
    [],
    [header(HOP, b"")],
    [header(HOP, b"\x05\x02\0\0"), header(DEST, b""), header(ROUTING, b"\0\0\0\0\0\0")],
    [header(DEST, b"\x1e\x04abcd"), fragment(0, False), header(DEST, b"\x1e\x10" + bytes(16))],
    [header(DEST, b"")] * ipv6.MAX_HEADERS,
]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("proto", [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6, 253])
def test_the_walk_finds_the_upper_layer(chain: list[tuple[int, bytes]], proto: int) -> None:
    data = packet(chain, proto, b"payload")
    at = walk(data)
    assert (at.problem, at.drop, at.frag) == (None, None, 0)
    assert at.proto == proto
    assert data[at.l4 - PAD :] == b"payload"
    assert data[at.nhoff] == proto


def test_dpkt_walks_the_same_way() -> None:
    for chain in CHAINS[:3]:
        data = packet(chain, IPPROTO_UDP, b"\0\1\0\2\0\x08\0\0")
        ip = dpkt.ip6.IP6(data)
        assert list(ip.extension_hdrs) == [kind for kind, _ in chain]
        assert isinstance(ip.data, dpkt.udp.UDP)
        assert len(data) - (walk(data).l4 - PAD) == len(bytes(ip.data))


def test_fragments_end_the_walk() -> None:
    data = packet([header(DEST, b""), fragment(1480, True), header(DEST, b"")], 17, bytes(64))
    at = walk(data)
    assert (at.proto, at.frag, at.l4) == (DEST, PAD + 48, PAD + 56)
    assert at.nhoff == 48
    assert at.problem is None
    last = walk(packet([fragment(8, False)], 17, b"x"))
    assert (last.proto, last.frag, last.problem) == (17, PAD + 40, None)


@pytest.mark.parametrize(
    ("chain", "proto", "size", "whole"),
    [
        ([], 6, 19, False),
        ([], 6, 20, True),
        ([], 17, 7, False),
        ([], 17, 8, True),
        ([], 58, 7, False),
        ([], 253, 0, False),
        ([], 253, 1, True),
        ([header(DEST, b"")], 17, 7, False),
        ([header(DEST, b"")], 17, 8, True),
    ],
)
def test_a_first_fragment_must_hold_the_upper_header(
    chain: list[tuple[int, bytes]], proto: int, size: int, whole: bool
) -> None:
    at = walk(packet([fragment(0, True), *chain], proto, bytes(size)))
    assert at.frag == PAD + 40
    assert at.problem == (None if whole else (ipv6.HDR_INCOMP, 0))
    assert at.drop is None


@pytest.mark.parametrize(
    ("option", "dst", "problem", "drop"),
    [
        (b"\x1e\0", DST, None, None),
        (b"\x5e\0", DST, None, "IP_INHDR"),
        (b"\x9e\0", DST, (ipv6.UNK_OPTION, 42), None),
        (b"\xde\0", DST, (ipv6.UNK_OPTION, 42), None),
        (b"\x9e\0", GROUP, (ipv6.UNK_OPTION, 42), None),
        (b"\xde\0", GROUP, None, "IP_INHDR"),
        (b"\xc2\4\0\1\0\0", DST, (ipv6.UNK_OPTION, 42), None),  # a jumbogram
        (b"\1\4\0\0\0\0", DST, None, None),
        (b"\1\4\0\1\0\0", DST, None, "IP_INHDR"),  # padding that says something
        (b"\0" * 6, DST, None, None),
        (b"\0" * 8, DST, None, "IP_INHDR"),  # more padding than alignment can need
        (b"\x1e\x05\0\0\0\0", DST, None, "IP_INHDR"),  # longer than the header
        (b"\x1e\x03\0\0\0\x1e", DST, None, "IP_INHDR"),  # no length
        (b"\x1e\0" * 8, DST, None, None),
        (b"\x1e\0" * 9, DST, None, "IP_INHDR"),
    ],
)
@pytest.mark.parametrize("kind", [HOP, DEST])
def test_options(
    kind: int, option: bytes, dst: bytes, problem: tuple[int, int] | None, drop: str | None
) -> None:
    at = walk(packet([header(kind, option)], 17, bytes(8), dst))
    assert (at.problem, at.drop) == (problem, drop)


@pytest.mark.parametrize(
    ("body", "dst", "problem", "drop"),
    [
        (b"\0\0", DST, None, None),
        (b"\0\1", DST, (ipv6.HDR_FIELD, 42), None),
        (b"\xfd\1", DST, (ipv6.HDR_FIELD, 42), None),
        (b"\0\0", GROUP, None, "IPV6_BAD_EXTHDR"),
        (b"\2\0", DST, None, "IPV6_BAD_EXTHDR"),
        (b"\4\0", DST, None, "IPV6_BAD_EXTHDR"),
    ],
)
def test_routing_headers(
    body: bytes, dst: bytes, problem: tuple[int, int] | None, drop: str | None
) -> None:
    at = walk(packet([(ROUTING, b"\0" + body + bytes(4))], 17, bytes(8), dst))
    assert (at.problem, at.drop) == (problem, drop)


def test_ends_of_the_walk() -> None:
    assert walk(packet([], 59, b"")).drop == "IP_NOPROTO"
    assert walk(packet([header(DEST, b"")] * 9, 17, bytes(8))).drop == "IPV6_BAD_EXTHDR"
    assert walk(packet([(DEST, b"\x01" + bytes(6))], 17, b"")).drop == "IP_INHDR"
    assert walk(packet([], FRAGMENT, bytes(7))).drop == "IP_INHDR"
    late = walk(packet([header(DEST, b""), header(HOP, b"")], 17, bytes(8)))
    assert (late.proto, late.nhoff, late.drop) == (HOP, 40, None)  # unknown there


kinds = st.sampled_from([HOP, ROUTING, FRAGMENT, DEST, 6, 17, 58, 59, 51, 200])


@given(kinds, st.binary(max_size=200), st.booleans())
def test_any_bytes_end_the_walk_in_bounds(kind: int, body: bytes, group: bool) -> None:
    data = ipv6.build_header(SRC, GROUP if group else DST, kind, len(body), 1, 0, 0) + body
    at = walk(data)
    if at.drop is None and at.problem is None:
        assert PAD + 40 <= at.l4 <= PAD + len(data)
        assert 0 <= at.frag < at.l4
        assert data[at.nhoff] == at.proto


@given(kinds, st.lists(st.tuples(kinds, st.integers(0, 2), st.binary(max_size=6)), max_size=12))
def test_any_chain_ends(kind: int, pieces: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(
        bytes((nxt, units)) + fill.ljust(6 + 8 * units, b"\0") for nxt, units, fill in pieces
    )
    data = ipv6.build_header(SRC, DST, kind, len(body), 1, 0, 0) + body
    at = walk(data)
    assert at.drop is not None or at.problem is not None or at.l4 <= PAD + len(data)
    found = ipv6.skip_exthdr(data, 40, len(data), kind)
    assert found is None or found[1] >= 40
