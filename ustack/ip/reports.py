"""Telling the routers of one link which groups this host wants: what IGMP and MLD share.

Problem. A router forwards the packets of a group onto a link while somebody there has said
that he wants them. A host says so when that changes, unasked and more than once, and when a
router asks. Reports of many hosts must not come at the same moment, and several changes
made together should be one report.

Structure. There is a `Reporter` for each device and family, made when the first group is
joined there or the first query comes. It has the groups of the device, those that were left
and must still be reported (`_left`), and two timers:

- `_change_at`: a change has happened. It runs two ticks later, so that what a program does
  in one go is told in one report, then again after a random time up to the unsolicited report
  interval, `qrv` (robustness) times in all; each change starts that anew.
- `_answer_at`: a general query is answered with everything.

A query about one group is answered when the group's own timer runs (`Group.timer`). Its
other use is the old protocol versions, into which a query of an old router puts the device
for a time: IGMPv1 and v2 and MLDv1 have no filters and one message a group.

What goes into a report is `_add_record`, which is called for each thing that may have to be
told; `_Report` cuts what it writes into packets that fit the MTU. A list of EXCLUDEd sources
that is too long is truncated, any other goes on in the next packet.

Limits. Nothing is sent on loopback. Devices are always up. What other hosts report does not
silence us, as on a TUN under Linux: there are no other hosts on it, and the kernel does not
take what it brings for a multicast of the link. `silent` groups are never reported: that of
all hosts, and IPv6 groups that do not leave the host.

Sources: RFC 3376 section 5, RFC 3810 section 6; Linux `igmpv3_send_cr`, `add_grec`,
`igmp_ifc_event`, `igmp_group_added`, `igmp_group_dropped`, `igmpv3_add_delrec`,
`igmpv3_del_delrec`, and their likes in net/ipv6/mcast.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from ustack.ip.membership import Group, Source
from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Device
from ustack.sock.multicast import EXCLUDE, INCLUDE
from ustack.wire.igmp import (
    ALLOW,
    BLOCK,
    IS_EXCLUDE,
    IS_INCLUDE,
    TO_EXCLUDE,
    TO_INCLUDE,
    Record,
)

if TYPE_CHECKING:
    from ustack.ip.output import IpOutput
    from ustack.sock.net import Rng

SECOND, MILLISECOND = 1_000_000_000, 1_000_000
HZ = 250  # of the kernel that ours behaves like; `Sysctl.hz` where that is set
ROBUSTNESS, QUERY_INTERVAL, RESPONSE_INTERVAL = 2, 125 * SECOND, 10 * SECOND


class Reporter:
    """The groups of one family on one device."""

    __slots__ = (
        "_answer_at", "_change_at", "_changes", "_dev", "_left", "_net", "_rng", "groups",
        "heap_at", "max_delay", "qi", "qri", "qrv",
    )  # fmt: skip

    record_len: ClassVar[int] = 0
    addr_len: ClassVar[int] = 0

    def __init__(self, net: IpOutput, dev: Device, rng: Rng) -> None:
        self._net = net
        self._dev = dev
        self._rng = rng
        self.groups: dict[bytes, Group] = {}
        self._left: list[Group] = []  # newest first
        self._answer_at = NEVER
        self._change_at = NEVER
        self._changes = 0  # reports of the last change that are still to come
        self.qrv = ROBUSTNESS
        self.qi = QUERY_INTERVAL
        self.qri = RESPONSE_INTERVAL
        self.max_delay = RESPONSE_INTERVAL
        self.heap_at = NEVER

    # -- what the protocols differ in --------------------------------------------------------

    def silent(self, addr: bytes) -> bool:
        """Is this group never reported?"""
        raise NotImplementedError

    def old_version(self, now: int) -> int:
        """The old protocol version that is spoken, 0 for the current one."""
        raise NotImplementedError

    def interval(self, now: int) -> int:
        """The unsolicited report interval, ns."""
        raise NotImplementedError

    def room(self) -> int:
        """Bytes for the records of one report."""
        raise NotImplementedError

    def send_records(self, records: Sequence[Record]) -> None:
        """Send a report of the current version."""
        raise NotImplementedError

    def join_old(self, group: Group, now: int) -> None:
        """Report a new group in the old version."""
        raise NotImplementedError

    def leave_old(self, group: Group, version: int) -> None:
        """Say that the group was left, in the old version."""
        raise NotImplementedError

    def group_timeout(self, group: Group, now: int) -> None:
        """The group's timer has run."""
        raise NotImplementedError

    def answer_within(self, group: Group, delay: int, now: int) -> None:
        """Start the group's timer to run in `delay`, unless it will sooner."""
        raise NotImplementedError

    # -- what sockets do -----------------------------------------------------------------------

    def join(self, addr: bytes, mode: int, now: int) -> None:
        """A socket has joined (Linux: `__ip_mc_inc_group`)."""
        group = self.groups.get(addr)
        if group is not None:
            group.users += 1
            self.add_sources(addr, mode, (), False, now)
            return
        group = self.groups[addr] = Group(addr, mode, self._dev.loopback or self.silent(addr))
        group.on_timeout = self.group_timeout
        if self.muted(group):
            return
        self._restore(group)
        if self.old_version(now):
            self.join_old(group, now)
            return
        if mode == EXCLUDE:  # from no sources to some is no change of mode (RFC 3376 5.1)
            group.crcount = self.qrv
        self._event(now)

    def leave(self, addr: bytes, now: int) -> None:
        """A socket has left; its sources are gone already (Linux: `ip_mc_dec_group`)."""
        group = self.groups[addr]
        group.users -= 1
        if group.users:
            return
        del self.groups[addr]
        group.timer = NEVER
        self._net.deadlines.forget(group)
        if self.muted(group):
            return
        version = self.old_version(now)
        if version:
            self.leave_old(group, version)
            return
        self._bury(group)
        self._event(now)

    def add_sources(
        self, addr: bytes, mode: int, sources: Sequence[bytes], delta: bool, now: int
    ) -> None:
        """See `membership.Group`."""
        group = self.groups[addr]
        if group.add_sources(mode, sources, delta, self.qrv) and not self.muted(group):
            self._event(now)

    def del_sources(
        self, addr: bytes, mode: int, sources: Sequence[bytes], delta: bool, now: int
    ) -> None:
        """See `membership.Group`."""
        group = self.groups[addr]
        tombs = not self.old_version(now)
        if group.del_sources(mode, sources, delta, self.qrv, tombs) and not self.muted(group):
            self._event(now)

    def muted(self, group: Group) -> bool:
        """Is this group not reported now?"""
        return group.silent

    def _bury(self, group: Group) -> None:
        """Remember what must be said of a group that was left (Linux: `igmpv3_add_delrec`)."""
        gone = Group(group.addr, group.mode, False)
        gone.crcount = self.qrv
        if group.mode == INCLUDE:
            gone.tomb, gone.sources = group.tomb, group.sources
            for source in gone.sources.values():
                source.crcount = self.qrv
        self._left.insert(0, gone)

    def _restore(self, group: Group) -> None:
        """It was left just now, and is back (Linux: `igmpv3_del_delrec`)."""
        for gone in self._left:
            if gone.addr == group.addr:
                self._left.remove(gone)
                if group.mode == INCLUDE:
                    group.tomb, group.sources = gone.tomb, gone.sources
                    for source in group.sources.values():
                        source.crcount = self.qrv
                else:
                    group.crcount = self.qrv
                return

    # -- timers --------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        return min(self._answer_at, self._change_at)

    def handle_timeout(self, now: int) -> None:
        if self._answer_at <= now:
            self._answer_at = NEVER
            self._send_state(list(self.groups.values())[::-1])
        if self._change_at <= now:
            self._change_at = NEVER
            self._send_changes()
            self._changes -= 1
            if self._changes > 0:
                self._arm_change(self.interval(now), now)

    def soon(self, within: int) -> int:
        """A random time below `within`, and the two ticks that the kernel's timers take."""
        return self.random(within) + 2 * SECOND // (self._net.sysctl.hz or HZ)

    def random(self, within: int) -> int:
        return self._rng.randrange(0, within) if within > 1 else 0

    def arm_group(self, group: Group, at: int) -> None:
        group.timer = at
        self._net.deadlines.arm(group, at)

    def _event(self, now: int) -> None:
        """Something is to be told (Linux: `igmp_ifc_event`)."""
        if not self.old_version(now):
            self._changes = self.qrv
            self._arm_change(0, now)

    def _arm_change(self, within: int, now: int) -> None:
        self._change_at = now + self.soon(within)
        self._net.deadlines.arm(self, self._change_at)

    # -- queries -------------------------------------------------------------------------------

    def asked(self, group: bytes) -> list[Group]:
        """The groups that a query about `group` is about: all, if that is none."""
        if not any(group):
            return list(self.groups.values())
        known = self.groups.get(group)
        return [known] if known is not None else []

    def answer_all(self, now: int) -> None:
        """A general query of the current version."""
        at = now + self.soon(self.max_delay)
        if at < self._answer_at:
            self._answer_at = at
            self._net.deadlines.arm(self, at)

    def answer_group(self, group: Group, sources: Sequence[bytes], delay: int, now: int) -> None:
        """A query that this group is to answer; about some `sources` only, if any."""
        if self.muted(group):
            return
        asked = bool(sources)
        group.gsquery = asked and (group.timer == NEVER or group.gsquery)
        if not group.gsquery or group.mark_asked(sources):
            self.answer_within(group, delay, now)

    def forget_answer(self) -> None:
        self._answer_at = NEVER

    def forget_changes(self) -> None:
        """An old router is here: it cannot be told of what has changed."""
        self._changes = 0
        self._change_at = NEVER
        self._left.clear()
        for group in self.groups.values():
            group.tomb.clear()

    # -- reports -------------------------------------------------------------------------------

    def _send_state(self, groups: Iterable[Group]) -> None:
        """What is wanted now (Linux: `igmpv3_send_report`)."""
        report = _Report(self)
        for group in groups:
            kind = IS_EXCLUDE if group.sfcount[EXCLUDE] else IS_INCLUDE
            self._add_record(report, group, kind, False, False)
        report.flush()

    def send_group(self, group: Group) -> None:
        self._send_state((group,))

    def _send_changes(self) -> None:
        """What has changed (Linux: `igmpv3_send_cr`)."""
        report = _Report(self)
        for group in self._left:
            if group.mode == INCLUDE:
                self._add_record(report, group, BLOCK, True, False)
                self._add_record(report, group, BLOCK, True, True)
            if group.crcount:
                if group.mode == EXCLUDE:
                    self._add_record(report, group, TO_INCLUDE, True, False)
                group.crcount -= 1
        self._left = [g for g in self._left if g.crcount or g.tomb or g.sources]
        for group in list(self.groups.values())[::-1]:
            excluding = group.sfcount[EXCLUDE] != 0
            self._add_record(report, group, BLOCK if excluding else ALLOW, False, False)
            self._add_record(report, group, ALLOW if excluding else BLOCK, False, True)
            if group.crcount:
                kind = TO_EXCLUDE if group.mode == EXCLUDE else TO_INCLUDE
                self._add_record(report, group, kind, False, False)
                group.crcount -= 1
        report.flush()

    def _add_record(
        self, report: _Report, group: Group, kind: int, group_gone: bool, gone: bool
    ) -> None:
        """Say `kind` of the group; records without sources only where that says something
        (Linux: `add_grec`)."""
        if self.muted(group):
            return
        sources = group.tomb if gone else list(group.sources.values())
        named = [s for s in sources if group.in_record(s, kind, group_gone, gone)]
        changes = kind in (ALLOW, BLOCK)
        answer = kind in (IS_INCLUDE, IS_EXCLUDE)
        # a change of mode tells the sources too (RFC 3376 5.1)
        mode_told = group.mode == EXCLUDE if group_gone else group.crcount != 0
        addrs = [s.addr for s in named if not (changes and mode_told and s.crcount)]
        if addrs:
            report.add(kind, group.addr, addrs)
        elif not changes and (group.crcount or answer):
            report.add(kind, group.addr, ())
        if changes:
            self._count_down(group, named, group_gone, gone)
        elif answer:
            group.gsquery = False
            for source in named:
                source.asked = False

    def _count_down(
        self, group: Group, named: Sequence[Source], group_gone: bool, gone: bool
    ) -> None:
        """`named` have been told once more; what is gone is forgotten after the last time."""
        for source in named:
            if source.crcount:
                source.crcount -= 1
        if gone:
            group.tomb = [source for source in group.tomb if source.crcount]
        elif group_gone:
            group.sources = {s.addr: s for s in group.sources.values() if s.crcount}


class _Report:
    """Records on their way into packets."""

    __slots__ = ("_records", "_reporter", "_room")

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._records: list[Record] = []
        self._room = reporter.room()

    def add(self, kind: int, group: bytes, sources: Sequence[bytes]) -> None:
        """One record, or several where it does not fit one packet."""
        head, size = self._reporter.record_len, self._reporter.addr_len
        truncate = kind in (IS_EXCLUDE, TO_EXCLUDE)
        least = head + size * (len(sources) if truncate else min(len(sources), 1))
        if self._room < least:
            self.flush()
        at = 0
        while True:
            fit = max((self._room - head) // size, 0)
            record = Record(kind, group)
            record.sources.extend(sources[at : at + fit])
            self._records.append(record)
            self._room -= head + size * len(record.sources)
            at += fit
            if at >= len(sources) or truncate or not fit:
                return
            self.flush()

    def flush(self) -> None:
        if self._records:
            self._reporter.send_records(self._records)
        self._records = []
        self._room = self._reporter.room()
