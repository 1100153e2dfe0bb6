"""Blocking calls under trio: the adapter of `sock.wait` operations.

A call into the core either completes at once or returns an `Op`, a generator that yields
a `Wait` whenever the kernel would sleep. `drive` parks the calling task on the wait's
queue and resumes the generator when it is woken or its deadline has come:

    await checkpoint_if_cancelled()
    result = sk.prot.recvmsg(sk, n, flags, driver.now())
    return await drive(driver, result)

A cancel is a signal. Before the call: nothing happens. While it sleeps: `Interrupted` is
thrown into the operation, and if that ends with what it had already transferred, the call
returns that and stays uncancelled (the next one will notice). After it has completed: the
result is returned; it must not be lost. So a completed call does not look for
cancellation again, and yields to other tasks only every YIELD_EVERY calls: a checkpoint
costs as much as the call.

The task is on the queue from the moment the operation says so, with no await between,
and leaves it on every path, so no wake-up is lost.

Sleepers are reused: one that had a deadline may still have an entry in the heap of
deadlines, which the next use moves instead of adding another. So the heap holds no more
entries than there ever were sleepers at a time.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar, cast, overload

from trio.lowlevel import cancel_shielded_checkpoint, current_task, wait_task_rescheduled

from ustack.io.driver import Driver
from ustack.io.sleeper import Sleeper
from ustack.sock.deadlines import NEVER
from ustack.sock.wait import Op

T = TypeVar("T")

YIELD_EVERY = 64


@overload
async def drive(driver: Driver, result: Op[T]) -> T: ...


@overload
async def drive(driver: Driver, result: T) -> T: ...


async def drive(driver: Driver, result: T | Op[T]) -> T:
    """Finish a call into the core, whose `result` may be an operation. See above."""
    if not isinstance(result, Generator):
        driver.kick()
        driver.calls += 1
        if driver.calls % YIELD_EVERY == 0:
            await cancel_shielded_checkpoint()
        return result
    sleepers = driver.sleepers
    sleeper = sleepers.pop() if sleepers else Sleeper()
    op = sleeper.op = cast("Op[T]", result)
    try:
        wait = next(op)
        while True:
            sleeper.prepare(wait)
            try:
                if sleeper.deadline < NEVER:
                    driver.stack.deadlines.arm(sleeper, sleeper.deadline)
                # what the operation has done so far may wake us already, hence in this order
                driver.kick()
                if sleeper.woken:
                    await cancel_shielded_checkpoint()
                else:
                    sleeper.task = current_task()
                    await wait_task_rescheduled(sleeper.abort)
            finally:
                sleeper.release(wait)
            if sleeper.outcome is not None:
                return cast(T, _take_outcome(sleeper))
            wait = op.send(driver.now())
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        sleeper.op = None
        sleepers.append(sleeper)
        driver.kick()


def _take_outcome(sleeper: Sleeper) -> object:
    """How a cancelled operation ended: its result, or its error raised."""
    outcome, sleeper.outcome = sleeper.outcome, None
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome is not None  # the caller has looked
    return outcome[0]
