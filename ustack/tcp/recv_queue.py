"""What has been received: data in order, and data that waits for a hole to be filled.

Problem. Segments come in any order, cut anywhere, more than once. The application must
read each byte once; the socket is charged for what the packets cost (`truesize`), not for
their payload, and must bound it.

`ReceiveQueue` is a FIFO of `RxSkb`. Each entry ends later than the one before it and starts
no later than that one ended: there is no hole, but an entry that waited out of order may
overlap its predecessor. The reader holds a position and takes the first entry that
reaches beyond it, so bytes that came first win. A FIN takes one sequence number after the
data of its entry.

`OfoQueue` is a list of `RxSkb` sorted by start. Entries may overlap partly, and then both
copies are kept (trimming would cost a copy, and the charge stays the same). Insertion looks
first at the end of the list, where nearly all segments go; otherwise one bisection finds the
place, and the new entry swallows those that it covers. One that is merged into its
predecessor does not: then an entry may contain others. What was received twice is reported as
one range for DSACK (RFC 2883).

Memory. Payloads are views into the `bytes` of one read. A small one out of order is
copied, so that it does not pin a read of 64 KiB; in the kernel `skb_condense` does that. An entry
with `room` models the unused tail of the kernel's buffer: a following payload that fits is
copied there and costs nothing (`skb_try_coalesce`), which is how the kernel takes hundreds
of one-byte segments into a small buffer. `collapse` repacks payload into pages once the
buffer is full.

Limits. The queues do not bound themselves: the caller compares its charge with `rcvbuf`,
then calls `collapse`, then `prune`. Only the predecessor by start is asked whether a segment
continues it; the kernel asks every entry that its search tree leads it past, so where entries
overlap the shape of the tree may decide.

Sources: RFC 9293 section 3.10.7.4; Linux `tcp_queue_rcv`, `tcp_data_queue_ofo`, `tcp_ofo_queue`,
`tcp_try_coalesce`, `tcp_collapse`, `tcp_collapse_ofo_queue`, `tcp_prune_ofo_queue`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import islice, pairwise, zip_longest
from operator import attrgetter
from typing import TypeAlias

from ustack.sock.truesize import rx_truesize

Range: TypeAlias = tuple[int, int]

COLLAPSE_SIZE = 4096 - 320  # the payload of one page (Linux: SKB_MAX_ORDER(0, 0))
_PIN_RATIO = 4  # copy an out-of-order payload below this share of its backing buffer
NO_TIME = -1
_HEADROOM = 64  # rx_truesize counts it; a repacked entry has none
_DESCRIPTOR_AND_TAIL = 256 + 320
_seq_of = attrgetter("seq")


class RxSkb:
    """One received entry: [seq, end_seq), `data`, then a FIN if `fin`.

    `len(data) == end_seq - seq - fin`. `tstamp` is the arrival time in ns, or
    NO_TIME: an entry made by collapsing others has none (rule B-15). `room` is how
    many more payload bytes the kernel's buffer for this entry would hold.
    """

    __slots__ = ("data", "end_seq", "fin", "room", "segs", "seq", "truesize", "tstamp")

    def __init__(
        self,
        seq: int,
        end_seq: int,
        data: memoryview,
        truesize: int,
        fin: bool = False,
        tstamp: int = 0,
        room: int = 0,
    ) -> None:
        self.seq = seq
        self.end_seq = end_seq
        self.data = data
        self.truesize = truesize
        self.fin = fin
        self.tstamp = tstamp
        self.room = room
        self.segs = 1  # that it stands for: so many drops if it is dropped

    def check(self) -> None:
        assert len(self.data) == self.end_seq - self.seq - self.fin
        assert self.truesize > 0
        assert self.room >= 0


class ReceiveQueue:
    """Received in order, not yet read."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[RxSkb] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __bool__(self) -> bool:
        return bool(self._queue)

    def __iter__(self) -> Iterator[RxSkb]:
        return iter(self._queue)

    def head(self) -> RxSkb | None:
        return self._queue[0] if self._queue else None

    def tail(self) -> RxSkb | None:
        return self._queue[-1] if self._queue else None

    def append(self, skb: RxSkb) -> int:
        """Add the next data; return what to charge: `skb.truesize`, or 0 if the payload
        went into the room of the last entry."""
        queue = self._queue
        if queue and (queue[-1].room or skb.fin) and _coalesce(queue[-1], skb):
            return 0
        queue.append(skb)
        return skb.truesize

    def find(self, seq: int) -> tuple[RxSkb, int] | None:
        """The first entry that reaches beyond `seq`, and the offset of `seq` in its data.

        An offset of `len(data)` means that the entry's FIN comes next. None: nothing yet.
        """
        for skb in self._queue:
            if seq < skb.end_seq:
                return (skb, seq - skb.seq) if seq >= skb.seq else None
        return None

    def eat(self) -> RxSkb:
        """Remove the first entry, wholly read; the caller credits its `truesize`."""
        return self._queue.popleft()

    def purge(self) -> int:
        """Drop everything; return the charge freed."""
        freed = sum(skb.truesize for skb in self._queue)
        self._queue.clear()
        return freed

    def collapse(self, copied_seq: int | None = None, ratio: int = 128) -> int:
        """Repack payload that costs much more than it carries; return the charge freed.

        `copied_seq`: what lies before it has been read and is not kept. `ratio` is the
        socket's `scaling_ratio`.
        """
        if not self._queue:
            return 0
        start = self._queue[0].seq if copied_seq is None else copied_seq
        packed, freed = _collapse(self._queue, start, ratio)
        self._queue = deque(packed)
        return freed

    def check(self) -> None:
        previous: RxSkb | None = None
        for skb in self._queue:
            skb.check()
            if previous is not None:
                assert skb.seq <= previous.end_seq < skb.end_seq
                assert not previous.fin
            previous = skb


