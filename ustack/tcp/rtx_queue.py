"""Sent and not yet acknowledged (Linux: `tcp_rtx_queue`, an rbtree by sequence number).

A list in sequence order with a moving head: acknowledgements take from the front, SACK
blocks find their place by bisection and may split an entry in two. Entries are
contiguous: each starts where the one before it ends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

from ustack.tcp.skb import Skb

_SEQ = attrgetter("seq")
_COMPACT = 64  # consumed slots tolerated before the list is cut


class RtxQueue:
    """The retransmit queue."""

    __slots__ = ("_head", "_items", "first")

    def __init__(self) -> None:
        self._items: list[Skb] = []
        self._head = 0
        self.first: Skb | None = None  # the oldest entry

    def __len__(self) -> int:
        return len(self._items) - self._head

    def __bool__(self) -> bool:
        return self.first is not None

    def __iter__(self) -> Iterator[Skb]:
        """In sequence order. Splitting the current entry while iterating is allowed."""
        items = self._items
        i = self._head
        while i < len(items):
            yield items[i]
            i += 1

    def head(self) -> Skb | None:
        return self.first

    def tail(self) -> Skb | None:
        return self._items[-1] if self.first is not None else None

    def append(self, skb: Skb) -> None:
        self._items.append(skb)
        if self.first is None:
            self.first = skb

    def popleft(self) -> Skb:
        """Remove the head, which must exist."""
        items, head = self._items, self._head
        skb = items[head]
        head += 1
        if head == len(items):
            items.clear()
            self._head = 0
            self.first = None
            return skb
        self.first = items[head]
        if head >= _COMPACT and head * 2 >= len(items):
            del items[:head]
            head = 0
        self._head = head
        return skb

    def index_of(self, seq: int) -> int:
        """Position (for `at`) of the entry that holds `seq`; the first one if before all."""
        i = bisect_right(self._items, seq, lo=self._head, key=_SEQ) - 1
        return max(i, self._head) - self._head

    def at(self, index: int) -> Skb:
        return self._items[self._head + index]

    def next_of(self, skb: Skb) -> Skb | None:
        """The entry after `skb`, None at the end."""
        i = self._head + self.index_of(skb.seq) + 1
        return self._items[i] if i < len(self._items) else None

    def insert_after(self, skb: Skb, new: Skb) -> None:
        """Put `new` (split off from `skb`) behind it."""
        self._items.insert(self._head + self.index_of(skb.seq) + 1, new)

    def remove_after(self, skb: Skb) -> Skb:
        """Unlink and return the entry after `skb` (merged into it by the caller)."""
        return self._items.pop(self._head + self.index_of(skb.seq) + 1)

    def clear(self) -> None:
        self._items.clear()
        self._head = 0
        self.first = None

    def check(self) -> None:
        """The invariants, for tests."""
        assert self.first is (self._items[self._head] if len(self) else None)
        previous: Skb | None = None
        for skb in self:
            skb.check()
            assert skb.pcount >= 1
            assert skb.end_seq > skb.seq
            assert previous is None or previous.end_seq == skb.seq
            previous = skb
