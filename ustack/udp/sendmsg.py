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

from ustack.sock.addr import ANY4, LOOPBACK4, LOOPBACK6, is_multicast
from ustack.sock.cmsg import parse_send
from ustack.sock.dst import Dst
from ustack.sock.errors import error
from ustack.sock.multicast import device, hops
from ustack.sock.multicast import source as multicast_source
from ustack.sock.notify import TX_RECORD
from ustack.sock.options import SOL_UDP
from ustack.sock.proto import Address, Cmsg
from ustack.sock.sock import (
    AF_INET,
    F_DONTROUTE,
    F_ZEROCOPY,
    MSG_CONFIRM,
    MSG_DONTROUTE,
    MSG_MORE,
    MSG_OOB,
    MSG_PROBE,
    MSG_ZEROCOPY,
)
from ustack.sock.wait import Op
from ustack.udp import cork, output
from ustack.udp.sock import Cork, UdpSock
from ustack.wire.packet import Buffer


def sendmsg(
    sk: UdpSock,
    data: Buffer,
    flags: int,
    now: int,
    addr: Address | None = None,
    control: tuple[Cmsg, ...] = (),
) -> int | Op[int]:
    """Send one datagram, or add to the pending one."""
    if not sk.sport:
        autobind(sk)
    if sk.family == AF_INET:
        return _sendmsg4(sk, data, flags, now, addr, control)
    return _sendmsg6(sk, data, flags, now, addr, control)


def _sendmsg4(
    sk: UdpSock,
    data: Buffer,
    flags: int,
    now: int,
    addr: Address | None,
    control: tuple[Cmsg, ...],
) -> int | Op[int]:
    """Over IPv4 (Linux: `udp_sendmsg`)."""
    if len(data) > output.MAX_LEN:
        raise error(EMSGSIZE)
    if flags & MSG_OOB:
        raise error(EOPNOTSUPP)
    if sk.cork is not None:
        if len(sk.cork.daddr) == 16:
            raise error(EINVAL)
        return _append(sk, sk.cork, data, flags, now)
    if addr is None:
        if not sk.daddr:
            raise error(EDESTADDRREQ)
        daddr, dport = sk.daddr, sk.dport
    else:
        daddr, dport = addr
        if len(daddr) == 16:
            raise error(EAFNOSUPPORT)
        if not dport:
            raise error(EINVAL)
    return _send(sk, data, flags, now, daddr, dport, addr is None, control)


def _sendmsg6(
    sk: UdpSock,
    data: Buffer,
    flags: int,
    now: int,
    addr: Address | None,
    control: tuple[Cmsg, ...],
) -> int | Op[int]:
    """On an IPv6 socket (Linux: `udpv6_sendmsg`)."""
    pending = sk.cork
    if addr is not None:
        daddr, dport = dest6(sk, addr[0]), addr[1]
    elif sk.daddr or pending is not None:
        daddr, dport = sk.daddr, sk.dport
    else:
        raise error(EDESTADDRREQ)
    if len(daddr) == 4 and (addr is not None or pending is None):
        if sk.v6only:
            raise error(ENETUNREACH)
        return _sendmsg4(sk, data, flags, now, (daddr, dport), control)
    if pending is not None:
        if len(pending.daddr) == 4:
            return _sendmsg4(sk, data, flags, now, addr, control)
        return _append(sk, pending, data, flags, now)
    if addr is not None and not dport:
        raise error(EINVAL)
    return _send(sk, data, flags, now, daddr, dport, addr is None, control)


def dest6(sk: UdpSock, daddr: bytes) -> bytes:
    """The wildcard as destination of an IPv6 socket is the loopback address, IPv4's where
    the socket is at a mapped address."""
    return daddr or (LOOPBACK4 if len(sk.saddr) == 4 else LOOPBACK6)


