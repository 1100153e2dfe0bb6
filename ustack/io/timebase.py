"""Two ways to sleep until a packet, a deadline, or a call for attention.

`EpollTime` is real time. One inner epoll descriptor holds the devices and a timerfd, and
one trio task waits for that descriptor to become readable: trio's own timer is coarse
(50 us of sleep take 1.1 ms, a timerfd's 72 us) and knows nothing of deadlines that are
moved a thousand times before they are due. The descriptor is level-triggered and is
never read: reading the devices empties it, and setting the timer takes back its expiry.

`TrioTime` is trio's clock, for networks that exist only in memory: no descriptors, and a
mock clock drives it.

`now()` never says less than a deadline for which `wait` has returned.
"""

from __future__ import annotations

import os
import select
import time
from typing import Protocol

import trio

from ustack.io.libc import TimerFd
from ustack.sock.deadlines import NEVER


class Timebase(Protocol):
    """A clock in ns, one timer, and a task that sleeps."""

    def now(self) -> int:
        """The time, ns."""

    def watch(self, fd: int) -> None:
        """Let `wait` return while `fd` is readable."""

    def arm(self, at: int) -> None:
        """Set the one timer to `at`, which may have passed; NEVER stops it."""

    def wake(self) -> None:
        """Let `wait` return, now or the next time it is called."""

    async def wait(self) -> None:
        """Sleep until something is readable, the timer has fired or `wake` was called."""

    def close(self) -> None: ...


class EpollTime:
    """Real time, for devices with a file descriptor."""

    def __init__(self) -> None:
        self.now = time.monotonic_ns
        self._epoll = select.epoll()
        self._fd = self._epoll.fileno()
        self._timer = TimerFd()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._woken = False
        self.watch(self._timer.fd)
        self.watch(self._event)

    def watch(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def arm(self, at: int) -> None:
        self._timer.set(at if at < NEVER else 0)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._event, 1)

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)
        if self._woken:
            self._woken = False
            os.eventfd_read(self._event)

    def close(self) -> None:
        self._woken = True  # nobody is woken any more: the descriptor may be another's by then
        self._epoll.close()
        self._timer.close()
        os.close(self._event)


class TrioTime:
    """trio's clock, for devices in memory."""

    def __init__(self) -> None:
        self._floor = 0
        self._deadline = NEVER
        self._scope: trio.CancelScope | None = None
        self._woken = False
        self._task: trio.lowlevel.Task | None = None

    def now(self) -> int:
        return max(self._floor, round(trio.current_time() * 1e9))

    def watch(self, fd: int) -> None:
        raise TypeError("a device with a file descriptor needs EpollTime")

    def arm(self, at: int) -> None:
        self._deadline = at
        if self._scope is not None:
            self._scope.deadline = _seconds(at)

    def wake(self) -> None:
        self._woken = True
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        if self._woken:
            await trio.lowlevel.checkpoint()
        else:
            with trio.CancelScope(deadline=_seconds(self._deadline)) as self._scope:
                await self._park()
            if self._scope.cancelled_caught:
                # trio's clock is a float, which may still be a little before the deadline
                self._floor = max(self._floor, self._deadline)
            self._scope = None
        self._woken = False

    async def _park(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def close(self) -> None:
        pass


def _seconds(at: int) -> float:
    return at / 1e9 if at < NEVER else float("inf")
