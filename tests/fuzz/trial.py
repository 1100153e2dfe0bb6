"""The trial of a random program: what it needs beyond a parity scenario's.

Results are shown so that both backends can agree: no time of day, no number that a host
chooses at random.
"""

from __future__ import annotations

import select as kernel
import struct
import time
from typing import Any

from tests.fuzz.program import ZEROCOPY
from tests.fuzz.timeline import MS, TICK
from tests.sockets.parity.kernel import KernelSocket, KernelSut
from tests.sockets.parity.peer import Seen, pattern
from tests.sockets.parity.stack import StackSut, VirtualClock
from tests.sockets.parity.trace import Event
from tests.sockets.parity.trial import MSG_ERRQUEUE, Socket, Trial
from ustack.sock.poll import SELECT_EX, SELECT_IN, SELECT_OUT, Polled, poll

_STAMPS = {29: "ll", 35: "ll", 37: "6q"}  # SCM_TIMESTAMP, -NS, -ING of SOL_SOCKET
_UNIT = {29: 1000, 35: 1, 37: 1}


def select(raw: Any) -> str:
    """select(2) of one socket in all three sets: those in which it is found."""
    if isinstance(raw, KernelSocket):
        fds = [raw.fd]
        found = kernel.select(fds, fds, fds, 0)
    else:
        masks = SELECT_IN, SELECT_OUT, SELECT_EX
        entry = Polled(raw._open(), SELECT_IN | SELECT_OUT | SELECT_EX)
        poll([entry], 0, raw.sut.enter())
        found = tuple([1] if entry.revents & mask else [] for mask in masks)
    return "".join(name for name, got in zip("rwx", found, strict=True) if got) or "-"


class FuzzClock(VirtualClock):
    """Virtual time in which, as in real time, nothing happens at the same instant."""

    def __init__(self) -> None:
        super().__init__()
        self._now += TICK * MS // 2  # between two ticks

    def now(self) -> int:
        self._now += 1000
        return self._now


class FuzzTrial(Trial):
    """A trial that hears only its own connection: others have used the namespace."""

    def __init__(self, sut: KernelSut | StackSut, v6: bool, port: int) -> None:
        super().__init__(sut, v6)
        self.port = port
        self.lateness = 0  # ns, the worst of any step
        self.injected: list[int] = []  # when the peer has sent

    def _take(self, raw: bytes, at: int) -> None:
        seen = Seen(self, raw, (at - self._window) / MS)
        if seen.proto != 6 or seen.dport != self.port:
            return
        if not seen.id and seen.text.endswith(" id 0") and self.flows[0].last_id == 0xFFFF:
            seen.text = seen.text.removesuffix(" id 0")  # counting on
            self.flows[0].last_id = 0
        if seen.flags in ("R", "RA") and self._raw_seq(raw) == 0:
            seen.text = seen.text.replace(f"{seen.seq}:{seen.seq}", "0:0")  # not our number
        self._seen.append(seen)

    def inject(self, packet: bytes, text: str) -> None:
        self.injected.append(self.sut.now())
        super().inject(packet, text)
        self.sut.settle()

    def wall_offset(self) -> int:
        """From the clock of `injected` to the time of day."""
        return time.time_ns() - time.monotonic_ns() if isinstance(self.sut, KernelSut) else 0

    def wrap(self, raw: Any) -> Socket:
        self._names += 1
        return FuzzSocket(self, raw, f"s{self._names}" if self._names > 1 else "s")

    @staticmethod
    def _raw_seq(raw: bytes) -> int:
        at = 24 if raw[0] >> 4 == 4 else 44
        return int.from_bytes(raw[at : at + 4], "big")

    def advance(self, nominal: int, gap: int) -> None:
        """Let time pass until `nominal` ms after the start."""
        self.run_until(self.started + nominal * MS, f"{gap} ms")
        self.lateness = max(self.lateness, self.sut.now() - self.started - nominal * MS)

    def run_until(self, until: int, text: str) -> None:
        self.begin_interval()
        self.sut.pump(until, self._take)
        self.finish_interval(text)

    def begin_interval(self) -> None:
        self._window = self.sut.now()
        self._seen = []

    def finish_interval(self, text: str, early: int = 0, slack: int = 0) -> None:
        """Note what came. It may come `early` ms earlier on the kernel or `slack` later."""
        events = self.trace.events
        first = len(events)
        self.event("run", text)
        for seen in self._seen:
            at = (self._window - self.started) / MS + seen.at
            events.append(Event("wire", seen.text, None, at, seen.at))
        for call in [*self.calls]:
            call.look()
        for event in events[first:]:
            event.slack = (early, slack)  # type: ignore[attr-defined]

    @property
    def seen_now(self) -> list[Seen]:
        return self._seen


class FuzzSocket(Socket):
    """A socket whose messages show no time of day and nothing of a quoted packet."""

    trial: FuzzTrial
    kept: tuple[bytes, ...] = ()  # buffers from which the kernel sends without a copy

    def send(self, data: bytes | int, flags: int = 0, to: Any = None, control: Any = ()) -> Any:
        if flags & ZEROCOPY and isinstance(data, int):
            data = pattern(self.sent, data)
            self.kept += (data,)
        return super().send(data, flags, to, control)

    def _message(self, data: bytes, flags: int, control: Any, addr: Any, n: int) -> Any:
        if addr and addr[1] == self.trial.port:
            addr = addr[0], "port"  # the kernel's differs from program to program
        if flags & MSG_ERRQUEUE and n:
            data = bytes(n)  # ports and sequence numbers
        shown = [(level, kind, self._timeless(level, kind, d)) for level, kind, d in control]
        return super()._message(data, flags, shown, addr, n)

    def _timeless(self, level: int, kind: int, data: bytes) -> bytes:
        """A time of arrival becomes the number of packets that had come by then."""
        if level != 1 or kind not in _STAMPS:
            return data
        seconds, rest = struct.unpack_from(_STAMPS[kind], data)[:2]
        wall = seconds * 1_000_000_000 + rest * _UNIT[kind]
        latest = wall + _UNIT[kind] - self.trial.wall_offset()
        return bytes([sum(at <= latest for at in self.trial.injected)])
