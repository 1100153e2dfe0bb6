"""TCP between two stacks in one process, through trio's eyes."""

from __future__ import annotations

import errno
import hashlib
import socket

import pytest
import trio
import trio.testing

from tests.sockets.pair import (
    FAMILIES,
    RIGHT,
    addresses,
    connected,
    receive_all,
    refused,
    some_bytes,
    stacks,
)
from ustack.sockets.resolver import Resolver

MEGABYTE = 1 << 20


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """A program that knows nothing of ustack."""
    async for chunk in stream:
        await stream.send_all(chunk)
    await stream.send_eof()


async def send_and_close(sock, data: bytes) -> None:
    assert await sock.send(data) == len(data)
    sock.shutdown(socket.SHUT_WR)


@FAMILIES
async def test_bulk_both_ways_at_once(family: int) -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right, family)
        there, back = some_bytes(3 * MEGABYTE, 1), some_bytes(3 * MEGABYTE, 2)
        got: dict[str, bytes] = {}

        async def receive(name: str, sock) -> None:
            got[name] = await receive_all(sock)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_close, client, there)
            nursery.start_soon(send_and_close, server, back)
            nursery.start_soon(receive, "there", server)
            nursery.start_soon(receive, "back", client)
        assert hashlib.sha256(got["there"]).digest() == hashlib.sha256(there).digest()
        assert hashlib.sha256(got["back"]).digest() == hashlib.sha256(back).digest()


@FAMILIES
async def test_names_of_a_connection(family: int) -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right, family)
        assert client.getpeername() == server.getsockname()
        assert server.getpeername() == client.getsockname()
        assert client.getsockname()[0] == addresses(family)[0]


async def test_half_close() -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        client.shutdown(socket.SHUT_WR)
        assert client.did_shutdown_SHUT_WR
        assert await server.recv(10) == b""
        await server.send(b"still open this way")
        server.close()
        assert await receive_all(client) == b"still open this way"
        with pytest.raises(BrokenPipeError):
            await client.send(b"x")


async def test_refused_and_unreachable() -> None:
    async with stacks() as (left, _):
        with left.socket() as sock, pytest.raises(ConnectionRefusedError):
            await sock.connect((RIGHT, 9))
        with left.socket() as sock, refused(errno.ENETUNREACH):
            await sock.connect(("192.0.2.1", 9))


async def test_a_stream_takes_and_gives_buffers_of_every_kind() -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        data = bytearray(b"mutable")
        await client.send(data)
        data[:] = b"changed"
        await client.sendmsg([b"-", memoryview(b"view"), bytearray(b"-end")])
        client.close()
        buf = bytearray(9)
        n = await server.recv_into(buf)
        rest, *_ = await server.recvmsg(100)
        assert bytes(buf[:n]) + rest + await receive_all(server) == b"mutable-view-end"


# -- cancelling ------------------------------------------------------------------------------


async def test_no_accepted_byte_is_lost_when_a_send_is_cancelled(autojump_clock) -> None:
    data = some_bytes(4 * MEGABYTE)
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        got: list[bytes] = []
        sent = 0

        async def slow_reader() -> None:
            while chunk := await server.recv(50_000):
                got.append(chunk)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_reader)
            while sent < len(data):
                with trio.move_on_after(0.025):
                    sent += await client.send(data[sent : sent + 400_000])
            client.shutdown(socket.SHUT_WR)
        assert b"".join(got) == data


async def test_no_byte_is_lost_when_receives_are_cancelled(autojump_clock) -> None:
    data = some_bytes(MEGABYTE)
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        got = []
        cancelled = 0

        async def slow_writer() -> None:
            for i in range(0, len(data), 20_000):
                await client.send(data[i : i + 20_000])
                await trio.sleep(0.01)
            client.shutdown(socket.SHUT_WR)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_writer)
            while not got or got[-1]:
                with trio.move_on_after(0.004) as scope:
                    got.append(await server.recv(7_000))
                cancelled += scope.cancelled_caught
        assert b"".join(got) == data
        assert cancelled > 50


async def test_every_blocked_call_can_be_cancelled_and_called_again() -> None:
    async with stacks() as (left, right):
        listener = right.socket()
        await listener.bind((RIGHT, 7))
        listener.listen()
        await cancel(listener.accept)
        client = left.socket()
        await client.connect((RIGHT, 7))
        server, _ = await listener.accept()
        buf = bytearray(10)
        for call in (
            server.wait_readable,
            lambda: server.recv(1),
            lambda: server.recv_into(buf),
            lambda: server.recvfrom(1),
            lambda: server.recvfrom_into(buf),
            lambda: server.recvmsg(1),
            lambda: server.recvmsg_into([buf]),
            lambda: server.recv(10, socket.MSG_WAITALL),
        ):
            await cancel(call)
        await client.send(b"x")
        assert await server.recv(10) == b"x"
        await clog(client)
        for call in (
            client.wait_writable,
            lambda: client.send(b"lost"),
            lambda: client.sendmsg([b"lost"]),
            lambda: client.sendto(b"lost", (RIGHT, 7)),
        ):
            await cancel(call)
        client.shutdown(socket.SHUT_WR)
        assert b"lost" not in await receive_all(server)


