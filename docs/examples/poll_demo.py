"""What poll() says of a TCP socket, from before its connection to after its end.

Each line is a step and the mask that poll(2) would give on Linux for the same socket.

    python docs/examples/poll_demo.py

Two stacks in memory: needs no rights.
"""

from __future__ import annotations

import select
import socket
import struct

import trio

import ustack

ASKED = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP
NAMES = {
    select.POLLIN: "IN", select.POLLPRI: "PRI", select.POLLOUT: "OUT", select.POLLERR: "ERR",
    select.POLLHUP: "HUP", select.POLLRDHUP: "RDHUP",
}  # fmt: skip


class Demo:
    """A socket, and what poll has said of it so far."""

    def __init__(self, sock: ustack.SocketType) -> None:
        self.sock = sock
        self.holds = True

    async def until(self, mask: int) -> None:
        await ustack.poll([(self.sock, mask)], 5)

    async def step(self, what: str, expected: str) -> None:
        found = await ustack.poll([(self.sock, ASKED)], 0)
        bits = found[0][1] if found else 0
        got = " ".join(name for bit, name in NAMES.items() if bits & bit) or "nothing"
        print(f"{what:52} {got}")
        self.holds = self.holds and got == expected


async def connect(demo: Demo, host: str) -> None:
    await demo.step("a new socket", "OUT HUP")
    try:
        await demo.sock.connect((host, 80))
    except BlockingIOError as exc:
        print(f"connect: {exc.strerror}")


async def unanswered(demo: Demo) -> None:
    await connect(demo, "10.9.0.77")
    await demo.step("nobody has answered the SYN yet", "nothing")
    demo.sock.close()


async def connecting(demo: Demo, listener: ustack.SocketType) -> ustack.SocketType:
    await connect(demo, "10.9.0.1")
    peer, _ = await listener.accept()
    await demo.until(select.POLLOUT)
    await demo.step("connected", "OUT")
    return peer


async def reading(demo: Demo, peer: ustack.SocketType) -> None:
    await peer.send(b"hello")
    await demo.until(select.POLLIN)
    await demo.step("five bytes have come", "IN OUT")
    await demo.sock.recv(5)
    await demo.step("and have been read", "OUT")
    await peer.send(b"!", socket.MSG_OOB)
    await demo.until(select.POLLPRI)
    await demo.step("an urgent byte has come", "PRI OUT")
    await demo.sock.recv(1, socket.MSG_OOB)


async def read_on(peer: ustack.SocketType) -> None:
    while await peer.recv(1 << 20):
        pass


async def fill(sock: ustack.SocketType) -> None:
    """Send until neither our buffer nor the peer's takes any more."""
    while await ustack.poll([(sock, select.POLLOUT)], 0.1):
        try:
            while True:
                await sock.send(bytes(65536))
        except BlockingIOError as exc:
            print(f"send: {exc.strerror}")


async def writing(demo: Demo, peer: ustack.SocketType) -> None:
    await fill(demo.sock)
    await demo.step("the peer does not read: the send buffer is full", "nothing")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on, peer)
        await demo.until(select.POLLOUT)
        await demo.step("the peer reads: a third of the buffer is free", "OUT")
        nursery.cancel_scope.cancel()


async def ending(demo: Demo, peer: ustack.SocketType) -> None:
    peer.shutdown(socket.SHUT_WR)
    await demo.until(select.POLLRDHUP)
    await demo.step("the peer has sent its last", "IN OUT RDHUP")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await demo.until(0)
    await demo.step("the peer has reset the connection", "IN OUT ERR HUP RDHUP")


async def main() -> bool:
    async with ustack.open_memory_pair() as (left, right):
        listener = right.socket(socket.AF_INET, socket.SOCK_STREAM)
        await listener.bind(("", 80))
        listener.listen()
        first, demo = (
            Demo(left.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            for _ in range(2)
        )
        await unanswered(first)
        peer = await connecting(demo, listener)
        for act in (reading, writing, ending):
            await act(demo, peer)
    holds = first.holds and demo.holds
    print("as on Linux:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if trio.run(main) else 1)
