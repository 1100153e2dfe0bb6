"""The receive queues against a naive model: every entry kept, every question a scan."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ustack.sock.truesize import rx_truesize
from ustack.tcp.recv_queue import (
    COLLAPSE_SIZE,
    NO_TIME,
    OfoQueue,
    ReceiveQueue,
    RxSkb,
    spare_room,
)

SPAN = 24  # how far beyond rcv_nxt the machine sends


def skb(seq: int, data: bytes, fin: bool = False, room: int = 0, truesize: int = 832) -> RxSkb:
    return RxSkb(seq, seq + len(data) + fin, memoryview(data), truesize, fin, room=room)


def read_all(queue: ReceiveQueue, position: int) -> bytes:
    """What an application reads that starts at `position`, entry by entry."""
    out = b""
    while (found := queue.find(position)) is not None:
        entry, offset = found
        out += bytes(entry.data[offset:])
        position = entry.end_seq
    return out


def one_range(twice: list[tuple[int, int]]) -> tuple[int, int] | None:
    """What a DSACK can say of these ranges: the first, and those that touch it."""
    if not twice:
        return None
    left, right = twice[0]
    for a, b in twice[1:]:
        if a <= right:
            right = max(right, b)
    return left, right


class Model:
    """Out-of-order entries as plain tuples (seq, end, data)."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, bytes]] = []

    def insert(self, seq: int, data: bytes) -> tuple[bool, tuple[int, int] | None]:
        end = seq + len(data)
        below = [e for e in self.entries if e[0] <= seq]
        above = [e for e in self.entries if e[0] > seq]
        twice: list[tuple[int, int]] = []
        if below:
            a, b, _ = below[-1]  # nobody before that one is asked
            if end <= b:
                return False, (seq, end)
            if a == seq:
                below.pop()
            if seq < b:
                twice.append((seq, b))
        while above and above[0][1] <= end:
            a, b, _ = above.pop(0)
            twice.append((a, b))
        if above and above[0][0] < end:
            twice.append((above[0][0], end))
        self.entries = [*below, (seq, end, data), *above]
        return True, one_range(twice)

    def deliver(self, rcv_nxt: int) -> tuple[int, bytes]:
        """The new rcv_nxt, and the bytes that it passes."""
        out = b""
        while self.entries and self.entries[0][0] <= rcv_nxt:
            seq, end, data = self.entries.pop(0)
            if end > rcv_nxt:
                out += data[rcv_nxt - seq :]
                rcv_nxt = end
        return rcv_nxt, out

    def ranges(self) -> list[tuple[int, bytes]]:
        """What would be read of each contiguous range, and where it starts."""
        copy = Model()
        copy.entries = list(self.entries)
        found = []
        while copy.entries:
            start = copy.entries[0][0]
            found.append((start, copy.deliver(start)[1]))
        return found


