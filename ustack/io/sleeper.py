"""A trio task asleep on a wait queue, with a deadline in the stack's heap."""

from __future__ import annotations

from trio.lowlevel import Task, reschedule

from ustack.sock.deadlines import NEVER
from ustack.sock.wait import Wait


class Sleeper:
    """Both a `Waiter` and a `TimerOwner`: whatever comes first wakes the task, once.

    `woken` is true when there is nobody to wake: then `wake` declines, and an exclusive
    wake-up goes to the next in the queue.
    """

    __slots__ = ("deadline", "exclusive", "heap_at", "task", "woken")

    def __init__(self) -> None:
        self.exclusive = False
        self.heap_at = NEVER
        self.deadline = NEVER
        self.task: Task | None = None  # once parked
        self.woken = True

    def prepare(self, wait: Wait) -> None:
        """Go on the queue. Wake-ups count from here, even before the task is parked."""
        self.exclusive = wait.exclusive
        self.deadline = NEVER if wait.deadline is None else wait.deadline
        self.woken = False
        wait.queue.add(self)

    def release(self, wait: Wait) -> None:
        """Leave the queue, ready for another use."""
        wait.queue.remove(self)
        self.deadline = NEVER
        self.task = None
        self.woken = True

    def wake(self, mask: int) -> bool:
        if self.woken:
            return False
        self.woken = True
        if self.task is not None:
            reschedule(self.task)
        return True

    def next_deadline(self) -> int:
        return self.deadline

    def handle_timeout(self, now: int) -> None:
        self.deadline = NEVER
        self.wake(0)
