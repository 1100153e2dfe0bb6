"""Addresses, routes and path MTUs of one host.

Problem: which addresses are this host's, through which device and from which source
address does a packet leave, and how large may it be.

Structure. `local` maps every address of ours to its kind, `prefixes` are the AnyIP
prefixes (Linux: `ip route add local 10.99.0.0/16 dev lo`), checked where `local` has no
answer. Routes of a family are one list, longest prefix first, older first: hosts have a
handful. What a lookup found is cached as a `Dst` for each destination, which sockets
share and keep. Learned path MTUs are a table of their own, because they outlive the
Dsts (Linux: `fib_nh_exception`).

Invariants. A `Dst` in the cache is current; one that has left it is `obsolete`, so a
socket that keeps it asks again. Each cached Dst carries what the PMTU table says.

Limits. The cache and the PMTU table are bounded, the oldest entry goes first: a peer
that writes from many addresses costs lookups, not memory. Source selection is the part
of RFC 6724 that needs no policy table: the destination itself, scope, longest prefix.

Sources: Linux `ip_route_output_key_hash_rcu`, `inet_select_addr`, `__ip_rt_update_pmtu`,
`rt6_do_update_pmtu`; RFC 6724 section 5, RFC 8201, RFC 1191.
"""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EINVAL, ENETUNREACH

from ustack.sock.dst import Device, Dst
from ustack.sock.errors import error
from ustack.sock.sysctl import Sysctl
from ustack.wire.addr import (
    ANY4,
    ANY6,
    LOOPBACK4,
    LOOPBACK6,
    is_linklocal,
    is_multicast,
    network,
    prefix_match,
)
from ustack.wire.addr import BROADCAST as LIMITED
from ustack.wire.ipv6 import MIN_MTU

# Kinds of local destination; 0 is not local. Up to ANYIP they are addresses of this host.
# MULTICAST depends on the device (`ip.multicast`): only input has that kind.
UNICAST, LOOPBACK, ANYIP, BROADCAST, MULTICAST = 1, 2, 3, 4, 5

MAX_DSTS = 4096
MAX_PMTUS = 2048
_SECOND = 1_000_000_000


class Address:
    """One address of a device."""

    __slots__ = ("addr", "dev", "plen")

    def __init__(self, dev: Device, addr: bytes, plen: int) -> None:
        self.dev = dev
        self.addr = addr
        self.plen = plen


class Route:
    """One line of the routing table."""

    __slots__ = ("connected", "dev", "gateway", "net", "plen", "prefsrc")

    def __init__(
        self,
        net: bytes,
        plen: int,
        dev: Device,
        gateway: bytes | None = None,
        prefsrc: bytes | None = None,
        connected: bool = False,
    ) -> None:
        self.net = net
        self.plen = plen
        self.dev = dev
        self.gateway = gateway
        self.prefsrc = prefsrc
        self.connected = connected


class PathMtu:
    """A learned path MTU."""

    __slots__ = ("expires", "locked", "mtu")

    def __init__(self, mtu: int, expires: int, locked: bool) -> None:
        self.mtu = mtu
        self.expires = expires
        self.locked = locked


