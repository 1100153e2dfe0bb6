"""poll, select and epoll over the sockets of stacks (mechanism: `sock.poll`, `sock.epoll`).

What goes in and comes out are sockets, where the system calls have descriptors. Times are
seconds; None is for ever. Masks are those of `select` in the standard library, and of
`ustack.socket`.

One call may mix sockets of several stacks. Its timer is then the one of the first socket's
stack; a call without any socket sleeps by trio's clock.

A call that finds something at once lets other tasks run once in a while, one that finds
nothing always: a program that does nothing but ask does not keep its packets waiting.

A socket that is closed while a call waits for it: poll reports POLLNVAL, select raises
ClosedResourceError, an epoll forgets it.
"""

from __future__ import annotations

import errno
import math
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

import trio

from ustack.io.ops import drive
from ustack.sock import poll as core_poll
from ustack.sock.deadlines import NEVER
from ustack.sock.epoll import Eventpoll
from ustack.sock.errors import error
from ustack.sock.poll import ALWAYS, SELECT_EX, SELECT_IN, SELECT_OUT, Polled
from ustack.sock.wait import POLLIN, POLLNVAL, POLLOUT, POLLPRI
from ustack.sockets.base import BaseSocket

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ustack.sock.sock import Sock
    from ustack.sockets.socket import SocketType
    from ustack.sockets.stack import NetworkStack

S = TypeVar("S", bound=BaseSocket)

_MAX_EVENTS = 1023  # select.epoll: FD_SETSIZE - 1
_MASK_MAX = 0xFFFF
_EVENTS = 0xFFFFFFFF


def _ns(timeout: float | None) -> int:
    """A duration in ns, rounded up: one that is cut short would make its caller spin."""
    if timeout is None or timeout == math.inf or timeout < 0:
        return NEVER
    return min(math.ceil(timeout * 1e9), NEVER)


def _socket(sock: object) -> BaseSocket:
    if not isinstance(sock, BaseSocket):
        raise TypeError(f"a socket of a ustack.NetworkStack expected, not {type(sock).__name__}")
    return sock


