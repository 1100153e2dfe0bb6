"""Arguments that are wrong, odd or too large: what `socket` says of them, on kernel and stack."""

from __future__ import annotations

import array
import ctypes
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.sockets.backends import kernel_backend, outcome, stack_backend
from tests.sockets.pair import RIGHT, connected, stacks
from tests.sockets.test_call_state import World, tcp_with_data, udp_with_data
from ustack import socket as ours

STRIDED = memoryview(bytes(6))[::2]
HERE = ("127.0.0.1", 9)
ODD_INTS = [-1, 1.0, True, None, "x", b"x", (), 1 << 31, 1 << 40, -(1 << 40), STRIDED]
ODD_BUFFERS = [None, 7, "text", b"", bytearray(3), array.array("H"), array.array("H", [1, 2])]
ODD_BUFFERS += [STRIDED, memoryview(bytes(4)), (ctypes.c_int * 2)(), [b"x"], 1.0]
ODD_LISTS = [None, 7, b"ab", (), [7], ["x"], [bytes(1)], [bytearray(2), bytearray(3)]]
ODD_LISTS += [[bytearray(1)] * 1024, [bytearray(1)] * 1025, [STRIDED]]
ODD_ANCILLARY = [None, 7, [7], [(1, 2)], [(1.0, 2, b"")], [(1, 2, "x")], [(1 << 40, 2, b"")]]
ODD_ADDRESSES = [None, "127.0.0.1", ["127.0.0.1", 9], (), ("127.0.0.1",), (*HERE, 0), (None, 9)]
ODD_ADDRESSES += [("127.0.0.1", -1), ("127.0.0.1", 1 << 16), ("127.0.0.1", 9.0), (7, 9)]
ODD_ADDRESSES += [("127.0.0.1", None), (b"127.0.0.1", 9), (bytearray(b"127.0.0.1"), 9), ("::1", 9)]

Call = Callable[[Any], Any]


def calls_with(ints: Any, buffer: Any, many: Any, ancillary: Any, address: Any) -> dict[str, Call]:
    """Each call with one odd argument, which is the same in every argument of its kind."""
    return {
        "recv flags": lambda s: s.recv(4, ints),
        "recv_into": lambda s: s.recv_into(buffer),
        "recv_into nbytes": lambda s: s.recv_into(bytearray(4), ints),
        "recvfrom": lambda s: s.recvfrom(4, ints),
        "recvfrom_into": lambda s: s.recvfrom_into(buffer),
        "recvmsg flags": lambda s: s.recvmsg(4, 0, ints),
        "recvmsg ancillary": lambda s: s.recvmsg(4, ints),
        "recvmsg_into": lambda s: s.recvmsg_into(many),
        "send": lambda s: s.send(buffer),
        "send flags": lambda s: s.send(b"x", ints),
        "sendto": lambda s: s.sendto(buffer, HERE),
        "sendto address": lambda s: s.sendto(b"x", address),
        "sendmsg": lambda s: s.sendmsg(many),
        "sendmsg ancillary": lambda s: s.sendmsg([b"x"], ancillary),
        "sendmsg flags": lambda s: s.sendmsg([b"x"], [], ints),
        "connect": lambda s: s.connect(address),
    }


def sync_calls_with(ints: Any, buffer: Any) -> dict[str, Call]:
    return {
        "listen": lambda s: s.listen(ints),
        "shutdown": lambda s: s.shutdown(ints),
        "setblocking": lambda s: s.setblocking(ints),
        "getsockopt level": lambda s: s.getsockopt(ints, 9),
        "getsockopt name": lambda s: s.getsockopt(6, ints),
        "setsockopt level": lambda s: s.setsockopt(ints, 9, 1),
        "setsockopt value": lambda s: s.setsockopt(1, 9, buffer),
    }


def all_calls() -> dict[str, Call]:
    kinds = (ODD_INTS, ODD_BUFFERS, ODD_LISTS, ODD_ANCILLARY, ODD_ADDRESSES)
    found = {}
    for n in range(max(map(len, kinds))):
        odd = [kind[min(n, len(kind) - 1)] for kind in kinds]
        found |= {f"{name} {n}": call for name, call in calls_with(*odd).items()}
        for name, call in sync_calls_with(*odd[:2]).items():
            found[f"{name} {n}"] = _awaited(call)
    return found


def _awaited(call: Call) -> Call:
    async def awaitable(sock: Any) -> Any:
        return call(sock)

    return awaitable


async def told(call: Call, sock: Any) -> object:
    try:
        return await outcome(lambda: call(sock))
    except BufferError:
        return "BufferError"


@pytest.mark.parametrize("state", [tcp_with_data, udp_with_data], ids=["tcp", "udp"])
async def test_odd_arguments(state: Any) -> None:
    differences = {}
    for name, call in all_calls().items():
        async with kernel_backend() as kernel, stack_backend() as stack:
            theirs = await told(call, await state(World(kernel, socket.AF_INET)))
            mine = await told(call, await state(World(stack, socket.AF_INET)))
        if mine != theirs:
            differences[name] = f"kernel {theirs!r}, ustack {mine!r}"
    assert differences == {}


