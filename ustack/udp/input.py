"""Received datagrams, up to the receive queue of a socket; ICMP errors (E-25, E-26, E-37).

A datagram is checked whole at arrival, checksum included, so that what poll reports can
be read. What is refused is counted under the kernel's names. A frame that was merged
from several datagrams is taken apart again, unless the socket wants it whole (UDP_GRO).

Sources: Linux `__udp4_lib_rcv`, `udp_queue_rcv_skb`, `__udp_enqueue_schedule_skb`,
`__udp4_lib_err`, `__udp6_lib_err`; RFC 768, RFC 8200 section 8.1.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ustack.sock.error_queue import queue_icmp
from ustack.sock.icmp import IcmpError, icmp_err_convert
from ustack.sock.sock import (
    F_PKTINFO,
    F_RECVPKTINFO6,
    F_RXQ_OVFL,
    PMTUDISC_DONT,
    PMTUDISC_INTERFACE,
    PMTUDISC_OMIT,
)
from ustack.sock.truesize import condensed_truesize, rx_truesize, segmented_truesize
from ustack.udp.lookup import LOOPBACK, LOOPBACK_ITSELF
from ustack.udp.sock import Datagram, UdpSock
from ustack.wire import icmp, icmpv6
from ustack.wire.checksum import pseudo_sum, verify
from ustack.wire.packet import IPPROTO_UDP, RxPacket

if TYPE_CHECKING:
    from ustack.udp.host import UdpHost

_HEADER = Struct(">HHHH")  # source port, destination port, length, checksum
_PORTS = Struct(">HH")
HEADER_LEN = 8
_NOTED = F_PKTINFO | F_RECVPKTINFO6 | F_RXQ_OVFL
_CHECKSUM_BREAK = 76  # a kernel verifies what is longer when it is read: the socket's drop


def rcv(host: UdpHost, rx: RxPacket, many: bool = False) -> None:
    """A UDP packet for this host (Linux: `__udp4_lib_rcv`, `__udp6_lib_rcv`). `many`: it is
    a broadcast or multicast."""
    l4 = rx.l4
    available = rx.end - l4
    if available < HEADER_LEN:
        return _drop(host, rx, "UDP_TOO_SHORT")
    sport, dport, ulen, csum = _HEADER.unpack_from(rx.buf, l4)
    v6 = len(rx.src) == 16
    if ulen != available:
        if not ulen and v6:
            ulen = available  # a jumbogram (RFC 2675)
        elif not HEADER_LEN <= ulen <= available:
            return _drop(host, rx, "UDP_TOO_SHORT")
    end = l4 + ulen
    sk = None if many else host.table.lookup(rx.dst, dport, rx.src, sport, rx.iif)
    if not rx.csum_ok or not csum:
        if not _is_sound(sk, rx, csum, end):
            return _drop(host, rx, "UDP_CSUM")
    if many:
        return _rcv_many(host, rx, sport, dport, end)
    if sk is None:
        sk = host.on_flow(rx) if host.on_flow is not None else None
        if sk is None:
            return _no_port(host, rx, v6)
    _deliver(sk, rx, sport, end)


def _is_sound(sk: UdpSock | None, rx: RxPacket, csum: int, end: int) -> bool:
    """Is the checksum right, or may it be absent?"""
    if not csum:
        return len(rx.src) == 4 or (sk is not None and sk.no_check6_rx)
    ulen = end - rx.l4
    if verify(rx.buf, rx.l4, end, pseudo_sum(rx.src, rx.dst, IPPROTO_UDP, ulen)):
        return True
    if sk is not None and ulen > _CHECKSUM_BREAK:
        sk.drops += 1
    return False


def _deliver(sk: UdpSock, rx: RxPacket, sport: int, end: int) -> None:
    """Queue what the packet holds up to `end`."""
    if rx.gso_size:
        _rcv_merged(sk, rx, sport, rx.l4 + HEADER_LEN, end)
    else:
        truesize = rx.truesize or rx_truesize(rx.end - rx.l3)
        queue_rcv(sk, Datagram(rx, sport, rx.l4 + HEADER_LEN, end, truesize))


def _rcv_many(host: UdpHost, rx: RxPacket, sport: int, dport: int, end: int) -> None:
    """To every socket that it fits; nobody is told if it fits none."""
    socks = host.table.lookup_many(rx.dst, dport, rx.src, sport, rx.iif)
    for sk in socks:
        _deliver(sk, rx, sport, end)
    if not socks:
        host.net.mib.drop("NO_SOCKET")
        if len(rx.dst) == 4:
            host.net.mib.inc("UdpIgnoredMulti")


def _rcv_merged(sk: UdpSock, rx: RxPacket, sport: int, start: int, end: int) -> None:
    """A frame of several datagrams of `rx.gso_size` bytes, the last perhaps shorter."""
    if sk.gro:
        truesize = rx.truesize or rx_truesize(rx.end - rx.l3, rx.gso_size)
        queue_rcv(sk, Datagram(rx, sport, start, end, truesize, rx.gso_size))
        return
    for at in range(start, end, rx.gso_size):
        stop = min(at + rx.gso_size, end)
        queue_rcv(sk, Datagram(rx, sport, at, stop, segmented_truesize(stop - at)))


def queue_rcv(sk: UdpSock, dg: Datagram) -> None:
    """Queue `dg` if the receive buffer has room, or is empty (rule E-26)."""
    rmem = sk.rmem_alloc
    if rmem and rmem + dg.truesize > sk.rcvbuf:
        sk.drops += 1
        mib = sk.net.mib
        mib.drop("SOCKET_RCVBUFF")
        prefix = "Udp6" if len(dg.rx.src) == 16 else "Udp"
        mib.inc(prefix + "RcvbufErrors")
        mib.inc(prefix + "InErrors")
        return
    if rmem > sk.rcvbuf >> 1 and dg.rx.truesize:
        _condense(sk, dg)
    sk.rmem_alloc = rmem + dg.truesize
    if sk.inet_flags & _NOTED:
        _note(sk, dg)
    sk.receive_queue.append(dg)
    if sk.wait_queue.waiters:
        sk.data_ready()


def _condense(sk: UdpSock, dg: Datagram) -> None:
    """The queue is half full: a datagram of this host takes no more than it must, unless
    others have it too."""
    rx = dg.rx
    if sk.net.is_local(rx.dst):
        size = rx.l4 - rx.l3 + HEADER_LEN + dg.end - dg.start
        dg.truesize = condensed_truesize(dg.truesize, size, len(rx.dst) == 16)


def _note(sk: UdpSock, dg: Datagram) -> None:
    """What is found out when a datagram comes, not when it is read."""
    if sk.inet_flags & F_RXQ_OVFL:
        dg.dropcount = sk.drops
    if sk.inet_flags & (F_PKTINFO | F_RECVPKTINFO6):
        dg.marks |= Datagram.INFO


def _drop(host: UdpHost, rx: RxPacket, reason: str) -> None:
    mib = host.net.mib
    mib.drop(reason)
    prefix = "Udp6" if len(rx.src) == 16 else "Udp"
    if reason == "UDP_CSUM":
        mib.inc(prefix + "InCsumErrors")
    mib.inc(prefix + "InErrors")


def _no_port(host: UdpHost, rx: RxPacket, v6: bool) -> None:
    host.net.mib.drop("NO_SOCKET")
    host.net.mib.inc("Udp6NoPorts" if v6 else "UdpNoPorts")
    host.net.icmp_port_unreach(rx)


def icmp_err(host: UdpHost, e: IcmpError) -> None:
    """Tell the socket whose datagram met an error (Linux: `__udp4_lib_err`)."""
    sport, dport = _PORTS.unpack_from(e.quoted)
    iif = e.rx.iif if e.rx is not None else 0
    if e.version == 4 and iif == LOOPBACK:
        iif = LOOPBACK_ITSELF
    sk = host.table.lookup(e.src, sport, e.dst, dport, iif)
    if sk is None:
        host.net.mib.inc("Icmp6InErrors" if e.version == 6 else "IcmpInErrors")
        return
    errno, fatal = icmp_err_convert(e.version, e.type, e.code)
    if e.version == 4 and e.type == icmp.DEST_UNREACH and e.code == icmp.FRAG_NEEDED:
        _update_pmtu(sk, e, sk.pmtudisc)
        if sk.pmtudisc == PMTUDISC_DONT:
            return
    elif e.version == 6 and e.type == icmpv6.PACKET_TOO_BIG:
        if not _update_pmtu(sk, e, sk.pmtudisc6):
            return
        fatal = sk.pmtudisc6 != PMTUDISC_DONT
    if not errno:
        return
    if sk.recverr6 if e.version == 6 else sk.recverr:
        queue_icmp(sk, e, errno, dport, e.quoted[HEADER_LEN:])
    elif not fatal or not sk.daddr:
        return
    sk.err = errno
    sk.error_report()


def _update_pmtu(sk: UdpSock, e: IcmpError, discovery: int) -> bool:
    """Learn a path MTU, unless the socket goes by its device's (Linux: `ip_sk_accept_pmtu`)."""
    if discovery in (PMTUDISC_INTERFACE, PMTUDISC_OMIT):
        return False
    sk.net.update_pmtu(e.dst, e.info, e.now)
    return True
