"""A device that is slow makes UDP senders wait, and holds their charge until it sends."""

import pytest

from tests.sim.scenarios import A4, B4, UdpStack
from ustack.link.fifo import Fifo
from ustack.link.gso import SoftwareGso
from ustack.seeds import Seeds
from ustack.sim.host import SimHost, SimLink
from ustack.sim.loop import Simulator
from ustack.sock.sock import MSG_DONTWAIT
from ustack.sock.wait import POLLOUT

MS = 1_000_000


@pytest.fixture
def net():
    """(sim, host with a queue of 10 KB/s in front of its link, socket on it, other's)"""
    sim = Simulator(Seeds(1))
    hosts = [SimHost(sim, n, UdpStack(sim, n)) for n in "ab"]

    def wrap(host, dev):
        stack = host.stack
        if host is hosts[1]:
            return dev
        return Fifo(
            SoftwareGso(dev),
            sim.clock,
            stack.deadlines,
            stack.handle_tx_done,
            rate=10_000,
            limit=20,
        )

    SimLink(sim, *hosts, 1500, (("10.0.0.1/24",), ("10.0.0.2/24",)), wrap=wrap)
    mine = hosts[0].stack.socket((A4, 1000))
    theirs = hosts[1].stack.socket((B4, 7))
    return sim, hosts[0].stack, mine, theirs


def fill(sim, stack, sk):
    """Send 72-byte datagrams (100 on the wire) until EAGAIN; how many went."""
    sent = 0
    while True:
        try:
            stack.prot.sendmsg(sk, b"x" * 72, MSG_DONTWAIT, sim.now, (B4, 7))
        except BlockingIOError:
            sim.flush()
            return sent
        sent += 1


def test_eagain_until_the_device_has_sent(net):
    sim, stack, sk, theirs = net
    sk.sndbuf = 4608
    fifo = stack.routes.devices[-1]
    sent = fill(sim, stack, sk)
    charge = sk.wmem_alloc // (sent - 1)  # the first went straight through
    assert sk.wmem_alloc == charge * (sent - 1)
    assert sk.wmem_alloc >= sk.sndbuf > sk.wmem_alloc - charge
    assert len(fifo) == sent - 1
    assert not stack.prot.poll(sk, sim.now) & POLLOUT
    sim.run_until(10 * MS)
    assert sk.wmem_alloc == charge * (sent - 2)
    sim.run_until_idle()
    assert sim.now == (sent - 1) * 10 * MS
    assert sk.wmem_alloc == 0
    assert stack.prot.poll(sk, sim.now) & POLLOUT
    assert theirs.rmem_alloc > 0


def test_blocking_senders_are_paced_by_the_device(net):
    sim, stack, sk, theirs = net
    sk.sndbuf = 4608
    times = []

    def app():
        for _ in range(30):
            yield from sim.call(stack.prot.sendmsg(sk, b"x" * 72, 0, sim.now, (B4, 7)))
            times.append(sim.now)

    sim.run_task(app())
    assert times[0] == 0
    assert times[-1] >= 200 * MS
    assert times == sorted(times)
    sim.run_until_idle()
    assert sim.now == 290 * MS
    assert sk.wmem_alloc == 0
    assert theirs.drops == 0


def test_full_queue_drops_and_charges_nobody(net):
    sim, stack, sk, _ = net
    for _ in range(100):
        stack.prot.sendmsg(sk, b"x" * 72, MSG_DONTWAIT, sim.now, (B4, 7))
    fifo = stack.routes.devices[-1]
    assert (len(fifo), fifo.tx_dropped) == (20, 79)
    sim.flush()
    sim.run_until_idle()
    assert sk.wmem_alloc == 0
    assert fifo.tx_packets == 21
