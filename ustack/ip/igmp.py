"""IGMP: the groups of one device over IPv4, and what routers ask about them (RFC 3376).

Version 3 is `ip.reports`. A query of version 1 or 2 puts the device into that version for
robustness * query interval + query response interval. Then each group is reported by itself:
`igmp_qrv` times within the unsolicited report interval (10 s) after it was joined, and
when its timer runs after a query. Leaving is said in version 2, if we reported last, and not at
all in version 1.

The group of all hosts is never reported, those of the link (224.0.0.0/24) only while
`igmp_link_local_mcast_reports` is set.

Sources: Linux `igmp_rcv`, `igmp_heard_query`, `igmp_timer_expire`, `igmp_mod_timer`,
`igmp_send_report`, `igmpv3_newpack`; RFC 1112, 2236, 3376.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ustack.ip.membership import Group
from ustack.ip.reports import HZ, MILLISECOND, QUERY_INTERVAL, SECOND, Reporter
from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Device
from ustack.wire import igmp
from ustack.wire.addr import ANY4
from ustack.wire.igmp import Query, Record
from ustack.wire.packet import Packet, RxPacket

if TYPE_CHECKING:
    from ustack.ip.output import IpOutput
    from ustack.sock.net import Rng

ALL_HOSTS = b"\xe0\0\0\x01"
_LINK_LOCAL = b"\xe0\0\0"
_MIN_MTU = 68
_TENTH = SECOND // 10
_RESPONSE = 10 * SECOND  # what a version 1 query asks for without saying


class Igmp(Reporter):
    """The IPv4 groups of one device."""

    __slots__ = ("_v1_until", "_v2_until")

    record_len: ClassVar[int] = igmp.RECORD_LEN
    addr_len: ClassVar[int] = 4

    def __init__(self, net: IpOutput, dev: Device, rng: Rng) -> None:
        super().__init__(net, dev, rng)
        self._v1_until = 0
        self._v2_until = 0
        self.qrv = net.sysctl.igmp_qrv

    def silent(self, addr: bytes) -> bool:
        return addr == ALL_HOSTS

    def muted(self, group: Group) -> bool:
        if group.silent:
            return True
        return group.addr[:3] == _LINK_LOCAL and not self._net.sysctl.igmp_link_local_mcast_reports

    def old_version(self, now: int) -> int:
        forced = self._net.sysctl.force_igmp_version
        if forced == 1 or now < self._v1_until:
            return 1
        return 2 if forced == 2 or now < self._v2_until else 0

    def interval(self, now: int) -> int:
        sysctl = self._net.sysctl
        if self.old_version(now):
            return sysctl.igmpv2_unsolicited_report_interval * MILLISECOND
        return sysctl.igmpv3_unsolicited_report_interval * MILLISECOND

    def room(self) -> int:
        return self._dev.mtu - igmp.OVERHEAD

    # -- in ------------------------------------------------------------------------------------

    def heard_query(self, query: Query, now: int) -> bool:
        """Linux: `igmp_heard_query`. False for a query that makes no sense."""
        version = self.old_version(now)
        group = query.group
        if query.version < 3:
            delay = query.code * _TENTH if query.code else _RESPONSE
            until = now + self.qrv * self.qi + self.qri
            if query.version == 1:
                self._v1_until = until
                group = ANY4
            else:
                self._v2_until = until
            self.forget_changes()
        elif version == 1:
            delay = _RESPONSE
            group = ANY4
        else:
            delay = igmp.decode_time(query.code) * _TENTH or SECOND // HZ
            if not version:
                self._learn(query, delay)
                if group == ANY4:
                    if query.sources:
                        return False
                    self.answer_all(now)
                    return True
        sources = () if version or query.version < 3 else tuple(query.sources)
        for known in self.asked(group):
            self.answer_group(known, sources, delay, now)
        return True

    def _learn(self, query: Query, delay: int) -> None:
        """What the querier's settings are, for us to have the same."""
        self.max_delay = delay
        self.qrv = query.qrv or self._net.sysctl.igmp_qrv
        self.qi = igmp.decode_time(query.qqic) * SECOND or QUERY_INTERVAL
        if self.qri >= self.qi:
            self.qri = self.qi - SECOND

    def answer_within(self, group: Group, delay: int, now: int) -> None:
        group.unsolicited = 0
        if group.timer == NEVER or group.timer - now >= delay:
            self.arm_group(group, now + self.soon(delay))

    # -- out -----------------------------------------------------------------------------------

    def join_old(self, group: Group, now: int) -> None:
        group.unsolicited = self._net.sysctl.igmp_qrv
        self.arm_group(group, now + self.soon(0))

    def leave_old(self, group: Group, version: int) -> None:
        if version == 2 and group.reporter:
            self._transmit(igmp.ALL_ROUTERS, igmp.build(igmp.LEAVE, group.addr))

    def group_timeout(self, group: Group, now: int) -> None:
        if group.unsolicited > 0:
            group.unsolicited -= 1
            if group.unsolicited:
                self.arm_group(group, now + self.soon(self.interval(now)))
        group.reporter = True
        version = self.old_version(now)
        if not version:
            self.send_group(group)
        elif not self.muted(group):
            kind = igmp.V1_REPORT if version == 1 else igmp.V2_REPORT
            self._transmit(group.addr, igmp.build(kind, group.addr))

    def send_records(self, records: Sequence[Record]) -> None:
        self._transmit(igmp.V3_ROUTERS, igmp.build_report(records))

    def _transmit(self, daddr: bytes, message: bytes) -> None:
        """From the first address of the device, or from none (RFC 3376 4.2.13)."""
        if self._dev.mtu < _MIN_MTU:
            return
        saddr = ANY4
        for address in self._net.routes.addresses:
            if address.dev is self._dev and len(address.addr) == 4:
                saddr = address.addr
                break
        self._net.mib.inc("IpOutRequests")
        self._dev.xmit(Packet(igmp.header(saddr, daddr, len(message)) + message))


def rcv(reporter: Igmp, rx: RxPacket) -> bool:
    """A message whose length and checksum are good; false if it makes no sense. What other
    hosts say is nothing to us (`ip.reports`)."""
    if rx.buf[rx.l4] != igmp.QUERY:
        return True
    query = igmp.parse_query(rx.buf, rx.l4, rx.end)
    return query is not None and reporter.heard_query(query, rx.now)
