"""The multicast side of a socket: what it has joined, and how it sends to groups (E-18).

A socket has a `Multicast` once it has set one of the options below; most never do. The
memberships are the socket's, each for one group on one device; the host counts them
(`Net.join_group`) and lets the packets of a group in while any socket has joined it.

Which socket gets what the host lets in: each that is bound to the port and the group, or
to the wildcard; among those the ones that have joined the group on that device, if from that
source, and the ones that want all that the host has joined (IP_MULTICAST_ALL: on by default,
but for IPv4 packets on IPv6 sockets). Over IPv6 a membership speaks for every device.

A membership is from all sources but some (EXCLUDE) or from some only (INCLUDE);
`sock.source_filter` has the options that say which.

A stream can join groups too, by MCAST_JOIN_GROUP and its like: nothing comes of it, but that the
host has joined.

Sources: Linux `ip_mc_join_group`, `ip_mc_leave_group`, `ip_mc_sf_allow`, `ip_mc_find_dev`,
`ipv6_sock_mc_join`, `inet6_mc_check`, `do_ip_setsockopt`, `do_ipv6_setsockopt`; errors and
truncation as observed on 6.18.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOBUFS, ENODEV, ENOPROTOOPT, EPROTO
from struct import Struct
from typing import TypeAlias

from ustack.sock.addr import is_multicast
from ustack.sock.errors import error
from ustack.sock.sock import AF_INET, AF_INET6, SOCK_STREAM, Sock

IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP = 32, 33, 34
IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP, IP_MULTICAST_ALL = 35, 36, 49
IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP = 17, 18, 19
IPV6_JOIN_GROUP, IPV6_LEAVE_GROUP, IPV6_MULTICAST_ALL = 20, 21, 29
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP = 42, 45

_ANY4 = bytes(4)
_MREQ = Struct("4s4s")
_MREQN = Struct("=4s4si")
_MREQ6 = Struct("=16sI")
_INT = Struct("i")
EXCLUDE, INCLUDE = 0, 1  # modes of a membership, as the kernel numbers them

_GROUP_REQ_LEN = 136  # struct group_req: u32 ifindex, padding, sockaddr_storage

# As in `sock.options`, which has these in its tables.
Option: TypeAlias = tuple[
    Callable[[Sock, int, int], int | bytes] | None,
    Callable[[Sock, int, bytes, int], None] | None,
]


class Membership:
    """A group joined on one device; `addr` is the device's address if it was named by that.
    `sources` None: there never was a source filter."""

    __slots__ = ("addr", "group", "ifindex", "mode", "sources")

    def __init__(self, group: bytes, ifindex: int, addr: bytes, mode: int) -> None:
        self.group = group
        self.ifindex = ifindex
        self.addr = addr
        self.mode = mode
        self.sources: list[bytes] | None = None

    def hears(self, src: bytes) -> bool:
        """Does the socket want what comes from `src`?"""
        if self.sources is None:
            return self.mode == EXCLUDE
        return (src in self.sources) == (self.mode == INCLUDE)


class Multicast:
    """The multicast options of one socket, IPv4's and IPv6's."""

    __slots__ = ("all4", "all6", "hops", "if4", "if6", "if_addr", "joined", "loop4", "loop6", "ttl")

    def __init__(self, family: int) -> None:
        self.ttl = 1
        self.hops = 1
        self.loop4 = True
        self.loop6 = True
        self.all4 = family == AF_INET
        self.all6 = True
        self.if4 = 0  # device to send by, 0: the route's
        self.if_addr = b""  # address to send from, b"": the device's
        self.if6 = 0
        self.joined: list[Membership] = []  # newest first


# -- what the protocols ask ----------------------------------------------------------------


def source(sk: Sock) -> bytes:
    """The address that IPv4 multicasts of an unbound socket are from, b"" for any."""
    return sk.mc.if_addr if sk.mc is not None else b""


def device(sk: Sock, v6: bool) -> int:
    """The device that multicasts leave by, 0 if that is the route's choice."""
    mc = sk.mc
    if mc is None:
        return 0
    return mc.if6 if v6 else mc.if4


def hops(sk: Sock, v6: bool) -> int:
    """The TTL or hop limit of multicasts."""
    mc = sk.mc
    if mc is None:
        return 1
    return mc.hops if v6 else mc.ttl


def loops(sk: Sock) -> bool:
    """Do members on this host hear the socket's multicasts (Linux: `sk_mc_loop`)?"""
    mc = sk.mc
    return mc is None or (mc.loop6 if sk.family == AF_INET6 else mc.loop4)


