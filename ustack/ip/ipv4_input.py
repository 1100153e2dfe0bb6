"""IPv4 input: from a frame to the protocol it is for.

Problem: nearly every packet is whole, has no options and comes from where the last one
came from; all the others are rare, and among them is everything hostile.

Structure. `rcv` is the common case in one piece: a header of 20 bytes, not a fragment,
its checksum right, its pair of addresses seen before. Whatever fails one of those tests
goes to `_rcv_slow`, which starts again, knows every reason to drop and counts it, and
remembers the pair if it is good. The memory of pairs (`RouteTable.pairs`) is cleared when
an address changes and when it is full. The addresses in it are shared by all packets of
the pair, so their hashes are computed once.

What is refused (F-1): what is not IPv4 or not all there, bad checksums, options that make
no sense and source routes, sources that no packet may have or that are our own, loopback
addresses on a wire, destinations that are not ours. Nothing is forwarded. A TTL of 0 and
the reserved flag are no reason. Broadcasts, and multicasts to a group that was joined on
the device, are for the protocols that can tell many sockets of one packet: UDP.

Sources: Linux `ip_rcv_core`, `ip_route_input_slow`, `ip_local_deliver`; RFC 791, 1122.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from ustack.ip.icmp import Icmp
from ustack.ip.options4 import compile_options
from ustack.ip.output import IpOutput
from ustack.ip.reassembly import Reassembly
from ustack.ip.route import BROADCAST, LOOPBACK, MULTICAST, UNICAST
from ustack.sock.addr import BROADCAST4
from ustack.sock.dst import Device
from ustack.sock.truesize import rx_truesize
from ustack.wire import icmp, ipv4
from ustack.wire.checksum import checksum
from ustack.wire.packet import IPPROTO_IGMP, Frame, RxPacket

MAX_PAIRS = 8192
_HEADER = Struct("!HHHHBB")  # version ihl tos, length, id, fragment, ttl, protocol
_H = Struct("!H")
_FRAGMENT = ipv4.MF | ipv4.OFFSET_MASK


class Ipv4Input:
    """The receiving half of one host's IPv4. `handlers` maps a protocol to its `rcv`."""

    __slots__ = (
        "_counters", "_handlers", "_icmp", "_mib", "_net", "_reassembly", "_routes", "rcv_many",
    )  # fmt: skip

    def __init__(
        self, net: IpOutput, handlers: dict[int, Callable[[RxPacket], None]], icmp_: Icmp
    ) -> None:
        self._net = net
        self._mib = net.mib
        self._counters = net.mib.values
        self._routes = net.routes
        self._handlers = handlers
        self._icmp = icmp_
        # as `handlers`, for what is sent to many
        self.rcv_many: dict[int, Callable[[RxPacket], None]] = {IPPROTO_IGMP: net.groups.igmp_rcv}
        self._reassembly = Reassembly(
            4, net.sysctl, net.mib, net.deadlines, self._reassembly_expired
        )

    def rcv(self, frame: Frame, now: int, dev: Device) -> None:
        """One packet, of at least 20 bytes."""
        buf = frame.buf
        l3 = frame.off
        self._counters["IpInReceives"] += 1
        first, total, _, fragment, ttl, proto = _HEADER.unpack_from(buf, l3)
        end = l3 + total
        if (
            first >> 8 == 0x45
            and not fragment & _FRAGMENT
            and 20 <= total <= len(buf) - l3
            and not int.from_bytes(buf[l3 : l3 + 20], "big") % 65535
        ):
            routes = self._routes
            pairs = routes.pairs_lo if dev.loopback else routes.pairs
            pair = pairs.get(buf[l3 + 12 : l3 + 20])
            handler = self._handlers.get(proto)
            if pair is not None and handler is not None:
                self._counters["IpInDelivers"] += 1
                handler(
                    RxPacket(
                        buf, l3, l3 + 20, end, proto, pair[0], pair[1], first & 0xFF, ttl,
                        frame.gso_size, frame.csum_ok, dev.ifindex, now, frame.truesize,
                    )
                )  # fmt: skip
                return
        self._rcv_slow(frame, now, dev)

    def _rcv_slow(self, frame: Frame, now: int, dev: Device) -> None:
        buf, l3 = frame.buf, frame.off
        l4 = l3 + (buf[l3] & 15) * 4
        first, total, _, fragment, ttl, proto = _HEADER.unpack_from(buf, l3)
        reason = self._check_header(buf, l3, l4, total)
        if reason is not None:
            self._refuse(reason, "IpInHdrErrors")
            return
        src, dst = buf[l3 + 12 : l3 + 16], buf[l3 + 16 : l3 + 20]
        kind = self._kind(dst, dev.ifindex)
        if not kind and 224 <= dst[0] < 240:
            groups, iif = self._net.groups, dev.ifindex
            # queries are for every member, whoever its sources are
            if groups.joined(dst, iif) if proto == IPPROTO_IGMP else groups.wants(dst, iif, src):
                kind = MULTICAST
        reason = self._check_addresses(src, dst, kind, dev)
        if reason is not None:
            self._refuse(reason, "IpInAddrErrors")
            return
        if l4 - l3 > ipv4.HEADER_LEN:
            found = self._options(frame, src, dst, now, dev)
            if found is None:
                return
            buf = found
        if kind >= BROADCAST:
            if proto not in self.rcv_many:
                self._refuse("IP_INVALID_DEST", "IpInDiscards")
                return
        else:
            self._remember(buf[l3 + 12 : l3 + 20], src, dst, dev)
        rx = RxPacket(
            buf, l3, l4, l3 + total, proto, src, dst, first & 0xFF, ttl,
            frame.gso_size, frame.csum_ok, dev.ifindex, now, frame.truesize,
        )  # fmt: skip
        if fragment & _FRAGMENT:
            self._fragment(rx, fragment)
        else:
            self._deliver(rx)

    def _options(self, frame: Frame, src: bytes, dst: bytes, now: int, dev: Device) -> bytes | None:
        """Carry out the options of a packet; its buffer after that, None if it is dropped."""
        buf, l3 = frame.buf, frame.off
        l4 = l3 + (buf[l3] & 15) * 4
        found = compile_options(
            bytearray(buf[l3:l4]), dst, self._icmp.time_of_day(now), self._net.routes.is_ours
        )
        made = b"".join((buf[:l3], found.header, buf[l4:]))
        if found.bad:
            self._refuse("IP_INHDR", "IpInHdrErrors")
            _, total, _, _, ttl, proto = _HEADER.unpack_from(buf, l3)
            rx = RxPacket(
                made, l3, l4, l3 + total, proto, src, dst, buf[l3 + 1], ttl, 0, False,
                dev.ifindex, now,
            )  # fmt: skip
            self._icmp.send(rx, icmp.PARAM_PROBLEM, 0, found.bad << 24)
            return None
        if found.source_routed:
            self._refuse("IP_SOURCE_ROUTED", "IpInHdrErrors")
            return None
        return made

    def _refuse(self, reason: str, counter: str) -> None:
        self._mib.inc(counter)
        self._mib.drop(reason)

    def _check_header(self, buf: bytes, l3: int, l4: int, total: int) -> str | None:
        """The reason to drop the packet for its header, None if it is sound."""
        if l4 - l3 < ipv4.HEADER_LEN or l4 > len(buf):
            return "IP_INHDR"
        if int.from_bytes(buf[l3:l4], "big") % 65535:
            return "IP_CSUM"
        if l3 + total > len(buf):
            return "PKT_TOO_SMALL"
        return "IP_INHDR" if l3 + total < l4 else None

    def _check_addresses(self, src: bytes, dst: bytes, kind: int, dev: Device) -> str | None:
        """The reason to drop the packet for its addresses (Linux: martians)."""
        if not dev.loopback:
            if 224 <= src[0] < 240 or src[0] == 0 or src == BROADCAST4:
                return "IP_INVALID_SOURCE"
            if src[0] == 127 or self._routes.is_local(src):
                return "IP_LOCAL_SOURCE"
            if kind == LOOPBACK:
                return "IP_LOCALNET"
        if kind:
            return None
        return "IP_INVALID_DEST" if dst[0] >= 224 or dst[0] == 0 else "IP_INADDRERRORS"

    def _kind(self, dst: bytes, iif: int) -> int:
        """Of a destination. Whatever a socket has sent to loopback is for this host alone."""
        kind = self._routes.local_kind(dst)
        if (not kind or kind == BROADCAST) and 0 < dst[0] < 224:
            return UNICAST if iif == self._routes.loopback.ifindex else kind
        return kind

    def _remember(self, key: bytes, src: bytes, dst: bytes, dev: Device) -> None:
        pairs = self._routes.pairs_lo if dev.loopback else self._routes.pairs
        if len(pairs) >= MAX_PAIRS:
            pairs.clear()
        pairs[key] = (src, dst)

    def _deliver(self, rx: RxPacket) -> None:
        """Hand a whole datagram to its protocol (Linux: `ip_protocol_deliver_rcu`)."""
        many = rx.dst[0] >= 224 or self._kind(rx.dst, rx.iif) == BROADCAST
        handler = (self.rcv_many if many else self._handlers).get(rx.proto)
        if handler is None:
            self._refuse("IP_NOPROTO", "IpInUnknownProtos")
            self._icmp.send(rx, icmp.DEST_UNREACH, icmp.PROT_UNREACH)
            return
        self._counters["IpInDelivers"] += 1
        handler(rx)

    # -- fragments ---------------------------------------------------------------------

    def _fragment(self, rx: RxPacket, fragment: int) -> None:
        """One fragment; the datagram, if it is the last that was missing."""
        offset = (fragment & ipv4.OFFSET_MASK) * 8
        more = bool(fragment & ipv4.MF)
        end = rx.end
        if more:  # only the last may end anywhere
            end -= (end - rx.l4) & 7
        data = rx.buf[rx.l4 : end]
        ident = int.from_bytes(rx.buf[rx.l3 + 4 : rx.l3 + 6], "big")
        truesize = rx.truesize or rx_truesize(rx.end - rx.l3)
        key = (rx.src, rx.dst, ident, rx.proto)
        queue = self._reassembly.add(key, rx, offset, data, more, truesize)
        if queue is None:
            return
        first = queue.first
        assert first is not None
        header = bytearray(first.buf[first.l3 : first.l4])
        payload = queue.data()
        if queue.ecn & 8:
            header[1] |= 3
        header[6:8] = header[10:12] = b"\0\0"
        _H.pack_into(header, 2, len(header) + len(payload))
        _H.pack_into(header, 10, checksum(bytes(header)))
        buf = bytes(header) + payload
        self._deliver(
            RxPacket(
                buf, 0, len(header), len(buf), rx.proto, rx.src, rx.dst, header[1], first.ttl,
                0, False, rx.iif, rx.now, queue.charge(),
            )
        )  # fmt: skip

    def _reassembly_expired(self, first: RxPacket) -> None:
        self._icmp.send(first, icmp.TIME_EXCEEDED, icmp.EXC_FRAGTIME)
