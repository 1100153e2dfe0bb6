"""Whole simulations as functions of a seed; `python -m tests.sim.scenarios NAME SEED` prints
the digest of the capture, for runs in another process."""

from __future__ import annotations

import sys
from hashlib import sha256

from tests.sim.fakes import fake_hosts
from ustack.ip.host import IpHost
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sim.build import two_hosts
from ustack.sim.capture import Capture
from ustack.sim.host import SimHost, SimLink, host_seeds
from ustack.sim.loop import Simulator
from ustack.sock.sock import AF_INET, AF_INET6, SHUT_WR, SOCK_STREAM
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


def tcp_server(sim, host, family, addr, digests):
    """Accept one connection, read it to its end, answer with the hash, close."""
    listener = host.stack.socket(family, SOCK_STREAM)
    listener.prot.bind(listener, addr, sim.now)
    listener.prot.listen(listener, 8, sim.now)
    sk = yield from sim.call(listener.prot.accept(listener, sim.now))
    digest = sha256()
    while True:
        msg = yield from sim.call(sk.prot.recvmsg(sk, 65536, 0, sim.now))
        if not msg.len:
            break
        for chunk in msg.chunks:
            digest.update(chunk)
    digests.append(digest.digest())
    yield from sim.call(sk.prot.sendmsg(sk, digest.digest(), 0, sim.now))
    yield from sim.call(sk.prot.close(sk, sim.now))
    yield from sim.call(listener.prot.close(listener, sim.now))


def tcp_client(sim, host, family, peer, data):
    """Send everything, shut down, and return the hash that the server answers."""
    sk = host.stack.socket(family, SOCK_STREAM)
    yield from sim.call(sk.prot.connect(sk, peer, sim.now))
    sent = 0
    while sent < len(data):
        piece = data[sent : sent + 65536]
        sent += yield from sim.call(sk.prot.sendmsg(sk, piece, 0, sim.now))
    sk.prot.shutdown(sk, SHUT_WR, sim.now)
    answer = b""
    while True:
        msg = yield from sim.call(sk.prot.recvmsg(sk, 65536, 0, sim.now))
        if not msg.len:
            break
        answer += b"".join(msg.chunks)
    yield from sim.call(sk.prot.close(sk, sim.now))
    return answer


def tcp(seed: int) -> Capture:
    """A transfer each way, one over IPv4 and one over IPv6, over bad wires."""
    sim = Simulator(Seeds(seed))
    a, b, link = two_hosts(sim, **BAD_NETWORK)
    capture = Capture(sim, *link.devices)
    rng = sim.seeds.stream("data")
    data = [rng.randbytes(300_000) for _ in range(2)]
    digests: list[bytes] = []
    clients = []
    for server, client, family, addr, body in (
        (b, a, AF_INET, B4, data[0]),
        (a, b, AF_INET6, A6, data[1]),
    ):
        sim.spawn(tcp_server(sim, server, family, (addr, 80), digests))
        clients.append(sim.spawn(tcp_client(sim, client, family, (addr, 80), body)))
    for client, body in zip(clients, data, strict=True):
        sim.run_until_true(lambda client=client: client.done, until=600_000 * MS)
        assert client.result() == sha256(body).digest()
    assert min(wire.stats.lost for wire in link.wires) > 0
    sim.run_until(sim.now + 130_000 * MS)
    assert not a.stack.tcp.sockets()
    assert not b.stack.tcp.sockets()
    return capture


SCENARIOS = {"wires": wires, "udp": udp, "tcp": tcp}

if __name__ == "__main__":
    print(SCENARIOS[sys.argv[1]](int(sys.argv[2])).digest())
