"""The functions of `ustack.socket`: those of `trio.socket`, asked of a stack.

Which stack a program means is said by `use_stack`, for the task and those it starts; else
by the factory that was given to `set_custom_socket_factory`, for the whole run. Names are
resolved by that stack's resolver, or by what was given to `set_custom_hostname_resolver`.

Nothing here makes a socket of the kernel's, or takes one: what cannot be done on a stack
is OSError EOPNOTSUPP, or not there.
"""

from __future__ import annotations

import errno
import socket as stdlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn

import trio

from ustack.sock.errors import error
from ustack.sockets.resolver import encode_host, numeric
from ustack.sockets.stack import SocketFactory

if TYPE_CHECKING:
    from ustack.sockets.address import SockAddr
    from ustack.sockets.resolver import Entry, Host, Port
    from ustack.sockets.socket import SocketType
    from ustack.sockets.stack import NetworkStack

_chosen: ContextVar[NetworkStack] = ContextVar("ustack.socket")


@contextmanager
def use_stack(stack: NetworkStack) -> Iterator[NetworkStack]:
    """Inside the block, `socket` and the rest mean `stack`, for this task and its children."""
    token = _chosen.set(stack)
    try:
        yield stack
    finally:
        _chosen.reset(token)


def current_stack() -> NetworkStack:
    """The stack that `socket` would make a socket on. RuntimeError if none was chosen."""
    chosen = _chosen.get(None)
    if chosen is not None:
        return chosen
    factory = trio.socket.set_custom_socket_factory(None)
    trio.socket.set_custom_socket_factory(factory)
    if isinstance(factory, SocketFactory):
        return factory.stack
    raise RuntimeError(
        "no stack: use `with ustack.socket.use_stack(stack)`, or"
        " `ustack.socket.set_custom_socket_factory(stack.socket_factory())`"
    )


def socket(
    family: int = stdlib.AF_INET,
    type: int = stdlib.SOCK_STREAM,
    proto: int = 0,
    fileno: int | None = None,
) -> SocketType:
    """A new socket of the current stack. Without descriptors there is no `fileno`."""
    if fileno is not None:
        raise error(errno.EOPNOTSUPP)
    return current_stack().socket(family, type, proto)


def from_stdlib_socket(sock: stdlib.socket) -> NoReturn:
    """OSError EOPNOTSUPP: a socket of the kernel's cannot move to a stack."""
    raise error(errno.EOPNOTSUPP)


def fromfd(
    fd: int, family: int = stdlib.AF_INET, type: int = stdlib.SOCK_STREAM, proto: int = 0
) -> NoReturn:
    """OSError EOPNOTSUPP, as `from_stdlib_socket`."""
    raise error(errno.EOPNOTSUPP)


# -- names -----------------------------------------------------------------------------------


def _resolver() -> trio.abc.HostnameResolver:
    if _chosen.get(None) is None:
        custom = trio.socket.set_custom_hostname_resolver(None)
        trio.socket.set_custom_hostname_resolver(custom)
        if custom is not None:
            return custom
    return current_stack().resolver


async def getaddrinfo(
    host: Host, port: Port, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[Entry]:
    """As `trio.socket.getaddrinfo`, by the stack's resolver, which is not asked for numbers.
    Raises `gaierror`."""
    known = numeric(host, port, family, type, proto, flags)
    if known is not None:
        await trio.lowlevel.checkpoint()
        return known
    name = encode_host(host)
    found = await _resolver().getaddrinfo(name, port, family, type, proto, flags)
    return found  # type: ignore[return-value]


async def getnameinfo(sockaddr: SockAddr, flags: int) -> tuple[str, str]:
    """As `trio.socket.getnameinfo`, by the stack's resolver."""
    return await _resolver().getnameinfo(sockaddr, flags)


# -- interfaces ------------------------------------------------------------------------------


def if_nameindex() -> list[tuple[int, str]]:
    """The stack's devices: (index, name)."""
    return [(dev.ifindex, dev.name) for dev in current_stack().sansio.routes.devices]


def if_nametoindex(if_name: str) -> int:
    """The index of the stack's device of that name. OSError ENODEV if there is none."""
    for index, name in if_nameindex():
        if name == if_name:
            return index
    raise error(errno.ENODEV)


def if_indextoname(if_index: int) -> str:
    """The name of the stack's device of that index. OSError ENXIO if there is none."""
    for index, name in if_nameindex():
        if index == if_index:
            return name
    raise error(errno.ENXIO)
