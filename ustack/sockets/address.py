"""Socket addresses: Python's tuples outside, (network-order bytes, port) inside.

Outside, an address is `(host, port)` on an AF_INET socket and `(host, port[, flowinfo[,
scope_id]])` on an AF_INET6 one, as in the standard library. Inside, the length of the
address is its family; the wildcard is b"". On an AF_INET6 socket an IPv4 peer is written
`::ffff:a.b.c.d` outside and held as 4 bytes inside. Flow labels and scopes are accepted
and not used: a stack has one link-local scope.
"""

from __future__ import annotations

import operator
import socket
from typing import Any, TypeAlias

from ustack.sock.addr import normalize, present

SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
Native: TypeAlias = tuple[bytes, int]
# What calls return: a pair, four, or None on a stream. As in typeshed and trio, a program that
# takes it apart need not prove which.
RetAddress: TypeAlias = Any

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6

_WILDCARDS = {AF_INET: "0.0.0.0", AF_INET6: "::"}
_FLOWINFO_MAX = 0xFFFFF
_FAMILY_NAMES = {AF_INET: "AF_INET", AF_INET6: "AF_INET6"}


def check_form(family: int, address: object, call: str) -> tuple[object, ...]:
    """The address as a tuple of the right length, else TypeError as `socket` raises it, and
    OverflowError for a flow label that there cannot be."""
    name = _FAMILY_NAMES[socket.AddressFamily(family)]
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): {name} address must be tuple, not {type(address).__name__}")
    if family == AF_INET and len(address) != 2:
        raise TypeError("AF_INET address must be a pair (host, port)")
    if not 2 <= len(address) <= 4:
        raise TypeError("AF_INET6 address must be a tuple (host, port[, flowinfo[, scopeid]])")
    if len(address) > 2 and not 0 <= operator.index(address[2]) <= _FLOWINFO_MAX:
        raise OverflowError(f"{call}(): flowinfo must be 0-1048575.")
    if len(address) > 3:
        operator.index(address[3])
    return address


def check_port(port: object, call: str) -> int:
    """`port` as an int within 0-65535: TypeError or OverflowError as `socket` raises them."""
    number = operator.index(port)  # type: ignore[arg-type]
    if not 0 <= number <= 0xFFFF:
        raise OverflowError(f"{call}(): port must be 0-65535.")
    return number


def parse_numeric(family: int, address: object, call: str) -> Native | None:
    """`address` in the core's form if host and port are numeric, None if it needs resolving.

    "" is the wildcard, "<broadcast>" is 255.255.255.255, and an AF_INET6 socket takes a
    v4-mapped host. TypeError, OverflowError for what no resolver could help with.
    """
    host, port, *_ = check_form(family, address, call)
    if not isinstance(host, (str, bytes, bytearray)):
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if isinstance(port, str):
        return None
    number = check_port(port, call)
    if not isinstance(host, str):
        host = bytes(host).decode("ascii", "surrogateescape")
    if host == "":
        return b"", number
    if host == "<broadcast>" and family == AF_INET:
        host = "255.255.255.255"
    try:
        packed = socket.inet_pton(family, host)
    except OSError:
        return None
    return normalize(packed), number


def to_python(family: int, native: Native) -> SockAddr:
    """The tuple that a program sees for a core address, on a socket of `family`."""
    if family == AF_INET:
        return socket.inet_ntop(AF_INET, present(native[0], False)), native[1]
    return socket.inet_ntop(AF_INET6, present(native[0], True)), native[1], 0, 0


def wildcard(family: int) -> str:
    """The host that stands for every address of `family`."""
    return _WILDCARDS[socket.AddressFamily(family)]
