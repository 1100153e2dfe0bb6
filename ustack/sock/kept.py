"""Options that change nothing in a stack: kept, so that a program reads back what it set.

Programs set many options out of habit. One that steers what a stack does not have (a
processor, a driver, a peer's credentials) is accepted or refused as by the kernel, within
the kernel's range, and answers with the kernel's default before. An option whose effect
somebody would miss is not here: it is refused with ENOPROTOOPT, so that the program knows.

Structure: a table, (level, name) -> `Rule`. Values that are not the default are in
`Sock.kept`, which most sockets do not have.

Limits: socket filters and programs (SO_ATTACH_FILTER, SO_ATTACH_BPF) are refused, whatever
their content; SO_TXTIME does not delay; nobody may TCP_REPAIR. IP options cannot be set.

Sources: Linux `sk_setsockopt`, `sk_getsockopt`, `do_ip_setsockopt`, `do_ipv6_setsockopt`,
`do_tcp_setsockopt`, `do_tcp_getsockopt`; values as observed on 6.18.
"""

from __future__ import annotations

from errno import EBADF, EINVAL, ENODATA, ENOENT, ENOPROTOOPT, EOPNOTSUPP, EPERM
from struct import Struct

from ustack.sock.errors import error
from ustack.sock.sock import SOCK_STREAM, Sock

_SOCKET, _IP, _TCP, _IPV6 = 1, 0, 6, 41
_INT_MAX = 0x7FFFFFFF
_TXTIME = Struct("iI")  # clock, flags
_CLOCKS = (0, 1, 11)  # CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_TAI
_QUAD = Struct("Q")

SO_LOCK_FILTER, SO_COOKIE, SO_TXTIME, SO_NETNS_COOKIE, SO_TXREHASH = 44, 57, 61, 71, 74
_SO_ATTACH_BPF, _SO_ATTACH_REUSEPORT_EBPF = 50, 52


class Rule:
    """How one option behaves. A `set_errno` or `get_errno` other than 0 refuses the call;
    what is set must lie in [low, high]; a `boolean` is kept as 0 or 1, with `drop` nothing is
    kept."""

    __slots__ = ("boolean", "default", "drop", "get_errno", "high", "low", "set_errno")

    def __init__(
        self,
        default: int | bytes = 0,
        set_errno: int = 0,
        get_errno: int = 0,
        low: int = -_INT_MAX - 1,
        high: int = _INT_MAX,
        boolean: bool = False,
        drop: bool = False,
    ) -> None:
        self.default = default
        self.set_errno = set_errno
        self.get_errno = get_errno
        self.low = low
        self.high = high
        self.boolean = boolean
        self.drop = drop


def _boolean(default: int = 0) -> Rule:
    return Rule(default, boolean=True)


def _fixed(value: int | bytes) -> Rule:
    return Rule(value, set_errno=ENOPROTOOPT)


def _refused(set_errno: int, get_errno: int = ENOPROTOOPT) -> Rule:
    return Rule(0, set_errno, get_errno)


_RULES: dict[tuple[int, int], Rule] = {
    (_SOCKET, 1): _boolean(),  # SO_DEBUG
    (_SOCKET, 14): Rule(drop=True),  # SO_BSDCOMPAT
    (_SOCKET, 16): _refused(EOPNOTSUPP, EOPNOTSUPP),  # SO_PASSCRED
    (_SOCKET, 17): _fixed(bytes(4) + b"\xff" * 8),  # SO_PEERCRED: nobody
    (_SOCKET, 26): Rule(b"", set_errno=EINVAL),  # SO_ATTACH_FILTER
    (_SOCKET, 27): _refused(ENOENT),  # SO_DETACH_FILTER
    (_SOCKET, 34): _refused(EOPNOTSUPP, EOPNOTSUPP),  # SO_PASSSEC
    (_SOCKET, 41): _boolean(),  # SO_WIFI_STATUS
    (_SOCKET, 43): _boolean(),  # SO_NOFCS
    (_SOCKET, SO_LOCK_FILTER): _boolean(),
    (_SOCKET, 46): Rule(low=0),  # SO_BUSY_POLL
    (_SOCKET, 48): _fixed(64),  # SO_BPF_EXTENSIONS
    (_SOCKET, 49): Rule(-1),  # SO_INCOMING_CPU
    (_SOCKET, _SO_ATTACH_BPF): _refused(EBADF),
    (_SOCKET, 51): _refused(EINVAL),  # SO_ATTACH_REUSEPORT_CBPF
    (_SOCKET, _SO_ATTACH_REUSEPORT_EBPF): _refused(EBADF),
    (_SOCKET, 53): Rule(get_errno=ENOPROTOOPT, drop=True),  # SO_CNX_ADVICE
    (_SOCKET, 59): _refused(ENOPROTOOPT, ENODATA),  # SO_PEERGROUPS
    (_SOCKET, 68): _refused(EINVAL),  # SO_DETACH_REUSEPORT_BPF
    (_SOCKET, 69): _boolean(),  # SO_PREFER_BUSY_POLL
    (_SOCKET, 70): Rule(get_errno=ENOPROTOOPT, low=0, high=65535, drop=True),  # ..._BUDGET
    (_SOCKET, 73): Rule(set_errno=EOPNOTSUPP, low=0),  # SO_RESERVE_MEM
    (_SOCKET, SO_TXREHASH): Rule(1, low=-1, high=1),
    (_SOCKET, 75): _boolean(),  # SO_RCVMARK
    (_SOCKET, 76): _refused(EOPNOTSUPP, EOPNOTSUPP),  # SO_PASSPIDFD
    (_SOCKET, 77): _refused(ENOPROTOOPT, ENODATA),  # SO_PEERPIDFD
    (_SOCKET, 82): _boolean(),  # SO_RCVPRIORITY
    (_SOCKET, 83): _refused(EOPNOTSUPP, EOPNOTSUPP),  # SO_PASSRIGHTS
    (_IP, 3): _fixed(0),  # IP_HDRINCL, of raw sockets
    (_IP, 5): Rule(set_errno=EINVAL),  # IP_ROUTER_ALERT
    (_IP, 18): _boolean(),  # IP_PASSSEC
    (_IP, 22): _fixed(0),  # IP_NODEFRAG
    (_IP, 26): Rule(low=0, high=1),  # IP_RECVERR_RFC4884
    (_IP, 52): _fixed(0),  # IP_PROTOCOL
    (_IPV6, 22): _fixed(0),  # IPV6_ROUTER_ALERT
    (_IPV6, 30): _boolean(),  # IPV6_ROUTER_ALERT_ISOLATE
    (_IPV6, 31): Rule(low=0, high=1),  # IPV6_RECVERR_RFC4884
    (_IPV6, 33): _boolean(),  # IPV6_FLOWINFO_SEND
    (_TCP, 14): _refused(EINVAL),  # TCP_MD5SIG
    (_TCP, 19): Rule(set_errno=EPERM),  # TCP_REPAIR
    (_TCP, 20): _refused(EPERM, EINVAL),  # TCP_REPAIR_QUEUE
    (_TCP, 21): _refused(EINVAL, EINVAL),  # TCP_QUEUE_SEQ
    (_TCP, 22): _refused(EINVAL),  # TCP_REPAIR_OPTIONS
    (_TCP, 29): _refused(EPERM, EINVAL),  # TCP_REPAIR_WINDOW
    (_TCP, 30): Rule(set_errno=EOPNOTSUPP, low=0, high=1),  # TCP_FASTOPEN_CONNECT
    (_TCP, 31): Rule(b"", set_errno=ENOENT),  # TCP_ULP
    (_TCP, 32): _refused(EINVAL),  # TCP_MD5SIG_EXT
    (_TCP, 35): _refused(ENOPROTOOPT, EINVAL),  # TCP_ZEROCOPY_RECEIVE
    (_TCP, 43): _fixed(0),  # TCP_IS_MPTCP
}  # fmt: skip


