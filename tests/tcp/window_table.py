"""What windows are offered and when it is acknowledged while segments of one size come in,
as scripts for a bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from tests.tcp.harness import Bench, Sent

Case: TypeAlias = tuple[bool, int, int, int]
SEGMENTS = 18  # fewer than a delayed ACK's time lets through on a kernel
SO_RCVBUF, TCP_WINDOW_CLAMP = 8, 10


def cases() -> Iterator[Case]:
    """(timestamps, SO_RCVBUF or 0, payload of a segment, segments between reads or 0)."""
    for ts in (False, True):
        for buffer in (0, 32768, 20000):
            for size in (1448 if ts else 1460, 1000, 536, 200, 1):
                for read in (0, 1, 3):
                    yield ts, buffer, size, read


CASES = list(cases())


def answer(cls: type[Bench], case: Case) -> list[Any]:
    """For each segment the ACKs, and those after a read; at the end clamp and buffer."""
    ts, buffer, size, read = case

    def prepare(b: Bench) -> None:
        if buffer:
            b.setopt(1, SO_RCVBUF, buffer)

    b = cls.connected(prepare=prepare, ts=ts, wscale=7)
    log: list[Any] = []
    for i in range(SEGMENTS):
        b.inject("A", data=b"x" * size, ack=1)
        log.append(_acks(b.take()))
        if read and i % read == read - 1:
            b.recv()
            log.append(_acks(b.take()))
    return [*log, b.getopt(6, TCP_WINDOW_CLAMP), b.getopt(1, SO_RCVBUF)]


def _acks(sent: list[Sent]) -> str:
    return " ".join(f"{s.ack}/{s.win}" for s in sent)
