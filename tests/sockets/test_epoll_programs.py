"""Random programs of epoll, poll and select calls, on the kernel and on ours, on loopback: the
same events in the same order, the same errnos."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import AsyncIterator
from typing import Any

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ustack
from ustack import socket as names

EPOLLS = (0, 1, 2, 3)
FLAGS = [0, names.EPOLLET, names.EPOLLONESHOT, names.EPOLLET | names.EPOLLONESHOT]
BITS = [
    names.EPOLLIN,
    names.EPOLLOUT,
    names.EPOLLIN | names.EPOLLOUT,
    names.EPOLLIN | names.EPOLLRDHUP,
    names.EPOLLPRI,
    0,
    names.EPOLLIN | names.EPOLLRDNORM | names.EPOLLWRNORM,
]
EXCLUSIVE = [names.EPOLLEXCLUSIVE, names.EPOLLEXCLUSIVE | names.EPOLLET]


class Kernel:
    """The kernel's calls under the names of ours."""

    async def open(self) -> list[Any]:
        made = [socket.socket(type=kind) for kind in KINDS]
        for sock in made:
            sock.setblocking(False)
        return made

    def epoll(self) -> Any:
        return select.epoll()

    async def call(self, function: Any, *args: Any) -> Any:
        return function(*args)

    async def wait(self, ep: Any, maxevents: int, socks: list[Any]) -> list[tuple[int, int]]:
        numbers = {sock.fileno(): i for i, sock in enumerate(socks)}
        return [(numbers[fd], mask) for fd, mask in ep.poll(0, maxevents)]

    async def poll(self, entries: list[tuple[int, int]], socks: list[Any]) -> Any:
        """poll(2) by way of select.poll, which takes each descriptor once."""
        poller = select.poll()
        for i, mask in entries:
            poller.register(socks[i].fileno(), mask)
        found = dict(poller.poll(0))
        return [(i, found[socks[i].fileno()]) for i, _ in entries if socks[i].fileno() in found]

    async def select(self, chosen: list[Any]) -> Any:
        return select.select(chosen, chosen, chosen, 0)


class Ours(Kernel):
    def __init__(self, stack: ustack.NetworkStack) -> None:
        self.stack = stack

    async def open(self) -> list[Any]:
        return [self.stack.socket(type=kind | socket.SOCK_NONBLOCK) for kind in KINDS]

    def epoll(self) -> Any:
        return ustack.Epoll()

    async def call(self, function: Any, *args: Any) -> Any:
        result = function(*args)
        return await result if hasattr(result, "__await__") else result

    async def wait(self, ep: Any, maxevents: int, socks: list[Any]) -> list[tuple[int, int]]:
        return [(socks.index(sock), mask) for sock, mask in await ep.poll(0, maxevents)]

    async def poll(self, entries: list[tuple[int, int]], socks: list[Any]) -> Any:
        found = await ustack.poll([(socks[i], mask) for i, mask in entries], 0)
        return [(socks.index(sock), mask) for sock, mask in found]

    async def select(self, chosen: list[Any]) -> Any:
        return await ustack.select(chosen, chosen, chosen, 0)


S, D = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS = [S, S, S, D, D]
LISTENER, CLIENT, FRESH, UDP, UDP_PEER, SERVER = range(6)
SOCKS = range(len(KINDS) + 1)


@contextlib.asynccontextmanager
async def world(backend: Kernel) -> AsyncIterator[list[Any]]:
    """A listener, a connection (its server end last), a fresh stream, a pair of datagrams."""
    socks = await backend.open()
    with contextlib.ExitStack() as stack:
        for sock in socks:
            stack.callback(sock.close)
        call = backend.call
        for i in (LISTENER, UDP, UDP_PEER):
            await call(socks[i].bind, ("127.0.0.1", 0))
        socks[LISTENER].listen(5)
        with contextlib.suppress(BlockingIOError):
            await call(socks[CLIENT].connect, socks[LISTENER].getsockname())
        server, _ = await call(socks[LISTENER].accept)
        server.setblocking(False)
        stack.callback(server.close)
        await call(socks[UDP].connect, socks[UDP_PEER].getsockname())
        await call(socks[UDP_PEER].connect, socks[UDP].getsockname())
        yield [*socks, server]


