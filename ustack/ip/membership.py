"""What this host wants to hear of one group on one device: the filters of all its sockets.

Problem. Each socket that has joined a group wants it from all sources but some (EXCLUDE) or
from some sources only (INCLUDE). The routers are told one filter for the device, and of every
change to it, several times, because reports get lost.

Structure. A `Group` counts the sockets in each mode (`sfcount`), and for each source the
sockets that exclude or include it (`Source.count`). From the counts follows the filter of the
device: EXCLUDE while any socket is in that mode, and then a source is out if all of those
exclude it and none includes it; else the sources that any socket includes. Each thing that
has changed carries the number of reports that must still tell it: `Group.crcount` a change of
mode, `Source.crcount` a source that has come, and those that have gone wait in `tomb` until
they have been told. A group has a timer of its own (`sock.deadlines`); what is done when it
runs, `on_timeout`, is not known here.

`add_sources` and `del_sources` change the counts and say whether there is something new to
tell. `in_record` says which sources a record of a given kind names. Who sends the records, and
when, is `ip.reports`.

Limits. A group that is never reported (`silent`) keeps no tombs. The sources of one socket
are bounded by its own limits (igmp_max_msf, mld_max_msf).

Sources: RFC 3376 sections 3 and 5.1, RFC 3810; Linux `ip_mc_add_src`, `ip_mc_del_src`,
`sf_markstate`, `sf_setstate`, `is_in`, `ip_check_mc_rcu`, `igmp_marksources`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ustack.sock.deadlines import NEVER
from ustack.sock.multicast import EXCLUDE, INCLUDE
from ustack.wire.igmp import ALLOW, IS_EXCLUDE, IS_INCLUDE, TO_EXCLUDE, TO_INCLUDE


class Source:
    """A source of a group that some socket names."""

    __slots__ = ("addr", "asked", "count", "crcount", "was_in")

    def __init__(self, addr: bytes) -> None:
        self.addr = addr
        self.count = [0, 0]  # sockets that exclude it, that include it
        self.crcount = 0
        self.was_in = False  # part of the device's filter before the change under way
        self.asked = False  # a query names it (Linux: `sf_gsresp`)


class Group:
    """One group on one device."""

    __slots__ = (
        "addr", "crcount", "gsquery", "heap_at", "mode", "on_timeout", "reporter", "sfcount",
        "silent", "sources", "timer", "tomb", "unsolicited", "users",
    )  # fmt: skip

    def __init__(self, addr: bytes, mode: int, silent: bool) -> None:
        self.addr = addr
        self.users = 1
        self.mode = mode
        self.sfcount = [0, 0]
        self.sfcount[mode] = 1
        self.silent = silent
        self.sources: dict[bytes, Source] = {}
        self.tomb: list[Source] = []  # newest first
        self.crcount = 0
        self.gsquery = False  # a query about some of the sources waits for its answer
        self.timer = NEVER  # when that or another query is answered
        self.heap_at = NEVER
        self.on_timeout: Callable[[Group, int], None] | None = None
        self.unsolicited = 0  # reports still to be sent unasked, of the old versions
        self.reporter = False  # we were the last to report it

    # -- the timer -----------------------------------------------------------------------

    def next_deadline(self) -> int:
        return self.timer

    def handle_timeout(self, now: int) -> None:
        self.timer = NEVER
        if self.on_timeout is not None:
            self.on_timeout(self, now)

    # -- the filter ----------------------------------------------------------------------

    def wants(self, src: bytes) -> bool:
        """Is a packet from `src` for some socket here? (Linux: `ip_check_mc_rcu`)"""
        source = self.sources.get(src)
        if source is None:
            return self.sfcount[EXCLUDE] != 0
        return source.count[INCLUDE] != 0 or source.count[EXCLUDE] != self.sfcount[EXCLUDE]

    def _is_in(self, source: Source) -> bool:
        """Is `source` on the list that the device's filter has?"""
        excluding = self.sfcount[EXCLUDE]
        if excluding:
            return source.count[EXCLUDE] == excluding and not source.count[INCLUDE]
        return source.count[INCLUDE] != 0

    def _mark(self) -> None:
        for source in self.sources.values():
            source.was_in = self._is_in(source)

    def _changed(self, qrv: int) -> bool:
        """Note what must be told after a change of sources (Linux: `sf_setstate`)."""
        changed = False
        for source in self.sources.values():
            if self._is_in(source):
                if not source.was_in:
                    self.tomb = [gone for gone in self.tomb if gone.addr != source.addr]
                    source.crcount = qrv
                    changed = True
            elif source.was_in:
                source.crcount = 0
                self._bury(source, qrv)
                changed = True
        return changed

    def _bury(self, source: Source, qrv: int) -> None:
        if self.silent:
            return
        for gone in self.tomb:
            if gone.addr == source.addr:
                gone.crcount = qrv
                return
        gone = Source(source.addr)
        gone.crcount = qrv
        self.tomb.insert(0, gone)

    def _switch(self, mode: int, qrv: int) -> None:
        """The mode has changed: that is told instead of the sources."""
        self.mode = mode
        self.crcount = qrv
        for source in self.sources.values():
            source.crcount = 0

    def add_sources(self, mode: int, sources: Sequence[bytes], delta: bool, qrv: int) -> bool:
        """A socket names `sources`, and unless `delta` is new in `mode`; true if the routers
        are to be told (Linux: `ip_mc_add_src`)."""
        self._mark()
        if not delta:
            self.sfcount[mode] += 1
        for addr in sources:
            source = self.sources.get(addr)
            if source is None:
                source = self.sources[addr] = Source(addr)
            source.count[mode] += 1
        if (self.mode == EXCLUDE) != (self.sfcount[EXCLUDE] != 0):
            if self.sfcount[EXCLUDE]:
                self._switch(EXCLUDE, qrv)
            else:  # without any socket the old mode stays, for the reports
                self._switch(INCLUDE if self.sfcount[INCLUDE] else self.mode, qrv)
            return True
        return self._changed(qrv)

    def del_sources(
        self, mode: int, sources: Sequence[bytes], delta: bool, qrv: int, tombs: bool
    ) -> bool:
        """The opposite; without `tombs` nobody needs to be told what has gone (Linux:
        `ip_mc_del_src`)."""
        self._mark()
        if not delta:
            self.sfcount[mode] -= 1
        told = False
        for addr in sources:
            source = self.sources[addr]
            source.count[mode] -= 1
            if not (source.count[EXCLUDE] or source.count[INCLUDE]):
                del self.sources[addr]
                if source.was_in and tombs:
                    self._bury(source, qrv)
                    told = True
        if self.mode == EXCLUDE and not self.sfcount[EXCLUDE] and self.sfcount[INCLUDE]:
            self._switch(INCLUDE, qrv)
            return True
        return self._changed(qrv) or told

    # -- what records say ------------------------------------------------------------------

    def in_record(self, source: Source, kind: int, group_gone: bool, gone: bool) -> bool:
        """Does a record of `kind` name `source`? `group_gone`, `gone`: the group, the source
        is a deleted one (Linux: `is_in`)."""
        if kind in (IS_INCLUDE, IS_EXCLUDE):
            return not (group_gone or gone) and self._in_answer(source, kind)
        if kind in (TO_INCLUDE, TO_EXCLUDE):
            if group_gone or gone:
                return False
            if kind == TO_INCLUDE:
                return source.count[INCLUDE] != 0
            excluding = self.sfcount[EXCLUDE]
            listed = excluding != 0 and source.count[EXCLUDE] == excluding
            return listed and not source.count[INCLUDE]
        if kind == ALLOW:
            return not group_gone and source.crcount != 0 and (self.mode == INCLUDE) != gone
        if self.mode == INCLUDE:
            return group_gone or (source.crcount != 0 and gone)
        return source.crcount != 0 and not (group_gone or gone)

    def _in_answer(self, source: Source, kind: int) -> bool:
        if self.gsquery and not source.asked:
            return False
        if self.mode == INCLUDE:
            return True
        if source.count[INCLUDE]:
            return kind == IS_INCLUDE
        return source.count[EXCLUDE] == self.sfcount[EXCLUDE]

    # -- queries about sources ---------------------------------------------------------------

    def mark_asked(self, sources: Sequence[bytes]) -> bool:
        """A query asks for `sources`: is there something to answer? (Linux:
        `igmp_marksources`)"""
        found = 0
        named = frozenset(sources)  # by whoever asks: there may be thousands
        for source in self.sources.values():
            if found == len(sources):
                break
            if source.addr not in named:
                continue
            if self.mode == INCLUDE:
                source.asked = True
            elif not self._is_in(source):
                continue
            found += 1
        if self.mode == EXCLUDE:
            self.gsquery = False  # the answer is the whole list
            return found != len(sources)
        self.gsquery = found != 0
        return found != 0
