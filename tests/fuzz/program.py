"""The language of random TCP programs: what a program may do, and what its peer may do.

A program is a setup (how the connection is opened, which options stand before) and a list
of steps. A step is (gap, operation): `gap` ms pass, then the operation happens; with gap 0
it follows the one before at once. Every operation means something in every state, so any
sublist of a program is a program: that is what shrinking stands on.

Calls                                   Peer actions
  send n flags                            ack where win       where: all, old, seg k, byte n, beyond
  sendto n, sendc n kind                  dups n              duplicate ACKs
  recv n flags                            data base off len flags ack
  bsend n flags, brecv n flags            blast n len         segments in order
  set level name value                    sack first count    segments of what is in flight
  get level name                          fin, rst off, syn
  poll, select, times, shutdown how       urg len ptr
  close                                   keep len            a keepalive of `len` bytes
                                          icmp kind which     an error about a packet of ours

bsend and brecv block, close may; while one of a kind waits, another is not started, and
the socket is not closed.

Setup: `v6`, `passive`, what the peer's SYN offers (`mss`, `window`, `wscale`, `sack`, `ts`),
`rtt` of the handshake, `early`: calls before, most of them options, `during`: calls while it is
under way,
`blocking`: connect or accept waits for it, `mtu` of the device, `slow`: a device that takes
its time.

Programs are drawn with `random.Random`, each from the seed and its own number. Most are
made of anything; the others have a theme (`themes`), a thing that chance alone rarely does.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Any, NamedTuple, TypeVar

SOL_SOCKET, SOL_IP, SOL_TCP, SOL_IPV6 = 1, 0, 6, 41
GAP = 24
MORE, EOR, OOB, DONTWAIT, PEEK, TRUNC, WAITALL = 0x8000, 0x80, 1, 0x40, 2, 0x20, 0x100
ERRQUEUE, ZEROCOPY = 0x2000, 0x4000000

T = TypeVar("T")

Op = tuple[Any, ...]
Step = tuple[int, Op]


class Program(NamedTuple):
    """A program. `setup` is (name, value) pairs, see `setups`."""

    setup: tuple[tuple[str, Any], ...]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = ["Program(", f"    {self.setup!r},", "    ("]
        lines += [f"        {step!r}," for step in self.steps]
        return "\n".join([*lines, "    ),", ")"])


def ints(value: int) -> bytes:
    return struct.pack("i", value)


def linger(on: int, seconds: int) -> bytes:
    return struct.pack("ii", on, seconds)


def timeval(ms: int) -> bytes:
    return struct.pack("qq", ms // 1000, ms % 1000 * 1000)


# (level, name): values. Names are numbers as the kernel has them.
OPTIONS: dict[tuple[int, int], tuple[bytes, ...]] = {
    (SOL_TCP, 1): (ints(0), ints(1), ints(1)),  # TCP_NODELAY
    (SOL_TCP, 3): (ints(0), ints(0), ints(1)),  # TCP_CORK
    (SOL_TCP, 12): (ints(0), ints(1), ints(2)),  # TCP_QUICKACK
    (SOL_TCP, 25): tuple(map(ints, (0, 1, 1000, 5000, 20000))),  # TCP_NOTSENT_LOWAT
    (SOL_TCP, 2): tuple(map(ints, (0, 87, 88, 500, 1000, 1460))),  # TCP_MAXSEG
    (SOL_TCP, 10): tuple(map(ints, (0, 1000, 5000, 20000, 50000))),  # TCP_WINDOW_CLAMP
    (SOL_TCP, 18): tuple(map(ints, (0, 500, 1500, -1))),  # TCP_USER_TIMEOUT
    (SOL_TCP, 8): tuple(map(ints, (-1, 0, 5, 500))),  # TCP_LINGER2
    (SOL_TCP, 36): tuple(map(ints, (0, 1, 2))),  # TCP_INQ
    (SOL_SOCKET, 7): tuple(map(ints, (1, 3000, 5000, 10000, 30000, 100000))),  # SO_SNDBUF
    (SOL_SOCKET, 8): tuple(map(ints, (1, 3000, 10000, 40000, 100000))),  # SO_RCVBUF
    (SOL_SOCKET, 18): tuple(map(ints, (0, 1, 10, 500, 2000, 100000, -1))),  # SO_RCVLOWAT
    (SOL_SOCKET, 10): (ints(0), ints(1)),  # SO_OOBINLINE
    (SOL_SOCKET, 42): tuple(map(ints, (-1, 0, 3, 700))),  # SO_PEEK_OFF
    (SOL_SOCKET, 9): (ints(0), ints(1)),  # SO_KEEPALIVE
    (SOL_SOCKET, 13): (linger(0, 0), linger(1, 0), linger(1, 0), b"\1\0\0\0"),  # SO_LINGER
    (SOL_SOCKET, 20): (timeval(0), timeval(100), timeval(300), timeval(-1)),  # SO_RCVTIMEO
    (SOL_SOCKET, 21): (timeval(0), timeval(100), timeval(300)),  # SO_SNDTIMEO
    (SOL_SOCKET, 29): (ints(0), ints(1)),  # SO_TIMESTAMP
    (SOL_SOCKET, 35): (ints(0), ints(1)),  # SO_TIMESTAMPNS
    (SOL_SOCKET, 60): (ints(0), ints(1)),  # SO_ZEROCOPY
    (SOL_TCP, 4): (ints(0), ints(1), ints(2)),  # TCP_KEEPIDLE
    (SOL_TCP, 5): (ints(0), ints(1), ints(2)),  # TCP_KEEPINTVL
    (SOL_TCP, 6): (ints(0), ints(1), ints(2)),  # TCP_KEEPCNT
    (SOL_IP, 11): (ints(0), ints(1)),  # IP_RECVERR
}
# what is asked for often matters: how data is sent and read
COMMON = [(SOL_TCP, 1), (SOL_TCP, 3), (SOL_TCP, 12), (SOL_SOCKET, 18), (SOL_TCP, 25)]
EARLY = [(SOL_TCP, 1), (SOL_TCP, 2), (SOL_TCP, 10), (SOL_SOCKET, 7), (SOL_SOCKET, 8),
          (SOL_SOCKET, 10), (SOL_TCP, 36), (SOL_SOCKET, 18)]  # fmt: skip
READABLE = [(SOL_SOCKET, 4), (SOL_SOCKET, 7), (SOL_SOCKET, 8), (SOL_SOCKET, 18), (SOL_SOCKET, 42),
             (SOL_TCP, 1), (SOL_TCP, 2), (SOL_TCP, 3), (SOL_TCP, 10), (SOL_TCP, 12),
             (SOL_TCP, 18), (SOL_TCP, 25), (SOL_TCP, 36), (SOL_SOCKET, 9),
             (SOL_SOCKET, 60)]  # fmt: skip

SIZES = (0, 1, 10, 100, 500, 1000, 1448, 1460, 1461, 2920, 3000, 5000, 10000, 30000, 100000)
SEND_FLAGS = (0,) * 8 + (MORE,) * 3 + (EOR, OOB, DONTWAIT, MORE | EOR, 0x4, 0x10 | 0x100, ZEROCOPY)
RECV_SIZES = (0, 1, 2, 10, 100, 500, 1000, 1460, 3000, 10000, 100000)
RECV_FLAGS = (0,) * 6 + (
    PEEK, PEEK, TRUNC, PEEK | TRUNC, WAITALL, DONTWAIT, OOB, OOB | PEEK, PEEK | WAITALL, ERRQUEUE,
)  # fmt: skip
WINDOWS = (None,) * 6 + (0, 1, 100, 536, 1460, 5000, 20000, 65535)
LENGTHS = (1, 10, 100, 500, 536, 1000, 1000, 1448, 1448)
OFFSETS = (0,) * 8 + (-2000, -500, -10, -1, 1, 100, 1000, 2000)
ICMP = ("host", "port", "net", "proto", "admin", "quench", "ttl", "param")


def option(r: Random, names: list[tuple[int, int]]) -> Op:
    """One of these options, set to something."""
    key = r.choice(names)
    return ("set", *key, r.choice(OPTIONS[key]))


def send(r: Random) -> Op:
    if r.random() < 0.08:
        return r.choice((("sendto", r.choice(SIZES[1:]), 0), ("sendc", 100, "mark")))
    return ("send", r.choice(SIZES), r.choice(SEND_FLAGS))


def recv(r: Random) -> Op:
    return ("recv", r.choice(RECV_SIZES), r.choice(RECV_FLAGS))


def blocking(r: Random) -> Op:
    if r.random() < 0.5:
        return ("bsend", r.choice(SIZES), r.choice((0, 0, MORE)))
    return ("brecv", r.choice(RECV_SIZES), r.choice((0, 0, WAITALL, PEEK, PEEK | WAITALL)))


def get(r: Random) -> Op:
    return ("get", *r.choice(READABLE))


def call(r: Random) -> Op:
    """A call that does not end the connection."""
    return _pick(r, (
        (6, send), (4, recv), (2, lambda r: r.choice((("poll",), ("select",), ("times",)))),
        (3, lambda r: option(r, COMMON)), (1, lambda r: option(r, sorted(OPTIONS))),
        (1, get), (1, blocking),
    ))  # fmt: skip


def where(r: Random) -> tuple[Any, ...]:
    return _pick(r, (
        (6, lambda r: ("all",)), (2, lambda r: ("seg", r.randint(1, 4))),
        (1, lambda r: ("byte", r.choice((1, 50, 700, 1461)))),
        (1, lambda r: r.choice((("old", 0), ("old", 1), ("old", 3000), ("beyond", 1)))),
    ))  # fmt: skip


def data(r: Random) -> Op:
    return (
        "data", r.choice(("top", "top", "top", "edge")), r.choice(OFFSETS), r.choice(LENGTHS),
        r.choice(("A", "PA", "PA", "PA")), r.choice(("all", "all", "old")),
    )  # fmt: skip


def urgent(r: Random) -> Op:
    return ("urg", r.choice((1, 3, 100)), r.choice((0, 1, 2, 3, 50, 200)))


def icmp(r: Random) -> Op:
    return ("icmp", r.choice(ICMP), r.choice((0, 0, 1, 5)))


def peer(r: Random) -> Op:
    """Something of the peer that does not end the connection."""
    return _pick(r, (
        (8, lambda r: ("ack", where(r), r.choice(WINDOWS))), (8, data),
        (1, lambda r: ("dups", r.choice((1, 3, 4)))), (1, urgent),
        (1, lambda r: ("blast", r.choice((2, 5, 10)), r.choice(LENGTHS[3:]))),
        (2, lambda r: ("sack", r.randint(0, 5), r.randint(1, 3))), (1, icmp),
        (1, lambda r: ("keep", r.choice((0, 1)))), (0.5, lambda r: ("syn",)),
    ))  # fmt: skip


def ending(r: Random) -> Op:
    """What ends a connection, or half of it."""
    return r.choice((
        ("shutdown", 0), ("shutdown", 1), ("shutdown", 1), ("shutdown", 2), ("shutdown", 3),
        ("close",), ("close",), ("close",), ("fin",), ("fin",), ("fin",),
        ("data", "top", 0, 100, "FPA", "all"), ("rst", r.choice((0, 0, 1, -1, 100000))),
    ))  # fmt: skip


def _pick(r: Random, choices: Any) -> Any:
    weights = [weight for weight, _ in choices]
    return r.choices([make for _, make in choices], weights)[0](r)


def step(r: Random) -> Step:
    """Half of them calls; now and then a wait."""
    kind = r.random()
    if kind < 0.08:
        return r.choice((60, 60, 120, 120, 240, 240, 500, 1000)), ("poll",)
    if kind < 0.54:
        return r.choice((0, 0, GAP)), call(r)
    return r.choice((0, GAP, GAP, GAP, GAP, 60)), peer(r)


def setup(r: Random, **fixed: Any) -> tuple[tuple[str, Any], ...]:
    """How the connection comes about."""
    found = {
        "v6": r.random() < 0.25,
        "passive": r.random() < 0.5,
        "mss": r.choice((1460, 1460, 1460, 1000, 536, 100, None)),
        "window": r.choice((65535, 65535, 65535, 20000, 5000, 1000, 536, 0)),
        "wscale": r.choice((None, 0, 2, 7, 14)),
        "sack": r.random() < 0.5,
        "ts": r.random() < 0.5,
        "rtt": r.choice((GAP, GAP, 60, 120)),
        "early": tuple(option(r, EARLY) for _ in range(r.choice((0, 0, 1, 2)))),
        "during": (),
        "blocking": r.random() < 0.1,
        "mtu": 1500,
        "slow": False,
    }
    return tuple((found | fixed).items())


def anything(r: Random, length: int = 24) -> Program:
    """A program of up to `length` steps that ends after its first half, if at all."""
    steps = [step(r) for _ in range(r.randint(length // 2, length))]
    for _ in range(r.choice((0, 1, 1, 2))):
        at = r.randint(len(steps) // 2, len(steps))
        steps.insert(at, (r.choice((0, GAP, GAP)), ending(r)))
    return Program(setup(r), tuple(steps))


def draw(count: int, number: int) -> list[Program]:
    """`count` programs, always the same for one `number`; the longest first, so that they
    are not waited for in the end."""
    from tests.fuzz.themes import themed  # they are made of what is here

    drawn = []
    for i in range(count):
        r = Random(f"{number}/{i}")
        drawn.append(themed(r) if r.random() < 0.8 else anything(r))
    return sorted(drawn, key=lambda p: -sum(gap for gap, _ in p.steps))
