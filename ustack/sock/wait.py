"""Blocking without threads: wait queues, and operations that can be driven by anyone.

A blocking call is a *sans-IO operation*. It runs at once as far as it can; if it is
complete it returns its result, else it returns an `Op`: a generator that yields a
`Wait` each time the kernel's loop would sleep and ends with what the system call would
return or raise. A driver (trio, the simulator, a script runner) parks itself on the
wait's queue and resumes the generator with the time:

    result = sendmsg(sk, data, flags, now)
    if isinstance(result, Generator): drive it

Waking is level-triggered: a woken call reruns its loop, whatever woke it, as the
kernel's do. A wake-up carries its poll bits only for edge-triggered watchers.
`Waiter.wake` may do one thing: make the waiting party runnable. It never calls back
into the core.

A driver whose party is cancelled throws `Interrupted` into the generator. The operation
then either ends with what it had already transferred (the kernel's "n > 0" rule) or lets
`Interrupted` through, in which case nothing happened.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")

# poll bits, the kernel's values
POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
POLLRDNORM, POLLRDBAND, POLLWRNORM, POLLWRBAND = 0x40, 0x80, 0x100, 0x200
POLLRDHUP = 0x2000
POLLFREE = 0x4000  # only in wake-ups: the queue's socket is being closed, leave the queue


class Interrupted(Exception):
    """Thrown into an operation by its driver: the caller has been cancelled."""


class Waiter(Protocol):
    """A party on a wait queue. `exclusive` waiters are woken one at a time."""

    exclusive: bool

    def wake(self, mask: int) -> bool:
        """Make the party runnable; false if it did not want this wake-up."""


class WaitQueue:
    """The parties waiting on one socket, first come first woken."""

    __slots__ = ("forever", "waiters")

    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        self.forever = Wait(self, None)  # the usual wait: no deadline, not exclusive

    def add(self, waiter: Waiter) -> None:
        self.waiters.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Take `waiter` off the queue; no error if it is not on it."""
        waiters = self.waiters
        if waiters and waiters[-1] is waiter:  # nearly always the only one
            waiters.pop()
        elif waiter in waiters:
            waiters.remove(waiter)

    def wake(self, mask: int) -> None:
        """Wake every non-exclusive waiter and the first exclusive one that accepts."""
        waiters = self.waiters
        if not waiters:
            return
        if len(waiters) == 1:
            waiters[0].wake(mask)
            return
        exclusive_done = False
        for waiter in list(self.waiters):
            if waiter.exclusive:
                if not exclusive_done:
                    exclusive_done = waiter.wake(mask)
            else:
                waiter.wake(mask)

    def wake_all(self, mask: int) -> None:
        """Wake everybody: a state change or an error concerns all of them."""
        for waiter in list(self.waiters):
            waiter.wake(mask)


class Wait:
    """What an operation yields: sleep on `queue` until woken or until `deadline` (ns).

    `deadline` None is no limit. `exclusive`: one wake-up is for one sleeper (accept,
    UDP receive).
    """

    __slots__ = ("deadline", "exclusive", "queue")

    def __init__(self, queue: WaitQueue, deadline: int | None, exclusive: bool = False) -> None:
        self.queue = queue
        self.deadline = deadline
        self.exclusive = exclusive


# An operation in progress: yields Waits, is resumed with `now` in ns, returns T.
Op: TypeAlias = Generator[Wait, int, T]
