"""IPv6 input: from a frame to the protocol it is for.

The shape of `ip.ipv4_input`: `rcv` is a packet without extension headers between two
addresses seen before, `_rcv_slow` is everything else.

What is refused (F-2): what is not all there, sources that no packet may have, loopback
addresses on a wire, IPv4-mapped addresses (inside, they mean IPv4), destinations that are
not ours, extension headers that make no sense (`wire.ipv6.walk`). Unlike IPv4, our own
address is a source like any other, and so is the unspecified one. Unknown next headers and
options get a Parameter Problem, destinations to which there is not even a route a
Destination Unreachable. The hop limit is not looked at.

Sources: Linux `ip6_rcv_core`, `ip6_protocol_deliver_rcu`, `ipv6_frag_rcv`; RFC 8200.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from ustack.ip.icmpv6 import Icmpv6
from ustack.ip.ipv4_input import MAX_PAIRS
from ustack.ip.output import IpOutput
from ustack.ip.reassembly import Reassembly
from ustack.ip.route import LOOPBACK, MULTICAST
from ustack.sock.dst import Device
from ustack.sock.truesize import rx_truesize
from ustack.wire import icmpv6, ipv6, mld
from ustack.wire.addr import LOOPBACK6, MAPPED, is_multicast
from ustack.wire.packet import IPPROTO_ICMPV6, Frame, RxPacket

_HEADER = Struct("!IHBB")  # version class flow, payload length, next header, hop limit
_H = Struct("!H")
_MAX_LEN = 65535


class Ipv6Input:
    """The receiving half of one host's IPv6. `handlers` maps a protocol to its `rcv`."""

    __slots__ = (
        "_counters", "_handlers", "_icmp", "_mib", "_net", "_reassembly", "_routes", "rcv_many",
    )  # fmt: skip

    def __init__(
        self, net: IpOutput, handlers: dict[int, Callable[[RxPacket], None]], icmp_: Icmpv6
    ) -> None:
        self._net = net
        self._mib = net.mib
        self._counters = net.mib.values
        self._routes = net.routes
        self._handlers = handlers
        self._icmp = icmp_
        # as `handlers`, for multicasts
        self.rcv_many: dict[int, Callable[[RxPacket], None]] = {IPPROTO_ICMPV6: icmp_.rcv}
        self._reassembly = Reassembly(
            6, net.sysctl, net.mib, net.deadlines, self._reassembly_expired
        )

    def rcv(self, frame: Frame, now: int, dev: Device) -> None:
        """One packet, of any length."""
        buf = frame.buf
        l3 = frame.off
        self._counters["Ip6InReceives"] += 1
        if len(buf) - l3 < ipv6.HEADER_LEN:
            self._refuse("IP_INHDR", "Ip6InHdrErrors")
            return
        word, length, proto, hops = _HEADER.unpack_from(buf, l3)
        l4 = l3 + 40
        end = l4 + length
        handler = self._handlers.get(proto)
        if handler is not None and end <= len(buf):
            routes = self._routes
            pairs = routes.pairs_lo if dev.loopback else routes.pairs
            pair = pairs.get(buf[l3 + 8 : l4])
            if pair is not None:
                self._counters["Ip6InDelivers"] += 1
                handler(
                    RxPacket(
                        buf, l3, l4, end, proto, pair[0], pair[1], word >> 20 & 0xFF, hops,
                        frame.gso_size, frame.csum_ok, dev.ifindex, now, frame.truesize,
                    )
                )  # fmt: skip
                return
        self._rcv_slow(frame, now, dev)

    def _rcv_slow(self, frame: Frame, now: int, dev: Device) -> None:
        buf, l3 = frame.buf, frame.off
        word, length, proto, hops = _HEADER.unpack_from(buf, l3)
        end = l3 + ipv6.HEADER_LEN + length
        if end > len(buf):
            self._refuse("PKT_TOO_SMALL", "Ip6InTruncatedPkts")
            return
        src, dst = buf[l3 + 8 : l3 + 24], buf[l3 + 24 : l3 + 40]
        reason = self._check_addresses(src, dst, dev)
        rx = RxPacket(
            buf, l3, l3 + ipv6.HEADER_LEN, end, proto, src, dst, word >> 20 & 0xFF, hops,
            frame.gso_size, frame.csum_ok, dev.ifindex, now, frame.truesize,
        )  # fmt: skip
        if reason == "IP_INADDRERRORS" and self._routes.lookup(dst) is None:
            self._refuse("IP_INNOROUTES", "Ip6InNoRoutes")
            self._icmp.send(rx, icmpv6.DEST_UNREACH, icmpv6.NOROUTE)
            return
        if reason is not None:
            self._refuse(reason, "Ip6InAddrErrors")
            return
        if dst[0] != 0xFF:  # groups are joined and left: look each time
            pairs = self._routes.pairs_lo if dev.loopback else self._routes.pairs
            if len(pairs) >= MAX_PAIRS:
                pairs.clear()
            pairs[buf[l3 + 8 : l3 + 40]] = (src, dst)
        self._walk(rx)

    def _refuse(self, reason: str, counter: str) -> None:
        self._mib.inc(counter)
        self._mib.drop(reason)

    def _check_addresses(self, src: bytes, dst: bytes, dev: Device) -> str | None:
        """The reason to drop the packet for its addresses."""
        kind = self._routes.local_kind(dst)
        if dst[0] == 0xFF and self._net.groups.joined(dst, dev.ifindex):
            kind = MULTICAST
        if is_multicast(src) or src.startswith(MAPPED):
            return "IP_INVALID_SOURCE"
        if src == LOOPBACK6 and dev is not self._routes.loopback:
            return "IP_LOCAL_SOURCE"
        if kind == LOOPBACK and not dev.loopback:
            return "IP_LOCALNET"
        if kind:
            return None
        return "IP_INVALID_DEST" if is_multicast(dst) else "IP_INADDRERRORS"

    def _walk(self, rx: RxPacket, rebuilt: bool = False) -> None:
        """Step over the extension headers of a packet whose addresses are good; `rebuilt`
        from fragments."""
        at = ipv6.walk(rx.buf, rx.l3, rx.end)
        if at.drop is not None:
            self._refuse(at.drop, "Ip6InHdrErrors")
        elif at.problem is not None:
            self._refuse("IPV6_BAD_EXTHDR", "Ip6InHdrErrors")
            self._icmp.send(rx, icmpv6.PARAM_PROBLEM, at.problem[0], at.problem[1])
        elif at.frag and rebuilt:
            # fragments of fragments: no host sends them, and each level would be a call
            self._refuse("IPV6_BAD_EXTHDR", "Ip6InHdrErrors")
        elif at.frag:
            self._fragment(rx, at)
        else:
            rx.proto, rx.l4 = at.proto, at.l4
            self._deliver(rx, at.nhoff)

    def _deliver(self, rx: RxPacket, nhoff: int) -> None:
        """Hand a whole datagram to its protocol; `nhoff` is what named that."""
        handler = (self.rcv_many if rx.dst[0] == 0xFF else self._handlers).get(rx.proto)
        if handler is None:
            self._refuse("IP_NOPROTO", "Ip6InUnknownProtos")
            self._icmp.send(rx, icmpv6.PARAM_PROBLEM, icmpv6.UNK_NEXTHDR, nhoff)
            return
        if rx.dst[0] == 0xFF and not self._wanted(rx):
            self._refuse("IP_INADDRERRORS", "Ip6InDiscards")
            return
        self._counters["Ip6InDelivers"] += 1
        handler(rx)

    def _wanted(self, rx: RxPacket) -> bool:
        """Does a member of the group want its source? MLD is for all of them."""
        if rx.proto == IPPROTO_ICMPV6 and rx.l4 < rx.end and rx.buf[rx.l4] in mld.MESSAGES:
            return True
        return self._net.groups.wants(rx.dst, rx.iif, rx.src)

    # -- fragments ---------------------------------------------------------------------

    def _fragment(self, rx: RxPacket, at: ipv6.Walk) -> None:
        """One fragment; the datagram, if it is the last that was missing."""
        _, _, field, ident = ipv6.FRAGMENT.unpack_from(rx.buf, at.frag)
        offset = field & ipv6.FRAG_OFFSET_MASK
        more = bool(field & ipv6.FRAG_MORE)
        length = rx.end - at.l4
        pointer = None
        if more and length & 7:
            pointer = 4  # the payload length
        elif offset + length > _MAX_LEN:
            pointer = at.frag + 2 - rx.l3
        if pointer is not None:
            self._mib.inc("Ip6ReasmReqds")
            self._refuse("IPV6_BAD_EXTHDR", "Ip6InHdrErrors")
            self._icmp.send(rx, icmpv6.PARAM_PROBLEM, icmpv6.HDR_FIELD, pointer)
            return
        rx.l4 = at.frag
        data = rx.buf[at.l4 : rx.end]
        # RFC 8200: the next header of later fragments does not count, so it is no key
        key = (rx.src, rx.dst, ident, 0)
        truesize = rx.truesize or rx_truesize(rx.end - rx.l3)
        queue = self._reassembly.add(key, rx, offset, data, more, truesize)
        if queue is not None and queue.first is not None:
            whole = self._rebuild(queue.first, queue.data(), queue.ecn)
            if whole is None:
                self._refuse("PKT_TOO_BIG", "Ip6ReasmFails")
                return
            whole.iif, whole.now, whole.truesize = rx.iif, rx.now, queue.charge()
            self._walk(whole, True)

    def _rebuild(self, first: RxPacket, payload: bytes, ecn: int) -> RxPacket | None:
        """The datagram as if it had never been cut: the first fragment's headers without
        the Fragment header. None if it is too long then."""
        header = bytearray(first.buf[first.l3 : first.l4])
        length = len(header) - ipv6.HEADER_LEN + len(payload)
        if length > _MAX_LEN:
            return None
        header[_nexthdr_before(header)] = first.buf[first.l4]
        _H.pack_into(header, 4, length)
        if ecn & 8:
            header[1] |= 0x30
        tos = (header[0] << 8 | header[1]) >> 4 & 0xFF
        buf = bytes(header) + payload
        return RxPacket(
            buf, 0, ipv6.HEADER_LEN, len(buf), 0, first.src, first.dst, tos, first.ttl,
            0, False, first.iif, first.now,
        )  # fmt: skip

    def _reassembly_expired(self, first: RxPacket) -> None:
        self._icmp.send(first, icmpv6.TIME_EXCEEDED, icmpv6.EXC_FRAGTIME)


def _nexthdr_before(header: bytearray) -> int:
    """Where the unfragmentable part (already walked) names the header that follows it."""
    at, following = 6, ipv6.HEADER_LEN
    while following < len(header):
        at, following = following, following + 8 * (header[following + 1] + 1)
    return at
