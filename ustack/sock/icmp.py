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

# ICMP (RFC 792)
ICMP_ECHOREPLY, ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT = 0, 3, 4, 5
ICMP_ECHO, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB = 8, 11, 12
ICMP_NET_UNREACH, ICMP_HOST_UNREACH, ICMP_PROT_UNREACH, ICMP_PORT_UNREACH = 0, 1, 2, 3
ICMP_FRAG_NEEDED = 4
ICMP_EXC_TTL, ICMP_EXC_FRAGTIME = 0, 1

# ICMPv6 (RFC 4443)
ICMPV6_DEST_UNREACH, ICMPV6_PKT_TOOBIG, ICMPV6_TIME_EXCEED, ICMPV6_PARAMPROB = 1, 2, 3, 4
ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY = 128, 129
ICMPV6_NOROUTE, ICMPV6_ADM_PROHIBITED, ICMPV6_ADDR_UNREACH, ICMPV6_PORT_UNREACH = 0, 1, 3, 4
ICMPV6_EXC_FRAGTIME = 1
ICMPV6_HDR_FIELD, ICMPV6_UNK_NEXTHDR, ICMPV6_UNK_OPTION, ICMPV6_HDR_INCOMP = 0, 1, 2, 3

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
    else 0. `offender` is who sent the message.
    """

    __slots__ = (
        "code",
        "dst",
        "info",
        "now",
        "offender",
        "proto",
        "quoted",
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


def icmp_err_convert(version: int, type_: int, code: int) -> tuple[int, bool]:
    """(errno, fatal to a UDP socket); errno 0 for a message that says nothing (source
    quench). Whether a frag-needed is heeded depends on the socket (IP_PMTUDISC_DONT)."""
    return _convert6(type_, code) if version == 6 else _convert4(type_, code)


def _convert4(type_: int, code: int) -> tuple[int, bool]:
    if type_ == ICMP_DEST_UNREACH and code < len(_UNREACH4):
        return _UNREACH4[code]
    if type_ == ICMP_SOURCE_QUENCH:
        return 0, False
    if type_ == ICMP_PARAMETERPROB:
        return EPROTO, True
    return EHOSTUNREACH, False


def _convert6(type_: int, code: int) -> tuple[int, bool]:
    if type_ == ICMPV6_DEST_UNREACH:
        return _UNREACH6[code] if code < len(_UNREACH6) else (EPROTO, True)
    if type_ == ICMPV6_PKT_TOOBIG:
        return EMSGSIZE, False
    if type_ == ICMPV6_TIME_EXCEED:
        return EHOSTUNREACH, False
    return EPROTO, type_ == ICMPV6_PARAMPROB