class ReceiveMachine(RuleBasedStateMachine):
    """A socket's receive side: rcv_nxt, the two queues, and what the caller charges."""

    @initialize(isn=st.sampled_from([0, -5, 2**31 - 7, 2**32 - 9, -(2**31)]))
    def start(self, isn: int) -> None:
        self.rcv_nxt = self.copied_seq = isn
        self.ofo = OfoQueue()
        self.queue = ReceiveQueue()
        self.model = Model()
        self.rmem = 0
        self.unread = b""  # model of what is in order and not yet read
        self.copy = 0

    def payload(self, length: int) -> bytes:
        """Bytes that tell one transmission from another, so that it shows which won."""
        self.copy = (self.copy + 1) % 256
        return bytes([self.copy]) * length

    @rule(
        segments=st.lists(
            st.tuples(st.integers(1, SPAN), st.integers(1, 12), st.sampled_from([0, 0, 10])),
            min_size=1,
            max_size=8,
        )
    )
    def out_of_order(self, segments: list[tuple[int, int, int]]) -> None:
        for gap, length, room in segments:
            self.insert(self.rcv_nxt + gap, length, room)

    def insert(self, seq: int, length: int, room: int) -> None:
        data = self.payload(length)
        joins = self.joined(seq, length, [*self.ofo])
        got = self.ofo.insert(skb(seq, data, room=room))
        self.rmem += got.charge - got.freed
        if joins is not None:
            assert (got.accepted, got.charge, got.dsack) == (True, 0, None)
            left, _, kept = self.model.entries[joins]
            self.model.entries[joins] = (left, seq + length, kept + data)
        else:
            count = len(self.model.entries)
            accepted, dsack = self.model.insert(seq, data)
            assert (got.accepted, got.dsack) == (accepted, dsack)
            assert got.charge == (832 if accepted else 0)
            gone = count + 1 - len(self.model.entries)
            assert got.merged == gone
            assert (got.freed > 0) == (gone > (not accepted))

    def joined(self, seq: int, length: int, entries: list[RxSkb]) -> int | None:
        """The index of the entry into whose room a segment goes: the one before it, if that
        ends where it starts."""
        at = sum(entry.seq <= seq for entry in entries) - 1
        if at < 0 or entries[at].end_seq != seq or entries[at].room < length:
            return None
        return at

    @rule(length=st.integers(1, 12))
    def in_order(self, length: int) -> None:
        data = self.payload(length)
        self.rmem += self.queue.append(skb(self.rcv_nxt, data))
        high = self.rcv_nxt + length
        twice = [(a, min(b, high)) for a, b, _ in self.model.entries if a < high]
        ready, dropped, dsack = self.ofo.pop_ready(high)
        self.rmem -= dropped
        for entry in ready:
            self.rmem -= entry.truesize - self.queue.append(entry)
        assert dsack == one_range(twice)
        self.rcv_nxt, more = self.model.deliver(high)
        self.unread += data + more

    @rule(length=st.integers(1, 80))
    def read(self, length: int) -> None:
        while length and (found := self.queue.find(self.copied_seq)) is not None:
            entry, offset = found
            assert entry is self.queue.head()
            part = bytes(entry.data[offset : offset + length])
            assert part == self.unread[: len(part)]
            self.unread = self.unread[len(part) :]
            self.copied_seq += len(part)
            length -= len(part)
            if self.copied_seq == entry.end_seq:
                self.rmem -= self.queue.eat().truesize

    @rule(gap=st.integers(0, SPAN), goal=st.integers(1, 4000))
    def prune(self, gap: int, goal: int) -> None:
        keep = self.rcv_nxt + gap
        freed = self.ofo.prune(keep, goal)
        self.rmem -= freed
        gone = len(self.model.entries) - len(self.ofo)
        for _ in range(gone):
            seq, _, _ = self.model.entries.pop()
            assert seq >= keep
        assert (freed > 0) == (gone > 0)
        if self.model.entries and self.model.entries[-1][0] >= keep:
            assert freed >= goal

    @rule(ratio=st.sampled_from([128, 255]))
    def collapse_in_order(self, ratio: int) -> None:
        self.rmem -= self.queue.collapse(self.copied_seq, ratio)

    @rule(ratio=st.sampled_from([128, 255]))
    def collapse_out_of_order(self, ratio: int) -> None:
        before = self.model.ranges()
        self.rmem -= self.ofo.collapse(ratio)
        self.model.entries = [(e.seq, e.end_seq, bytes(e.data)) for e in self.ofo]
        assert self.model.ranges() == before

    @rule()
    def purge_out_of_order(self) -> None:
        self.rmem -= self.ofo.purge()
        self.model.entries.clear()

    @invariant()
    def same_as_model(self) -> None:
        self.ofo.check()
        self.queue.check()
        assert [(e.seq, e.end_seq, bytes(e.data)) for e in self.ofo] == self.model.entries
        assert self.rmem == self.ofo.truesize + sum(e.truesize for e in self.queue)
        assert read_all(self.queue, self.copied_seq) == self.unread
        assert self.copied_seq + len(self.unread) == self.rcv_nxt
        assert bool(self.ofo) == bool(self.model.entries)


