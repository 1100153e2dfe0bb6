"""Socket options that TCP and UDP have in common: SOL_SOCKET, SOL_IP, SOL_IPV6.

Structure: one table a level, name -> (getter, setter). A getter gives the value as an
int or as bytes, a setter takes the caller's bytes; the three levels differ in how they
read and write ints, which is done once, here:

- SOL_SOCKET wants four bytes of every value, before it looks at the name;
- SOL_IP takes an int, or its low byte where the caller has fewer than four; it answers
  a short buffer with one byte when the value fits one;
- SOL_IPV6 wants four bytes and cuts what it answers.

A protocol looks into its own table first and comes here with what it does not know:
`set_common` and `get_common` say False and None for a name that is not here either, and
`unknown_option` is then the error. What a protocol does differently when an option
changes is a method of its socket (`on_sndbuf_changed`, `set_rcvlowat`).

On a dual-stack socket the SOL_IP options are for the IPv4 packets and the SOL_IPV6 ones for
the IPv6 packets. Those about groups are in `sock.multicast` and `sock.source_filter`.

Options that have no effect here are in `sock.kept`; other names are refused.

Sources: Linux `sk_setsockopt`, `sk_getsockopt`, `do_ip_setsockopt`, `do_ip_getsockopt`,
`do_ipv6_setsockopt`; values, ranges and truncation as observed on 6.18.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EDOM, EINVAL, ENODEV, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP, EPERM
from struct import Struct
from typing import TypeAlias

from ustack.sock import multicast, notify, source_filter
from ustack.sock.deadlines import NEVER
from ustack.sock.error_queue import purge_errors
from ustack.sock.errors import error
from ustack.sock.kept import get_kept, is_kept, set_kept
from ustack.sock.sock import (
    AF_INET6,
    F_DONTFRAG,
    F_DONTROUTE,
    F_NO_PORT,
    F_PKTINFO,
    F_RECVHOPLIMIT,
    F_RECVORIGDSTADDR,
    F_RECVORIGDSTADDR6,
    F_RECVPKTINFO6,
    F_RECVTCLASS,
    F_RECVTOS,
    F_RECVTTL,
    F_RXQ_OVFL,
    F_SELECT_ERR_QUEUE,
    F_TIMESTAMPING_NEW,
    F_ZEROCOPY,
    PACING_UNLIMITED,
    PMTUDISC_OMIT,
    RCVBUF_LOCK,
    SNDBUF_LOCK,
    SOCK_MIN_RCVBUF,
    SOCK_MIN_SNDBUF,
    SOCK_STREAM,
    Sock,
)
from ustack.wire.ipv6 import MIN_MTU
from ustack.wire.packet import IPPROTO_TCP, IPPROTO_UDP

SOL_IP, SOL_SOCKET, SOL_TCP, SOL_UDP, SOL_IPV6 = 0, 1, 6, 17, 41

SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_DONTROUTE, SO_BROADCAST = 2, 3, 4, 5, 6
SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_OOBINLINE, SO_NO_CHECK = 7, 8, 9, 10, 11
SO_PRIORITY, SO_LINGER, SO_REUSEPORT, SO_RCVLOWAT, SO_SNDLOWAT = 12, 13, 15, 18, 19
SO_RCVTIMEO, SO_SNDTIMEO, SO_BINDTODEVICE, SO_TIMESTAMP, SO_ACCEPTCONN = 20, 21, 25, 29, 30
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_TIMESTAMPNS, SO_MARK, SO_TIMESTAMPING = 32, 33, 35, 36, 37
SO_PROTOCOL, SO_DOMAIN, SO_RXQ_OVFL, SO_PEEK_OFF = 38, 39, 40, 42
SO_SELECT_ERR_QUEUE, SO_MAX_PACING_RATE, SO_MEMINFO = 45, 47, 55
SO_INCOMING_NAPI_ID, SO_ZEROCOPY, SO_BINDTOIFINDEX = 56, 60, 62
SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW, SO_TIMESTAMPING_NEW = 63, 64, 65
SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW, SO_BUF_LOCK = 66, 67, 72

IP_TOS, IP_TTL, IP_PKTINFO, IP_MTU_DISCOVER, IP_RECVERR = 1, 2, 8, 10, 11
IP_RECVTTL, IP_RECVTOS, IP_MTU, IP_FREEBIND = 12, 13, 14, 15
IP_RECVORIGDSTADDR, IP_MINTTL, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE = 20, 21, 24, 51

IPV6_UNICAST_HOPS, IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR, IPV6_V6ONLY = 16, 23, 24, 25, 26
IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_DONTFRAG, IPV6_RECVTCLASS, IPV6_TCLASS = (
    49, 51, 62, 66, 67,
)  # fmt: skip
IPV6_MINHOPCOUNT, IPV6_RECVORIGDSTADDR, IPV6_FREEBIND = 73, 74, 78

INT_MAX = 0x7FFFFFFF
IFNAMSIZ = 16
_BUF_LOCKS = SNDBUF_LOCK | RCVBUF_LOCK
_ECN_MASK = 3
_INT, _LONG = Struct("i"), Struct("Q")
_TWO_INTS, _TIMEVAL, _MEMINFO = Struct("ii"), Struct("qq"), Struct("9I")
_SEC = 1_000_000_000
_HOPS_DEFAULT = 64
_IP_MAX_MTU = 0xFFFF  # whatever the device could carry

# What a getter is told besides the socket: the length of the caller's buffer, and `now`.
Getter: TypeAlias = Callable[[Sock, int, int], int | bytes]
# A setter is told the socket, the int (0 where the level lets it be absent), all bytes, `now`.
Setter: TypeAlias = Callable[[Sock, int, bytes, int], None]
Option: TypeAlias = tuple[Getter | None, Setter | None]


# -- shapes of options ---------------------------------------------------------------------


def _attr(name: str) -> Option:
    """A boolean attribute of the socket."""

    def get(sk: Sock, optlen: int, now: int) -> int:
        return int(getattr(sk, name))

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        setattr(sk, name, number != 0)

    return get, put


def _flag(bit: int) -> Option:
    """A bit of `inet_flags`."""

    def get(sk: Sock, optlen: int, now: int) -> int:
        return int(sk.inet_flags & bit != 0)

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        sk.inet_flags = sk.inet_flags | bit if number else sk.inet_flags & ~bit

    return get, put


def _ranged(name: str, low: int, high: int) -> Option:
    """An int attribute within [low, high], else EINVAL."""

    def get(sk: Sock, optlen: int, now: int) -> int:
        return int(getattr(sk, name))

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if not value or not low <= number <= high:
            raise error(EINVAL)
        setattr(sk, name, number)
        sk.ip_template = None

    return get, put


def _readonly(get: Callable[[Sock], int]) -> Option:
    return lambda sk, optlen, now: get(sk), None


# -- SOL_SOCKET ----------------------------------------------------------------------------


def _take_error(sk: Sock) -> int:
    err = sk.sock_error()
    if not err:
        err, sk.err_soft = sk.err_soft, 0
    return err


def _privileged(sk: Sock) -> None:
    if not sk.net.sysctl.cap_net_admin:
        raise error(EPERM)


def _set_sndbuf(sk: Sock, number: int, value: bytes, now: int) -> None:
    _apply_sndbuf(sk, min(number & 0xFFFFFFFF, sk.net.sysctl.wmem_max), now)


def _force_sndbuf(sk: Sock, number: int, value: bytes, now: int) -> None:
    _privileged(sk)
    _apply_sndbuf(sk, max(number, 0), now)


def _apply_sndbuf(sk: Sock, size: int, now: int) -> None:
    sk.userlocks |= SNDBUF_LOCK
    sk.sndbuf = max(min(size, INT_MAX // 2) * 2, SOCK_MIN_SNDBUF)
    sk.on_sndbuf_changed(now)


def _set_rcvbuf(sk: Sock, number: int, value: bytes, now: int) -> None:
    _apply_rcvbuf(sk, min(number & 0xFFFFFFFF, sk.net.sysctl.rmem_max), now)


def _force_rcvbuf(sk: Sock, number: int, value: bytes, now: int) -> None:
    _privileged(sk)
    _apply_rcvbuf(sk, max(number, 0), now)


def _apply_rcvbuf(sk: Sock, size: int, now: int) -> None:
    sk.userlocks |= RCVBUF_LOCK
    sk.rcvbuf = max(min(size, INT_MAX // 2) * 2, SOCK_MIN_RCVBUF)
    sk.on_rcvbuf_changed(now)


def _set_priority(sk: Sock, number: int, value: bytes, now: int) -> None:
    if not 0 <= number <= 6:
        _privileged(sk)
    sk.priority = number


def _set_dontroute(sk: Sock, number: int, value: bytes, now: int) -> None:
    sk.inet_flags = sk.inet_flags | F_DONTROUTE if number else sk.inet_flags & ~F_DONTROUTE
    _reset_route(sk)


def _reset_route(sk: Sock) -> None:
    """A datagram socket looks for its route anew (Linux: `sk_dst_reset`)."""
    if sk.type != SOCK_STREAM:
        sk.dst = None


def _set_mark(sk: Sock, number: int, value: bytes, now: int) -> None:
    _privileged(sk)
    if sk.mark != number & 0xFFFFFFFF:
        _reset_route(sk)
    sk.mark = number & 0xFFFFFFFF


def _set_keepalive(sk: Sock, number: int, value: bytes, now: int) -> None:
    sk.keepopen = number != 0
    sk.on_keepalive_changed(now)


def _set_rcvlowat(sk: Sock, number: int, value: bytes, now: int) -> None:
    sk.set_rcvlowat(INT_MAX if number < 0 else number or 1, now)


def _get_linger(sk: Sock, optlen: int, now: int) -> bytes:
    return _TWO_INTS.pack(sk.linger, min(sk.linger_time // _SEC, INT_MAX))


def _set_linger(sk: Sock, number: int, value: bytes, now: int) -> None:
    if len(value) < _TWO_INTS.size:
        raise error(EINVAL)
    onoff, seconds = _TWO_INTS.unpack_from(value)
    sk.linger = onoff != 0
    if onoff:
        sk.linger_time = (seconds & 0xFFFFFFFF) * _SEC


def _timeout(name: str) -> Option:
    """SO_RCVTIMEO, SO_SNDTIMEO: a timeval; zero is no limit, negative is no wait."""

    def get(sk: Sock, optlen: int, now: int) -> bytes:
        timeo: int = getattr(sk, name)
        if timeo >= NEVER:
            return bytes(_TIMEVAL.size)
        return _TIMEVAL.pack(timeo // _SEC, timeo % _SEC // 1000)

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if len(value) < _TIMEVAL.size:
            raise error(EINVAL)
        seconds, micros = _TIMEVAL.unpack_from(value)
        if not 0 <= micros < 1_000_000:
            raise error(EDOM)
        if seconds < 0:
            timeo = 0
        elif not seconds and not micros:
            timeo = NEVER
        else:
            timeo = min(_in_ticks(sk, seconds * _SEC + micros * 1000), NEVER)
        setattr(sk, name, timeo)

    return get, put


def _in_ticks(sk: Sock, timeo: int) -> int:
    """Rounded up to the stack's tick, if it has one."""
    hz = sk.net.sysctl.hz
    if not hz:
        return timeo
    tick = _SEC // hz
    return (timeo + tick - 1) // tick * tick


