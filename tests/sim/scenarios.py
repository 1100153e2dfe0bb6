"""Whole simulations as functions of a seed; `python -m tests.sim.scenarios NAME SEED` prints
the digest of the capture, for runs in another process."""

from __future__ import annotations

import sys

from tests.sim.fakes import fake_hosts
from ustack.seeds import Seeds
from ustack.sim.capture import Capture
from ustack.sim.host import SimLink
from ustack.sim.loop import Simulator

MS = 1_000_000
BAD_NETWORK = {
    "rate": 20_000_000,
    "delay": 10 * MS,
    "jitter": MS,
    "limit": 50,
    "loss": 0.02,
    "duplicate": 0.01,
    "reorder": 0.02,
}


def wires(seed: int) -> Capture:
    """Packets of random size both ways over bad wires, no protocol."""
    sim = Simulator(Seeds(seed))
    hosts = fake_hosts(sim, "a", "b")
    link = SimLink(sim, *hosts, **BAD_NETWORK)
    capture = Capture(sim, *link.devices)
    for host in hosts:
        rng = sim.seeds.stream(f"app/{host.name}")

        def app(host=host, rng=rng):
            for i in range(300):
                host.stack.send(bytes([i & 255]) * rng.randrange(20, 1500))
                yield from sim.sleep(rng.randrange(0, MS))

        sim.spawn(app())
    sim.run_until_idle()
    return capture


SCENARIOS = {"wires": wires}

if __name__ == "__main__":
    print(SCENARIOS[sys.argv[1]](int(sys.argv[2])).digest())