TestReceiveMachine = ReceiveMachine.TestCase
TestReceiveMachine.settings = settings(max_examples=200, stateful_step_count=40)


def test_earlier_start_is_read_first() -> None:
    ofo, queue = OfoQueue(), ReceiveQueue()
    ofo.insert(skb(4, b"CCCC"))
    assert ofo.insert(skb(2, b"bbXX")).dsack == (4, 6)
    queue.append(skb(0, b"aa"))
    for entry in ofo.pop_ready(2)[0]:
        queue.append(entry)
    assert read_all(queue, 0) == b"aabbXXCC"


def test_in_order_data_beats_what_waited() -> None:
    ofo = OfoQueue()
    ofo.insert(skb(4, b"BBBB"))
    assert ofo.pop_ready(10) == ([], 832, (4, 8))
    assert not ofo
    assert ofo.truesize == 0


def test_a_covering_segment_replaces_and_reports_only_what_touches() -> None:
    ofo = OfoQueue()
    for seq in (10, 14, 30):
        ofo.insert(skb(seq, b"xxxx"))
    got = ofo.insert(skb(8, b"y" * 30))
    assert (got.accepted, got.freed, got.merged) == (True, 3 * 832, 3)
    assert got.dsack == (10, 18)
    assert [(e.seq, e.end_seq) for e in ofo] == [(8, 38)]


def test_fin_ends_the_delivery() -> None:
    ofo = OfoQueue()
    ofo.insert(skb(5, b"abc", fin=True))
    ofo.insert(skb(9, b"beyond"))
    ready, _, _ = ofo.pop_ready(5)
    assert [(e.end_seq, e.fin) for e in ready] == [(9, True)]
    assert ofo.purge() == 832


def test_find_gives_the_fin_after_the_data() -> None:
    queue = ReceiveQueue()
    queue.append(skb(1, b"abc", fin=True))
    assert queue.find(0) is None
    entry = queue.head()
    assert entry is not None
    assert queue.find(3) == (entry, 2)
    assert queue.find(4) == (entry, len(entry.data))
    assert queue.find(5) is None


def test_small_out_of_order_payload_does_not_pin_its_read() -> None:
    ofo = OfoQueue()
    read = bytes(65536)
    ofo.insert(RxSkb(10, 1010, memoryview(read)[40:1040], 2304))
    ofo.insert(RxSkb(2000, 32000, memoryview(read)[40:30040], 32768))
    small, large = ofo
    assert small.data.obj is not read
    assert small.data == read[40:1040]
    assert large.data.obj is read


def test_four_hundred_one_byte_segments_cost_three_buffers() -> None:
    queue = ReceiveQueue()
    rmem = 0
    for seq in range(400):
        truesize = rx_truesize(41)
        rmem += queue.append(skb(seq, b"%d" % (seq % 10), room=spare_room(41, truesize)))
    assert rmem == 2496
    assert read_all(queue, 0) == b"0123456789" * 40


def test_bare_fin_joins_an_entry_with_room() -> None:
    queue = ReceiveQueue()
    queue.append(skb(0, b"abc", room=5))
    assert queue.append(skb(3, b"", fin=True)) == 0
    tail = queue.tail()
    assert tail is not None
    assert (tail.end_seq, tail.fin) == (4, True)
    queue.check()
    assert queue.append(skb(4, b"x")) == 832  # nothing joins an entry that has ended