def _timestamp(name: int) -> Option:
    """One of the four options that ask for a receive time; the last one set holds. Whether
    times are told by old or new names is one bit for these and SO_TIMESTAMPING."""

    def get(sk: Sock, optlen: int, now: int) -> int:
        return int(sk.timestamp == name or (name, sk.timestamp) == _SHOWN_AS_BOTH)

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        sk.timestamp = name if number else 0
        if number:
            _set_new_names(sk, name in _NEW_NAMES.values())

    return get, put


_NEW_NAMES = {SO_TIMESTAMP: SO_TIMESTAMP_NEW, SO_TIMESTAMPNS: SO_TIMESTAMPNS_NEW}
_OLD_NAMES = {new: old for old, new in _NEW_NAMES.items()}
_SHOWN_AS_BOTH = (SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW)  # the kernel does not look for NS


def _set_new_names(sk: Sock, new: bool) -> None:
    flag = F_TIMESTAMPING_NEW
    sk.inet_flags = sk.inet_flags | flag if new else sk.inet_flags & ~flag
    sk.timestamp = (_NEW_NAMES if new else _OLD_NAMES).get(sk.timestamp, sk.timestamp)


def _timestamping(new: bool) -> Option:
    """SO_TIMESTAMPING: an int, or a struct so_timestamping of flags and a clock's number."""

    def get(sk: Sock, optlen: int, now: int) -> bytes:
        shown = not new or sk.inet_flags & F_TIMESTAMPING_NEW
        return _TWO_INTS.pack(sk.tsflags if shown else 0, 0)

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        notify.set_timestamping(sk, number)
        notify.of(sk)
        _set_new_names(sk, new)

    return get, put