def _send(
    sk: UdpSock,
    data: Buffer,
    flags: int,
    now: int,
    daddr: bytes,
    dport: int,
    connected: bool,
    control: tuple[Cmsg, ...],
) -> int | Op[int]:
    """Start a datagram to `daddr`; `connected`: it is the socket's own peer."""
    corkreq = sk.corked or flags & MSG_MORE != 0
    if len(daddr) == 4 and (flags & MSG_DONTROUTE or sk.inet_flags & F_DONTROUTE):
        connected = False
    if control:
        pending = _with_control(sk, daddr, dport, connected, corkreq, control)
    elif connected:
        pending = _to_peer(sk, corkreq)
    else:
        saddr = source(sk, daddr)
        dst = route(sk, daddr, saddr, sk.bindtodevice)
        if dst.version == 4 and not dst.multicast:
            pending = Cork(dst, saddr or dst.saddr, dst.daddr, dport, sk.ttl, sk.tos)
        else:
            pending = _cork(sk, dst, saddr or dst.saddr, dst.daddr, dport)
    if sk.tsflags and not control:
        pending.stamps = sk.tsflags & TX_RECORD
    if flags & MSG_ZEROCOPY and sk.inet_flags & F_ZEROCOPY:
        pending.zerocopy = 1
    if flags & MSG_DONTROUTE or sk.inet_flags & F_DONTROUTE:
        check_on_link(pending.dst)
    probe = flags & MSG_PROBE  # only the way is to be tried
    if not corkreq or (probe and flags & MSG_CONFIRM and not data):
        return len(data) if probe else output.send_at_once(sk, pending, data, flags, now)
    if len(pending.daddr) == 4:
        output.set_flow(sk, pending.saddr, pending.daddr, pending.dport)
    if probe:
        return len(data)
    sk.cork = pending
    return cork.append(sk, pending, data, flags, now)


def _append(sk: UdpSock, pending: Cork, data: Buffer, flags: int, now: int) -> int | Op[int]:
    if flags & MSG_ZEROCOPY and sk.inet_flags & F_ZEROCOPY:
        pending.zerocopy += 1
    return cork.append(sk, pending, data, flags, now)


def autobind(sk: UdpSock) -> None:
    """Give an unbound socket a port; EAGAIN if there is none left (Linux: `inet_autobind`)."""
    try:
        sk.host.ports.bind(sk, sk.rcv_saddr, 0)
    except OSError as why:
        raise error(EAGAIN if why.errno == EADDRINUSE else why.errno or EINVAL) from None
    sk.host.table.hash(sk)


# -- where to ------------------------------------------------------------------------------


def _cork(sk: UdpSock, dst: Dst, saddr: bytes, daddr: bytes, dport: int) -> Cork:
    """A datagram along `dst`, with the socket's options for its family."""
    if dst.version == 4:
        return Cork(dst, saddr, daddr, dport, hops(sk, False) if dst.multicast else sk.ttl, sk.tos)
    ttl = hops(sk, True) if dst.multicast else sk.hop_limit
    return Cork(dst, saddr, daddr, dport, ttl, sk.tclass)


def _to_peer(sk: UdpSock, corkreq: bool) -> Cork:
    """The way to the connected peer: the cached one while it holds."""
    dst = sk.dst
    if dst is None or dst.obsolete or dst.multicast:
        dst = sk.dst = route(sk, sk.daddr, sk.saddr, sk.bindtodevice)
    elif len(sk.daddr) == 4:
        saddr, daddr, dport = sk.flow
        if corkreq:
            daddr, dport = sk.daddr, sk.dport
        return Cork(dst, saddr, daddr, dport, sk.ttl, sk.tos)
    return _cork(sk, dst, sk.saddr, sk.daddr, sk.dport)


