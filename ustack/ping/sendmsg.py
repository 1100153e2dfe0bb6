"""Sending echo requests: the program's header with the socket's identifier and a checksum.

Sources: Linux `ping_common_sendmsg`, `ping_v4_sendmsg`, `ping_v6_sendmsg`.
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
    ENOBUFS,
    EOPNOTSUPP,
)

from ustack.ping.sock import PingSock
from ustack.sock import datagram, multicast, notify
from ustack.sock.addr import LOOPBACK4, LOOPBACK6, is_multicast
from ustack.sock.cmsg import SendOptions, parse_send
from ustack.sock.dst import Dst
from ustack.sock.error_queue import queue_local
from ustack.sock.errors import error
from ustack.sock.notify import TX_RECORD
from ustack.sock.proto import Address, Cmsg
from ustack.sock.sock import F_DONTROUTE, MSG_DONTROUTE, MSG_OOB, MSG_PROBE, PMTUDISC_PROBE
from ustack.sock.truesize import datagram_truesize
from ustack.sock.wait import Op
from ustack.wire import icmp, icmpv6
from ustack.wire.packet import DROPPED, Buffer

MAX_LEN = 0xFFFF


def sendmsg(
    sk: PingSock,
    data: Buffer,
    flags: int,
    now: int,
    addr: Address | None,
    control: tuple[Cmsg, ...],
) -> int | Op[int]:
    """Send one echo request, `data` from its ICMP header on."""
    if not sk.sport:
        autobind(sk)
    if len(data) > MAX_LEN:
        raise error(EMSGSIZE)
    if len(data) < icmp.HEADER_LEN:
        raise error(EINVAL)
    if flags & MSG_OOB:
        raise error(EOPNOTSUPP)
    if data[0] != (icmpv6.ECHO if sk.v6 else icmp.ECHO) or data[1]:
        raise error(EINVAL)
    daddr = _destination(sk, addr)
    wanted = parse_send(sk, control, sk.v6) if control else SendOptions()
    dst, saddr = _route(sk, daddr, wanted)
    if flags & MSG_DONTROUTE or sk.inet_flags & F_DONTROUTE:
        check_on_link(dst)
    if flags & MSG_PROBE:
        return len(data)
    timeo = sk.wait_budget(sk.sndtimeo, flags)
    if not datagram.has_room(sk, timeo):
        return _wait_and_send(sk, data, dst, saddr, wanted, timeo, now)
    return _transmit(sk, data, dst, saddr, wanted, now)


def autobind(sk: PingSock) -> None:
    """EAGAIN if there is no identifier left."""
    try:
        sk.host.bind(sk, 0)
    except OSError as why:
        raise error(EAGAIN if why.errno == EADDRINUSE else why.errno or EINVAL) from None


def _destination(sk: PingSock, addr: Address | None) -> bytes:
    if addr is None:
        if not sk.daddr:
            raise error(EDESTADDRREQ)
        return sk.daddr
    return check_family(sk, addr[0])


def check_family(sk: PingSock, daddr: bytes) -> bytes:
    """A destination of the socket's family; the wildcard is this host."""
    if not daddr:
        return LOOPBACK6 if sk.v6 else LOOPBACK4
    if sk.v6 and len(daddr) == 4:
        raise error(EINVAL)
    if not sk.v6 and len(daddr) == 16:
        raise error(EAFNOSUPPORT)
    return daddr


def _route(sk: PingSock, daddr: bytes, wanted: SendOptions) -> tuple[Dst, bytes]:
    """The way to `daddr`, and the address to send from."""
    if wanted.saddr and not sk.net.is_local(wanted.saddr):
        raise error(EINVAL if sk.v6 else ENETUNREACH)
    return route(sk, daddr, wanted.saddr or sk.saddr, wanted.oif or sk.bindtodevice)


def route(sk: PingSock, daddr: bytes, saddr: bytes, oif: int) -> tuple[Dst, bytes]:
    """The way, and the address to send from; EACCES for a broadcast without SO_BROADCAST."""
    if is_multicast(daddr):
        oif = oif or multicast.device(sk, sk.v6)
        if not sk.v6:
            saddr = saddr or multicast.source(sk)
    dst = sk.net.route(daddr, saddr or None, oif)
    if dst.broadcast and not sk.broadcast:
        raise error(EACCES)
    return dst, saddr or dst.saddr


def check_on_link(dst: Dst) -> None:
    """For MSG_DONTROUTE, which IPv6 does not heed: ENETUNREACH if a router is needed."""
    if dst.gateway is not None and dst.version == 4:
        raise error(ENETUNREACH)


def _wait_and_send(
    sk: PingSock, data: Buffer, dst: Dst, saddr: bytes, wanted: SendOptions, timeo: int, now: int
) -> Op[int]:
    now = yield from datagram.wait_for_room(sk, timeo, now)
    return _transmit(sk, data, dst, saddr, wanted, now)


def _transmit(
    sk: PingSock, data: Buffer, dst: Dst, saddr: bytes, wanted: SendOptions, now: int
) -> int:
    v6, daddr = sk.v6, dst.daddr
    ttl, tos = (sk.hop_limit, sk.tclass) if v6 else (sk.ttl, sk.tos)
    if dst.multicast:
        ttl = multicast.hops(sk, v6)
    ttl = wanted.ttl if wanted.ttl >= 0 else ttl
    tos = wanted.tos if wanted.tos >= 0 else tos
    discovery = sk.pmtudisc6 if v6 else sk.pmtudisc
    mtu = dst.mtu(now) if discovery < PMTUDISC_PROBE else dst.dev.mtu
    charge, before_last = datagram_truesize(40 if v6 else 20, len(data), mtu)
    if before_last and sk.wmem_alloc + before_last >= 2 * sk.sndbuf:
        raise error(ENOBUFS)
    sequence = int.from_bytes(data[6:8], "big")
    if v6:
        message = icmpv6.echo(saddr, daddr, sk.sport, sequence, data[8:])
    else:
        message = icmp.echo(sk.sport, sequence, data[8:])
    header, payload = message[:8], memoryview(message)[8:]
    stamps = wanted.stamps if wanted.stamps >= 0 else sk.tsflags & TX_RECORD
    if stamps:
        notify.datagram_leaves(sk, stamps)
    try:
        verdict = sk.net.send_datagram(
            sk, sk.protocol, saddr, daddr, dst, header, [payload], len(payload), 0, charge, ttl,
            tos, now,
        )  # fmt: skip
    except OSError as why:
        if why.errno == EMSGSIZE:
            queue_local(sk, EMSGSIZE, (daddr, sk.dport), mtu, now)
        raise
    if stamps:
        notify.datagram_left(
            sk, stamps, wanted.opt_id, 0, verdict == DROPPED, charge, dst.dev.ifindex, now
        )
    if verdict == DROPPED:
        raise error(ENOBUFS)
    group = "Icmp6" if v6 else "Icmp"
    sk.net.mib.inc(group + "OutMsgs")
    sk.net.mib.inc(group + "OutEchos")
    return len(data)