async def cancel(call) -> None:
    """Run `call` until it is blocked, and cancel it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_a_cancelled_connect_closes_the_socket(autojump_clock) -> None:
    async with stacks() as (left, right):
        right.sansio.del_address(RIGHT)
        sock = left.socket()
        with trio.move_on_after(0.5) as scope:
            await sock.connect((RIGHT, 7))
        assert scope.cancelled_caught
        assert sock.fileno() == -1
        assert left.ss().rows == ()


async def test_close_while_others_wait() -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await server.recv(10)

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await server.recv(10)
            server.close()
        assert await client.recv(10) == b""


# -- trio programs ---------------------------------------------------------------------------


async def clog(sock) -> None:
    """Send until not one byte more is taken, though everything has happened that can."""
    taken = 1
    while taken:
        taken = 0
        await trio.testing.wait_all_tasks_blocked(0.01)
        while n := await send_some(sock):
            taken += n


async def send_some(sock) -> int:
    try:
        return await sock.send(bytes(10_000), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


async def test_trios_conformance_suite() -> None:
    async with stacks() as (left, right):
        # A light checkpoint does not let other tasks run, which is what the suite asks for.
        left.checkpoint_every = right.checkpoint_every = 1

        async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
            client, server = await connected(left, right)
            return trio.SocketStream(client), trio.SocketStream(server)

        async def clogged_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
            client, server = await connected(left, right)
            for sock in (client, server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30_000)
            streams = trio.SocketStream(client), trio.SocketStream(server)
            for sock in (client, server):
                await clog(sock)
            return streams

        await trio.testing.check_half_closeable_stream(pair, clogged_pair)


async def test_an_echo_program_of_trios_runs_unchanged() -> None:
    """Server and client are plain trio; both ends are on the same stack, over loopback."""
    async with stacks() as (left, _):
        left.resolver = Resolver({"echo.test": ["fd00:9::2", "10.9.0.2"]})
        trio.socket.set_custom_socket_factory(left.socket_factory())
        trio.socket.set_custom_hostname_resolver(left.hostname_resolver())
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_tcp, echo, 7)
            data = some_bytes(200_000)
            for host in ("echo.test", "10.9.0.2", "127.0.0.1", "::1"):
                stream = await trio.open_tcp_stream(host, 7)
                async with stream, trio.open_nursery() as talk:

                    async def send(stream: trio.SocketStream = stream) -> None:
                        await stream.send_all(data)
                        await stream.send_eof()

                    talk.start_soon(send)
                    assert b"".join([chunk async for chunk in stream]) == data
            nursery.cancel_scope.cancel()


async def test_streams_of_the_stack() -> None:
    async with stacks() as (left, right), trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: right.serve_tcp(echo, 7, task_status=task_status))
        for host in addresses(socket.AF_INET)[1], addresses(socket.AF_INET6)[1]:
            async with await left.open_tcp_stream(host, 7) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert b"".join([chunk async for chunk in stream]) == b"hello"
        nursery.cancel_scope.cancel()


async def test_many_connections_at_once() -> None:
    async with stacks() as (left, right), trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: right.serve_tcp(echo, 7, task_status=task_status))
        done = []

        async def talk(i: int) -> None:
            async with await left.open_tcp_stream(RIGHT, 7) as stream:
                data = some_bytes(5_000, i)
                await stream.send_all(data)
                await stream.send_eof()
                assert b"".join([chunk async for chunk in stream]) == data
            done.append(i)

        async with trio.open_nursery() as talks:
            for i in range(100):
                talks.start_soon(talk, i)
        assert len(done) == 100
        nursery.cancel_scope.cancel()


# -- the end ---------------------------------------------------------------------------------


async def test_leaving_closes_connections_cleanly() -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        await client.send(b"last words")
        left.close_sockets()
        await left.wait_closed()
        assert await receive_all(server) == b"last words"
        assert client.fileno() == -1
        assert left.statistics().sockets == 0


async def test_leaving_takes_no_longer_than_the_grace(autojump_clock) -> None:
    start = trio.current_time()
    async with stacks(grace=3) as (left, right):
        _, server = await connected(left, right)
        await clog(server)
        right.sansio.del_address(RIGHT)
    assert 3 <= trio.current_time() - start < 7


async def test_exceptions_come_out_as_they_are() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with stacks():
            raise LookupError("mine")


class Broken(Exception):
    pass


async def test_an_error_of_the_stack_surfaces() -> None:
    def explode(frames, now, dev) -> None:
        raise Broken

    async def use() -> None:
        async with stacks() as (left, right):
            right.sansio.handle_batch = explode
            with left.socket() as sock:
                await sock.connect((RIGHT, 7))

    with pytest.raises(Broken):
        await use()


async def test_the_table_shows_connections() -> None:
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        await client.send(bytes(5_000))
        while server.ioctl(0x541B) < 5_000:
            await trio.testing.wait_all_tasks_blocked(0.001)
        (row,) = right.ss().rows
        assert (row.state, row.recv_q, row.send_q) == ("ESTAB", 5_000, 0)
        assert row.info["bytes_received"] == 5_000
        assert "cubic" in row.info
        (row,) = left.ss().rows
        assert row.info["bytes_sent"] == 5_000
        assert "ESTAB" in str(left.ss())


async def test_an_ipv6_only_socket_refuses_mapped_addresses() -> None:
    async with stacks() as (left, _):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = left.socket(socket.AF_INET6, kind)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with refused(errno.EINVAL):
                await sock.bind(("::ffff:10.9.0.2", 0))
            with refused(errno.ENETUNREACH):
                await sock.connect((f"::ffff:{RIGHT}", 7))
