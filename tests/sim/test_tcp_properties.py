"""What must hold on any network: the stream arrives whole and in order, the sender's books
are right at every moment, and a silent peer is given up on in bounded time."""

from __future__ import annotations

from hashlib import sha256

import pytest

from tests.tcp.harness import SOL_TCP, Bench, check_counters
from ustack.seeds import Seeds
from ustack.sim.build import two_hosts
from ustack.sim.loop import Simulator
from ustack.sock.sock import AF_INET, AF_INET6, MSG_EOR, MSG_MORE, SHUT_WR, SOCK_STREAM
from ustack.sock.sysctl import Sysctl
from ustack.tcp.state import CLOSE
from ustack.wire.packet import IPPROTO_TCP

MS = 1_000_000
MINUTE = 60_000
TCP_NODELAY, TCP_MAXSEG, TCP_CORK = 1, 2, 3
SO_SNDBUF, SO_RCVBUF = 7, 8
SIZE = 120_000


def option(sk, name: int, value: int, now: int, level: int = SOL_TCP) -> None:
    sk.prot.setsockopt(sk, level, name, value.to_bytes(4, "little"), now)


def prepare(sk, rng, now: int) -> None:
    """Options as an application might have them."""
    if rng.random() < 0.3:
        option(sk, TCP_MAXSEG, rng.randrange(88, 600), now)
    if rng.random() < 0.3:
        option(sk, SO_SNDBUF, rng.randrange(2304, 20000), now, 1)
    if rng.random() < 0.3 and sk.state == CLOSE:
        # not later: two ends that take back their windows at once can stop each other for
        # good, each refusing as too far ahead the very ACKs that would tell it so
        option(sk, SO_RCVBUF, rng.randrange(2304, 20000), now, 1)


def writer(sim, sk, rng, data: bytes):
    """Send everything in pieces of all sizes, with flags and options changing."""
    done = 0
    while done < len(data):
        size = rng.choice((1, 10, 100, 1000, 5000, 40_000))
        flags = rng.choice((0, 0, 0, MSG_MORE, MSG_EOR))
        if rng.random() < 0.1:
            option(sk, rng.choice((TCP_NODELAY, TCP_CORK)), rng.randrange(2), sim.now)
        piece = data[done : done + size]
        done += yield from sim.call(sk.prot.sendmsg(sk, piece, flags, sim.now))
        if rng.random() < 0.05:
            yield from sim.sleep(rng.randrange(0, 300 * MS))
    sk.prot.shutdown(sk, SHUT_WR, sim.now)


def reader(sim, sk, rng, digest):
    while True:
        msg = yield from sim.call(sk.prot.recvmsg(sk, rng.randrange(1, 60_000), 0, sim.now))
        if not msg.len:
            return
        for chunk in msg.chunks:
            digest.update(chunk)
        if rng.random() < 0.02:
            yield from sim.sleep(rng.randrange(0, 200 * MS))


def both_ways(sim, sk, rng, data: bytes):
    """Write and read at once; the hash of what came."""
    prepare(sk, rng, sim.now)
    digest = sha256()
    tasks = [sim.spawn(writer(sim, sk, rng, data)), sim.spawn(reader(sim, sk, rng, digest))]
    for task in tasks:
        yield from task.join()
    yield from sim.call(sk.prot.close(sk, sim.now))
    return digest.digest()


def client(sim, host, family, peer, rng, data):
    sk = host.stack.socket(family, SOCK_STREAM)
    prepare(sk, rng, sim.now)
    yield from sim.call(sk.prot.connect(sk, peer, sim.now))
    return (yield from both_ways(sim, sk, rng, data))


def server(sim, host, family, rng, data):
    listener = host.stack.socket(family, SOCK_STREAM)
    prepare(listener, rng, sim.now)
    listener.prot.bind(listener, (b"", 80), sim.now)
    listener.prot.listen(listener, 4, sim.now)
    sk = yield from sim.call(listener.prot.accept(listener, sim.now))
    yield from sim.call(listener.prot.close(listener, sim.now))
    return (yield from both_ways(sim, sk, rng, data))


def auditor(sim, hosts):
    """Check the books every few milliseconds."""
    while True:
        for host in hosts:
            for sk in host.stack.tcp.sockets():
                check_counters(sk)
        yield from sim.sleep(7 * MS)


def network(rng) -> dict[str, float]:
    """A bad network: loss up to 8 % each way, duplicates, reordering, short queues."""
    return {
        "rate": rng.choice((0, 2_000_000, 50_000_000)),
        "delay": rng.choice((0, MS, 20 * MS, 80 * MS)),
        "jitter": rng.choice((0, 5 * MS)),
        "limit": rng.choice((10, 100)),
        "loss": rng.choice((0.0, 0.01, 0.03, 0.08)),
        "duplicate": rng.choice((0.0, 0.03)),
        "reorder": rng.choice((0.0, 0.05)),
    }


