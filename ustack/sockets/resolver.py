"""Names for sockets on a stack: numeric addresses, a hosts table, and whom to ask else.

A stack has a network of its own, so the names of the machine it runs on mean nothing
there unless the program says so (`delegate`). Without a delegate no lookup ever leaves
the process.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeAlias

import idna
import trio

Entry: TypeAlias = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]
]
Host: TypeAlias = bytes | str | None
Port: TypeAlias = bytes | str | int | None

# AI_ADDRCONFIG asks which families the machine's own interfaces have, not the stack's.
_FLAGS = ~socket.AI_ADDRCONFIG


class SystemResolver(trio.abc.HostnameResolver):
    """Asks the machine's own resolver, in a thread. For `Resolver(delegate=...)`."""

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: Host,
        port: Port,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Entry]:
        ask = partial(_getaddrinfo, host, port, family, type, proto, flags)
        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        return await trio.to_thread.run_sync(
            socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True
        )


class Resolver(trio.abc.HostnameResolver):
    """Numeric addresses, then `hosts` (name -> numeric addresses), then `delegate`.

    Without a delegate an unknown name is `socket.gaierror` EAI_NONAME at once. Names
    compare without regard to case, as in DNS; "localhost" is always known.
    """

    def __init__(
        self,
        hosts: Mapping[str, str | Sequence[str]] | None = None,
        delegate: trio.abc.HostnameResolver | None = None,
    ) -> None:
        self._hosts: dict[bytes, tuple[str, ...]] = {b"localhost": ("::1", "127.0.0.1")}
        for name, addresses in (hosts or {}).items():
            listed = (addresses,) if isinstance(addresses, str) else tuple(addresses)
            self._hosts[_fold(encode_host(name) or b"")] = listed
        self._delegate = delegate

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: Host,
        port: Port,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Entry]:
        """As `socket.getaddrinfo`. Raises `socket.gaierror`."""
        await trio.lowlevel.checkpoint()
        flags &= _FLAGS
        name = encode_host(host)
        listed = self._hosts.get(_fold(name)) if name is not None else None
        if listed is not None and not flags & socket.AI_NUMERICHOST:
            return _from_table(listed, port, family, type, proto, flags)
        only_numeric = flags | socket.AI_NUMERICHOST
        try:
            return _getaddrinfo(name, port, family, type, proto, only_numeric)
        except socket.gaierror as exc:
            wants_name = exc.errno == socket.EAI_NONAME and flags != only_numeric
            if self._delegate is None or not wants_name:
                raise
        return await self._delegate.getaddrinfo(  # type: ignore[return-value]
            name, port, family, type, proto, flags
        )

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        """As `socket.getnameinfo`; what is not in the table stays numeric."""
        await trio.lowlevel.checkpoint()
        if not flags & socket.NI_NUMERICHOST:
            for name, listed in self._hosts.items():
                if sockaddr[0] in listed:
                    numeric = socket.getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)
                    return name.decode("ascii"), numeric[1]
            if self._delegate is not None:
                return await self._delegate.getnameinfo(sockaddr, flags)
            if flags & socket.NI_NAMEREQD:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return socket.getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)


def encode_host(name: Host) -> bytes | None:
    """The form in which resolvers are asked, and DNS is (IDNA 2008, as trio's). UnicodeError
    if it has none."""
    if not isinstance(name, str):
        return name
    return name.encode("ascii") if name.isascii() else idna.encode(name, uts46=True)


def numeric(
    host: Host, port: Port, family: int, type_: int, proto: int, flags: int
) -> list[Entry] | None:
    """The entries for an address and a port that are numbers; None if somebody must be asked."""
    flags = flags & _FLAGS | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        return _getaddrinfo(host, port, family, type_, proto, flags)
    except socket.gaierror as exc:
        if exc.errno != socket.EAI_NONAME:
            raise
        return None


def _fold(name: bytes) -> bytes:
    return name.lower().removesuffix(b".")


def _getaddrinfo(
    host: Host, port: Port, family: int, type_: int, proto: int, flags: int
) -> list[Entry]:
    return socket.getaddrinfo(host, port, family, type_, proto, flags)  # type: ignore[return-value]


def _from_table(
    listed: Sequence[str], port: Port, family: int, type_: int, proto: int, flags: int
) -> list[Entry]:
    """The entries of a hosts line that `family` admits, in its order."""
    found: list[Entry] = []
    refusal: socket.gaierror | None = None
    for address in listed:
        try:
            found += _getaddrinfo(
                address, port, family, type_, proto, flags | socket.AI_NUMERICHOST
            )
        except socket.gaierror as exc:
            refusal = exc
    if not found and refusal is not None:
        raise refusal
    return found
