"""Addresses between Python's tuples and the core."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sockets.fakes import fake_stack
from ustack.sockets.address import AF_INET, AF_INET6, parse_numeric, to_python


@pytest.mark.parametrize(
    ("family", "address", "native"),
    [
        (AF_INET, ("10.9.0.2", 7), (b"\x0a\x09\0\x02", 7)),
        (AF_INET, (b"10.9.0.2", 7), (b"\x0a\x09\0\x02", 7)),
        (AF_INET, ("", 0), (b"", 0)),
        (AF_INET, ("0.0.0.0", 65535), (b"", 65535)),
        (AF_INET, ("<broadcast>", 1), (b"\xff\xff\xff\xff", 1)),
        (AF_INET6, ("::1", 1), (bytes(15) + b"\1", 1)),
        (AF_INET6, ("::1", 1, 5, 6), (bytes(15) + b"\1", 1)),
        (AF_INET6, ("::", 1), (b"", 1)),
        (AF_INET6, ("::ffff:1.2.3.4", 1, 0), (b"\1\2\3\4", 1)),
        (AF_INET, ("localhost", 1), None),
        (AF_INET, ("127.1", 1), None),
        (AF_INET, ("::1", 1), None),
        (AF_INET, ("1.2.3.4", "http"), None),
        (AF_INET6, ("1.2.3.4", 1), None),
    ],
)
def test_numeric_forms(family: int, address: tuple, native: tuple | None) -> None:
    assert parse_numeric(family, address, "bind") == native


@pytest.mark.parametrize(
    ("family", "address", "error"),
    [
        (AF_INET, "1.2.3.4", TypeError),
        (AF_INET, ["1.2.3.4", 1], TypeError),
        (AF_INET, None, TypeError),
        (AF_INET, ("1.2.3.4",), TypeError),
        (AF_INET, ("1.2.3.4", 1, 0), TypeError),
        (AF_INET6, ("::1", 1, 0, 0, 0), TypeError),
        (AF_INET6, ("::1",), TypeError),
        (AF_INET, (7, 1), TypeError),
        (AF_INET, ("1.2.3.4", 1.0), TypeError),
        (AF_INET, ("1.2.3.4", None), TypeError),
        (AF_INET, ("1.2.3.4", -1), OverflowError),
        (AF_INET, ("1.2.3.4", 65536), OverflowError),
    ],
)
def test_wrong_addresses_fail_as_in_socket(
    family: int, address: object, error: type[Exception]
) -> None:
    with pytest.raises(error) as ours:
        parse_numeric(family, address, "bind")
    with socket.socket(family, socket.SOCK_DGRAM) as real, pytest.raises(error) as theirs:
        real.bind(address)  # type: ignore[arg-type]
    assert type(ours.value) is type(theirs.value)


@given(
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(0, 65535)
)
def test_round_trip(addr: bytes, port: int) -> None:
    family = AF_INET if len(addr) == 4 else AF_INET6
    shown = to_python(family, (addr, port))
    native = parse_numeric(family, shown, "connect")
    assert native is not None
    assert to_python(family, native) == shown


def test_mapped_addresses_and_wildcards_of_ipv6_sockets() -> None:
    assert to_python(AF_INET6, (b"\1\2\3\4", 5)) == ("::ffff:1.2.3.4", 5, 0, 0)
    assert to_python(AF_INET6, (b"", 5)) == ("::", 5, 0, 0)
    assert to_python(AF_INET, (b"", 5)) == ("0.0.0.0", 5)


async def test_names_go_to_the_resolver() -> None:
    async with fake_stack() as stack:
        sock = stack.socket(type=socket.SOCK_DGRAM)
        await sock.connect(("localhost", "domain"))
        assert sock.getpeername() == ("127.0.0.1", 53)
        six = stack.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        await six.connect(("localhost", 1))
        assert six.getpeername() == ("::1", 1, 0, 0)
        await six.connect(("10.0.0.1", 1))
        assert six.getpeername() == ("::ffff:10.0.0.1", 1, 0, 0)
        with pytest.raises(socket.gaierror):
            await sock.connect(("nowhere.example", 1))
        assert sock.fileno() != -1