class OfoInsert:
    """What became of an out-of-order segment.

    `accepted`: it is in the queue, `charge` is to be charged (0 if it went into the room of
    its neighbour). `freed`: the charge of entries that it replaced, `merged` how many entries
    were dropped as covered (TcpExtTCPOFOMerge). `dsack`: a range now known to have come
    twice.
    """

    __slots__ = ("accepted", "charge", "dsack", "freed", "merged")

    def __init__(self, accepted: bool, charge: int) -> None:
        self.accepted = accepted
        self.charge = charge
        self.freed = 0
        self.merged = 0
        self.dsack: Range | None = None


class OfoQueue:
    """Received beyond a hole, sorted by sequence number. `dropped` counts the segments of
    entries that were dropped."""

    __slots__ = ("_list", "dropped", "truesize")

    def __init__(self) -> None:
        self._list: list[RxSkb] = []
        self.truesize = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._list)

    def __bool__(self) -> bool:
        return bool(self._list)

    def __iter__(self) -> Iterator[RxSkb]:
        return iter(self._list)

    @property
    def max_end(self) -> int:
        """Where the last entry ends. There must be one."""
        return self._list[-1].end_seq

    def insert(self, skb: RxSkb) -> OfoInsert:
        """Add a segment that starts beyond rcv_nxt (Linux: `tcp_data_queue_ofo`)."""
        queue = self._list
        if not queue or skb.seq >= queue[-1].end_seq:
            return self._append(skb)
        at = bisect_right(queue, skb.seq, key=_seq_of)
        dsack: Range | None = None
        first = at  # entries [first:last] will be replaced
        if at:
            before = queue[at - 1]
            if skb.end_seq <= before.end_seq:
                return self._duplicate(skb)
            if skb.seq == before.seq:
                first -= 1
            elif skb.seq < before.end_seq:
                dsack = (skb.seq, before.end_seq)
            elif (before.room or skb.fin) and _coalesce(before, skb):
                return OfoInsert(True, 0)  # whatever it covers: nobody has looked
        return self._replace(first, skb, dsack)

    def _append(self, skb: RxSkb) -> OfoInsert:
        queue = self._list
        if queue and (queue[-1].room or skb.fin) and _coalesce(queue[-1], skb):
            return OfoInsert(True, 0)
        _unpin(skb)
        queue.append(skb)
        self.truesize += skb.truesize
        return OfoInsert(True, skb.truesize)

    def _duplicate(self, skb: RxSkb) -> OfoInsert:
        result = OfoInsert(False, 0)
        result.merged = 1
        self.dropped += skb.segs
        result.dsack = (skb.seq, skb.end_seq)
        return result

    def _replace(self, first: int, skb: RxSkb, dsack: Range | None) -> OfoInsert:
        """Put `skb` at `first`, in place of the entries there that it covers."""
        queue = self._list
        last, end = first, skb.end_seq
        result = OfoInsert(True, skb.truesize)
        while last < len(queue) and queue[last].end_seq <= end:
            covered = queue[last]
            dsack = _widen(dsack, covered.seq, covered.end_seq)
            result.freed += covered.truesize
            self.dropped += covered.segs
            last += 1
        if last < len(queue) and queue[last].seq < end:
            dsack = _widen(dsack, queue[last].seq, end)
        result.merged = last - first
        result.dsack = dsack
        _unpin(skb)
        queue[first:last] = [skb]
        self.truesize += skb.truesize - result.freed
        return result

    def pop_ready(self, rcv_nxt: int) -> tuple[list[RxSkb], int, Range | None]:
        """Take out what `rcv_nxt` has reached (Linux: `tcp_ofo_queue`).

        Returns the entries to append to the receive queue, in order; the charge of those
        dropped because they hold nothing new; and the range that came twice, if any. Ends
        after a FIN: what is queued beyond one is the caller's to purge.
        """
        queue = self._list
        ready: list[RxSkb] = []
        dropped = 0
        dsack: Range | None = None
        high = rcv_nxt
        taken = 0
        for skb in queue:
            if skb.seq > rcv_nxt:
                break
            taken += 1
            self.truesize -= skb.truesize
            if skb.seq < high:
                dsack = _widen(dsack, skb.seq, min(skb.end_seq, high))
            if skb.end_seq <= rcv_nxt:
                dropped += skb.truesize
                self.dropped += skb.segs
                continue
            ready.append(skb)
            rcv_nxt = skb.end_seq
            if skb.fin:
                break
        del queue[:taken]
        return ready, dropped, dsack

    def prune(self, keep_seq: int, goal_bytes: int) -> int:
        """Drop entries from the highest down until `goal_bytes` are freed, none that
        starts below `keep_seq`; return the charge freed (Linux: `tcp_prune_ofo_queue`)."""
        queue = self._list
        freed = 0
        while queue and queue[-1].seq >= keep_seq:
            skb = queue.pop()
            freed += skb.truesize
            self.dropped += skb.segs
            if freed >= goal_bytes:
                break
        self.truesize -= freed
        return freed

    def collapse(self, ratio: int = 128, budget: int = 1 << 30) -> int:
        """Repack each contiguous range that costs much more than it carries; return the
        charge freed. It stops when lone entries that cannot gain add up to more than
        `budget` (the kernel's is rcvbuf / 8), lest every arrival walk them all
        (Linux: `tcp_collapse_ofo_queue`)."""
        queue = self._list
        packed: list[RxSkb] = []
        freed = lone = at = 0
        while at < len(queue) and lone <= budget:
            end = _range_end(queue, at)
            if end - at > 1 or len(queue[at].data) >= COLLAPSE_SIZE:
                part, gain = _collapse(queue[at:end], queue[at].seq, ratio)
                packed += part
                freed += gain
            else:
                packed.append(queue[at])
                lone += queue[at].truesize
            at = end
        self._list = packed + queue[at:]
        self.truesize -= freed
        return freed

    def purge(self) -> int:
        """Drop everything; return the charge freed."""
        freed, self.truesize = self.truesize, 0
        self._list.clear()
        return freed

    def check(self) -> None:
        queue = self._list
        for skb in queue:
            skb.check()
            assert skb.seq < skb.end_seq
        for a, b in pairwise(queue):
            assert a.seq < b.seq
        assert self.truesize == sum(skb.truesize for skb in queue)


