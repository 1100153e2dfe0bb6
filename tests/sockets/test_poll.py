"""poll, select and epoll: waiting, waking, closing and cancelling."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import ustack
from tests.sockets.pair import RIGHT, connected, fill, refused, stacks
from ustack.socket import (
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDHUP,
    MSG_DONTWAIT,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLRDHUP,
)

Clock = trio.testing.MockClock
Pair = tuple[ustack.SocketType, ustack.SocketType]
LONG = 1000.0


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with stacks() as (left, right):
        yield await connected(left, right)


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def meanwhile(call: Callable[[], Awaitable[Any]]) -> AsyncIterator[list[Any]]:
    """`call` waits in a task of its own while the block runs; what it did is in the list."""
    done: list[Any] = []

    async def run() -> None:
        try:
            done.append(await call())
        except (OSError, trio.ClosedResourceError) as why:
            done.append(type(why))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await blocked()
        assert done == []
        yield done
        await blocked()
        nursery.cancel_scope.cancel()


def watchers(*socks: ustack.SocketType) -> int:
    return sum(len(sock.sk.wait_queue.waiters) for sock in socks)


# -- poll --------------------------------------------------------------------------------------


async def test_poll_says_what_is_true_now(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    assert await ustack.poll([(a, POLLIN | POLLOUT), (b, POLLIN)], 0) == [(a, POLLOUT)]
    await a.send(b"x")
    await blocked()
    assert await ustack.poll([(b, POLLIN), (a, POLLIN), (b, POLLOUT)]) == [
        (b, POLLIN),
        (b, POLLOUT),
    ]
    b.close()  # with unread data: a reset
    await blocked()
    everything = POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP
    assert await ustack.poll([(a, POLLIN | POLLOUT | POLLRDHUP)]) == [(a, everything)]
    assert await ustack.poll([(a, 0)]) == [(a, POLLERR | POLLHUP)]


async def test_poll_wakes_for_what_it_asked_for(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    async with meanwhile(lambda: ustack.poll([(a, 0), (b, POLLIN)], LONG)) as done:
        assert watchers(a, b) == 2
        await b.send(b"wakes nobody: a was not asked for data")
        await blocked()
        assert done == []
        await a.send(b"x")
    assert done == [[(b, POLLIN)]]
    assert watchers(a, b) == 0


@pytest.mark.parametrize("timeout", [0, 0.001, 7.5])
async def test_poll_ends_in_time(pair: Pair, autojump_clock: Clock, timeout: float) -> None:
    begun = trio.current_time()
    assert await ustack.poll([(pair[0], POLLIN)], timeout) == []
    assert trio.current_time() - begun == pytest.approx(timeout, abs=1e-6)
    assert await ustack.poll([], timeout) == []
    assert trio.current_time() - begun == pytest.approx(2 * timeout, abs=1e-6)


@pytest.mark.parametrize("timeout", [None, -1, float("inf")])
async def test_poll_waits_for_ever(
    pair: Pair, autojump_clock: Clock, timeout: float | None
) -> None:
    a, _ = pair
    with trio.move_on_after(1e6) as scope:
        await ustack.poll([(a, POLLIN)], timeout)
    assert scope.cancelled_caught
    assert watchers(a) == 0
    with trio.move_on_after(1e6) as scope:
        await ustack.poll([], timeout)
    assert scope.cancelled_caught


async def test_poll_of_closed_and_negative_entries(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    async with meanwhile(lambda: ustack.poll([(a, POLLIN), (b, POLLIN)])) as done:
        a.close()
    assert done == [[(a, POLLNVAL), (b, POLLIN)]] or done == [[(a, POLLNVAL)]]
    assert await ustack.poll([(-1, POLLIN), (a, POLLIN)]) == [(a, POLLNVAL)]
    assert await ustack.poll([(-1, POLLIN)], 5) == []
    for wrong in ("no socket", 7, None, trio.socket.socket()):
        with pytest.raises(TypeError):
            await ustack.poll([(wrong, POLLIN)])
        if isinstance(wrong, trio.socket.SocketType):
            wrong.close()
    with pytest.raises(TypeError):
        await ustack.poll([(a, "r")])
    for mask in (-1, 1 << 16):
        with pytest.raises(OverflowError):
            await ustack.poll([(a, mask)])


async def test_poll_over_two_stacks(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    async with meanwhile(lambda: ustack.poll([(a, POLLIN), (b, POLLIN)], LONG)) as done:
        await b.send(b"x")
    assert done == [[(a, POLLIN)]]


async def test_poll_is_woken_by_room_to_write(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    a.setblocking(False)
    await fill(a)
    async with meanwhile(lambda: ustack.poll([(a, POLLOUT)], LONG)) as done:
        while not done:
            await b.recv(1 << 20)
    assert done == [[(a, POLLOUT)]]


async def test_a_connect_is_polled_for(autojump_clock: Clock) -> None:
    """The usual non-blocking client: EINPROGRESS, poll for OUT, SO_ERROR."""
    async with stacks() as (left, right):
        with right.socket() as listener:
            await listener.bind((RIGHT, 7))
            sock, other = (
                left.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in "ab"
            )
            with refused(errno.EINPROGRESS):
                await sock.connect((RIGHT, 7))
            assert await ustack.poll([(sock, POLLOUT)]) == [(sock, POLLOUT | POLLERR | POLLHUP)]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            listener.listen()
            with refused(errno.EINPROGRESS):
                await other.connect((RIGHT, 7))
            assert await ustack.poll([(other, POLLOUT)]) == [(other, POLLOUT)]
            await other.connect((RIGHT, 7))
            with refused(errno.EISCONN):
                await other.connect((RIGHT, 7))


# -- select ------------------------------------------------------------------------------------


async def test_select(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    assert await ustack.select([a, b], [b, a], [a], 0) == ([], [b, a], [])
    async with meanwhile(lambda: ustack.select([a], [], [a, b], LONG)) as done:
        await a.send(b"!", socket.MSG_OOB)
    assert done == [([], [], [b])]
    begun = trio.current_time()
    assert await ustack.select([a], [], [], 2.5) == ([], [], [])
    assert await ustack.select([], [], [], 2.5) == ([], [], [])
    assert trio.current_time() - begun == pytest.approx(5)


async def test_a_hang_up_is_readable_but_not_writable(pair: Pair, autojump_clock: Clock) -> None:
    fresh = pair[0]._stack.socket()  # POLLOUT and POLLHUP
    assert await ustack.select([fresh], [], [fresh], 0) == ([fresh], [], [])
    assert await ustack.select([], [fresh], [], 0) == ([], [fresh], [])


async def test_select_refuses(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with refused(errno.EINVAL):
        await ustack.select([a], [], [], -1)
    with pytest.raises(TypeError):
        await ustack.select([1], [], [])
    async with meanwhile(lambda: ustack.select([a], [], [])) as done:
        a.close()
    assert done == [trio.ClosedResourceError]
    with refused(errno.EBADF):
        await ustack.select([b], [a], [])


# -- epoll -------------------------------------------------------------------------------------


async def test_level_triggered_goes_on_saying_so(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(b, EPOLLIN)
        async with meanwhile(ep.poll) as done:
            await a.send(b"xy")
        assert done == [[(b, EPOLLIN)]]
        for _ in range(3):
            assert await ep.poll() == [(b, EPOLLIN)]
        await b.recv(1)
        assert await ep.poll() == [(b, EPOLLIN)]
        await b.recv(1)
        assert await ep.poll(1) == []


async def test_edge_triggered_says_so_once_a_wake_up(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(b, EPOLLIN | EPOLLET)
        for _ in range(2):  # the second while the first is unread: a new edge
            async with meanwhile(ep.poll) as done:
                await a.send(b"x")
            assert done == [[(b, EPOLLIN)]]
            assert await ep.poll(1) == []
        await b.recv(1)  # what is left is no edge
        assert await ep.poll(1) == []
        ep.modify(b, EPOLLIN | EPOLLET)  # but this is
        assert await ep.poll() == [(b, EPOLLIN)]
        a.shutdown(socket.SHUT_WR)
        assert await ep.poll() == [(b, EPOLLIN)]
        ep.modify(b, EPOLLRDHUP | EPOLLET)
        assert await ep.poll() == [(b, EPOLLRDHUP)]


async def test_an_edge_to_write_comes_after_a_refused_send(
    pair: Pair, autojump_clock: Clock
) -> None:
    a, b = pair
    a.setblocking(False)
    with ustack.Epoll() as ep:
        ep.register(a, EPOLLOUT | EPOLLET)
        assert await ep.poll() == [(a, EPOLLOUT)]
        await fill(a)
        assert await ep.poll(0) == []
        async with meanwhile(ep.poll) as done:
            while not done:
                await b.recv(1 << 20)
        assert done == [[(a, EPOLLOUT)]]
        assert await ep.poll(1) == []


async def test_one_shot_is_silent_until_modified(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(b, EPOLLIN | EPOLLONESHOT)
        await a.send(b"x")
        assert await ep.poll() == [(b, EPOLLIN)]
        await a.send(b"x")
        a.close()  # not even a hang-up
        assert await ep.poll(1) == []
        ep.modify(b, EPOLLIN | EPOLLONESHOT)
        assert await ep.poll() == [(b, EPOLLIN)]


async def test_errors_and_hang_ups_need_not_be_asked_for(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(a, 0)
        await a.send(b"unread")
        await blocked()
        async with meanwhile(ep.poll) as done:
            b.close()
        assert done == [[(a, EPOLLERR | EPOLLHUP)]]


async def test_one_event_wakes_one_of_the_tasks_that_wait(
    pair: Pair, autojump_clock: Clock
) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(b, EPOLLIN | EPOLLET)
        async with meanwhile(ep.poll) as first, meanwhile(ep.poll) as second:
            await a.send(b"x")
            await blocked()
            assert (first, second) == ([[(b, EPOLLIN)]], [])
            await a.send(b"x")
        assert second == [[(b, EPOLLIN)]]


async def test_what_stays_ready_wakes_the_next_task_too(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(b, EPOLLIN)
        async with meanwhile(ep.poll) as first, meanwhile(ep.poll) as second:
            await a.send(b"x")
        assert first == second == [[(b, EPOLLIN)]]


async def test_a_cancelled_waiter_passes_the_event_on(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(b, EPOLLIN | EPOLLET)
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await ep.poll()

        async with meanwhile(first), meanwhile(ep.poll) as second:
            scope.cancel()
            await a.send(b"x")
        assert second == [[(b, EPOLLIN)]]


@pytest.mark.parametrize("flag", [0, EPOLLEXCLUSIVE])
async def test_an_exclusive_socket_wakes_one_epoll(
    pair: Pair, autojump_clock: Clock, flag: int
) -> None:
    a, b = pair
    with ustack.Epoll() as one, ustack.Epoll() as other, ustack.Epoll() as deaf:
        for ep in (deaf, one, other):  # nobody waits at `deaf`, so it does not count
            ep.register(b, EPOLLIN | flag)
        async with meanwhile(one.poll) as first, meanwhile(other.poll) as second:
            await a.send(b"x")
            await blocked()
            assert first == [[(b, EPOLLIN)]]
            assert second == ([] if flag else [[(b, EPOLLIN)]])


async def test_maxevents_takes_turns(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    socks = [a, b, a._stack.socket(type=socket.SOCK_DGRAM)]
    with ustack.Epoll() as ep:
        for sock in socks:
            ep.register(sock, EPOLLOUT)
        order = [(await ep.poll(0, 1))[0][0] for _ in range(6)]
        assert order == socks * 2
        assert len(await ep.poll()) == 3
        for wrong in (0, -2):
            with refused(errno.EINVAL):
                await ep.poll(0, wrong)


async def test_epoll_refuses(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    ep = ustack.Epoll()
    ep.register(a)
    with refused(errno.EEXIST):
        ep.register(a, EPOLLIN)
    for call in (lambda: ep.modify(b, EPOLLIN), lambda: ep.unregister(b)):
        with refused(errno.ENOENT):
            call()
    ep.register(b, EPOLLIN | EPOLLEXCLUSIVE)
    for call in (
        lambda: ep.modify(a, EPOLLIN | EPOLLEXCLUSIVE),
        lambda: ep.modify(b, EPOLLIN),
        lambda: ep.register(ep, EPOLLIN),
    ):
        with refused(errno.EINVAL):
            call()
    with pytest.raises(TypeError):
        ep.register(7, EPOLLIN)
    with pytest.raises(TypeError):
        ep.modify(a, None)
    ep.modify(a, EPOLLIN | EPOLLET - (1 << 32))  # EPOLLET as a C int, which select.epoll takes
    ep.unregister(b)
    with refused(errno.EINVAL):
        ep.register(b, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE)
    b.close()
    with refused(errno.EBADF):
        ep.register(b, EPOLLIN)
    ep.close()
    ep.close()
    assert ep.closed
    for call in (lambda: ep.register(a), lambda: ep.modify(a, 1), lambda: ep.unregister(a)):
        with refused(errno.EBADF):
            call()
    with refused(errno.EBADF):
        await ep.poll()
    assert watchers(a) == 0


async def test_a_closed_socket_leaves(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        ep.register(a, EPOLLIN)
        ep.register(b, EPOLLIN)
        async with meanwhile(ep.poll) as done:
            b.close()
        assert done == [[(a, EPOLLIN)]]
        a.close()
        assert await ep.poll(5) == []


async def test_closing_an_epoll_wakes_who_waits(pair: Pair, autojump_clock: Clock) -> None:
    for registered in (True, False):
        ep = ustack.Epoll()
        if registered:
            ep.register(pair[0], EPOLLIN)
        async with meanwhile(ep.poll) as first, meanwhile(lambda ep=ep: ep.poll(LONG)) as second:
            ep.close()
        assert first == second == [trio.ClosedResourceError]


async def test_registering_wakes_who_waits(pair: Pair, autojump_clock: Clock) -> None:
    a, b = pair
    with ustack.Epoll() as ep:
        begun = trio.current_time()
        assert await ep.poll(3) == []
        assert trio.current_time() - begun == pytest.approx(3)
        async with meanwhile(ep.poll) as done:
            ep.register(a, EPOLLIN)
            await blocked()
            assert done == []
            ep.register(b, EPOLLOUT)
        assert done == [[(b, EPOLLOUT)]]


async def test_an_epoll_outlives_a_stack(autojump_clock: Clock) -> None:
    """Its timer goes on when the stack that it ran by is gone."""
    waited: list[float] = []

    async def wait(ep: ustack.Epoll) -> None:
        begun = trio.current_time()
        assert await ep.poll(60) == []
        waited.append(trio.current_time() - begun)

    with ustack.Epoll() as ep:
        async with trio.open_nursery() as nursery, stacks() as (left, _):
            ep.register(left.socket(type=socket.SOCK_DGRAM), EPOLLIN)
            nursery.start_soon(wait, ep)
            await blocked()
    assert waited == [pytest.approx(60)]


# -- fairness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["recv", "poll", "select", "epoll", "send"])
async def test_a_program_that_spins_gets_its_packets(ask: str) -> None:
    """It only ever asks, never waits; in real time, without a clock to help."""
    async with stacks() as (left, right), trio.open_nursery() as nursery:
        a, b = await connected(left, right)
        for sock in (a, b):
            sock.setblocking(False)
        with ustack.Epoll() as ep:
            ep.register(b, EPOLLIN)
            if ask == "send":
                await fill(a)
                nursery.start_soon(b.recv, 1 << 20)
            else:
                await a.send(b"x")
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "recv": lambda: b.recv(1, MSG_DONTWAIT),
                "poll": lambda: ustack.poll([(b, POLLIN), (a, POLLRDHUP)], 0),
                "select": lambda: ustack.select([b], [], [], 0),
                "epoll": lambda: ep.poll(0),
                "send": lambda: a.send(b"x"),
            }
            for _ in range(100):
                try:
                    result = await calls[ask]()
                except BlockingIOError:
                    continue
                if result and result != ([], [], []):
                    break
            else:
                raise AssertionError("a hundred calls, and no packet came in")
        b.close()
        a.close()


async def test_a_time_limit_outlives_the_stack_that_kept_it(autojump_clock: Clock) -> None:
    async with stacks() as (_, stays), trio.open_nursery() as nursery:
        other = stays.socket(type=socket.SOCK_DGRAM)
        epoll = ustack.Epoll()
        async with stacks() as (goes, _):
            sock = goes.socket(type=socket.SOCK_DGRAM)
            for each in (sock, other):
                epoll.register(each, EPOLLIN)
            start = trio.current_time()
            nursery.start_soon(epoll.poll, 5)
            await blocked()
            epoll.unregister(sock)
    assert trio.current_time() - start == pytest.approx(5, abs=0.1)
