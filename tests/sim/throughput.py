"""Throughput over (send buffer x loss x round trip), in virtual time.

`python -m tests.sim.throughput` measures and rewrites the table that the test compares
with, tests/sim/snapshots/throughput.txt. Do that, and look at the difference, after a
change that is meant to change it.
"""

from __future__ import annotations

from pathlib import Path

from ustack.seeds import Seeds
from ustack.sim.build import two_hosts
from ustack.sim.loop import Simulator
from ustack.sock.sock import AF_INET, SNDBUF_LOCK, SOCK_STREAM

SNAPSHOT = Path(__file__).parent / "snapshots" / "throughput.txt"
MS = 1_000_000
RATE = 50_000_000
SIZE = 1_000_000
SEEDS = (1, 2)
BUFFERS = {"32 KiB": 32768, "128 KiB": 131072, "auto": 0}
LOSSES = (0.0, 0.002, 0.01, 0.05)
RTTS_MS = (2, 20, 100)


def _sink(sim, host, done):
    listener = host.stack.socket(AF_INET, SOCK_STREAM)
    listener.prot.bind(listener, (b"", 80), sim.now)
    listener.prot.listen(listener, 1, sim.now)
    sk = yield from sim.call(listener.prot.accept(listener, sim.now))
    got = 0
    while got < SIZE:
        msg = yield from sim.call(sk.prot.recvmsg(sk, 1 << 20, 0, sim.now))
        got += msg.len
    done.append(sim.now)


def _source(sim, host, sndbuf):
    sk = host.stack.socket(AF_INET, SOCK_STREAM)
    if sndbuf:
        sk.sndbuf = sndbuf
        sk.userlocks |= SNDBUF_LOCK
    yield from sim.call(sk.prot.connect(sk, (bytes([10, 0, 0, 2]), 80), sim.now))
    yield from sim.call(sk.prot.sendmsg(sk, bytes(SIZE), 0, sim.now))


def transfer(sndbuf: int, loss: float, rtt_ms: int, seed: int) -> float:
    """One transfer of SIZE bytes; Mbit/s from the SYN to the last byte read."""
    sim = Simulator(Seeds(seed))
    delay = rtt_ms * MS // 2
    a, b, _ = two_hosts(sim, rate=RATE, delay=delay, loss=loss, limit=200)
    done: list[int] = []
    sim.spawn(_sink(sim, b, done))
    sim.spawn(_source(sim, a, sndbuf))
    sim.run_until_true(lambda: bool(done), until=300_000 * MS)
    return SIZE * 8000 / done[0]


def measure() -> dict[tuple[str, float, int], float]:
    """Every cell: the mean over SEEDS."""
    return {
        (name, loss, rtt): sum(transfer(size, loss, rtt, s) for s in SEEDS) / len(SEEDS)
        for name, size in BUFFERS.items()
        for loss in LOSSES
        for rtt in RTTS_MS
    }


def table(cells: dict[tuple[str, float, int], float]) -> str:
    lines = [
        f"Mbit/s over a {RATE // 1_000_000} Mbit/s link, {SIZE} bytes, loss in both directions",
        "",
        f"{'buffer':>8} {'loss':>6}" + "".join(f"{f'{rtt} ms':>9}" for rtt in RTTS_MS),
    ]
    for name in BUFFERS:
        for loss in LOSSES:
            row = "".join(f"{cells[name, loss, rtt]:9.2f}" for rtt in RTTS_MS)
            lines.append(f"{name:>8} {f'{loss:.1%}':>6}{row}")
    return "\n".join(lines) + "\n"


def parse(text: str) -> dict[tuple[str, float, int], float]:
    """The cells of a table."""
    cells = {}
    for line in text.splitlines()[3:]:
        fields = line.split()
        values = [float(x) for x in fields[-len(RTTS_MS) :]]
        name, loss = " ".join(fields[: -len(RTTS_MS) - 1]), fields[-len(RTTS_MS) - 1]
        for rtt, value in zip(RTTS_MS, values, strict=True):
            cells[name, float(loss.rstrip("%")) / 100, rtt] = value
    return cells


if __name__ == "__main__":
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(table(measure()))
    print(SNAPSHOT.read_text(), end="")