@pytest.mark.parametrize(
    "rest", [(7, "x"), (7, -1), (7, 1 << 20), (7, 0, "x"), (7, 0, -1), (7, 0, 0, 0), (7, 5), ()]
)
async def test_odd_flow_labels_and_scopes(rest: tuple[Any, ...]) -> None:
    async def sendto(sock: Any) -> Any:
        return await sock.sendto(b"x", ("::1", *rest))

    async with kernel_backend() as kernel, stack_backend() as stack:
        theirs, mine = (b.socket(socket.AF_INET6, socket.SOCK_DGRAM) for b in (kernel, stack))
        assert await told(sendto, mine) == await told(sendto, theirs)


async def test_no_length_is_too_large() -> None:
    """`socket` would have to allocate the buffer first."""
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        await client.send(b"hello")
        assert await server.recv(1 << 40) == b"hello"
        with pytest.raises(OverflowError):
            await server.recv(1 << 64)


async def test_receiving_into_nothing_does_not_ask() -> None:
    """`recv(0)` and `recv_into` without room, as in `socket`; recvfrom and recvmsg do ask."""
    async with stacks() as (left, right):
        client, server = await connected(left, right)
        assert await server.recv(0) == b""
        assert await server.recv_into(bytearray()) == 0
        with pytest.raises(BlockingIOError):
            await server.recvfrom(0, ours.MSG_DONTWAIT)
        sock = right.socket(ours.AF_INET, ours.SOCK_DGRAM)
        await sock.bind((RIGHT, 9))
        await left.socket(ours.AF_INET, ours.SOCK_DGRAM).sendto(b"hello", (RIGHT, 9))
        await sock.wait_readable()
        assert (await sock.recv(0), await sock.recv(9)) == (b"", b"hello")
        server.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await server.recv(0)
        client.close()


async def test_sendmmsg_looks_at_no_more_than_it_may() -> None:
    async with stacks() as (left, _):
        sock = left.socket(ours.AF_INET, ours.SOCK_DGRAM)
        await sock.connect((RIGHT, 9))

        def endless() -> Any:
            while True:
                yield ([b"x"],)

        assert len(await sock.sendmmsg(endless())) == 1024
        too_many = ([b"x"] * 1025,)
        assert await sock.sendmmsg([([b"x"],), too_many, ([b"x"],)]) == [1]
        with pytest.raises(OSError, match="Message too long"):
            await sock.sendmmsg([too_many])


async def test_names_in_odd_forms() -> None:
    async with stacks() as (left, _):
        for host in ("localhost", b"localhost", bytearray(b"localhost")):
            sock = left.socket(ours.AF_INET, ours.SOCK_DGRAM)
            await sock.connect((host, "9"))
            assert sock.getpeername() == HERE
        for host in (None, 7, 1.0):
            with pytest.raises(TypeError):
                await sock.connect((host, "9"))


async def test_calls_that_raise_let_others_run() -> None:
    """Also those that do not get as far as the core."""
    async with stacks() as (left, right):
        _, server = await connected(left, right)
        closed = left.socket(ours.AF_INET, ours.SOCK_DGRAM)
        closed.close()
        epoll = ours.Epoll()
        epoll.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.recv, 1)
            await trio.testing.wait_all_tasks_blocked()
            calls: list[Callable[[], Any]] = [
                lambda: closed.recv(1),
                lambda: closed.send(b"x"),
                lambda: closed.sendmmsg([([b"x"],)]),
                lambda: closed.accept(),
                lambda: closed.connect((RIGHT, 9)),
                lambda: closed.wait_readable(),
                lambda: server.recv(1),
                lambda: server.recvmmsg(1, 1),
                lambda: ours.select([closed], [], []),
                lambda: epoll.poll(0),
            ]
            for call in calls:
                refused = pytest.raises((OSError, trio.BusyResourceError))
                with trio.testing.assert_checkpoints(), refused:
                    await call()
            nursery.cancel_scope.cancel()


async def test_odd_times_and_counts() -> None:
    async with stacks() as (left, _):
        sock = left.socket()
        epoll = ours.Epoll()
        for odd in ("x", float("nan"), b""):
            for call in (
                lambda: ours.poll([(sock, 0)], odd),
                lambda: ours.select([sock], [], [], odd),
                lambda: epoll.poll(odd),
                lambda: sock.recvmmsg(1, 1, 0, 0, odd),
            ):
                with pytest.raises((TypeError, ValueError)):
                    await call()
        with pytest.raises(TypeError):
            await epoll.poll(0, 1.0)  # type: ignore[arg-type]
        with pytest.raises(OSError, match="Invalid argument"):
            await epoll.poll(0, 0)
        epoll.register(sock)
        with pytest.raises(FileExistsError, match="File exists"):
            epoll.register(sock)
