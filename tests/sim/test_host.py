import io

import dpkt
import pytest

from tests.link.packets import parse, tcp_packet
from tests.sim.fakes import fake_hosts
from ustack.link.fifo import Fifo
from ustack.seeds import Seeds
from ustack.sim.capture import Capture
from ustack.sim.host import SimLink, host_seeds
from ustack.sim.loop import Simulator
from ustack.sock.deadlines import Deadlines
from ustack.wire.packet import QUEUED, TAKEN

MS = 1_000_000


@pytest.fixture
def sim():
    return Simulator(Seeds(1), wall_ns=1_700_000_000_000_000_000)


def test_link_joins_two_hosts(sim):
    a, b = fake_hosts(sim, "a", "b")
    link = SimLink(sim, a, b, 1400, (("10.0.0.1/24",), ("10.0.0.2/24", "fd00::2/64")), delay=3 * MS)
    assert a.stack.addresses == [(link.devices[0], "10.0.0.1/24")]
    assert len(b.stack.addresses) == 2
    assert (link.devices[1].mtu, link.devices[1].name) == (1400, "eth0")
    assert a.stack.send(b"one") == TAKEN
    a.stack.send(b"two")
    assert b.stack.log == []  # nothing is delivered inside xmit
    sim.at(MS, lambda: b.stack.send(b"three"))
    sim.run_until_idle()
    assert b.stack.log == [(3 * MS, 0, [b"one", b"two"])]
    assert a.stack.log == [(4 * MS, 0, [b"three"])]
    assert (link.devices[0].tx_packets, link.devices[0].tx_bytes) == (2, 6)


def test_packets_on_a_link_are_finished(sim):
    a, b = fake_hosts(sim, "a", "b")
    SimLink(sim, a, b, rate=10**9)
    a.stack.devices[0].xmit(tcp_packet([b"x" * 3000], gso_size=1448))
    sim.run_until_idle()
    assert [len(data) for _, _, batch in b.stack.log for data in batch] == [1500, 1500, 156]
    assert [at for at, _, _ in b.stack.log] == [12_000, 24_000, 25_248]
    for _, _, (data,) in b.stack.log:
        parse(data)


def test_a_batch_has_at_most_64_frames(sim):
    a, b = fake_hosts(sim, "a", "b")
    SimLink(sim, a, b)
    for i in range(150):
        a.stack.send(b"%d" % i)
    sim.run_until_idle()
    assert [len(batch) for _, _, batch in b.stack.log] == [64, 64, 22]
    assert b"".join(d for _, _, batch in b.stack.log for d in batch) == b"".join(
        b"%d" % i for i in range(150)
    )


def test_an_answer_at_once_comes_in_a_batch_of_its_own(sim):
    a, b = fake_hosts(sim, "a", "b")
    SimLink(sim, a, b)
    b.stack.handle_batch = lambda frames, now, dev: (
        len(frames[0].buf) < 3 and b.stack.send(frames[0].buf + b"!")
    )
    a.stack.handle_batch = lambda frames, now, dev: a.stack.send(frames[0].buf)
    a.stack.send(b"x")
    sim.run_until_idle(max_events=20)


def test_ways_have_their_own_settings_and_randomness(sim):
    a, b = fake_hosts(sim, "a", "b")
    link = SimLink(sim, a, b, delay=MS, loss=0.5, back={"loss": 0.0, "rate": 8000})
    there, back = link.wires
    assert (there.loss, there.rate, back.loss, back.rate, back.delay) == (0.5, 0, 0.0, 8000, MS)
    for _ in range(100):
        a.stack.send(b"x")
    back.loss = there.loss
    back.rate = 0
    for _ in range(100):
        b.stack.send(b"x")
    assert 20 < there.stats.lost < 80
    assert 20 < back.stats.lost < 80
    first = Simulator(Seeds(1)).seeds.stream("wire/a/eth0/b").random()
    assert first != Simulator(Seeds(1)).seeds.stream("wire/b/eth0/a").random()


def test_hosts_draw_from_streams_of_their_own(sim):
    draws = {n: host_seeds(sim, n).stream("isn").getrandbits(64) for n in "ab"}
    assert draws["a"] != draws["b"]
    assert host_seeds(sim, "a").stream("isn").getrandbits(64) == draws["a"]


def test_timer_follows_the_stack(sim):
    (a,) = fake_hosts(sim, "a")
    a.stack.deadline = 50
    sim.flush()
    assert sim.next_event() == 50
    a.stack.deadline = 80
    sim.flush()
    assert sim.next_event() == 80
    a.stack.deadline = 20
    sim.flush()
    sim.run_until_idle()
    assert a.stack.log == [(20, "timeout")]
    assert sim.now == 20
    a.stack.deadline = 5  # overdue
    sim.flush()
    sim.run_until_idle()
    assert a.stack.log[1:] == [(20, "timeout")]


def test_own_packets_are_delivered_after_a_task_step_and_yield_to_tasks(sim):
    (a,) = fake_hosts(sim, "a")
    stack = a.stack
    rounds = iter((True, True, False))

    def run_softirq(now):
        stack.log.append("softirq")
        stack.softirq_pending = next(rounds)

    stack.run_softirq = run_softirq

    def app():
        stack.softirq_pending = True
        stack.log.append("app")
        sim.spawn(other())
        yield from sim.sleep(1)

    def other():
        stack.log.append("other")
        yield from sim.sleep(1)

    sim.spawn(app())
    sim.run_until_idle()
    assert stack.log == ["app", "softirq", "other", "softirq", "softirq"]


def test_queue_in_front_of_a_link(sim):
    a, b = fake_hosts(sim, "a", "b")
    done = []
    heap = Deadlines()
    a.stack.next_timeout = heap.next_timeout
    a.stack.handle_timeout = heap.run

    def wrap(host, dev):
        if host is b:
            return dev
        return Fifo(dev, sim.clock, heap, lambda *what: done.append(what), rate=1000)

    link = SimLink(sim, a, b, wrap=wrap)
    fifo = a.stack.devices[0]
    assert fifo is not link.devices[0]
    assert [a.stack.send(b"x" * 10) for _ in range(3)] == [TAKEN, QUEUED, QUEUED]
    sim.flush()
    b.stack.send(b"back")
    sim.run_until_idle()
    assert [at for at, _, _ in b.stack.log] == [0, 10 * MS, 20 * MS]
    assert a.stack.log == [(0, 0, [b"back"])]  # known to the stack as from the queue's device


def test_capture_has_virtual_times_and_both_ends(sim):
    a, b = fake_hosts(sim, "a", "b")
    link = SimLink(sim, a, b, delay=MS)
    capture = Capture(sim, *link.devices)
    packet = tcp_packet([b"x" * 2000], gso_size=1448)
    a.stack.devices[0].xmit(packet)
    sim.run_until_idle()
    file = capture.getvalue()
    assert b"a/eth0" in file
    assert b"b/eth0" in file
    got = [(at, len(data)) for at, data in dpkt.pcapng.Reader(io.BytesIO(file))]
    assert [n for _, n in got] == [1500, 604, 1500, 604]
    assert [round((at - 1_700_000_000) * 1000) for at, _ in got] == [0, 0, 1, 1]
    assert capture.packets == 4
    assert len(capture.digest()) == 64
