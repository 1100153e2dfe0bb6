"""Ping sockets of one host: who has which identifier, replies and errors in.

Problem: an unprivileged program wants to send echo requests and to hear the replies, and
nothing else of ICMP. A ping socket (SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6) sends
echo requests only, with an identifier that is the socket's own, its bound port; replies
and errors come back to it by that identifier.

Structure: a list of sockets for each identifier in use, oldest first. Identifiers may be
shared, the newest socket that fits gets the message. Free ones are handed out in order
from a random start.

Sources: Linux net/ipv4/ping.c (`ping_get_port`, `ping_lookup`, `ping_rcv`, `ping_err`);
rules as observed on 6.18.
"""

from __future__ import annotations

from errno import EADDRINUSE
from struct import Struct

from ustack.ping.proto import PingProto
from ustack.ping.sock import Message, PingSock
from ustack.sock.error_queue import queue_icmp
from ustack.sock.errors import error
from ustack.sock.icmp import IcmpError, icmp_err_convert
from ustack.sock.net import Net
from ustack.sock.sock import PMTUDISC_DONT, PMTUDISC_INTERFACE, PMTUDISC_OMIT
from ustack.sock.truesize import rx_truesize
from ustack.wire import icmp, icmpv6
from ustack.wire.packet import RxPacket

_ECHO = Struct(">BB2xH")  # type, code, identifier


class PingHost:
    """The ping sockets of one stack; an `ip.icmp.PingSink`."""

    __slots__ = ("_rover", "_socks", "net", "prot")

    def __init__(self, net: Net) -> None:
        self.net = net
        self.prot = PingProto()
        self._socks: dict[int, list[PingSock]] = {}
        self._rover = net.seeds.stream("ping").getrandbits(16)

    def create_sock(self, family: int) -> PingSock:
        """A new socket of AF_INET or AF_INET6."""
        return PingSock(self, family)

    def sockets(self) -> list[PingSock]:
        """Every socket that has an identifier."""
        return [sk for socks in self._socks.values() for sk in socks]

    # -- identifiers -------------------------------------------------------------------

    def bind(self, sk: PingSock, ident: int) -> None:
        """Give `sk` an identifier, a free one if 0: EADDRINUSE if that cannot be."""
        if not ident:
            ident = self._free()
        elif not all(sk.reuse and other.reuse for other in self._socks.get(ident, ())):
            raise error(EADDRINUSE)
        self._socks.setdefault(ident, []).append(sk)
        sk.sport = ident

    def _free(self) -> int:
        for step in range(1, 0x10000):
            ident = self._rover + step & 0xFFFF
            if ident and ident not in self._socks:
                self._rover = ident
                return ident
        raise error(EADDRINUSE)

    def release(self, sk: PingSock) -> None:
        """Take its identifier away, if it has one."""
        socks = self._socks.get(sk.sport, [])
        if sk in socks:
            socks.remove(sk)
            if not socks:
                del self._socks[sk.sport]
        sk.sport = 0

    def lookup(self, ident: int, laddr: bytes, iif: int) -> PingSock | None:
        """The socket for a message to `laddr` that came by device `iif` (0: unknown)."""
        v6 = len(laddr) == 16
        for sk in reversed(self._socks.get(ident, ())):
            if (
                sk.v6 == v6
                and sk.rcv_saddr in (b"", laddr)
                and not (iif and sk.bindtodevice and sk.bindtodevice != iif)
            ):
                return sk
        return None

    # -- input ---------------------------------------------------------------------------

    def rcv(self, rx: RxPacket) -> None:
        """An echo reply, its checksum verified."""
        sk = self.lookup(int.from_bytes(rx.buf[rx.l4 + 4 : rx.l4 + 6], "big"), rx.dst, rx.iif)
        if sk is None:
            self.net.mib.drop("NO_SOCKET")
            return
        if sk.rmem_alloc >= sk.rcvbuf:
            sk.drops += 1
            self.net.mib.drop("SOCKET_RCVBUFF")
            return
        truesize = rx.truesize or rx_truesize(rx.end - rx.l3)
        sk.rmem_alloc += truesize
        sk.receive_queue.append(Message(rx, truesize, sk.drops))
        sk.data_ready()

    def icmp_err(self, e: IcmpError) -> None:
        """An ICMP error about an ICMP message of this host."""
        kind, code, ident = _ECHO.unpack_from(e.quoted)
        if code or kind != (icmpv6.ECHO if e.version == 6 else icmp.ECHO):
            return
        sk = self.lookup(ident, e.src, 0)
        if sk is None:
            return
        errno, fatal = icmp_err_convert(e.version, e.type, e.code)
        v6 = e.version == 6
        if _is_too_big(e):
            discovery = sk.pmtudisc6 if v6 else sk.pmtudisc
            if not v6 and discovery == PMTUDISC_DONT:
                return
            if discovery not in (PMTUDISC_INTERFACE, PMTUDISC_OMIT):
                self.net.update_pmtu(e.dst, e.info, e.now)
        if sk.recverr6 if v6 else sk.recverr:
            queue_icmp(sk, e, errno, 0, e.quoted)
        elif not fatal or not sk.daddr:
            return
        sk.err = errno
        sk.error_report()


def _is_too_big(e: IcmpError) -> bool:
    if e.version == 6:
        return e.type == icmpv6.PACKET_TOO_BIG
    return e.type == icmp.DEST_UNREACH and e.code == icmp.FRAG_NEEDED