def common_bits(a: bytes, b: bytes) -> int:
    """How many leading bits two addresses share."""
    return len(a) * 8 - (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_length()


def scope6(addr: bytes) -> int:
    """RFC 4007 scope of an IPv6 address: 1 interface, 2 link, 5 site, 14 global."""
    if addr[0] == 0xFF:
        return addr[1] & 15
    if addr == LOOPBACK6:
        return 1
    if is_linklocal(addr):
        return 2
    return 5 if addr[0] == 0xFE and addr[1] & 0xC0 == 0xC0 else 14


class RouteTable:
    """The addresses, routes and path MTUs of one host."""

    __slots__ = (
        "_cache",
        "_pmtus",
        "_sysctl",
        "addresses",
        "devices",
        "generation",
        "local",
        "loopback",
        "pairs",
        "pairs_lo",
        "prefixes",
        "routes4",
        "routes6",
    )

    def __init__(self, loopback: Device, sysctl: Sysctl) -> None:
        self.loopback = loopback
        self.devices: list[Device] = []
        self.addresses: list[Address] = []
        self.local: dict[bytes, int] = {LOOPBACK6: LOOPBACK, LIMITED: BROADCAST}
        self.prefixes: list[tuple[bytes, int]] = []
        self.routes4: list[Route] = []
        self.routes6: list[Route] = []
        self.generation = 0
        # Input's memory of (source + destination) bytes that it has admitted, from devices
        # and from loopback: it holds for as long as the addresses do.
        self.pairs: dict[bytes, tuple[bytes, bytes]] = {}
        self.pairs_lo: dict[bytes, tuple[bytes, bytes]] = {}
        self._cache: dict[bytes | tuple[bytes, int], Dst] = {}
        self._pmtus: dict[bytes, PathMtu] = {}
        self._sysctl = sysctl

    # -- configuration -----------------------------------------------------------------

    def add_address(self, dev: Device, addr: bytes, plen: int) -> None:
        """Give `dev` an address and the connected route that comes with it. EINVAL for an
        address no host can have, or a second time."""
        if not 0 <= plen <= len(addr) * 8 or self.local.get(addr) or not _assignable(addr):
            raise error(EINVAL)
        self.addresses.append(Address(dev, addr, plen))
        self.add_route(network(addr, plen), plen, dev, prefsrc=addr, connected=True)
        self._rebuild_local()

    def del_address(self, addr: bytes) -> None:
        """Take an address away, with its connected route. EADDRNOTAVAIL if it is not ours."""
        for address in self.addresses:
            if address.addr == addr:
                self.addresses.remove(address)
                routes = self.routes4 if len(addr) == 4 else self.routes6
                routes[:] = [r for r in routes if not (r.connected and r.prefsrc == addr)]
                self._rebuild_local()
                return
        raise error(EADDRNOTAVAIL)

    def add_route(
        self,
        net: bytes,
        plen: int,
        dev: Device,
        gateway: bytes | None = None,
        prefsrc: bytes | None = None,
        connected: bool = False,
    ) -> None:
        """Send `net`/`plen` through `dev`. EINVAL if bits are set beyond the prefix."""
        if not 0 <= plen <= len(net) * 8 or network(net, plen) != net:
            raise error(EINVAL)
        routes = self.routes4 if len(net) == 4 else self.routes6
        routes.append(Route(net, plen, dev, gateway, prefsrc, connected))
        routes.sort(key=lambda route: -route.plen)  # stable: older first within a length
        self.invalidate()

    def del_route(self, net: bytes, plen: int) -> None:
        """Remove the oldest route to `net`/`plen`. EINVAL if there is none."""
        routes = self.routes4 if len(net) == 4 else self.routes6
        for route in routes:
            if route.net == net and route.plen == plen:
                routes.remove(route)
                self.invalidate()
                return
        raise error(EINVAL)

    def add_local_prefix(self, net: bytes, plen: int) -> None:
        """Make every address in `net`/`plen` an address of this host (AnyIP)."""
        if not 0 <= plen <= len(net) * 8 or network(net, plen) != net:
            raise error(EINVAL)
        self.prefixes.append((net, plen))
        self.invalidate()

    def del_local_prefix(self, net: bytes, plen: int) -> None:
        """EINVAL if it was never added."""
        if (net, plen) not in self.prefixes:
            raise error(EINVAL)
        self.prefixes.remove((net, plen))
        self.invalidate()

    def invalidate(self) -> None:
        """Addresses or routes have changed: whoever remembers a lookup must ask again."""
        self.generation += 1
        for dst in self._cache.values():
            dst.obsolete = True
        self._cache.clear()
        self.pairs.clear()
        self.pairs_lo.clear()

    def _rebuild_local(self) -> None:
        self.local.clear()
        self.local.update({LOOPBACK6: LOOPBACK, LIMITED: BROADCAST})
        for address in self.addresses:
            if len(address.addr) == 4 and address.plen < 31:
                ones = (1 << (32 - address.plen)) - 1
                net = int.from_bytes(network(address.addr, address.plen), "big")
                self.local[(net | ones).to_bytes(4, "big")] = BROADCAST
        for address in self.addresses:
            self.local[address.addr] = UNICAST
        self.invalidate()

    # -- lookups -----------------------------------------------------------------------

    def local_kind(self, addr: bytes) -> int:
        """UNICAST, LOOPBACK, ANYIP or BROADCAST, 0 if packets to `addr` are not for us."""
        kind = self.local.get(addr)
        if kind is not None:
            return kind
        if len(addr) == 4 and addr[0] == 127:
            return LOOPBACK
        for net, plen in self.prefixes:
            if prefix_match(addr, net, plen):
                return ANYIP
        return 0

    def is_local(self, addr: bytes) -> bool:
        """True for an address of this host: own, loopback or in an AnyIP prefix."""
        return 0 < self.local_kind(addr) <= ANYIP

    def is_ours(self, addr: bytes) -> bool:
        """Is this IPv4 address ours, or one of many hosts? (Linux: `inet_addr_type` is not
        RTN_UNICAST)"""
        if addr in (ANY4, LIMITED) or 224 <= addr[0] < 240:
            return True
        return self.local_kind(addr) != 0

    def lookup(self, daddr: bytes, oif: int = 0) -> Route | None:
        """The longest prefix that covers `daddr`, through device `oif` if given."""
        bits = len(daddr) * 8
        number = int.from_bytes(daddr, "big")
        for route in self.routes4 if bits == 32 else self.routes6:
            if (number ^ int.from_bytes(route.net, "big")) >> (bits - route.plen) == 0:
                if not oif or route.dev.ifindex == oif:
                    return route
        return None

    def route(self, daddr: bytes, saddr: bytes | None = None, oif: int = 0) -> Dst:
        """The path to `daddr` (Linux: `ip_route_output_key`). The wildcard address, or
        b"", is this host: `Dst.daddr` says which address that means. OSError ENETUNREACH,
        EINVAL for a `saddr` that is not ours, EADDRNOTAVAIL if there is no source."""
        if saddr and len(saddr) == 4 and self.local.get(saddr, 0) != UNICAST:
            if not self.is_local(saddr):
                raise error(EINVAL if _is_no_source(saddr) else ENETUNREACH)
        if saddr and not oif and daddr and (daddr == LIMITED or _is_multicast4(daddr)):
            oif = self.device_of(saddr)
        dst = self._cache.get((daddr, oif) if oif else daddr)
        if dst is None:
            if not any(daddr):
                if oif and not saddr and len(daddr) != 16:
                    return self.route(self._first_address(oif))
                return self.route(saddr or (LOOPBACK6 if len(daddr) == 16 else LOOPBACK4))
            dst = self._remember(daddr, oif, self._resolve(daddr, oif))
        if saddr and saddr[0] == 127 and len(saddr) == 4 and not dst.dev.loopback:
            raise error(EINVAL)  # nobody could answer (Linux: `__mkroute_output`)
        return dst

    def _remember(self, daddr: bytes, oif: int, dst: Dst) -> Dst:
        dst.daddr = daddr
        learned = self._pmtus.get(daddr)
        if learned is not None and not dst.dev.loopback:
            dst.pmtu, dst.pmtu_expires = learned.mtu, learned.expires
            dst.pmtu_locked = learned.locked
        if len(self._cache) >= MAX_DSTS:
            self._cache.pop(next(iter(self._cache))).obsolete = True
        self._cache[(daddr, oif) if oif else daddr] = dst
        return dst

    def _resolve(self, daddr: bytes, oif: int) -> Dst:
        version = 6 if len(daddr) == 16 else 4
        kind = self.local_kind(daddr)
        if kind and oif and self._elsewhere(daddr, oif):
            kind = 0
        if kind and kind != BROADCAST:
            own = LOOPBACK4 if daddr[0] == 127 and version == 4 else daddr
            return Dst(version, self.loopback, own, local=True)
        if daddr == LIMITED and not oif and self.lookup(daddr) is None:
            raise error(ENETUNREACH)
        if kind == BROADCAST or (version == 6 and daddr[0] == 0xFF):
            return self._resolve_on_link(daddr, oif, version, kind == BROADCAST)
        if version == 4 and _is_multicast4(daddr) and (oif or self.lookup(daddr)):
            return self._resolve_on_link(daddr, oif, version, False)
        route = self.lookup(daddr, oif)
        if route is not None:
            saddr = route.prefsrc if version == 4 else None
            if saddr is None:
                saddr = self.select_source(daddr, route.dev, route.gateway)
            return Dst(version, route.dev, saddr, route.gateway)
        if not oif or version == 6:
            raise error(ENETUNREACH)
        # Linux: with a device given and no route, the destination is taken to be on link
        return self._resolve_on_link(daddr, oif, version, False)

    def _resolve_on_link(self, daddr: bytes, oif: int, version: int, broadcast: bool) -> Dst:
        """Straight onto a device: `oif`, or the one whose subnet this is, or the first."""
        route = self.lookup(daddr, oif)
        dev = route.dev if route is not None else None
        if oif == self.loopback.ifindex and version == 6:
            raise error(ENETUNREACH)  # no groups there
        for candidate in self.devices if dev is None else ():
            if candidate.ifindex == oif or (not oif and not candidate.loopback):
                dev = candidate
                break
        if dev is None:
            raise error(ENETUNREACH)
        dst = Dst(version, dev, self.select_source(daddr, dev, None))
        dst.broadcast = broadcast
        dst.multicast = is_multicast(daddr)
        if dst.multicast and version == 4 and not oif and route is not None:
            dst.gateway = route.gateway  # not used, but SO_DONTROUTE minds
        return dst

    def device_of(self, addr: bytes) -> int:
        """The index of the device that has this address, 0 if none (Linux: `ip_dev_find`)."""
        for address in self.addresses:
            if address.addr == addr:
                return address.dev.ifindex
        return self.loopback.ifindex if self.local_kind(addr) == LOOPBACK else 0

    def _first_address(self, ifindex: int) -> bytes:
        """Which IPv4 address this host means on a device (Linux: `inet_select_addr`)."""
        ours = [a for a in self.addresses if len(a.addr) == 4]
        if ifindex == self.loopback.ifindex or not ours:
            return LOOPBACK4
        return next((a.addr for a in ours if a.dev.ifindex == ifindex), ours[0].addr)

    def _elsewhere(self, daddr: bytes, oif: int) -> bool:
        """Is `daddr`, local on this host, so on another device than `oif` (Linux:
        `fib_lookup_good_nhc`, `rt6_check_dev`)?"""
        if daddr == LIMITED:
            return False
        for address in self.addresses:
            if daddr == address.addr or (
                self.local.get(daddr) == BROADCAST
                and len(address.addr) == 4
                and prefix_match(daddr, address.addr, address.plen)
            ):
                return address.dev.ifindex != oif
        return oif != self.loopback.ifindex

    def select_source(self, daddr: bytes, dev: Device, gateway: bytes | None) -> bytes:
        """The address that packets to `daddr` through `dev` come from: one of the device's,
        else any (Linux: `inet_select_addr`, `ipv6_dev_get_saddr`)."""
        ours = [a for a in self.addresses if len(a.addr) == len(daddr)]
        candidates = [a for a in ours if a.dev is dev] or ours
        if not candidates:
            raise error(EADDRNOTAVAIL)
        if len(daddr) == 16:
            return min(candidates, key=lambda a: _rank6(a.addr, daddr)).addr
        hop = gateway or daddr
        for address in candidates:
            if prefix_match(hop, address.addr, address.plen):
                return address.addr
        return candidates[0].addr

    # -- path MTU ----------------------------------------------------------------------

    def update_pmtu(self, daddr: bytes, mtu: int, now: int) -> None:
        """Lower the path MTU to `daddr` (F-11, F-12); larger values are ignored. Below
        `min_pmtu`, IPv4 keeps that and may fragment; IPv6 ignores less than 1280."""
        try:
            dst = self.route(daddr)
        except OSError:
            return
        current = dst.mtu(now)
        if dst.local or dst.pmtu_locked or mtu > current:
            return
        locked = False
        if dst.version == 6:
            if mtu < MIN_MTU or mtu == current:
                return
        elif mtu < self._sysctl.min_pmtu:
            locked = True
            mtu = min(current, self._sysctl.min_pmtu)
        if len(self._pmtus) >= MAX_PMTUS and daddr not in self._pmtus:
            del self._pmtus[next(iter(self._pmtus))]
        expires = now + self._sysctl.mtu_expires * _SECOND
        self._pmtus[daddr] = PathMtu(mtu, expires, locked)
        self._apply_pmtu(daddr)

    def _apply_pmtu(self, daddr: bytes) -> None:
        learned = self._pmtus[daddr]
        keys: list[bytes | tuple[bytes, int]] = [daddr]
        keys += [(daddr, dev.ifindex) for dev in self.devices]
        for key in keys:
            dst = self._cache.get(key)
            if dst is not None and not dst.dev.loopback:
                dst.pmtu, dst.pmtu_expires = learned.mtu, learned.expires
                dst.pmtu_locked = learned.locked


def _assignable(addr: bytes) -> bool:
    """False for wildcard, multicast, loopback and class E addresses."""
    if addr in (ANY4, ANY6, LOOPBACK6) or is_multicast(addr):
        return False
    return len(addr) == 16 or (addr[0] not in (0, 127) and addr[0] < 240)


def _is_no_source(saddr: bytes) -> bool:
    """Can it be nobody's address?"""
    return saddr == LIMITED or saddr[0] == 0 or 224 <= saddr[0] < 240


def _is_multicast4(addr: bytes) -> bool:
    return len(addr) == 4 and 224 <= addr[0] < 240


def _rank6(addr: bytes, daddr: bytes) -> tuple[bool, bool, int, int]:
    """Sort key of a source candidate, best first (RFC 6724 section 5, rules 1, 2 and 8)."""
    scope, wanted = scope6(addr), scope6(daddr)
    enough = scope >= wanted
    return addr != daddr, not enough, scope if enough else -scope, -common_bits(addr, daddr)
