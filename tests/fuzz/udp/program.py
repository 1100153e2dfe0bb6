"""The language of random UDP programs: sockets of one host, and a peer on its TUN.

A program is a setup (the family of each socket, the family that the peer speaks) and a list
of steps. There is no time: UDP has no timers, and what a step causes has happened before the
next. Every operation means something in every state, so any sublist of a program is a
program: that is what shrinking stands on.

Calls, by socket i of the setup              The peer
  bind i host port, connect i host port       dgram n sport dport plant
  unspec i (connect to AF_UNSPEC)             frag key total start end more tos
  send i n flags to control                   icmp type code rest back cut
  recv i n flags                              ping n, proto number
  set i level name value, get i level name
  shutdown i how, renew i (close, and another like it)

A host is a name out of `HOSTS`, which says the address for a socket of either family. A port
is a number or ("of", j), the port of socket j.
"""

from __future__ import annotations

import socket
import struct
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.fuzz.program import ints
from tests.sockets.parity.trial import (
    LOCAL4,
    LOCAL6,
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

AF4, AF6 = int(socket.AF_INET), int(socket.AF_INET6)
DONTROUTE, PROBE, CONFIRM = 4, 0x10, 0x800
LO_IFINDEX, TUN_IFINDEX = 1, 2
SERVER = 7000  # the ports that programs name
PORTS = (SERVER, 7001, 7002)
PEER_PORTS = (9000, 9001)
GROUP4, GROUP6 = "239.1.2.3", "ff15::123"
PEER = "peer"  # stands for an address that no program before has used

Op = tuple[Any, ...]

# name: (for an IPv4 socket, for an IPv6 socket); those with an m are mapped there
HOSTS = {
    "lo": ("127.0.0.1", "::1"), "mlo": ("127.0.0.1", "::ffff:127.0.0.1"),
    "lo2": ("127.0.0.2", "::ffff:127.0.0.2"),
    "any": ("0.0.0.0", "::"), "many": ("0.0.0.0", "::ffff:0.0.0.0"),
    "us": (LOCAL4, LOCAL6), "mus": (LOCAL4, f"::ffff:{LOCAL4}"),
    "peer": (PEER, PEER), "mpeer": (PEER, f"::ffff:{PEER}"),
    "bcast": ("10.9.0.255", "::ffff:10.9.0.255"),
    "limited": ("255.255.255.255", "::ffff:255.255.255.255"),
    "group": (GROUP4, GROUP6), "mgroup": (GROUP4, f"::ffff:{GROUP4}"),
    "off": ("8.8.8.8", "2001:db8::1"), "moff": ("8.8.8.8", "::ffff:8.8.8.8"),
}  # fmt: skip


class Program(NamedTuple):
    """What Hypothesis draws. `setup` is (name, value) pairs: "families" of the sockets, and
    "peer", the family of the peer."""

    setup: tuple[tuple[str, Any], ...]
    steps: tuple[Op, ...]

    def __str__(self) -> str:
        lines = ["Program(", f"    {self.setup!r},", "    ("]
        lines += [f"        {step!r}," for step in self.steps]
        return "\n".join([*lines, "    ),", ")"])


# -- options ---------------------------------------------------------------------------------

_SWITCH = (ints(0), ints(1), ints(1))
_IN4, _IN6 = socket.inet_aton, lambda text: socket.inet_pton(socket.AF_INET6, text)
_ANY4 = bytes(4)
# with RX_SOFTWARE: without it a kernel tells the times that other processes have asked for
_STAMPS = tuple(map(ints, (0, 0x18, 0x1A, 0x9A, 0x89A, 0x1FF)))

# (level, name): values
COMMON: dict[tuple[int, int], tuple[bytes, ...]] = {
    (SOL_SOCKET, 2): _SWITCH,  # SO_REUSEADDR
    (SOL_SOCKET, 6): _SWITCH,  # SO_BROADCAST
    (SOL_SOCKET, 7): tuple(map(ints, (0, 2000, 5000, 30000, 200000))),  # SO_SNDBUF
    (SOL_SOCKET, 8): tuple(map(ints, (0, 2000, 5000, 30000, 200000))),  # SO_RCVBUF
    (SOL_SOCKET, 42): tuple(map(ints, (-1, 0, 0, 3, 700))),  # SO_PEEK_OFF
    (SOL_UDP, 1): (ints(0), ints(0), ints(1)),  # UDP_CORK
    (SOL_IP, 11): _SWITCH,  # IP_RECVERR
    (SOL_IPV6, 25): _SWITCH,  # IPV6_RECVERR
}
RARE: dict[tuple[int, int], tuple[bytes, ...]] = {
    (SOL_SOCKET, 5): _SWITCH,  # SO_DONTROUTE
    (SOL_SOCKET, 11): _SWITCH,  # SO_NO_CHECK
    (SOL_SOCKET, 15): _SWITCH,  # SO_REUSEPORT
    (SOL_SOCKET, 18): tuple(map(ints, (1, 100))),  # SO_RCVLOWAT
    (SOL_SOCKET, 25): (b"lo\0", b"tun0\0", b"\0"),  # SO_BINDTODEVICE
    (SOL_SOCKET, 29): _SWITCH,  # SO_TIMESTAMP
    (SOL_SOCKET, 35): _SWITCH,  # SO_TIMESTAMPNS
    (SOL_SOCKET, 37): _STAMPS,  # SO_TIMESTAMPING
    (SOL_SOCKET, 40): _SWITCH,  # SO_RXQ_OVFL
    (SOL_SOCKET, 45): _SWITCH,  # SO_SELECT_ERR_QUEUE
    (SOL_IP, 1): tuple(map(ints, (0, 0x28, 3))),  # IP_TOS
    (SOL_IP, 2): tuple(map(ints, (-1, 1, 9, 0))),  # IP_TTL
    (SOL_IP, 8): _SWITCH,  # IP_PKTINFO
    (SOL_IP, 10): tuple(map(ints, range(7))),  # IP_MTU_DISCOVER
    (SOL_IP, 12): _SWITCH,  # IP_RECVTTL
    (SOL_IP, 13): _SWITCH,  # IP_RECVTOS
    (SOL_IP, 15): _SWITCH,  # IP_FREEBIND
    (SOL_IP, 20): _SWITCH,  # IP_RECVORIGDSTADDR
    (SOL_IP, 32): (_IN4(LOCAL4), _ANY4, _ANY4 + _IN4("127.0.0.1")),  # IP_MULTICAST_IF
    (SOL_IP, 33): tuple(map(ints, (0, 1, 5))),  # IP_MULTICAST_TTL
    (SOL_IP, 34): _SWITCH,  # IP_MULTICAST_LOOP
    (SOL_IP, 35): (_IN4(GROUP4) + _IN4(LOCAL4), _IN4(GROUP4) + _ANY4),  # IP_ADD_MEMBERSHIP
    (SOL_IP, 36): (_IN4(GROUP4) + _IN4(LOCAL4), _IN4(GROUP4) + _ANY4),  # IP_DROP_MEMBERSHIP
    (SOL_IP, 49): _SWITCH,  # IP_MULTICAST_ALL
    (SOL_IPV6, 16): tuple(map(ints, (-1, 0, 1, 9))),  # IPV6_UNICAST_HOPS
    (SOL_IPV6, 17): tuple(map(ints, (0, LO_IFINDEX, TUN_IFINDEX))),  # IPV6_MULTICAST_IF
    (SOL_IPV6, 18): tuple(map(ints, (-1, 0, 5))),  # IPV6_MULTICAST_HOPS
    (SOL_IPV6, 19): _SWITCH,  # IPV6_MULTICAST_LOOP
    (SOL_IPV6, 20): (_IN6(GROUP6) + ints(TUN_IFINDEX), _IN6(GROUP6) + ints(0)),  # JOIN_GROUP
    (SOL_IPV6, 21): (_IN6(GROUP6) + ints(TUN_IFINDEX), _IN6(GROUP6) + ints(0)),  # LEAVE_GROUP
    (SOL_IPV6, 23): tuple(map(ints, range(7))),  # IPV6_MTU_DISCOVER
    (SOL_IPV6, 24): tuple(map(ints, (0, 1000, 1280, 1400))),  # IPV6_MTU
    (SOL_IPV6, 26): _SWITCH,  # IPV6_V6ONLY
    (SOL_IPV6, 29): _SWITCH,  # IPV6_MULTICAST_ALL
    (SOL_IPV6, 49): _SWITCH,  # IPV6_RECVPKTINFO
    (SOL_IPV6, 51): _SWITCH,  # IPV6_RECVHOPLIMIT
    (SOL_IPV6, 62): _SWITCH,  # IPV6_DONTFRAG
    (SOL_IPV6, 66): _SWITCH,  # IPV6_RECVTCLASS
    (SOL_IPV6, 67): tuple(map(ints, (-1, 0, 0x28))),  # IPV6_TCLASS
    (SOL_IPV6, 74): _SWITCH,  # IPV6_RECVORIGDSTADDR
    (SOL_UDP, 101): _SWITCH,  # UDP_NO_CHECK6_TX
    (SOL_UDP, 102): _SWITCH,  # UDP_NO_CHECK6_RX
    (SOL_UDP, 103): tuple(map(ints, (0, 1, 100, 500, 1400, 1473))),  # UDP_SEGMENT
    (SOL_UDP, 104): _SWITCH,  # UDP_GRO
}
READABLE = (
    *((SOL_SOCKET, name) for name in (4, 4, 4, 7, 8, 42)),
    *((SOL_IP, name) for name in (1, 2, 10, 14, 14)),
    *((SOL_IPV6, name) for name in (16, 23, 24, 24, 26)),
    *((SOL_UDP, name) for name in (1, 103)),
)


def _pktinfo(text: str, ifindex: int) -> bytes:
    return struct.pack("i", ifindex) + _IN4(text) + bytes(4)


CONTROLS = (
    (SOL_IP, 2, ints(5)), (SOL_IP, 2, ints(0)),  # IP_TTL
    (SOL_IP, 1, ints(0x28)), (SOL_IP, 1, b"\x10"),  # IP_TOS
    *((SOL_IP, 8, _pktinfo(text, i)) for text, i in (
        (LOCAL4, 0), ("127.0.0.1", 0), ("0.0.0.0", TUN_IFINDEX), ("0.0.0.0", LO_IFINDEX),
        ("8.8.8.8", 0), (LOCAL4, TUN_IFINDEX),
    )),
    (SOL_IP, 99, ints(1)),
    (SOL_IPV6, 52, ints(5)), (SOL_IPV6, 52, ints(-1)),  # IPV6_HOPLIMIT
    (SOL_IPV6, 67, ints(0x28)),  # IPV6_TCLASS
    (SOL_IPV6, 62, ints(1)), (SOL_IPV6, 62, ints(0)),  # IPV6_DONTFRAG
    *((SOL_IPV6, 50, _IN6(text) + ints(i)) for text, i in (
        (LOCAL6, 0), ("::1", 0), ("::", TUN_IFINDEX), ("2001:db8::1", 0), (f"::ffff:{LOCAL4}", 0),
    )),
    *((SOL_UDP, 103, struct.pack("H", size)) for size in (0, 100, 700, 1400)),  # UDP_SEGMENT
    (SOL_SOCKET, 37, ints(2)), (SOL_SOCKET, 36, ints(0)),  # SO_TIMESTAMPING, SO_MARK
)  # fmt: skip

# -- calls -----------------------------------------------------------------------------------

_SIZES = (0, 0, 1, 5, 100, 600, 1000, 1400, 1452, 1453, 1472, 1473, 3000, 8000, 20000, 65507,
          65508, 65527, 65528, 70000)  # fmt: skip
_SMALL = (0, 1, 1, 5, 100, 100, 600, 1000, 1400)
_SEND_FLAGS = (0,) * 12 + (MSG_MORE,) * 5 + (
    MSG_OOB, MSG_DONTWAIT, MSG_EOR, DONTROUTE, PROBE, CONFIRM, PROBE | CONFIRM, MSG_MORE | PROBE,
)  # fmt: skip
_RECV_SIZES = (0, 1, 4, 50, 700, 2000, 70000, 70000)
_RECV_FLAGS = (0,) * 8 + (
    MSG_PEEK, MSG_PEEK, MSG_TRUNC, MSG_PEEK | MSG_TRUNC, MSG_WAITALL, MSG_DONTWAIT, MSG_OOB,
    *(MSG_ERRQUEUE,) * 4, MSG_ERRQUEUE | MSG_PEEK, MSG_ERRQUEUE | MSG_TRUNC,
)  # fmt: skip
_LOCAL_HOSTS = ("lo",) * 8 + ("mlo", "mlo", "lo2", "any", "any", "many", "us", "us", "mus")
_STRANGE_HOSTS = ("bcast", "limited", "group", "group", "mgroup", "off", "moff", "peer", "mpeer")

_from = st.sampled_from


def _option(*tables: dict[tuple[int, int], tuple[bytes, ...]]) -> st.SearchStrategy[Op]:
    pairs = [(*key, value) for table in tables for key, values in table.items() for value in values]
    return _from(pairs)


def _ports(sockets: int) -> st.SearchStrategy[Any]:
    return st.one_of(_from(PORTS), _from(PORTS), _from([("of", j) for j in range(sockets)]))


def _some_control() -> st.SearchStrategy[Op]:
    one = st.lists(_from(CONTROLS), min_size=1, max_size=2).map(tuple)
    return st.one_of(*[st.just(())] * 5, one)


def _calls(
    sockets: int, hosts: st.SearchStrategy[str], ports: st.SearchStrategy[Any]
) -> st.SearchStrategy[Op]:
    """Any call; what it names is out of `hosts` and `ports`."""
    who = st.integers(0, sockets - 1)
    just = st.just
    some_port = st.one_of(*[ports] * 9, just(0))
    local = st.one_of(_from(_LOCAL_HOSTS), _from(("any", "us", *_STRANGE_HOSTS)))
    to = st.one_of(just(None), st.tuples(hosts, some_port))
    size = st.one_of(_from(_SMALL), _from(_SMALL), _from(_SIZES))
    send = st.tuples(just("send"), who, size, _from(_SEND_FLAGS), to, _some_control())
    recv = st.tuples(just("recv"), who, _from(_RECV_SIZES), _from(_RECV_FLAGS))
    option = st.one_of(_option(COMMON), _option(RARE))
    change = st.builds(lambda i, o: ("set", i, *o), who, option)
    rare = st.one_of(
        st.tuples(just("bind"), who, local, st.one_of(_from(PORTS), _from((0, *PORTS)))),
        st.tuples(just("bind"), who, local, _from(PORTS)),
        st.tuples(just("unspec"), who),
        st.tuples(just("shutdown"), who, _from((0, 1, 2, 3))),
        st.tuples(just("renew"), who),
        st.builds(lambda i, o: ("get", i, *o), who, _from(READABLE)),
    )
    connect = st.tuples(just("connect"), who, hosts, some_port)
    return st.one_of(*[send] * 7, *[recv] * 4, *[change] * 3, connect, connect, rare, rare)


# -- programs among the sockets of one host --------------------------------------------------


def local_programs(length: int = 28) -> st.SearchStrategy[Program]:
    """Several sockets that talk to one another: over loopback, by broadcast, in a group."""
    sockets = 3
    hosts = st.one_of(*[_from(_LOCAL_HOSTS)] * 4, _from(_STRANGE_HOSTS))
    call = _calls(sockets, hosts, _ports(sockets))
    prepare = st.tuples(*[_prepared(i) for i in range(sockets)]).map(lambda found: sum(found, ()))
    body = st.lists(call, min_size=length // 2, max_size=length).map(tuple)
    family = _from((AF4, AF4, AF6))
    setup = st.tuples(
        st.tuples(st.just("families"), st.tuples(*[family] * sockets)),
        st.tuples(st.just("peer"), _from((AF4, AF6))),
    )
    return st.builds(lambda s, a, b: Program(s, a + b), setup, prepare, body)


def _prepared(i: int) -> st.SearchStrategy[tuple[Op, ...]]:
    """What a socket begins with: perhaps an option, mostly a port."""
    option = st.builds(lambda o: (("set", i, *o),), st.one_of(_option(COMMON), _option(RARE)))
    host = st.one_of(_from(_LOCAL_HOSTS), _from(("any", "any", "us", "group")))
    bind = st.builds(lambda host, port: (("bind", i, host, port),), host, _from(PORTS))
    nothing: st.SearchStrategy[tuple[Op, ...]] = st.just(())
    return st.builds(lambda a, b: a + b, st.one_of(nothing, option), st.one_of(bind, bind, nothing))


# -- programs against a peer -----------------------------------------------------------------

_PLANTS: tuple[dict[str, Any], ...] = (
    *({},) * 12,
    {"csum": 0}, {"csum": 0x1234}, {"length": 8}, {"length": 7}, {"length": 0}, {"length": 2000},
    {"ttl": 1}, {"ttl": 0}, {"tos": 0x28}, {"tos": 3}, {"src": "stranger"}, {"src": "us"},
    {"src": "lo"}, {"src": "group"}, {"src": "any"}, {"dst": "bcast"}, {"dst": "limited"},
    {"dst": "group"}, {"dst": "group"}, {"dst": "lo"}, {"dst": "off"},
)  # fmt: skip
_UNREACH = tuple((3, code) for code in range(17))
_ERRORS4 = (*_UNREACH, (3, 3), (3, 3), (3, 4), (3, 4), (3, 4), (3, 4), (4, 0), (11, 0), (11, 1),
            (12, 0), (5, 1), (13, 0))  # fmt: skip
_ERRORS6 = (*((1, code) for code in range(8)), (1, 4), (1, 4), (2, 0), (2, 0), (2, 0), (3, 0),
            (3, 1), (4, 0), (4, 1), (4, 2), (5, 0), (100, 0))  # fmt: skip
_RESTS = (0, 0, 68, 300, 552, 600, 1000, 1279, 1280, 1300, 1400, 1499, 1500, 9000, 5 << 24)
_LENGTHS = (0, 1, 5, 100, 500, 1000, 1472, 4000)
_TOTALS = (16, 48, 400, 1480, 3000, 3960)


def _frozen(plant: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(plant.items())


@st.composite
def fragments(draw: Any) -> tuple[Op, ...]:
    """A datagram in pieces, in some order, perhaps with pieces that do not fit."""
    total, key = draw(_from(_TOTALS)), draw(st.integers(1, 2))
    inner = st.integers(1, total // 8 - 1).map(lambda n: n * 8)
    cuts = sorted({0, *draw(st.lists(inner, min_size=1, max_size=3)), total})
    pieces = [[a, z, z < total] for a, z in pairwise(cuts)]
    for _ in range(draw(_from((0, 0, 0, 1, 1, 2)))):
        piece = [*draw(_from(pieces))]
        how = draw(_from(("again", "left", "right", "short", "more", "last", "empty", "odd")))
        if how in ("left", "short"):
            piece[0] = max(0, piece[0] + (-8 if how == "left" else 8))
        elif how == "right":
            piece[1] += 8
        elif how in ("more", "last"):
            piece[2] = how == "more"
        elif how != "again":
            piece[1] = piece[0] if how == "empty" else piece[1] - 3
        pieces.append(piece)
    order = draw(st.one_of(st.just(pieces), st.permutations(pieces)))
    tos = draw(st.lists(_from((0,) * 7 + (1, 2, 3)), min_size=len(order), max_size=len(order)))
    marked = zip(order, tos, strict=True)
    return tuple(("frag", key, total, a, max(a, z), more, t) for (a, z, more), t in marked)


def _peer(sockets: int, family: int) -> st.SearchStrategy[tuple[Op, ...]]:
    just = st.just
    dport = st.one_of(*[_from([("of", j) for j in range(sockets)])] * 4, _from((SERVER, 7009)))
    dgram = st.tuples(
        just("dgram"), _from(_LENGTHS), _from((*PEER_PORTS[:1] * 4, PEER_PORTS[1])), dport,
        _from(_PLANTS).map(_frozen),
    )  # fmt: skip
    error = st.builds(
        lambda what, rest, back, cut: ("icmp", *what, rest, back, cut),
        _from(_ERRORS4 if family == AF4 else _ERRORS6), _from(_RESTS), _from((0, 0, 0, 0, 1, 2)),
        _from((576, 576, 576, 576, 36, 28, 27, 60, 48)),
    )  # fmt: skip
    other = st.one_of(
        st.tuples(just("ping"), _from(_LENGTHS)), st.tuples(just("proto"), _from((3, 60, 132)))
    )
    one = st.one_of(*[dgram] * 6, *[error] * 4, other).map(lambda op: (op,))
    return st.one_of(*[one] * 6, fragments())


def wire_programs(length: int = 22) -> st.SearchStrategy[Program]:
    """One socket, and a second one that is seldom used, that face the peer."""
    return _from(((AF4, AF4), (AF4, AF4), (AF6, AF6), (AF6, AF4))).flatmap(
        lambda families: _wire(*families, length)
    )


def _wire(family: int, peer: int, length: int) -> st.SearchStrategy[Program]:
    sockets = 2
    facing = "peer" if family == peer else "mpeer"
    hosts = st.one_of(*[st.just(facing)] * 12, _from(_STRANGE_HOSTS), _from(_LOCAL_HOSTS))
    ports = _from((*PEER_PORTS[:1] * 5, PEER_PORTS[1]))
    call = _calls(1, hosts, ports).map(lambda op: (op,))
    second = _calls(sockets, hosts, ports).map(lambda op: (op,))
    step = st.one_of(*[call] * 5, second, *[_peer(sockets, peer)] * 6)
    body = st.lists(step, min_size=length // 2, max_size=length)
    local = st.just((("bind", 0, "any", SERVER),))
    connect = st.just((("connect", 0, facing, PEER_PORTS[0]),))
    begin = st.one_of(local, local, connect, st.builds(lambda a, b: a + b, local, connect))
    setup = (("families", (family, family)), ("peer", peer))
    return st.builds(lambda first, rest: Program(setup, first + sum(rest, ())), begin, body)


def programs() -> st.SearchStrategy[Program]:
    """Programs of both kinds."""
    return st.one_of(local_programs(), wire_programs())


def plainer(program: Program) -> list[Program]:
    """`program` with one thing of its setup as usual."""
    found = []
    setup = dict(program.setup)
    for i, family in enumerate(setup["families"]):
        if family != AF4:
            changed = (*setup["families"][:i], AF4, *setup["families"][i + 1 :])
            found.append(program._replace(setup=(("families", changed), ("peer", setup["peer"]))))
    if setup["peer"] != AF4:
        found.append(program._replace(setup=(("families", setup["families"]), ("peer", AF4))))
    return found
