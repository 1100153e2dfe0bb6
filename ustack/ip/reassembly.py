"""Putting datagrams together again, IPv4 and IPv6 (F-5).

Problem: fragments come in any order, more than once, overlapping by mistake or by
malice, or never; and every byte held for them is memory that a stranger has taken.

Structure. A `FragQueue` holds the fragments of one datagram as *runs*, sorted and
disjoint; a run is a stretch whose fragments came one after the other. `Reassembly` maps
(source, destination, id, protocol) to a queue, in order of creation, which is the order
of expiry too: the time starts with the first fragment and is not extended.

Overlaps (RFC 5722, RFC 8200 4.5): a fragment that lies wholly inside one run is a
duplicate and ignored; any other overlap discards the datagram. As in Linux only the last
run grows: a fragment that fills a hole is a run of its own.

Limits. Fragments are charged like packets in a socket's queue (`sock.truesize`); while the
sum is over `ipfrag_high_thresh` nothing is taken. Over IPv4, where 16 bits of id come
round quickly, more than `ipfrag_max_dist` other fragments from that source between two of
one datagram mean that they belong to different ones: the queue starts afresh.

Invariants (`check`): runs are sorted, disjoint and not empty; `meat` is the sum of their
lengths and never more than `length`; `mem` is the sum of the queues' charges.

Sources: Linux `inet_frag_queue_insert`, `ip_frag_queue`, `ip6_frag_queue`,
`ip_frag_too_far`, `ip_expire`, `ip_frag_ecn_table`; RFC 791, 3168 5.3, 5722, 8200 4.5.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TypeAlias

from ustack.sock.deadlines import NEVER, Deadlines
from ustack.sock.mib import Mib
from ustack.sock.sysctl import Sysctl
from ustack.sock.truesize import BUFFER_OVERHEAD, rx_truesize
from ustack.wire.packet import RxPacket

ADDED, DUPLICATE, OVERLAP = 0, 1, 2

Key: TypeAlias = tuple[bytes, bytes, int, int]

_MAX_LEN = 65535
_SECOND = 1_000_000_000
_NOT_ECT = 1 << 0  # of `FragQueue.ecn`, which has a bit for each codepoint


class FragQueue:
    """The fragments of one datagram."""

    __slots__ = (
        "complete_at",
        "ecn",
        "ends",
        "expires",
        "first",
        "key",
        "length",
        "meat",
        "parts",
        "rid",
        "starts",
        "truesize",
    )

    def __init__(self, key: Key, expires: int) -> None:
        self.key = key
        self.expires = expires
        self.rid = 0
        self.reset()

    def reset(self) -> None:
        """Forget every fragment, but not when to give up."""
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.parts: list[list[bytes]] = []
        self.length = 0  # of the datagram, as far as is known
        self.complete_at = 0  # its length, once the last fragment is here
        self.meat = 0
        self.ecn = 0
        self.truesize = 0
        self.first: RxPacket | None = None  # the fragment with offset 0

    def set_length(self, end: int, more: bool) -> bool:
        """Learn from a fragment that ends at `end`; false if it contradicts the others."""
        if not more:
            if end < self.length or (self.complete_at and end != self.complete_at):
                return False
            self.complete_at = self.length = end
        elif end > self.length:
            if self.complete_at:
                return False
            self.length = end
        return True

    def insert(self, offset: int, data: bytes) -> int:
        """Put `data`, not empty, where it belongs: ADDED, DUPLICATE or OVERLAP."""
        starts, ends = self.starts, self.ends
        end = offset + len(data)
        if ends and end > ends[-1]:
            if offset < ends[-1]:
                return OVERLAP
            if offset == ends[-1]:
                ends[-1] = end
                self.parts[-1].append(data)
                self.meat += len(data)
                return ADDED
        at = bisect_right(starts, offset)
        if at and offset < ends[at - 1]:
            return DUPLICATE if end <= ends[at - 1] else OVERLAP
        if at < len(starts) and end > starts[at]:
            return OVERLAP
        starts.insert(at, offset)
        ends.insert(at, end)
        self.parts.insert(at, [data])
        self.meat += len(data)
        return ADDED

    def complete(self) -> bool:
        """Nothing is missing."""
        return self.first is not None and 0 < self.complete_at == self.meat

    def charge(self) -> int:
        """What the datagram costs its receiver. From this host, what it cost its sender. Else
        fragments are copied into the tail of the first one's buffer while they fit, and cost
        nothing; the others come along as they are (Linux: `inet_frag_reasm_finish`,
        `skb_try_coalesce`)."""
        first = self.first
        assert first is not None
        if first.truesize:
            return self.truesize
        length = first.end - first.l3
        total = rx_truesize(length)
        room = total - BUFFER_OVERHEAD - length
        parts = [part for run in self.parts for part in run]
        headers = length - len(parts[0])
        for part in parts[1:]:
            if len(part) <= room:
                room -= len(part)
            else:
                room = 0
                total += rx_truesize(headers + len(part))
        return total

    def data(self) -> bytes:
        """The bytes held, in order."""
        return b"".join([part for run in self.parts for part in run])

    def check(self) -> None:
        """Assert the invariants."""
        end = 0
        for start, stop, run in zip(self.starts, self.ends, self.parts, strict=True):
            assert end <= start < stop
            assert stop - start == sum(map(len, run))
            end = stop
        assert self.meat == sum(self.ends) - sum(self.starts) <= self.length
        assert end <= self.length
        assert not self.complete_at or self.complete_at == self.length


class Reassembly:
    """All incomplete datagrams of one family."""

    __slots__ = (
        "_deadlines",
        "_group",
        "_mib",
        "_on_expire",
        "_sources",
        "_sysctl",
        "heap_at",
        "mem",
        "queues",
        "version",
    )

    def __init__(
        self,
        version: int,
        sysctl: Sysctl,
        mib: Mib,
        deadlines: Deadlines,
        on_expire: Callable[[RxPacket], None],
    ) -> None:
        """`on_expire` is given the first fragment of a datagram that was never completed,
        its `now` set to the present."""
        self.version = version
        self.queues: dict[Key, FragQueue] = {}
        self.mem = 0
        self.heap_at = NEVER
        self._group = "Ip6" if version == 6 else "Ip"
        self._sysctl = sysctl
        self._mib = mib
        self._deadlines = deadlines
        self._on_expire = on_expire
        self._sources: dict[bytes, list[int]] = {}  # source -> [fragments seen, queues]

    # -- fragments in ------------------------------------------------------------------

    def add(
        self, key: Key, rx: RxPacket, offset: int, data: bytes, more: bool, truesize: int
    ) -> FragQueue | None:
        """Take the fragment `rx`, whose `data` belongs at `offset`. The queue, out of the
        table, if that completes the datagram."""
        self._mib.inc(self._group + "ReasmReqds")
        if self.mem > self._sysctl.ipfrag_high_thresh:
            self._fail("NOMEM")
            return None
        queue = self.queues.get(key) or self._create(key, rx.now)
        if self.version == 4 and self._too_far(queue):
            self._restart(queue, rx.now)
        if not data or not queue.set_length(offset + len(data), more):
            self._discard(queue, "FRAG_LENGTH")
            return None
        verdict = queue.insert(offset, data)
        if verdict != ADDED:
            if verdict == OVERLAP:
                self._discard(queue, "FRAG_OVERLAP")
            else:
                self._mib.drop("DUP_FRAG")
            return None
        queue.ecn |= 1 << (rx.tos & 3)
        queue.truesize += truesize
        self.mem += truesize
        if offset == 0:
            queue.first = rx
        return self._finish(queue) if queue.complete() else None

    def _finish(self, queue: FragQueue) -> FragQueue | None:
        """Check a complete datagram and take it out of the table."""
        first = queue.first
        assert first is not None
        headers = first.l4 - first.l3 if self.version == 4 else 0
        if headers + queue.complete_at > _MAX_LEN:
            self._discard(queue, "PKT_TOO_BIG")
            return None
        if queue.ecn & _NOT_ECT and queue.ecn != _NOT_ECT:
            self._discard(queue, "FRAG_ECN")
            return None
        self._remove(queue)
        self._mib.inc(self._group + "ReasmOKs")
        return queue

    def _create(self, key: Key, now: int) -> FragQueue:
        sysctl = self._sysctl
        timeout = sysctl.ip6frag_time if self.version == 6 else sysctl.ipfrag_time
        queue = FragQueue(key, now + timeout * _SECOND)
        self.queues[key] = queue
        source = self._sources.setdefault(key[0], [0, 0])
        source[1] += 1
        queue.rid = source[0]
        self._deadlines.arm(self, queue.expires)
        return queue

    def _too_far(self, queue: FragQueue) -> bool:
        """Count a fragment of this source; true if too many came since the queue's last."""
        source = self._sources[queue.key[0]]
        before = queue.rid
        source[0] += 1
        queue.rid = source[0]
        limit = self._sysctl.ipfrag_max_dist
        return bool(limit and queue.starts and source[0] - before > limit)

    def _restart(self, queue: FragQueue, now: int) -> None:
        """Drop what the queue holds and begin anew, the time as well."""
        self._fail("FRAG_TOO_FAR")
        self.mem -= queue.truesize
        queue.reset()
        del self.queues[queue.key]
        queue.expires = now + self._sysctl.ipfrag_time * _SECOND
        self.queues[queue.key] = queue

    # -- queues out --------------------------------------------------------------------

    def _remove(self, queue: FragQueue) -> None:
        del self.queues[queue.key]
        self.mem -= queue.truesize
        source = self._sources[queue.key[0]]
        source[1] -= 1
        if not source[1]:
            del self._sources[queue.key[0]]

    def _discard(self, queue: FragQueue, reason: str) -> None:
        self._remove(queue)
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        self._mib.inc(self._group + "ReasmFails")
        self._mib.drop(reason)

    # -- time --------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """When the oldest queue is given up."""
        for queue in self.queues.values():
            return queue.expires
        return NEVER

    def handle_timeout(self, now: int) -> None:
        """Give up what has not been completed in time (Linux: `ip_expire`)."""
        while self.queues:
            queue = next(iter(self.queues.values()))
            if queue.expires > now:
                return
            self._mib.inc(self._group + "ReasmTimeout")
            self._discard(queue, "FRAG_REASM_TIMEOUT")
            if queue.first is not None:
                queue.first.now = now
                self._on_expire(queue.first)

    def check(self) -> None:
        """Assert the invariants."""
        for queue in self.queues.values():
            queue.check()
        assert self.mem == sum(queue.truesize for queue in self.queues.values())
        counts: dict[bytes, int] = {}
        for key in self.queues:
            counts[key[0]] = counts.get(key[0], 0) + 1
        assert counts == {source: pair[1] for source, pair in self._sources.items()}
