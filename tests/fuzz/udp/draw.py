"""Drawing UDP programs, each with `random.Random` from the seed and its own number.

Half of the programs are of sockets of one host that talk to one another, half of one socket,
and sometimes a second, that face the peer. A program is made of single steps, anything at
all, and of themes: sequences in which one thing leads to another, as chance alone seldom
does. What a theme does is interspersed with single steps too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from tests.fuzz.program import ints
from tests.fuzz.udp.program import (
    AF4,
    AF6,
    COMMON,
    CONFIRM,
    CONTROLS,
    DONTROUTE,
    PEER_PORTS,
    PORTS,
    PROBE,
    RARE,
    READABLE,
    SERVER,
    Op,
    Program,
)
from tests.sockets.parity.trial import (
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    SOL_IP,
    SOL_IPV6,
    SOL_SOCKET,
    SOL_UDP,
)

_SIZES = (0, 1, 100, 1000, 1400, 1452, 1453, 1472, 1473, 3000, 8000, 20000, 65507, 65508, 65527,
          65528, 70000)  # fmt: skip
_SMALL = (0, 1, 1, 5, 100, 100, 600, 1000, 1400)
_SEND_FLAGS = (0,) * 12 + (MSG_MORE,) * 4 + (
    MSG_OOB, MSG_DONTWAIT, MSG_EOR, DONTROUTE, PROBE, CONFIRM, PROBE | CONFIRM, MSG_MORE | PROBE,
)  # fmt: skip
_RECV_SIZES = (0, 1, 4, 50, 700, 2000, 70000, 70000)
_RECV_FLAGS = (0,) * 8 + (
    MSG_PEEK, MSG_PEEK, MSG_TRUNC, MSG_PEEK | MSG_TRUNC, MSG_WAITALL, MSG_DONTWAIT, MSG_OOB,
    *(MSG_ERRQUEUE,) * 4, MSG_ERRQUEUE | MSG_PEEK, MSG_ERRQUEUE | MSG_TRUNC,
)  # fmt: skip
_LOCAL_HOSTS = ("lo",) * 8 + ("mlo", "mlo", "lo2", "any", "any", "many", "us", "us", "mus")
_STRANGE_HOSTS = ("bcast", "limited", "group", "group", "mgroup", "off", "moff", "peer", "mpeer")

# What the peer's datagrams have that they should not.
_PLANTS: tuple[dict[str, Any], ...] = (
    {"options": b"\1\1\1\0"}, {"options": b"\7\7\4\0\0\0\0\0"}, {"options": b"\7\3\4\0"},
    {"csum": 0}, {"csum": 0x1234}, {"length": 8}, {"length": 7}, {"length": 0}, {"length": 2000},
    {"ttl": 1}, {"ttl": 0}, {"tos": 0x28}, {"tos": 3}, {"src": "stranger"}, {"src": "us"},
    {"src": "lo"}, {"src": "group"}, {"src": "any"}, {"dst": "bcast"}, {"dst": "limited"},
    {"dst": "group"}, {"dst": "group"}, {"dst": "lo"}, {"dst": "off"},
)  # fmt: skip
_UNREACH = tuple((3, code) for code in range(17))
_ERRORS = {
    AF4: (*_UNREACH, *((3, 3),) * 3, *((3, 4),) * 4, (4, 0), (11, 0), (11, 1), (12, 0), (5, 1),
          (13, 0)),
    AF6: (*((1, code) for code in range(8)), *((1, 4),) * 2, *((2, 0),) * 3, (3, 0), (3, 1),
          (4, 0), (4, 1), (4, 2), (5, 0), (100, 0)),
}  # fmt: skip
_RESTS = (0, 0, 68, 300, 552, 600, 1000, 1279, 1280, 1300, 1400, 1499, 1500, 9000, 5 << 24)
_CUTS = (576,) * 6 + (60, 48, 36, 28, 27)
_LENGTHS = (0, 1, 5, 100, 500, 1000, 1472, 4000)
_TOTALS = (16, 48, 400, 1480, 3000, 3960)

# All that a receiver can ask to be told.
_TELL4 = tuple((SOL_IP, name) for name in (8, 12, 13, 20))
_TELL6 = tuple((SOL_IPV6, name) for name in (49, 51, 66, 74))


class Drawer:
    """Draws the steps of one program."""

    def __init__(self, r: Random, families: tuple[int, ...], peer: int, wire: bool) -> None:
        self.r = r
        self.families = families
        self.peer = peer
        self.wire = wire
        self.facing = "peer" if families[0] == peer else "mpeer"

    # -- parts of steps ----------------------------------------------------------------

    def who(self) -> int:
        """A socket; against the peer mostly the first."""
        return 0 if self.wire and self.r.random() < 0.85 else self.r.randrange(len(self.families))

    def host(self) -> str:
        """A destination."""
        chance = self.r.random()
        if self.wire and chance < 0.85:
            return self.facing
        return self.r.choice(_LOCAL_HOSTS if chance < 0.95 else _STRANGE_HOSTS)

    def port(self) -> Any:
        """A destination's port."""
        r = self.r
        if r.random() < 0.04:
            return 0
        if self.wire:
            return r.choice((*PEER_PORTS[:1] * 5, PEER_PORTS[1]))
        return r.choice((*PORTS, *(("of", j) for j in range(len(self.families))), ("of", 0)))

    def to(self) -> Any:
        return None if self.r.random() < 0.5 else (self.host(), self.port())

    def option(self, *tables: dict[tuple[int, int], tuple[bytes, ...]]) -> tuple[int, int, bytes]:
        """An option out of one of the tables, and a value."""
        table = self.r.choice(tables)
        key = self.r.choice(tuple(table))
        return (*key, self.r.choice(table[key]))

    # -- single steps ------------------------------------------------------------------

    def send(self) -> Op:
        r = self.r
        size = r.choice(_SMALL if r.random() < 0.6 else _SIZES)
        control: tuple[Any, ...] = ()
        if r.random() < 0.2:
            control = tuple(r.choice(CONTROLS) for _ in range(r.choice((1, 1, 2))))
        return ("send", self.who(), size, r.choice(_SEND_FLAGS), self.to(), control)

    def recv(self) -> Op:
        return ("recv", self.who(), self.r.choice(_RECV_SIZES), self.r.choice(_RECV_FLAGS))

    def set(self) -> Op:
        return ("set", self.who(), *self.option(COMMON, RARE))

    def connect(self) -> Op:
        return ("connect", self.who(), self.host(), self.port())

    def bind(self) -> Op:
        r = self.r
        host = r.choice(_LOCAL_HOSTS if r.random() < 0.6 else ("any", "us", *_STRANGE_HOSTS))
        return ("bind", self.who(), host, r.choice((0, *PORTS, *PORTS)))

    def rare(self) -> Op:
        r = self.r
        return r.choice((
            ("unspec", self.who()), ("renew", self.who()), self.bind(),
            ("shutdown", self.who(), r.choice((0, 1, 2, 3))),
            ("get", self.who(), *r.choice(READABLE)),
        ))  # fmt: skip

    def call(self) -> Op:
        calls: tuple[Callable[[], Op], ...] = (
            *(self.send,) * 7, *(self.recv,) * 5, *(self.set,) * 3, self.connect, *(self.rare,) * 2,
        )  # fmt: skip
        return self.r.choice(calls)()

    def dgram(self) -> Op:
        r = self.r
        plant = tuple(r.choice(_PLANTS).items()) if r.random() < 0.3 else ()
        dport = r.choice((("of", 0), ("of", 0), ("of", self.who()), SERVER, 7009))
        sport = r.choice((*PEER_PORTS[:1] * 4, PEER_PORTS[1]))
        return ("dgram", r.choice(_LENGTHS), sport, dport, plant)

    def icmp(self) -> Op:
        r = self.r
        back = r.choice((0, 0, 0, 0, 1, 2))
        kind, code = r.choice(_ERRORS[self.peer])
        return ("icmp", kind, code, r.choice(_RESTS), back, r.choice(_CUTS))

    def peers(self) -> Op:
        r = self.r
        if r.random() < 0.05:
            return r.choice((("ping", r.choice(_LENGTHS)), ("proto", r.choice((3, 60, 132)))))
        return self.dgram() if r.random() < 0.6 else self.icmp()

    def step(self) -> Op:
        return self.peers() if self.wire and self.r.random() < 0.45 else self.call()

    # -- themes ------------------------------------------------------------------------

    def sending(self, i: int, size: int, flags: int = 0, control: tuple[Any, ...] = ()) -> Op:
        """A send to where it arrives: the peer, or a socket."""
        to = (self.facing, PEER_PORTS[0]) if self.wire else self.r.choice((None, ("lo", ("of", 1))))
        return ("send", i, size, flags, to, control)

    def arriving(self, size: int) -> Op:
        """A datagram for the first socket."""
        if self.wire:
            return ("dgram", size, PEER_PORTS[0], ("of", 0), ())
        return ("send", 1, size, 0, ("lo", ("of", 0)), ())

    def full(self) -> list[Op]:
        """More than the receive buffer holds."""
        r = self.r
        ops: list[Op] = [("set", 0, SOL_SOCKET, 8, ints(r.choice((0, 2000, 5000, 30000))))]
        if r.random() < 0.5:
            ops.append(("set", 0, SOL_SOCKET, 40, ints(1)))
        ops += [self.arriving(r.choice((1, 100, 1000, 1400))) for _ in range(r.randint(2, 9))]
        ops += [("recv", 0, 2000, 0) for _ in range(r.randint(1, 5))]
        return [*ops, self.arriving(5), ("recv", 0, 2000, 0)]

    def peeking(self) -> list[Op]:
        """Several datagrams, looked at before they are read."""
        r = self.r
        ops: list[Op] = [
            self.arriving(r.choice((0, 1, 5, 100, 600))) for _ in range(r.randint(1, 4))
        ]
        ops.append(("set", 0, SOL_SOCKET, 42, ints(r.choice((-1, 0, 0, 3, 150)))))
        flags = (MSG_PEEK, MSG_PEEK, MSG_PEEK | MSG_TRUNC, 0, MSG_TRUNC)
        sizes = (0, 1, 50, 70000)
        ops += [("recv", 0, r.choice(sizes), r.choice(flags)) for _ in range(r.randint(2, 6))]
        return [*ops, ("get", 0, SOL_SOCKET, 42)]

    def corked(self) -> list[Op]:
        """One datagram out of several calls."""
        r = self.r
        i = self.who()
        option = r.random() < 0.4
        ops: list[Op] = [("set", i, SOL_UDP, 1, ints(1))] if option else []
        if r.random() < 0.3:
            ops.append(("set", i, SOL_SOCKET, 7, ints(r.choice((0, 2000, 30000)))))
        # over IPv6 the last of so many bytes move on to the next fragment
        sizes = [1452] if r.random() < (0.7 if self.wire else 0.2) else []
        lengths = (0, 1, 100, 700, 1000, 1452, 1472, 3000, 20000, 40000)
        sizes += [r.choice(lengths) for _ in range(r.randint(1, 5))]
        ops += [self.sending(i, size, 0 if option else MSG_MORE) for size in sizes]
        if r.random() < 0.15:
            ops.append(("renew", i))
        return [*ops, ("set", i, SOL_UDP, 1, ints(0)) if option else self.sending(i, 7)]

    def cut(self) -> list[Op]:
        """UDP_SEGMENT, and perhaps a receiver that wants it whole."""
        r = self.r
        i = self.who()
        size = r.choice((1, 100, 500, 1400, 1452, 1453, 1472, 1473))
        ops: list[Op] = [("set", 0, SOL_UDP, 104, ints(1))] if r.random() < 0.6 else []
        control: tuple[Any, ...] = ()
        if r.random() < 0.4:
            control = ((SOL_UDP, 103, size.to_bytes(2, "little")),)
        else:
            ops.append(("set", i if self.wire else 1, SOL_UDP, 103, ints(size)))
        sizes = (size, size + 1, size * 3, size * 4 + 1, size * 128, size * 129, 65507)
        for _ in range(r.randint(1, 3)):
            length = min(r.choice(sizes), 65507)
            if self.wire:
                ops.append(self.sending(i, length, r.choice((0, 0, MSG_MORE)), control))
            else:
                to = ("lo", ("of", 0))
                ops.append(("send", 1, min(length, size * 128), 0, to, control))
        return [*ops, ("recv", 0, 70000, 0), ("recv", 0, 70000, 0)]

    def told(self) -> list[Op]:
        """Control messages both ways."""
        r = self.r
        keys = r.sample(_TELL6 if self.peer == AF6 and self.wire else _TELL4 + _TELL6, 3)
        ops: list[Op] = [("set", 0, level, name, ints(1)) for level, name in keys]
        ops += [self.arriving(5), ("recv", 0, 100, 0), self.dgram(), ("recv", 0, 100, 0)]
        return ops

    def refused(self) -> list[Op]:
        """Errors, told and queued."""
        r = self.r
        ops: list[Op] = []
        if r.random() < 0.8:
            ops += [("set", 0, SOL_IP, 11, ints(1)), ("set", 0, SOL_IPV6, 25, ints(1))]
        if r.random() < 0.2:
            ops.append(("set", 0, SOL_SOCKET, 45, ints(1)))
        host, port = (self.facing, PEER_PORTS[0]) if self.wire else ("lo", 7009)
        if r.random() < 0.6:
            ops.append(("connect", 0, host, port))
        for _ in range(r.randint(1, 3)):
            ops.append(("send", 0, r.choice(_SMALL), 0, (host, port), ()))
            if self.wire:
                ops.append(self.icmp())
        reads = (("recv", 0, 70000, MSG_ERRQUEUE), ("get", 0, SOL_SOCKET, 4), ("recv", 0, 50, 0))
        ops += [r.choice(reads) for _ in range(r.randint(1, 4))]
        if r.random() < 0.5:
            ops += [
                self.sending(0, 5),
                ("set", 0, *r.choice(((SOL_IP, 11), (SOL_IPV6, 25))), ints(0)),
            ]
        return ops

    def narrow(self) -> list[Op]:
        """Datagrams about as long as the path is wide."""
        r = self.r
        ops: list[Op] = [
            ("set", 0, SOL_IP, 10, ints(r.randrange(6))),
            ("set", 0, SOL_IPV6, 23, ints(r.randrange(6))),
        ]
        if r.random() < 0.4:
            ops.append(("set", 0, SOL_IP, 11, ints(1)))
        if r.random() < 0.4:
            ops.append(("set", 0, SOL_IPV6, 25, ints(1)))
        if self.wire:
            mtu = r.choice((0, 300, 552, 1000, 1280, 1300, 1499))
            kind = (3, 4) if self.peer == AF4 else (2, 0)
            ops += [self.sending(0, 1400), ("icmp", *kind, mtu, 0, 576)]
        for _ in range(r.randint(1, 4)):
            size = r.choice((500, 1000, 1232, 1252, 1253, 1272, 1273, 1452, 1453, 1472, 1473, 5000))
            ops.append(self.sending(0, size, r.choice((0, 0, 0, MSG_MORE))))
        return [
            *ops,
            ("get", 0, SOL_IP, 14),
            ("get", 0, SOL_IPV6, 24),
            ("recv", 0, 50, MSG_ERRQUEUE),
        ]

    def many(self) -> list[Op]:
        """Groups and broadcasts."""
        r = self.r
        ops: list[Op] = []
        for i in range(len(self.families)):
            for level, name in ((SOL_IP, 35), (SOL_IPV6, 20)):
                if r.random() < 0.6:
                    ops.append(("set", i, level, name, RARE[level, name][0]))
            if r.random() < 0.5:
                ops.append(("set", i, SOL_SOCKET, 6, ints(1)))
        ops.append(("set", 0, SOL_IP, 32, RARE[SOL_IP, 32][0]))
        for _ in range(r.randint(1, 3)):
            host = r.choice(("group", "group", "mgroup", "bcast", "limited"))
            port = r.choice((*PORTS, ("of", 0), ("of", 1)))
            ops.append(("send", self.who(), r.choice(_SMALL), 0, (host, port), ()))
            if self.wire:
                plant = (("dst", r.choice(("group", "group", "bcast"))),)
                ops.append(("dgram", 5, PEER_PORTS[0], r.choice((("of", 0), ("of", 1))), plant))
        return [*ops, ("recv", 0, 100, 0)]

    def fragments(self) -> list[Op]:
        """A datagram in pieces, in some order, perhaps with pieces that do not fit."""
        r = self.r
        total, key = r.choice(_TOTALS), r.randint(1, 2)
        count = r.randint(1, min(3, total // 8 - 1))
        inner = (n * 8 for n in r.sample(range(1, total // 8), count))
        cuts = sorted((0, *inner, total))
        pieces = [[a, z, z < total] for a, z in pairwise(cuts)]
        for _ in range(r.choice((0, 0, 0, 1, 1, 2))):
            pieces.append(self._misfit([*r.choice(pieces)]))
        if r.random() < 0.6:
            r.shuffle(pieces)
        marks = (0,) if r.random() < 0.7 else (0, 1, 2, 3)
        found = [("frag", key, total, a, max(a, z), more, r.choice(marks)) for a, z, more in pieces]
        return [*found, ("recv", 0, 70000, 0)]

    def _misfit(self, piece: list[Any]) -> list[Any]:
        how = self.r.choice(("again", "left", "right", "short", "more", "last", "empty", "odd"))
        if how in ("left", "short"):
            piece[0] = max(0, piece[0] + (-8 if how == "left" else 8))
        elif how == "right":
            piece[1] += 8
        elif how in ("more", "last"):
            piece[2] = how == "more"
        elif how != "again":
            piece[1] = piece[0] if how == "empty" else piece[1] - 3
        return piece

    def crowded(self) -> list[Op]:
        """Fragments for which there is no room, and checksums that nobody needs."""
        r = self.r
        i = self.who()
        ops: list[Op] = [("set", i, SOL_SOCKET, 7, ints(0))]
        if r.random() < 0.3:
            ops = [("set", i, SOL_SOCKET, 11, ints(1)), ("set", i, SOL_UDP, 101, ints(1))]
        flags = r.choice((0, MSG_MORE, MSG_MORE))
        sizes = (1000, 8000, 20000) if flags else (100, 8000, 20000, 65507)
        ops += [self.sending(i, r.choice(sizes), flags) for _ in range(r.randint(2, 4))]
        return [*ops, self.sending(i, 100)]

    def damaged(self) -> list[Op]:
        """Datagrams with bad checksums, mostly at the head of the queue."""
        r = self.r
        plants: tuple[Any, ...] = ((("csum", 0x1234),), (("csum", 0x1234),), (("length", 2000),))
        ops: list[Op] = [("recv", 0, 2000, 0)] * r.choice((0, 2, 2))
        for _ in range(r.randint(1, 3)):
            length = r.choice((60, 500, 1472))
            ops.append(("dgram", length, PEER_PORTS[0], ("of", 0), r.choice(plants)))
        return [*ops, ("recv", 0, 2000, 0)]

    def addressed(self) -> list[Op]:
        """Where a datagram goes and comes from, by control messages."""
        r = self.r
        ops: list[Op] = []
        for level in r.choices((SOL_IP, SOL_IPV6), k=r.randint(2, 4)):
            host = self.host() if r.random() < 0.5 else r.choice(("mpeer", "mlo", "mus"))
            control = r.choice([message for message in CONTROLS if message[0] == level])
            ops.append(("send", self.who(), 5, 0, (host, self.port()), (control,)))
        return ops

    def theme(self) -> list[Op]:
        themes = [
            self.full, self.peeking, self.corked, self.corked, self.cut, self.cut, self.told,
            self.told, self.refused, self.narrow, self.many, self.many, self.crowded,
            self.addressed, self.addressed,
        ]  # fmt: skip
        return self.r.choice(themes + [self.fragments, self.damaged] * self.wire)()

    # -- programs ----------------------------------------------------------------------

    def beginning(self) -> list[Op]:
        r = self.r
        if self.wire:
            local: Op = ("bind", 0, "any", SERVER)
            connect: Op = ("connect", 0, self.facing, PEER_PORTS[0])
            return r.choice(([local], [local], [connect], [local, connect]))
        ops: list[Op] = []
        for i in range(len(self.families)):
            if r.random() < 0.3:
                name = r.choice((2, 15))
                ops.append(("set", i, SOL_SOCKET, name, ints(1)))
            if r.random() < 0.8:
                host = r.choice((*_LOCAL_HOSTS, *("any",) * 8, "us", "group"))
                ops.append(("bind", i, host, r.choice(PORTS)))
        if r.random() < 0.4:
            ops.append(("connect", 0, "lo", ("of", 1)))
        return ops

    def body(self) -> list[Op]:
        r = self.r
        length = r.randint(8, 26)
        ops: list[Op] = []
        while len(ops) < length:
            if r.random() < 0.12:
                for op in self.theme():
                    ops.append(op)
                    if r.random() < 0.15:
                        ops.append(self.step())
            else:
                ops.append(self.step())
        return ops


def draw_program(seed: int, number: int) -> Program:
    r = Random(f"{seed}/{number}")
    wire = r.random() < 0.5
    if wire:
        own, peer = r.choice(((AF4, AF4), (AF4, AF4), (AF6, AF6), (AF6, AF6), (AF6, AF4)))
        families: tuple[int, ...] = (own, own)
    else:
        families = tuple(r.choice((AF4, AF6)) for _ in range(3))
        peer = r.choice((AF4, AF6))
    drawer = Drawer(r, families, peer, wire)
    steps = (*drawer.beginning(), *drawer.body())
    return Program((("families", families), ("peer", peer)), steps)


def draw_programs(count: int, seed: int) -> list[Program]:
    """Always the same for one `seed`."""
    return [draw_program(seed, number) for number in range(count)]
