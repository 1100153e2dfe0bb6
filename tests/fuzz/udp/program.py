"""The language of random UDP programs: sockets of one host, and a peer on its TUN.

A program (`draw`) is a setup (the family of each socket, the family that the peer speaks) and a
list of steps. There is no time: UDP has no timers, and what a step causes has happened before the
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
from typing import Any, NamedTuple

from tests.fuzz.program import ints
from tests.sockets.parity.trial import (
    LOCAL4,
    LOCAL6,
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
    """`setup` is (name, value) pairs: "families" of the sockets, and
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
        ("::ffff:0.0.0.0", TUN_IFINDEX),
    )),
    *((SOL_UDP, 103, struct.pack("H", size)) for size in (0, 100, 700, 1400)),  # UDP_SEGMENT
    (SOL_SOCKET, 37, ints(2)), (SOL_SOCKET, 36, ints(0)),  # SO_TIMESTAMPING, SO_MARK
)  # fmt: skip


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
