"""Groups from some sources only: the options, and who hears what (E-18)."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import IFINDEX, LO, PEER4, PEER6, ip4, ip6, outcome, udp4, udp6
from tests.udp.test_groups import (
    ALL,
    ALL6,
    GROUP,
    GROUP6,
    JOIN,
    JOIN6,
    LEAVE,
    LEAVE6,
    MCAST_JOIN,
    MCAST_LEAVE,
    group_req,
    mreq,
    mreq6,
)  # fmt: skip

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6
SOL_IP, SOL_IPV6, SOL_SOCKET, SO_REUSEADDR = 0, 41, 1, 2
IP_UNBLOCK, IP_BLOCK, IP_ADD, IP_DROP, IP_MSFILTER = 37, 38, 39, 40, 41
BLOCK, UNBLOCK, JOIN_SOURCE, LEAVE_SOURCE, MSFILTER = 43, 44, 46, 47, 48
EXCLUDE, INCLUDE = 0, 1
OTHER4, OTHER6 = "10.8.0.1", "fd00:8::1"
LONG = bytes(131072)


def storage(addr: str, family: int = 0) -> bytes:
    if ":" in addr:
        return struct.pack("=HHI16sI", family or AF_INET6, 0, 0, ip6(addr), 0).ljust(128, b"\0")
    return struct.pack("=HH4s", family or AF_INET, 0, ip4(addr)).ljust(128, b"\0")


def mreq_source(group: str, source: str, addr: str = "0.0.0.0") -> bytes:
    return ip4(group) + ip4(addr) + ip4(source)


def msfilter(
    group: str, mode: int, sources: list[str], addr: str = "0.0.0.0", count: int = -1
) -> bytes:
    count = len(sources) if count < 0 else count
    return ip4(group) + ip4(addr) + struct.pack("=II", mode, count) + b"".join(map(ip4, sources))


def group_source(
    group: str, source: str, ifindex: int = 0, families: tuple[int, int] = (0, 0)
) -> bytes:
    head = struct.pack("=I4x", ifindex)
    return head + storage(group, families[0]) + storage(source, families[1])


def group_filter(
    group: str, mode: int, sources: list[str], ifindex: int = 0, family: int = 0, count: int = -1
) -> bytes:
    count = len(sources) if count < 0 else count
    head = struct.pack("=I4x", ifindex) + storage(group, family) + struct.pack("=II", mode, count)
    return head + b"".join(map(storage, sources))


KINDS = pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])


def refused(sock: Any, level: int, name: int, cases: list[tuple[bytes, str]]) -> None:
    """Each value is refused with its errno."""
    done = [outcome(sock.setsockopt, level, name, value) for value, _ in cases]
    assert done == [errno for _, errno in cases]


@KINDS
@pytest.mark.parametrize("name", [IP_UNBLOCK, IP_BLOCK, IP_ADD, IP_DROP])
def test_refused_sources(host: Any, kind: int, name: int) -> None:
    refused(host.socket(AF_INET, kind), SOL_IP, name, [
        (b"", "EINVAL"),
        (mreq_source(GROUP, PEER4)[:-1], "EINVAL"),
        (mreq_source(GROUP, PEER4) + b"x", "EINVAL"),
        (mreq_source("10.1.1.1", PEER4), "EINVAL"),
        (mreq_source(GROUP, PEER4, "10.9.0.9"), "ENODEV"),
    ])  # fmt: skip


@KINDS
@pytest.mark.parametrize("name", [BLOCK, UNBLOCK, JOIN_SOURCE, LEAVE_SOURCE])
def test_refused_sources_of_both_families(host: Any, kind: int, name: int) -> None:
    for family, level, group, source, unicast in (
        (AF_INET, SOL_IP, GROUP, PEER4, "10.1.1.1"),
        (AF_INET6, SOL_IPV6, GROUP6, PEER6, "fd00::1"),
    ):
        wrong = AF_INET + AF_INET6 - family
        refused(host.socket(family, kind), level, name, [
            (b"", "EINVAL"),
            (group_source(group, source)[:-1], "EINVAL"),
            (group_source(unicast, source), "EINVAL"),
            (group_source(group, source, 99), "ENODEV"),
            (group_source(group, source, 0, (wrong, 0)), "EADDRNOTAVAIL"),
            (group_source(group, source, 0, (0, wrong)), "EADDRNOTAVAIL"),
        ])  # fmt: skip


@KINDS
def test_refused_filters(host: Any, kind: int) -> None:
    refused(host.socket(AF_INET, kind), SOL_IP, IP_MSFILTER, [
        (b"", "EINVAL"),
        (msfilter(GROUP, EXCLUDE, [])[:-1], "EINVAL"),
        (msfilter(GROUP, EXCLUDE, [PEER4], count=2), "EINVAL"),
        (msfilter(GROUP, EXCLUDE, [PEER4], count=11), "ENOBUFS"),
        (msfilter(GROUP, EXCLUDE, [PEER4], count=0xFFFFFFFF), "ENOBUFS"),
        (msfilter(GROUP, EXCLUDE, [PEER4]) + LONG, "ENOBUFS"),
        (msfilter(GROUP, 2, [PEER4]), "EINVAL"),
        (msfilter("10.1.1.1", EXCLUDE, []), "EINVAL"),
        (msfilter(GROUP, EXCLUDE, [], "10.9.0.9"), "ENODEV"),
        (msfilter(GROUP, EXCLUDE, [PEER4]), "EINVAL"),
        (msfilter(GROUP, INCLUDE, []), "EADDRNOTAVAIL"),
    ])  # fmt: skip
    for family, level, group, source, many in (
        (AF_INET, SOL_IP, GROUP, PEER4, 11), (AF_INET6, SOL_IPV6, GROUP6, PEER6, 65),
    ):  # fmt: skip
        refused(host.socket(family, kind), level, MSFILTER, [
            (b"", "EINVAL"),
            (group_filter(group, EXCLUDE, [])[:-1], "EINVAL"),
            (group_filter(group, EXCLUDE, [source], count=2), "EINVAL"),
            (group_filter(group, EXCLUDE, [source], count=many), "ENOBUFS"),
            (group_filter(group, EXCLUDE, [source]) + LONG, "ENOBUFS"),
            (group_filter(group, 2, [source]), "EINVAL"),
            (group_filter(group, EXCLUDE, [], 99), "ENODEV"),
            (group_filter(group, EXCLUDE, [source]), "EINVAL"),
            (group_filter(group, INCLUDE, []), "EADDRNOTAVAIL"),
        ])  # fmt: skip
    refused(host.socket(AF_INET, kind), SOL_IP, MSFILTER, [
        (group_filter(GROUP, EXCLUDE, [], 0, AF_INET6), "EADDRNOTAVAIL"),
        (group_filter(GROUP, EXCLUDE, [PEER6], 99), "EADDRNOTAVAIL"),
    ])  # fmt: skip


@KINDS
def test_joining_by_group_req(host: Any, kind: int) -> None:
    """Also on streams, which IP_ADD_MEMBERSHIP refuses."""
    four, six = host.socket(AF_INET, kind), host.socket(AF_INET6, kind)
    refused(four, SOL_IP, MCAST_JOIN, [(b"x", "EINVAL"), (group_req(GROUP6), "EINVAL")])
    refused(six, SOL_IPV6, MCAST_JOIN, [(b"x", "EINVAL"), (group_req(GROUP), "EADDRNOTAVAIL")])
    for sock, level, group in (
        (four, SOL_IP, GROUP),
        (six, SOL_IPV6, GROUP6),
        (six, SOL_IP, GROUP),
    ):
        assert outcome(sock.setsockopt, level, MCAST_JOIN, group_req(group, IFINDEX)) is None
        assert outcome(sock.setsockopt, level, MCAST_LEAVE, group_req(group, IFINDEX)) is None
        refused(sock, level, MCAST_LEAVE, [(group_req(group, IFINDEX), "EADDRNOTAVAIL")])


def run(sock: Any, level: int, script: list[tuple[int, bytes, str | None]]) -> None:
    done = [outcome(sock.setsockopt, level, name, value) for name, value, _ in script]
    assert done == [result for _, _, result in script]


def test_a_first_source_sets_the_mode(host: Any) -> None:
    one, two = mreq_source(GROUP, PEER4), mreq_source(GROUP, OTHER4)
    run(host.socket(AF_INET), SOL_IP, [
        (JOIN, mreq(GROUP), None),
        (IP_ADD, one, None),
        (IP_ADD, one, "EADDRNOTAVAIL"),
        (IP_ADD, two, None),
        (IP_BLOCK, one, "EINVAL"),
        (IP_UNBLOCK, one, "EINVAL"),
        (IP_DROP, one, None),
        (IP_DROP, one, "EADDRNOTAVAIL"),
        (IP_DROP, two, None),  # leaves
        (IP_DROP, two, "EINVAL"),
        (LEAVE, mreq(GROUP), "EADDRNOTAVAIL"),
        (JOIN, mreq(GROUP), None),
        (IP_BLOCK, one, None),
        (IP_BLOCK, one, "EADDRNOTAVAIL"),
        (IP_UNBLOCK, one, None),
        (IP_UNBLOCK, one, "EADDRNOTAVAIL"),
        (IP_ADD, one, "EINVAL"),  # the filter is empty, but there is one
        (LEAVE, mreq(GROUP), None),
        (IP_UNBLOCK, one, "EINVAL"),
        (IP_ADD, one, None),
        (LEAVE, mreq(GROUP), None),
    ])  # fmt: skip


def test_full_filters(host: Any) -> None:
    run(host.socket(AF_INET), SOL_IP, [
        (JOIN, mreq(GROUP), None),
        (IP_MSFILTER, msfilter(GROUP, EXCLUDE, [PEER4, PEER4]), None),
        (IP_MSFILTER, msfilter(GROUP, INCLUDE, [PEER4]), None),
        (IP_BLOCK, mreq_source(GROUP, OTHER4), "EINVAL"),
        (IP_MSFILTER, msfilter(GROUP, EXCLUDE, []), None),
        (IP_ADD, mreq_source(GROUP, OTHER4), None),
        (IP_MSFILTER, msfilter(GROUP, INCLUDE, []), None),
        (IP_MSFILTER, msfilter(GROUP, INCLUDE, []), "EADDRNOTAVAIL"),
        (MCAST_JOIN, group_req(GROUP), None),
        (MSFILTER, group_filter(GROUP, EXCLUDE, [PEER4]), None),
        (MSFILTER, group_filter(GROUP, EXCLUDE, [PEER4], IFINDEX), None),
        (MSFILTER, group_filter(GROUP, INCLUDE, [], IFINDEX), None),
    ])  # fmt: skip
    run(host.socket(AF_INET6), SOL_IPV6, [
        (MCAST_JOIN, group_req(GROUP6, IFINDEX), None),
        (MSFILTER, group_filter(GROUP6, EXCLUDE, [PEER6]), "EINVAL"),  # device 0 is none
        (MSFILTER, group_filter(GROUP6, EXCLUDE, [PEER6], IFINDEX), None),
        (MSFILTER, group_filter(GROUP6, EXCLUDE, [PEER4], IFINDEX), None),
        (MSFILTER, group_filter(GROUP6, INCLUDE, []), None),  # but not to leave
        (MSFILTER, group_filter(GROUP6, INCLUDE, [], IFINDEX), "EADDRNOTAVAIL"),
    ])  # fmt: skip


def test_sources_over_ipv6(host: Any) -> None:
    one, two = group_source(GROUP6, PEER6, IFINDEX), group_source(GROUP6, OTHER6)
    run(host.socket(AF_INET6), SOL_IPV6, [
        (JOIN_SOURCE, one, None),
        (JOIN_SOURCE, one, "EADDRNOTAVAIL"),
        (JOIN_SOURCE, two, None),
        (BLOCK, one, "EINVAL"),
        (LEAVE_SOURCE, group_source(GROUP6, "fd00::9", IFINDEX), "EADDRNOTAVAIL"),
        (LEAVE_SOURCE, two, None),
        (LEAVE_SOURCE, one, None),
        (LEAVE_SOURCE, one, "EINVAL"),
        (JOIN6, mreq6(GROUP6, LO), None),
        (BLOCK, one, "EINVAL"),
        (BLOCK, group_source(GROUP6, PEER6, LO), None),
        (LEAVE6, mreq6(GROUP6), None),
    ])  # fmt: skip


def test_a_filter_has_so_many_sources(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_IP, JOIN, mreq(GROUP))
    values = [mreq_source(GROUP, f"10.9.1.{i}") for i in range(12)]
    done = [outcome(sock.setsockopt, SOL_IP, IP_BLOCK, value) for value in values]
    assert done == [None] * 10 + ["ENOBUFS"] * 2
    sock = host.socket(AF_INET6)
    values = [group_source(GROUP6, f"fd00::{i}", IFINDEX) for i in range(66)]
    done = [outcome(sock.setsockopt, SOL_IPV6, JOIN_SOURCE, value) for value in values]
    assert done == [None] * 64 + ["ENOBUFS"] * 2


def test_a_filter_cannot_be_read_without_its_group(host: Any) -> None:
    assert outcome(host.socket(AF_INET).getsockopt, SOL_IP, IP_MSFILTER, 4) == "EINVAL"
    assert outcome(host.socket(AF_INET).getsockopt, SOL_IP, MSFILTER, 4) == "EINVAL"
    assert outcome(host.socket(AF_INET6).getsockopt, SOL_IPV6, MSFILTER, 4) == "EINVAL"
    assert outcome(host.socket(AF_INET).getsockopt, SOL_IP, BLOCK, 4) == "ENOPROTOOPT"


# -- delivery ------------------------------------------------------------------------------------


def members(host: Any, family: int, names: str) -> dict[str, Any]:
    """Sockets on port 10."""
    socks = {name: host.socket(family) for name in names.split()}
    for sock in socks.values():
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind(("", 10) if family == AF_INET else ("::", 10))
    return socks


def hear(host: Any, socks: dict[str, Any], group: str, source: str) -> str:
    """Who hears a datagram from there."""
    make = udp6 if ":" in group else udp4
    host.inject(make(group, 10, b"data", src=source))
    got = {name: outcome(sock.recv, 100) for name, sock in socks.items()}
    assert set(got.values()) <= {b"data", "EAGAIN"}
    return " ".join(name for name, what in got.items() if what == b"data")


def test_who_hears_which_source(host: Any) -> None:
    socks = members(host, AF_INET, "plain blocks includes other not_all")
    socks["plain"].setsockopt(SOL_IP, JOIN, mreq(GROUP))
    socks["blocks"].setsockopt(SOL_IP, JOIN, mreq(GROUP))
    socks["blocks"].setsockopt(SOL_IP, IP_BLOCK, mreq_source(GROUP, PEER4))
    socks["includes"].setsockopt(SOL_IP, IP_ADD, mreq_source(GROUP, PEER4))
    socks["not_all"].setsockopt(SOL_IP, ALL, 0)
    assert hear(host, socks, GROUP, PEER4) == "plain includes other"
    assert hear(host, socks, GROUP, OTHER4) == "plain blocks other"
    socks["plain"].close()
    del socks["plain"]
    assert hear(host, socks, GROUP, PEER4) == "includes other"
    socks["blocks"].setsockopt(SOL_IP, LEAVE, mreq(GROUP))
    assert hear(host, socks, GROUP, PEER4) == "blocks includes other"
    assert hear(host, socks, GROUP, OTHER4) == ""  # the host does not want it
    socks["includes"].setsockopt(SOL_IP, IP_MSFILTER, msfilter(GROUP, EXCLUDE, [PEER4]))
    assert hear(host, socks, GROUP, PEER4) == ""
    assert hear(host, socks, GROUP, OTHER4) == "blocks includes other"
    socks["includes"].setsockopt(SOL_IP, IP_UNBLOCK, mreq_source(GROUP, PEER4))
    assert hear(host, socks, GROUP, PEER4) == "blocks includes other"


def test_who_hears_which_source_over_ipv6(host: Any) -> None:
    def source(name: str, option: int, addr: str) -> None:
        socks[name].setsockopt(SOL_IPV6, option, group_source(GROUP6, addr, IFINDEX))

    socks = members(host, AF_INET6, "plain blocks includes not_all elsewhere")
    socks["plain"].setsockopt(SOL_IPV6, JOIN6, mreq6(GROUP6, IFINDEX))
    socks["blocks"].setsockopt(SOL_IPV6, JOIN6, mreq6(GROUP6, IFINDEX))
    source("blocks", BLOCK, PEER6)
    source("includes", JOIN_SOURCE, PEER6)
    for name in ("not_all", "elsewhere"):
        socks[name].setsockopt(SOL_IPV6, ALL6, 0)
    socks["elsewhere"].setsockopt(SOL_IPV6, JOIN6, mreq6(GROUP6, LO))
    assert hear(host, socks, GROUP6, PEER6) == "plain includes elsewhere"
    assert hear(host, socks, GROUP6, OTHER6) == "plain blocks elsewhere"
    for name in ("plain", "blocks"):
        socks.pop(name).close()
    assert hear(host, socks, GROUP6, PEER6) == "includes elsewhere"
    assert hear(host, socks, GROUP6, OTHER6) == ""
    source("includes", LEAVE_SOURCE, PEER6)
    assert hear(host, socks, GROUP6, PEER6) == ""


def test_the_group_of_all_hosts_has_no_filter_of_the_host(host: Any) -> None:
    socks = members(host, AF_INET, "includes other")
    socks["includes"].setsockopt(SOL_IP, IP_ADD, mreq_source("224.0.0.1", PEER4))
    assert hear(host, socks, "224.0.0.1", PEER4) == "includes other"
    assert hear(host, socks, "224.0.0.1", OTHER4) == "other"


def test_the_members_here_have_filters_too(host: Any) -> None:
    sender = host.socket(AF_INET)
    socks = members(host, AF_INET, "includes other")
    socks["includes"].setsockopt(SOL_IP, IP_ADD, mreq_source(GROUP, PEER4))
    sender.sendto(b"data", (GROUP, 10))
    assert [outcome(sock.recv, 10) for sock in socks.values()] == ["EAGAIN"] * 2
    socks["includes"].setsockopt(SOL_IP, IP_ADD, mreq_source(GROUP, "10.9.0.2"))
    sender.sendto(b"data", (GROUP, 10))
    assert [outcome(sock.recv, 10) for sock in socks.values()] == [b"data"] * 2
