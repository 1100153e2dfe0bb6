"""The kernel's timers as they really are: ticks, and a wheel whose outer levels are coarse."""

from __future__ import annotations

import re

from ustack.link.fifo import Fifo
from ustack.sock.deadlines import NEVER, Deadlines
from ustack.tcp.sock import T_PACING, TcpSock

HZ = 250
TICK = 1_000_000_000 // HZ
EXACTLY = -1


def jiffies_offset() -> int:
    """The kernel's tick count less our own (ticks of CLOCK_MONOTONIC); 0 where it is secret."""
    try:
        with open("/proc/timer_list", encoding="ascii") as file:
            text = file.read()
    except OSError:
        return 0
    jiffies, at = re.search(r"\bjiffies: (\d+)", text), re.search(r"now at (\d+) nsecs", text)
    return int(jiffies[1]) - int(at[1]) // TICK if jiffies and at else 0


def _is_pacing(owner: object, at: int) -> bool:
    return isinstance(owner, TcpSock) and owner.timers[T_PACING] == at


class Wheel:
    """How late the kernel's timers are (Linux: `calc_wheel_index`).

    A timer set for 63 ticks ahead or more lies on a coarser level: it fires at a multiple
    of 8 ticks, for 504 and more of 64, and so on. So when one was armed matters, which
    the stack does not keep: `note` looks for new deadlines after every event.
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self._armed: dict[int, tuple[int, int]] = {}

    def expiry(self, at: int, armed: int) -> int:
        """When a timer set at `armed` for `at` fires."""
        if armed == EXACTLY:
            return at
        expires = (at - 1) // TICK + self.offset
        ahead = expires - (armed // TICK + self.offset)
        shift = 0
        while ahead >= 63 << shift:
            shift += 3
        return (((expires >> shift) + 1 << shift) - self.offset) * TICK

    def note(self, deadlines: Deadlines, now: int) -> None:
        armed = self._armed
        self._armed = {}
        for _, _, owner in deadlines._heap:
            at = owner.next_deadline()
            known = armed.get(id(owner))
            same = known is not None and known[0] == at
            self._armed[id(owner)] = known if same else (at, now)  # type: ignore[assignment]
            if isinstance(owner, Fifo) or _is_pacing(owner, at):  # hrtimers, exact ones
                self._armed[id(owner)] = (at, EXACTLY)

    def next(self) -> int:
        """The first expiry of what was noted."""
        return min((self.expiry(*t) for t in self._armed.values() if t[0] < NEVER), default=NEVER)
