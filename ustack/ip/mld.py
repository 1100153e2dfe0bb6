"""MLD: the groups of one device over IPv6, and what routers ask about them (RFC 3810).

Version 2 is `ip.reports`. A query of version 1 puts the device into that version for
robustness * query interval + query response interval: each group is then reported at once
when it is joined, once more within 10 s, and when its timer runs after a query; leaving is
said if we reported last.

Messages come from the device's link-local address, from `::` where it has none: a TUN of ours
has none unless it was given one. Groups that stay on the host and that of all nodes are never
reported, and an address of ours brings no solicited-node group: without neighbour discovery
nobody solicits (Linux on a device with IFF_NOARP).

A query counts only as RFC 3810 6.2 wants it: from a link-local address, hop limit 1, with the
Router Alert.

Sources: Linux `igmp6_event_query`, `mld_process_v1`, `mld_process_v2`, `igmp6_group_queried`,
`igmp6_join_group`, `igmp6_leave_group`, `igmp6_send`, `mld_newpack`, `addrconf_join_solict`;
RFC 2710, 3810.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ustack.ip.membership import Group
from ustack.ip.reports import HZ, MILLISECOND, ROBUSTNESS, SECOND, Reporter
from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Device
from ustack.wire import mld
from ustack.wire.addr import ANY6, is_linklocal
from ustack.wire.igmp import Query, Record, decode_time
from ustack.wire.ipv6 import MIN_MTU
from ustack.wire.packet import Packet, RxPacket

if TYPE_CHECKING:
    from ustack.ip.output import IpOutput
    from ustack.sock.net import Rng

ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
_LINK_SCOPE = 2
_MAX_REPORT = 2048
_OUT_COUNTERS = {
    mld.V1_REPORT: "Icmp6OutGroupMembResponses",
    mld.V1_DONE: "Icmp6OutGroupMembReductions",
    mld.V2_REPORT: "Icmp6OutMLDv2Reports",
}


class Mld(Reporter):
    """The IPv6 groups of one device."""

    __slots__ = ("_v1_until",)

    record_len: ClassVar[int] = mld.RECORD_LEN
    addr_len: ClassVar[int] = 16

    def __init__(self, net: IpOutput, dev: Device, rng: Rng) -> None:
        super().__init__(net, dev, rng)
        self._v1_until = 0
        self.qrv = net.sysctl.mld_qrv

    def silent(self, addr: bytes) -> bool:
        return addr == ALL_NODES or addr[1] & 15 < _LINK_SCOPE

    def old_version(self, now: int) -> int:
        forced = self._net.sysctl.force_mld_version
        if forced:
            return int(forced == 1)
        return int(now < self._v1_until)

    def interval(self, now: int) -> int:
        sysctl = self._net.sysctl
        if self.old_version(now):
            return sysctl.mldv1_unsolicited_report_interval * MILLISECOND
        return sysctl.mldv2_unsolicited_report_interval * MILLISECOND

    def room(self) -> int:
        return min(self._dev.mtu, _MAX_REPORT) - mld.OVERHEAD

    # -- in ------------------------------------------------------------------------------------

    def heard_query(self, query: Query, now: int) -> bool:
        """Linux: `__mld_query_work`. False for a query that makes no sense."""
        version = self.old_version(now)
        if query.version == 1 or version:
            if self._net.sysctl.force_mld_version == 2:
                return False
            code = query.code if query.version == 1 else min(query.code, mld.EXPONENTIAL - 1)
            delay = code * MILLISECOND or SECOND // HZ
            if query.version == 1:
                self._v1_until = now + self.qrv * self.qi + self.qri
            self.forget_changes()
            self.forget_answer()
            sources: tuple[bytes, ...] = ()
        else:
            delay = mld.decode_delay(query.code) * MILLISECOND or SECOND // HZ
            self._learn(query, delay)
            sources = tuple(query.sources)
            if query.group == ANY6:
                if sources:
                    return False
                self.forget_answer()
                self.answer_all(now)
                return True
        for group in self.asked(query.group):
            self.answer_group(group, sources, delay, now)
        return True

    def _learn(self, query: Query, delay: int) -> None:
        """What the querier's settings are, for us to have the same."""
        self.max_delay = self.qri = delay
        self.qrv = max(query.qrv or self.qrv, min(self._net.sysctl.mld_qrv, ROBUSTNESS))
        self.qi = decode_time(query.qqic) * SECOND

    def answer_within(self, group: Group, delay: int, now: int) -> None:
        if group.timer == NEVER or group.timer - now >= delay:
            self.arm_group(group, now + self.random(delay))

    # -- out -----------------------------------------------------------------------------------

    def join_old(self, group: Group, now: int) -> None:
        self._send_v1(mld.V1_REPORT, group.addr, group.addr)
        self.arm_group(group, now + self.random(self.interval(now)))
        group.reporter = True

    def leave_old(self, group: Group, version: int) -> None:
        if group.reporter:
            self._send_v1(mld.V1_DONE, mld.ALL_ROUTERS, group.addr)

    def group_timeout(self, group: Group, now: int) -> None:
        if self.old_version(now):
            self._send_v1(mld.V1_REPORT, group.addr, group.addr)
        else:
            self.send_group(group)
        group.reporter = True

    def _send_v1(self, kind: int, daddr: bytes, group: bytes) -> None:
        saddr = self._source()
        self._transmit(saddr, daddr, kind, mld.build(saddr, daddr, kind, group))

    def send_records(self, records: Sequence[Record]) -> None:
        if self._dev.mtu >= MIN_MTU:
            saddr = self._source()
            message = mld.build_report(saddr, mld.V2_ROUTERS, records)
            self._transmit(saddr, mld.V2_ROUTERS, mld.V2_REPORT, message)

    def _transmit(self, saddr: bytes, daddr: bytes, kind: int, message: bytes) -> None:
        mib = self._net.mib
        mib.inc("Ip6OutRequests")
        mib.inc("Icmp6OutMsgs")
        mib.inc(_OUT_COUNTERS[kind])
        self._dev.xmit(Packet(mld.header(saddr, daddr, len(message)) + message))

    def _source(self) -> bytes:
        for address in self._net.routes.addresses:
            if address.dev is self._dev and len(address.addr) == 16:
                if is_linklocal(address.addr):
                    return address.addr
        return ANY6


def rcv(reporter: Mld, rx: RxPacket) -> bool:
    """A query whose checksum is good; false if it makes no sense."""
    if not is_linklocal(rx.src) or rx.ttl != 1:
        return False
    if not mld.has_router_alert(rx.buf, rx.l3, rx.end):
        return False
    query = mld.parse_query(rx.buf, rx.l4, rx.end)
    return query is not None and reporter.heard_query(query, rx.now)