def allows(sk: Sock, group: bytes, iif: int, src: bytes) -> bool:
    """Does `sk`, bound to the right port and address, hear `group` from `src` by device
    `iif`?"""
    v6 = len(group) == 16
    mc = sk.mc
    if mc is None:
        return v6 or sk.family == AF_INET
    for member in mc.joined:
        if member.group == group and (v6 or member.ifindex == iif):
            return member.hears(src)
    return mc.all6 if v6 else mc.all4


def leave_all(sk: Sock, now: int) -> None:
    """The socket is closed."""
    if sk.mc is not None:
        while sk.mc.joined:
            leave(sk, sk.mc.joined[0], now)


# -- joining and leaving ---------------------------------------------------------------------


def _of(sk: Sock) -> Multicast:
    if sk.mc is None:
        sk.mc = Multicast(sk.family)
    return sk.mc


def _default(sk: Sock) -> Multicast:
    return sk.mc if sk.mc is not None else Multicast(sk.family)


def join(sk: Sock, group: bytes, ifindex: int, addr: bytes, mode: int, now: int) -> None:
    """Join by device, by its address, or by the route to the group."""
    if not is_multicast(group):
        raise error(EINVAL)
    net, joined = sk.net, _of(sk).joined
    v6 = len(group) == 16
    for member in joined if v6 else ():  # before it looks for the device
        if member.group == group and ifindex in (0, member.ifindex):
            raise error(EADDRINUSE)
    ifindex = net.group_device(group, ifindex, addr)
    if not ifindex:
        raise error(ENODEV)
    if any(member.group == group and member.ifindex == ifindex for member in joined):
        raise error(EADDRINUSE)
    count = sum(len(member.group) == 4 for member in joined)
    if not v6 and count >= net.sysctl.igmp_max_memberships:
        raise error(ENOBUFS)
    joined.insert(0, Membership(group, ifindex, addr, mode))
    net.join_group(group, ifindex, mode, now)


def leave(sk: Sock, member: Membership, now: int) -> None:
    """Give up a membership of the socket."""
    _of(sk).joined.remove(member)
    group, ifindex = member.group, member.ifindex
    sk.net.del_sources(group, ifindex, member.mode, member.sources or [], False, now)
    sk.net.leave_group(group, ifindex, now)


def _join_any(sk: Sock, group: bytes, ifindex: int, addr: bytes, now: int) -> None:
    join(sk, group, ifindex, addr, EXCLUDE, now)


def leave_group(sk: Sock, group: bytes, ifindex: int, addr: bytes, now: int) -> None:
    """Leave by device, by its address, or whatever device it was."""
    v6 = len(group) == 16
    if v6 and not is_multicast(group):
        raise error(EINVAL)
    if not v6:
        found = sk.net.group_device(group, ifindex, addr)
        if not found and not ifindex and not addr:
            raise error(ENODEV)
        ifindex = found or ifindex
    for member in _of(sk).joined:
        if member.group == group and (
            member.ifindex == ifindex if ifindex else v6 or not addr or member.addr == addr
        ):
            leave(sk, member, now)
            return
    raise error(EADDRNOTAVAIL)


# To be done with a group, the index of a device and an address of a device.
Action: TypeAlias = Callable[[Sock, bytes, int, bytes, int], None]


def _membership4(action: Action) -> Option:
    """A struct ip_mreq (group, address of the device), or ip_mreqn with its index too."""

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if sk.type == SOCK_STREAM:
            raise error(EPROTO)
        if len(value) < _MREQ.size:
            raise error(EINVAL)
        ifindex = 0
        if len(value) >= _MREQN.size:
            group, addr, ifindex = _MREQN.unpack_from(value)
        else:
            group, addr = _MREQ.unpack_from(value)
        action(sk, group, ifindex, b"" if addr == _ANY4 else addr, now)

    return None, put


def _membership6(action: Action) -> Option:
    """A struct ipv6_mreq: group, index of the device."""

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if len(value) < _MREQ6.size:
            raise error(EINVAL)
        if sk.type == SOCK_STREAM:
            raise error(EPROTO)
        group, ifindex = _MREQ6.unpack_from(value)
        action(sk, group, ifindex, b"", now)

    return None, put


def _group_req(action: Action, family: int) -> Option:
    """A struct group_req, the same for both families, and for streams too."""

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if len(value) < _GROUP_REQ_LEN:
            raise error(EINVAL)
        ifindex = _INT.unpack_from(value)[0]
        if int.from_bytes(value[8:10], "little") != family:
            raise error(EINVAL if family == AF_INET else EADDRNOTAVAIL)
        group = value[12:16] if family == AF_INET else value[16:32]
        action(sk, group, ifindex, b"", now)

    return None, put