@pytest.mark.parametrize("seed", range(40))
def test_both_streams_arrive_whole(seed):
    sim = Simulator(Seeds(seed))
    sim.now = 5 * MS
    rng = sim.seeds.stream("setup")
    sysctls = tuple(
        Sysctl(
            tcp_sack=rng.random() < 0.8,
            tcp_timestamps=int(rng.random() < 0.7),
            tcp_window_scaling=rng.random() < 0.8,
            tcp_congestion_control=rng.choice(("reno", "cubic")),
            hz=rng.choice((0, 250)),
        )
        for _ in range(2)
    )
    mtu = rng.choice((576, 1500, 9000))
    family = AF_INET if mtu < 1280 else rng.choice((AF_INET, AF_INET6))
    a, b, _ = two_hosts(sim, mtu, sysctls, **network(rng))
    data = [sim.seeds.stream(f"data{i}").randbytes(SIZE) for i in range(2)]
    peer = bytes([10, 0, 0, 2]) if family == AF_INET else b"\xfd" + bytes(14) + b"\x02"
    streams = [sim.seeds.stream(name) for name in ("server", "client")]
    tasks = [
        sim.spawn(server(sim, b, family, streams[0], data[0])),
        sim.spawn(client(sim, a, family, (peer, 80), streams[1], data[1])),
    ]
    audit = sim.spawn(auditor(sim, (a, b)))
    sim.run_until_true(lambda: all(t.done for t in tasks), until=60 * MINUTE * MS)
    assert tasks[0].result() == sha256(data[1]).digest()
    assert tasks[1].result() == sha256(data[0]).digest()
    audit.cancel()
    sim.run_until(sim.now + 5 * MINUTE * MS)
    for host in (a, b):
        assert not host.stack.tcp.sockets()
        assert not host.stack.tcp.established
        assert host.stack.next_timeout() > sim.now + 1000 * MINUTE * MS


def dies(b: Bench, minutes: float) -> None:
    """With a silent peer nothing is left of the connection after that time."""
    b.checks = False
    b.run(minutes * MINUTE)
    assert b.sk.state == CLOSE
    assert not b.stack.tcp.established
    assert b.sk.wmem_queued == 0
    assert b.stack.next_timeout() == 1 << 62


def close(b: Bench) -> Bench:
    b.close()
    return b


def sending(b: Bench, size: int = 100_000) -> Bench:
    b.send(size)
    return b


def closed_window(b: Bench) -> Bench:
    b.inject(win=0)
    b.send(1000)
    return b


SILENT = {
    "syn_sent": (lambda: Bench.syn_sent(), 3),
    "established, sending": (lambda: sending(Bench.connected()), 18),
    "established without sack, sending": (lambda: sending(Bench.connected(sack=False)), 18),
    "passive, sending": (lambda: sending(Bench.accepted()), 18),
    "established, zero window": (lambda: closed_window(Bench.connected()), 18),
    "orphan, zero window": (lambda: close(closed_window(Bench.connected())), 18),
    "orphan, sending": (lambda: close(sending(Bench.connected())), 5),
    "closed while idle": (lambda: close(Bench.connected()), 5),
    "close_wait, then closed": (lambda: close(Bench.close_wait()), 5),
    "fin_wait1": (lambda: Bench.fin_wait1(), 18),
    "fin_wait1, closed": (lambda: close(Bench.fin_wait1()), 5),
    "fin_wait2, closed": (lambda: close(Bench.fin_wait2()), 3),
    "closing": (lambda: Bench.closing(), 18),
    "closing, closed": (lambda: close(Bench.closing()), 5),
    "last_ack": (lambda: Bench.last_ack(), 18),
    "last_ack, closed": (lambda: close(Bench.last_ack()), 5),
}


@pytest.mark.parametrize("state", SILENT)
def test_a_silent_peer_is_given_up_on(state):
    make, minutes = SILENT[state]
    dies(make(), minutes)


def test_time_wait_ends_after_a_minute():
    b = Bench.fin_wait2()
    b.inject("FA")
    assert b.stack.tcp.timewaits()
    dies(b, 1.1)


def test_a_half_open_request_is_forgotten():
    b = Bench.listening()
    b.inject("S", seq=0, options=b.peer_syn_options())
    assert b.stack.tcp.established
    b.run(2 * MINUTE)
    assert not b.stack.tcp.established
    assert b.sk.protocol == IPPROTO_TCP
