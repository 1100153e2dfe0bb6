"""Virtual time: an event heap, and application tasks on it.

Problem: the same protocol code must run a thousand simulated seconds in one real one, and
run them again, packet for packet.

Structure: `Simulator` holds the time (integer ns) and a heap of events. Time only moves
when the earliest event is later than now. Events due at one time run in the order in
which they were scheduled. An application is a generator, driven by a `Task`, that calls
the core and waits like this:

    def client(sim, sk):
        yield from sim.call(sk.prot.connect(sk, ("...", 80), sim.now))
        sent = yield from sim.call(sk.prot.sendmsg(sk, b"hello", 0, sim.now))
        yield from sim.sleep(SECOND)

It is itself a `sock.wait.Op`, so tasks nest, and can wait for one another (`join`).

Invariants: a wake-up schedules an event at the current time and does nothing else, so the
core is never entered from within itself. A task is on its wait queue before anything runs
that could wake it, and on no queue while it runs. After each step of a task every host is
flushed: packets to itself are delivered, its next deadline becomes an event.

Determinism: no time, no randomness and no hash order but what is passed in. Order is by
(time, serial number).

Limits: an exception that leaves a task, other than `Interrupted`, leaves `run_*`: the
simulation is broken. Every run is bounded by a number of events.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar, cast

from ustack.sock.deadlines import NEVER
from ustack.sock.net import SeedSource
from ustack.sock.wait import Interrupted, Op, Wait, WaitQueue

T = TypeVar("T")

SECOND = 1_000_000_000
MAX_EVENTS = 20_000_000


class Stalled(RuntimeError):
    """A run cannot end as asked: nothing is left to happen, or it never stops happening."""


class Flushable(Protocol):
    """A host: brings its timer and its own deliveries up to date after it was used."""

    def flush(self) -> None: ...


class Event:
    """Something that will happen at `at`; `run` is None once it has, or was cancelled."""

    __slots__ = ("at", "run")

    def __init__(self, at: int, run: Callable[[], None]) -> None:
        self.at = at
        self.run: Callable[[], None] | None = run


class Simulator:
    """The clock and everything that is going to happen.

    `seeds` gives each user of randomness a stream of its own; `wall_ns` is the time of day
    at virtual time 0, for captures and time stamps.
    """

    def __init__(self, seeds: SeedSource, wall_ns: int = 0) -> None:
        self.seeds = seeds
        self.wall_ns = wall_ns
        self.now = 0
        self.events = 0  # events run so far
        self.hosts: list[Flushable] = []
        self._heap: list[tuple[int, int, Event]] = []
        self._serial = 0
        self._dead = 0  # cancelled events still in the heap

    def clock(self) -> int:
        """The virtual time, as a function for those who want one."""
        return self.now

    # -- events ----------------------------------------------------------------------------

    def at(self, at: int, run: Callable[[], None]) -> Event:
        """Call `run` at time `at`, or now if that is past."""
        event = Event(max(at, self.now), run)
        self._serial += 1
        heappush(self._heap, (event.at, self._serial, event))
        return event

    def cancel(self, event: Event) -> None:
        """Make sure that `event` does not happen; no error if it has."""
        if event.run is None:
            return
        event.run = None
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].run is not None]
            heapify(self._heap)
            self._dead = 0

    def next_event(self) -> int:
        """When something happens next, NEVER if nothing will."""
        heap = self._heap
        while heap and heap[0][2].run is None:
            heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else NEVER

    def _step(self) -> None:
        """Run the next event, which exists."""
        at, _, event = heappop(self._heap)
        run, event.run = event.run, None
        self.now = at
        self.events += 1
        if run is not None:
            run()

    # -- running -----------------------------------------------------------------------------

    def run_until(self, at: int, max_events: int = MAX_EVENTS) -> None:
        """Run everything due at or before `at`; the time is then `at`."""
        limit = self.events + max_events
        while self.next_event() <= at:
            self._bound(limit)
            self._step()
        self.now = max(self.now, at)

    def run_until_idle(self, max_events: int = MAX_EVENTS) -> None:
        """Run until nothing is left to happen."""
        limit = self.events + max_events
        while self.next_event() < NEVER:
            self._bound(limit)
            self._step()

    def run_until_true(
        self, predicate: Callable[[], bool], until: int = NEVER, max_events: int = MAX_EVENTS
    ) -> None:
        """Run until `predicate()` holds after some event. `Stalled` if that does not come
        by the time `until`."""
        limit = self.events + max_events
        while not predicate():
            at = self.next_event()
            if at > until or at == NEVER:
                raise Stalled(f"at {self.now} ns: next event {at}, and it has not come true")
            self._bound(limit)
            self._step()

    def run_task(self, op: Op[T], until: int = NEVER, max_events: int = MAX_EVENTS) -> T:
        """Spawn `op`, run until it has ended, and return its result."""
        task = self.spawn(op)
        self.run_until_true(lambda: task.done, until, max_events)
        return task.result()

    def _bound(self, limit: int) -> None:
        if self.events >= limit:
            raise Stalled(f"at {self.now} ns: event limit reached after {self.events} events")

    def flush(self) -> None:
        """Bring every host up to date, after calling into the core from outside a task."""
        for host in self.hosts:
            host.flush()

    # -- tasks ---------------------------------------------------------------------------------

    def spawn(self, op: Op[T], name: str = "task") -> Task[T]:
        """Start an application task at the current time."""
        return Task(self, op, name)

    def call(self, result: T | Op[T]) -> Op[T]:
        """Finish a call into the core, whose `result` may be an operation: the value of
        `yield from sim.call(...)` is what the system call returns."""
        if isinstance(result, Generator):
            value: T = yield from cast("Op[T]", result)
            return value
        return result

    def sleep(self, ns: int) -> Op[None]:
        """Do nothing for `ns`."""
        yield from self.sleep_until(self.now + ns)

    def sleep_until(self, at: int) -> Op[None]:
        while self.now < at:
            yield Wait(WaitQueue(), at)


class Task(Generic[T]):
    """A generator being driven; also the `Waiter` by which it is woken."""

    __slots__ = ("_event", "_interrupt", "_op", "_started", "_value", "_wait", "_woken",
                 "cancelled", "done", "exclusive", "finished", "name", "sim")  # fmt: skip

    def __init__(self, sim: Simulator, op: Op[T], name: str) -> None:
        self.sim = sim
        self.name = name
        self.exclusive = False
        self.done = False
        self.cancelled = False  # ended by `cancel`, without a result
        self.finished = WaitQueue()
        self._op = op
        self._started = False
        self._interrupt = False
        self._value: T | None = None
        self._wait: Wait | None = None
        self._woken = True
        self._event: Event | None = sim.at(sim.now, self._resume)

    def __repr__(self) -> str:
        return f"<Task {self.name} {'done' if self.done else 'running'}>"

    def result(self) -> T:
        """What the generator has returned. Interrupted if it was cancelled."""
        if not self.done:
            raise RuntimeError(f"{self.name} has not ended")
        if self.cancelled:
            raise Interrupted
        return cast(T, self._value)

    def join(self) -> Op[T]:
        """Wait, in another task, for this one's end."""
        while not self.done:
            yield Wait(self.finished, None)
        return self.result()

    def cancel(self) -> None:
        """Throw `Interrupted` into what the task is doing, as a signal would, at the
        current time. It may survive that with a result, and go on."""
        if not self.done:
            self._interrupt = True
            self.wake(0)

    def wake(self, mask: int) -> bool:
        """Make the task runnable, now; false if it already is."""
        if self._woken or self.done:
            return False
        self._woken = True
        if self._event is not None:
            self.sim.cancel(self._event)
        self._event = self.sim.at(self.sim.now, self._resume)
        return True

    def _resume(self) -> None:
        """Run the generator to its next wait."""
        if self._wait is not None:
            self._wait.queue.remove(self)
            self._wait = None
        self._event = None
        self._woken = True
        try:
            self._park(self._advance())
        except StopIteration as stop:
            self._value = stop.value
            self._end()
        except Interrupted:
            self.cancelled = True
            self._end()
        self.sim.flush()

    def _advance(self) -> Wait:
        started, self._started = self._started, True
        if self._interrupt:
            self._interrupt = False
            return self._op.throw(Interrupted())
        return self._op.send(self.sim.now) if started else next(self._op)

    def _park(self, wait: Wait) -> None:
        self._wait = wait
        self._woken = False
        self.exclusive = wait.exclusive
        wait.queue.add(self)
        if wait.deadline is not None and wait.deadline < NEVER:
            self._event = self.sim.at(wait.deadline, self._resume)

    def _end(self) -> None:
        self.done = True
        self.finished.wake_all(0)