# -- the other options -----------------------------------------------------------------------


def _set_ttl(sk: Sock, number: int, value: bytes, now: int) -> None:
    if sk.type == SOCK_STREAM or not value or not -1 <= number <= 255:
        raise error(EINVAL)
    _of(sk).ttl = 1 if number == -1 else number


def _set_hops(sk: Sock, number: int, value: bytes, now: int) -> None:
    if sk.type == SOCK_STREAM:
        raise error(ENOPROTOOPT)
    if not -1 <= number <= 255:
        raise error(EINVAL)
    _of(sk).hops = 1 if number == -1 else number


def _set_loop4(sk: Sock, number: int, value: bytes, now: int) -> None:
    if not value:
        raise error(EINVAL)
    _of(sk).loop4 = number != 0


def _set_loop6(sk: Sock, number: int, value: bytes, now: int) -> None:
    if number not in (0, 1):
        raise error(EINVAL)
    _of(sk).loop6 = number != 0


def _set_all4(sk: Sock, number: int, value: bytes, now: int) -> None:
    if not value or number not in (0, 1):
        raise error(EINVAL)
    _of(sk).all4 = number != 0


def _set_all6(sk: Sock, number: int, value: bytes, now: int) -> None:
    _of(sk).all6 = number != 0


def _set_if4(sk: Sock, number: int, value: bytes, now: int) -> None:
    """An address, or a struct ip_mreq or ip_mreqn whose group is not looked at."""
    if sk.type == SOCK_STREAM or len(value) < 4:
        raise error(EINVAL)
    ifindex, addr = 0, value[:4]
    if len(value) >= _MREQN.size:
        _, addr, ifindex = _MREQN.unpack_from(value)
    elif len(value) >= _MREQ.size:
        _, addr = _MREQ.unpack_from(value)
    known = True
    if ifindex:
        known = sk.net.device_name(ifindex) is not None
    elif addr != _ANY4:
        ifindex = sk.net.address_device(addr)
        known = ifindex != 0
    if not known:
        raise error(EADDRNOTAVAIL)
    if ifindex and sk.bindtodevice and sk.bindtodevice != ifindex:
        raise error(EINVAL)
    mc = _of(sk)
    mc.if4, mc.if_addr = ifindex, b"" if addr == _ANY4 else addr


def _set_if6(sk: Sock, number: int, value: bytes, now: int) -> None:
    if sk.type == SOCK_STREAM:
        raise error(ENOPROTOOPT)
    if number:
        if sk.bindtodevice and sk.bindtodevice != number:
            raise error(EINVAL)
        if sk.net.device_name(number) is None:
            raise error(ENODEV)
    _of(sk).if6 = number


IP_OPTIONS: dict[int, Option] = {
    IP_MULTICAST_IF: (lambda sk, optlen, now: _default(sk).if_addr or _ANY4, _set_if4),
    IP_MULTICAST_TTL: (lambda sk, optlen, now: _default(sk).ttl, _set_ttl),
    IP_MULTICAST_LOOP: (lambda sk, optlen, now: int(_default(sk).loop4), _set_loop4),
    IP_ADD_MEMBERSHIP: _membership4(_join_any),
    IP_DROP_MEMBERSHIP: _membership4(leave_group),
    IP_MULTICAST_ALL: (lambda sk, optlen, now: int(_default(sk).all4), _set_all4),
    MCAST_JOIN_GROUP: _group_req(_join_any, AF_INET),
    MCAST_LEAVE_GROUP: _group_req(leave_group, AF_INET),
}

IPV6_OPTIONS: dict[int, Option] = {
    IPV6_MULTICAST_IF: (lambda sk, optlen, now: _default(sk).if6, _set_if6),
    IPV6_MULTICAST_HOPS: (lambda sk, optlen, now: _default(sk).hops, _set_hops),
    IPV6_MULTICAST_LOOP: (lambda sk, optlen, now: int(_default(sk).loop6), _set_loop6),
    IPV6_JOIN_GROUP: _membership6(_join_any),
    IPV6_LEAVE_GROUP: _membership6(leave_group),
    IPV6_MULTICAST_ALL: (lambda sk, optlen, now: int(_default(sk).all6), _set_all6),
    MCAST_JOIN_GROUP: _group_req(_join_any, AF_INET6),
    MCAST_LEAVE_GROUP: _group_req(leave_group, AF_INET6),
}
