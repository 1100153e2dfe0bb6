"""A trio task asleep on a wait queue, with a deadline in the stack's heap."""

from __future__ import annotations

from typing import Any

from trio.lowlevel import Abort, Task, reschedule

from ustack.sock.deadlines import NEVER
from ustack.sock.wait import Interrupted, Op, Wait


class Sleeper:
    """Both a `Waiter` and a `TimerOwner`: whatever comes first wakes the task, once.

    `woken` is true when there is nobody to wake: then `wake` declines, and an exclusive
    wake-up goes to the next in the queue. `op` is the operation that sleeps; a cancel ends
    it (`abort`), with a result or an error that its driver finds in `outcome`.
    """

    __slots__ = ("deadline", "exclusive", "heap_at", "op", "outcome", "task", "woken")

    def __init__(self) -> None:
        self.exclusive = False
        self.heap_at = NEVER
        self.deadline = NEVER
        self.task: Task | None = None  # once parked
        self.woken = True
        self.op: Op[Any] | None = None
        self.outcome: tuple[Any] | Exception | None = None

    def prepare(self, wait: Wait) -> None:
        """Go on the queue. Wake-ups count from here, even before the task is parked."""
        self.exclusive = wait.exclusive
        self.deadline = NEVER if wait.deadline is None else wait.deadline
        self.woken = False
        wait.queue.waiters.append(self)

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

    def abort(self, _: object) -> Abort:
        """The sleeping task is cancelled: a signal to the operation. If that ends with what
        it had already transferred, or with an error, the task wakes up to it."""
        self.woken = True
        assert self.op is not None  # only a sleeper is aborted
        assert self.task is not None
        try:
            self.op.throw(Interrupted())
        except StopIteration as stop:
            self.outcome = (stop.value,)
        except Interrupted:
            return Abort.SUCCEEDED
        except Exception as exc:
            self.outcome = exc
        else:
            self.outcome = RuntimeError("an interrupted operation went to sleep again")
        reschedule(self.task)
        return Abort.FAILED

    def next_deadline(self) -> int:
        return self.deadline

    def handle_timeout(self, now: int) -> None:
        self.deadline = NEVER
        self.wake(0)