def _set_zerocopy(sk: Sock, number: int, value: bytes, now: int) -> None:
    if sk.protocol not in (IPPROTO_TCP, IPPROTO_UDP):
        raise error(EOPNOTSUPP)
    if number not in (0, 1):
        raise error(EINVAL)
    if number:
        sk.inet_flags |= F_ZEROCOPY
        notify.of(sk)
    else:
        sk.inet_flags &= ~F_ZEROCOPY


def _set_peek_off(sk: Sock, number: int, value: bytes, now: int) -> None:
    sk.peek_off = number


def _get_pacing_rate(sk: Sock, optlen: int, now: int) -> bytes:
    rate = sk.max_pacing_rate
    if optlen >= _LONG.size:
        return _LONG.pack(rate)
    return _LONG.pack(min(rate, 0xFFFFFFFF))[:4]


def _set_pacing_rate(sk: Sock, number: int, value: bytes, now: int) -> None:
    if len(value) >= _LONG.size:
        sk.max_pacing_rate = _LONG.unpack_from(value)[0]
    else:
        sk.max_pacing_rate = PACING_UNLIMITED if number == -1 else number & 0xFFFFFFFF
    sk.on_max_pacing_rate_changed()


def meminfo(sk: Sock) -> tuple[int, int, int, int, int, int, int, int, int]:
    """SO_MEMINFO: rmem, rcvbuf, wmem, sndbuf, fwd_alloc, wmem_queued, optmem, backlog,
    drops. There is no forward allocation, option memory or backlog here."""
    return (
        sk.rmem_alloc, sk.rcvbuf, sk.wmem_alloc, sk.sndbuf, 0, sk.wmem_queued, 0, 0, sk.drops,
    )  # fmt: skip


