"""Blocking operations under trio: waking, deadlines, cancelling, and no wake-up lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.io.fakes import FakeStack, Script
from ustack.io.driver import Driver
from ustack.io.ops import YIELD_EVERY, drive
from ustack.io.timebase import TrioTime
from ustack.sock.wait import Interrupted, Op, Wait, WaitQueue

SECOND = 1_000_000_000


@asynccontextmanager
async def running() -> AsyncIterator[Driver]:
    driver = Driver(FakeStack(), TrioTime())
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        yield driver
        nursery.cancel_scope.cancel()


async def into(results: list[object], driver: Driver, op: Op[int]) -> None:
    results.append(await drive(driver, op))


async def test_a_result_is_returned_and_now_and_then_others_run() -> None:
    driver = Driver(FakeStack(), TrioTime())
    ran: list[int] = []

    async def other() -> None:
        ran.append(driver.calls)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for i in range(2 * YIELD_EVERY):
            assert await drive(driver, i) == i
            assert not ran or i >= YIELD_EVERY - 1
        assert ran


async def test_a_completed_call_keeps_its_result_when_cancelled() -> None:
    driver = Driver(FakeStack(), TrioTime())
    with trio.CancelScope() as scope:
        scope.cancel()
        results = [await drive(driver, i) for i in range(2 * YIELD_EVERY)]
    assert results == list(range(2 * YIELD_EVERY))


async def test_an_operation_that_never_waits() -> None:
    driver = Driver(FakeStack(), TrioTime())
    script = Script(3)
    script.have = 5
    assert await drive(driver, script.read()) == 3
    assert script.resumed == []


async def test_woken_it_runs_again_with_the_time(autojump_clock: MockClock) -> None:
    script = Script(3)
    results: list[object] = []
    async with running() as driver, trio.open_nursery() as nursery:
        nursery.start_soon(into, results, driver, script.read())
        start = driver.now()
        for _ in range(3):
            await trio.sleep(1)
            assert results == []
            script.feed(1)
    assert results == [3]
    assert script.resumed == [start + n * SECOND for n in (1, 2, 3)]
    assert script.queue.waiters == []


async def test_a_deadline_is_exact_under_a_mock_clock(autojump_clock: MockClock) -> None:
    script = Script(3)
    async with running() as driver:
        at = driver.now() + 5 * SECOND + 1
        script.have = 2
        assert await drive(driver, script.read(deadline=at)) == 2
        assert script.resumed == [at]
        assert driver.now() == at
        assert script.queue.waiters == []


async def test_many_deadlines_that_are_not_reached_leave_one_entry(
    autojump_clock: MockClock,
) -> None:
    script = Script(1)
    results: list[object] = []
    async with running() as driver:
        for _ in range(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    into, results, driver, script.read(deadline=driver.now() + 1000 * SECOND)
                )
                await wait_all_tasks_blocked()
                script.feed(1)
        assert len(driver.sleepers) == 1
        await trio.sleep(2000)
    assert results == [1] * 50
    assert driver.turns < 10


async def test_cancelled_with_nothing_done() -> None:
    script = Script(3)
    async with running() as driver:
        with trio.CancelScope() as scope:
            scope.cancel()
            await drive(driver, script.read())
        assert scope.cancelled_caught
        assert script.queue.waiters == []


async def test_cancelled_with_something_done_returns_it() -> None:
    script = Script(3)
    script.have = 2
    async with running() as driver:
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await drive(driver, script.read()) == 2
        assert not scope.cancelled_caught
        assert script.queue.waiters == []


async def test_cancelled_and_ending_with_an_error() -> None:
    def op() -> Op[int]:
        try:
            yield Wait(WaitQueue(), None)
        except Interrupted:
            raise OSError(104, "reset") from None
        return 0

    async with running() as driver:
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(OSError) as caught:
                await drive(driver, op())
        assert caught.value.errno == 104


async def test_woken_then_cancelled_keeps_what_woke_it() -> None:
    script = Script(1)
    results: list[object] = []
    async with running() as driver, trio.open_nursery() as nursery:
        nursery.start_soon(into, results, driver, script.read())
        await wait_all_tasks_blocked()
        script.feed(1)
        nursery.cancel_scope.cancel()
    assert results == [1]
    assert script.have == 0


async def test_an_exclusive_wake_up_passes_a_sleeper_that_has_been_woken() -> None:
    script = Script(1)
    results: list[object] = []
    async with running() as driver, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(into, results, driver, script.read(exclusive=True))
        await wait_all_tasks_blocked()
        script.feed(1)
        script.feed(1)  # before the first has run: it goes to the second
        await wait_all_tasks_blocked()
        assert results == [1, 1]
        assert len(script.queue.waiters) == 1
        script.feed(1)
    assert results == [1, 1, 1]


async def test_a_cancelled_exclusive_sleeper_leaves_the_wake_up_to_others() -> None:
    script = Script(1)
    results: list[object] = []
    async with running() as driver, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await drive(driver, script.read(exclusive=True))
        nursery.start_soon(into, results, driver, script.read(exclusive=True))
        await wait_all_tasks_blocked()
        script.feed(1)
    assert results == [1]


async def test_what_the_operation_itself_sets_off_may_wake_it() -> None:
    """A send to oneself is delivered by the soft interrupt, before the task is parked."""
    script = Script(1)
    async with running() as driver:
        stack = driver.stack
        assert isinstance(stack, FakeStack)
        stack.on_softirq = lambda: script.feed(1)

        def op() -> Op[int]:
            stack.softirq_pending = True
            return (yield from script.read())

        with trio.fail_after(1):
            assert await drive(driver, op()) == 1
        assert script.queue.waiters == []
        assert driver.sleepers[0].woken


async def test_an_error_of_the_operation_is_raised() -> None:
    def op(queue: WaitQueue) -> Op[int]:
        yield Wait(queue, None)
        raise ConnectionResetError(104, "reset")

    queue = WaitQueue()
    async with running() as driver, trio.open_nursery() as nursery:

        async def caller() -> None:
            with pytest.raises(ConnectionResetError):
                await drive(driver, op(queue))

        nursery.start_soon(caller)
        await wait_all_tasks_blocked()
        queue.wake_all(-1)
