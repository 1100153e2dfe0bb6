"""Random segments and receive calls, as scripts for a bench.

Modes: `ofo` (holes, overlaps, FINs anywhere), `seq` (in order), `urg` (urgent pointers),
`dirty` (repeated bytes that differ). Urgent bytes lie in the segment that announces them:
one that lies before the next segment makes the kernel take a byte of that segment's header
for it. Pure ACKs without SACK are not compared: when one
is sent is the windows' and timers' matter, which has tables of its own.
"""

from __future__ import annotations

import random
from typing import Any

from tests.tcp.harness import Bench, Sent
from tests.tcp.segment_table import call

MODES = ("ofo", "seq", "urg", "dirty")
SEEDS = range(150)
SIOCINQ, SIOCATMARK = 0x541B, 0x8905
MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL = 0x1, 0x2, 0x20, 0x100
_OPTIONS = ((1, 10, 1), (1, 10, 0), (1, 42, 0), (1, 42, 5), (1, 42, -1), (1, 18, 1), (1, 18, 20),
            (6, 36, 1))  # fmt: skip
_STREAM = bytes((i * 7 + 3) % 251 for i in range(5000))


class Script:
    """One run: what it did and what came of it, in `log`."""

    def __init__(self, cls: type[Bench], mode: str, seed: int) -> None:
        self.random = random.Random(f"{mode} {seed}").random
        self.mode = mode
        self.log: list[Any] = []
        ts, sack = self.chance(0.3), self.chance(0.8)
        self.b = cls.connected(ts=ts, sack=sack, wscale=7)
        self.kernel = getattr(self.b, "is_kernel", False)
        self.top = 0  # where the contiguous stream ends
        self.fin = False
        for _ in range(5 + self.below(20)):
            self.step()

    def chance(self, p: float) -> bool:
        return self.random() < p

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def pick(self, options: tuple[Any, ...]) -> Any:
        return options[self.below(len(options))]

    def step(self) -> None:
        kind = self.random()
        if kind < 0.55:
            self.segment()
        elif kind < 0.85:
            self.receive()
        elif kind < 0.9:
            option = self.pick(_OPTIONS)
            self.log.append(("option", option, call(lambda: self.b.setopt(*option))))
        elif kind < 0.92:
            how = self.below(2)
            self.log.append(("shutdown", how, call(lambda: self.b.shutdown(how))))
        b = self.b
        asked = [call(lambda request=r: b.ioctl(request)) for r in (SIOCINQ, SIOCATMARK)]
        self.log.append((f"{b.poll():x}", *asked))

    def segment(self) -> None:
        at = self.below(self.top + 60 - max(0, self.top - 40)) + max(0, self.top - 40)
        length = self.pick((1, 1, 2, 5, 10, 20, 40, 100))
        if self.mode == "seq" or self.chance(0.35):
            at = self.top
        flags = "PA" if self.chance(0.4) else "A"
        urg = 0
        if self.mode == "urg" and self.chance(0.3):
            flags += "U"
            urg = self.pick((1, length, length, max(1, length // 2)))
        if self.chance(0.05) and not self.fin:
            flags += "F"
            self.fin = True
        twist = self.below(256) if self.mode == "dirty" else 0
        data = bytes((x + twist) % 256 for x in _STREAM[at : at + length])
        self.b.inject(flags, seq=1 + at, data=data, ack=1, urg=urg)
        if not self.kernel:
            self.b.run(3)  # what the kernel's bench takes to settle
        if at <= self.top < at + length:
            self.top = at + length
        self.log.append((flags, at, length, urg, self.sent()))

    def receive(self) -> None:
        length = self.pick((0, 1, 2, 3, 10, 50, 1000))
        flags = MSG_PEEK if self.chance(0.35) else 0
        flags |= MSG_TRUNC if self.chance(0.15) else 0
        flags |= MSG_WAITALL if self.chance(0.2) else 0
        flags |= MSG_OOB if self.chance(0.4 if self.mode == "urg" else 0.02) else 0
        result = call(lambda: self.recvmsg(length, flags))
        self.log.append(("recv", length, flags, result, self.sent()))

    def recvmsg(self, length: int, flags: int) -> tuple[Any, Any, int]:
        b: Any = self.b
        if self.kernel:
            data, control, msg_flags = b.recvmsg(length, flags)
            size = len(data)
        else:
            msg = b.sk.prot.recvmsg(b.sk, length, flags | 0x40, b.now)
            b.step()
            data, size, msg_flags = b"".join(bytes(c) for c in msg.chunks), msg.len, msg.flags
            control = [(lv, kind, int.from_bytes(v, "little")) for lv, kind, v in msg.control]
        return (size if flags & MSG_TRUNC else data.hex()), sorted(control), msg_flags & 0x23

    def sent(self) -> list[Any]:
        return [_shown(s) for s in self.b.take() if s.flags != "A" or s.len or s.sacks]


def _shown(s: Sent) -> tuple[Any, ...]:
    return s.flags, s.seq, s.len, s.ack if "A" in s.flags else 0, s.sacks


def play(cls: type[Bench], mode: str, seed: int) -> list[Any]:
    return Script(cls, mode, seed).log