def _get_meminfo(sk: Sock, optlen: int, now: int) -> bytes:
    return _MEMINFO.pack(*[value & 0xFFFFFFFF for value in meminfo(sk)])


def _set_ifindex(sk: Sock, number: int, value: bytes, now: int) -> None:
    if number < 0:
        raise error(EINVAL)
    if sk.bindtodevice:
        _privileged(sk)
    sk.bindtodevice = number
    sk.dst = None


def _set_buf_lock(sk: Sock, number: int, value: bytes, now: int) -> None:
    """Which buffers the host may no longer tune."""
    if number & ~_BUF_LOCKS:
        raise error(EINVAL)
    sk.userlocks = number | sk.userlocks & ~_BUF_LOCKS


def _get_device(sk: Sock, optlen: int, now: int) -> bytes:
    name = sk.net.device_name(sk.bindtodevice) if sk.bindtodevice else None
    if name is None:
        return b""
    if optlen < IFNAMSIZ:
        raise error(EINVAL)
    return name.encode() + b"\0"


def _set_device(sk: Sock, number: int, value: bytes, now: int) -> None:
    name = value[: IFNAMSIZ - 1].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    ifindex = sk.net.device_index(name) if name else 0
    if name and not ifindex:
        raise error(ENODEV)
    _set_ifindex(sk, ifindex, value, now)


