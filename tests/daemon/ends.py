"""Two ends of one stream, a service at one of them: no stack is needed for that."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.socket import SocketType

from ustack.daemon.services import TcpHandler


@asynccontextmanager
async def served(handler: TcpHandler) -> AsyncIterator[SocketType]:
    """The client's end of a connection to `handler`, which is over when the block is."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)

    async def serve() -> None:
        with theirs:
            await handler(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with ours:
            yield ours
        nursery.cancel_scope.cancel()


async def read_all(sock: SocketType) -> bytes:
    """To the end of the stream."""
    parts = []
    while data := await sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


async def read_exactly(sock: SocketType, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await sock.recv(size - len(data))
        assert more, f"the stream ended after {len(data)} of {size} bytes"
        data += more
    return data
