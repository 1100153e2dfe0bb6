"""How a stack ends, and what that means for whoever still uses it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import ustack
from tests.sockets.pair import RIGHT, connected, fill, receive_all, some_bytes, stacks
from ustack import socket as ours

LINGER = struct.pack("ii", 1, 60)


async def test_a_cancelled_block_still_delivers(autojump_clock: trio.testing.MockClock) -> None:
    """The other end has its own stack's block around it: nobody waits for `grace`."""
    data = some_bytes(200_000)
    got = []
    with trio.move_on_after(1) as scope:
        async with stacks() as (left, right):
            client, server = await connected(left, right)
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    with trio.CancelScope(shield=True):
                        got.append(await receive_all(server))

                nursery.start_soon(read)
                await client.send(data)
                client.close()
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert got == [data]
    assert trio.current_time() < 1.5


async def test_a_cancelled_block_closes_its_connections_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """FINs on both sides, no grace in vain: the driver is there until the end."""
    with trio.move_on_after(1):
        async with stacks() as (left, right):
            await connected(left, right)
            await trio.sleep_forever()
    assert trio.current_time() < 1.1
    for stack in (left, right):
        mib = stack.statistics().mib
        assert mib["TcpInSegs"] >= 3  # the handshake's, and a FIN
        assert "TcpOutRsts" not in mib


async def waiting(calls: dict[str, Callable[[], Awaitable[Any]]], found: dict[str, Any]) -> None:
    """Make all the calls at once; what they returned or raised."""

    async def one(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            found[name] = await call()
        except (OSError, trio.ClosedResourceError) as exc:
            found[name] = type(exc).__name__

    async with trio.open_nursery() as nursery:
        for name, call in calls.items():
            nursery.start_soon(one, name, call)


async def calls_on(left: ustack.NetworkStack, right: ustack.NetworkStack) -> dict[str, Any]:
    """One blocking call of each kind."""
    client, _ = await connected(left, right)
    await fill(client)
    listener = right.socket()
    await listener.bind((RIGHT, 0))
    listener.listen()
    receiver = left.socket(ours.AF_INET, ours.SOCK_DGRAM)
    await receiver.bind(("", 9))
    epoll = ours.Epoll()
    epoll.register(receiver, ours.EPOLLIN)
    unanswered = left.socket()
    return {
        "recv": lambda: client.recv(1),
        "send": lambda: client.send(b"x"),
        "wait_writable": client.wait_writable,
        "accept": listener.accept,
        "connect": lambda: unanswered.connect(("10.9.0.77", 9)),
        "recvfrom": lambda: receiver.recvfrom(1),
        "wait_readable": receiver.wait_readable,
        "poll": lambda: ours.poll([(receiver, ours.POLLIN)]),
        "select": lambda: ours.select([receiver], [], []),
        "epoll": lambda: epoll.poll(30),
        "open_tcp_stream": lambda: left.open_tcp_stream("10.9.0.77", 9),
    }


CLOSED = dict.fromkeys(
    (
        *("recv", "send", "wait_writable", "accept", "connect", "recvfrom", "wait_readable"),
        *("select", "open_tcp_stream"),
    ),
    "ClosedResourceError",
)


async def test_calls_of_tasks_outside_end_with_the_stack(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found: dict[str, Any] = {}
    async with trio.open_nursery() as outside, stacks() as (left, right):
        outside.start_soon(waiting, await calls_on(left, right), found)
        await trio.testing.wait_all_tasks_blocked()
    assert found.pop("epoll") == []  # its sockets have left; after its 30 s
    assert [mask for _, mask in found.pop("poll")] == [ours.POLLNVAL]
    assert found == CLOSED


class Broken(Exception):
    pass


async def test_calls_of_tasks_outside_end_with_a_driver_that_fails(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found: dict[str, Any] = {}
    async with trio.open_nursery() as outside:

        async def fail() -> None:
            async with stacks() as (left, right):
                outside.start_soon(waiting, await calls_on(left, right), found)
                await trio.testing.wait_all_tasks_blocked()
                left.driver.add_device(Failing(), left.sansio.routes.devices[-1])
                left.driver.wake()
                await trio.sleep_forever()

        with pytest.raises(Broken):
            await fail()
    assert found.pop("epoll") == []
    assert [mask for _, mask in found.pop("poll")] == [ours.POLLNVAL]
    assert found == CLOSED


class Failing:
    """A device whose driver is broken."""

    def fileno(self) -> int:
        return -1

    def read_batch(self) -> list[Any]:
        raise Broken


async def test_a_lingering_close_ends_with_the_stack(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as outside:
        async with stacks(grace=1) as (left, right):
            client, server = await connected(left, right)
            await fill(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
            outside.start_soon(client.aclose)
            await trio.testing.wait_all_tasks_blocked()
            right.forget(server.fileno())  # a peer that neither reads nor closes
            start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(1)
    assert trio.current_time() - start == pytest.approx(1)


async def test_nothing_is_made_on_a_stack_that_has_ended() -> None:
    async with stacks() as (left, _):
        sock = left.socket()
    calls: list[Callable[[], Any]] = [
        left.socket,
        left.socket_factory().socket,
    ]
    for call in calls:
        with pytest.raises(trio.ClosedResourceError):
            call(socket.AF_INET, socket.SOCK_STREAM, 0)
    with pytest.raises(trio.ClosedResourceError):
        await left.open_tcp_stream(RIGHT, 9)
    with pytest.raises(trio.ClosedResourceError):
        await left.open_tcp_listeners(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await sock.connect((RIGHT, 9))
