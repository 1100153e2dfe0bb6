"""One task that drives one stack: packets in, deadlines, soft interrupts.

Problem: a trio wake-up costs as much as the parsing of thirty headers, so there must be
few of them; and an idle stack must cause none at all.

Structure: a turn (`_turn`, synchronous) reads one batch from each device, hands it to the
stack, runs what is due and then what the stack has queued for itself. After a turn that
brought packets the application's tasks get their turn, and the devices are looked at
again, a bounded number of times, before the task sleeps: an answer that comes back
meanwhile then costs a read instead of a sleep and a wake-up. Sleeping is the business of
`io.timebase`.

The application calls into the core from its own tasks, without this one. What such a
call leaves behind (packets to itself, an earlier deadline) is seen to by `after_call`,
which costs two attribute reads and a comparison where there is nothing to do.

The timer is lazy, like the heap of deadlines behind it: it is set only to something
earlier than it is set to. A deadline that has moved later costs one early wake-up when
the old time comes, after which the timer is set to the right one. While the driver is
awake nothing needs to be set: it does so itself before it sleeps.

Invariant: while the driver sleeps, `armed` is not later than the stack's first deadline.

An exception out of the core is a bug: it leaves `run` and brings the nursery down. Control-C
is none of the core's: trio keeps it for the program's main task while the core is at work.
"""

from __future__ import annotations

from typing import Protocol

import trio

from ustack.io.sleeper import Sleeper
from ustack.io.timebase import EpollTime, Timebase
from ustack.sock.deadlines import NEVER, Deadlines
from ustack.sock.dst import Device
from ustack.wire.packet import Frame

LOOKS_AGAIN = 3  # empty looks at the devices before sleeping, once packets have come


class Host(Protocol):
    """What a driver needs of a stack."""

    deadlines: Deadlines

    @property
    def softirq_pending(self) -> bool:
        """Whether `run_softirq` has something to do."""

    def handle_batch(self, frames: list[Frame], now: int, dev: Device) -> None: ...

    def handle_timeout(self, now: int) -> None: ...

    def run_softirq(self, now: int) -> None: ...


class Source(Protocol):
    """Where frames come from: a TUN, or one end of a pair in memory."""

    def fileno(self) -> int:
        """What to wait for; -1 for a source that calls `Driver.wake` instead."""

    def read_batch(self) -> list[Frame]:
        """What has arrived, about 1 ms of work at most; empty if there is nothing."""


class Driver:
    """Drives one stack; `run` is the task, everything else may be called from any task."""

    def __init__(self, stack: Host, timebase: Timebase | None = None) -> None:
        self.stack = stack
        self.timebase: Timebase = timebase or EpollTime()
        self.now = self.timebase.now
        self.wake = self.timebase.wake
        self.turns = 0
        self.calls = 0  # completed application calls, for the fairness of `io.ops`
        self.sleepers: list[Sleeper] = []  # unused ones, for `io.ops`
        self._ports: list[tuple[Source, Device]] = []
        self._deadlines = stack.deadlines
        self._armed = NEVER
        self._limit = -1  # `_armed` while asleep: an earlier deadline must set the timer

    def add_device(self, source: Source, dev: Device) -> None:
        """Read frames from `source`; the stack knows them as coming from `dev`."""
        self._ports.append((source, dev))
        fd = source.fileno()
        if fd >= 0:
            self.timebase.watch(fd)

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the stack until cancelled."""
        task_status.started()
        while True:
            looks = LOOKS_AGAIN if self._turn() else 0
            while looks:
                await trio.lowlevel.checkpoint()
                looks = LOOKS_AGAIN if self._turn() else looks - 1
            self._rearm()
            self._limit = self._armed
            await self.timebase.wait()
            self._limit = -1

    def _turn(self) -> bool:
        """Do what there is to do now; whether packets came."""
        self.turns += 1
        stack = self.stack
        busy = False
        for source, dev in self._ports:
            frames = source.read_batch()
            if frames:
                busy = True
                stack.handle_batch(frames, self.now(), dev)
        now = self.now()
        if self._deadlines.earliest() <= now:
            stack.handle_timeout(now)
        if stack.softirq_pending:
            stack.run_softirq(now)
            busy = busy or stack.softirq_pending
        return busy

    def _rearm(self) -> None:
        """Set the timer if it has fired, or is set to later than the first deadline."""
        at = self._deadlines.next_timeout()
        if at < self._armed or self._armed <= self.now():
            self.timebase.arm(at)
            self._armed = at

    def after_call(self, now: int) -> None:
        """To be called after every call into the core from outside this task."""
        stack = self.stack
        if stack.softirq_pending:
            stack.run_softirq(now)
            if stack.softirq_pending:  # it stops after so many turns: the rest is ours
                self.wake()
        if self._deadlines.earliest() < self._limit:
            self._rearm()
            self._limit = self._armed

    def kick(self) -> None:
        """`after_call` for callers that do not have the time at hand."""
        if self.stack.softirq_pending or self._deadlines.earliest() < self._limit:
            self.after_call(self.now())

    def close(self) -> None:
        """Give the descriptors back; the devices' own are their owners'."""
        self._limit = -1  # no timer is left to set
        self.timebase.close()
