"""The small services of a host: echo, discard, daytime, character generator.

A TCP handler is given a connected socket and returns when it is done; whoever calls it
closes the socket and counts the OSError that it may raise. A UDP service is a function
from a datagram to its answer, None for none; the loop around it is the server's, which
also refuses what could start two services answering each other for ever.

They work on sockets, not on trio streams: a big `recv` and a `send` of what came cost
one call into the stack each, and received bytes are not copied again.

Sources: RFC 862 (echo), RFC 863 (discard), RFC 867 (daytime), RFC 864 (chargen).
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio
from trio.socket import SocketType

RECV_SIZE = 256 * 1024
LINGER = 2.0  # s to wait for a peer's FIN before closing
_UNFILLED = bytearray(RECV_SIZE)  # only its size matters, see `drain`

TcpHandler = Callable[[SocketType], Awaitable[None]]
UdpReply = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class Service:
    """A service by name: its usual port, and what it does on TCP and on UDP."""

    name: str
    port: int
    tcp: TcpHandler
    udp: UdpReply | None = None


async def send_all(conn: SocketType, data: bytes | memoryview) -> None:
    """Send every byte."""
    sent = await conn.send(data)
    while sent < len(data):
        sent += await conn.send(memoryview(data)[sent:])


async def finish(conn: SocketType) -> None:
    """End the stream and wait a little for the peer's end.

    Closing with unread data would reset the connection, and the peer could lose what we
    have just sent.
    """
    conn.shutdown(socket.SHUT_WR)
    with trio.move_on_after(LINGER):
        await drain(conn)


async def drain(conn: SocketType) -> int:
    """Read to the end of the stream without looking; the number of bytes.

    MSG_TRUNC lets TCP drop the bytes without copying them: the buffer is never filled.
    """
    total = 0
    while count := await conn.recv_into(_UNFILLED, 0, socket.MSG_TRUNC):
        total += count
    return total


async def echo(conn: SocketType) -> None:
    while data := await conn.recv(RECV_SIZE):
        await send_all(conn, data)


async def discard(conn: SocketType) -> None:
    await drain(conn)


async def daytime(conn: SocketType) -> None:
    await send_all(conn, daytime_text())
    await finish(conn)


async def chargen(conn: SocketType) -> None:
    """Send until the peer resets the connection; what it sends is thrown away (RFC 864)."""
    ended: OSError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain_quietly, conn)
        try:
            while True:
                await send_all(conn, _CHARGEN_STREAM)
        except OSError as exc:
            ended = exc
            nursery.cancel_scope.cancel()
    if ended is not None:
        raise ended


async def _drain_quietly(conn: SocketType) -> None:
    """A reset ends the sender too, and is its error to raise."""
    with suppress(OSError):
        await drain(conn)


def daytime_text() -> bytes:
    """The form that RFC 867 gives first: `Tuesday, February 22, 1982 17:37:43-PST`."""
    return time.strftime("%A, %B %d, %Y %H:%M:%S-UTC\r\n", time.gmtime()).encode("ascii")


def chargen_cycle() -> bytes:
    """One cycle of the pattern of RFC 864: 95 lines of 72 characters, each one character on."""
    ring = bytes(range(ord(" "), ord("~") + 1))
    doubled = ring + ring
    return b"".join(doubled[i : i + 72] + b"\r\n" for i in range(len(ring)))


_CHARGEN_CYCLE = chargen_cycle()
_CHARGEN_STREAM = _CHARGEN_CYCLE * (RECV_SIZE // len(_CHARGEN_CYCLE))
_CHARGEN_MAX = 512  # RFC 864: a datagram of 0 to 512 characters


def chargen_datagrams(rng: random.Random) -> UdpReply:
    """The UDP service: each datagram is answered by one of a random length."""

    def reply(data: bytes) -> bytes:
        return _CHARGEN_CYCLE[: rng.randint(0, _CHARGEN_MAX)]

    return reply


def small_services(rng: random.Random) -> dict[str, Service]:
    """The services of this module by name."""
    services = (
        Service("echo", 7, echo, lambda data: data),
        Service("discard", 9, discard, lambda data: None),
        Service("daytime", 13, daytime, lambda data: daytime_text()),
        Service("chargen", 19, chargen, chargen_datagrams(rng)),
    )
    return {service.name: service for service in services}
