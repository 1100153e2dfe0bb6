"""UDP between two stacks in one process."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
import trio.testing

from tests.sockets.pair import FAMILIES, RIGHT, addresses, refused, some_bytes, stacks
from ustack.sockets.resolver import Resolver

DGRAM = socket.SOCK_DGRAM


@FAMILIES
async def test_echo(family: int) -> None:
    async with stacks() as (left, right):
        host = addresses(family)[1]
        server, client = right.socket(family, DGRAM), left.socket(family, DGRAM)
        await server.bind((host, 7))
        for size in (0, 1, 1400, 9000, 65507 if family == socket.AF_INET else 65527):
            data = some_bytes(size)
            assert await client.sendto(data, server.getsockname()) == size
            got, peer = await server.recvfrom(70000)
            assert got == data
            assert peer[0] == addresses(family)[0]
            assert await server.sendto(got, peer) == size
            assert await client.recvfrom(70000) == (data, server.getsockname())


async def test_a_sender_is_not_written_as_the_program_wrote_it() -> None:
    """recvfrom says where a datagram came from in full, whatever was given to sendto."""
    async with stacks() as (left, _):
        for family, host, full in (
            (socket.AF_INET, "localhost", ("127.0.0.1", 9)),
            (socket.AF_INET, "127.1", ("127.0.0.1", 9)),
            (socket.AF_INET6, "::1", ("::1", 9, 0, 0)),
            (socket.AF_INET6, "0::0:1", ("::1", 9, 0, 0)),
        ):
            with left.socket(family, DGRAM) as sock:
                await sock.bind(("", 9))
                given = (host, 9)
                for _ in range(2):
                    await sock.sendto(b"x", given)
                    assert await sock.recvfrom(9) == (b"x", full)


class Changing(Resolver):
    """A name that means something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = ["127.0.0.1", "127.0.0.2"]

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        address = self.answers.pop(0)
        return await super().getaddrinfo(address, port, family, type, proto, flags)


async def test_a_name_is_looked_up_for_every_datagram() -> None:
    async with stacks() as (left, _):
        left.resolver = Changing()
        host = bytearray(b"127.0.0.1")
        with left.socket(type=DGRAM) as sock, left.socket(type=DGRAM) as one:
            await one.bind(("127.0.0.2", 9))
            await sock.bind(("127.0.0.1", 9))
            given = ("changing", 9)
            for receiver in (sock, one):
                await sock.sendto(b"x", given)
                assert await receiver.recv(9, socket.MSG_DONTWAIT) == b"x"
            mutable = (host, 9)
            await sock.sendto(b"y", mutable)
            host[-1:] = b"2"
            await sock.sendto(b"z", mutable)
            assert await sock.recv(9, socket.MSG_DONTWAIT) == b"y"
            assert await one.recv(9, socket.MSG_DONTWAIT) == b"z"


@FAMILIES
async def test_a_closed_port_refuses(family: int) -> None:
    async with stacks() as (left, _):
        sock = left.socket(family, DGRAM)
        await sock.connect((addresses(family)[1], 9))
        await sock.send(b"anyone?")
        with refused(errno.ECONNREFUSED):
            await sock.recv(10)


async def test_several_tasks_receive_on_one_socket() -> None:
    async with stacks() as (left, right):
        server, client = right.socket(type=DGRAM), left.socket(type=DGRAM)
        await server.bind((RIGHT, 7))
        await client.connect((RIGHT, 7))
        got: list[bytes] = []

        async def receive() -> None:
            got.append(await server.recv(100))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            for i in range(5):
                await client.send(bytes([i]))
        assert sorted(got) == [bytes([i]) for i in range(5)]


async def test_cancelled_receive_loses_nothing() -> None:
    async with stacks() as (left, right):
        server, client = right.socket(type=DGRAM), left.socket(type=DGRAM)
        await server.bind((RIGHT, 7))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.recv, 100)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await client.sendto(b"x", (RIGHT, 7))
        assert await server.recv(100) == b"x"


async def test_close_wakes_the_receivers() -> None:
    async with stacks() as (_, right):
        server = right.socket(type=DGRAM)
        await server.bind((RIGHT, 7))
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await server.recv(100)

            nursery.start_soon(receive)
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            server.close()


async def test_truncation_and_flags() -> None:
    async with stacks() as (left, right):
        server, client = right.socket(type=DGRAM), left.socket(type=DGRAM)
        await server.bind((RIGHT, 7))
        await client.connect((RIGHT, 7))
        await client.send(b"0123456789")
        await server.wait_readable()
        data, _, flags, _ = await server.recvmsg(4, 0, socket.MSG_PEEK)
        assert (data, flags) == (b"0123", socket.MSG_TRUNC)
        buf = bytearray(4)
        assert await server.recv_into(buf, 0, socket.MSG_TRUNC) == 10
        assert bytes(buf) == b"0123"
        with pytest.raises(BlockingIOError):
            await server.recv(1, socket.MSG_DONTWAIT)


async def test_names_of_an_ipv6_socket_for_ipv4() -> None:
    async with stacks() as (left, right):
        server, client = right.socket(socket.AF_INET6, DGRAM), left.socket(type=DGRAM)
        await server.bind(("::", 7))
        await client.connect((RIGHT, 7))
        await client.send(b"four")
        data, peer = await server.recvfrom(100)
        assert (data, peer[0]) == (b"four", "::ffff:10.9.0.2")
        await server.sendto(b"back", peer)
        assert await client.recv(100) == b"back"


async def test_the_table_shows_it() -> None:
    async with stacks() as (left, right):
        server = right.socket(type=DGRAM)
        await server.bind((RIGHT, 7))
        client = left.socket(type=DGRAM)
        await client.sendto(bytes(100), (RIGHT, 7))
        await server.wait_readable()
        (row,) = right.ss().rows
        assert (row.netid, row.state, row.local) == ("udp", "UNCONN", "10.9.0.1:7")
        assert row.recv_q >= 100
        assert row.skmem.rmem == row.recv_q
        await server.recv(100)
        assert right.ss().rows[0].recv_q == 0
        assert right.statistics().mib["UdpInDatagrams"] == 1
        assert left.statistics().mib["UdpOutDatagrams"] == 1


async def test_to_itself() -> None:
    async with stacks() as (left, _):
        sock = left.socket(type=DGRAM)
        await sock.bind(("127.0.0.1", 0))
        await sock.connect(sock.getsockname())
        await sock.send(b"me")
        assert await sock.recv(10, socket.MSG_DONTWAIT) == b"me"