async def act(backend: Kernel, epolls: list[Any], socks: list[Any], step: tuple[Any, ...]) -> Any:
    what, *args = step
    if what == "add":
        return epolls[args[0]].register(socks[args[1]], args[2])
    if what == "modify":
        return epolls[args[0]].modify(socks[args[1]], args[2])
    if what == "delete":
        return epolls[args[0]].unregister(socks[args[1]])
    if what == "wait":
        return await backend.wait(epolls[args[0]], args[1], socks)
    if what == "poll":
        return await backend.poll(args[0], socks)
    if what == "select":
        chosen = [socks[i] for i in args[0] if socks[i].fileno() >= 0]
        return [[socks.index(s) for s in found] for found in await backend.select(chosen)]
    if what == "connect":
        address = socks[LISTENER].getsockname()
        with contextlib.suppress(BlockingIOError):
            return await backend.call(socks[args[0]].connect, address)
    elif what == "close":
        socks[args[0]].close()
    else:
        return await backend.call(getattr(socks[args[0]], what), *args[1:])
    return None


async def run(backend: Kernel, program: list[tuple[Any, ...]]) -> list[Any]:
    seen: list[Any] = []
    async with world(backend) as socks:
        epolls = [backend.epoll() for _ in EPOLLS]
        for step in program:
            try:
                seen.append(await act(backend, epolls, socks, step))
            except OSError as exc:
                seen.append(errno.errorcode[exc.errno or 0])
            except ValueError:  # the standard library looks at a closed socket's number first
                seen.append("EBADF")
        for i, ep in enumerate(epolls):
            seen.append((i, await backend.wait(ep, 100, socks)))
            ep.close()
    return seen


async def on_ours(program: list[tuple[Any, ...]]) -> list[Any]:
    async with ustack.open_memory_pair(seed=1, grace=0) as (stack, _):
        return await run(Ours(stack), program)


# The two ends of a connection are not in one epoll: a call on one end wakes both, in the
# kernel's loopback the other end first, because it delivers before the call is over.
_watched = st.one_of(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([LISTENER, CLIENT, UDP])),
    st.tuples(st.sampled_from([2, 3]), st.sampled_from([FRESH, SERVER, UDP_PEER])),
)
_ep, _sock = st.sampled_from(EPOLLS), st.sampled_from(SOCKS)
_ends = st.sampled_from([CLIENT, SERVER, UDP, UDP_PEER])
_events = st.builds(int.__or__, st.sampled_from(BITS), st.sampled_from(FLAGS))
_new_events = st.one_of(
    _events, st.builds(int.__or__, st.sampled_from(BITS), st.sampled_from(EXCLUSIVE))
)
_add = st.builds(lambda where, events: ("add", *where, events), _watched, _new_events)
_step = st.one_of(
    _add,
    st.builds(lambda where, events: ("modify", *where, events), _watched, _new_events),
    st.builds(lambda where: ("delete", *where), _watched),
    st.tuples(st.just("wait"), _ep, st.sampled_from([1, 2, 100])),
    st.tuples(st.just("send"), _ends, st.sampled_from([b"x", b"hello"])),
    st.tuples(st.just("recv"), _ends, st.sampled_from([1, 100])),
    st.tuples(st.just("shutdown"), _ends, st.sampled_from([0, 1, 2])),
    st.tuples(st.just("close"), st.sampled_from([CLIENT, SERVER, UDP])),
    st.tuples(st.just("connect"), st.just(FRESH)),
    st.tuples(
        st.just("poll"),
        st.lists(
            st.tuples(_sock, st.sampled_from(BITS)),
            max_size=5,
            unique_by=lambda entry: entry[0],
        ),
    ),
    st.tuples(st.just("select"), st.lists(_sock, max_size=6, unique=True)),
)


# Most programs begin with an epoll that has somebody to watch.
_begun = st.lists(_add, max_size=6)
_programs = st.builds(list.__add__, _begun, st.lists(_step, max_size=25))

ET_IN = names.EPOLLIN | names.EPOLLET
ET_OUT = names.EPOLLOUT | names.EPOLLET


@settings(max_examples=max(150, settings.default.max_examples))
@given(_programs)
@example([("add", 2, SERVER, ET_IN), ("send", CLIENT, b"x"), ("wait", 2, 1), ("wait", 2, 1)])
@example([("add", 2, SERVER, ET_IN), *[("send", CLIENT, b"x"), ("wait", 2, 1)] * 2])
@example([("add", 2, SERVER, ET_OUT), ("wait", 2, 1), ("send", CLIENT, b"x"), ("wait", 2, 1)])
@example([("add", 0, LISTENER, 1), ("connect", FRESH), ("wait", 0, 1), ("wait", 0, 1)])
def test_programs(program: list[tuple[Any, ...]]) -> None:
    # A closed socket's number is gone: the kernel's poll can only be asked about open ones.
    closed = {step[1] for step in program if step[0] == "close"}
    program = [
        (step[0], [entry for entry in step[1] if entry[0] not in closed])
        if step[0] == "poll"
        else step
        for step in program
    ]
    theirs = trio.run(run, Kernel(), program)
    ours = trio.run(on_ours, program)
    assert ours == theirs
