"""Addresses as text and bytes; the C library is the oracle for printing."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ustack.wire import addr

any_address = st.one_of(
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=16, max_size=16),
    st.lists(st.sampled_from([b"\0\0", b"\0\1", b"\xff\xff"]), min_size=8, max_size=8).map(
        b"".join
    ),
)


@given(any_address)
@example(addr.MAPPED + b"\x0a\0\0\1")
@example(bytes(12) + b"\x0a\0\0\1")
@example(bytes(12) + b"\0\0\1\1")
@example(bytes(16))
@example(addr.LOOPBACK6)
def test_format_prints_as_the_c_library_and_parses_back(value: bytes) -> None:
    family = socket.AF_INET if len(value) == 4 else socket.AF_INET6
    text = addr.format_addr(value)
    assert text == socket.inet_ntop(family, value)
    assert addr.parse_addr(text) == value


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "::1%lo", "host", "01.2.3.4", "1::2::3"]
)
def test_parse_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        addr.parse_addr(text)


@pytest.mark.parametrize(
    ("text", "value", "length"),
    [
        ("10.9.0.2/24", b"\x0a\x09\0\2", 24),
        ("10.9.0.2", b"\x0a\x09\0\2", 32),
        ("0.0.0.0/0", bytes(4), 0),
        ("fd00:9::2/64", bytes.fromhex("fd000009000000000000000000000002"), 64),
        ("::/128", bytes(16), 128),
    ],
)
def test_cidr(text: str, value: bytes, length: int) -> None:
    assert addr.parse_cidr(text) == (value, length)
    assert addr.parse_cidr(addr.format_cidr(value, length)) == (value, length)


@pytest.mark.parametrize(
    "text", ["10.0.0.1/33", "10.0.0.1/", "10.0.0.1/-1", "::/129", "::/x", "/8"]
)
def test_cidr_refuses_bad_lengths(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        addr.parse_cidr(text)


@given(any_address, any_address, st.data())
def test_prefix_match_and_network(a: bytes, b: bytes, draw: st.DataObject) -> None:
    length = draw.draw(st.integers(0, len(b) * 8))
    net = ipaddress.ip_network((b, length), strict=False)
    assert addr.prefix_match(a, b, length) is (ipaddress.ip_address(a) in net)
    assert addr.prefix_match(b, addr.network(b, length), length)
    assert addr.network(b, length) == net.network_address.packed


@given(any_address)
@example(b"\xa9\xfe\1\2")
@example(bytes.fromhex("fe80") + bytes(14))
@example(b"\x7f\xff\0\1")
@example(b"\xe0\0\0\1")
@example(addr.BROADCAST)
@example(addr.ANY4)
def test_predicates_agree_with_ipaddress(value: bytes) -> None:
    known = ipaddress.ip_address(value)
    mapped = value.startswith(addr.MAPPED)  # newer Pythons look inside, we do not
    if not mapped:
        assert addr.is_loopback(value) is known.is_loopback
        assert addr.is_multicast(value) is known.is_multicast
        assert addr.is_linklocal(value) is known.is_link_local
        assert addr.is_unspecified(value) is known.is_unspecified
    assert addr.is_broadcast(value) is (value == b"\xff" * 4)


def test_the_wildcard_is_nothing_in_particular() -> None:
    assert not addr.is_loopback(b"")
    assert not addr.is_multicast(b"")
    assert not addr.is_linklocal(b"")