@trio.lowlevel.enable_ki_protection
async def _scan(entries: Sequence[Polled], timeout: int, stack: NetworkStack | None) -> None:
    """Poll `entries`; `stack` is that of any of them that is not closed."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if stack is None and not entries:
        await trio.sleep(timeout / 1e9 if timeout < NEVER else math.inf)
        return
    result = core_poll.poll(entries, timeout, stack.driver.now() if stack is not None else 0)
    if isinstance(result, int):
        await _after(stack, bool(result))
    else:
        assert stack is not None  # entries without sockets are not waited for
        await drive(stack.driver, result)


async def _after(stack: NetworkStack | None, found: bool) -> None:
    """After a call that did not wait."""
    if stack is not None:
        stack.driver.kick()
    if stack is not None and found:
        await stack.give_way()
    else:
        await trio.lowlevel.cancel_shielded_checkpoint()


async def poll(
    entries: Iterable[tuple[S | int, int]], timeout: float | None = None
) -> list[tuple[S, int]]:
    """poll(2): the sockets among `(socket, mask)` with something to report, and what.

    POLLERR, POLLHUP and, for a closed socket, POLLNVAL need not be asked for. A negative
    number instead of a socket is skipped. A negative `timeout` is for ever.
    """
    polled: list[Polled] = []
    handles: list[S] = []
    stack: NetworkStack | None = None
    for sock, mask in entries:
        if not 0 <= operator.index(mask) <= _MASK_MAX:
            raise OverflowError("a poll mask has 16 bits")
        if isinstance(sock, int) and sock < 0:
            continue
        handle = _socket(sock)
        sk = handle._sk
        if sk is not None and stack is None:
            stack = handle._stack
        polled.append(Polled(sk, mask | ALWAYS))
        handles.append(sock)  # type: ignore[arg-type]
    await _scan(polled, _ns(timeout), stack)
    return [(handles[i], entry.revents) for i, entry in enumerate(polled) if entry.revents]


async def select(
    rlist: Iterable[S], wlist: Iterable[S], xlist: Iterable[S], timeout: float | None = None
) -> tuple[list[S], list[S], list[S]]:
    """select(2): the readable of `rlist`, the writable of `wlist`, those of `xlist` with
    urgent data. A hang-up is readable, an error is both.

    OSError EBADF for a closed socket, EINVAL for a negative timeout.
    """
    asked = [(list(rlist), SELECT_IN), (list(wlist), SELECT_OUT), (list(xlist), SELECT_EX)]
    if timeout is not None and timeout < 0:
        raise error(errno.EINVAL)
    polled: dict[BaseSocket, Polled] = {}
    stack: NetworkStack | None = None
    for socks, mask in asked:
        for sock in socks:
            handle = _socket(sock)
            sk = handle._sk or await handle._closed()
            entry = polled.setdefault(handle, Polled(sk, 0))
            entry.events |= mask
            stack = handle._stack
    await _scan(list(polled.values()), _ns(timeout), stack)
    if any(entry.revents & POLLNVAL for entry in polled.values()):
        raise trio.ClosedResourceError("another task closed a socket of this select")
    r, w, x = ([s for s in socks if polled[s].revents & mask] for socks, mask in asked)
    return r, w, x


class Epoll:
    """An epoll object, as `select.epoll`, over sockets instead of descriptors.

    EPOLLET, EPOLLONESHOT and EPOLLEXCLUSIVE as in the kernel. A socket that is closed
    leaves by itself. OSError EEXIST, ENOENT, EINVAL as epoll_ctl(2), EBADF for a closed
    socket or a closed epoll.
    """

    def __init__(self) -> None:
        self._core: Eventpoll | None = Eventpoll()
        self._arrival: trio.Event | None = None  # for calls that wait with no socket at all

    def __getstate__(self) -> NoReturn:
        raise TypeError("cannot pickle 'Epoll' object")

    @property
    def closed(self) -> bool:
        return self._core is None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Forget all sockets. Calls that wait end with ClosedResourceError."""
        core, self._core = self._core, None
        if core is not None:
            core.close()
            self._announce()

    @trio.lowlevel.enable_ki_protection
    def register(self, sock: BaseSocket, eventmask: int = POLLIN | POLLOUT | POLLPRI) -> None:
        """EPOLL_CTL_ADD."""
        core, sk = self._open(), self._target(sock)
        core.add(sk, operator.index(eventmask) & _EVENTS, sock._driver.now())
        self._announce()

    @trio.lowlevel.enable_ki_protection
    def modify(self, sock: BaseSocket, eventmask: int) -> None:
        """EPOLL_CTL_MOD; a socket that EPOLLONESHOT has disabled is enabled again."""
        core, sk = self._open(), self._target(sock)
        core.modify(sk, operator.index(eventmask) & _EVENTS, sock._driver.now())

    @trio.lowlevel.enable_ki_protection
    def unregister(self, sock: BaseSocket) -> None:
        """EPOLL_CTL_DEL."""
        core, sk = self._open(), self._target(sock)
        core.delete(sk)
        core.release(sk)  # calls that wait must not stay with the timer of a stack that has left

    async def poll(
        self, timeout: float | None = None, maxevents: int = -1
    ) -> list[tuple[SocketType, int]]:
        """epoll_wait(2): `(socket, mask)` of at most `maxevents` (-1: 1023) ready sockets.

        Several tasks may wait at once: each event is for one of them.
        """
        core = self._core
        if core is None:
            await trio.lowlevel.checkpoint()
            raise error(errno.EBADF)
        maxevents = _MAX_EVENTS if maxevents == -1 else operator.index(maxevents)
        _ns(timeout)  # ValueError, TypeError for what is no time
        await trio.lowlevel.checkpoint_if_cancelled()
        stack = self._stack(core)
        ready = self._collect(core, maxevents, stack)
        if ready or timeout == 0:
            await _after(stack, bool(ready))
        else:
            ready = await self._sleep(core, maxevents, timeout)
        return [(sk.socket, mask) for sk, mask in ready]  # type: ignore[misc]

    @staticmethod
    @trio.lowlevel.enable_ki_protection
    def _collect(
        core: Eventpoll, maxevents: int, stack: NetworkStack | None
    ) -> list[tuple[Sock, int]]:
        ready = core.wait(maxevents, 0, stack.driver.now() if stack is not None else 0)
        assert isinstance(ready, list)  # it was not to wait
        return ready

    @trio.lowlevel.enable_ki_protection
    async def _sleep(
        self, core: Eventpoll, maxevents: int, timeout: float | None
    ) -> list[tuple[Sock, int]]:
        forever = timeout is None or timeout < 0
        end = math.inf if forever else trio.current_time() + timeout  # type: ignore[operator]
        while True:
            left = max(0.0, end - trio.current_time())
            stack = self._stack(core)
            if stack is None:
                ready = await self._wait_for_arrival(left)
            else:
                waiting = core.wait(maxevents, _ns(left), stack.driver.now())
                if isinstance(waiting, list):
                    return waiting
                ready = await drive(stack.driver, waiting)
            if self._core is None:
                raise trio.ClosedResourceError("another task closed this epoll")
            if ready is not None:
                return ready

    async def _wait_for_arrival(self, seconds: float) -> list[tuple[Sock, int]] | None:
        """Nobody is registered: None when somebody is, [] when the time is over."""
        if self._arrival is None:
            self._arrival = trio.Event()
        with trio.move_on_after(seconds):
            await self._arrival.wait()
            return None
        return []

    def _announce(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.set()

    def _open(self) -> Eventpoll:
        if self._core is None:
            raise error(errno.EBADF)
        return self._core

    def _target(self, sock: object) -> Sock:
        if sock is self:
            raise error(errno.EINVAL)
        return _socket(sock)._open()

    @staticmethod
    def _stack(core: Eventpoll) -> NetworkStack | None:
        sk = core.first()
        if sk is None:
            return None
        assert isinstance(sk.socket, BaseSocket)  # closed sockets have left
        return sk.socket._stack
