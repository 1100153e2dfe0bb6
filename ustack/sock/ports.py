"""The local ports of one protocol: who holds which, and who may join.

Problem: three callers want ports under three rules. `bind` takes a named port unless it
conflicts with an owner; bind to port 0 takes a port that nobody holds in a conflicting
way; `connect` takes any port whose 4-tuple is free, sharing it with other connections
but never with a bound socket.

Structure: a bucket for each port in use, holding its owners in the order they came:
sockets, accepted children of a listener, TIME_WAIT entries. Each owner is marked with how
it came (by bind, or by connect); a bucket with no bound owner may be shared by connect
without a look at its owners, so that connecting costs the same with ten or with fifty
thousand ports in use. Searches for connect start at a point that is hashed from the
destination with a secret and moves on with each success (RFC 6056, algorithm 4), through
the ports of the low end's parity, then the others; bind to port 0 starts with the other
parity, so that the two seldom meet. UDP's bind to port 0 has no parity. Where Linux scans
all of one parity before the other, this looks at the nearest 128 ports of both first: a
host with one parity used up would else look at 14,000 ports for every connection.

Conflict: same port, overlapping device, overlapping address (equal, or one is the
wildcard; an IPv6 wildcard covers IPv4 unless v6only), and no sharing agreement. The
agreement is, for TCP: both REUSEADDR and the other not listening, or both REUSEPORT; for
UDP: both REUSEADDR, or both REUSEPORT; of those in its way a socket that binds to a port by
name asks the newest only. All sockets of a stack have one user.

Limits: a port has as many owners as its protocol makes; the tables above bound those.

Sources: Linux `inet_csk_get_port`, `inet_bind_conflict`, `inet_csk_find_open_port`,
`__inet_hash_connect`, `udp_lib_get_port`, `inet_rcv_saddr_equal`; RFC 6056.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL
from hashlib import blake2s
from typing import Protocol

from ustack.sock.addr import ANY4
from ustack.sock.errors import error
from ustack.sock.net import Net
from ustack.wire.packet import IPPROTO_UDP

_AF_INET6 = 10
_PERTURB_SIZE = 256
_NEAR = 128


class PortOwner(Protocol):
    """What can hold a port: a socket or a TIME_WAIT entry."""

    sport: int
    rcv_saddr: bytes

    @property
    def family(self) -> int: ...
    @property
    def bindtodevice(self) -> int: ...
    @property
    def reuse(self) -> bool: ...
    @property
    def reuseport(self) -> bool: ...
    @property
    def v6only(self) -> bool: ...
    @property
    def listening(self) -> bool: ...


class PortSeeker(PortOwner, Protocol):
    """A socket that wants a port. `port_range`: IP_LOCAL_PORT_RANGE, high << 16 | low, each 0
    where the host's own bound holds."""

    @property
    def port_range(self) -> int: ...


class PortClient(PortSeeker, Protocol):
    """A socket about to connect: its 4-tuple, but for the port, is known."""

    @property
    def saddr(self) -> bytes: ...
    @property
    def daddr(self) -> bytes: ...
    @property
    def dport(self) -> int: ...


class Bucket:
    """The owners of one port: owner -> True if it came by bind."""

    __slots__ = ("bound", "owners")

    def __init__(self) -> None:
        self.owners: dict[PortOwner, bool] = {}
        self.bound = 0  # owners that came by bind

    def add(self, owner: PortOwner, bound: bool) -> None:
        self.remove(owner)
        self.owners[owner] = bound
        self.bound += bound

    def remove(self, owner: PortOwner) -> None:
        """Take `owner` out; no error if it is not in."""
        self.bound -= self.owners.pop(owner, False)


def addr_overlap(a: PortOwner, b: PortOwner) -> bool:
    """Could one packet be for both (Linux: `inet_rcv_saddr_equal`, wildcards matching)?"""
    if a.rcv_saddr:
        if b.rcv_saddr:
            if a.rcv_saddr == b.rcv_saddr:
                return True
            v4 = len(a.rcv_saddr) == len(b.rcv_saddr) == 4
            return v4 and ANY4 in (a.rcv_saddr, b.rcv_saddr)
        return _wildcard_covers(b, len(a.rcv_saddr) == 16)
    if b.rcv_saddr:
        if a.family != _AF_INET6 and len(b.rcv_saddr) == 16:  # it has that from a connect
            return not b.v6only
        return _wildcard_covers(a, len(b.rcv_saddr) == 16)
    return _wildcard_covers(a, b.family == _AF_INET6) or _wildcard_covers(b, a.family == _AF_INET6)