class TestCollapse:
    def test_small_entries_become_pages(self) -> None:
        queue = ReceiveQueue()
        for i in range(100):
            queue.append(skb(i * 100, bytes([i]) * 100))
        text = read_all(queue, 0)
        freed = queue.collapse()
        queue.check()
        assert read_all(queue, 0) == text
        sizes = [len(e.data) for e in queue]
        assert sizes == [COLLAPSE_SIZE, COLLAPSE_SIZE, 10000 - 2 * COLLAPSE_SIZE]
        assert sum(e.truesize for e in queue) == 100 * 832 - freed == 3 * 4352

    def test_b15_pages_have_no_time_until_something_joins_them(self) -> None:
        queue = ReceiveQueue()
        for i in range(2):
            entry = skb(i * 100, bytes(100))
            entry.tstamp = 1000 + i
            queue.append(entry)
        assert queue.collapse() == 832
        (page,) = queue
        assert page.tstamp == NO_TIME
        late = skb(200, bytes(50))
        late.tstamp = 3000
        assert queue.append(late) == 0
        assert page.tstamp == 3000

    def test_pages_have_room_behind_them(self) -> None:
        queue = ReceiveQueue()
        queue.append(skb(0, b"a" * 100))
        queue.append(skb(100, b"b" * 100))
        assert queue.collapse() == 832
        (page,) = queue
        assert page.room == 56  # a small head holds 256
        assert queue.append(skb(200, b"c" * 56)) == 0
        assert queue.append(skb(256, b"d")) == 832

    @pytest.mark.parametrize(("ratio", "freed"), [(128, 0), (129, 256)])
    def test_only_what_costs_more_than_it_carries(self, ratio: int, freed: int) -> None:
        """Half of 2304 is 1152: at a ratio of 128 entries of 1152 bytes carry their cost."""
        queue = ReceiveQueue()
        for seq in (0, 1152):
            queue.append(skb(seq, bytes(1152), truesize=2304))
        assert queue.collapse(ratio=ratio) == freed

    def test_a_page_is_the_limit(self) -> None:
        for size, entries in ((COLLAPSE_SIZE, 1), (COLLAPSE_SIZE + 1, 2)):
            queue = ReceiveQueue()
            queue.append(skb(0, b"x" * 100))
            queue.append(skb(100, bytes(size - 100), truesize=8448))
            queue.collapse()
            assert len(queue) == entries
            queue.check()

    def test_what_was_read_is_not_kept(self) -> None:
        queue = ReceiveQueue()
        queue.append(skb(0, b"a" * 100))
        queue.append(skb(100, b"b" * 100))
        assert queue.collapse(copied_seq=50) == 832
        (page,) = queue
        assert (page.seq, page.end_seq, bytes(page.data)) == (50, 200, b"a" * 50 + b"b" * 100)

    def test_fin_and_dense_entries_stay(self) -> None:
        queue = ReceiveQueue()
        dense = skb(0, bytes(60000), truesize=rx_truesize(60040, 1460))
        last = skb(60200, b"end", fin=True)
        queue.append(dense)
        queue.append(skb(60000, b"x" * 100))
        queue.append(skb(60100, b"y" * 100))
        queue.append(last)
        assert queue.collapse() == 832
        first, packed, end = queue
        assert first is dense
        assert end is last
        assert bytes(packed.data) == b"x" * 100 + b"y" * 100
        queue.check()

    def test_overlaps_are_repacked_once(self) -> None:
        queue = ReceiveQueue()
        queue.append(skb(0, b"a" * 2000, truesize=2304))
        queue.append(skb(1000, b"b" * 2000, truesize=2304))
        queue.collapse(ratio=1)
        queue.check()
        assert read_all(queue, 0) == b"a" * 2000 + b"b" * 1000

    def test_out_of_order_ranges(self) -> None:
        ofo = OfoQueue()
        for start in (1000, 5000):
            for i in range(20):
                ofo.insert(skb(start + i * 50, bytes([i]) * 53))
        ofo.insert(skb(9000, b"lone"))
        before = ofo.truesize
        freed = ofo.collapse()
        ofo.check()
        assert freed == 2 * (20 * 832 - rx_truesize(1003 - 64))
        assert ofo.truesize == before - freed
        assert [(e.seq, e.end_seq) for e in ofo] == [(1000, 2003), (5000, 6003), (9000, 9004)]

    def test_out_of_order_gives_up_on_lone_entries(self) -> None:
        ofo = OfoQueue()
        for seq in range(0, 1000, 100):
            ofo.insert(skb(seq, b"lone"))
        for i in range(10):
            ofo.insert(skb(2000 + i * 10, b"0123456789"))
        assert ofo.collapse(budget=10 * 832 - 1) == 0
        assert len(ofo) == 20
        assert ofo.collapse(budget=10 * 832) == 9 * 832
        ofo.check()


