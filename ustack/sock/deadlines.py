"""One heap of deadlines for a whole host.

Every socket keeps its timers as a table of absolute times; arming or cancelling one is
a store. The heap holds, for each owner, at most a few entries; an entry may be early
(the timer has since been moved later or cancelled), never late. When an early entry
comes up the owner is asked again and put back at its real deadline. So an RTO that is
re-armed on every ACK costs a store, not a heap operation.

An entry that was superseded by an earlier one, or whose owner is gone (`forget`), is
dead weight, and may lie hours ahead (keepalive): it keeps its owner alive, and every pass
over a nearer timer leaves another. Once half of the heap is dead it is swept.

Sources: gVisor `transport/tcp/timer.go` (lazy timers), Linux `sk_reset_timer`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Protocol

NEVER = 1 << 62  # later than any time the core is ever told


class TimerOwner(Protocol):
    """Something with deadlines.

    `heap_at` belongs to `Deadlines`: the earliest heap entry of this owner, NEVER if none.
    """

    heap_at: int

    def next_deadline(self) -> int:
        """The earliest armed deadline, or NEVER."""

    def handle_timeout(self, now: int) -> None:
        """Run what is due at `now`."""


class Deadlines:
    """A lazy heap of (deadline, tie-break, owner)."""

    __slots__ = ("_dead", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, TimerOwner]] = []
        self._serial = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, owner: TimerOwner, at: int) -> None:
        """Make sure that `owner` is looked at no later than `at`."""
        if at < owner.heap_at:
            if owner.heap_at != NEVER:
                self._dead += 1
                if self._dead > 64 + len(self._heap) // 2:
                    self._sweep()
            owner.heap_at = at
            self._serial += 1
            heappush(self._heap, (at, self._serial, owner))

    def forget(self, owner: TimerOwner) -> None:
        """`owner` is no more."""
        if owner.heap_at != NEVER:
            owner.heap_at = NEVER
            self._dead += 1
            if self._dead * 2 >= len(self._heap):
                self._sweep()

    def _sweep(self) -> None:
        """Keep one entry for each owner, in place: `run` may be looking."""
        live = {entry[2]: entry for entry in self._heap if entry[0] == entry[2].heap_at}
        self._heap[:] = live.values()
        heapify(self._heap)
        self._dead = 0

    def earliest(self) -> int:
        """The first entry, which may be early: nothing is due before it. NEVER if none."""
        heap = self._heap
        return heap[0][0] if heap else NEVER

    def next_timeout(self) -> int:
        """When `run` should be called next, NEVER if nothing is armed. May be early once."""
        heap = self._heap
        while heap:
            at, _, owner = heap[0]
            if at == owner.heap_at:
                real = owner.next_deadline()
                if real <= at:
                    return at
                owner.heap_at = NEVER
                heappop(heap)
                if real < NEVER:
                    self.arm(owner, real)
            else:
                heappop(heap)  # superseded by an earlier entry that has been run
                self._dead -= self._dead > 0
        return NEVER

    def run(self, now: int) -> None:
        """Run everything that is due at `now`, in order of deadline, then of arming."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, owner = heappop(heap)
            if at != owner.heap_at:
                self._dead -= self._dead > 0
                continue
            owner.heap_at = NEVER
            if owner.next_deadline() <= now:
                owner.handle_timeout(now)
            real = owner.next_deadline()
            if real < NEVER:
                self.arm(owner, max(real, now + 1) if real <= now else real)
