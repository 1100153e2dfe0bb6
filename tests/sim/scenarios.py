"""Whole simulations as functions of a seed; `python -m tests.sim.scenarios NAME SEED` prints
the digest of the capture, for runs in another process."""

from __future__ import annotations

import sys

from tests.sim.fakes import fake_hosts
from ustack.ip.host import IpHost
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sim.capture import Capture
from ustack.sim.host import SimHost, SimLink, host_seeds
from ustack.sim.loop import Simulator
from ustack.sock.sock import AF_INET, AF_INET6
from ustack.udp.host import UdpHost
from ustack.wire.packet import IPPROTO_UDP

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


class UdpStack(IpHost):
    """A host with UDP alone."""

    def __init__(self, sim, name):
        super().__init__(seeds=host_seeds(sim, name), loopback=Loopback())
        self.udp = UdpHost(self)
        self.register(IPPROTO_UDP, self.udp.rcv, self.udp.icmp_err)
        self.prot = self.udp.prot

    def socket(self, addr, family=AF_INET):
        sk = self.udp.create_sock(family)
        self.prot.bind(sk, addr, 0)
        return sk


def udp_echo(sim, server, bind, echoed):
    """Answer every datagram, until cancelled."""
    sk = server.stack.socket(bind, AF_INET if len(bind[0]) == 4 else AF_INET6)
    prot = server.stack.prot
    while True:
        msg = yield from sim.call(prot.recvmsg(sk, 65536, 0, sim.now))
        data = b"".join(msg.chunks)
        echoed.append(data)
        yield from sim.call(prot.sendmsg(sk, data, 0, sim.now, msg.addr))


def udp_client(sim, client, bind, peer, sizes, got):
    """Send a datagram of each size and wait for its echo; once more after 200 ms."""
    sk = client.stack.socket(bind, AF_INET if len(bind[0]) == 4 else AF_INET6)
    prot = client.stack.prot
    sk.rcvtimeo = 200 * MS
    for i, size in enumerate(sizes):
        wanted = bytes([i & 255]) * size
        while True:
            yield from sim.call(prot.sendmsg(sk, wanted, 0, sim.now, peer))
            try:
                msg = yield from sim.call(prot.recvmsg(sk, 65536, 0, sim.now))
            except BlockingIOError:
                continue
            if b"".join(msg.chunks) == wanted:
                break
        got.append(wanted)


A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = (bytes([0xFD] + [0] * 14 + [n]) for n in (1, 2))


def udp(seed: int) -> Capture:
    """Datagrams of up to 4000 bytes, IPv4 and IPv6 at once, echoed over bad wires."""
    sim = Simulator(Seeds(seed))
    a, b = (SimHost(sim, n, UdpStack(sim, n)) for n in "ab")
    link = SimLink(
        sim, a, b, 1500, (("10.0.0.1/24", "fd00::1/64"), ("10.0.0.2/24", "fd00::2/64")),
        **BAD_NETWORK,
    )  # fmt: skip
    capture = Capture(sim, *link.devices)
    rng = sim.seeds.stream("sizes")
    sizes = [rng.randrange(0, 4000) for _ in range(80)]
    servers, clients, echoed, got = [], [], [], []
    for mine, theirs in ((A4, B4), (A6, B6)):
        servers.append(sim.spawn(udp_echo(sim, b, (theirs, 7), echoed)))
        op = udp_client(sim, a, (mine, 5000), (theirs, 7), sizes, got)
        clients.append(sim.spawn(op))
    for client in clients:
        sim.run_until_true(lambda client=client: client.done, until=600_000 * MS)
    for server in servers:
        server.cancel()
    sim.run_until_idle()
    assert sum(map(len, got)) == 2 * sum(sizes)
    assert len(echoed) >= len(got)
    assert link.wires[0].stats.lost > 0
    assert all(server.cancelled for server in servers)
    return capture


SCENARIOS = {"wires": wires, "udp": udp}

if __name__ == "__main__":
    print(SCENARIOS[sys.argv[1]](int(sys.argv[2])).digest())