def test_prune_spares_what_lies_below_the_new_segment() -> None:
    ofo = OfoQueue()
    for seq in (10, 20, 30, 40):
        ofo.insert(skb(seq, b"data"))
    assert ofo.prune(25, 1) == 832
    assert ofo.prune(25, 10**6) == 832
    assert ofo.prune(25, 1) == 0
    assert ofo.max_end == 24
    assert ofo.prune(20, 1) == 832
    ofo.insert(skb(20, b"data"))
    assert ofo.prune(0, 832) == 832


def test_room_and_pinning_are_exact() -> None:
    queue = ReceiveQueue()
    queue.append(skb(0, b"abc", room=4))
    assert queue.append(skb(3, b"defgh")) == 832
    queue = ReceiveQueue()
    queue.append(skb(0, b"abc", room=4))
    assert queue.append(skb(3, b"defg")) == 0
    assert queue.append(skb(7, b"h")) == 832
    assert spare_room(41, 832) == 151
    assert spare_room(600, 832) == 0
    ofo, read = OfoQueue(), bytes(400)
    ofo.insert(skb(10, b"x" * 100))
    ofo.insert(RxSkb(200, 300, memoryview(read)[:100], 832))
    ofo.insert(RxSkb(400, 499, memoryview(read)[:99], 832))
    assert [entry.data.obj is read for entry in ofo] == [False, True, False]


def test_touching_segments_are_no_duplicates() -> None:
    ofo = OfoQueue()
    ofo.insert(skb(10, b"abcd"))
    ofo.insert(skb(20, b"abcd"))
    got = ofo.insert(skb(14, b"abcdef"))
    assert (got.dsack, got.merged) == (None, 0)
    got = ofo.insert(skb(5, b"x" * 19))
    assert (got.dsack, got.merged) == ((10, 24), 3)


def test_a_segment_that_continues_its_predecessor_replaces_nothing() -> None:
    ofo = OfoQueue()
    ofo.insert(skb(10, b"abcd", room=100))
    ofo.insert(skb(20, b"abcd"))
    got = ofo.insert(skb(14, b"x" * 20))
    assert (got.accepted, got.charge, got.freed, got.merged, got.dsack) == (True, 0, 0, 0, None)
    assert [(e.seq, e.end_seq) for e in ofo] == [(10, 34), (20, 24)]
    ready, dropped, dsack = ofo.pop_ready(10)
    assert [(e.seq, e.end_seq) for e in ready] == [(10, 34)]
    assert (dropped, dsack) == (832, None)


def test_what_is_dropped_counts_the_segments_that_were_merged_into_it() -> None:
    ofo = OfoQueue()
    ofo.insert(skb(10, b"abcd", room=100))
    ofo.insert(skb(14, b"efgh"))
    assert ofo.insert(skb(5, b"y" * 30)).merged == 1
    assert ofo.dropped == 2


def test_collapse_starts_where_entries_overlap() -> None:
    ofo = OfoQueue()
    ofo.insert(skb(10, b"x" * 1000, truesize=2304))
    ofo.insert(skb(910, b"y" * 1000, truesize=2304))
    assert ofo.collapse(ratio=111) == 2 * 2304 - 4352  # neither is too dear alone
    assert [(e.seq, e.end_seq) for e in ofo] == [(10, 1910)]


def test_collapse_makes_room_behind_a_lone_entry() -> None:
    queue = ReceiveQueue()
    queue.append(skb(0, b"x" * 536, truesize=1280, room=64))
    assert queue.collapse(0, ratio=128) == 0
    assert queue.append(skb(536, b"y" * 168)) == 0  # the headers' room is used now
    assert queue.append(skb(704, b"z")) == 832
