"""One test body, two networks: the kernel's sockets and a stack's, both on loopback.

Sockets of both are non-blocking and have the same methods, async where a stack's are.
What happens on loopback has happened when the call returns, on either.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

import ustack
from tests.sockets import kernel_mmsg

POLL_ALL = 0x2FFF
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411


class KernelSocket:
    """A kernel socket with the methods of ours."""

    def __init__(self, sock: socket.socket, made: list[socket.socket]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.made = made
        made.append(sock)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.sock, name)
        if name not in _ASYNC:
            return call

        async def awaitable(*args: Any) -> Any:
            return call(*args)

        return awaitable

    async def accept(self) -> tuple[KernelSocket, object]:
        sock, peer = self.sock.accept()
        return KernelSocket(sock, self.made), peer

    async def accept4(self, flags: int) -> tuple[KernelSocket, object]:
        sock, peer = kernel_mmsg.accept4(self.sock, flags)
        return KernelSocket(sock, self.made), peer

    async def sendmmsg(self, *args: Any) -> list[int]:
        return kernel_mmsg.sendmmsg(self.sock, *args)

    async def recvmmsg(self, *args: Any) -> list[Any]:
        return kernel_mmsg.recvmmsg(self.sock, *args)

    async def select(self) -> list[bool]:
        return [bool(found) for found in select.select(*[[self.sock]] * 3, 0)]

    async def poll(self, mask: int) -> int:
        poller = select.poll()
        poller.register(self.sock.fileno(), mask)
        return sum(found for _, found in poller.poll(0))

    def poll_mask(self) -> int:
        poller = select.poll()
        poller.register(self.sock.fileno(), POLL_ALL)
        found = poller.poll(0)
        return found[0][1] if found else 0

    def ioctl(self, request: int) -> int:
        buf = bytearray(4)
        fcntl.ioctl(self.sock.fileno(), request, buf)
        return struct.unpack("i", buf)[0]


_ASYNC = {
    *("bind", "connect", "send", "sendto", "sendmsg"),
    *("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"),
}


class KernelBackend:
    name = "kernel"

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def socket(self, family: int, type_: int, proto: int = 0) -> KernelSocket:
        return KernelSocket(socket.socket(family, type_, proto), self.made)

    def disconnect(self, sock: KernelSocket) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.connect(sock.fileno(), bytes(16), 16):
            raise OSError(ctypes.get_errno(), "connect")


class StackSocket:
    """A stack's socket, made non-blocking."""

    def __init__(self, sock: ustack.SocketType) -> None:
        sock.setblocking(False)
        self.sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    async def accept(self) -> tuple[StackSocket, object]:
        sock, peer = await self.sock.accept()
        return StackSocket(sock), peer

    async def accept4(self, flags: int) -> tuple[StackSocket, object]:
        sock, peer = await self.sock.accept4(flags)
        return StackSocket(sock), peer

    async def select(self) -> list[bool]:
        return [bool(found) for found in await ustack.select(*[[self.sock]] * 3, 0)]

    async def poll(self, mask: int) -> int:
        return sum(found for _, found in await ustack.poll([(self.sock, mask)], 0))

    def poll_mask(self) -> int:
        sk = self.sock.sk
        return sk.prot.poll(sk, self.sock._driver.now()) & (POLL_ALL | 0x38)


class StackBackend:
    name = "ustack"

    def __init__(self, stack: ustack.NetworkStack) -> None:
        self.stack = stack

    def socket(self, family: int, type_: int, proto: int = 0) -> StackSocket:
        return StackSocket(self.stack.socket(family, type_, proto))

    def disconnect(self, sock: StackSocket) -> None:
        sock.disconnect()


@asynccontextmanager
async def kernel_backend() -> AsyncIterator[KernelBackend]:
    backend = KernelBackend()
    try:
        yield backend
    finally:
        for sock in backend.made:
            sock.close()


@asynccontextmanager
async def stack_backend() -> AsyncIterator[StackBackend]:
    async with ustack.open_memory_pair(seed=1, grace=0) as (stack, _):
        yield StackBackend(stack)


async def outcome(call: Callable[[], Awaitable[object]]) -> object:
    """What a call did: its result, or the name of its errno or exception."""
    try:
        return plain(await call())
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, repr(exc))
    except (TypeError, ValueError, OverflowError, trio.BusyResourceError) as exc:
        return type(exc).__name__


def plain(value: object) -> object:
    """A result without what differs from run to run: sockets, and ports but their being 0."""
    if isinstance(value, tuple) and len(value) in (2, 4) and isinstance(value[0], str):
        return (value[0], value[1] != 0, *value[2:])
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, KernelSocket | StackSocket):
        return "socket"
    return value