def _wildcard_covers(owner: PortOwner, v6: bool) -> bool:
    """Does the wildcard address of `owner` cover addresses of that family?"""
    if owner.family == _AF_INET6:
        return v6 or not owner.v6only
    return not v6


class PortTable:
    """The ports of one protocol on one host. `kind` is IPPROTO_TCP or IPPROTO_UDP."""

    __slots__ = ("_buckets", "_net", "_perturb", "_rng", "_secret", "_udp")

    def __init__(self, net: Net, kind: int) -> None:
        self._net = net
        self._udp = kind == IPPROTO_UDP
        self._buckets: dict[int, Bucket] = {}
        self._rng = net.seeds.stream(f"ports/{kind}")
        self._secret = self._rng.getrandbits(128).to_bytes(16, "big")
        self._perturb = [0] * _PERTURB_SIZE

    def __len__(self) -> int:
        """The number of ports in use."""
        return len(self._buckets)

    def owners(self, port: int) -> Iterable[PortOwner]:
        """Who holds `port`, in the order they came."""
        bucket = self._buckets.get(port)
        return bucket.owners if bucket else ()

    # -- bind -------------------------------------------------------------------------

    def bind(self, sk: PortSeeker, addr: bytes, port: int) -> None:
        """Give `port` (0: any) at `addr` (b"" is the wildcard) to `sk`: sets `sport` and
        `rcv_saddr`, or raises EADDRINUSE or EACCES and changes neither."""
        if port and port < self._net.sysctl.ip_unprivileged_port_start:
            raise error(EACCES)
        before = sk.rcv_saddr
        sk.rcv_saddr = addr
        if port:
            usable = not (self._udp_conflict if self._udp else self._conflict)(sk, port)
        else:
            port = self._open_port(sk)
            usable = port != 0
        if not usable:
            sk.rcv_saddr = before
            raise error(EADDRINUSE)
        self._bucket(port).add(sk, True)
        sk.sport = port

    def rebind_check(self, sk: PortOwner) -> None:
        """EADDRINUSE if `sk`, bound already, may not become a listener (C-1)."""
        if self._conflict(sk, sk.sport):
            raise error(EADDRINUSE)

    def inherit(self, owner: PortOwner, parent: PortOwner) -> None:
        """Put `owner` beside `parent` on its port, unchecked: the accepted child of a
        listener, the TIME_WAIT entry of a socket (Linux: `__inet_inherit_port`)."""
        bucket = self._bucket(parent.sport)
        bucket.add(owner, bucket.owners.get(parent, True))

    def release(self, sk: PortOwner) -> None:
        """Give back the port of `sk`, if it holds one. `sport` is left as it is."""
        bucket = self._buckets.get(sk.sport)
        if bucket is not None:
            bucket.remove(sk)
            if not bucket.owners:
                del self._buckets[sk.sport]

    def _bucket(self, port: int) -> Bucket:
        bucket = self._buckets.get(port)
        if bucket is None:
            bucket = self._buckets[port] = Bucket()
        return bucket

    def _conflict(self, sk: PortOwner, port: int, strict: bool = False) -> bool:
        """`strict`: for bind to port 0, which shares a TCP port with no other owner."""
        bucket = self._buckets.get(port)
        if bucket is None:
            return False
        for other in bucket.owners:
            if (
                other is not sk
                and not self._agree(sk, other, strict)
                and _device_overlap(sk, other)
                and addr_overlap(sk, other)
            ):
                return True
        return False

    def _udp_conflict(self, sk: PortOwner, port: int) -> bool:
        """For a port that is named: the newest owner in the way decides alone, so a socket that
        shares with it does so with all before it (Linux: `udp_lib_lport_inuse`)."""
        bucket = self._buckets.get(port)
        for other in _newest_first(bucket.owners) if bucket is not None else ():
            if other is sk or (sk.reuse and other.reuse):
                continue
            if _device_overlap(sk, other) and addr_overlap(sk, other):
                return not (sk.reuseport and other.reuseport)
        return False

    def _agree(self, sk: PortOwner, other: PortOwner, strict: bool) -> bool:
        """Do both sides consent to share (Linux: `inet_bind_conflict`)?"""
        if self._udp:
            return (sk.reuse and other.reuse) or (sk.reuseport and other.reuseport)
        if strict:
            return False
        if sk.reuse and other.reuse and not other.listening:
            return True
        return sk.reuseport and other.reuseport

    def _range(self, sk: PortSeeker) -> tuple[int, int]:
        """The ports to choose from: the socket's bounds where they are within the host's
        (Linux: `inet_sk_get_local_port_range`)."""
        low, high = self._net.sysctl.ip_local_port_range
        wanted = sk.port_range
        if wanted:
            first, last = wanted & 0xFFFF, wanted >> 16
            low = first if low <= first <= high else low
            high = last if low <= last <= high else high
        return low, high

    def _open_port(self, sk: PortSeeker) -> int:
        """A port for bind to port 0, 0 if there is none."""
        low, high = self._range(sk)
        if self._udp:
            return self._udp_open_port(sk, low, high + 1 - low)
        if not sk.reuse:
            return self._scan_odd(sk, low, high + 1)
        half = low + ((high + 1 - low >> 2) << 1)  # REUSEADDR: keep to one half first
        return self._scan_odd(sk, low, half) or self._scan_odd(sk, half, high + 1)

    def _scan_odd(self, sk: PortOwner, low: int, high: int) -> int:
        """Search [low, high): the other parity than `low` first."""
        remaining = high - low
        if remaining > 1:
            remaining &= ~1
        if remaining <= 0:
            return 0
        start = self._rng.randrange(0, remaining) | 1
        for first in (start, start - 1):
            for i in range(0, remaining, 2):
                port = low + (first + i) % remaining
                if port not in self._buckets or not self._conflict(sk, port, strict=True):
                    return port
        return 0

    def _udp_open_port(self, sk: PortOwner, low: int, remaining: int) -> int:
        start = self._rng.randrange(0, remaining)
        for i in range(remaining):
            port = low + (start + i) % remaining
            if port not in self._buckets or not self._conflict(sk, port):
                return port
        return 0

    # -- connect ------------------------------------------------------------------------

    def connect_port(self, sk: PortClient, is_unique: Callable[[int], bool]) -> int:
        """Find a port for a connection of `sk`, and register it: sets and returns `sport`.

        `is_unique(port)`: no other socket has the 4-tuple that `sk` would get with it.
        EADDRNOTAVAIL if there is none.
        """
        low, high = self._range(sk)
        remaining = high + 1 - low
        if remaining > 1 and not sk.port_range:
            remaining &= ~1
        index, base = self._hashed_start(sk)
        offset = (base + self._perturb[index]) % remaining & ~1
        near = min(remaining, _NEAR)
        for parity, first, end in (
            (0, 0, near), (1, 0, near), (0, near, remaining), (1, near, remaining),
        ):  # fmt: skip
            i = self._scan_shared(is_unique, low, offset + parity, first, end, remaining)
            if i >= 0:
                port = low + (offset + parity + i) % remaining
                if not i and not self._rng.getrandbits(4):
                    i = 2  # noise: the next port cannot be told from this one
                self._perturb[index] += i + 2
                self._bucket(port).add(sk, False)
                sk.sport = port
                return port
        raise error(EADDRNOTAVAIL)

    def _scan_shared(
        self,
        is_unique: Callable[[int], bool],
        low: int,
        offset: int,
        first: int,
        end: int,
        remaining: int,
    ) -> int:
        """The first i of range(first, end, 2) whose port connect may use, -1 if none."""
        buckets = self._buckets
        for i in range(first, end, 2):
            port = low + (offset + i) % remaining
            bucket = buckets.get(port)
            if bucket is None or (not bucket.bound and is_unique(port)):
                return i
        return -1

    def _hashed_start(self, sk: PortClient) -> tuple[int, int]:
        """Which perturbation cell, and where to start, for this destination."""
        tuple3 = sk.saddr + sk.daddr + sk.dport.to_bytes(2, "big")
        digest = blake2s(tuple3, key=self._secret, digest_size=8).digest()
        return digest[0], int.from_bytes(digest[1:], "big")


def _newest_first(owners: dict[PortOwner, bool]) -> list[PortOwner]:
    """But IPv6 sockets with SO_REUSEPORT after all others, in the order they came (Linux:
    `sk_add_node_rcu`)."""
    last = [o for o in owners if o.reuseport and o.family == _AF_INET6]
    return [o for o in reversed(owners) if not (o.reuseport and o.family == _AF_INET6)] + last


def _device_overlap(a: PortOwner, b: PortOwner) -> bool:
    return not a.bindtodevice or not b.bindtodevice or a.bindtodevice == b.bindtodevice
