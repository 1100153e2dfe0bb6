"""poll(2) and select(2) over sockets (Linux: `do_poll`, `do_select`).

Problem: one call waits for any of many sockets, each of which has a wait queue of its own.

Structure. `poll` looks at every socket once. If none has anything to say, one `_Watch` a
socket goes on that socket's queue; all of them wake the call's own queue, on which the
operation sleeps like any other. A wake-up whose bits nobody asked for is declined at the
watch (`pollwake`); one that is taken means only: look at all again, because readiness is
what `Proto.poll` says at the time of looking (rule B-83).

POLLERR, POLLHUP and POLLNVAL are reported whether asked for or not. An entry without a
socket says POLLNVAL, and so does one whose socket is closed while the call sleeps (its
queue says POLLFREE).

select is the same with three masks (rule B-81): a hang-up is readable but not writable,
an error is both, only urgent data is exceptional.
"""

from __future__ import annotations

from collections.abc import Sequence

from ustack.sock.deadlines import NEVER
from ustack.sock.sock import Sock
from ustack.sock.wait import (
    POLLERR,
    POLLFREE,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    Op,
    Wait,
    WaitQueue,
)

ALWAYS = POLLERR | POLLHUP
SELECT_IN = POLLNVAL | POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR
SELECT_OUT = POLLNVAL | POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR
SELECT_EX = POLLNVAL | POLLPRI


class Polled:
    """One entry of a poll: a socket (None once closed), what to look for, what was found.

    poll(2) adds ALWAYS to what a program asks for.
    """

    __slots__ = ("events", "revents", "sk")

    def __init__(self, sk: Sock | None, events: int) -> None:
        self.sk = sk
        self.events = events
        self.revents = 0


class _Watch:
    """A poll's place on one socket's queue (Linux: `poll_table_entry`)."""

    __slots__ = ("entry", "exclusive", "own")

    def __init__(self, entry: Polled, own: WaitQueue) -> None:
        self.entry = entry
        self.exclusive = False
        self.own = own

    def wake(self, mask: int) -> bool:
        if mask == POLLFREE:
            self.entry.sk = None
        elif not mask & self.entry.events:
            return False
        self.own.wake(mask)
        return True


def poll(entries: Sequence[Polled], timeout: int, now: int) -> int | Op[int]:
    """Set `revents` of each entry; how many have any. `timeout` in ns, NEVER for ever."""
    found = _scan(entries, now)
    if found or timeout <= 0:
        return found
    return _poll(entries, now + timeout if timeout < NEVER else None, now)


def _poll(entries: Sequence[Polled], deadline: int | None, now: int) -> Op[int]:
    own = WaitQueue()
    watches = [
        (entry.sk.wait_queue, _Watch(entry, own)) for entry in entries if entry.sk is not None
    ]
    wait = Wait(own, deadline)
    for queue, watch in watches:
        queue.add(watch)
    try:
        # whatever has happened since `poll` looked woke nobody
        while not (found := _scan(entries, now)) and (deadline is None or now < deadline):
            now = yield wait
        return found
    finally:
        for queue, watch in watches:
            queue.remove(watch)


def _scan(entries: Sequence[Polled], now: int) -> int:
    found = 0
    for entry in entries:
        sk = entry.sk
        mask = POLLNVAL if sk is None else sk.prot.poll(sk, now) & entry.events
        entry.revents = mask
        if mask:
            found += 1
    return found