def _with_control(
    sk: UdpSock, daddr: bytes, dport: int, to_peer: bool, corkreq: bool, control: tuple[Cmsg, ...]
) -> Cork:
    """Control messages of UDP alone leave a datagram on its way `to_peer`."""
    v6 = len(daddr) == 16
    wanted = parse_send(sk, control, v6)
    if wanted.saddr and not v6 and not sk.net.is_local(wanted.saddr):
        raise error(ENETUNREACH)
    if to_peer and all(level == SOL_UDP for level, _, _ in control):
        pending = _to_peer(sk, corkreq)
    else:
        saddr = wanted.saddr
        if not saddr:
            saddr = group_source(sk, daddr) if wanted.any_source else source(sk, daddr)
        dst = _route_by(sk, daddr, saddr, wanted.oif)
        pending = _cork(sk, dst, saddr or dst.saddr, dst.daddr, dport)
    if wanted.ttl >= 0:
        pending.ttl, pending.own_ttl = wanted.ttl, True
    if wanted.tos >= 0:
        pending.tos = wanted.tos
    pending.gso_size = wanted.gso_size
    pending.dontfrag = wanted.dontfrag
    pending.stamps = wanted.stamps if wanted.stamps >= 0 else sk.tsflags & TX_RECORD
    pending.opt_id = wanted.opt_id
    return pending


def _route_by(sk: UdpSock, daddr: bytes, saddr: bytes, oif: int) -> Dst:
    """The path by a device that a control message asks for, 0 for none. Over IPv6, with an
    address to send from, it is a wish (Linux: `ip6_route_output_flags_noref`)."""
    if len(daddr) == 16 and oif and saddr and not sk.bindtodevice and daddr != LOOPBACK6:
        try:
            return route(sk, daddr, saddr, oif)
        except OSError:
            oif = 0
    return route(sk, daddr, saddr, oif or sk.bindtodevice)


def check_on_link(dst: Dst) -> None:
    """For MSG_DONTROUTE, which IPv6 does not heed: ENETUNREACH if a router is needed."""
    if dst.gateway is not None and dst.version == 4:
        raise error(ENETUNREACH)


def source(sk: UdpSock, daddr: bytes) -> bytes:
    """The address to send from, b"" if the route decides: an IPv6 address, which a socket
    has from a connect, does not serve an IPv4 destination; another connect gave it one."""
    saddr = sk.saddr
    if len(daddr) == 4:
        if len(saddr) == 16 or saddr == ANY4:
            saddr = sk.saddr4
        if sk.mc is not None and not saddr:
            return group_source(sk, daddr)
    return saddr


def group_source(sk: UdpSock, daddr: bytes) -> bytes:
    """What IP_MULTICAST_IF says for datagrams to an IPv4 group, else b""."""
    return multicast_source(sk) if len(daddr) == 4 and is_multicast(daddr) else b""


def route(sk: UdpSock, daddr: bytes, saddr: bytes, oif: int) -> Dst:
    """The path of a datagram that the socket may send."""
    dst = path(sk, daddr, saddr, oif)
    if dst.broadcast:
        check_broadcast(sk, dst)
    return dst


def check_broadcast(sk: UdpSock, dst: Dst) -> None:
    """EACCES for a broadcast without SO_BROADCAST."""
    if dst.broadcast and not sk.broadcast:
        raise error(EACCES)


def path(sk: UdpSock, daddr: bytes, saddr: bytes, oif: int) -> Dst:
    """The path of a datagram; ENETUNREACH, EAFNOSUPPORT from an IPv4 to an IPv6 address."""
    foreign = len(daddr) == 16 and len(saddr) == 4
    if sk.mc is not None and not oif and is_multicast(daddr):
        oif = device(sk, len(daddr) == 16)
    try:
        dst = sk.net.route(daddr, None if foreign else saddr or None, oif)
    except OSError as why:
        if why.errno == ENETUNREACH:
            sk.net.mib.inc("Ip6OutNoRoutes" if len(daddr) == 16 else "IpOutNoRoutes")
        raise
    if foreign:
        raise error(EAFNOSUPPORT)
    return dst
