"""Options that say from which sources a socket hears a group (E-18).

Two ways. The full-state options (IP_MSFILTER, MCAST_MSFILTER) set the mode of a membership
and its list of sources at once. The others add or take one source: IP_BLOCK_SOURCE and
IP_UNBLOCK_SOURCE, with their MCAST_ likes, those of an EXCLUDE membership;
IP_ADD_SOURCE_MEMBERSHIP and IP_DROP_SOURCE_MEMBERSHIP those of an INCLUDE membership, which
the first source joins and the last one leaves. While no source was ever named, a membership
takes the mode of the first option that names one; after that only a full-state option
changes it.

Every change is told to the host, which has the sum of all sockets (`Net.add_sources`).

Limits. getsockopt of a filter wants to be told the group in the buffer that it fills; our
calls have only its length, so it always finds no group there.

Sources: Linux `ip_mc_source`, `ip_mc_msfilter`, `ip6_mc_source`, `ip6_mc_msfilter`,
`do_mcast_group_source`, `set_mcast_msfilter`; errors and their order as observed on 6.18.
"""

from __future__ import annotations

from errno import EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOBUFS, ENODEV
from struct import Struct

from ustack.sock.addr import is_multicast
from ustack.sock.errors import error
from ustack.sock.multicast import EXCLUDE, INCLUDE, Membership, Option, join, leave, leave_group
from ustack.sock.sock import AF_INET, AF_INET6, Sock

IP_UNBLOCK_SOURCE, IP_BLOCK_SOURCE = 37, 38
IP_ADD_SOURCE_MEMBERSHIP, IP_DROP_SOURCE_MEMBERSHIP, IP_MSFILTER = 39, 40, 41
MCAST_BLOCK_SOURCE, MCAST_UNBLOCK_SOURCE = 43, 44
MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP, MCAST_MSFILTER = 46, 47, 48

# struct ip_mreq_source: group, address of the device, source
_MREQ_SOURCE = Struct("4s4s4s")
# struct ip_msfilter: group, address of the device, mode, number of sources, sources
_MSFILTER = Struct("=4s4sII")
# struct group_source_req: index of the device, group and source as sockaddr_storage
_GROUP_SOURCE = Struct("=I4x128s128s")
# struct group_filter: index of the device, group, mode, number of sources, sources
_GROUP_FILTER = Struct("=I4x128sII")
_STORAGE = 128


# -- what the options do ---------------------------------------------------------------------


def _device(sk: Sock, group: bytes, ifindex: int, addr: bytes) -> int:
    if not is_multicast(group):
        raise error(EINVAL)
    found = sk.net.group_device(group, ifindex, addr)
    if not found:
        raise error(ENODEV)
    return found


def _find(sk: Sock, group: bytes, ifindex: int, every: bool) -> Membership:
    """The membership, on any device if 0 is `every`; EINVAL if there is none."""
    for member in sk.mc.joined if sk.mc is not None else ():
        if member.group == group and (member.ifindex == ifindex or (every and not ifindex)):
            return member
    raise error(EINVAL)


def change_source(
    sk: Sock, group: bytes, ifindex: int, addr: bytes, source: bytes, mode: int, add: bool, now: int
) -> None:
    """Add a source to a membership of `mode`, or take it away."""
    v6 = len(group) == 16
    found = _device(sk, group, ifindex, addr)
    member = _find(sk, group, ifindex if v6 else found, v6)
    net, group, ifindex = sk.net, member.group, member.ifindex
    if member.mode != mode:
        if member.sources is not None:
            raise error(EINVAL)
        net.add_sources(group, ifindex, mode, [], False, now)
        net.del_sources(group, ifindex, member.mode, [], False, now)
        member.mode = mode
    sources = member.sources
    if add:
        limit = net.sysctl.mld_max_msf if v6 else net.sysctl.igmp_max_msf
        if sources is not None and len(sources) >= limit:
            raise error(ENOBUFS)
        if sources is None:
            sources = member.sources = []
        if source in sources:
            raise error(EADDRNOTAVAIL)
        sources.append(source)
        net.add_sources(group, ifindex, mode, [source], True, now)
        return
    if sources is None or source not in sources:
        raise error(EADDRNOTAVAIL)
    if len(sources) == 1 and mode == INCLUDE:
        leave(sk, member, now)
        return
    net.del_sources(group, ifindex, mode, [source], True, now)
    sources.remove(source)


def set_filter(
    sk: Sock, group: bytes, ifindex: int, addr: bytes, mode: int, sources: list[bytes], now: int
) -> None:
    """Set mode and sources of a membership. No source at all to hear is leaving."""
    if not is_multicast(group) or mode not in (EXCLUDE, INCLUDE):
        raise error(EINVAL)
    found = _device(sk, group, ifindex, addr)
    v6 = len(group) == 16
    if mode == INCLUDE and not sources:
        leave_group(sk, group, ifindex if v6 else found, addr, now)
        return
    member = _find(sk, group, ifindex if v6 else found, False)
    net, ifindex = sk.net, member.ifindex
    net.add_sources(group, ifindex, mode, sources, False, now)
    net.del_sources(group, ifindex, member.mode, member.sources or [], False, now)
    member.sources = sources or None
    member.mode = mode


