"""A host without protocols: what the simulator needs of a stack, and nothing more."""

from __future__ import annotations

from ustack.sim.host import SimHost
from ustack.sock.deadlines import NEVER
from ustack.wire.packet import Packet


class FakeStack:
    """Remembers what it was told; sends what the test says."""

    def __init__(self, sim):
        self.sim = sim
        self.softirq_pending = False
        self.deadline = NEVER
        self.log = []
        self.devices = []
        self.addresses = []
        self.inside = False

    def add_device(self, dev):
        self.devices.append(dev)

    def add_address(self, dev, cidr):
        self.addresses.append((dev, cidr))

    def send(self, data, dev=0):
        return self.devices[dev].xmit(Packet(b"", (data,), len(data)))

    def handle_batch(self, frames, now, dev):
        assert now == self.sim.now
        assert not self.inside
        self.inside = True
        self.log.append((now, self.devices.index(dev), [f.buf[f.off :] for f in frames]))
        self.inside = False

    def handle_timeout(self, now):
        assert now >= self.deadline
        self.log.append((now, "timeout"))
        self.deadline = NEVER

    def next_timeout(self):
        return self.deadline

    def run_softirq(self, now):
        self.log.append((now, "softirq"))
        self.softirq_pending = False


def fake_hosts(sim, *names):
    return [SimHost(sim, name, FakeStack(sim)) for name in names]
