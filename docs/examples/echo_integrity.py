"""A stream has no message boundaries: ten echoes of 512 KiB, read in three ways.

A client on ustack sends 512 KiB of random bytes to an echo server on the kernel and reads
the echo: with one recv() for all of it, with recv() until all of it has come, and with one
recv() and MSG_WAITALL. The first is a common mistake: recv() returns as soon as there is
something, so the "message" is short, and comparing it with what was sent fails.

    python docs/examples/echo_integrity.py

Runs in a private network namespace of its own, as any user that may make one.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

import ustack
from ustack.io.namespace import enter_private_network

SIZE = 512 * 1024
ROUNDS = 10
RCVBUF = 128 * 1024  # it never holds a whole echo

Read = Callable[[ustack.SocketType], Awaitable[bytes]]


async def read_once(sock: ustack.SocketType) -> bytes:
    return await sock.recv(SIZE)


async def read_all(sock: ustack.SocketType) -> bytes:
    data = bytearray()
    while len(data) < SIZE:
        data += await sock.recv(SIZE - len(data))
    return bytes(data)


async def read_waitall(sock: ustack.SocketType) -> bytes:
    return await sock.recv(SIZE, socket.MSG_WAITALL)


async def echo(stream: trio.SocketStream) -> None:
    """The kernel's side: give back what comes, in whatever pieces it comes."""
    async for data in stream:
        await stream.send_all(data)


async def one_round(sock: ustack.SocketType, number: int, read: Read) -> int:
    """Send, read, compare: how many bytes were read, negative if they are not what was sent."""
    sent = ustack.Seeds(number).stream("message").randbytes(SIZE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sock.send, sent)  # while we read: neither side's buffers hold it all
        got = await read(sock)
        rest = SIZE - len(got)
        while rest:  # what is left would be taken for the next round's
            rest -= len(await sock.recv(rest))
    return len(got) if got == sent else -len(got)


async def experiment(stack: ustack.NetworkStack, port: int, read: Read) -> int:
    """How many of the rounds were right."""
    right, lengths = 0, Counter[int]()
    with stack.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RCVBUF)
        await sock.connect(("10.9.0.1", port))
        for number in range(ROUNDS):
            length = await one_round(sock, number, read)
            right += length > 0
            lengths[abs(length)] += 1
    print(f"{read.__name__:13} {right:2} of {ROUNDS} right; bytes read in a round: {dict(lengths)}")
    return right


async def main() -> bool:
    async with ustack.open_tun("ustack0") as stack, trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="10.9.0.1")
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        port = listeners[0].socket.getsockname()[1]
        results = [
            await experiment(stack, port, read) for read in (read_once, read_all, read_waitall)
        ]
        nursery.cancel_scope.cancel()
    once, all_, waitall = results
    holds = once < ROUNDS and all_ == waitall == ROUNDS
    print("wrong without a full read, right with it:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    enter_private_network()
    raise SystemExit(0 if trio.run(main) else 1)
