"""The receiver's side of SACK: which blocks the next ACK reports.

Problem. Up to four ranges of out-of-order data are worth remembering, newest first (RFC
2018 section 4: the first block holds the segment that triggered the ACK), plus one
duplicate range to report once (RFC 2883).

Structure. `_blocks` is a short list of (left, right), most recent first. A new range that
touches a block extends it and moves it to the front, where blocks that it now touches are
merged into it. A fifth block pushes the oldest one out: the sender has seen it before.
`dsack` is the pending duplicate range; it goes out first, once.

Invariants: blocks neither touch nor overlap, at most four of them. Limits: the list is a
report, not the data; it may know less than the out-of-order queue, never more, provided
that whoever prunes the queue calls `reset`.

Sources: RFC 2018, RFC 2883; Linux `tcp_sack_new_ofo_skb`, `tcp_sack_maybe_coalesce`,
`tcp_sack_remove`, `tcp_dsack_set`, `tcp_dsack_extend`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

Block: TypeAlias = tuple[int, int]

NUM_SACKS = 4


class SackList:
    """The SACK blocks to report. Ranges are half open, numbers unwrapped."""

    __slots__ = ("_blocks", "dsack", "eff_sacks")

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self.dsack: Block | None = None
        self.eff_sacks = 0  # how many blocks there are to report, a pending DSACK included

    @property
    def num_sacks(self) -> int:
        return len(self._blocks)

    @property
    def right_edge(self) -> int:
        """Where the highest block ends. There must be one."""
        return max(right for _, right in self._blocks)

    def place_of(self, seq: int, end: int) -> int:
        """The index of the first block that [seq, end) touches, their number if none."""
        for i, (left, right) in enumerate(self._blocks):
            if seq <= right and left <= end:
                return i
        return len(self._blocks)

    def new_ofo(self, seq: int, end: int) -> None:
        """Out-of-order data [seq, end) has arrived, new or not."""
        blocks = self._blocks
        for i, (left, right) in enumerate(blocks):
            if seq <= right and left <= end:
                del blocks[i]
                self._put_first(min(seq, left), max(end, right))
                self._count()
                return
        blocks.insert(0, (seq, end))
        if len(blocks) > NUM_SACKS:
            blocks.pop()
        self._count()

    def _put_first(self, seq: int, end: int) -> None:
        """Make [seq, end) the first block, with every block that it touches merged in.

        One pass in order, as the kernel does; blocks never touch each other, so growing
        over one cannot make an earlier one touch.
        """
        rest: list[Block] = []
        for block in self._blocks:
            left, right = block
            if seq <= right and left <= end:
                seq, end = min(seq, left), max(end, right)
            else:
                rest.append(block)
        self._blocks = [(seq, end), *rest]

    def remove(self, rcv_nxt: int) -> None:
        """Forget the blocks that in-order data has reached."""
        if self._blocks:
            self._blocks = [block for block in self._blocks if block[0] > rcv_nxt]
            self._count()

    def dsack_set(self, seq: int, end: int) -> None:
        """Report [seq, end) as received twice."""
        self.dsack = (seq, end)
        self._count()

    def dsack_extend(self, seq: int, end: int) -> None:
        """Widen the pending report by [seq, end); if it does not touch, the first stands."""
        if self.dsack is None:
            self.dsack_set(seq, end)
            return
        left, right = self.dsack
        if seq <= right and left <= end:
            self.dsack = (min(seq, left), max(end, right))

    def blocks(self, limit: int) -> tuple[Block, ...]:
        """The first `limit` blocks to send: the DSACK if pending, then the most recent."""
        if self.dsack is not None:
            return (self.dsack, *self._blocks)[:limit]
        return tuple(self._blocks[:limit])

    def dsack_sent(self) -> None:
        """The ACK with the DSACK is out."""
        self.dsack = None
        self._count()

    def reset(self) -> None:
        """The out-of-order queue was pruned: report nothing that may be gone."""
        self._blocks.clear()
        self.dsack = None
        self.eff_sacks = 0

    def _count(self) -> None:
        self.eff_sacks = len(self._blocks) + (self.dsack is not None)

    def check(self) -> None:
        assert self.eff_sacks == len(self._blocks) + (self.dsack is not None)
        assert len(self._blocks) <= NUM_SACKS
        ordered = sorted(self._blocks)
        assert all(left < right for left, right in ordered)
        assert all(a[1] < b[0] for a, b in pairwise(ordered))