def spare_room(ip_len: int, truesize: int) -> int:
    """`RxSkb.room` for a packet of `ip_len` bytes, not a merged one: the bytes between its
    end and the end of the kernel's buffer for it (Linux: `skb_tailroom`)."""
    room = truesize - _DESCRIPTOR_AND_TAIL - _HEADROOM - ip_len
    return room if room > 0 else 0


def _coalesce(to: RxSkb, skb: RxSkb) -> bool:
    """Copy `skb` into the room of the entry that it follows, if it fits
    (Linux: `tcp_try_coalesce`). A lone FIN always fits."""
    size = len(skb.data)
    if skb.seq != to.end_seq or size > to.room or to.fin:
        return False
    if size:
        to.data = memoryview(b"".join((to.data, skb.data)))
        to.room -= size
    to.segs += skb.segs
    to.end_seq = skb.end_seq
    to.fin = skb.fin
    to.tstamp = skb.tstamp
    return True


def _unpin(skb: RxSkb) -> None:
    """Copy a payload that is a small part of the buffer it keeps alive."""
    backing = skb.data.obj
    if isinstance(backing, bytes) and len(skb.data) * _PIN_RATIO < len(backing):
        skb.data = memoryview(bytes(skb.data))


def _widen(dsack: Range | None, seq: int, end: int) -> Range:
    """The range to report when [seq, end) came twice too: one that does not touch the
    first is not reported (Linux: `tcp_dsack_extend`)."""
    if dsack is None:
        return (seq, end)
    left, right = dsack
    if seq <= right and left <= end:
        return (min(seq, left), max(end, right))
    return dsack


