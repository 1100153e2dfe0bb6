from hypothesis import given
from hypothesis import strategies as st

from tests.link.packets import tcp_packet
from ustack.link.fifo import Fifo, wire_length
from ustack.sock.deadlines import NEVER, Deadlines
from ustack.sock.dst import Device
from ustack.wire.packet import DROPPED, QUEUED, TAKEN, Packet


class Host:
    """A clock, a heap, a slow device, and what they did."""

    def __init__(self, verdict=TAKEN, **settings):
        self.now = 0
        self.deadlines = Deadlines()
        self.out = []  # (time, packet)
        self.done = []  # (owner, charge, time)
        self.verdict = verdict
        host = self

        class Inner(Device):
            def xmit(self, packet):
                host.out.append((host.now, packet))
                return host.verdict

        self.fifo = Fifo(
            Inner("eth0", 1500), lambda: self.now, self.deadlines, self.tx_done, **settings
        )

    def tx_done(self, owner, charge, now):
        assert now == self.now
        self.done.append((owner, charge, now))

    def run(self, until):
        while (at := self.deadlines.next_timeout()) <= until:
            self.now = max(self.now, at)
            self.deadlines.run(self.now)
        self.now = until


def packet(size=1000, name="p", charge=2304):
    return Packet(b"h" * 20, (b"x" * (size - 20),), size - 20, owner=name, charge=charge)


def test_without_a_rate_everything_passes_at_once():
    host = Host()
    assert [host.fifo.xmit(packet()) for _ in range(600)] == [TAKEN] * 600
    assert len(host.out) == 600
    assert host.done == []
    assert host.deadlines.next_timeout() == NEVER


def test_rate_spaces_packets_and_releases_charges():
    host = Host(rate=1_000_000)  # a byte a microsecond
    assert [host.fifo.xmit(packet(name=n)) for n in "abc"] == [TAKEN, QUEUED, QUEUED]
    assert len(host.fifo) == 2
    host.run(10_000_000)
    assert [at for at, _ in host.out] == [0, 1_000_000, 2_000_000]
    assert host.done == [("b", 2304, 1_000_000), ("c", 2304, 2_000_000)]
    assert host.deadlines.next_timeout() == NEVER
    assert host.fifo.xmit(packet()) == TAKEN


def test_what_waits_does_not_change_with_the_sender_s_list():
    host = Host(rate=1000, burst=1000)
    host.fifo.xmit(packet())
    parts = [b"ab", b"cd"]
    host.fifo.xmit(Packet(b"h" * 20, parts, 4))
    del parts[0]
    host.run(10**10)
    assert b"".join(host.out[1][1].payload) == b"abcd"


def test_full_queue_drops():
    host = Host(rate=1_000_000, limit=3)
    verdicts = [host.fifo.xmit(packet()) for _ in range(6)]
    assert verdicts == [TAKEN, QUEUED, QUEUED, QUEUED, DROPPED, DROPPED]
    assert host.fifo.tx_dropped == 2
    host.run(1_000_000)
    assert host.fifo.xmit(packet()) == QUEUED


def test_burst_is_what_may_leave_after_a_pause():
    host = Host(rate=1_000_000, burst=3000)
    assert [host.fifo.xmit(packet()) for _ in range(5)] == [TAKEN] * 3 + [QUEUED] * 2
    host.run(100_000_000)
    assert [host.fifo.xmit(packet()) for _ in range(5)] == [TAKEN] * 3 + [QUEUED] * 2


def test_late_timer_makes_up_for_it():
    host = Host(rate=1_000_000)
    for _ in range(5):
        host.fifo.xmit(packet())
    host.now = 3_500_000
    host.deadlines.run(host.now)
    assert len(host.out) == 4
    assert host.fifo.next_deadline() == 4_000_000


def test_inner_queue_keeps_the_charge():
    host = Host(QUEUED, rate=1_000_000)
    host.fifo.xmit(packet(name="a"))
    host.fifo.xmit(packet(name="b"))
    host.run(5_000_000)
    assert len(host.out) == 2
    assert host.done == []


def test_drop_below_gives_the_charge_back():
    host = Host(DROPPED, rate=1_000_000)
    assert host.fifo.xmit(packet()) == DROPPED
    host.fifo.xmit(packet(name="b"))
    host.run(5_000_000)
    assert host.done == [("b", 2304, 1_000_000)]
    assert host.fifo.tx_dropped == 2


def test_completion_may_send_again():
    host = Host(rate=1_000_000)
    names = iter("cdef")

    def again(owner, charge, now):
        host.done.append(owner)
        name = next(names, None)
        if name:
            host.fifo.xmit(packet(name=name))

    host.fifo._tx_done = again
    host.fifo.xmit(packet(name="a"))
    host.fifo.xmit(packet(name="b"))
    host.run(20_000_000)
    assert [p.owner for _, p in host.out] == list("abcdef")
    assert [at for at, _ in host.out] == [i * 1_000_000 for i in range(6)]


def test_super_segment_counts_every_header():
    whole = tcp_packet([b"x" * 3000], gso_size=1448)
    assert wire_length(whole) == 3000 + 3 * 52
    assert wire_length(tcp_packet([b"x" * 1448], gso_size=1448)) == 1500


@given(st.lists(st.tuples(st.integers(0, 4_000_000), st.integers(20, 1500)), max_size=60))
def test_order_accounting_and_rate(arrivals):
    host = Host(rate=1_000_000, limit=8, burst=2000)
    held = dropped = taken = 0
    for i, (pause, size) in enumerate(arrivals):
        host.run(host.now + pause)
        verdict = host.fifo.xmit(packet(size, i, 100 + i))
        held += verdict == QUEUED
        dropped += verdict == DROPPED
        taken += verdict == TAKEN
        assert len(host.fifo) <= 8
    host.run(host.now + 100_000_000)
    sent = [p.owner for _, p in host.out]
    assert sent == sorted(sent)
    assert len(sent) == held + taken
    assert len(host.done) == held
    assert all(charge == 100 + owner for owner, charge, _ in host.done)
    for i, (at, _) in enumerate(host.out):
        for j in range(i + 1, len(host.out)):
            between = sum(wire_length(p) for _, p in host.out[i:j])
            assert between * 1000 <= host.out[j][0] - at + 2000 * 1000 + 1500 * 1000
