"""Two ends for the tests of this folder: the stack under test and a kernel, one program.

Both ends are trio sockets in the test's own event loop. The stack under test is ustack on
a TUN, or, as a control that proves the tests themselves, another kernel over a veth: what
a kernel cannot pass is no test of ustack.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

import ustack
from tools import testbed
from tools.bench import service
from ustack.observe import sock_diag

CHUNK = 256 * 1024
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
POLL_S = 0.005  # between looks at a kernel's counters, which nothing announces


@dataclass(frozen=True)
class Near:
    """What stands at the near end."""

    name: str
    offload: bool = True

    @property
    def is_kernel(self) -> bool:
        return self.name == "kernel"


class KernelStack:
    """The control: the kernel of the near namespace, as if it were a stack of ours."""

    def socket(self, family: int, type: int) -> Any:
        return trio.socket.socket(family, type)


class Ends:
    """Makes sockets at either end, and closes them. `bed.near` must be the thread's namespace."""

    def __init__(self, bed: testbed.Bed, near: Near, stack: Any, family: int) -> None:
        self.bed = bed
        self.near = near
        self.stack = stack
        self.family = family
        six = family == socket.AF_INET6
        self.stack_host = testbed.NEAR6 if six else testbed.NEAR4
        self.peer_host = bed.far6 if six else bed.far4
        self._made: list[Any] = []

    def stack_socket(self, type: int = TCP) -> Any:
        return self._keep(self.stack.socket(self.family, type))

    def peer_socket(self, type: int = TCP) -> Any:
        with self.bed.far.entered():
            sock = socket.socket(self.family, type)
        if type == TCP:
            service.prepare(sock)
        return self._keep(trio.socket.from_stdlib_socket(sock))

    def _keep(self, sock: Any) -> Any:
        self._made.append(sock)
        return sock

    def close(self) -> None:
        """Close every socket made here, those that a failed test left open too."""
        for sock in self._made:
            sock.close()

    def stack_counters(self) -> dict[str, int]:
        """The SNMP counters of the stack; those that are zero may be absent."""
        if self.near.is_kernel:
            return self.bed.near.counters()
        counters: dict[str, int] = self.stack.sansio.mib.nonzero()
        return counters

    async def listen(self, side: str, backlog: int = 128) -> Any:
        """A listening socket at "stack" or "peer", on a port of its choice."""
        sock = self.stack_socket() if side == "stack" else self.peer_socket()
        await sock.bind((self.host(side), 0))
        sock.listen(backlog)
        return sock

    def host(self, side: str) -> str:
        return self.stack_host if side == "stack" else self.peer_host

    async def join(self, active: str = "peer") -> tuple[Any, Any]:
        """A connection, opened by "stack" or "peer": (stack's end, peer's end)."""
        passive = "stack" if active == "peer" else "peer"
        client = self.peer_socket() if active == "peer" else self.stack_socket()
        with await self.listen(passive) as listener:
            await client.connect(listener.getsockname()[:2])
            server = self._keep((await listener.accept())[0])
        return (server, client) if passive == "stack" else (client, server)


@contextlib.asynccontextmanager
async def open_near(near: Near, mtu: int = 1500) -> AsyncIterator[Any]:
    """The stack under test, in the namespace where the thread is."""
    if near.is_kernel:
        yield KernelStack()
        return
    async with ustack.open_tun(
        testbed.NEAR_DEV,
        addresses=[f"{testbed.NEAR4}/24", f"{testbed.NEAR6}/64"],
        peers=[f"{testbed.PEER4}/24", f"{testbed.PEER6}/64"],
        mtu=mtu,
        offload=near.offload,
        grace=0.5,
    ) as stack:
        yield stack


@functools.lru_cache(maxsize=2)
def payload(nbytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(nbytes)


@functools.lru_cache(maxsize=4)
def hash_of(nbytes: int, seed: int = 1) -> str:
    return hashlib.sha256(payload(nbytes, seed)).hexdigest()


async def pump(sock: Any, data: bytes) -> None:
    """Send everything, then the end of the stream."""
    view, sent = memoryview(data), 0
    while sent < len(data):
        sent += await sock.send(view[sent : sent + CHUNK])
    sock.shutdown(socket.SHUT_WR)


async def digest(sock: Any, at: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Read to the end: how many bytes, and their hash. `at` hears the count as it grows."""
    sha, counted, buffer = hashlib.sha256(), 0, bytearray(CHUNK)
    view = memoryview(buffer)
    while nbytes := await sock.recv_into(buffer):
        sha.update(view[:nbytes])
        counted += nbytes
        if at is not None:
            at(counted)
    return counted, sha.hexdigest()


async def receive_exactly(sock: Any, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        part = await sock.recv(nbytes - len(data))
        assert part, f"the stream ended after {len(data)} of {nbytes} bytes"
        data += part
    return data


async def transfer(source: Any, sink: Any, nbytes: int, seed: int = 1, at: Any = None) -> None:
    """Move `nbytes` from `source` to `sink` and check that they are what was sent."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, source, payload(nbytes, seed))
        got = await digest(sink, at)
    assert got == (nbytes, hash_of(nbytes, seed))


async def both_ways(one: Any, other: Any, nbytes: int) -> None:
    """Transfers in both directions of one connection at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfer, one, other, nbytes, 1)
        nursery.start_soon(transfer, other, one, nbytes, 2)


async def until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Wait for something that only looking can tell."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(POLL_S)
        return
    raise AssertionError(f"never happened in {seconds} s: {what}")


async def serve(listener: Any, handler: Callable[[Any], Awaitable[None]]) -> None:
    """Accept for ever and handle each connection in a task of its own."""
    async with trio.open_nursery() as nursery:
        while True:
            conn, _ = await listener.accept()
            nursery.start_soon(_handle, conn, handler)


async def _handle(conn: Any, handler: Callable[[Any], Awaitable[None]]) -> None:
    with conn:
        await handler(conn)


async def echo(conn: Any) -> None:
    while data := await conn.recv(65536):
        view = memoryview(data)
        while view:
            view = view[await conn.send(view) :]


def tcp_info(sock: Any) -> dict[str, int]:
    """TCP_INFO of either end's socket, by tcp_info's own field names."""
    return sock_diag.tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512))


def reset(sock: Any) -> None:
    """Close with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
