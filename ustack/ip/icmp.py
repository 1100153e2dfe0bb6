"""ICMP for IPv4: echo, errors in, errors out.

Errors in. An error quotes the packet that it is about. It is believed only if what it
quotes is a packet of ours: whole header, at least 8 bytes behind it, our source address.
The transport then looks for the socket; TCP also asks that the quoted sequence number be
in its window. Who accepts a fragmentation-needed message calls `net.update_pmtu`.

Errors out. `send` applies the rules that keep errors from multiplying (RFC 1122 3.2.2):
none about an ICMP error, a later fragment, a broadcast or multicast, or to a source
that is no host. Then the rate limit of `ip.ratelimit`. They quote as much as fits 576
bytes (RFC 1812 4.3.2.3) and come from the address that the packet was sent to.

Echo. A request to an address of this host is answered at once; one to an AnyIP address
goes to `net.on_echo`, if set. Echo replies go to `net.ping`, if set.

Left out: redirects, router discovery.

Sources: Linux `icmp_send`, `icmp_unreach`, `icmp_echo`, `icmpv4_xrlim_allow`; RFC 792, 1122.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

from ustack.ip.options4 import echo_options
from ustack.ip.ratelimit import IcmpLimiter
from ustack.ip.route import ANYIP
from ustack.sock.icmp import IcmpError
from ustack.wire import icmp
from ustack.wire.checksum import verify
from ustack.wire.ipv4 import HEADER_LEN, OFFSET_MASK
from ustack.wire.packet import IPPROTO_ICMP, RxPacket

if TYPE_CHECKING:
    from ustack.ip.output import IpOutput

ERROR_MAX = 576
MILLISECOND = 1_000_000
_DAY_MS = 86_400_000

_OUT_COUNTERS = {
    icmp.DEST_UNREACH: "IcmpOutDestUnreachs",
    icmp.TIME_EXCEEDED: "IcmpOutTimeExcds",
    icmp.PARAM_PROBLEM: "IcmpOutParmProbs",
}
_IN_COUNTERS = {
    icmp.ECHO_REPLY: "IcmpInEchoReps",
    icmp.DEST_UNREACH: "IcmpInDestUnreachs",
    icmp.ECHO: "IcmpInEchos",
    icmp.TIMESTAMP: "IcmpInTimestamps",
    icmp.TIME_EXCEEDED: "IcmpInTimeExcds",
    icmp.PARAM_PROBLEM: "IcmpInParmProbs",
}


class PingSink(Protocol):
    """Takes echo replies, and errors about echo requests."""

    def rcv(self, rx: RxPacket) -> None: ...

    def icmp_err(self, e: IcmpError) -> None: ...


class EchoRequest:
    """An echo request to an AnyIP address, for `on_echo` to decide about, now or later.

    Not calling anything is dropping it; nothing else remembers it.
    """

    __slots__ = ("_answer", "_refuse", "rx")

    def __init__(
        self,
        rx: RxPacket,
        answer: Callable[[RxPacket], None],
        refuse: Callable[[RxPacket, int], None],
    ) -> None:
        self.rx = rx
        self._answer = answer
        self._refuse = refuse

    @property
    def data(self) -> bytes:
        """What the request carries behind its 8-byte header."""
        return self.rx.buf[self.rx.l4 + icmp.HEADER_LEN : self.rx.end]

    def reply(self, now: int) -> None:
        """Answer as a host at that address would."""
        self.rx.now = now
        self._answer(self.rx)

    def unreachable(self, code: int, now: int) -> None:
        """Answer with a destination unreachable of this code."""
        self.rx.now = now
        self._refuse(self.rx, code)


class IcmpHandler:
    """What the ICMP of both families has in common.

    `err_handlers` maps a protocol to who is told of errors about its packets.
    """

    __slots__ = ("_err_handlers", "_limiter", "_net")

    group: ClassVar[str] = ""  # of the counters
    proto: ClassVar[int] = 0
    unreach: ClassVar[int] = 0  # type of destination unreachable

    def __init__(
        self,
        net: IpOutput,
        limiter: IcmpLimiter,
        err_handlers: dict[int, Callable[[IcmpError], None]],
    ) -> None:
        self._net = net
        self._limiter = limiter
        self._err_handlers = err_handlers

    def answer_echo(self, rx: RxPacket) -> None:
        """Send the reply to an echo request."""
        raise NotImplementedError

    def send(self, rx: RxPacket, kind: int, code: int, info: int = 0) -> None:
        """Answer `rx` with an error, if the rules allow it."""
        raise NotImplementedError

    def _bad(self, reason: str) -> None:
        self._net.mib.inc(self.group + "InErrors")
        self._net.mib.drop(reason)

    def _echo(self, rx: RxPacket) -> None:
        net = self._net
        if net.on_echo is not None and net.routes.local_kind(rx.dst) == ANYIP:
            net.on_echo(EchoRequest(rx, self.answer_echo, self._refuse_echo))
        elif not net.sysctl.icmp_echo_ignore_all:
            self.answer_echo(rx)

    def _refuse_echo(self, rx: RxPacket, code: int) -> None:
        self.send(rx, self.unreach, code)

    def _echo_reply(self, rx: RxPacket) -> None:
        if self._net.ping is not None:
            self._net.ping.rcv(rx)
        else:
            self._net.mib.drop("NO_SOCKET")

    def _deliver(self, e: IcmpError) -> None:
        """Tell whoever sent what `e` is about."""
        if not self._net.is_local(e.src):
            self._net.mib.drop("NO_SOCKET")
            return
        handler = self._err_handlers.get(e.proto)
        if handler is not None:
            handler(e)
        elif e.proto == self.proto and self._net.ping is not None:
            self._net.ping.icmp_err(e)

    def _reply(
        self,
        rx: RxPacket,
        saddr: bytes,
        message: bytes,
        tos: int,
        counter: str,
        options: bytes = b"",
    ) -> None:
        """Send a message back to where `rx` came from, and count it."""
        if self._net.send_control(self.proto, saddr, rx.src, (message,), tos, rx.now, options):
            self._net.mib.inc(self.group + "OutMsgs")
            self._net.mib.inc(counter)

    def _take_token(self, rx: RxPacket, interval: int) -> bool:
        """Pass both buckets (F-21); `interval` in ns. Loopback is not limited."""
        net, limiter = self._net, self._limiter
        if rx.iif == net.routes.loopback.ifindex:
            return True
        if not limiter.allow_host(rx.now):
            net.mib.inc("IcmpOutRateLimitGlobal")
            return False
        if interval and not limiter.allow_peer(rx.src, interval, rx.now):
            net.mib.inc(self.group + "OutRateLimitHost")
            return False
        limiter.consume_host()
        return True


class Icmp(IcmpHandler):
    """ICMP for IPv4."""

    __slots__ = ()

    group: ClassVar[str] = "Icmp"
    proto: ClassVar[int] = IPPROTO_ICMP
    unreach: ClassVar[int] = icmp.DEST_UNREACH

    # -- in ----------------------------------------------------------------------------

    def rcv(self, rx: RxPacket) -> None:
        """One message (Linux: `icmp_rcv`)."""
        mib = self._net.mib
        mib.inc("IcmpInMsgs")
        if rx.end - rx.l4 < icmp.HEADER_LEN:
            self._bad("PKT_TOO_SMALL")
            return
        if not rx.csum_ok and not verify(rx.buf, rx.l4, rx.end, 0):
            mib.inc("IcmpInCsumErrors")
            self._bad("ICMP_CSUM")
            return
        kind = rx.buf[rx.l4]
        if kind > icmp.MAX_TYPE:
            self._bad("UNHANDLED_PROTO")
            return
        if kind in _IN_COUNTERS:
            mib.inc(_IN_COUNTERS[kind])
        if kind == icmp.ECHO:
            self._echo(rx)
        elif kind == icmp.ECHO_REPLY:
            self._echo_reply(rx)
        elif kind == icmp.TIMESTAMP:
            self._timestamp(rx)
        elif kind in (icmp.DEST_UNREACH, icmp.TIME_EXCEEDED, icmp.PARAM_PROBLEM):
            self._error(rx, kind, rx.buf[rx.l4 + 1])

    def answer_echo(self, rx: RxPacket) -> None:
        """The same data back with type 0 (Linux: `icmp_echo`)."""
        rest = int.from_bytes(rx.buf[rx.l4 + 4 : rx.l4 + 8], "big")
        message = icmp.echo_reply(rest, rx.buf[rx.l4 + icmp.HEADER_LEN : rx.end])
        self._answer(rx, message, "IcmpOutEchoReps")

    def _answer(self, rx: RxPacket, message: bytes, counter: str) -> None:
        """Send what was asked for, with the options of the request."""
        options = self._options_for(rx, rx.l4 - rx.l3)
        if options is not None:
            self._reply(rx, rx.dst, message, rx.tos, counter, options)

    def time_of_day(self, now: int) -> int:
        """ms since midnight UT."""
        return (now + self._net.wall_ns) // MILLISECOND % _DAY_MS

    def _options_for(self, rx: RxPacket, end: int) -> bytes | None:
        """The options of an answer to `rx`, of whose header [0, end) counts; None if there
        can be no answer."""
        if end <= HEADER_LEN:
            return b""
        header = bytes(rx.buf[rx.l3 : rx.l4])
        now_ms = self.time_of_day(rx.now)
        return echo_options(header, rx.src, end, rx.dst, now_ms, self._net.routes.is_ours)

    def _timestamp(self, rx: RxPacket) -> None:
        """The time of day back (Linux: `icmp_timestamp`)."""
        start = rx.l4 + icmp.HEADER_LEN
        if rx.end - start < 4:
            self._bad("PKT_TOO_SMALL")
            return
        rest = int.from_bytes(rx.buf[rx.l4 + 4 : start], "big")
        message = icmp.timestamp_reply(rest, rx.buf[start : start + 4], self.time_of_day(rx.now))
        self._answer(rx, message, "IcmpOutTimestampReps")

    def _error(self, rx: RxPacket, kind: int, code: int) -> None:
        """Check an error and hand it to its transport (Linux: `icmp_unreach`)."""
        start = rx.l4 + icmp.HEADER_LEN
        quote = icmp.parse_quote(rx.buf, start, rx.end)
        if quote is None:
            self._bad("PKT_TOO_SMALL")
            return
        if (kind == icmp.DEST_UNREACH and code > icmp.MAX_UNREACH_CODE) or (
            kind == icmp.TIME_EXCEEDED and code == icmp.EXC_FRAGTIME
        ):
            return
        if int.from_bytes(rx.buf[start + 6 : start + 8], "big") & OFFSET_MASK:
            return  # a later fragment: what it quotes is no transport header
        info = 0
        if kind == icmp.DEST_UNREACH and code == icmp.FRAG_NEEDED:
            info = int.from_bytes(rx.buf[rx.l4 + 6 : rx.l4 + 8], "big")
        elif kind == icmp.PARAM_PROBLEM:
            info = rx.buf[rx.l4 + 4]
        quoted = rx.buf[quote.l4 : quote.end]
        self._deliver(
            IcmpError(
                4, kind, code, info, rx.src, quote.src, quote.dst, quote.proto, quoted, rx.now, rx
            )
        )

    # -- out ---------------------------------------------------------------------------

    def send(self, rx: RxPacket, kind: int, code: int, info: int = 0) -> None:
        """Answer `rx` with an error, if the rules allow it (Linux: `icmp_send`)."""
        if not self._may_answer(rx) or not self._within_limit(rx, kind, code):
            return
        try:
            room = min(ERROR_MAX, self._net.route(rx.src).mtu(rx.now)) - 20 - icmp.HEADER_LEN
        except OSError:
            return
        end = info >> 24 if kind == icmp.PARAM_PROBLEM else rx.l4 - rx.l3
        options = self._options_for(rx, end)
        if options is None:
            return
        quote = rx.buf[rx.l3 : min(rx.end, rx.l3 + room - len(options))]
        message = icmp.build(kind, code, info, quote)
        tos = rx.tos & 0x1E | 0xC0  # internetwork control, the sender's type of service
        self._reply(rx, rx.dst, message, tos, _OUT_COUNTERS[kind], options)

    def _may_answer(self, rx: RxPacket) -> bool:
        """F-20: the packets about which an error may be sent."""
        if not self._net.is_local(rx.dst) or not 0 < rx.src[0] < 224:
            return False
        if int.from_bytes(rx.buf[rx.l3 + 6 : rx.l3 + 8], "big") & OFFSET_MASK:
            return False
        if rx.proto == IPPROTO_ICMP:  # not about an error, nor where that cannot be seen
            return rx.l4 < rx.end and rx.buf[rx.l4] in _ANSWERABLE
        return True

    def _within_limit(self, rx: RxPacket, kind: int, code: int) -> bool:
        sysctl = self._net.sysctl
        if kind == icmp.DEST_UNREACH and code == icmp.FRAG_NEEDED:
            return True
        if not sysctl.icmp_ratemask >> kind & 1:
            return True
        return self._take_token(rx, sysctl.icmp_ratelimit * MILLISECOND)


# Types that ask or tell something (Linux: `icmp_pointers[].error` is 0): echo and its reply,
# router discovery, timestamps, information and address mask requests
_ANSWERABLE = frozenset((0, 8, 9, 10, 13, 14, 15, 16, 17, 18))
