"""Services on a stack, asked by another stack over a cable in memory."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.socket import SocketType

from ustack.daemon.server import Server, ServiceStats, counters
from ustack.daemon.services import Service, small_services
from ustack.sockets.open import open_memory_pair
from ustack.sockets.stack import NetworkStack

HOSTS = ("10.9.0.2", "fd00:9::2")
SERVICES = small_services(random.Random(1))


@asynccontextmanager
async def serving(
    *services: Service, max_connections: int = 100
) -> AsyncIterator[tuple[Server, NetworkStack]]:
    """Services on their ports, and the stack of a client."""
    async with open_memory_pair() as (stack, client), trio.open_nursery() as nursery:
        server = Server(stack, HOSTS, nursery, max_connections)
        for service in services:
            await server.start(service, service.port)
        yield server, client
        nursery.cancel_scope.cancel()


async def udp(client: NetworkStack, host: str, port: int, source: int = 0) -> SocketType:
    sock = client.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    if source:
        await sock.bind(("fd00:9::1" if ":" in host else "10.9.0.1", source))
    await sock.connect((host, port))
    return sock


@pytest.mark.parametrize("host", HOSTS)
async def test_echo_on_tcp_and_udp(host: str) -> None:
    async with serving(SERVICES["echo"]) as (server, client):
        stream = await client.open_tcp_stream(host, 7)
        await stream.send_all(b"hello")
        assert await stream.receive_some(10) == b"hello"
        sock = await udp(client, host, 7)
        await sock.send(b"datagram")
        assert await sock.recv(100) == b"datagram"
        stats = server.stats["echo"]
        assert (stats.connections, stats.active) == (1, 1)
        assert (stats.datagrams, stats.answered, stats.refused) == (1, 1, 0)
        await stream.aclose()


@pytest.mark.parametrize("source", [7, 19, 1023])
async def test_a_datagram_from_a_well_known_port_gets_no_answer(source: int) -> None:
    async with serving(SERVICES["echo"], SERVICES["chargen"]) as (server, client):
        forged = await udp(client, HOSTS[0], 7, source)
        await forged.send(b"loop")
        honest = await udp(client, HOSTS[0], 7)
        await honest.send(b"no loop")
        assert await honest.recv(100) == b"no loop"
        assert not forged.is_readable()
        assert server.stats["echo"].refused == 1
        assert server.stats["echo"].answered == 1


async def test_a_datagram_from_a_service_on_another_port_gets_no_answer() -> None:
    moved = Service("echo", 7007, SERVICES["echo"].tcp, SERVICES["echo"].udp)
    async with serving(moved) as (server, client):
        forged = await udp(client, HOSTS[0], 7007, 7007)
        await forged.send(b"loop")
        honest = await udp(client, HOSTS[0], 7007)
        await honest.send(b"no loop")
        assert await honest.recv(100) == b"no loop"
        assert server.stats["echo"].refused == 1


async def test_a_reset_is_counted_and_others_are_served() -> None:
    async with serving(SERVICES["echo"]) as (server, client):
        victim = await client.open_tcp_stream(HOSTS[0], 7)
        await victim.send_all(b"x")
        await victim.receive_some(1)
        victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await victim.aclose()
        other = await client.open_tcp_stream(HOSTS[0], 7)
        await other.send_all(b"still here")
        assert await other.receive_some(100) == b"still here"
        assert server.stats["echo"].errors == {"ECONNRESET": 1}
        assert server.stats["echo"].active == 1
        await other.aclose()


async def test_above_the_limit_connections_wait_in_the_backlog() -> None:
    async with serving(SERVICES["echo"], max_connections=1) as (server, client):
        first = await client.open_tcp_stream(HOSTS[0], 7)
        await first.send_all(b"1")
        assert await first.receive_some(10) == b"1"
        second = await client.open_tcp_stream(HOSTS[0], 7)
        await second.send_all(b"2")
        await trio.testing.wait_all_tasks_blocked()
        assert server.stats["echo"].connections == 1
        await first.aclose()
        assert await second.receive_some(10) == b"2"
        assert server.stats["echo"].connections == 2
        await second.aclose()


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serving(SERVICES["echo"]) as (server, _):
        with pytest.raises(OSError, match="in use"):
            await server.start(SERVICES["discard"], 7)


def test_the_table_of_counters() -> None:
    stats = ServiceStats()
    stats.connections, stats.active = 12, 3
    stats.error(OSError(104, "reset"))
    head, row = counters({"echo": stats}).splitlines()
    assert head.split() == [
        *("Service", "Active", "Connections", "Datagrams", "Answered", "Refused", "Errors")
    ]
    assert row.split() == ["echo", "3", "12", "0", "0", "0", "ECONNRESET:1"]
