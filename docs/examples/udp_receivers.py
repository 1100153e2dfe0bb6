"""Several tasks receive on one UDP socket: each datagram goes to exactly one of them, whole.

Ten senders, none of which has bound its socket, send a hundred datagrams of different
lengths each; five tasks wait in recvfrom() on one socket. Nobody hears a datagram twice,
none is lost, none is joined with another, and the sender's address comes with it.

    python docs/examples/udp_receivers.py

Two stacks in memory: needs no rights.
"""

from __future__ import annotations

import socket
from collections import Counter, defaultdict

import trio

import ustack

SENDERS, EACH, RECEIVERS = 10, 100, 5
SERVER = ("10.9.0.1", 2000)


def message(sender: int, number: int) -> bytes:
    return f"{sender}/{number}:".encode() + b"x" * (number * 7)


async def send(stack: ustack.NetworkStack, sender: int, ports: dict[int, int]) -> None:
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(EACH):
            await sock.sendto(message(sender, number), SERVER)
            await trio.lowlevel.checkpoint()  # let the others
        ports[sender] = sock.getsockname()[1]


async def receive(
    sock: ustack.SocketType, name: str, heard: dict[str, list[tuple[bytes, int]]]
) -> None:
    while True:
        data, (_, port) = await sock.recvfrom(2000)
        heard[name].append((data, port))


async def main() -> bool:
    heard: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    ports: dict[int, int] = {}
    async with ustack.open_memory_pair() as (client, server):
        sock = server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind(SERVER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        async with trio.open_nursery() as receivers:
            for i in range(RECEIVERS):
                receivers.start_soon(receive, sock, f"receiver {i}", heard)
            async with trio.open_nursery() as senders:
                for i in range(SENDERS):
                    senders.start_soon(send, client, i, ports)
            with trio.move_on_after(5):
                while sum(map(len, heard.values())) < SENDERS * EACH:
                    await trio.sleep(0.01)
            receivers.cancel_scope.cancel()
    for name in sorted(heard):
        print(f"{name}: {len(heard[name])} datagrams")
    got = Counter(found for one in heard.values() for found in one)
    expected = Counter(
        (message(sender, number), ports[sender])
        for sender in range(SENDERS)
        for number in range(EACH)
    )
    holds = got == expected and len(heard) == RECEIVERS
    print("each datagram once, whole, with its sender:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if trio.run(main) else 1)