_SOCKET: dict[int, Option] = {
    SO_REUSEADDR: _attr("reuse"),
    SO_TYPE: _readonly(lambda sk: sk.type),
    SO_ERROR: _readonly(_take_error),
    SO_DONTROUTE: (_flag(F_DONTROUTE)[0], _set_dontroute),
    SO_BROADCAST: _attr("broadcast"),
    SO_SNDBUF: (lambda sk, optlen, now: sk.sndbuf, _set_sndbuf),
    SO_RCVBUF: (lambda sk, optlen, now: sk.rcvbuf, _set_rcvbuf),
    SO_KEEPALIVE: (lambda sk, optlen, now: int(sk.keepopen), _set_keepalive),
    SO_OOBINLINE: _attr("oobinline"),
    SO_NO_CHECK: _attr("no_check"),
    SO_PRIORITY: (lambda sk, optlen, now: sk.priority, _set_priority),
    SO_LINGER: (_get_linger, _set_linger),
    SO_REUSEPORT: _attr("reuseport"),
    SO_RCVLOWAT: (lambda sk, optlen, now: sk.rcvlowat, _set_rcvlowat),
    SO_SNDLOWAT: _readonly(lambda sk: 1),
    SO_RCVTIMEO: _timeout("rcvtimeo"),
    SO_SNDTIMEO: _timeout("sndtimeo"),
    SO_RCVTIMEO_NEW: _timeout("rcvtimeo"),
    SO_SNDTIMEO_NEW: _timeout("sndtimeo"),
    SO_TIMESTAMP: _timestamp(SO_TIMESTAMP),
    SO_TIMESTAMPNS: _timestamp(SO_TIMESTAMPNS),
    SO_TIMESTAMP_NEW: _timestamp(SO_TIMESTAMP_NEW),
    SO_TIMESTAMPNS_NEW: _timestamp(SO_TIMESTAMPNS_NEW),
    SO_TIMESTAMPING: _timestamping(False),
    SO_TIMESTAMPING_NEW: _timestamping(True),
    SO_ACCEPTCONN: _readonly(lambda sk: int(sk.listening)),
    SO_SNDBUFFORCE: (None, _force_sndbuf),
    SO_RCVBUFFORCE: (None, _force_rcvbuf),
    SO_MARK: (lambda sk, optlen, now: _signed(sk.mark), _set_mark),
    SO_PROTOCOL: _readonly(lambda sk: sk.protocol),
    SO_DOMAIN: _readonly(lambda sk: sk.family),
    SO_RXQ_OVFL: _flag(F_RXQ_OVFL),
    SO_PEEK_OFF: (lambda sk, optlen, now: sk.peek_off, _set_peek_off),
    SO_SELECT_ERR_QUEUE: _flag(F_SELECT_ERR_QUEUE),
    SO_MAX_PACING_RATE: (_get_pacing_rate, _set_pacing_rate),
    SO_BUF_LOCK: (lambda sk, optlen, now: sk.userlocks & _BUF_LOCKS, _set_buf_lock),
    SO_INCOMING_NAPI_ID: _readonly(lambda sk: 0),
    SO_MEMINFO: (_get_meminfo, None),
    SO_ZEROCOPY: (_flag(F_ZEROCOPY)[0], _set_zerocopy),
    SO_BINDTODEVICE: (_get_device, _set_device),
    SO_BINDTOIFINDEX: (lambda sk, optlen, now: sk.bindtodevice, _set_ifindex),
}


def _signed(value: int) -> int:
    return value - (1 << 32) if value > INT_MAX else value


# -- SOL_IP and SOL_IPV6 -------------------------------------------------------------------


def _set_tos(sk: Sock, number: int, value: bytes, now: int) -> None:
    before = sk.tos
    sk.tos = _with_own_ecn(sk, number & 0xFF, before)
    sk.ip_template = None
    if sk.tos != before:
        _reset_route(sk)


def _set_tclass(sk: Sock, number: int, value: bytes, now: int) -> None:
    if not -1 <= number <= 255:
        raise error(EINVAL)
    before = sk.tclass
    sk.tclass = _with_own_ecn(sk, max(number, 0), before)
    sk.ip_template = None
    if sk.tclass != before:
        _reset_route(sk)


