"""Listening sockets for services, and what has been counted on them.

One task accepts for each service and address family, one task serves each connection, one
task serves each UDP socket. A UDP socket is bound to each address by itself, so that an
answer leaves from the address that was asked; TCP listens on the wildcard of a family.

What a peer can grow is bounded: above `max_connections` a service stops accepting and
leaves what comes to the listener's backlog, which the stack bounds. Every error of a
connection is counted under its errno and ends that connection alone.

Two UDP services that answer each other would never stop, and a forged datagram is all it
takes (CERT CA-1996-01). So a datagram from a well-known port (below 1024: RFC 6335
section 6), or from a port of our own services, gets no answer; inetd refuses the same.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import trio
from trio.socket import SocketType

from ustack.daemon.services import Service, UdpReply

BACKLOG = 4096
MAX_CONNECTIONS = 100_000
WELL_KNOWN_PORTS = 1024
MAX_DATAGRAM = 65536
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_REST = 0.1  # s to wait before accepting again when something has run out


class Sockets(Protocol):
    """Where sockets come from: a `NetworkStack`, or `trio.socket` for the kernel's."""

    def socket(self, family: int, type: int) -> SocketType: ...


class ServiceStats:
    """What one service has seen."""

    __slots__ = ("active", "answered", "connections", "datagrams", "errors", "refused")

    def __init__(self) -> None:
        self.connections = 0
        self.active = 0
        self.datagrams = 0
        self.answered = 0
        self.refused = 0  # datagrams that would start a loop
        self.errors: Counter[str] = Counter()  # by errno name

    def error(self, exc: OSError) -> None:
        self.errors[errno.errorcode.get(exc.errno or 0, "unknown")] += 1


class Server:
    """Services on the addresses of one host."""

    def __init__(
        self,
        sockets: Sockets,
        addresses: Sequence[str],
        nursery: trio.Nursery,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.addresses = addresses
        self.stats: dict[str, ServiceStats] = {}
        self._sockets = sockets
        self._nursery = nursery
        self._max = max_connections
        self._room: dict[str, trio.Event] = {}  # services that wait for a connection to end
        self._udp_ports: set[int] = set()

    def has_udp(self, port: int) -> bool:
        return port in self._udp_ports

    async def start(self, service: Service, port: int) -> None:
        """Serve on `port`; OSError if it cannot be bound."""
        stats = self.stats.setdefault(service.name, ServiceStats())
        families = {family_of(address) for address in self.addresses}
        for family in sorted(families):
            listener = await self._listen(family, port)
            self._nursery.start_soon(self._accept, listener, service, stats)
        if service.udp is None:
            return
        self._udp_ports.add(port)
        for address in self.addresses:
            sock = self._sockets.socket(family_of(address), socket.SOCK_DGRAM)
            await sock.bind((address, port))
            self._nursery.start_soon(self._answer, sock, service.udp, stats)

    async def _listen(self, family: int, port: int) -> SocketType:
        sock = self._sockets.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit it: an answer never waits for the peer's delayed ACK
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        sock.listen(BACKLOG)
        return sock

    async def _accept(self, listener: SocketType, service: Service, stats: ServiceStats) -> None:
        with listener:
            while True:
                await self._wait_for_room(service.name, stats)
                try:
                    conn, _ = await listener.accept()
                except OSError as exc:
                    stats.error(exc)
                    if exc.errno in _OUT_OF:
                        await trio.sleep(_REST)
                    continue
                stats.connections += 1
                stats.active += 1
                self._nursery.start_soon(self._serve, conn, service, stats)

    async def _wait_for_room(self, name: str, stats: ServiceStats) -> None:
        while stats.active >= self._max:
            await self._room.setdefault(name, trio.Event()).wait()

    async def _serve(self, conn: SocketType, service: Service, stats: ServiceStats) -> None:
        try:
            with conn:
                await service.tcp(conn)
        except OSError as exc:
            stats.error(exc)
        finally:
            stats.active -= 1
            if self._room:
                waiting = self._room.pop(service.name, None)
                if waiting is not None:
                    waiting.set()

    async def _answer(self, sock: SocketType, reply: UdpReply, stats: ServiceStats) -> None:
        ports = self._udp_ports
        with sock:
            while True:
                try:
                    data, peer = await sock.recvfrom(MAX_DATAGRAM)
                    stats.datagrams += 1
                    if peer[1] < WELL_KNOWN_PORTS or peer[1] in ports:
                        stats.refused += 1
                        continue
                    answer = reply(data)
                    if answer is not None:
                        await sock.sendto(answer, peer)
                        stats.answered += 1
                except OSError as exc:
                    stats.error(exc)


def family_of(address: str) -> socket.AddressFamily:
    """The family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def counters(stats: Mapping[str, ServiceStats]) -> str:
    """The counters of all services as a table."""
    head = ("Service", "Active", "Connections", "Datagrams", "Answered", "Refused", "Errors")
    rows: list[tuple[str, ...]] = [head]
    for name, one in stats.items():
        errors = " ".join(f"{what}:{count}" for what, count in sorted(one.errors.items()))
        numbers = (one.active, one.connections, one.datagrams, one.answered, one.refused)
        rows.append((name, *map(str, numbers), errors or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
