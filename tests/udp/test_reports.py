"""What a host tells the routers about its groups, and answers them: IGMP and MLD (E-18)."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.udp.both import IFINDEX, PEER6, US4, ip4, udp4
from tests.udp.reports import igmp, mld, old_query4, old_query6, query4, query6, read, sent4
from tests.udp.test_groups import GROUP, GROUP6, JOIN, JOIN6, LEAVE, LEAVE6, mreq, mreq6
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
)  # fmt: skip

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6
SOL_IP, SOL_IPV6 = 0, 41


class Four:
    """IPv4, its names and its messages."""

    family, level = AF_INET, SOL_IP
    group, other = GROUP, "239.7.7.7"
    everybody = "224.0.0.1"
    sources = ("10.9.0.1", "10.8.0.1", "10.7.0.1")
    settings = ("igmpv3_unsolicited_report_interval", "igmpv2_unsolicited_report_interval")
    query = staticmethod(query4)
    old_report, old_leave = "v2 report", "leave"
    soon = 1  # 100 ms in the units of a query

    @staticmethod
    def old_query(code: int, group: str = "0.0.0.0") -> bytes:
        return old_query4(code, group)

    @staticmethod
    def join(sock: Any, group: str) -> None:
        sock.setsockopt(SOL_IP, JOIN, mreq(group, ifindex=IFINDEX))

    @staticmethod
    def leave(sock: Any, group: str) -> None:
        sock.setsockopt(SOL_IP, LEAVE, mreq(group, ifindex=IFINDEX))


class Six:
    """IPv6."""

    family, level = AF_INET6, SOL_IPV6
    group, other = GROUP6, "ff05::7:7"
    everybody = "ff02::1"
    sources = ("fd00:9::1", "fd00:8::1", "fd00:7::1")
    settings = ("mldv2_unsolicited_report_interval", "mldv1_unsolicited_report_interval")
    query = staticmethod(query6)
    old_report, old_leave = "report", "done"
    soon = 100

    @staticmethod
    def old_query(code: int, group: str = "::") -> bytes:
        return old_query6(code, group)

    @staticmethod
    def join(sock: Any, group: str) -> None:
        sock.setsockopt(SOL_IPV6, JOIN6, mreq6(group, IFINDEX))

    @staticmethod
    def leave(sock: Any, group: str) -> None:
        sock.setsockopt(SOL_IPV6, LEAVE6, mreq6(group, IFINDEX))


@pytest.fixture(params=[Four, Six])
def ip(request: pytest.FixtureRequest, host: Any) -> Any:
    """A family, on a host that is quick to report."""
    for name in request.param.settings:
        host.sysctl(name, 100)
    return request.param


def told(host: Any, times: int = 2) -> list[Any]:
    """The change that is reported: `times` times the same, then no more."""
    packets = host.reports(3, times) + host.reports(0.15)
    found = [read(packet) for packet in packets]
    assert found == found[:1] * times
    return found[0]


def answered(host: Any, query: bytes, count: int = 1) -> list[Any]:
    """What the host answers, and that it has done with it: a kernel does that apart."""
    host.inject(query)
    packets = host.reports(3, count) + host.reports(0.05) if count else host.reports(0.2)
    return [read(packet) for packet in packets]


def quiet(host: Any) -> None:
    assert host.reports(0.2) == []


def of_source(ip: Any, sock: Any, name: int, source: str, group: str = "") -> None:
    sock.setsockopt(ip.level, name, group_source(group or ip.group, source, IFINDEX))


# -- changes -------------------------------------------------------------------------------------


def test_a_host_without_groups_says_nothing(host: Any) -> None:
    assert host.reports(0.3) == []


def test_joining_and_leaving(host: Any, ip: Any) -> None:
    sock, second = host.socket(ip.family), host.socket(ip.family)
    ip.join(sock, ip.group)
    assert told(host) == [("to ex", ip.group, [])]
    ip.join(second, ip.group)
    ip.leave(second, ip.group)
    quiet(host)
    ip.leave(sock, ip.group)
    assert told(host) == [("to in", ip.group, [])]
    ip.join(sock, ip.group)
    assert told(host) == [("to ex", ip.group, [])]
    sock.close()
    assert told(host) == [("to in", ip.group, [])]


def test_a_report_as_it_leaves(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_IP, JOIN, mreq("239.1.2.3"))
    assert [packet.hex() for packet in host.reports(3, 1)] == [
        "46c00028000040000102f9ee0a090002e000001694040000"
        "2200e8f90000000104000000ef010203"
    ]  # fmt: skip
    sock = host.socket(AF_INET6)
    sock.setsockopt(SOL_IPV6, JOIN6, mreq6("ff05::1:3", IFINDEX))
    host.add_address("fe80::2/64")
    found = {packet for packet in host.reports(3) if packet[0] >> 4 == 6}
    assert [packet.hex() for packet in found] == [
        "6000000000240001fe800000000000000000000000000002ff020000000000000000000000000016"
        "3a000502000001008f0070020000000104000000ff050000000000000000000000010003"
    ]


def test_without_a_link_local_address_reports_come_from_none(host: Any) -> None:
    sock = host.socket(AF_INET6)
    sock.setsockopt(SOL_IPV6, JOIN6, mreq6(GROUP6, IFINDEX))
    assert [packet[8:24] for packet in host.reports(3, 1)] == [bytes(16)]


def test_filters_of_several_sockets(host: Any, ip: Any) -> None:
    first, second, third = (host.socket(ip.family) for _ in range(3))
    one, two, _ = ip.sources
    group = ip.group
    ip.join(first, group)
    assert told(host) == [("to ex", group, [])]
    of_source(ip, first, BLOCK, one)
    assert told(host) == [("block", group, [one])]
    ip.join(second, group)
    assert told(host) == [("allow", group, [one])]
    of_source(ip, second, BLOCK, one)
    assert told(host) == [("block", group, [one])]
    of_source(ip, first, UNBLOCK, one)
    assert told(host) == [("allow", group, [one])]
    ip.leave(first, group)
    assert told(host) == [("block", group, [one])]
    of_source(ip, third, JOIN_SOURCE, two)
    quiet(host)
    of_source(ip, third, JOIN_SOURCE, one)
    assert told(host) == [("allow", group, [one])]
    ip.leave(second, group)
    assert told(host) == [("to in", group, [one, two])]
    of_source(ip, third, LEAVE_SOURCE, two)
    assert told(host) == [("block", group, [two])]
    third.close()
    assert told(host) == [("block", group, [one])]


def test_some_sources_only(host: Any, ip: Any) -> None:
    sock, second = host.socket(ip.family), host.socket(ip.family)
    one, two, three = ip.sources
    of_source(ip, sock, JOIN_SOURCE, one)
    assert told(host) == [("allow", ip.group, [one])]
    sock.setsockopt(ip.level, MSFILTER, group_filter(ip.group, INCLUDE, [two, three], IFINDEX))
    assert told(host) == [("allow", ip.group, [two, three]), ("block", ip.group, [one])]
    sock.setsockopt(ip.level, MSFILTER, group_filter(ip.group, EXCLUDE, [two], IFINDEX))
    assert told(host) == [("to ex", ip.group, [two])]
    ip.join(second, ip.group)
    assert told(host) == [("allow", ip.group, [two])]
    sock.setsockopt(ip.level, MSFILTER, group_filter(ip.group, INCLUDE, [], IFINDEX))
    quiet(host)
    second.close()
    assert told(host) == [("to in", ip.group, [])]


def test_a_stream_joins_and_leaves(host: Any, ip: Any) -> None:
    sock = host.socket(ip.family, socket.SOCK_STREAM)
    of_source(ip, sock, JOIN_SOURCE, ip.sources[0])
    assert told(host) == [("allow", ip.group, [ip.sources[0]])]
    sock.close()
    assert told(host) == [("block", ip.group, [ip.sources[0]])]


def test_groups_that_are_never_reported(host: Any) -> None:
    four, six = host.socket(AF_INET), host.socket(AF_INET6)
    Four.join(four, "224.0.0.1")
    for group in ("ff02::1", "ff01::5", "ff00::1"):
        Six.join(six, group)
    host.sysctl("igmp_link_local_mcast_reports", 0)
    Four.join(four, "224.0.0.9")
    Four.leave(four, "224.0.0.9")
    quiet(host)
    assert answered(host, query4(), 0) == []
    host.add_address("fe80::2/64")
    assert answered(host, query6(), 0) == []
    host.sysctl("igmp_link_local_mcast_reports", 1)
    Four.join(four, "224.0.0.9")
    assert read(host.reports(3, 1)[0]) == [("to ex", "224.0.0.9", [])]


def test_loopback_is_told_nothing(host: Any, ip: Any) -> None:
    sock = host.socket(ip.family)
    if ip is Four:
        sock.setsockopt(SOL_IP, JOIN, mreq(GROUP, "127.0.0.1"))
    else:
        sock.setsockopt(SOL_IPV6, JOIN6, mreq6(GROUP6, 1))
    quiet(host)


# -- queries -------------------------------------------------------------------------------------


def test_a_general_query_is_answered_with_everything(host: Any, ip: Any) -> None:
    first, second = host.socket(ip.family), host.socket(ip.family)
    one, two, _ = ip.sources
    ip.join(first, ip.group)
    of_source(ip, first, BLOCK, one)
    of_source(ip, second, JOIN_SOURCE, two, ip.other)
    host.reports(0.4)
    everything = [("is in", ip.other, [two]), ("is ex", ip.group, [one])]
    assert answered(host, ip.query(code=ip.soon)) == [everything]
    assert answered(host, ip.query(code=0)) == [everything]
    host.inject(ip.query(code=ip.soon * 3))
    host.inject(ip.query(code=ip.soon * 3))
    assert [read(packet) for packet in host.reports(0.6)] == [everything]


def test_queries_about_a_group(host: Any, ip: Any) -> None:
    sock, second = host.socket(ip.family), host.socket(ip.family)
    one, two, three = ip.sources
    for source in (one, two):
        of_source(ip, sock, JOIN_SOURCE, source)
    host.reports(0.4)
    group = ip.group
    assert answered(host, ip.query(group)) == [[("is in", group, [one, two])]]
    assert answered(host, ip.query(group, (two, three))) == [[("is in", group, [two])]]
    assert answered(host, ip.query(group, (three,)), 0) == []
    assert answered(host, ip.query(ip.other), 0) == []
    ip.join(second, ip.other)
    for source in (one, two):
        of_source(ip, second, BLOCK, source, ip.other)
    host.reports(0.4)
    excluded = [[("is ex", ip.other, [one, two])]]
    assert answered(host, ip.query(ip.other)) == excluded
    assert answered(host, ip.query(ip.other, (one, three))) == excluded
    assert answered(host, ip.query(ip.other, (one, two)), 0) == []


def test_a_query_says_how_often_to_report(host: Any, ip: Any) -> None:
    sock = host.socket(ip.family)
    assert answered(host, ip.query(code=ip.soon, qrv=4), 0) == []
    ip.join(sock, ip.group)
    assert told(host, 4) == [("to ex", ip.group, [])]
    assert answered(host, ip.query(ip.other, qrv=0, dst=ip.everybody), 0) == []
    ip.leave(sock, ip.group)
    assert told(host, 2 if ip is Four else 4) == [("to in", ip.group, [])]


def test_queries_that_make_no_sense(host: Any) -> None:
    four, six = host.socket(AF_INET), host.socket(AF_INET6)
    Four.join(four, GROUP)
    Six.join(six, GROUP6)
    host.reports(2.5, 4)
    good = query4(GROUP)
    for packet in (
        query4(sources=("10.9.0.1",)),
        query4(GROUP, count=3),
        good[:28] + bytes((good[28] ^ 1,)) + good[29:],
        sent4(igmp(0x11, 1, GROUP, b"\0\0"), GROUP),
        sent4(igmp(0x11, 1, GROUP)[:7], GROUP),
        sent4(igmp(0x99, 1, GROUP), GROUP),
        query6(sources=("fd00:9::1",)),
        query6(GROUP6, count=3),
        query6(GROUP6, src=PEER6),
        query6(GROUP6, hops=2),
        query6(GROUP6, alert=b""),
        query6(GROUP6, alert=bytes.fromhex("3a00010400000000")),
        query6(GROUP6, alert=bytes.fromhex("3a00050200010100")),
        query6("fd00:9::2"),
        mld(130, 1, GROUP6, b"\0\0"),
        mld(130, 1, GROUP6, b"\0\0\0"),
    ):
        host.inject(packet)
    assert host.reports(0.4) == []
    assert answered(host, good) == [[("is ex", GROUP, [])]]
    assert answered(host, query6(GROUP6)) == [[("is ex", GROUP6, [])]]


def test_queries_may_be_sent_to_the_host_alone(host: Any) -> None:
    sock = host.socket(AF_INET)
    Four.join(sock, GROUP)
    host.reports(2.5, 2)
    body = query4()[20:]
    assert answered(host, sent4(body, US4)) == [[("is ex", GROUP, [])]]


def test_a_query_reaches_members_that_do_not_want_its_source(host: Any, ip: Any) -> None:
    sock = host.socket(ip.family)
    of_source(ip, sock, JOIN_SOURCE, ip.sources[1])
    host.reports(3, 2)
    assert answered(host, ip.query(ip.group)) == [[("is in", ip.group, [ip.sources[1]])]]


# -- old versions --------------------------------------------------------------------------------


def test_an_old_router(host: Any, ip: Any) -> None:
    """From its query on there is one message a group, and no sources."""
    sock, second = host.socket(ip.family), host.socket(ip.family)
    assert answered(host, ip.old_query(ip.soon), 0) == []
    ip.join(sock, ip.group)
    assert told(host) == (ip.old_report, ip.group)
    of_source(ip, sock, BLOCK, ip.sources[0])
    quiet(host)
    of_source(ip, second, JOIN_SOURCE, ip.sources[0], ip.other)
    assert told(host) == (ip.old_report, ip.other)
    both = {(ip.old_report, ip.group), (ip.old_report, ip.other)}
    assert set(answered(host, ip.old_query(ip.soon), 2)) == both
    assert answered(host, ip.old_query(ip.soon, ip.group)) == [(ip.old_report, ip.group)]
    assert answered(host, ip.query(ip.group)) == [(ip.old_report, ip.group)]
    assert set(answered(host, ip.query(), 2)) == both
    sock.close()
    assert [read(packet) for packet in host.reports(3, 1)] == [(ip.old_leave, ip.group)]


def test_what_other_hosts_report_does_not_silence_this_one(host: Any, ip: Any) -> None:
    sock = host.socket(ip.family)
    assert answered(host, ip.old_query(ip.soon), 0) == []
    ip.join(sock, ip.group)
    told(host)
    host.inject(ip.old_query(ip.soon * 3, ip.group))
    host.inject(sent4(igmp(0x16, 0, GROUP), GROUP) if ip is Four else mld(131, 0, GROUP6))
    assert [read(packet) for packet in host.reports(3, 1)] == [(ip.old_report, ip.group)]


def test_a_change_is_not_told_to_an_old_router(host: Any, ip: Any) -> None:
    sock = host.socket(ip.family)
    ip.join(sock, ip.group)
    ip.leave(sock, ip.group)
    assert len(host.reports(3, 1)) == 1
    host.inject(ip.old_query(ip.soon))
    quiet(host)


def test_version_1(host: Any) -> None:
    sock = host.socket(AF_INET)
    host.sysctl("igmpv2_unsolicited_report_interval", 100)
    host.inject(old_query4(0))
    Four.join(sock, GROUP)
    assert told(host) == ("v1 report", GROUP)
    Four.leave(sock, GROUP)
    quiet(host)


@pytest.mark.parametrize(
    ("setting", "value", "ip_", "message"),
    [
        ("force_igmp_version", 1, Four, ("v1 report", GROUP)),
        ("force_igmp_version", 2, Four, ("v2 report", GROUP)),
        ("force_igmp_version", 3, Four, [("to ex", GROUP, [])]),
        ("force_mld_version", 1, Six, ("report", GROUP6)),
        ("force_mld_version", 2, Six, [("to ex", GROUP6, [])]),
    ],
)
def test_a_version_may_be_forced(
    host: Any, setting: str, value: int, ip_: Any, message: Any
) -> None:
    for name in ip_.settings:
        host.sysctl(name, 100)
    host.sysctl(setting, value)
    sock = host.socket(ip_.family)
    ip_.join(sock, ip_.group)
    assert told(host) == message


def test_reports_do_not_hinder_datagrams(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.bind(("", 9))
    Four.join(sock, GROUP)
    host.inject(udp4(GROUP, 9, b"data"))
    assert sock.recv(10) == b"data"
    assert ip4(GROUP) in host.reports(3, 1)[0]