def _with_own_ecn(sk: Sock, number: int, before: int) -> int:
    """TCP owns the ECN bits."""
    return number & ~_ECN_MASK | before & _ECN_MASK if sk.type == SOCK_STREAM else number


def _set_ttl(sk: Sock, number: int, value: bytes, now: int) -> None:
    if not value or (number != -1 and not 1 <= number <= 255):
        raise error(EINVAL)
    sk.ttl = number
    sk.ip_template = None


def _get_mtu(sk: Sock, optlen: int, now: int) -> int:
    """The path MTU of a connected socket."""
    if sk.dst is None or not sk.daddr:
        raise error(ENOTCONN)
    mtu = sk.dst.mtu(now)
    return mtu if sk.dst.version == 6 else min(mtu, _IP_MAX_MTU)


def _recverr(name: str) -> Option:
    """IP_RECVERR, IPV6_RECVERR: off also empties the queue."""
    get, _ = _attr(name)

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        setattr(sk, name, number != 0)
        if not number:
            purge_errors(sk)

    return get, put


def _set_v6only(sk: Sock, number: int, value: bytes, now: int) -> None:
    if sk.sport:
        raise error(EINVAL)
    sk.v6only = number != 0


def _set_freebind(sk: Sock, number: int, value: bytes, now: int) -> None:
    if not value:
        raise error(EINVAL)
    sk.freebind = number != 0


_FREEBIND: Option = (lambda sk, optlen, now: int(sk.freebind), _set_freebind)


def _mtu_discover(name: str) -> Option:
    get, _ = _attr(name)

    def put(sk: Sock, number: int, value: bytes, now: int) -> None:
        if not 0 <= number <= PMTUDISC_OMIT:
            raise error(EINVAL)
        setattr(sk, name, number)
        sk.ip_template = None

    return get, put


def _set_frag_size(sk: Sock, number: int, value: bytes, now: int) -> None:
    """IPV6_MTU: bounds the fragments, not what IPV6_MTU says of the path."""
    if number and number < MIN_MTU:
        raise error(EINVAL)
    sk.frag_size = number


def _set_port_range(sk: Sock, number: int, value: bytes, now: int) -> None:
    low, high = number & 0xFFFF, number >> 16 & 0xFFFF
    if len(value) != _INT.size or (low and high and low > high):
        raise error(EINVAL)
    sk.port_range = number & 0xFFFFFFFF


_IP: dict[int, Option] = {
    IP_TOS: (lambda sk, optlen, now: sk.tos, _set_tos),
    IP_TTL: (
        lambda sk, optlen, now: sk.net.sysctl.ip_default_ttl if sk.ttl < 0 else sk.ttl,
        _set_ttl,
    ),
    IP_PKTINFO: _flag(F_PKTINFO),
    IP_MTU_DISCOVER: _mtu_discover("pmtudisc"),
    IP_RECVERR: _recverr("recverr"),
    IP_RECVTTL: _flag(F_RECVTTL),
    IP_RECVTOS: _flag(F_RECVTOS),
    IP_MTU: (_get_mtu, None),
    IP_FREEBIND: _FREEBIND,
    IP_RECVORIGDSTADDR: _flag(F_RECVORIGDSTADDR),
    IP_MINTTL: _ranged("minttl", 0, 255),
    IP_BIND_ADDRESS_NO_PORT: _flag(F_NO_PORT),
    IP_LOCAL_PORT_RANGE: (lambda sk, optlen, now: _signed(sk.port_range), _set_port_range),
    **multicast.IP_OPTIONS,
    **source_filter.IP_OPTIONS,
}

