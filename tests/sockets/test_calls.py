"""Calls for several messages, time limits, flags of accept: what waits, and how it ends."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import ustack
from tests.sockets.pair import LEFT, RIGHT, connected, fill, refused, some_bytes, stacks
from ustack.socket import (
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_WAITALL,
    MSG_WAITFORONE,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOL_SOCKET,
)

Clock = trio.testing.MockClock


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def datagrams(
    left: ustack.NetworkStack, right: ustack.NetworkStack
) -> tuple[ustack.SocketType, ustack.SocketType]:
    a, b = left.socket(type=socket.SOCK_DGRAM), right.socket(type=socket.SOCK_DGRAM)
    await a.bind((LEFT, 0))
    await b.bind((RIGHT, 0))
    await a.connect(b.getsockname())
    await b.connect(a.getsockname())
    return a, b


def bodies(messages: list[tuple[bytes, Any, int, Any]]) -> list[bytes]:
    return [data for data, _, _, _ in messages]


async def cancelled(call: Callable[[], Awaitable[Any]]) -> Any:
    """What `call` returns when it is cancelled while it waits; None if it was Cancelled."""
    result: list[Any] = []

    async def run() -> None:
        result.append(await call())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await blocked()
        assert result == []
        nursery.cancel_scope.cancel()
    return result[0] if result else None


# -- several messages ------------------------------------------------------------------------


async def test_messages_to_several_addresses() -> None:
    async with stacks() as (left, right):
        sinks = [right.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
        for sink in sinks:
            await sink.bind((RIGHT, 0))
        with left.socket(type=socket.SOCK_DGRAM) as sock:
            messages = [
                ([b"to ", bytes([i])], [], 0, sink.getsockname()) for i, sink in enumerate(sinks)
            ]
            assert await sock.sendmmsg(messages) == [4, 4, 4]
            source = (LEFT, sock.getsockname()[1])
            for i, sink in enumerate(sinks):
                assert await sink.recvmmsg(1, 10) == [(b"to " + bytes([i]), [], 0, source)]
            sinks[0].setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            tos = [(socket.IPPROTO_IP, socket.IP_TOS, struct.pack("i", 8))]
            await sock.sendmmsg([([b"too long"], tos, 0, sinks[0].getsockname())])
            ((data, control, flags, _),) = await sinks[0].recvmmsg(1, 3, 64)
            assert (data, flags) == (b"too", socket.MSG_TRUNC)
            assert control == [(socket.IPPROTO_IP, socket.IP_TOS, b"\x08")]


async def test_at_most_1024_messages() -> None:
    async with stacks() as (left, right):
        a, _ = await datagrams(left, right)
        assert await a.sendmmsg([([b""],)] * 1030) == [0] * 1024


async def test_a_blocking_receive_waits_for_all(autojump_clock: Clock) -> None:
    async with stacks() as (left, right):
        a, b = await datagrams(left, right)
        got: list[bytes] = []

        async def receive(flags: int) -> None:
            got[:] = bodies(await b.recvmmsg(3, 10, 0, flags))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, 0)
            for word in (b"1", b"2", b"3"):
                await blocked()
                assert got == []
                await a.send(word)
        assert got == [b"1", b"2", b"3"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, MSG_WAITFORONE)
            await blocked()
            await a.send(b"one")
        assert got == [b"one"]
        await a.sendmmsg([([b"1"],), ([b"2"],)])
        await blocked()
        assert bodies(await b.recvmmsg(3, 10, 0, MSG_WAITFORONE)) == [b"1", b"2"]
        with pytest.raises(BlockingIOError):
            await b.recvmmsg(3, 10, 0, MSG_DONTWAIT)


async def test_the_timeout_is_looked_at_after_each_message(autojump_clock: Clock) -> None:
    """As in the kernel: a call without messages waits beyond it."""
    async with stacks() as (left, right):
        a, b = await datagrams(left, right)
        begun = trio.current_time()
        got: list[bytes] = []

        async def receive() -> None:
            got.extend(bodies(await b.recvmmsg(9, 10, 0, 0, 5.0)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for _ in range(4):
                await trio.sleep(2)
                await a.send(b"x")
        assert got == [b"x"] * 3
        assert trio.current_time() - begun == pytest.approx(8)
        with refused(errno.EINVAL):
            await b.recvmmsg(1, 10, 0, 0, -1)
        assert bodies(await b.recvmmsg(9, 10, 0, 0, 0)) == [b"x"]


async def test_an_error_after_some_messages_is_kept(autojump_clock: Clock) -> None:
    async with stacks() as (left, right):
        a, b = await datagrams(left, right)
        got: list[bytes] = []

        async def receive() -> None:
            got.extend(bodies(await a.recvmmsg(3, 10)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await b.send(b"1")
            await blocked()
            b.close()
            await a.send(b"anyone?")
        assert got == [b"1"]
        for refusing in (lambda: a.recvmmsg(1, 10), lambda: a.recvmmsg(0, 10)):
            with refused(errno.ECONNREFUSED):
                await refusing()
            await a.send(b"anyone?")
            await blocked()
        # sendmmsg takes the pending error, then sends; the next one stops it, and is lost
        with refused(errno.ECONNREFUSED):
            await a.sendmmsg([([b"x"],)])
        a.setblocking(False)
        assert await a.sendmmsg([([b"x"],)]) == [1]


async def test_a_stream_takes_part_of_a_message() -> None:
    async with stacks() as (left, right):
        a, b = await connected(left, right)
        a.setblocking(False)
        data = some_bytes(1 << 20)
        messages = [([data],)] * 100
        sent = await a.sendmmsg(messages)
        assert 1 <= len(sent) < 100
        assert sent[:-1] == [len(data)] * (len(sent) - 1)
        assert sent[-1] < len(data)
        received = b""
        while len(received) < sum(sent):
            received += b"".join(bodies(await b.recvmmsg(4, 1 << 18, 0, MSG_WAITFORONE)))
        assert received == (data * 100)[: sum(sent)]


async def test_bad_arguments_are_refused() -> None:
    async with stacks() as (left, right):
        a, b = await datagrams(left, right)
        for messages in ([b"x"], [("x",)], [([b"x"], [(1, 2)])], [([b"x"], [], "0")], 7, [()]):
            with pytest.raises(TypeError):
                await a.sendmmsg(messages)
        for args in ((-1, 1), (1, -1), (1, 1, -1)):
            with pytest.raises(ValueError, match=r"negative|invalid"):
                await b.recvmmsg(*args)
        with pytest.raises(TypeError):
            await b.recvmmsg("1", 1)
        with pytest.raises(BlockingIOError):
            await b.recv(1, MSG_DONTWAIT)  # nothing was sent


async def test_cancelled_calls_return_what_they_have(autojump_clock: Clock) -> None:
    async with stacks() as (left, right):
        a, b = await datagrams(left, right)
        assert await cancelled(lambda: b.recvmmsg(3, 10)) is None
        await a.sendmmsg([([b"1"],), ([b"2"],)])
        await blocked()
        assert bodies(await cancelled(lambda: b.recvmmsg(3, 10))) == [b"1", b"2"]
        await a.send(b"3")
        assert bodies(await b.recvmmsg(1, 10)) == [b"3"]

        client, server = await connected(left, right)
        data = some_bytes(3 << 20)
        sent = await cancelled(lambda: client.sendmmsg([([data],)] * 50))
        assert sent[:-1] == [len(data)] * (len(sent) - 1)
        stream = data * len(sent)
        # MSG_WAITALL: a message in the making when the cancel comes
        total = sum(sent)
        whole = bodies(await server.recvmmsg(1, 1000, 0, MSG_WAITALL))
        received = whole[0]
        while len(received) < total:
            received += await server.recv(1 << 20)
        assert received == stream[:total]
        await client.send(b"12345678")
        parts = await cancelled(lambda: server.recvmmsg(3, 5, 0, MSG_WAITALL))
        assert bodies(parts) == [b"12345", b"678"]
        await client.send(b"still usable")
        assert await server.recv(100) == b"still usable"
        await fill(client)
        assert await cancelled(lambda: client.sendmmsg([([b"x"],)])) is None


async def test_every_wait_of_a_cancelled_call_loses_nothing(autojump_clock: Clock) -> None:
    """Receives of every kind, cancelled again and again: each byte arrives once, in order."""
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        data = some_bytes(200_000)
        got = bytearray()
        buffer = bytearray(700)

        async def by_into() -> bytes:
            return bytes(buffer[: await server.recv_into(buffer)])

        async def by_waiting() -> bytes:
            await ustack.poll([(server, ustack.socket.POLLIN)])
            return await server.recv(500, MSG_DONTWAIT)

        calls: list[Callable[[], Awaitable[bytes]]] = [
            lambda: server.recv(500, MSG_WAITALL),
            by_into,
            by_waiting,
            lambda: _joined(server.recvmmsg(3, 300)),
            lambda: _joined(server.recvmmsg(3, 300, 0, MSG_WAITFORONE)),
        ]

        async def send() -> None:
            for i in range(0, len(data), 1000):
                with trio.move_on_after(0.0005):
                    assert await client.send(data[i : i + 1000]) == len(data[i : i + 1000])
                await trio.sleep(0.001)
            client.shutdown(socket.SHUT_WR)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            turn = 0
            while len(got) < len(data):
                turn += 1
                with trio.move_on_after(0.0007):
                    got += await calls[turn % len(calls)]()
        assert bytes(got) == data


async def _joined(call: Awaitable[list[tuple[bytes, Any, int, Any]]]) -> bytes:
    return b"".join(bodies(await call))


async def test_two_tasks_in_one_call_on_a_stream() -> None:
    async with stacks() as (left, right):
        a, b = await connected(left, right)
        big = bytes(8 << 20)
        for waiting, busy in (
            (lambda: b.recvmmsg(1, 10), [lambda: b.recv(1), lambda: b.recvmmsg(1, 1)]),
            (lambda: b.recv(1), [lambda: b.recvmmsg(1, 1)]),
            (lambda: a.sendmmsg([([big],)]), [lambda: a.send(b"x"), lambda: a.sendmmsg([])]),
            (lambda: a.send(big), [lambda: a.sendmmsg([([b"x"],)])]),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting)
                await blocked()
                for call in busy:
                    with pytest.raises(trio.BusyResourceError):
                        await call()
                with pytest.raises(BlockingIOError):
                    await b.recvmmsg(1, 10, 0, MSG_ERRQUEUE)
                nursery.cancel_scope.cancel()
            while await ustack.poll([(b, ustack.socket.POLLIN)], 0.01):
                await b.recv(1 << 20)


async def test_closing_ends_them(autojump_clock: Clock) -> None:
    async with stacks() as (left, right):
        a, b = await datagrams(left, right)
        await a.send(b"1")
        await blocked()
        got: list[bytes] = []

        async def receive() -> None:
            got.extend(bodies(await b.recvmmsg(2, 10)))

        async def nothing() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await a.recvmmsg(2, 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(nothing)
            await blocked()
            b.close()
            a.close()
        assert got == [b"1"]
        for call in (lambda: a.sendmmsg([([b"x"],)]), lambda: a.recvmmsg(1, 1), a.accept4):
            with refused(errno.EBADF):
                await call()


# -- flags of accept, non-blocking sockets ---------------------------------------------------


async def test_accept4_makes_non_blocking_sockets() -> None:
    async with stacks() as (left, right):
        listener = right.socket()
        await listener.bind((RIGHT, 7))
        listener.listen()
        flags = (socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC, 0)
        listener.setblocking(False)  # is not inherited
        for flag in flags:
            with left.socket() as client:
                await client.connect((RIGHT, 7))
                await ustack.poll([(listener, ustack.socket.POLLIN)])
                sock, peer = await listener.accept4(flag)
                assert peer == client.getsockname()
                assert sock.getblocking() == (flag != socket.SOCK_NONBLOCK)
                assert isinstance(sock, ustack.SocketType)
        for flag in (1, socket.SOCK_NONBLOCK | 1, -1):
            with refused(errno.EINVAL):
                await listener.accept4(flag)
        with pytest.raises(TypeError):
            await listener.accept4("0")
        with pytest.raises(BlockingIOError):
            await listener.accept4()


# -- time limits -----------------------------------------------------------------------------

LIMIT = 1.5  # s
TIMEVAL = struct.pack("qq", 1, 500_000)


async def full_listener(right: ustack.NetworkStack, left: ustack.NetworkStack) -> None:
    """A listener on port 7 that answers no further SYN."""
    listener = right.socket()
    await listener.bind((RIGHT, 7))
    listener.listen(0)
    await left.socket().connect((RIGHT, 7))


async def test_time_limits_of_every_call(autojump_clock: Clock) -> None:
    """SO_RCVTIMEO and SO_SNDTIMEO end each wait with EAGAIN, connect's with EINPROGRESS."""
    async with stacks() as (left, right):
        a, b = await connected(left, right)
        udp, _ = await datagrams(left, right)
        await full_listener(right, left)
        listener, connecting = right.socket(), left.socket()
        listener.listen()
        for sock in (a, b, udp, listener, connecting):
            sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, TIMEVAL)
            sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, TIMEVAL)
        buffer = bytearray(10)
        assert await a.send(bytes(64 << 20)) < 64 << 20  # the limit, after some progress
        await fill(a)
        calls: list[tuple[int, Callable[[], Awaitable[Any]]]] = [
            (errno.EAGAIN, lambda: a.recv(1)),
            (errno.EAGAIN, lambda: a.recv_into(buffer)),
            (errno.EAGAIN, lambda: a.recvfrom(1)),
            (errno.EAGAIN, lambda: a.recvmsg(1)),
            (errno.EAGAIN, lambda: a.recvmmsg(2, 1)),
            (errno.EAGAIN, lambda: a.send(b"x")),
            (errno.EAGAIN, lambda: a.sendmsg([b"x"])),
            (errno.EAGAIN, lambda: a.sendmmsg([([b"x"],)])),
            (errno.EAGAIN, lambda: udp.recv(1)),
            (errno.EAGAIN, lambda: udp.recvmmsg(2, 1)),
            (errno.EINPROGRESS, lambda: connecting.connect((RIGHT, 7))),
            (errno.EALREADY, lambda: connecting.connect((RIGHT, 7))),
            (errno.EAGAIN, listener.accept),
            (errno.EAGAIN, listener.accept4),
        ]
        for code, call in calls:
            begun = trio.current_time()
            with refused(code):
                await call()
            assert trio.current_time() - begun == pytest.approx(LIMIT, abs=0.01), code
