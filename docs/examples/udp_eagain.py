"""EAGAIN on a UDP socket: only a slow device below makes one wait, never the peer.

A datagram is charged to its socket until the device has sent it. Non-blocking sends go
through while the charge is less than SO_SNDBUF, then fail with EAGAIN; poll() says OUT again
when less than half of the buffer is charged. First a link of 80 kbit/s, then one without a
limit whose other end nobody reads.

    python docs/examples/udp_eagain.py

Two stacks in memory: needs no rights.
"""

from __future__ import annotations

import select
import socket
import struct

import trio

import ustack

SO_MEMINFO, WMEM, SNDBUF = 55, 2, 3
TO = ("10.9.0.1", 9)


def meminfo(sock: ustack.SocketType) -> tuple[int, ...]:
    return struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))


def open_socket(stack: ustack.NetworkStack) -> ustack.SocketType:
    sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    return sock


async def fill(sock: ustack.SocketType, size: int, limit: int = 10_000) -> tuple[int, bool]:
    """Send until EAGAIN: how many datagrams went, and whether it came."""
    for count in range(limit):
        try:
            await sock.sendto(bytes(size), TO)
        except BlockingIOError:
            return count, True
    return limit, False


async def slow() -> bool:
    good = []
    async with ustack.open_memory_pair(rate=80_000) as (left, _):
        for size in (100, 1472, 4000):
            with open_socket(left) as sock:
                count, full = await fill(sock, size)
                wmem, sndbuf = meminfo(sock)[WMEM], meminfo(sock)[SNDBUF]
                print(f"{count} datagrams of {size} bytes, then EAGAIN: wmem {wmem} of {sndbuf}")
                good.append(full and count > 0 and wmem >= sndbuf)
                good.append(not await ustack.poll([(sock, select.POLLOUT)], 0))
                await ustack.poll([(sock, select.POLLOUT)], 10)
                wmem = meminfo(sock)[WMEM]
                print(f"    OUT again at wmem {wmem}: less than half")
                good.append(wmem < sndbuf // 2)
                while meminfo(sock)[WMEM]:
                    await trio.sleep(0.05)
    return all(good)


async def fast() -> bool:
    async with ustack.open_memory_pair() as (left, right):
        with open_socket(left) as sock, right.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            await deaf.bind(TO)
            count, full = await fill(sock, 1000)
            await trio.sleep(0.1)
            drops = meminfo(deaf)[8]
    print(f"{count} datagrams to a peer that does not read: it has dropped {drops}; no EAGAIN")
    return not full and drops > 0


async def main() -> bool:
    holds = await slow() and await fast()
    print("EAGAIN comes from below, not from the peer:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if trio.run(main) else 1)