_IPV6: dict[int, Option] = {
    IPV6_UNICAST_HOPS: (
        lambda sk, optlen, now: _HOPS_DEFAULT if sk.hop_limit < 0 else sk.hop_limit,
        _ranged("hop_limit", -1, 255)[1],
    ),
    IPV6_MTU_DISCOVER: _mtu_discover("pmtudisc6"),
    IPV6_MTU: (_get_mtu, _set_frag_size),
    IPV6_RECVERR: _recverr("recverr6"),
    IPV6_V6ONLY: (lambda sk, optlen, now: int(sk.v6only), _set_v6only),
    IPV6_RECVPKTINFO: _flag(F_RECVPKTINFO6),
    IPV6_RECVHOPLIMIT: _flag(F_RECVHOPLIMIT),
    IPV6_DONTFRAG: _flag(F_DONTFRAG),
    IPV6_RECVTCLASS: _flag(F_RECVTCLASS),
    IPV6_TCLASS: (lambda sk, optlen, now: sk.tclass, _set_tclass),
    IPV6_MINHOPCOUNT: _ranged("minttl", 0, 255),
    IPV6_RECVORIGDSTADDR: _flag(F_RECVORIGDSTADDR6),
    IPV6_FREEBIND: _FREEBIND,
    **multicast.IPV6_OPTIONS,
    **source_filter.IPV6_OPTIONS,
}

_LEVELS: dict[int, dict[int, Option]] = {SOL_SOCKET: _SOCKET, SOL_IP: _IP, SOL_IPV6: _IPV6}


# -- entry points --------------------------------------------------------------------------


def read_int(value: bytes) -> int:
    """The int at the start of `value`; EINVAL if it is shorter than one."""
    if len(value) < _INT.size:
        raise error(EINVAL)
    number: int = _INT.unpack_from(value)[0]
    return number


def write_int(value: int, optlen: int) -> bytes:
    """`value` as an int, cut to the caller's buffer."""
    return _INT.pack(value)[:optlen]


def unknown_option(sk: Sock, level: int, getting: bool) -> OSError:
    """The error for an option that no table has."""
    if getting and sk.family != AF_INET6 and level not in (SOL_SOCKET, SOL_IP):
        return error(EOPNOTSUPP)
    return error(ENOPROTOOPT)


def set_common(sk: Sock, level: int, name: int, value: bytes, now: int) -> bool:
    """Set an option of the common tables; False if they do not have it."""
    option = _find(sk, level, name)
    if option is None:
        known = _is_level_of(sk, level) and (level != SOL_IPV6 or is_kept(level, name))
        return known and set_kept(sk, level, name, _number(level, name, value), value)
    number = _number(level, name, value)
    if option[1] is None:
        return False
    option[1](sk, number, value, now)
    return True


def _number(level: int, name: int, value: bytes) -> int:
    """What a setter takes for a number, as its level reads it."""
    if level == SOL_IP:
        return read_int(value) if len(value) >= _INT.size else value[0] if value else 0
    if (level, name) == (SOL_SOCKET, SO_BINDTODEVICE):
        return 0
    if (level, name) == (SOL_IPV6, IPV6_DONTFRAG) and len(value) < _INT.size:
        return 0  # the one of its level that lets it pass
    return read_int(value) if level in (SOL_SOCKET, SOL_IPV6) else 0


def _is_level_of(sk: Sock, level: int) -> bool:
    return level in _LEVELS and (level != SOL_IPV6 or sk.family == AF_INET6)


def get_common(sk: Sock, level: int, name: int, optlen: int, now: int) -> bytes | None:
    """The value of an option of the common tables, at most `optlen` bytes of it; None if
    they do not have it."""
    option = _find(sk, level, name)
    if optlen < 0:
        if level in (SOL_SOCKET, SOL_IP):
            raise error(EINVAL)
        optlen = _INT.size  # IPv6 takes it for a large number
    value: int | bytes | None = None
    if option is None:
        value = get_kept(sk, level, name, optlen) if _is_level_of(sk, level) else None
    elif option[0] is not None:
        value = option[0](sk, optlen, now)
    if value is None:
        return None
    if isinstance(value, bytes):
        return value[:optlen]
    if level == SOL_IP and 0 < optlen < _INT.size and 0 <= value <= 255:
        return bytes((value,))
    return write_int(value, optlen)


def _find(sk: Sock, level: int, name: int) -> Option | None:
    return _LEVELS[level].get(name) if _is_level_of(sk, level) else None
