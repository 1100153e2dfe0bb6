"""One direction of a simulated link: packet + now -> deliveries.

Problem: a network delays, limits, loses, repeats and reorders, and an experiment must be
able to say how much, and to see the same accident again under the same seed.

Structure: a packet first waits for the link (a queue of `limit` packets in front of a
serialiser of `rate` bits a second), then crosses it (`delay`, plus up to `jitter`). It may
be lost on the way, after it has taken its time on the wire; it may arrive twice; it may be
held back by `reorder_ns` so that those behind it overtake. Jitter alone never reorders:
nothing that was not held back arrives before its predecessor.

Invariants: every packet draws the same number of random values whatever the settings and
whatever becomes of it, so that changing one setting moves no other decision. Packets are
finished: one MTU, checksums complete (`link.gso.finish`). `send` has no other input than
its arguments, the settings and the injected random stream.

The settings may be changed while packets are on the way; they hold for the next packet.

Sources: Linux `sch_netem.c` for the vocabulary.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from ustack.sock.net import Rng

SECOND = 1_000_000_000

Deliveries: TypeAlias = list[tuple[int, bytes]]


class WireStats:
    """What became of the packets, in packets."""

    __slots__ = ("delivered", "duplicated", "lost", "overflowed", "reordered", "sent")

    def __init__(self) -> None:
        self.sent = 0  # given to the wire
        self.overflowed = 0  # found the queue full
        self.lost = 0
        self.duplicated = 0
        self.reordered = 0  # held back
        self.delivered = 0  # arrivals, repeats included


class Wire:
    """One way. `rate` is bit/s (0: no limit), times are ns, the rest are probabilities.

    `limit` is how many packets may wait for or be on the serialiser; it matters only with
    a rate.
    """

    def __init__(
        self,
        rng: Rng,
        *,
        rate: int = 0,
        delay: int = 0,
        jitter: int = 0,
        limit: int = 1000,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        reorder_ns: int = 5_000_000,
    ) -> None:
        self.rate = rate
        self.delay = delay
        self.jitter = jitter
        self.limit = limit
        self.loss = loss
        self.duplicate = duplicate
        self.reorder = reorder
        self.reorder_ns = reorder_ns
        self.stats = WireStats()
        self._random = rng.random
        self._free_at = 0
        self._departures: deque[int] = deque()
        self._last_arrival = 0

    def send(self, data: bytes, now: int) -> Deliveries:
        """Where and when `data`, handed over at `now`, arrives: [(time, bytes), ...]."""
        random = self._random
        loss, duplicate, reorder, jitter = random(), random(), random(), random()
        stats = self.stats
        stats.sent += 1
        left = self._depart(len(data), now)
        if left < 0:
            stats.overflowed += 1
            return []
        if loss < self.loss:
            stats.lost += 1
            return []
        at = left + self.delay + int(jitter * self.jitter)
        if reorder < self.reorder:
            stats.reordered += 1
            at += self.reorder_ns
        else:
            at = self._last_arrival = max(at, self._last_arrival)
        if duplicate < self.duplicate:
            stats.duplicated += 1
            stats.delivered += 2
            return [(at, data), (at, data)]
        stats.delivered += 1
        return [(at, data)]

    def _depart(self, length: int, now: int) -> int:
        """When the last bit has left, -1 if the queue is full."""
        if not self.rate:
            return now
        waiting = self._departures
        while waiting and waiting[0] <= now:
            waiting.popleft()
        if len(waiting) >= self.limit:
            return -1
        took = -(-length * 8 * SECOND // self.rate)
        self._free_at = max(self._free_at, now) + took
        waiting.append(self._free_at)
        return self._free_at
