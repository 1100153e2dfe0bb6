"""Multicasts and broadcasts: who joins, who is heard, who hears (rule E-18)."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import IFINDEX, LO, PEER4, PEER6, US4, ip4, ip6, outcome, udp4, udp6

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6
SOCK_STREAM = socket.SOCK_STREAM
SOL_IP, SOL_IPV6, SOL_SOCKET = 0, 41, 1
SO_REUSEADDR, SO_BROADCAST, SO_REUSEPORT, SO_BINDTODEVICE = 2, 6, 15, 25
IP_PKTINFO = 8
IF, TTL, LOOP, JOIN, LEAVE, ALL = 32, 33, 34, 35, 36, 49
IF6, HOPS, LOOP6, JOIN6, LEAVE6, ALL6 = 17, 18, 19, 20, 21, 29
MCAST_JOIN, MCAST_LEAVE = 42, 45
GROUP, GROUP6 = "239.1.2.3", "ff05::1:3"
ANY = bytes(4)


def mreq(group: str, addr: str = "0.0.0.0", ifindex: int | None = None) -> bytes:
    tail = b"" if ifindex is None else struct.pack("i", ifindex)
    return ip4(group) + ip4(addr) + tail


def mreq6(group: str, ifindex: int = 0) -> bytes:
    return ip6(group) + struct.pack("I", ifindex)


def group_req(group: str, ifindex: int = 0) -> bytes:
    if ":" in group:
        sockaddr = struct.pack("=HHI16sI", AF_INET6, 0, 0, ip6(group), 0)
    else:
        sockaddr = struct.pack("=HH4s", AF_INET, 0, ip4(group))
    return (struct.pack("I4x", ifindex) + sockaddr).ljust(136, b"\0")


def put(sock: Any, level: int, name: int, value: int | bytes) -> Any:
    """The errno that setting gives, or what is read afterwards."""
    code = outcome(sock.setsockopt, level, name, value)
    return sock.getsockopt(level, name) if code is None else code


# (level, option) -> value set: what is read then, or the errno
TABLE: list[tuple[int, int, int, dict[int | bytes, int | str]]] = [
    (AF_INET, SOL_IP, TTL, {-2: "EINVAL", -1: 1, 0: 0, 255: 255, 256: "EINVAL", b"": "EINVAL"}),
    (AF_INET, SOL_IP, TTL, {b"\5": 5, b"\5\0": 5}),
    (AF_INET, SOL_IP, LOOP, {-1: 1, 0: 0, 2: 1, b"": "EINVAL", b"\5": 1}),
    (AF_INET, SOL_IP, ALL, {-1: "EINVAL", 0: 0, 1: 1, 2: "EINVAL", b"": "EINVAL"}),
    (AF_INET6, SOL_IPV6, HOPS, {-2: "EINVAL", -1: 1, 0: 0, 255: 255, 256: "EINVAL", b"": "EINVAL"}),
    (AF_INET6, SOL_IPV6, LOOP6, {-1: "EINVAL", 0: 0, 1: 1, 2: "EINVAL", b"": "EINVAL"}),
    (AF_INET6, SOL_IPV6, ALL6, {-1: 1, 0: 0, 2: 1, b"": "EINVAL"}),
    (AF_INET6, SOL_IPV6, IF6, {-1: "ENODEV", LO: LO, IFINDEX: IFINDEX, 99: "ENODEV", 0: 0}),
]


@pytest.mark.parametrize(("family", "level", "name", "values"), TABLE)
def test_ranges(
    host: Any, family: int, level: int, name: int, values: dict[int | bytes, int | str]
) -> None:
    sock = host.socket(family)
    assert {value: put(sock, level, name, value) for value in values} == values


def test_defaults(host: Any) -> None:
    four, six = host.socket(AF_INET), host.socket(AF_INET6)
    for sock, all4 in ((four, 1), (six, 0)):
        assert [sock.getsockopt(SOL_IP, name) for name in (IF, TTL, LOOP, ALL)] == [0, 1, 1, all4]
    assert [six.getsockopt(SOL_IPV6, name) for name in (IF6, HOPS, LOOP6, ALL6)] == [0, 1, 1, 1]
    assert outcome(four.getsockopt, SOL_IP, JOIN) == "ENOPROTOOPT"
    assert outcome(six.getsockopt, SOL_IPV6, JOIN6) == "ENOPROTOOPT"
    assert outcome(four.getsockopt, SOL_IPV6, HOPS) == "ENOTSUP"


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (b"", "EINVAL"),
        (b"\0", "EINVAL"),
        (ip4(US4), ip4(US4)),
        (ip4(PEER4), "EADDRNOTAVAIL"),
        (ip4("127.0.0.1"), ip4("127.0.0.1")),
        (ANY, ANY),
        (mreq("0.0.0.0", US4), ip4(US4)),
        (mreq("224.0.0.1", US4, 0), ip4(US4)),
        (mreq("0.0.0.0", "0.0.0.0", IFINDEX), ANY),
        (mreq("0.0.0.0", "0.0.0.0", 77), "EADDRNOTAVAIL"),
        (mreq("0.0.0.0", US4, LO), ip4(US4)),
    ],
)
def test_the_device_to_send_by(host: Any, value: bytes, result: bytes | str) -> None:
    sock = host.socket(AF_INET)
    code = outcome(sock.setsockopt, SOL_IP, IF, value)
    assert (sock.getsockopt(SOL_IP, IF, 16) if code is None else code) == result


def test_streams_are_in_no_group(host: Any) -> None:
    four, six = host.socket(AF_INET, SOCK_STREAM), host.socket(AF_INET6, SOCK_STREAM)
    assert [put(four, SOL_IP, name, value) for name, value in ((TTL, 1), (IF, ANY), (LOOP, 0))] == [
        "EINVAL", "EINVAL", 0,
    ]  # fmt: skip
    for value in (mreq(GROUP), b""):
        assert outcome(four.setsockopt, SOL_IP, JOIN, value) == "EPROTO"
    assert [put(six, SOL_IPV6, name, 1) for name in (IF6, HOPS, LOOP6, ALL6)] == [
        "ENOPROTOOPT", "ENOPROTOOPT", 1, 1,
    ]  # fmt: skip
    assert outcome(six.setsockopt, SOL_IPV6, JOIN6, mreq6(GROUP6)) == "EPROTO"


def test_joining_and_leaving(host: Any) -> None:
    sock = host.socket(AF_INET)
    script = [
        (JOIN, b"", "EINVAL"),
        (JOIN, ip4(GROUP), "EINVAL"),
        (JOIN, mreq(GROUP), None),
        (JOIN, mreq(GROUP), "EADDRINUSE"),
        (JOIN, mreq(GROUP, US4), "EADDRINUSE"),
        (JOIN, mreq(GROUP, "10.9.0.9"), "ENODEV"),
        (JOIN, mreq(GROUP, "127.0.0.1"), None),
        (JOIN, mreq("10.1.1.1"), "EINVAL"),
        (JOIN, mreq(GROUP, ifindex=IFINDEX), "EADDRINUSE"),
        (JOIN, mreq("224.0.0.1", ifindex=IFINDEX), None),
        (JOIN, mreq("239.9.9.9", ifindex=99), "ENODEV"),
        (LEAVE, mreq(GROUP, "10.9.0.9"), "EADDRNOTAVAIL"),
        (LEAVE, mreq(GROUP), None),
        (LEAVE, mreq(GROUP), "EADDRNOTAVAIL"),
        (LEAVE, mreq(GROUP, "127.0.0.1"), None),
        (LEAVE, mreq("10.1.1.1"), "EADDRNOTAVAIL"),
        (LEAVE, mreq(GROUP, ifindex=99), "EADDRNOTAVAIL"),
        (MCAST_JOIN, group_req(GROUP), None),
        (MCAST_JOIN, group_req(GROUP)[:-1], "EINVAL"),
        (LEAVE, mreq(GROUP, ifindex=IFINDEX), None),
    ]
    done = [outcome(sock.setsockopt, SOL_IP, name, value) for name, value, _ in script]
    assert done == [result for _, _, result in script]


def test_a_socket_joins_twenty_groups(host: Any) -> None:
    sock = host.socket(AF_INET)
    done = [outcome(sock.setsockopt, SOL_IP, JOIN, mreq(f"239.7.0.{i}")) for i in range(22)]
    assert done == [None] * 20 + ["ENOBUFS"] * 2


def test_joining_and_leaving_over_ipv6(host: Any) -> None:
    sock = host.socket(AF_INET6)
    script = [
        (JOIN6, b"", "EINVAL"),
        (JOIN6, ip6(GROUP6), "EINVAL"),
        (JOIN6, mreq6(GROUP6, IFINDEX), None),
        (JOIN6, mreq6(GROUP6), "EADDRINUSE"),
        (JOIN6, mreq6(GROUP6, LO), None),
        (JOIN6, mreq6(GROUP6, 99), "ENODEV"),
        (JOIN6, mreq6("fd00::1"), "EINVAL"),
        (LEAVE6, mreq6("fd00::1"), "EINVAL"),
        (LEAVE6, mreq6(GROUP6, 99), "EADDRNOTAVAIL"),
        (LEAVE6, mreq6(GROUP6, IFINDEX), None),
        (LEAVE6, mreq6(GROUP6), None),
        (LEAVE6, mreq6(GROUP6), "EADDRNOTAVAIL"),
        (MCAST_JOIN, group_req(GROUP6, IFINDEX), None),
        (MCAST_LEAVE, group_req(GROUP6), None),
    ]
    done = [outcome(sock.setsockopt, SOL_IPV6, name, value) for name, value, _ in script]
    assert done == [result for _, _, result in script]
    assert outcome(sock.setsockopt, SOL_IP, JOIN, mreq(GROUP)) is None


# -- sending -----------------------------------------------------------------------------------


def test_the_ttl_of_multicasts_is_their_own(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_IP, 2, 77)
    sock.sendto(b"m", (GROUP, 9))
    sock.setsockopt(SOL_IP, TTL, 5)
    sock.sendto(b"m", (GROUP, 9))
    sock.sendmsg([b"m"], [(SOL_IP, 2, struct.pack("i", 33))], 0, (GROUP, 9))
    sock.sendto(b"u", (PEER4, 9))
    sock.connect((GROUP, 9))
    sock.send(b"c")
    packets = host.sent()
    assert [packet[8] for packet in packets] == [1, 5, 33, 77, 5]
    assert {packet[12:16] for packet in packets} == {ip4(US4)}


def test_the_hop_limit_of_multicasts_is_their_own(host: Any) -> None:
    sock = host.socket(AF_INET6)
    sock.setsockopt(SOL_IPV6, 16, 77)
    sock.sendto(b"m", (GROUP6, 9))
    sock.setsockopt(SOL_IPV6, HOPS, 5)
    sock.sendto(b"m", (GROUP6, 9))
    sock.sendto(b"u", (PEER6, 9))
    sock.sendto(b"v4", ("::ffff:" + GROUP, 9))
    assert [packet[7] if packet[0] >> 4 == 6 else packet[8] for packet in host.sent()] == [
        1, 5, 77, 1,
    ]  # fmt: skip


def test_a_ttl_of_zero_stays_here_if_a_member_is_here(host: Any) -> None:
    sender, member = host.socket(AF_INET), host.socket(AF_INET)
    sender.setsockopt(SOL_IP, TTL, 0)
    sender.sendto(b"out", (GROUP, 9))
    assert len(host.sent()) == 1
    member.bind(("", 9))
    member.setsockopt(SOL_IP, JOIN, mreq(GROUP))
    sender.sendto(b"here", (GROUP, 9))
    assert host.sent() == []
    assert member.recv(100) == b"here"


def test_members_on_this_host_hear_unless_the_sender_says_no(host: Any) -> None:
    sender, member = host.socket(AF_INET), host.socket(AF_INET)
    member.bind(("", 9))
    member.setsockopt(SOL_IP, JOIN, mreq(GROUP))
    member.setsockopt(SOL_IP, IP_PKTINFO, 1)
    sender.bind((US4, 1000))
    sender.sendto(b"loop", (GROUP, 9))
    data, control, _, peer = member.recvmsg(100, 100)
    assert (data, peer) == (b"loop", (US4, 1000))
    assert control == [(SOL_IP, IP_PKTINFO, struct.pack("i", IFINDEX) + ip4(US4) + ip4(GROUP))]
    sender.setsockopt(SOL_IP, LOOP, 0)
    sender.sendto(b"no loop", (GROUP, 9))
    assert outcome(member.recv, 100) == "EAGAIN"
    assert len(host.sent()) == 2


def test_a_large_multicast_is_whole_for_the_members_here(host: Any) -> None:
    sender, member = host.socket(AF_INET), host.socket(AF_INET)
    member.bind(("", 9))
    member.setsockopt(SOL_IP, JOIN, mreq(GROUP))
    sender.sendto(b"x" * 3000, (GROUP, 9))
    assert member.recv(5000) == b"x" * 3000
    assert len(host.sent()) == 3


def test_members_over_ipv6(host: Any) -> None:
    sender, member, other = (host.socket(AF_INET6) for _ in range(3))
    for sock in (member, other):
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind(("::", 9))
    other.setsockopt(SOL_IPV6, ALL6, 0)
    sender.sendto(b"nobody", (GROUP6, 9))
    assert outcome(member.recv, 100) == "EAGAIN"
    member.setsockopt(SOL_IPV6, JOIN6, mreq6(GROUP6, IFINDEX))
    sender.sendto(b"loop", (GROUP6, 9))
    host.inject(udp6(GROUP6, 9, b"in"))
    host.inject(udp6("ff02::1", 9, b"all nodes"))
    assert [member.recv(100) for _ in range(3)] == [b"loop", b"in", b"all nodes"]
    assert outcome(other.recv, 100) == "EAGAIN"
    member.setsockopt(SOL_IPV6, LEAVE6, mreq6(GROUP6))
    host.inject(udp6(GROUP6, 9, b"left"))
    assert outcome(member.recv, 100) == "EAGAIN"


def test_the_device_and_the_address_of_multicasts(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_IP, IF, ip4("127.0.0.1"))
    sock.sendto(b"to lo", (GROUP, 9))
    assert host.sent() == []
    sock.setsockopt(SOL_IP, IF, ip4(US4))
    sock.sendto(b"out", (GROUP, 9))
    assert [packet[12:16] for packet in host.sent()] == [ip4(US4)]


def test_a_socket_bound_to_a_group_sends_from_the_device(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.bind((GROUP, 10))
    assert sock.getsockname() == (GROUP, 10)
    sock.sendto(b"x", (PEER4, 9))
    assert [packet[12:16] for packet in host.sent()] == [ip4(US4)]


# -- delivery ------------------------------------------------------------------------------------


def listeners(host: Any) -> dict[str, Any]:
    """Sockets on port 10 that differ in what they want."""
    names = ("member", "all", "not all", "group", "address", "six", "elsewhere")
    socks = {name: host.socket(AF_INET6 if name == "six" else AF_INET) for name in names}
    for name, sock in socks.items():
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        where = {"group": GROUP, "address": US4, "six": "::"}.get(name, "")
        sock.bind((where, 10))
    socks["member"].setsockopt(SOL_IP, JOIN, mreq(GROUP))
    for name in ("member", "not all"):
        socks[name].setsockopt(SOL_IP, ALL, 0)
    socks["elsewhere"].connect(("10.9.0.77", 10))
    return socks


def heard(socks: dict[str, Any], data: bytes) -> list[str]:
    """Who has got `data`, and nothing else."""
    got = {name: outcome(sock.recv, 100) for name, sock in socks.items()}
    assert set(got.values()) <= {data, "EAGAIN"}
    assert all(outcome(sock.recv, 100) == "EAGAIN" for sock in socks.values())
    return [name for name, what in got.items() if what == data]


def test_who_hears_a_multicast(host: Any) -> None:
    socks = listeners(host)
    host.inject(udp4(GROUP, 10, b"group"))
    assert heard(socks, b"group") == ["member", "all", "group"]
    host.inject(udp4("224.0.0.1", 10, b"all hosts"))
    assert heard(socks, b"all hosts") == ["all"]
    host.inject(udp4("239.1.2.4", 10, b"not joined"))
    assert heard(socks, b"not joined") == []
    socks["six"].setsockopt(SOL_IP, ALL, 1)
    host.inject(udp4(GROUP, 10, b"six too"))
    assert heard(socks, b"six too") == ["member", "all", "group", "six"]
    socks["member"].close()
    del socks["member"]
    host.inject(udp4(GROUP, 10, b"the member is gone"))
    assert heard(socks, b"the member is gone") == []


@pytest.mark.parametrize("dst", ["10.9.0.255", "255.255.255.255"])
def test_who_hears_a_broadcast(host: Any, dst: str) -> None:
    socks = listeners(host)
    host.inject(udp4(dst, 10, b"in"))
    assert heard(socks, b"in") == ["member", "all", "not all", "six"]
    sender = host.socket(AF_INET)
    assert outcome(sender.sendto, b"out", (dst, 10)) == "EACCES"
    sender.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
    sender.sendto(b"out", (dst, 10))
    assert heard(socks, b"out") == ["member", "all", "not all", "six"]
    assert [packet[8] for packet in host.sent()] == [64]


def test_a_unicast_goes_to_one(host: Any) -> None:
    socks = listeners(host)
    host.inject(udp4(US4, 10, b"uni"))
    assert heard(socks, b"uni") == ["address"]


def test_a_reuseport_group_hears_as_one_socket_each(host: Any) -> None:
    socks = {name: host.socket(AF_INET) for name in "ab"}
    for sock in socks.values():
        sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
        sock.bind(("", 10))
        outcome(sock.setsockopt, SOL_IP, JOIN, mreq(GROUP))
    host.inject(udp4(GROUP, 10, b"both"))
    assert heard(socks, b"both") == ["a", "b"]


def test_a_socket_bound_to_another_device_hears_nothing(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b"lo")
    sock.bind(("", 10))
    sock.setsockopt(SOL_IP, JOIN, mreq(GROUP, ifindex=IFINDEX))
    host.inject(udp4(GROUP, 10, b"x"))
    assert outcome(sock.recv, 100) == "EAGAIN"


def test_nobody_is_told_that_nobody_listens(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_IP, JOIN, mreq(GROUP))
    for dst in (GROUP, "224.0.0.1", "10.9.0.255", "255.255.255.255"):
        host.inject(udp4(dst, 4444, b"x"))
    assert host.sent() == []
    if not host.is_kernel:
        assert host.stack.mib["UdpIgnoredMulti"] == 4


def test_pktinfo_of_a_broadcast_names_the_address_to_answer_from(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.bind(("", 10))
    sock.setsockopt(SOL_IP, IP_PKTINFO, 1)
    host.inject(udp4("10.9.0.255", 10, b"x"))
    (message,) = sock.recvmsg(100, 100)[1]
    assert message[2] == struct.pack("i", IFINDEX) + ip4(US4) + ip4("10.9.0.255")


def test_a_socket_connected_to_a_group_hears_nobody(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.connect((GROUP, 10))
    port = sock.getsockname()[1]
    assert sock.getsockname()[0] == US4
    host.inject(udp4(US4, port, b"unicast", sport=10))
    host.inject(udp4(GROUP, port, b"multicast", sport=10))
    assert outcome(sock.recv, 100) == "EAGAIN"