def _range_end(queue: Sequence[RxSkb], at: int) -> int:
    """The index after the last entry that is contiguous with the one at `at`."""
    end_seq = queue[at].end_seq
    at += 1
    while at < len(queue) and queue[at].seq <= end_seq:
        end_seq = max(end_seq, queue[at].end_seq)
        at += 1
    return at


def _collapse(skbs: Collection[RxSkb], start: int, ratio: int) -> tuple[list[RxSkb], int]:
    """Repack contiguous entries from `start` on; return what replaces them and the charge
    freed (Linux: `tcp_collapse`).

    From the first entry whose charge would need more window than its payload, or that
    shares bytes with a neighbour, everything is repacked up to a FIN or to an entry larger
    than a page, which would gain nothing (the kernel repacks that as well).
    """
    packed: list[RxSkb] = []
    run: list[RxSkb] = []
    freed = 0
    run_start = start
    for skb, after in zip_longest(skbs, islice(skbs, 1, None)):
        if skb.end_seq <= start:
            freed += skb.truesize
            continue
        if skb.fin or len(skb.data) > COLLAPSE_SIZE:
            freed += _repack(run, run_start, packed)
            run = []
            packed.append(skb)
        elif (
            run
            or skb.seq < start
            or skb.truesize * ratio >> 8 > len(skb.data)
            or (after is not None and after.seq != skb.end_seq)
        ):
            if not run:
                run_start = start
            run.append(skb)
        else:
            packed.append(skb)
        start = skb.end_seq
    freed += _repack(run, run_start, packed)
    return packed, freed


def _repack(run: list[RxSkb], start: int, packed: list[RxSkb]) -> int:
    """Append the bytes of `run` from `start` on to `packed`, in entries of a page; return
    the charge freed, if only what the headers took."""
    if not run:
        return 0
    pieces: list[memoryview] = []
    position = start
    for skb in run:
        pieces.append(skb.data[max(position - skb.seq, 0) :])
        position = skb.end_seq
    data = b"".join(pieces)
    pages: list[RxSkb] = []
    for offset in range(0, len(data), COLLAPSE_SIZE):
        part = data[offset : offset + COLLAPSE_SIZE]
        truesize = rx_truesize(len(part) - _HEADROOM)
        seq = max(start, run[0].seq) + offset
        page = RxSkb(seq, seq + len(part), memoryview(part), truesize)
        page.tstamp = NO_TIME
        page.room = truesize - _DESCRIPTOR_AND_TAIL - len(part)
        pages.append(page)
    gain = sum(skb.truesize for skb in run) - sum(page.truesize for page in pages)
    packed += pages
    return gain
