"""Control-C while the core is at work: the call is finished, then comes KeyboardInterrupt."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from tests.sockets.fakes import FakeProto, datagram_pair, fake_stack, stream_pair
from tests.sockets.pair import connected, stacks
from ustack.sockets.poll import Epoll

V4 = ("10.0.0.1", 7)


class Interrupted(FakeProto):
    """Every call gets a SIGINT in the middle."""

    def __getattribute__(self, name: str) -> Any:
        call = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(call):
            return call

        def interrupted(*args: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return call(*args)

        return interrupted


async def bind(sock: Any) -> object:
    return await sock.bind(V4)


async def connect(sock: Any) -> object:
    return await sock.connect(V4)


async def send(sock: Any) -> object:
    return await sock.send(b"x")


async def recv(sock: Any) -> object:
    return await sock.recv(1)


async def accept(sock: Any) -> object:
    return (await sock.accept())[1]


async def wait_readable(sock: Any) -> object:
    return await sock.wait_readable()


async def register(sock: Any) -> object:
    with Epoll() as epoll:
        return epoll.register(sock)


async def listen(sock: Any) -> object:
    return sock.listen()


async def shutdown(sock: Any) -> object:
    return sock.shutdown(1)


async def setsockopt(sock: Any) -> object:
    return sock.setsockopt(1, 7, 1)


async def close(sock: Any) -> object:
    return sock.close()


CALLS = [
    *(bind, connect, send, recv, accept, wait_readable, register, listen, shutdown),
    *(setsockopt, close),
]
RESULTS = {send: 1, recv: b"y", accept: V4}


@pytest.fixture(autouse=True)
def from_a_terminal() -> Iterator[None]:
    """A shell has what it starts in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_call_is_finished_first(call: Callable[[Any], Awaitable[object]]) -> None:
    results = []

    async def main() -> None:
        async with fake_stack() as stack:
            sock, peer = (datagram_pair if call is bind else stream_pair)(stack)
            if call is bind:
                sock = stack.socket()
            if call is accept:
                child = stack.sansio.socket(2, 1, 0)
                child.daddr, child.dport = b"\x0a\0\0\1", 7
                sock.sk.backlog.append(child)
            await peer.send(b"y")
            sock._prot = sock.sk.prot = Interrupted()
            results.append(await call(sock))
            sock._prot = FakeProto()
            with pytest.raises(KeyboardInterrupt):
                await trio.sleep_forever()

    trio.run(main)
    assert results == [RESULTS.get(call)]


class Interrupting:
    """A device in the midst of whose packets comes a SIGINT."""

    def __init__(self) -> None:
        self.interrupted = False

    def fileno(self) -> int:
        return -1

    def read_batch(self) -> list[Any]:
        if not self.interrupted:
            self.interrupted = True
            signal.raise_signal(signal.SIGINT)
        return []


def test_the_driver_goes_on() -> None:
    """The program gets the interrupt, and its connections are closed in order."""
    pair = []

    async def main() -> None:
        async with stacks() as (left, right):
            pair.extend((left, right))
            await connected(left, right)
            left.driver.add_device(Interrupting(), left.sansio.routes.devices[-1])
            left.driver.wake()
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    for stack in pair:
        assert stack.statistics().mib["TcpInSegs"] >= 3
        assert "TcpOutRsts" not in stack.statistics().mib
