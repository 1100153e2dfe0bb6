from __future__ import annotations

import trio
from trio.testing import MockClock

from tests.io.fakes import FakeStack, echo
from ustack.io.driver import Driver
from ustack.io.memory import BATCH_FRAMES, QUEUE_LEN, MemoryDevice, memory_pair
from ustack.io.timebase import EpollTime, TrioTime
from ustack.wire.packet import DROPPED, F_ALL, TAKEN, Packet


def drivers(timebase: type[TrioTime] | type[EpollTime]) -> tuple[Driver, Driver, MemoryDevice]:
    """Two drivers joined by a pair, and the left end; the right stack sends back all."""
    left, right = Driver(FakeStack(), timebase()), Driver(FakeStack(), timebase())
    near, far = memory_pair()
    for driver, dev in ((left, near), (right, far)):
        dev.on_frames = driver.wake
        driver.add_device(dev, dev)
    stack = right.stack
    assert isinstance(stack, FakeStack)
    stack.on_frames = lambda frames, dev: echo(dev, frames)
    return left, right, near


async def exchange(left: Driver, right: Driver, near: MemoryDevice, count: int) -> FakeStack:
    """Send `count` packets from left to right and have them back; then all is quiet."""
    stack = left.stack
    assert isinstance(stack, FakeStack)
    async with trio.open_nursery() as nursery:
        await nursery.start(left.run)
        await nursery.start(right.run)
        await trio.testing.wait_all_tasks_blocked()
        for i in range(count):
            near.xmit(Packet(b"\x45%d" % i, [b"payload"], 7, csum_start=20))
            assert len(stack.frames) == 0  # nothing is delivered inside xmit
        with trio.fail_after(5):
            while len(stack.frames) < count:
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        turns = left.turns + right.turns
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert left.turns + right.turns == turns
        nursery.cancel_scope.cancel()
    left.close()
    right.close()
    return stack


async def test_packets_cross_and_come_back_in_order(autojump_clock: MockClock) -> None:
    stack = await exchange(*drivers(TrioTime), 200)
    assert [frame.buf for frame in stack.frames] == [b"\x45%dpayload" % i for i in range(200)]


async def test_the_same_in_real_time() -> None:
    stack = await exchange(*drivers(EpollTime), 5)
    assert len(stack.frames) == 5


def test_a_full_queue_drops_and_counts() -> None:
    near, far = memory_pair()
    verdicts = [near.xmit(Packet(b"\x45", [b"abc"], 3)) for _ in range(QUEUE_LEN + 2)]
    assert verdicts == [TAKEN] * QUEUE_LEN + [DROPPED] * 2
    assert (near.tx_packets, near.tx_bytes, near.tx_dropped) == (QUEUE_LEN, 4 * QUEUE_LEN, 2)
    woken: list[int] = []
    far.on_frames = lambda: woken.append(1)
    sizes = []
    while frames := far.read_batch():
        sizes.append(len(frames))
    assert sum(sizes) == QUEUE_LEN
    assert max(sizes) == BATCH_FRAMES
    assert len(woken) == len(sizes) - 1  # frames left behind wake again


def test_what_is_left_to_do_crosses_with_the_packet() -> None:
    near, far = memory_pair(mtu=9000)
    assert (near.features, far.features, far.mtu) == (F_ALL, F_ALL, 9000)
    near.xmit(Packet(b"\x45", [bytes(3000)], 3000, 1448, 20, 16))
    near.xmit(Packet(b"\x45", [bytes(1448)], 1448, 1448, 20, 16))
    near.xmit(Packet(b"\x45"))
    found = [(frame.gso_size, frame.csum_ok) for frame in far.read_batch()]
    assert found == [(1448, True), (0, True), (0, False)]