def is_kept(level: int, name: int) -> bool:
    """Is the option in the table?"""
    return (level, name) in _RULES


def set_kept(sk: Sock, level: int, name: int, number: int, value: bytes) -> bool:
    """Set an option of the table; false if it is not in it."""
    rule = _RULES.get((level, name))
    if level == _SOCKET:
        if name == SO_TXTIME:
            keep(sk, level, name, _txtime(value))
            return True
        if name == SO_TXREHASH and sk.type != SOCK_STREAM:
            raise error(EOPNOTSUPP)
        if name in (_SO_ATTACH_BPF, _SO_ATTACH_REUSEPORT_EBPF) and len(value) != 4:
            raise error(EINVAL)
        if name == SO_LOCK_FILTER and not number and kept(sk, level, name):
            raise error(EPERM)
    if rule is None:
        return False
    if not rule.low <= number <= rule.high:
        raise error(EINVAL)
    if rule.set_errno:
        raise error(rule.set_errno)
    if not rule.drop:
        number = number != 0 if rule.boolean else number
        keep(sk, level, name, 1 if (name, number) == (SO_TXREHASH, -1) else int(number))
    return True


def _txtime(value: bytes) -> bytes:
    if len(value) != _TXTIME.size:
        raise error(EINVAL)
    clock, flags = _TXTIME.unpack(value)
    if clock not in _CLOCKS or flags & ~3:
        raise error(EINVAL)
    return value


def keep(sk: Sock, level: int, name: int, value: int | bytes) -> None:
    """Have the option answer `value` from now on."""
    if sk.kept is None:
        sk.kept = {}
    sk.kept[level, name] = value


def kept(sk: Sock, level: int, name: int) -> int | bytes:
    """What was set, 0 if nothing was."""
    return sk.kept.get((level, name), 0) if sk.kept is not None else 0


def get_kept(sk: Sock, level: int, name: int, optlen: int) -> int | bytes | None:
    """The value of an option of the table; None if it is not in it."""
    rule = _RULES.get((level, name))
    if level == _SOCKET:
        if name in (SO_COOKIE, SO_NETNS_COOKIE):
            return _cookie(sk, name, optlen)
        if name == SO_TXTIME:
            return kept(sk, level, name) or bytes(_TXTIME.size)
        if name == SO_TXREHASH and sk.type != SOCK_STREAM:
            raise error(EOPNOTSUPP)
    if rule is None:
        return None
    if rule.get_errno:
        raise error(rule.get_errno)
    if sk.kept is not None:
        return sk.kept.get((level, name), rule.default)
    return rule.default


def _cookie(sk: Sock, name: int, optlen: int) -> bytes:
    """A number that no other socket of this stack has; all stacks are one namespace."""
    if optlen < _QUAD.size or (name == SO_NETNS_COOKIE and optlen != _QUAD.size):
        raise error(EINVAL)
    if name == SO_NETNS_COOKIE:
        return _QUAD.pack(1)
    if not sk.cookie:
        sk.net.last_cookie += 1
        sk.cookie = sk.net.last_cookie
    return _QUAD.pack(sk.cookie)
