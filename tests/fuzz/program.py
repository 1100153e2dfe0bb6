"""The language of random TCP programs: what a program may do, and what its peer may do.

A program is a setup (how the connection is opened, which options stand before) and a list
of steps. A step is (gap, operation): `gap` ms pass, then the operation happens; with gap 0
it follows the one before at once. Every operation means something in every state, so any
sublist of a program is a program: that is what shrinking stands on.

Calls                                   Peer actions
  send n flags                            ack where win       where: all, old, seg k, byte n, beyond
  recv n flags                            data base off len flags ack
  bsend n flags, brecv n flags            sack first count    segments of what is in flight
  set level name value                    fin, rst off, syn
  get level name                          urg len ptr
  poll, shutdown how, close

bsend and brecv block; while one waits, another is not started.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from hypothesis import strategies as st

SOL_SOCKET, SOL_TCP = 1, 6
GAP = 24
MORE, EOR, OOB, DONTWAIT, PEEK, TRUNC, WAITALL = 0x8000, 0x80, 1, 0x40, 2, 0x20, 0x100

Op = tuple[Any, ...]
Step = tuple[int, Op]


class Program(NamedTuple):
    """What Hypothesis draws. `setup` is (name, value) pairs, see `setups`."""

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
    (SOL_SOCKET, 13): (linger(0, 0), linger(1, 0), linger(1, 0), b"\1\0\0\0"),  # SO_LINGER
    (SOL_SOCKET, 20): (timeval(0), timeval(100), timeval(300)),  # SO_RCVTIMEO
    (SOL_SOCKET, 21): (timeval(0), timeval(100), timeval(300)),  # SO_SNDTIMEO
}
# what is asked for often matters: how data is sent and read
_COMMON = [(SOL_TCP, 1), (SOL_TCP, 3), (SOL_TCP, 12), (SOL_SOCKET, 18), (SOL_TCP, 25)]
_EARLY = [(SOL_TCP, 1), (SOL_TCP, 2), (SOL_TCP, 10), (SOL_SOCKET, 7), (SOL_SOCKET, 8),
          (SOL_SOCKET, 10), (SOL_TCP, 36), (SOL_SOCKET, 18)]  # fmt: skip
_READABLE = [(SOL_SOCKET, 4), (SOL_SOCKET, 7), (SOL_SOCKET, 8), (SOL_SOCKET, 18), (SOL_SOCKET, 42),
             (SOL_TCP, 1), (SOL_TCP, 2), (SOL_TCP, 3), (SOL_TCP, 10), (SOL_TCP, 12),
             (SOL_TCP, 18), (SOL_TCP, 25)]  # fmt: skip

_SIZES = (0, 1, 10, 100, 500, 1000, 1448, 1460, 1461, 2920, 3000, 5000, 10000, 30000, 100000)
_SEND_FLAGS = (0,) * 8 + (MORE,) * 3 + (EOR, OOB, DONTWAIT, MORE | EOR, 0x4, 0x10 | 0x100)
_RECV_SIZES = (0, 1, 2, 10, 100, 500, 1000, 1460, 3000, 10000, 100000)
_RECV_FLAGS = (0,) * 6 + (PEEK, PEEK, TRUNC, WAITALL, DONTWAIT, OOB, OOB | PEEK, PEEK | WAITALL)
_WINDOWS = (None,) * 6 + (0, 1, 100, 536, 1460, 5000, 20000, 65535)
_LENGTHS = (1, 10, 100, 500, 536, 1000, 1000, 1448, 1448)
_OFFSETS = (0,) * 8 + (-2000, -500, -10, -1, 1, 100, 1000, 2000)

_from = st.sampled_from


def _option(names: list[tuple[int, int]]) -> st.SearchStrategy[Op]:
    return _from([("set", *key, value) for key in names for value in OPTIONS[key]])


def _calls() -> st.SearchStrategy[Op]:
    send = st.tuples(st.just("send"), _from(_SIZES), _from(_SEND_FLAGS))
    recv = st.tuples(st.just("recv"), _from(_RECV_SIZES), _from(_RECV_FLAGS))
    blocking = st.one_of(
        st.tuples(st.just("bsend"), _from(_SIZES), _from((0, 0, MORE))),
        st.tuples(st.just("brecv"), _from(_RECV_SIZES), _from((0, 0, WAITALL, PEEK))),
    )
    rare = st.one_of(
        st.tuples(st.just("shutdown"), _from((0, 1, 1, 2, 3))),
        st.just(("close",)),
        st.sampled_from([("get", *key) for key in _READABLE]),
        _option(sorted(OPTIONS)),
        blocking,
    )
    poll: st.SearchStrategy[Op] = st.just(("poll",))
    return st.one_of(send, send, send, recv, recv, poll, _option(_COMMON), rare)


def _peer() -> st.SearchStrategy[Op]:
    where = st.one_of(
        st.just(("all",)), st.just(("all",)), st.just(("all",)),
        st.tuples(st.just("seg"), st.integers(1, 4)),
        st.tuples(st.just("byte"), _from((1, 50, 700, 1461))),
        _from((("old", 0), ("old", 1), ("old", 3000), ("beyond", 1))),
    )  # fmt: skip
    ack = st.tuples(st.just("ack"), where, _from(_WINDOWS))
    data = st.tuples(
        st.just("data"), _from(("top", "top", "top", "edge")), _from(_OFFSETS), _from(_LENGTHS),
        _from(("A", "PA", "PA", "FPA") + ("PA",) * 4), _from(("all", "all", "old")),
    )  # fmt: skip
    sack = st.tuples(st.just("sack"), st.integers(0, 5), st.integers(1, 3))
    rare = st.one_of(
        st.just(("fin",)),
        st.tuples(st.just("rst"), _from((0, 0, 1, -1, 100000))),
        st.just(("syn",)),
        st.tuples(st.just("urg"), _from((1, 3, 100)), _from((0, 1, 2, 3, 50, 200))),
    )
    return st.one_of(ack, ack, ack, data, data, data, sack, rare)


def steps() -> st.SearchStrategy[Step]:
    """One step: half of them calls."""
    at_once_or_not = _from((0, 0, GAP))
    spaced = _from((0, GAP, GAP, GAP, GAP, 60))
    waits = st.tuples(_from((60, 120, 240, 500, 1000)), st.just(("poll",)))
    call, peer = st.tuples(at_once_or_not, _calls()), st.tuples(spaced, _peer())
    return st.one_of(*[call] * 5, *[peer] * 5, waits)


def setups() -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    """How the connection comes about."""
    early = st.lists(_option(_EARLY), max_size=2).map(tuple)
    return st.tuples(
        st.tuples(st.just("v6"), _from((False, False, False, True))),
        st.tuples(st.just("passive"), st.booleans()),
        st.tuples(st.just("mss"), _from((1460, 1460, 1460, 1000, 536, 100, None))),
        st.tuples(st.just("window"), _from((65535, 65535, 65535, 20000, 5000, 1000, 536, 0))),
        st.tuples(st.just("wscale"), _from((None, 0, 2, 7, 14))),
        st.tuples(st.just("sack"), st.booleans()),
        st.tuples(st.just("ts"), st.booleans()),
        st.tuples(st.just("rtt"), _from((GAP, 60))),
        st.tuples(st.just("early"), early),
    )


def programs(length: int = 24) -> st.SearchStrategy[Program]:
    """Whole programs of up to `length` steps."""
    body = st.lists(steps(), min_size=length // 2, max_size=length).map(tuple)
    return st.builds(Program, setups(), body)
