"""Reports about groups in virtual time: when they are sent, and that a router who hears them
knows what the host wants."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.udp import reports
from tests.udp.both import IFINDEX, OurHost, outcome
from tests.udp.reports import old_query4, old_query6, query4, query6, read
from tests.udp.test_groups import MCAST_JOIN, MCAST_LEAVE, group_req
from tests.udp.test_source_filters import (
    BLOCK,
    EXCLUDE,
    INCLUDE,
    JOIN_SOURCE,
    LEAVE_SOURCE,
    MSFILTER,
    UNBLOCK,
    group_filter,
    group_source,
)

SECOND, MS = 1_000_000_000, 1_000_000
TICKS = 8 * MS  # two ticks of the kernel
AF_INET, AF_INET6 = 2, 10
GROUP4, GROUP6 = "239.1.2.3", "ff05::1:3"
FAMILIES = pytest.mark.parametrize("family", [AF_INET, AF_INET6])


class World(OurHost):
    """A host, and what it says with the time at which it does."""

    def __init__(self, family, **sysctl):
        super().__init__()
        self.family = family
        self.level = 0 if family == AF_INET else 41
        self.group = GROUP4 if family == AF_INET else GROUP6
        self.sources = [
            f"10.8.0.{i}" if family == AF_INET else f"fd00:8::{i}" for i in range(1, 201)
        ]
        for name, value in sysctl.items():
            setattr(self.stack.sysctl, name, value)

    def put(self, sock, name, value):
        return outcome(sock.setsockopt, self.level, name, value)

    def joined(self, group=None):
        sock = self.socket(self.family)
        assert self.put(sock, MCAST_JOIN, group_req(group or self.group, IFINDEX)) is None
        return sock

    def leave(self, sock, group=None):
        assert self.put(sock, MCAST_LEAVE, group_req(group or self.group, IFINDEX)) is None

    def query(self, *args, **how):
        self.inject((query4 if self.family == AF_INET else query6)(*args, **how))

    def old_query(self, code):
        self.inject((old_query4 if self.family == AF_INET else old_query6)(code))

    def said(self, seconds):
        """[(ns from now, what), ...] in that time."""
        start, until = self.now, self.now + int(seconds * SECOND)
        found = []
        while self.now < until:
            packets = super().reports((until - self.now) / SECOND, 1)
            found += [(self.now - start, read(packet)) for packet in packets]
        return found

    def units(self, seconds):
        """A time as a query says it."""
        return int(seconds * (10 if self.family == AF_INET else 1000))


# -- when ---------------------------------------------------------------


@FAMILIES
def test_a_change_is_told_twice_within_a_second(family):
    w = World(family)
    w.joined()
    (first, what), (second, again) = w.said(100)
    assert what == again == [("to ex", w.group, [])]
    assert first == TICKS
    assert TICKS <= second - first < SECOND + TICKS


@FAMILIES
def test_the_interval_and_the_times_are_settings(family):
    name = "igmp" if family == AF_INET else "mld"
    interval = "igmpv3" if family == AF_INET else "mldv2"
    times = {f"{name}_qrv": 5, f"{interval}_unsolicited_report_interval": 50}
    w = World(family, **times)
    w.joined()
    said = w.said(10)
    assert len(said) == 5
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(said)]
    assert all(TICKS <= gap < 50 * MS + TICKS for gap in gaps)
    w = World(family, hz=100)
    w.joined()
    assert w.said(1)[0][0] == 20 * MS


@FAMILIES
def test_changes_made_together_are_one_report(family):
    w = World(family)
    other = "239.7.7.7" if family == AF_INET else "ff05::7"
    w.joined()
    w.joined(other)
    both = [("to ex", other, []), ("to ex", w.group, [])]
    assert [what for _, what in w.said(10)] == [both, both]


@FAMILIES
def test_a_change_starts_the_reports_anew(family):
    w = World(family)
    sock = w.joined()
    assert len(w.said(0.009)) == 1
    w.leave(sock)
    assert [what for _, what in w.said(10)] == [[("to in", w.group, [])]] * 2
    sock = w.joined()
    w.leave(sock)
    w.joined()
    assert [what for _, what in w.said(10)] == [[("to ex", w.group, [])]] * 2


@FAMILIES
def test_answers_come_at_a_random_time_within_the_bound(family):
    w = World(family)
    w.joined()
    w.said(10)
    times = set()
    for group in (None, w.group):
        for _ in range(20):
            w.query(*([group] if group else []), code=w.units(4))
            ((at, what),) = w.said(20)
            assert what == [("is ex", w.group, [])]
            assert 0 <= at < 4 * SECOND + TICKS
            times.add(at // (500 * MS))
    assert len(times) > 4


@FAMILIES
def test_an_answer_that_waits_is_not_put_off(family):
    w = World(family)
    w.joined()
    w.said(10)
    for _ in range(10):
        w.query(w.group, code=w.units(1))
        w.query(w.group, code=w.units(8))
        ((at, _),) = w.said(20)
        assert at < SECOND + TICKS


@FAMILIES
def test_a_query_about_sources_merges_with_one_about_the_group(family):
    w = World(family)
    sock = w.socket(family)
    one, two = w.sources[:2]
    for source in (one, two):
        w.put(sock, JOIN_SOURCE, group_source(w.group, source, IFINDEX))
    w.said(10)
    w.query(w.group, (one,), code=w.units(1))
    w.query(w.group, (two,), code=w.units(1))
    assert [what for _, what in w.said(5)] == [[("is in", w.group, [one, two])]]
    w.query(w.group, (one,), code=w.units(1))
    w.query(w.group, code=w.units(1))
    assert [what for _, what in w.said(5)] == [[("is in", w.group, [one, two])]]
    w.query(w.group, (two,), code=w.units(1))
    assert [what for _, what in w.said(5)] == [[("is in", w.group, [two])]]


@FAMILIES
def test_an_answer_about_a_group_that_was_left_is_not_sent(family):
    w = World(family)
    sock = w.joined()
    w.said(10)
    w.query(w.group, code=w.units(8))
    w.leave(sock)
    assert [what for _, what in w.said(20)] == [[("to in", w.group, [])]] * 2
    assert not len(w.stack.deadlines)


# -- old versions ---------------------------------------------------------------


@FAMILIES
def test_an_old_router_is_forgotten_after_a_time(family):
    w = World(family)
    name = "v2 report" if family == AF_INET else "report"
    w.old_query(1)
    w.said(259)
    sock = w.joined()
    assert {what for _, what in w.said(0.5)} == {(name, w.group)}
    w.leave(sock)
    w.said(1)
    w.joined()
    assert [what for _, what in w.said(10)] == [[("to ex", w.group, [])]] * 2


@FAMILIES
def test_the_querier_says_how_long_it_is_remembered(family):
    """Robustness * query interval + response interval (RFC 3376 8.12, RFC 3810 9.12)."""
    w = World(family)
    w.query(code=w.units(1), qrv=3, qqic=20)
    w.old_query(1)
    limit = 3 * 20 + (10 if family == AF_INET else 1)
    w.said(limit - 1)
    sock = w.joined()
    assert isinstance(w.said(0.5)[0][1], tuple)
    w.leave(sock)
    w.said(1)
    w.joined()
    assert w.said(0.5)[0][1] == [("to ex", w.group, [])]


def test_igmp_of_version_1_outlasts_version_2():
    w = World(AF_INET)
    w.old_query(0)
    w.old_query(1)
    sock = w.joined()
    said = w.said(30)
    assert [what for _, what in said] == [("v1 report", GROUP4)] * 2
    assert said[0][0] == TICKS
    assert said[1][0] < 10 * SECOND + 2 * TICKS
    w.old_query(0)
    assert 0 <= w.said(30)[0][0] < 10 * SECOND + TICKS
    w.leave(sock)
    assert w.said(30) == []


def test_mld_of_version_1_reports_at_once():
    w = World(AF_INET6)
    w.old_query(1)
    sock = w.joined()
    (first, what), (second, again) = w.said(30)
    assert what == again == ("report", GROUP6)
    assert first == 0
    assert second < 10 * SECOND
    w.leave(sock)
    assert w.said(30) == [(0, ("done", GROUP6))]


# -- how long ---------------------------------------------------------------


@FAMILIES
def test_long_lists_are_cut_to_the_mtu(family):
    w = World(family, igmp_max_msf=500, mld_max_msf=500)
    sock = w.joined()
    w.said(10)
    w.dev.mtu = 1280
    sources = w.sources
    fit = (1280 - 32 - 8) // 4 if family == AF_INET else (1280 - 56 - 20) // 16
    w.put(sock, MSFILTER, group_filter(w.group, EXCLUDE, sources, IFINDEX))
    told = [record for _, what in w.said(0.009) for record in what]
    pieces = [sources[at : at + fit] for at in range(0, len(sources), fit)]
    assert told == [("block", w.group, piece) for piece in pieces]
    w.said(10)
    w.query(code=0)
    assert [what for _, what in w.said(5)] == [[("is ex", w.group, sources[:fit])]]
    w.put(sock, MSFILTER, group_filter(w.group, INCLUDE, sources, IFINDEX))
    w.said(10)
    w.query(code=0)
    told = [record for _, what in w.said(5) for record in what]
    assert told == [("is in", w.group, piece) for piece in pieces]


def test_a_device_too_narrow_for_a_protocol_is_told_nothing():
    four, six = World(AF_INET), World(AF_INET6)
    four.dev.mtu, six.dev.mtu = 67, 1279
    for w in (four, six):
        w.joined()
        w.query(code=0)
        assert w.said(5) == []


# -- counters ---------------------------------------------------------------


def test_counters():
    w = World(AF_INET6)
    sock = w.joined()
    w.said(10)
    w.old_query(1)
    w.said(1)
    w.leave(sock)
    w.inject(query6(hops=3))
    mib = w.stack.mib
    names = "OutMLDv2Reports OutGroupMembResponses OutGroupMembReductions InGroupMembQueries"
    assert [mib["Icmp6" + name] for name in names.split()] == [2, 1, 1, 2]
    assert mib["Icmp6OutMsgs"] == 4
    w = World(AF_INET)
    w.joined()
    w.said(10)
    w.inject(query4(count=9))
    assert w.stack.mib["IpOutRequests"] == 2
    assert w.stack.mib.drops["NOT_SPECIFIED"] == 1


# -- a router ---------------------------------------------------------------


class Router:
    """What reports have told (RFC 3376 6.4, without its timers)."""

    def __init__(self):
        self.mode, self.sources = INCLUDE, set()

    def hear(self, kind, sources):
        sources = set(sources)
        if kind in ("to ex", "is ex"):
            self.mode, self.sources = EXCLUDE, sources
        elif kind in ("to in", "is in"):
            self.mode, self.sources = INCLUDE, sources
        elif (kind == "allow") == (self.mode == INCLUDE):
            self.sources = self.sources | sources
        else:
            self.sources = self.sources - sources

    def forwards(self, source):
        return (source in self.sources) == (self.mode == INCLUDE)


@FAMILIES
def test_a_mode_left_at_once_is_not_told(family):
    """Linux says which sources it no longer wants, not that it changed the mode before."""
    w = World(family)
    sock = w.joined()
    w.said(10)
    w.put(sock, JOIN_SOURCE, group_source(w.group, w.sources[0], IFINDEX))
    w.leave(sock)
    gone = [("block", w.group, [w.sources[0]])]
    assert [what for _, what in w.said(10)] == [gone, gone]


# Each change is told once before the next, for the reason above.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["join", "leave", "add", "drop", "block", "unblock", "filter", "close"]),
        st.integers(0, 2),
        st.lists(st.integers(0, 2), max_size=3, unique=True),
        st.sampled_from([0.02, 0.02, 5]),
    ),
    max_size=25,
)


def step(w, sock, what, source, sources):
    source = w.sources[source]
    if what in ("join", "leave"):
        w.put(sock, MCAST_JOIN if what == "join" else MCAST_LEAVE, group_req(w.group, IFINDEX))
    elif what == "filter":
        chosen = [w.sources[i] for i in sources]
        w.put(sock, MSFILTER, group_filter(w.group, len(sources) % 2, chosen, IFINDEX))
    else:
        names = {"add": JOIN_SOURCE, "drop": LEAVE_SOURCE, "block": BLOCK, "unblock": UNBLOCK}
        w.put(sock, names[what], group_source(w.group, source, IFINDEX))


@FAMILIES
@settings(deadline=None)
@given(steps=STEPS)
def test_a_router_that_hears_every_report_knows_what_is_wanted(family, steps):
    w = World(family)
    socks = [w.socket(family) for _ in range(3)]
    router = Router()
    for which, what, source, sources, wait in [*steps, (0, "leave", 0, [], 30)]:
        if what == "close":
            socks[which].close()
            socks[which] = w.socket(family)
        else:
            step(w, socks[which], what, source, sources)
        for _, records in w.said(wait):
            for kind, _, named in records:
                router.hear(kind, named)
    groups = w.stack.groups
    size = 4 if family == AF_INET else 16
    members = [m for s in socks if s.sk.mc is not None for m in s.sk.mc.joined]
    for source in w.sources[:4]:
        addr = reports.ip4(source) if size == 4 else reports.ip6(source)
        group = reports.ip4(w.group) if size == 4 else reports.ip6(w.group)
        wanted = any(member.hears(addr) for member in members)
        assert groups.wants(group, IFINDEX, addr) == wanted
        assert router.forwards(source) == wanted
