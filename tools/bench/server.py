"""The side under test: the services of `service.py` as a trio program.

    python -m tools.bench.server --stack ustack [--no-offload]   on a TUN in this namespace
    python -m tools.bench.server --stack kernel                  on kernel sockets

It knows its stack only as something that has `socket(family, type)`.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import trio

from tools import testbed
from tools.bench import service


class Sockets(Protocol):
    """A stack, as far as a server needs one."""

    def socket(self, family: int, type: int) -> Any: ...


Handler = Callable[[Any], Awaitable[None]]
Counters = Callable[[], dict[str, int]]


async def echo(conn: Any) -> None:
    while data := await conn.recv(65536):
        await send_all(conn, data)


async def discard(conn: Any) -> None:
    buffer, counted = bytearray(service.CHUNK), 0
    while nbytes := await conn.recv_into(buffer):
        counted += nbytes
    await send_all(conn, service.LENGTH.pack(counted))


async def source(conn: Any) -> None:
    zeros = bytes(service.CHUNK)
    while True:
        await conn.send(zeros)


async def upload(conn: Any) -> None:
    receipt = service.Receipt(32_000_000)
    while nbytes := await conn.recv_into(receipt.room()):
        receipt.got(nbytes)
    await send_all(conn, receipt.line())


async def download(conn: Any) -> None:
    (nbytes,) = service.LENGTH.unpack(await conn.recv(8))
    await send_all(conn, service.payload(nbytes))
    conn.shutdown(socket.SHUT_WR)
    await conn.recv(1)


HANDLERS: dict[int, Handler] = {
    service.ECHO: echo,
    service.DISCARD: discard,
    service.SOURCE: source,
    service.UPLOAD: upload,
    service.DOWNLOAD: download,
}


async def send_all(conn: Any, data: bytes) -> None:
    """Send every byte; the usual case costs one call and no view."""
    sent = await conn.send(data)
    if sent < len(data):
        view = memoryview(data)
        while sent < len(data):
            sent += await conn.send(view[sent:])


async def connection(conn: Any, handler: Handler) -> None:
    """Serve one connection; a peer that resets it has had enough."""
    with contextlib.suppress(OSError), conn:
        await handler(conn)


async def listen(sockets: Sockets, family: int, port: int, nursery: trio.Nursery) -> None:
    sock = sockets.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    await sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    sock.listen(4096)
    nursery.start_soon(accept, sock, HANDLERS[port], nursery)


async def accept(sock: Any, handler: Handler, nursery: trio.Nursery) -> None:
    while True:
        conn, _ = await sock.accept()
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nursery.start_soon(connection, conn, handler)


async def udp_echo(sock: Any) -> None:
    while True:
        data, peer = await sock.recvfrom(65536)
        await sock.sendto(data, peer)


async def listen_udp(sockets: Sockets, family: int, nursery: trio.Nursery) -> None:
    sock = sockets.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    await sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", service.ECHO))
    nursery.start_soon(udp_echo, sock)


async def serve(sockets: Sockets, counters: Counters) -> None:
    """Serve until the end of stdin; each line there is answered with the counters."""
    async with trio.open_nursery() as nursery:
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in service.TCP_PORTS:
                await listen(sockets, family, port, nursery)
            await listen_udp(sockets, family, nursery)
        print("serving", flush=True)
        while True:
            await trio.lowlevel.wait_readable(sys.stdin.fileno())
            if not sys.stdin.readline():
                break
            print(json.dumps(counters()), flush=True)
        nursery.cancel_scope.cancel()


class KernelSockets:
    """The kernel's own stack in the same clothes."""

    def socket(self, family: int, type: int) -> Any:
        sock = socket.socket(family, type)
        if type == socket.SOCK_STREAM:
            service.prepare(sock)
        return trio.socket.from_stdlib_socket(sock)


@contextlib.asynccontextmanager
async def open_stack(stack: str, offload: bool) -> AsyncIterator[tuple[Sockets, Counters]]:
    if stack == "kernel":
        yield KernelSockets(), testbed.read_counters
        return
    import ustack

    async with ustack.open_tun(
        testbed.NEAR_DEV,
        addresses=[f"{testbed.NEAR4}/24", f"{testbed.NEAR6}/64"],
        peers=[f"{testbed.PEER4}/24", f"{testbed.PEER6}/64"],
        mtu=1500,
        offload=offload,
    ) as opened:
        yield opened, opened.sansio.mib.nonzero


async def run(stack: str, offload: bool) -> None:
    async with open_stack(stack, offload) as (sockets, counters):
        await serve(sockets, counters)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.server", description=__doc__)
    parser.add_argument("--stack", choices=("ustack", "kernel"), default="ustack")
    parser.add_argument("--no-offload", dest="offload", action="store_false")
    parser.add_argument("--profile", metavar="FILE", help="write cProfile's statistics there")
    args = parser.parse_args()
    service.raise_file_limit()
    profile = cProfile.Profile()
    if args.profile:
        profile.enable()
    try:
        trio.run(run, args.stack, args.offload)
    except KeyboardInterrupt:
        return 130
    finally:
        if args.profile:
            profile.disable()
            profile.dump_stats(args.profile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
