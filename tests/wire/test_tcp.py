"""TCP headers and options: exact bytes, dpkt as the second reader, garbage."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.wire import tcp

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
timestamps = st.none() | st.tuples(u32, u32)
TS = (0x01020304, 0x05060708)


def parse(data: bytes, syn: bool = False) -> tcp.TcpOptions:
    return tcp.parse_options(b"\0" * 20 + data + b"payload", 20, 20 + len(data), syn)


@given(u16, u16, st.integers(-(1 << 34), 1 << 34), st.integers(-(1 << 34), 1 << 34),
       st.integers(0, 255), u16, st.integers(0, 10), u16, u16)  # fmt: skip
def test_a_built_header_is_what_dpkt_reads(
    sport: int, dport: int, seq: int, ack: int, flags: int, window: int,
    words: int, urg: int, csum: int,
) -> None:  # fmt: skip
    options = b"\1" * (4 * words)
    header = tcp.build(sport, dport, seq, ack, flags, window, options, urg, csum)
    seg = dpkt.tcp.TCP(header + b"data")
    assert (seg.sport, seg.dport) == (sport, dport)
    assert (seg.seq, seg.ack) == (seq % (1 << 32), ack % (1 << 32))
    assert seg.flags & 0xFF == flags
    assert (seg.win, seg.urp, seg.sum) == (window, urg, csum)
    assert seg.opts == options
    assert seg.data == b"data"
    assert tcp.HEADER.unpack_from(header)[4] >> 4 == 5 + words


@pytest.mark.parametrize(
    ("arguments", "layout"),
    [
        ((1460, 7, True, TS), "020405b4 0402080a 01020304 05060708 01030307"),
        ((1460, None, True, TS), "020405b4 0402080a 01020304 05060708"),
        ((1460, 7, False, TS), "020405b4 0101080a 01020304 05060708 01030307"),
        ((1460, 7, True, None), "020405b4 01010402 01030307"),
        ((536, None, False, None), "02040218"),
        ((1460, None, False, None, b""), "020405b4 22020101"),
        ((1460, None, False, None, b"12345678"), "020405b4 220a 3132333435363738 0101"),
        ((1460, None, False, None, b"123456"), "020405b4 2208 313233343536"),
    ],
)
def test_syn_option_layout(arguments: tuple[object, ...], layout: str) -> None:
    assert tcp.syn_options(*arguments) == bytes.fromhex(layout)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ts", "sacks", "layout"),
    [
        (None, (), ""),
        (TS, (), "0101080a 01020304 05060708"),
        (None, [(1, 2)], "0101050a 00000001 00000002"),
        (TS, [(1 << 32, -1)], "0101080a 01020304 05060708 0101050a 00000000 ffffffff"),
        (None, [(1, 2), (3, 4), (5, 6), (7, 8)],
         "01010522 00000001 00000002 00000003 00000004 00000005 00000006 00000007 00000008"),
    ],
)  # fmt: skip
def test_data_option_layout(
    ts: tuple[int, int] | None, sacks: list[tuple[int, int]], layout: str
) -> None:
    assert tcp.data_options(ts, sacks) == bytes.fromhex(layout)


cookies = st.none() | st.just(b"") | st.integers(2, 4).flatmap(
    lambda n: st.binary(min_size=2 * n, max_size=2 * n)
)  # fmt: skip


@given(st.integers(1, 65535), st.none() | st.integers(0, 14), st.booleans(), timestamps, cookies)
def test_syn_options_round_trip(
    mss: int,
    wscale: int | None,
    sack_perm: bool,
    ts: tuple[int, int] | None,
    cookie: bytes | None,
) -> None:
    data = tcp.syn_options(mss, wscale, sack_perm, ts, cookie)
    assert len(data) % 4 == 0
    assert len(data) <= tcp.MAX_OPTIONS_LEN
    got = parse(data, syn=True)
    assert (got.mss, got.sack_perm, got.tfo_cookie) == (mss, sack_perm, cookie)
    assert got.wscale == (-1 if wscale is None else wscale)
    assert (got.has_ts, got.tsval, got.tsecr) == (ts is not None, *(ts or (0, 0)))
    kinds = {kind for kind, _ in dpkt.tcp.parse_opts(data)}
    assert (tcp.OPT_SACK_PERM in kinds) is sack_perm
    later = parse(data, syn=False)
    assert (later.mss, later.wscale, later.sack_perm, later.tfo_cookie) == (0, -1, False, None)
    assert (later.has_ts, later.tsval) == (got.has_ts, got.tsval)


@given(timestamps, st.lists(st.tuples(u32, u32), max_size=3))
def test_data_options_round_trip(ts: tuple[int, int] | None, sacks: list[tuple[int, int]]) -> None:
    data = tcp.data_options(ts, sacks)
    got = parse(data)
    assert (got.has_ts, got.tsval, got.tsecr) == (ts is not None, *(ts or (0, 0)))
    assert got.sacks == tuple(sacks)


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_give_options(data: bytes, syn: bool) -> None:
    got = parse(data, syn)
    assert 0 <= got.mss <= 0xFFFF
    assert -1 <= got.wscale <= 14
    assert len(got.sacks) <= 4
    if not syn:
        assert (got.mss, got.wscale, got.sack_perm, got.tfo_cookie) == (0, -1, False, None)


@pytest.mark.parametrize(
    "garbage", ["03", "0300", "0301", "0304", "ff", "fe01", "08", "00 0101080a 0000"]
)
def test_what_stood_before_garbage_counts(garbage: str) -> None:
    got = parse(bytes.fromhex("02040200" + garbage), syn=True)
    assert got.mss == 512
    assert got.wscale == -1
    assert not got.has_ts


@pytest.mark.parametrize(
    "wrong", ["020305", "0304ffff", "0403ff", "0809 01020304050607", "0509 01020304050607"]
)
def test_known_options_of_a_wrong_length_are_skipped(wrong: str) -> None:
    got = parse(bytes.fromhex(wrong + "080a 01020304 05060708"), syn=True)
    assert got.tsval == TS[0]
    assert (got.mss, got.wscale, got.sack_perm, got.sacks) == (0, -1, False, ())


def test_details() -> None:
    assert parse(bytes.fromhex("03030f01"), syn=True).wscale == 14
    assert parse(bytes.fromhex("02040000 020405b4"), syn=True).mss == 1460
    assert parse(bytes.fromhex("020405b4 02040000"), syn=True).mss == 1460
    assert parse(bytes.fromhex("22030101"), syn=True).tfo_cookie is None
    assert parse(b"\xfe\x04\xf9\x89" + tcp.data_options(TS, ())).tsval == TS[0]
    assert parse(b"") is tcp.EMPTY
    assert parse(tcp.data_options(TS, ())).tsecr == TS[1]
    assert not tcp.EMPTY.has_ts
