"""Connections between ustack and a kernel: made, halved, refused, reset, stopped, many."""

from __future__ import annotations

import errno
import fcntl
import socket
import termios
from typing import Any

import pytest
import trio
import trio.testing

from tests.kernel.ends import (
    UDP,
    Ends,
    digest,
    echo,
    hash_of,
    payload,
    pump,
    receive_exactly,
    reset,
    serve,
    tcp_info,
    transfer,
    until,
)

pytestmark = pytest.mark.kernel
SIDES = pytest.mark.parametrize("side", ["stack", "peer"])


def by_side(side: str, stack_end: Any, peer_end: Any) -> tuple[Any, Any]:
    """(this side's end, the other's)."""
    return (stack_end, peer_end) if side == "stack" else (peer_end, stack_end)


@SIDES
async def test_handshake(ends: Ends, side: str) -> None:
    stack_end, peer_end = await ends.join(active=side)
    assert stack_end.getsockname()[0] == ends.stack_host
    assert stack_end.getpeername()[:2] == peer_end.getsockname()[:2]
    assert peer_end.getpeername()[:2] == stack_end.getsockname()[:2]
    await stack_end.send(b"from the stack")
    await peer_end.send(b"from the peer")
    assert await peer_end.recv(100) == b"from the stack"
    assert await stack_end.recv(100) == b"from the peer"
    agreed = tcp_info(peer_end)
    assert agreed["tcpi_options"] & 0b111 == 0b111  # timestamps, SACK, window scale
    overhead = 52 if ends.family == socket.AF_INET else 72
    assert agreed["tcpi_snd_mss"] == 1500 - overhead
    stack_end.close()
    assert await peer_end.recv(1) == b""


@SIDES
async def test_half_close(ends: Ends, side: str) -> None:
    """The side that has closed its sending half still receives everything."""
    closer, other = by_side(side, *await ends.join())
    await transfer(closer, other, 1_000)
    await transfer(other, closer, 1_000_000, seed=2)
    with pytest.raises(BrokenPipeError):
        await closer.send(b"more")


@SIDES
async def test_refused_port(ends: Ends, side: str) -> None:
    """A connect to a port without a listener is told so at once."""
    other = "peer" if side == "stack" else "stack"
    with await ends.listen(other) as listener:
        closed = listener.getsockname()[:2]
    client = ends.stack_socket() if side == "stack" else ends.peer_socket()
    with client, pytest.raises(ConnectionRefusedError) as caught:
        await client.connect(closed)
    assert caught.value.errno == errno.ECONNREFUSED


@SIDES
async def test_refused_datagram(ends: Ends, side: str) -> None:
    """The port unreachable that a datagram causes comes back to its connected socket."""
    other = "peer" if side == "stack" else "stack"
    client = ends.stack_socket(UDP) if side == "stack" else ends.peer_socket(UDP)
    with client:
        await client.connect((ends.host(other), 4000))
        await client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            await client.recv(100)


@SIDES
async def test_reset_in_mid_stream(ends: Ends, side: str) -> None:
    """An RST ends both a blocked send and a blocked recv at the other end, once."""
    breaker, other = by_side(side, *await ends.join())
    caught: list[type[BaseException]] = []

    async def send_for_ever() -> None:
        try:
            while True:
                await other.send(bytes(65536))
        except OSError as exc:
            caught.append(type(exc))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever)
            await receive_exactly(breaker, 1_000_000)
            reset(breaker)
    assert caught == [ConnectionResetError]
    with pytest.raises(BrokenPipeError):
        await other.send(b"x")


@SIDES
async def test_reset_wakes_a_reader(ends: Ends, side: str) -> None:
    breaker, other = by_side(side, *await ends.join())
    await other.send(b"hello")
    assert await breaker.recv(100) == b"hello"
    caught: list[type[BaseException]] = []

    async def read() -> None:
        try:
            await other.recv(100)
        except OSError as exc:
            caught.append(type(exc))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            reset(breaker)
    assert caught == [ConnectionResetError]
    assert await other.recv(100) == b""


@SIDES
async def test_zero_window_and_reopening(ends: Ends, side: str) -> None:
    """A receiver that does not read stops its sender, which probes; then all arrives.

    `side` is the sender.
    """
    nbytes = 20_000_000
    sender, receiver = by_side(side, *await ends.join())
    peer, stack = ends.bed.far.counters, ends.stack_counters
    counters_of_sender = stack if side == "stack" else peer
    counters_of_receiver = peer if side == "stack" else stack

    def probed() -> bool:
        return counters_of_sender().get("TcpExtTCPWinProbe", 0) > 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, sender, payload(nbytes))
        await until(probed, "a zero window probe")
        assert counters_of_receiver().get("TcpExtTCPToZeroWindowAdv", 0) > 0
        assert await digest(receiver) == (nbytes, hash_of(nbytes))
    assert counters_of_receiver().get("TcpExtTCPFromZeroWindowAdv", 0) > 0


@SIDES
async def test_200_concurrent_connections(ends: Ends, side: str) -> None:
    """Each connection gets its own bytes back while 199 others do the same."""
    count, done = 200, 0
    all_open = trio.Event()
    other = "peer" if side == "stack" else "stack"
    listener = await ends.listen(other, backlog=count)

    async def client(number: int) -> None:
        nonlocal done
        message = payload(10_000, seed=number)
        sock = ends.stack_socket() if side == "stack" else ends.peer_socket()
        with sock:
            await sock.connect(listener.getsockname()[:2])
            await sock.send(message[:1])
            assert await sock.recv(1) == message[:1]
            done += 1
            if done == count:
                all_open.set()
            await all_open.wait()
            view = memoryview(message)
            while view:
                view = view[await sock.send(view) :]
            assert await receive_exactly(sock, len(message)) == message

    async with trio.open_nursery() as servers:
        servers.start_soon(serve, listener, echo)
        async with trio.open_nursery() as clients:
            for number in range(count):
                clients.start_soon(client, number)
        servers.cancel_scope.cancel()
    listener.close()


async def test_self_connection(ends: Ends) -> None:
    """A socket that connects to its own port is its own peer (simultaneous open)."""
    with ends.stack_socket() as sock:
        await sock.bind((ends.stack_host, 4711))
        await sock.connect((ends.stack_host, 4711))
        assert sock.getsockname()[:2] == sock.getpeername()[:2]
        await sock.send(b"myself")
        assert await sock.recv(100) == b"myself"
        sock.shutdown(socket.SHUT_WR)
        assert await sock.recv(100) == b""


async def test_unread_bytes_are_counted(ends: Ends) -> None:
    """What the peer's kernel calls its receive queue is what the stack has sent."""
    stack_end, peer_end = await ends.join()
    await stack_end.send(b"x" * 12_345)

    def queued() -> int:
        raw = fcntl.ioctl(peer_end.fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(raw, "little")

    await until(lambda: queued() == 12_345, "12,345 bytes in the peer's receive queue")
    stack_end.close()
    peer_end.close()