# -- how they are written ----------------------------------------------------------------------


def _change(
    sk: Sock, group: bytes, ifindex: int, addr: bytes, source: bytes, mode: int, add: bool, now: int
) -> None:
    """As `change_source`, but the first source to INCLUDE joins."""
    if add and mode == INCLUDE:
        try:
            join(sk, group, ifindex, addr, INCLUDE, now)
        except OSError as exc:
            if exc.errno != EADDRINUSE:
                raise
    change_source(sk, group, ifindex, addr, source, mode, add, now)


def _mreq_source(mode: int, add: bool) -> Option:
    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if len(value) != _MREQ_SOURCE.size:
            raise error(EINVAL)
        group, addr, source = _MREQ_SOURCE.unpack(value)
        _change(sk, group, 0, addr if any(addr) else b"", source, mode, add, now)

    return None, put


def _group_source(family: int, mode: int, add: bool) -> Option:
    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if len(value) < _GROUP_SOURCE.size:
            raise error(EINVAL)
        ifindex, group, source = _GROUP_SOURCE.unpack_from(value)
        if not (_family(group) == _family(source) == family):
            raise error(EADDRNOTAVAIL)
        group, source = _address(group, family), _address(source, family)
        _change(sk, group, ifindex, b"", source, mode, add, now)

    return None, put


def _family(storage: bytes) -> int:
    return int.from_bytes(storage[:2], "little")


def _address(storage: bytes, family: int) -> bytes:
    """The address in a sockaddr."""
    return storage[4:8] if family == AF_INET else storage[8:24]


def _check_length(sk: Sock, value: bytes, head: int) -> None:
    if len(value) < head:
        raise error(EINVAL)
    if len(value) > sk.net.sysctl.optmem_max:
        raise error(ENOBUFS)


def _check_count(value: bytes, head: int, size: int, count: int, limit: int) -> None:
    if count > limit:
        raise error(ENOBUFS)
    if head + size * count > len(value):
        raise error(EINVAL)


def _put_msfilter(sk: Sock, number: int, value: bytes, now: int) -> None:
    head = _MSFILTER.size
    _check_length(sk, value, head)
    group, addr, mode, count = _MSFILTER.unpack_from(value)
    _check_count(value, head, 4, count, sk.net.sysctl.igmp_max_msf)
    sources = [value[at : at + 4] for at in range(head, head + 4 * count, 4)]
    set_filter(sk, group, 0, addr if any(addr) else b"", mode, sources, now)


def _put_group_filter4(sk: Sock, number: int, value: bytes, now: int) -> None:
    ifindex, group, mode, storages = _group_filter(sk, value, sk.net.sysctl.igmp_max_msf)
    if any(_family(storage) != AF_INET for storage in (group, *storages)):
        raise error(EADDRNOTAVAIL)
    sources = [_address(storage, AF_INET) for storage in storages]
    set_filter(sk, _address(group, AF_INET), ifindex, b"", mode, sources, now)


def _put_group_filter6(sk: Sock, number: int, value: bytes, now: int) -> None:
    """The one that does not ask for families."""
    ifindex, group, mode, storages = _group_filter(sk, value, sk.net.sysctl.mld_max_msf)
    sources = [_address(storage, AF_INET6) for storage in storages]
    set_filter(sk, _address(group, AF_INET6), ifindex, b"", mode, sources, now)


def _group_filter(sk: Sock, value: bytes, limit: int) -> tuple[int, bytes, int, list[bytes]]:
    head = _GROUP_FILTER.size
    _check_length(sk, value, head)
    ifindex, group, mode, count = _GROUP_FILTER.unpack_from(value)
    _check_count(value, head, _STORAGE, count, limit)
    ends = range(head, head + _STORAGE * count, _STORAGE)
    return ifindex, group, mode, [value[at : at + _STORAGE] for at in ends]


def _get_filter(sk: Sock, optlen: int, now: int) -> int:
    raise error(EINVAL)


def _group_options(family: int) -> dict[int, Option]:
    return {
        MCAST_BLOCK_SOURCE: _group_source(family, EXCLUDE, True),
        MCAST_UNBLOCK_SOURCE: _group_source(family, EXCLUDE, False),
        MCAST_JOIN_SOURCE_GROUP: _group_source(family, INCLUDE, True),
        MCAST_LEAVE_SOURCE_GROUP: _group_source(family, INCLUDE, False),
    }


IP_OPTIONS: dict[int, Option] = {
    IP_UNBLOCK_SOURCE: _mreq_source(EXCLUDE, False),
    IP_BLOCK_SOURCE: _mreq_source(EXCLUDE, True),
    IP_ADD_SOURCE_MEMBERSHIP: _mreq_source(INCLUDE, True),
    IP_DROP_SOURCE_MEMBERSHIP: _mreq_source(INCLUDE, False),
    IP_MSFILTER: (_get_filter, _put_msfilter),
    **_group_options(AF_INET),
    MCAST_MSFILTER: (_get_filter, _put_group_filter4),
}

IPV6_OPTIONS: dict[int, Option] = {
    **_group_options(AF_INET6),
    MCAST_MSFILTER: (_get_filter, _put_group_filter6),
}
