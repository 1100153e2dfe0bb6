"""The driver: packets, deadlines, soft interrupts, and silence when there is nothing."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock

from tests.io.fakes import Alarm, FakeStack
from ustack.io.driver import Driver
from ustack.io.timebase import EpollTime, TrioTime
from ustack.sock.dst import Device
from ustack.wire.packet import Frame

MS = 1_000_000
SECOND = 1_000_000_000


class PipeSource:
    """Frames by a pipe, one byte each."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.reads = 0

    def fileno(self) -> int:
        return self.out

    def read_batch(self) -> list[Frame]:
        self.reads += 1
        try:
            return [Frame(os.read(self.out, 1))]
        except BlockingIOError:
            return []

    def send(self, data: bytes) -> None:
        os.write(self.into, data)

    def close(self) -> None:
        os.close(self.out)
        os.close(self.into)


@contextmanager
def pipe() -> Iterator[PipeSource]:
    source = PipeSource()
    try:
        yield source
    finally:
        source.close()


@asynccontextmanager
async def running(driver: Driver) -> AsyncIterator[Driver]:
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        yield driver
        nursery.cancel_scope.cancel()
    driver.close()


async def until(condition: Callable[[], object]) -> None:
    """Bounded wait, for what real descriptors bring."""
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_frames_reach_the_stack_in_order() -> None:
    stack = FakeStack()
    with pipe() as source:
        driver = Driver(stack, EpollTime())
        driver.add_device(source, Device("d", 1500))
        async with running(driver):
            source.send(b"abc")
            await until(lambda: len(stack.frames) == 3)
    assert b"".join(frame.buf for frame in stack.frames) == b"abc"
    assert stack.times == sorted(stack.times)


async def test_an_idle_stack_makes_no_wake_ups() -> None:
    stack = FakeStack()
    alarm = Alarm(stack.deadlines)
    with pipe() as source:
        driver = Driver(stack, EpollTime())
        driver.add_device(source, Device("d", 1500))
        async with running(driver):
            source.send(b"x")
            alarm.set(driver.now() + 3600 * SECOND)
            driver.kick()
            await until(lambda: stack.frames)
            await trio.testing.wait_all_tasks_blocked()
            turns = driver.turns
            await trio.to_thread.run_sync(time.sleep, 1)
            assert driver.turns == turns


async def test_deadlines_fire_in_order_and_not_early() -> None:
    stack = FakeStack()
    late, early = Alarm(stack.deadlines), Alarm(stack.deadlines)
    driver = Driver(stack, EpollTime())
    async with running(driver):
        start = driver.now()
        late.set(start + 20 * MS)
        early.set(start + 5 * MS)
        driver.kick()
        await until(lambda: late.fired)
    assert start + 5 * MS <= early.fired[0] <= late.fired[0]
    assert late.fired[0] >= start + 20 * MS


async def test_an_application_sets_an_earlier_deadline_while_the_driver_sleeps() -> None:
    stack = FakeStack()
    far, near = Alarm(stack.deadlines), Alarm(stack.deadlines)
    driver = Driver(stack, EpollTime())
    far.set(driver.now() + 3600 * SECOND)
    async with running(driver):
        await trio.testing.wait_all_tasks_blocked()
        now = driver.now()
        near.set(now + 5 * MS)
        driver.after_call(now)
        await until(lambda: near.fired)
    assert not far.fired


async def test_moving_a_deadline_later_sets_no_timer() -> None:
    stack = FakeStack()
    alarm = Alarm(stack.deadlines)
    armed: list[int] = []

    class Counting(EpollTime):
        def arm(self, at: int) -> None:
            armed.append(at)
            super().arm(at)

    driver = Driver(stack, Counting())
    start = driver.now()
    alarm.set(start + 300 * MS)
    async with running(driver):
        await trio.testing.wait_all_tasks_blocked()
        for i in range(100):
            alarm.set(start + 350 * MS + i * 1000)
            driver.after_call(driver.now())
        assert armed == [start + 300 * MS]
        await until(lambda: alarm.fired)
        await trio.testing.wait_all_tasks_blocked()
    last = start + 350 * MS + 99 * 1000
    assert alarm.fired[0] >= last
    assert armed[0] == start + 300 * MS
    assert armed[1] == last


async def test_after_call_runs_what_the_call_left_behind() -> None:
    stack = FakeStack()
    driver = Driver(stack, EpollTime())
    driver.after_call(driver.now())
    assert stack.softirqs == 0
    stack.softirq_pending = True
    driver.kick()
    assert stack.softirqs == 1
    assert not stack.softirq_pending
    driver.close()


async def test_soft_interrupts_that_do_not_end_are_shared_out() -> None:
    """A stack that talks to itself for long does not keep the other tasks waiting."""
    stack = FakeStack()
    driver = Driver(stack, EpollTime())

    def again() -> None:
        stack.softirq_pending = stack.softirqs < 50

    stack.on_softirq = again
    async with running(driver):
        await trio.testing.wait_all_tasks_blocked()
        stack.softirq_pending = True
        driver.kick()
        assert stack.softirqs == 1
        await until(lambda: stack.softirqs == 50)
    assert not stack.softirq_pending


async def test_wake_runs_a_turn() -> None:
    stack = FakeStack()
    driver = Driver(stack, EpollTime())
    async with running(driver):
        await trio.testing.wait_all_tasks_blocked()
        stack.softirq_pending = True
        driver.wake()
        driver.wake()
        await until(lambda: stack.softirqs)
        await trio.testing.wait_all_tasks_blocked()
        turns = driver.turns
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert driver.turns == turns


async def test_a_bug_in_the_core_brings_the_nursery_down() -> None:
    stack = FakeStack()

    def bug(frames: list[Frame], dev: Device) -> None:
        raise AssertionError("queue out of order")

    stack.on_frames = bug
    with pipe() as source:
        driver = Driver(stack, EpollTime())
        driver.add_device(source, Device("d", 1500))
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="out of order")):
            async with running(driver):
                source.send(b"x")
                await trio.sleep(5)
        driver.close()


# -- on trio's clock ---------------------------------------------------------------------


async def test_mock_clock_drives_the_deadlines(autojump_clock: MockClock) -> None:
    stack = FakeStack()
    alarms = [Alarm(stack.deadlines) for _ in range(3)]
    driver = Driver(stack, TrioTime())
    async with running(driver):
        start = driver.now()
        for i, alarm in enumerate(alarms):
            alarm.set(start + (i + 1) * 7 * SECOND + 1)
        driver.kick()
        await trio.sleep(3600)
        assert [alarm.fired for alarm in alarms] == [
            [start + (i + 1) * 7 * SECOND + 1] for i in range(3)
        ]
        assert driver.turns <= 8
        assert driver.now() - start == 3600 * SECOND


async def test_mock_clock_an_earlier_deadline_while_asleep(autojump_clock: MockClock) -> None:
    stack = FakeStack()
    far, near = Alarm(stack.deadlines), Alarm(stack.deadlines)
    driver = Driver(stack, TrioTime())
    async with running(driver):
        far.set(driver.now() + 100 * SECOND)
        driver.kick()
        await trio.sleep(1)
        at = driver.now() + SECOND
        near.set(at)
        driver.kick()
        await trio.sleep(2)
        assert near.fired == [at]
        assert not far.fired


def test_a_descriptor_needs_real_time() -> None:
    driver = Driver(FakeStack(), TrioTime())
    with pipe() as source, pytest.raises(TypeError):
        driver.add_device(source, Device("d", 1500))
