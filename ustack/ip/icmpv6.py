"""ICMPv6: echo, errors in, errors out. The rules of `ip.icmp`, in the numbers of RFC 4443.

What differs: the checksum covers a pseudo header; every error type is rate-limited but
Packet Too Big, the more leniently the less specific the route back is; an error is at
most 1,280 bytes long. An echo request to a group that this host has joined is answered,
errors about multicasts are not sent. Queries about groups go to `ip.mld`. Neighbour and
router discovery, which a point-to-point device does not need, are ignored.

Sources: Linux `icmp6_send`, `icmpv6_xrlim_allow`, `icmpv6_rcv`, `icmpv6_notify`,
`is_ineligible`; RFC 4443 section 2.4.
"""

from __future__ import annotations

from typing import ClassVar

from ustack.ip.icmp import MILLISECOND, IcmpHandler
from ustack.sock.icmp import IcmpError
from ustack.wire import icmpv6, mld
from ustack.wire.addr import is_multicast, is_unspecified
from ustack.wire.checksum import pseudo_sum, verify
from ustack.wire.icmp import HEADER_LEN
from ustack.wire.ipv6 import HEADER_LEN as IPV6_LEN
from ustack.wire.ipv6 import MIN_MTU, skip_exthdr
from ustack.wire.packet import IPPROTO_ICMPV6, RxPacket

QUOTE_MAX = MIN_MTU - IPV6_LEN - HEADER_LEN

_OUT_COUNTERS = {
    icmpv6.DEST_UNREACH: "Icmp6OutDestUnreachs",
    icmpv6.PACKET_TOO_BIG: "Icmp6OutPktTooBigs",
    icmpv6.TIME_EXCEEDED: "Icmp6OutTimeExcds",
    icmpv6.PARAM_PROBLEM: "Icmp6OutParmProblems",
}
_IN_COUNTERS = {
    icmpv6.DEST_UNREACH: "Icmp6InDestUnreachs",
    icmpv6.PACKET_TOO_BIG: "Icmp6InPktTooBigs",
    icmpv6.TIME_EXCEEDED: "Icmp6InTimeExcds",
    icmpv6.PARAM_PROBLEM: "Icmp6InParmProblems",
    icmpv6.ECHO: "Icmp6InEchos",
    icmpv6.ECHO_REPLY: "Icmp6InEchoReplies",
    mld.QUERY: "Icmp6InGroupMembQueries",
    mld.V1_REPORT: "Icmp6InGroupMembResponses",
    mld.V1_DONE: "Icmp6InGroupMembReductions",
    mld.V2_REPORT: "Icmp6InMLDv2Reports",
}


class Icmpv6(IcmpHandler):
    """ICMP for IPv6."""

    __slots__ = ()

    group: ClassVar[str] = "Icmp6"
    proto: ClassVar[int] = IPPROTO_ICMPV6
    unreach: ClassVar[int] = icmpv6.DEST_UNREACH

    # -- in ----------------------------------------------------------------------------

    def rcv(self, rx: RxPacket) -> None:
        """One message (Linux: `icmpv6_rcv`)."""
        mib = self._net.mib
        mib.inc("Icmp6InMsgs")
        length = rx.end - rx.l4
        if length < HEADER_LEN:
            self._bad("PKT_TOO_SMALL")
            return
        if not rx.csum_ok:
            pseudo = pseudo_sum(rx.src, rx.dst, IPPROTO_ICMPV6, length)
            if not verify(rx.buf, rx.l4, rx.end, pseudo):
                mib.inc("Icmp6InCsumErrors")
                self._bad("ICMP_CSUM")
                return
        kind = rx.buf[rx.l4]
        if kind in _IN_COUNTERS:
            mib.inc(_IN_COUNTERS[kind])
        if kind == icmpv6.ECHO:
            self._echo(rx)
        elif kind == icmpv6.ECHO_REPLY:
            self._echo_reply(rx)
        elif kind == mld.QUERY:
            self._net.groups.mld_rcv(rx)
        elif not kind & icmpv6.INFO_MASK:
            self._error(rx, kind, rx.buf[rx.l4 + 1])

    def answer_echo(self, rx: RxPacket) -> None:
        """The same message back with type 129 (Linux: `icmpv6_echo_reply`)."""
        rest = int.from_bytes(rx.buf[rx.l4 + 4 : rx.l4 + 8], "big")
        saddr = rx.dst
        if is_multicast(saddr):
            try:
                saddr = self._net.route(rx.src).saddr
            except OSError:
                return
        message = icmpv6.echo_reply(saddr, rx.src, rest, rx.buf[rx.l4 + 8 : rx.end])
        self._reply(rx, saddr, message, rx.tos, "Icmp6OutEchoReplies")

    def _error(self, rx: RxPacket, kind: int, code: int) -> None:
        """Check an error and hand it to its transport (Linux: `icmpv6_notify`)."""
        quote = icmpv6.parse_quote(rx.buf, rx.l4 + HEADER_LEN, rx.end)
        if quote is None:
            self._bad("PKT_TOO_SMALL")
            return
        info = int.from_bytes(rx.buf[rx.l4 + 4 : rx.l4 + 8], "big")
        quoted = rx.buf[quote.l4 : quote.end]
        self._deliver(
            IcmpError(
                6, kind, code, info, rx.src, quote.src, quote.dst, quote.proto, quoted, rx.now, rx
            )
        )

    # -- out ---------------------------------------------------------------------------

    def send(self, rx: RxPacket, kind: int, code: int, info: int = 0) -> None:
        """Answer `rx` with an error, if the rules allow it (Linux: `icmp6_send`)."""
        if not self._may_answer(rx) or not self._within_limit(rx, kind):
            return
        saddr = rx.dst
        if not self._net.is_local(saddr):
            try:
                saddr = self._net.route(rx.src).saddr
            except OSError:
                return
        quote = rx.buf[rx.l3 : min(rx.end, rx.l3 + QUOTE_MAX)]
        message = icmpv6.build(saddr, rx.src, kind, code, info, quote)
        self._reply(rx, saddr, message, 0, _OUT_COUNTERS[kind])

    def _may_answer(self, rx: RxPacket) -> bool:
        """F-20, F-21: the packets about which an error may be sent."""
        if is_multicast(rx.dst) or is_unspecified(rx.src) or is_multicast(rx.src):
            return False
        upper = skip_exthdr(rx.buf, rx.l3 + IPV6_LEN, rx.end, rx.buf[rx.l3 + 6])
        if upper is None or upper[0] != IPPROTO_ICMPV6 or upper[2]:
            return True
        # about an ICMPv6 message only if it is seen to be no error
        return upper[1] < rx.end and bool(rx.buf[upper[1]] & icmpv6.INFO_MASK)

    def _within_limit(self, rx: RxPacket, kind: int) -> bool:
        if kind == icmpv6.PACKET_TOO_BIG:
            return True
        route = self._net.routes.lookup(rx.src)
        leniency = (128 - route.plen) >> 5 if route is not None else 0
        return self._take_token(rx, self._net.sysctl.icmp_ratelimit * MILLISECOND >> leniency)
