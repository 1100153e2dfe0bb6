"""An ICMP error on its way to a transport, and what it means to a program.

`ip.icmp` and `ip.icmpv6` check the message and its quoted packet and make an `IcmpError`;
TCP and UDP find the socket by the quoted ports and translate type and code to an errno.

Sources: Linux `icmp_err_convert` (net/ipv4/icmp.c), `icmpv6_err_convert`; RFC 1122 3.2.2.
"""

from __future__ import annotations

from errno import (
    EACCES,
    ECONNREFUSED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)

from ustack.wire import icmp, icmpv6
from ustack.wire.packet import RxPacket

# (errno, fatal) by code of a destination unreachable message
_UNREACH4: tuple[tuple[int, bool], ...] = (
    (ENETUNREACH, False),
    (EHOSTUNREACH, False),
    (ENOPROTOOPT, True),
    (ECONNREFUSED, True),
    (EMSGSIZE, True),
    (EOPNOTSUPP, False),
    (ENETUNREACH, True),
    (EHOSTDOWN, True),
    (ENONET, True),
    (ENETUNREACH, True),
    (EHOSTUNREACH, True),
    (ENETUNREACH, False),
    (EHOSTUNREACH, False),
    (EHOSTUNREACH, True),
    (EHOSTUNREACH, True),
    (EHOSTUNREACH, True),
)
_UNREACH6: tuple[tuple[int, bool], ...] = (
    (ENETUNREACH, False),
    (EACCES, True),
    (EHOSTUNREACH, False),
    (EHOSTUNREACH, False),
    (ECONNREFUSED, True),
    (EACCES, True),
    (EACCES, True),
)


class IcmpError:
    """A validated ICMP error about a packet of ours.

    `src`, `dst`, `proto` are those of the quoted packet (`src` is ours) and `quoted` its
    bytes from the transport header on, at least 8 of them. `info` is the MTU of a
    fragmentation-needed or packet-too-big message, the pointer of a parameter problem,
    else 0, or of an ICMPv6 message whatever stands there. `offender` is who sent the
    message, `rx` the packet that it came in.
    """

    __slots__ = (
        "code",
        "dst",
        "info",
        "now",
        "offender",
        "proto",
        "quoted",
        "rx",
        "src",
        "type",
        "version",
    )

    def __init__(
        self,
        version: int,
        type_: int,
        code: int,
        info: int,
        offender: bytes,
        src: bytes,
        dst: bytes,
        proto: int,
        quoted: bytes,
        now: int,
        rx: RxPacket | None = None,
    ) -> None:
        self.version = version
        self.type = type_
        self.code = code
        self.info = info
        self.offender = offender
        self.src = src
        self.dst = dst
        self.proto = proto
        self.quoted = quoted
        self.now = now
        self.rx = rx


def icmp_err_convert(version: int, type_: int, code: int) -> tuple[int, bool]:
    """(errno, fatal to a UDP socket); errno 0 for a message that says nothing (source
    quench). Whether a frag-needed is heeded depends on the socket (IP_PMTUDISC_DONT)."""
    return _convert6(type_, code) if version == 6 else _convert4(type_, code)


def _convert4(type_: int, code: int) -> tuple[int, bool]:
    if type_ == icmp.DEST_UNREACH and code < len(_UNREACH4):
        return _UNREACH4[code]
    if type_ == icmp.SOURCE_QUENCH:
        return 0, False
    if type_ == icmp.PARAM_PROBLEM:
        return EPROTO, True
    return EHOSTUNREACH, False


def _convert6(type_: int, code: int) -> tuple[int, bool]:
    if type_ == icmpv6.DEST_UNREACH:
        return _UNREACH6[code] if code < len(_UNREACH6) else (EPROTO, True)
    if type_ == icmpv6.PACKET_TOO_BIG:
        return EMSGSIZE, False
    if type_ == icmpv6.TIME_EXCEEDED:
        return EHOSTUNREACH, False
    return EPROTO, type_ == icmpv6.PARAM_PROBLEM
