"""Sending datagrams: what a call is asked, and where to (rule E-1).

A send call goes through the kernel's checks in the kernel's order: length and flags,
the pending datagram of a corked socket (`udp.cork`), the address, control messages, the
route, permission to broadcast; then size and room (`udp.output`). Only then is anything
made; on an error nothing is sent and nothing stays behind.

Sources: Linux `udp_sendmsg`, `udpv6_sendmsg`, `udp_lib_get_port`.
"""

from __future__ import annotations

from errno import (
    EACCES,
    EADDRINUSE,
    EAFNOSUPPORT,
    EAGAIN,
    EDESTADDRREQ,
    EINVAL,
    EMSGSIZE,
    ENETUNREACH,
    EOPNOTSUPP,
)

from ustack.sock.cmsg import parse_send
from ustack.sock.dst import Dst
from ustack.sock.errors import error
from ustack.sock.proto import Address, Cmsg
from ustack.sock.sock import (
    AF_INET,
    F_DONTROUTE,
    MSG_CONFIRM,
    MSG_DONTROUTE,
    MSG_MORE,
    MSG_OOB,
    MSG_PROBE,
)
from ustack.sock.wait import Op
from ustack.udp import cork, output
from ustack.udp.sock import Cork, UdpSock
from ustack.wire.packet import Buffer

_MAX_LEN = 0xFFFF


def sendmsg(
    sk: UdpSock,
    data: Buffer,
    flags: int,
    now: int,
    addr: Address | None = None,
    control: tuple[Cmsg, ...] = (),
) -> int | Op[int]:
    """Send one datagram, or add to the pending one (Linux: `udp_sendmsg`)."""
    if not sk.sport:
        autobind(sk)
    length = len(data)
    if length > _MAX_LEN:
        raise error(EMSGSIZE)
    if flags & MSG_OOB and sk.family == AF_INET:
        raise error(EOPNOTSUPP)
    if sk.cork is not None:
        pending = sk.cork
    else:
        pending = _prepare(sk, addr, control)
        if flags & MSG_DONTROUTE or sk.inet_flags & F_DONTROUTE:
            if pending.dst.gateway is not None:
                raise error(ENETUNREACH)
        if flags & MSG_PROBE:  # only the way was to be tried
            return _probe(pending, length, flags)
        if not (flags & MSG_MORE or sk.corked):
            return output.send_at_once(sk, pending, data, flags, now)
        sk.cork = pending
    return cork.append(sk, pending, data, flags, now)


def autobind(sk: UdpSock) -> None:
    """Give an unbound socket a port; EAGAIN if there is none left (Linux: `inet_autobind`)."""
    try:
        sk.host.ports.bind(sk, sk.rcv_saddr, 0)
    except OSError as why:
        raise error(EAGAIN if why.errno == EADDRINUSE else why.errno or EINVAL) from None
    sk.host.table.hash(sk)


def _probe(pending: Cork, length: int, flags: int) -> int:
    if flags & MSG_CONFIRM and not length:
        return 0
    return length


# -- where to ------------------------------------------------------------------------------


def _prepare(sk: UdpSock, addr: Address | None, control: tuple[Cmsg, ...]) -> Cork:
    """Destination, source and route of a new datagram, with what its control messages ask."""
    if addr is None:
        if not sk.daddr:
            raise error(EDESTADDRREQ)
        daddr, dport = sk.daddr, sk.dport
    else:
        daddr, dport = addr
        if not dport:
            raise error(EINVAL)
        daddr = check_dest(sk, daddr)
    if control:
        return _prepare_with(sk, daddr, dport, control)
    if addr is None and sk.dst is not None and not sk.dst.obsolete:
        return Cork(sk.dst, sk.saddr, daddr, dport, sk.ttl, sk.tos)
    dst = route(sk, daddr, sk.saddr, sk.bindtodevice)
    if addr is None:
        sk.dst = dst
    return Cork(dst, sk.saddr or dst.saddr, dst.daddr, dport, sk.ttl, sk.tos)


def _prepare_with(sk: UdpSock, daddr: bytes, dport: int, control: tuple[Cmsg, ...]) -> Cork:
    wanted = parse_send(sk, control, len(daddr) == 16)
    if wanted.saddr and not sk.net.is_local(wanted.saddr):
        raise error(EINVAL if len(daddr) == 16 else ENETUNREACH)
    saddr = wanted.saddr or sk.saddr
    dst = route(sk, daddr, saddr, wanted.oif or sk.bindtodevice)
    pending = Cork(dst, saddr or dst.saddr, dst.daddr, dport, sk.ttl, sk.tos)
    if wanted.ttl >= 0:
        pending.ttl = wanted.ttl
    if wanted.tos >= 0:
        pending.tos = wanted.tos
    pending.gso_size = wanted.gso_size
    pending.dontfrag = wanted.dontfrag
    return pending


def check_dest(sk: UdpSock, daddr: bytes) -> bytes:
    """`daddr` as a destination of `sk`. The wildcard is left for the route to resolve, as
    16 zero bytes on an IPv6 socket; EAFNOSUPPORT, ENETUNREACH for the wrong family."""
    if sk.family == AF_INET:
        if len(daddr) == 16:
            raise error(EAFNOSUPPORT)
        return daddr
    if len(daddr) == 4:
        if sk.v6only:
            raise error(ENETUNREACH)
        return daddr
    if len(sk.saddr) == 4:  # bound or connected to a mapped address
        if daddr:
            raise error(EAFNOSUPPORT)
        return b""
    return daddr or bytes(16)


def route(sk: UdpSock, daddr: bytes, saddr: bytes, oif: int) -> Dst:
    """The path of a datagram; ENETUNREACH, EACCES for a broadcast without SO_BROADCAST."""
    try:
        dst = sk.net.route(daddr, saddr or None, oif)
    except OSError as why:
        if why.errno == ENETUNREACH:
            sk.net.mib.inc("Ip6OutNoRoutes" if len(daddr) == 16 else "IpOutNoRoutes")
        raise
    if dst.broadcast and not sk.broadcast:
        raise error(EACCES)
    return dst
