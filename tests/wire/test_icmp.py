"""ICMP, ICMPv6 and UDP headers: dpkt as the reader, quotes of every length."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.wire import icmp, icmpv6, ipv4, ipv6, udp
from ustack.wire.checksum import pseudo_sum, verify

A4, B4 = b"\x0a\x09\0\1", b"\x0a\x09\0\2"
A6, B6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"
u16 = st.integers(0, 0xFFFF)
data = st.binary(max_size=80)


@given(u16, u16, data)
def test_echo(ident: int, seq: int, payload: bytes) -> None:
    request = icmp.echo(ident, seq, payload)
    assert verify(request, 0, len(request), 0)
    got = dpkt.icmp.ICMP(request)
    assert (got.type, got.code) == (icmp.ECHO, 0)
    assert (got.data.id, got.data.seq, got.data.data) == (ident, seq, payload)
    rest = icmp.HEADER.unpack_from(request)[3]
    reply = icmp.echo_reply(rest, memoryview(request)[8:])
    assert verify(reply, 0, len(reply), 0)
    assert reply[0] == icmp.ECHO_REPLY
    assert reply[4:] == request[4:]


@given(u16, u16, data)
def test_echo_v6(ident: int, seq: int, payload: bytes) -> None:
    request = icmpv6.echo(A6, B6, ident, seq, payload)
    assert verify(request, 0, len(request), pseudo_sum(A6, B6, 58, len(request)))
    rest = icmpv6.HEADER.unpack_from(request)[3]
    reply = icmpv6.echo_reply(B6, A6, rest, memoryview(request)[8:])
    assert verify(reply, 0, len(reply), pseudo_sum(B6, A6, 58, len(reply)))
    assert (reply[0], reply[4:]) == (icmpv6.ECHO_REPLY, request[4:])
    got = dpkt.icmp6.ICMP6(reply)
    assert (got.type, got.code, bytes(got.data)) == (129, 0, request[4:])


quote4 = ipv4.build_header(B4, A4, 17, 30, 1, True, 64, 0) + udp.build(7, 9, 22) + bytes(22)
quote6 = ipv6.build_header(B6, A6, 17, 30, 64, 0, 0) + udp.build(7, 9, 22) + bytes(22)


@pytest.mark.parametrize(
    ("message", "head"),
    [
        (icmp.dest_unreach(icmp.PORT_UNREACH, quote4), (3, 3, 0)),
        (icmp.frag_needed(1400, quote4), (3, 4, 1400)),
        (icmp.time_exceeded(icmp.EXC_FRAGTIME, quote4), (11, 1, 0)),
        (icmp.param_problem(20, quote4), (12, 0, 20 << 24)),
    ],
)
def test_errors(message: bytes, head: tuple[int, int, int]) -> None:
    assert verify(message, 0, len(message), 0)
    kind, code, _, rest = icmp.HEADER.unpack_from(message)
    assert (kind, code, rest) == head
    got = dpkt.icmp.ICMP(message)
    assert bytes(got.data).endswith(quote4)
    quote = icmp.parse_quote(message, 8, len(message))
    assert quote is not None
    assert (quote.src, quote.dst, quote.proto) == (B4, A4, 17)
    assert message[quote.l4 : quote.end] == quote4[20:]
    assert quote.l3 == 8


@pytest.mark.parametrize(
    ("message", "head"),
    [
        (icmpv6.dest_unreach(A6, B6, icmpv6.PORT_UNREACH, quote6), (1, 4, 0)),
        (icmpv6.packet_too_big(A6, B6, 1280, quote6), (2, 0, 1280)),
        (icmpv6.time_exceeded(A6, B6, icmpv6.EXC_FRAGTIME, quote6), (3, 1, 0)),
        (icmpv6.param_problem(A6, B6, icmpv6.UNK_NEXTHDR, 40, quote6), (4, 1, 40)),
    ],
)
def test_errors_v6(message: bytes, head: tuple[int, int, int]) -> None:
    assert verify(message, 0, len(message), pseudo_sum(A6, B6, 58, len(message)))
    kind, code, _, rest = icmpv6.HEADER.unpack_from(message)
    assert (kind, code, rest) == head
    quote = icmpv6.parse_quote(message, 8, len(message))
    assert quote is not None
    assert (quote.src, quote.dst, quote.proto) == (B6, A6, 17)
    assert message[quote.l4 : quote.end] == quote6[40:]


def test_quotes_need_the_ports() -> None:
    for cut in range(len(quote4)):
        assert (icmp.parse_quote(quote4, 0, cut) is not None) is (cut >= 28)
        assert icmpv6.parse_quote(quote4, 0, cut) is None
    for cut in range(len(quote6)):
        assert (icmpv6.parse_quote(quote6, 0, cut) is not None) is (cut >= 48)
        assert icmp.parse_quote(quote6, 0, cut) is None


def test_quotes_with_options_and_extension_headers() -> None:
    longer = b"\x47" + quote4[1:20] + b"\1" * 8 + quote4[20:]
    quote = icmp.parse_quote(longer, 0, len(longer))
    assert quote is not None
    assert quote.l4 == 28
    shorter = b"\x44" + quote4[1:]
    assert icmp.parse_quote(shorter, 0, len(shorter)) is None
    fixed = ipv6.build_header(B6, A6, 44, 38, 64, 0, 0)
    for field, found in (("0001", True), ("0008", False)):
        framed = fixed + bytes.fromhex(f"1100{field}00000007") + quote6[40:]
        got = icmpv6.parse_quote(framed, 0, len(framed))
        assert (got is not None and got.l4 == 48) is found


@given(st.binary(max_size=120), st.sampled_from([0x40, 0x45, 0x4F, 0x60]))
def test_any_quote_is_read_without_an_exception(body: bytes, first: int) -> None:
    buf = bytes((first,)) + body
    for parse in (icmp.parse_quote, icmpv6.parse_quote):
        quote = parse(buf, 0, len(buf))
        if quote is not None:
            assert quote.l4 + 8 <= quote.end == len(buf)


@given(u16, u16, st.integers(0, 65527), u16)
def test_udp_header(sport: int, dport: int, size: int, csum: int) -> None:
    got = dpkt.udp.UDP(udp.build(sport, dport, size, csum))
    assert (got.sport, got.dport, got.ulen, got.sum) == (sport, dport, 8 + size, csum)
