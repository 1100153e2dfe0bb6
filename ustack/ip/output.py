"""From a transport header to a device: IPv4 and IPv6 output.

Problem: put an IP header before what a transport hands down and give it to the device
of its route, at a cost that a sender of small segments does not notice; and cut what is
too large, by the rules of path MTU discovery.

Structure. There are three ways out. `queue_xmit` is a connected socket's (TCP): what
does not change between its packets, the checksum of those fields included, is kept on
the socket as a `Template`, so that a packet costs one pack. `send_datagram` is UDP's,
where destination and options may differ each time. `send_reply` and `send_control` are
for packets without a socket: RST, SYN-ACK, ICMP.

Rules. DF is set where the path MTU is to be discovered: DO and PROBE always (PROBE for
datagrams only), WANT while the datagram fits and the path is not locked at the minimum.
The identification counts up by one for each packet of a connected socket, also under DF;
otherwise it is 0 where the socket insists on DF and a counter of the destination where it
does not. A super-segment of a stream takes as many ids as it has segments; one of a datagram
socket takes one, and its segments count on into those of the next. Fragments carry a finished
checksum, whole packets leave it to the device.

Limits: no IP options, no extension headers but the Fragment header, no forwarding.
A super-segment whose segments exceed a path MTU that has just shrunk is dropped: TCP
sends it again in the new size.

Sources: Linux `__ip_queue_xmit`, `__ip_make_skb`, `ip_select_ident_segs`, `ip6_xmit`,
`ip_sk_use_pmtu`, `ip_dont_fragment`; RFC 791, 8200, 6864.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EMSGSIZE
from struct import Struct
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from ustack.ip.fragment import fragments4, fragments6
from ustack.ip.multicast import Groups
from ustack.ip.route import RouteTable
from ustack.sock.dst import Device, Dst, SoftDevice
from ustack.sock.errors import error
from ustack.sock.multicast import loops
from ustack.sock.net import Net, SeedSource
from ustack.sock.sock import (
    PMTUDISC_DO,
    PMTUDISC_DONT,
    PMTUDISC_OMIT,
    PMTUDISC_PROBE,
    PMTUDISC_WANT,
    Sock,
)
from ustack.sock.sysctl import Sysctl
from ustack.sock.truesize import tx_truesize
from ustack.wire import ipv4, ipv6
from ustack.wire.checksum import checksum
from ustack.wire.packet import (
    DROPPED,
    IPPROTO_TCP,
    IPPROTO_UDP,
    QUEUED,
    TAKEN,
    Buffer,
    Packet,
)

if TYPE_CHECKING:
    from ustack.ip.icmp import EchoRequest, PingSink

_IPV4 = Struct("!HHHHHH8s")  # version ihl tos, length, id, fragment, ttl protocol, sum, addrs
_IPV6 = Struct("!IHH32s")  # version class flow, payload length, next header hops, addrs
_H = Struct("!H")
_CSUM_OFFSET = {IPPROTO_TCP: 16, IPPROTO_UDP: 6}  # ICMP comes with its checksum complete
_FLOW_MODULUS = 1048573  # the largest prime below 2**20
_MAX_LEN = 65535


class Template:
    """The constant part of one socket's IP header. Whoever changes an address or an IP
    option of the socket takes it away (`sk.ip_template = None`)."""

    __slots__ = (
        "addrs",
        "csum_offset",
        "dst",
        "first",
        "frag",
        "hops",
        "locked",
        "sum",
        "version",
    )

    def __init__(self, sk: Sock, dst: Dst, ttl: int, flow: int) -> None:
        self.dst = dst
        self.version = dst.version
        self.locked = dst.pmtu_locked
        self.addrs = sk.saddr + sk.daddr
        self.csum_offset = _CSUM_OFFSET[sk.protocol]
        self.frag = 0
        if dst.version == 4:
            if sk.pmtudisc == PMTUDISC_DO or (sk.pmtudisc == PMTUDISC_WANT and not self.locked):
                self.frag = ipv4.DF
            self.first = 0x4500 | sk.tos
            self.hops = ttl << 8 | sk.protocol
        else:
            self.first = 6 << 28 | sk.tclass << 20 | flow
            self.hops = sk.protocol << 8 | ttl
        fixed = self.first + self.frag + self.hops
        self.sum = (fixed + int.from_bytes(self.addrs, "big")) % 65535


@mypyc_attr(allow_interpreted_subclasses=True)
class IpOutput(Net):
    """The sending half of a host's IP layer."""

    def __init__(
        self, sysctl: Sysctl, seeds: SeedSource, loopback: Device, wall_ns: int = 0
    ) -> None:
        super().__init__(sysctl, seeds, wall_ns)
        self.routes = RouteTable(loopback, sysctl)
        self._rng = seeds.stream("ip")
        self._flow_salt = self._rng.getrandbits(64)
        self.groups = Groups(self)
        self._counters = self.mib.values
        self.on_echo: Callable[[EchoRequest], None] | None = None
        self.ping: PingSink | None = None

    # -- routing -----------------------------------------------------------------------

    def route(self, daddr: bytes, saddr: bytes | None = None, oif: int = 0) -> Dst:
        return self.routes.route(daddr, saddr, oif)

    def is_local(self, addr: bytes) -> bool:
        return self.routes.is_local(addr)

    def update_pmtu(self, daddr: bytes, mtu: int, now: int) -> None:
        self.routes.update_pmtu(daddr, mtu, now)

    # -- connected sockets ---------------------------------------------------------------

    def queue_xmit(
        self,
        sk: Sock,
        header: bytes,
        payload: Sequence[Buffer],
        payload_len: int,
        gso_size: int,
        charge: int,
        now: int,
    ) -> int:
        t = sk.ip_template
        if (
            type(t) is not Template
            or t.dst is not sk.dst
            or t.dst.obsolete
            or t.locked is not t.dst.pmtu_locked
        ):
            t = self._make_template(sk)
            if t is None:
                return DROPPED
        dst = t.dst
        dev = dst.dev
        size = len(header) + (gso_size or payload_len) + (20 if t.version == 4 else 40)
        if (size > dev.mtu or dst.pmtu) and size > dst.mtu(now):
            return self._xmit_oversize(sk, t, header, payload, gso_size, charge, now)
        length = len(header) + payload_len
        if t.version == 4:
            ident = sk.ip_id & 0xFFFF
            sk.ip_id += -(-payload_len // gso_size) if gso_size and payload_len else 1
            csum = 0xFFFF ^ ((t.sum + length + 20 + ident) % 65535 or 65535)
            ip = _IPV4.pack(t.first, length + 20, ident, t.frag, t.hops, csum, t.addrs)
            packet = Packet(
                ip + header, payload, payload_len, gso_size, 20, t.csum_offset, sk, charge
            )
            self._counters["IpOutRequests"] += 1
        else:
            ip = _IPV6.pack(t.first, length, t.hops, t.addrs)
            packet = Packet(
                ip + header, payload, payload_len, gso_size, 40, t.csum_offset, sk, charge
            )
            self._counters["Ip6OutRequests"] += 1
        if sk.notify is not None and sk.notify.capture:
            sk.notify.packet = b"".join((packet.header, *payload))
        verdict = dev.xmit(packet)
        if verdict == QUEUED:
            sk.wmem_alloc += charge
        return verdict

    def _make_template(self, sk: Sock) -> Template | None:
        """Look up the route again if it has changed; None if there is none any more."""
        dst = sk.dst
        if dst is None or dst.obsolete:
            try:
                dst = self.route(sk.daddr, sk.saddr, sk.bindtodevice)
            except OSError:
                self.mib.inc("Ip6OutNoRoutes" if len(sk.daddr) == 16 else "IpOutNoRoutes")
                return None
            sk.dst = dst
        if not sk.ip_id:
            sk.ip_id = self._rng.randrange(1, 65536)
        ttl = sk.ttl if dst.version == 4 else sk.hop_limit
        if ttl < 0:
            ttl = self.sysctl.ip_default_ttl
        ports = sk.sport << 16 | sk.dport
        flow = self._flow_label(sk.saddr, sk.daddr, ports) if dst.version == 6 else 0
        template = Template(sk, dst, ttl, flow)
        sk.ip_template = template
        return template

    def _flow_label(self, saddr: bytes, daddr: bytes, ports: int) -> int:
        """A label that is the flow's own and tells nothing else (RFC 6437)."""
        mixed = int.from_bytes(saddr + daddr, "big") ^ ports << 32 ^ self._flow_salt
        return mixed % _FLOW_MODULUS

    def _xmit_oversize(
        self,
        sk: Sock,
        t: Template,
        header: bytes,
        payload: Sequence[Buffer],
        gso_size: int,
        charge: int,
        now: int,
    ) -> int:
        """A segment over the path MTU: in fragments where DF allows, else it is dropped."""
        if gso_size or t.frag:
            self._count(t.version, "FragFails")
            return DROPPED
        mtu = t.dst.mtu(now)
        data = _completed(header, payload, t.csum_offset)
        v4 = t.version == 4
        ttl, tos = (sk.ttl, sk.tos) if v4 else (sk.hop_limit, sk.tclass)
        if ttl < 0:
            ttl = self.sysctl.ip_default_ttl
        ident = self._socket_ident(sk)
        return self._send_fragments(
            sk, sk.protocol, sk.saddr, sk.daddr, t.dst, data, ident, ttl, tos, mtu, charge
        )

    # -- datagrams -----------------------------------------------------------------------

    def send_datagram(
        self,
        sk: Sock,
        proto: int,
        saddr: bytes,
        daddr: bytes,
        dst: Dst,
        header: bytes,
        payload: list[Buffer],
        payload_len: int,
        gso_size: int,
        charge: int,
        ttl: int,
        tos: int,
        now: int,
    ) -> int:
        v4 = dst.version == 4
        hlen = ipv4.HEADER_LEN if v4 else ipv6.HEADER_LEN
        length = len(header) + payload_len
        disc = sk.pmtudisc if v4 else sk.pmtudisc6
        mtu = dst.mtu(now) if disc < PMTUDISC_PROBE else dst.dev.mtu
        wire = hlen + len(header) + (min(gso_size, payload_len) if gso_size else payload_len)
        fragile = gso_size or disc not in (PMTUDISC_DONT, PMTUDISC_WANT, PMTUDISC_OMIT)
        if (length + hlen if v4 else length) > _MAX_LEN or (wire > mtu and fragile):
            raise error(EMSGSIZE)
        if ttl < 0:
            ttl = 1 if dst.multicast else self.sysctl.ip_default_ttl
        if wire > mtu:
            return self._send_oversize(
                sk, proto, saddr, daddr, dst, header, payload, ttl, tos, mtu, charge
            )
        csum_offset = _CSUM_OFFSET.get(proto, 0)
        if v4:
            df = disc in (PMTUDISC_DO, PMTUDISC_PROBE) or (
                disc == PMTUDISC_WANT and not dst.pmtu_locked and hlen + length <= dst.mtu(now)
            )
            ident = self._ident(sk, dst, df and disc != PMTUDISC_WANT)
            ip = ipv4.build_header(saddr, daddr, proto, length, ident, df, ttl, tos)
        else:
            ports = int.from_bytes(header[:4] if csum_offset else header[4:6], "big")
            flow = self._flow_label(saddr, daddr, ports)
            ip = ipv6.build_header(saddr, daddr, proto, length, ttl, tos, flow)
        start = hlen if csum_offset and any(header[csum_offset : csum_offset + 2]) else 0
        packet = Packet(ip + header, payload, payload_len, gso_size, start, csum_offset, sk, charge)
        self._counters["IpOutRequests" if v4 else "Ip6OutRequests"] += 1
        if sk.notify is not None and sk.notify.capture:
            sk.notify.packet = b"".join((packet.header, *payload))
        if (dst.multicast or dst.broadcast) and not self._loop_back(sk, packet, dst, daddr, ttl):
            return TAKEN
        verdict = dst.dev.xmit(packet)
        if verdict == QUEUED:
            sk.wmem_alloc += charge
        return verdict

    def _send_oversize(
        self,
        sk: Sock,
        proto: int,
        saddr: bytes,
        daddr: bytes,
        dst: Dst,
        header: bytes,
        payload: list[Buffer],
        ttl: int,
        tos: int,
        mtu: int,
        charge: int,
    ) -> int:
        """A datagram over the path MTU, in fragments; members on this host get it whole."""
        if dst.layout:
            mtu = min(mtu, dst.layout)
        if sk.frag_size and dst.version == 6:
            mtu = min(mtu, sk.frag_size)
        data = _completed(header, payload, _CSUM_OFFSET.get(proto, 0))
        ident = self._ident(sk, dst, False)
        if dst.multicast or dst.broadcast:
            size = len(data)
            if dst.version == 4:
                ip = ipv4.build_header(saddr, daddr, proto, size, ident, False, ttl, tos)
            else:
                ip = ipv6.build_header(saddr, daddr, proto, size, ttl, tos, 0)
            packet = Packet(ip, (data,), size, charge=charge)
            if not self._loop_back(sk, packet, dst, daddr, ttl):
                return TAKEN
        return self._send_fragments(
            sk, proto, saddr, daddr, dst, data, ident, ttl, tos, mtu, charge
        )

    def _loop_back(self, sk: Sock, packet: Packet, dst: Dst, daddr: bytes, ttl: int) -> bool:
        """Give this host's members of a group, or everybody for a broadcast, their copy;
        whether the packet goes out too (Linux: `ip_mc_output`, `ip6_finish_output2`)."""
        dev = dst.dev
        if dev.loopback:
            return True
        saddr = packet.header[12:16] if dst.version == 4 else packet.header[8:24]
        member = dst.broadcast or self.groups.wants(daddr, dev.ifindex, saddr)
        if member and (dst.broadcast or loops(sk)):
            self.looped_back(dev).xmit(packet)
        return ttl > 0 or not member

    def looped_back(self, dev: Device) -> SoftDevice:
        """Where copies of what leaves by `dev` come in again."""
        raise NotImplementedError

    def _ident(self, sk: Sock | None, dst: Dst, zero: bool) -> int:
        """The identification of the next packet (F-4, Linux: `ip_select_ident`). `zero`: none
        is needed, the packet will never be cut."""
        if sk is not None and len(sk.daddr) == 4:
            return self._socket_ident(sk)
        if zero:
            return 0
        ident = dst.ident
        if ident < 0:
            ident = self._rng.getrandbits(16)
        dst.ident = ident + 1 & 0xFFFF
        return ident

    def _socket_ident(self, sk: Sock) -> int:
        """`sk.ip_id` counts without bound, so that 0 always means: not begun yet."""
        ident = sk.ip_id or self._rng.randrange(1, 65536)
        sk.ip_id = ident + 1
        return ident & 0xFFFF

    def _send_fragments(
        self,
        sk: Sock | None,
        proto: int,
        saddr: bytes,
        daddr: bytes,
        dst: Dst,
        data: memoryview,
        ident: int,
        ttl: int,
        tos: int,
        mtu: int,
        charge: int,
    ) -> int:
        """Send `data` (a finished transport packet) in pieces, each with its own part of the
        charge. EMSGSIZE if `mtu` has no room for 8 bytes."""
        version = dst.version
        self._count(version, "OutRequests")
        if mtu < (28 if version == 4 else 56):
            self._count(version, "FragFails")
            raise error(EMSGSIZE)
        if version == 4:
            pieces = fragments4(saddr, daddr, proto, ident, ttl, tos, data, mtu)
        else:
            ident, flow = self._rng.getrandbits(32), self._flow_label(saddr, daddr, 0)
            pieces = fragments6(saddr, daddr, proto, ident, ttl, tos, flow, data, mtu)
        self._count(version, "FragOKs")
        self._count(version, "FragCreates", len(pieces))
        verdict = TAKEN
        for header, piece in pieces:
            whole = piece is pieces[-1][1]
            size = len(header) + len(piece) - (0 if version == 4 else ipv6.FRAGMENT_LEN)
            cost = charge if whole else min(tx_truesize(size, version == 6), charge)
            charge -= cost
            if sk is not None and sk.notify is not None and sk.notify.capture:
                sk.notify.packet, sk.notify.capture = header + piece, False
            answer = dst.dev.xmit(Packet(header, (piece,), len(piece), 0, 0, 0, sk, cost))
            if answer == QUEUED and sk is not None:
                sk.wmem_alloc += cost
            # DROPPED outranks QUEUED outranks TAKEN: the constants are in that order
            verdict = max(verdict, answer)
        return verdict

    # -- packets without a socket ----------------------------------------------------------

    def send_reply(
        self, proto: int, saddr: bytes, daddr: bytes, header: bytes, tos: int, now: int
    ) -> None:
        dst = self._route_reply(daddr)
        if dst is None:
            return
        ttl = self.sysctl.ip_default_ttl
        if dst.version == 4:
            ip = ipv4.build_header(saddr, daddr, proto, len(header), 0, True, ttl, tos)
        else:
            flow = self._flow_label(saddr, daddr, int.from_bytes(header[:4], "big"))
            ip = ipv6.build_header(saddr, daddr, proto, len(header), ttl, tos, flow)
        self._count(dst.version, "OutRequests")
        dst.dev.xmit(Packet(ip + header, (), 0, 0, len(ip), _CSUM_OFFSET[proto]))

    def send_control(
        self,
        proto: int,
        saddr: bytes,
        daddr: bytes,
        message: Sequence[Buffer],
        tos: int,
        now: int,
        options: bytes = b"",
    ) -> bool:
        """Send an ICMP message, its checksum complete: default TTL, DF clear, in fragments
        (without the IPv4 `options`) if it must be. False if there is no way to `daddr`."""
        dst = self._route_reply(daddr)
        if dst is None:
            return False
        ttl, mtu = self.sysctl.ip_default_ttl, dst.mtu(now)
        length = sum(map(len, message))
        ident = self._ident(None, dst, False) if dst.version == 4 else 0
        if length + len(options) + (20 if dst.version == 4 else 40) > mtu:
            data = memoryview(b"".join(message))
            try:
                self._send_fragments(None, proto, saddr, daddr, dst, data, ident, ttl, tos, mtu, 0)
            except OSError:  # a device without room for 8 bytes: counted as FragFails
                return False
            return True
        if dst.version == 4:
            ip = ipv4.build_header(saddr, daddr, proto, length, ident, False, ttl, tos)
            ip = ipv4.with_options(ip, options)
        else:
            flow = self._flow_label(saddr, daddr, 0)
            ip = ipv6.build_header(saddr, daddr, proto, length, ttl, tos, flow)
        self._count(dst.version, "OutRequests")
        head = ip + bytes(message[0])
        charge = tx_truesize(len(ip) + length, dst.version == 6) if dst.local else 0
        dst.dev.xmit(Packet(head, message[1:], length - len(message[0]), charge=charge))
        return True

    def _route_reply(self, daddr: bytes) -> Dst | None:
        """The way back to a sender, None (counted) if there is none."""
        try:
            return self.routes.route(daddr)
        except OSError:
            self._count(6 if len(daddr) == 16 else 4, "OutNoRoutes")
            self.mib.drop("IP_OUTNOROUTES")
            return None

    def _count(self, version: int, name: str, by: int = 1) -> None:
        self._counters[("Ip6" if version == 6 else "Ip") + name] += by


def _completed(header: bytes, payload: Sequence[Buffer], csum_offset: int) -> memoryview:
    """A transport packet as one buffer with its checksum complete (Linux:
    `skb_checksum_help`). A zero field stays zero: sent without a checksum. An offset of 0:
    it is complete."""
    data = bytearray().join((header, *payload))
    view = memoryview(data)
    if csum_offset and (data[csum_offset] or data[csum_offset + 1]):
        _H.pack_into(data, csum_offset, checksum(view) or 0xFFFF)
    return view
