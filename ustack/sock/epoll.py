"""epoll over sockets (Linux: fs/eventpoll.c).

Problem: a poll asks about every socket each time; an epoll is told by those that have
something to say, and can report changes instead of states.

Structure. Each socket of the interest list has one `Item`, a waiter that stays on the
socket's wait queue. A wake-up puts the item on the ready list, if one of its bits is
wanted. `collect` takes items off the ready list, asks each socket anew what is true
(`Proto.poll`), and

* drops the item silently if nothing wanted is true any more;
* edge-triggered (EPOLLET): reports it once; the next wake-up puts it back;
* level-triggered: reports it and puts it back at the end of the list, so that it is looked
  at again the next time, after the others;
* EPOLLONESHOT: reports it and disables it until it is modified.

So an edge is a wake-up, not a change of state: data that arrives while some is unread is a
new edge, and so is an error. Registering and modifying look once, and are edges themselves
where something is true.

Waiting calls sleep exclusively: one event wakes one of them, and a call that leaves ready
items behind wakes the next. EPOLLEXCLUSIVE does the same among epolls that watch one
socket: the wake-up goes to the first that has somebody waiting for it.

A closed socket leaves by itself: its queue says POLLFREE. Calls that wait then return
None, and so they do when the epoll is closed: their driver may have gone with it.

Left out: an epoll within an epoll, busy polling, EPOLLWAKEUP (accepted, no meaning).
"""

from __future__ import annotations

from collections import deque
from errno import EEXIST, EINVAL, ENOENT

from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.sock import Sock
from ustack.sock.wait import (
    POLLERR,
    POLLFREE,
    POLLHUP,
    POLLIN,
    POLLOUT,
    Op,
    Wait,
    WaitQueue,
)

EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET = 1 << 28, 1 << 29, 1 << 30, 1 << 31
_ALWAYS = POLLERR | POLLHUP
_PRIVATE = EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET
_INOUT = POLLIN | POLLOUT
_EXCLUSIVE_OK = _INOUT | _ALWAYS | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE

Event = tuple[Sock, int]


class Item:
    """One socket on the interest list (Linux: `struct epitem`)."""

    __slots__ = ("ep", "events", "exclusive", "ready", "sk")

    def __init__(self, ep: Eventpoll, sk: Sock, events: int) -> None:
        self.ep = ep
        self.sk = sk
        self.events = events
        self.exclusive = bool(events & EPOLLEXCLUSIVE)
        self.ready = False  # on the ready list

    def wake(self, mask: int) -> bool:
        """Linux: `ep_poll_callback`. False lets an exclusive wake-up go to the next epoll."""
        if mask == POLLFREE:
            self.ep.release(self.sk)
            return not self.exclusive
        events = self.events
        if not events & ~_PRIVATE or (mask and not mask & events):
            return not self.exclusive
        waited_for = self.ep.make_ready(self)
        if not self.exclusive:
            return True
        direction = mask & _INOUT
        return waited_for and (direction in (0, _INOUT) or bool(direction & events))


class Eventpoll:
    """An interest list and a ready list."""

    __slots__ = ("_items", "_left", "_ready", "wait_queue")

    def __init__(self) -> None:
        self._items: dict[Sock, Item] = {}
        self._ready: deque[Item] = deque()
        self._left = 0  # how many sockets have left by themselves
        self.wait_queue = WaitQueue()

    def first(self) -> Sock | None:
        """Any socket of the interest list."""
        return next(iter(self._items), None)

    # -- epoll_ctl -----------------------------------------------------------------------

    def add(self, sk: Sock, events: int, now: int) -> None:
        """EPOLL_CTL_ADD. OSError EEXIST, EINVAL."""
        if events & EPOLLEXCLUSIVE and events & ~_EXCLUSIVE_OK:
            raise error(EINVAL)
        if sk in self._items:
            raise error(EEXIST)
        item = self._items[sk] = Item(self, sk, events | _ALWAYS)
        sk.wait_queue.add(item)
        self._look(item, now)

    def modify(self, sk: Sock, events: int, now: int) -> None:
        """EPOLL_CTL_MOD, which also enables a one-shot item again. OSError ENOENT, EINVAL."""
        if events & EPOLLEXCLUSIVE:
            raise error(EINVAL)
        item = self._items.get(sk)
        if item is None:
            raise error(ENOENT)
        if item.exclusive:
            raise error(EINVAL)
        item.events = events | _ALWAYS
        self._look(item, now)

    def delete(self, sk: Sock) -> None:
        """EPOLL_CTL_DEL. OSError ENOENT."""
        if sk not in self._items:
            raise error(ENOENT)
        self.forget(sk)

    def forget(self, sk: Sock) -> None:
        """Take `sk` off both lists, if it is on them."""
        item = self._items.pop(sk, None)
        if item is not None:
            sk.wait_queue.remove(item)
            if item.ready:
                self._ready.remove(item)

    def close(self) -> None:
        """Forget everybody, and wake the calls that wait."""
        for sk in list(self._items):
            self.forget(sk)
        self._left += 1
        self.wait_queue.wake_all(POLLFREE)

    def release(self, sk: Sock) -> None:
        """`sk` is being closed."""
        self.forget(sk)
        self._left += 1
        self.wait_queue.wake_all(POLLFREE)

    def _look(self, item: Item, now: int) -> None:
        if item.sk.prot.poll(item.sk, now) & item.events:
            self.make_ready(item)

    def _link(self, item: Item) -> None:
        if not item.ready:
            item.ready = True
            self._ready.append(item)

    def make_ready(self, item: Item) -> bool:
        """Put `item` on the ready list; whether somebody waits for it."""
        self._link(item)
        if not self.wait_queue.waiters:
            return False
        self.wait_queue.wake(POLLIN)
        return True

    # -- epoll_wait ----------------------------------------------------------------------

    def wait(self, maxevents: int, timeout: int, now: int) -> list[Event] | Op[list[Event] | None]:
        """At most `maxevents` events; none after `timeout` ns (NEVER: for ever).

        OSError EINVAL for a `maxevents` that is not positive. None: look again, with what
        is left of the time.
        """
        if maxevents <= 0:
            raise error(EINVAL)
        events = self._collect(maxevents, now)
        if events or timeout <= 0:
            return events
        return self._wait(maxevents, now + timeout if timeout < NEVER else None, now)

    def _wait(self, maxevents: int, deadline: int | None, now: int) -> Op[list[Event] | None]:
        wait = Wait(self.wait_queue, deadline, exclusive=True)
        left = self._left
        while not (events := self._collect(maxevents, now)):
            if self._left != left:
                return None
            if deadline is not None and now >= deadline:
                break
            now = yield wait
        return events

    def _collect(self, maxevents: int, now: int) -> list[Event]:
        """Linux: `ep_send_events`."""
        ready = self._ready
        if not ready:
            return []
        found: list[Event] = []
        again: list[Item] = []
        while ready and len(found) < maxevents:
            item = ready.popleft()
            item.ready = False
            mask = item.sk.prot.poll(item.sk, now) & item.events
            if not mask:
                continue
            found.append((item.sk, mask))
            if item.events & EPOLLONESHOT:
                item.events &= _PRIVATE
            elif not item.events & EPOLLET:
                again.append(item)
        for item in again:
            self._link(item)
        if ready and self.wait_queue.waiters:
            self.wait_queue.wake(POLLIN)
        return found
