"""Two stacks joined in memory, and what tests do with them."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

import ustack
from ustack.seeds import Seeds

LEFT, RIGHT = "10.9.0.2", "10.9.0.1"
LEFT6, RIGHT6 = "fd00:9::2", "fd00:9::1"
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])


@asynccontextmanager
async def stacks(
    **options: object,
) -> AsyncIterator[tuple[ustack.NetworkStack, ustack.NetworkStack]]:
    options.setdefault("seed", 1)
    async with ustack.open_memory_pair(**options) as (left, right):
        yield left, right


def addresses(family: int) -> tuple[str, str]:
    """The hosts of the left and the right stack."""
    return (LEFT, RIGHT) if family == socket.AF_INET else (LEFT6, RIGHT6)


async def connected(
    left: ustack.NetworkStack, right: ustack.NetworkStack, family: int = socket.AF_INET
) -> tuple[ustack.SocketType, ustack.SocketType]:
    """A TCP connection, opened from the left."""
    host = addresses(family)[1]
    with right.socket(family, socket.SOCK_STREAM) as listener:
        await listener.bind((host, 0))
        listener.listen()
        client = left.socket(family, socket.SOCK_STREAM)
        await client.connect(listener.getsockname())
        server, _ = await listener.accept()
        return client, server


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def some_bytes(n: int, seed: int = 1) -> bytes:
    return Seeds(seed).stream("test data").randbytes(n)


async def receive_all(sock: ustack.SocketType) -> bytes:
    """Everything up to the end of the stream."""
    chunks = []
    while chunk := await sock.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


async def fill(sock: ustack.SocketType) -> None:
    """Send until there is no room, here and at the peer."""
    room = True
    while room:
        room = False
        try:
            while True:
                await sock.send(bytes(65536), socket.MSG_DONTWAIT)
                room = True
        except BlockingIOError:
            await trio.testing.wait_all_tasks_blocked()


async def settle(seconds: float = 1) -> None:
    """Let everything happen that is under way (in virtual time: use with a mock clock)."""
    await trio.sleep(seconds)
