"""A stack that keeps what it is given, and operations that do as they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ustack.sock.deadlines import NEVER, Deadlines
from ustack.sock.dst import Device
from ustack.sock.wait import Interrupted, Op, Wait, WaitQueue
from ustack.wire.packet import Frame, Packet


class Alarm:
    """A timer owner with one deadline."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self.heap_at = NEVER
        self.at = NEVER
        self.fired: list[int] = []

    def set(self, at: int) -> None:
        self.at = at
        self.deadlines.arm(self, at)

    def next_deadline(self) -> int:
        return self.at

    def handle_timeout(self, now: int) -> None:
        self.at = NEVER
        self.fired.append(now)


class FakeStack:
    """Counts and keeps; `on_frames` is what it does with a batch."""

    def __init__(self) -> None:
        self.deadlines = Deadlines()
        self.softirq_pending = False
        self.frames: list[Frame] = []
        self.times: list[int] = []
        self.softirqs = 0
        self.on_frames: Callable[[list[Frame], Device], None] | None = None
        self.on_softirq: Callable[[], None] | None = None

    def handle_batch(self, frames: list[Frame], now: int, dev: Device) -> None:
        self.frames += frames
        self.times.append(now)
        if self.on_frames is not None:
            self.on_frames(frames, dev)

    def handle_timeout(self, now: int) -> None:
        self.deadlines.run(now)

    def run_softirq(self, now: int) -> None:
        self.softirq_pending = False
        self.softirqs += 1
        if self.on_softirq is not None:
            self.on_softirq()


class Script:
    """A blocking read of `total` bytes from a queue that is fed by `feed`."""

    def __init__(self, total: int) -> None:
        self.queue = WaitQueue()
        self.total = total
        self.have = 0
        self.resumed: list[int] = []

    def feed(self, n: int) -> None:
        self.have += n
        self.queue.wake(-1)

    def read(self, deadline: int | None = None, exclusive: bool = False) -> Op[int]:
        """Ends with the bytes read: all, or what there is at the deadline or a cancel."""
        now = 0
        while self.have < self.total and (deadline is None or now < deadline):
            try:
                now = yield Wait(self.queue, deadline, exclusive)
            except Interrupted:
                if not self.have:
                    raise
                break
            self.resumed.append(now)
        taken = min(self.have, self.total)
        self.have -= taken
        return taken


def echo(dev: Device, frames: Iterable[Frame]) -> None:
    """Send back what came."""
    for frame in frames:
        dev.xmit(Packet(frame.buf[frame.off :]))
