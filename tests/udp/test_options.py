"""Options of each family on one socket, ports of one's own range, one device."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import IFINDEX, LO, PEER4, PEER6, US4, OurHost, outcome, udp4

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6
SOL_IP, SOL_SOCKET, SOL_IPV6 = 0, 1, 41
IP_TOS, IP_TTL, IP_MTU_DISCOVER, IP_LOCAL_PORT_RANGE = 1, 2, 10, 51
IPV6_UNICAST_HOPS, IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_TCLASS = 16, 23, 24, 67
SO_DONTROUTE, SO_BINDTODEVICE, SO_BINDTOIFINDEX = 5, 25, 62
MSG_DONTROUTE, MSG_PROBE, MSG_CONFIRM = 4, 0x10, 0x800


def test_each_family_has_its_own(host: Any) -> None:
    sock = host.socket(AF_INET6)
    pairs = (
        (IP_TTL, IPV6_UNICAST_HOPS, 7, 9),
        (IP_TOS, IPV6_TCLASS, 0x10, 0x20),
        (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, 0, 3),
    )
    for four, six, value4, value6 in pairs:
        sock.setsockopt(SOL_IP, four, value4)
        sock.setsockopt(SOL_IPV6, six, value6)
        assert [sock.getsockopt(SOL_IP, four), sock.getsockopt(SOL_IPV6, six)] == [value4, value6]
    sock.sendto(b"4", ("::ffff:" + PEER4, 9))
    sock.sendto(b"6", (PEER6, 9))
    packet4, packet6 = host.sent()
    assert (packet4[1], packet4[8], packet4[6] & 0x40) == (0x10, 7, 0)
    assert (int.from_bytes(packet6[:2], "big") >> 4 & 0xFF, packet6[7]) == (0x20, 9)


def test_the_most_a_fragment_may_have(host: Any) -> None:
    sock = host.socket(AF_INET6)
    results = {
        value: outcome(sock.setsockopt, SOL_IPV6, IPV6_MTU, value)
        for value in (1279, 0, -1, 70_000, 1280)
    }
    assert results == {1279: "EINVAL", 0: None, -1: "EINVAL", 70_000: None, 1280: None}
    assert outcome(sock.getsockopt, SOL_IPV6, IPV6_MTU) == "ENOTCONN"
    sock.connect((PEER6, 9))
    assert sock.getsockopt(SOL_IPV6, IPV6_MTU) == 1500
    sock.send(bytes(1400))  # what fits the path is not cut
    sock.send(bytes(1600))
    assert [len(packet) for packet in host.sent()] == [1448, 1280, 424]
    sock.setsockopt(SOL_IPV6, IPV6_MTU_DISCOVER, 2)
    assert outcome(sock.send, bytes(1400)) == "EMSGSIZE"
    sock.setsockopt(SOL_IPV6, IPV6_MTU, 0)
    sock.send(bytes(1400))
    assert [len(packet) for packet in host.sent()] == [1448]


def test_identifications_count_though_df_is_set(host: Any) -> None:
    sock = host.socket(AF_INET)
    for _ in range(2):
        sock.sendto(b"x", (PEER4, 9))
    sock.setsockopt(SOL_IP, IP_MTU_DISCOVER, 2)
    sock.sendto(b"x", (PEER4, 9))
    one, other, insisting = host.sent()
    assert {packet[6] for packet in (one, other, insisting)} == {0x40}
    idents = [int.from_bytes(packet[4:6], "big") for packet in (one, other, insisting)]
    assert 0 < idents[1] - idents[0] & 0xFFFF < 100  # a kernel's counter also moves with time
    assert idents[2] == 0


# -- ports -----------------------------------------------------------------------------------


def bounds(low: int, high: int) -> bytes:
    return struct.pack("=HH", low, high)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_what_is_a_range(host: Any, kind: int) -> None:
    sock = host.socket(AF_INET, kind)
    assert sock.getsockopt(SOL_IP, IP_LOCAL_PORT_RANGE) == 0
    for value, code in (
        (bounds(40001, 40000), "EINVAL"), (b"\0\0", "EINVAL"), (bounds(0, 40000), None),
        (bounds(40000, 0), None), (bounds(1, 65535), None), (bounds(40000, 40001), None),
    ):  # fmt: skip
        assert outcome(sock.setsockopt, SOL_IP, IP_LOCAL_PORT_RANGE, value) == code
    assert sock.getsockopt(SOL_IP, IP_LOCAL_PORT_RANGE, 4) == bounds(40000, 40001)


def within(host: Any, low: int, high: int, kind: int = socket.SOCK_DGRAM) -> Any:
    sock = host.socket(AF_INET, kind)
    sock.setsockopt(SOL_IP, IP_LOCAL_PORT_RANGE, bounds(low, high))
    return sock


def test_ports_of_ones_own_range(host: Any) -> None:
    socks = [within(host, 40000, 40001) for _ in range(3)]
    for sock in socks[:2]:
        sock.bind(("", 0))
    assert {sock.getsockname()[1] for sock in socks[:2]} == {40000, 40001}
    assert outcome(socks[2].bind, ("", 0)) == "EADDRINUSE"
    assert outcome(socks[2].sendto, b"x", (PEER4, 9)) == "EAGAIN"
    stream = within(host, 40000, 40001, socket.SOCK_STREAM)
    stream.bind(("", 0))
    assert stream.getsockname()[1] in (40000, 40001)


def test_bounds_outside_of_the_hosts_range_do_not_count(host: Any) -> None:
    for low, high, least, most in (
        (5, 40000, 32768, 40000), (60990, 65535, 60990, 60999), (0, 33000, 32768, 33000),
    ):  # fmt: skip
        sock = within(host, low, high)
        sock.bind(("", 0))
        assert least <= sock.getsockname()[1] <= most


@pytest.mark.parametrize("count", [2, 3])
def test_connections_use_every_port_of_the_range(count: int) -> None:
    host = OurHost()
    ports = set()
    for _ in range(count):
        sock = within(host, 50_001, 50_000 + count, socket.SOCK_STREAM)
        assert outcome(sock.connect, (PEER4, 80)) == "EINPROGRESS"
        ports.add(sock.sk.sport)
    assert ports == set(range(50_001, 50_001 + count))
    late = within(host, 50_001, 50_000 + count, socket.SOCK_STREAM)
    assert outcome(late.connect, (PEER4, 80)) == "EADDRNOTAVAIL"


# -- devices and routes ------------------------------------------------------------------------


def test_binding_to_a_device(host: Any) -> None:
    sock = host.socket(AF_INET)
    script = [
        (b"ustack0", None, b"ustack0\0", IFINDEX),
        (b"ustack0\0", None, b"ustack0\0", IFINDEX),
        (b"nope", "ENODEV", b"ustack0\0", IFINDEX),
        (b"x" * 40, "ENODEV", b"ustack0\0", IFINDEX),
        (b"lo", None, b"lo\0", LO),
        (b"", None, b"", 0),
        (b"lo", None, b"lo\0", LO),
        (b"\0", None, b"", 0),
    ]
    for value, code, name, index in script:
        assert outcome(sock.setsockopt, SOL_SOCKET, SO_BINDTODEVICE, value) == code
        assert sock.getsockopt(SOL_SOCKET, SO_BINDTODEVICE, 16) == name
        assert sock.getsockopt(SOL_SOCKET, SO_BINDTOIFINDEX) == index
    sock.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b"lo")
    assert outcome(sock.getsockopt, SOL_SOCKET, SO_BINDTODEVICE, 4) == "EINVAL"
    sock.bind(("", 2000))
    host.inject(udp4(US4, 2000, b"x"))
    assert outcome(sock.recv, 10) == "EAGAIN"
    sock.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b"ustack0")
    host.inject(udp4(US4, 2000, b"x"))
    assert sock.recv(10) == b"x"


def test_only_the_privileged_change_the_device() -> None:
    host = OurHost()
    host.stack.sysctl.cap_net_admin = False
    sock = host.socket(AF_INET)
    assert outcome(sock.setsockopt, SOL_SOCKET, SO_BINDTODEVICE, b"lo") is None
    assert outcome(sock.setsockopt, SOL_SOCKET, SO_BINDTODEVICE, b"ustack0") == "EPERM"


def behind_a_gateway(host: Any) -> None:
    """Let the default routes lead through the peer."""
    if host.is_kernel:
        host.netns.ip(
            f"route replace default via {PEER4} dev ustack0",
            f"route replace ::/0 via {PEER6} dev ustack0",
        )
    else:
        for prefix, via in (("0.0.0.0/0", PEER4), ("::/0", PEER6)):
            host.stack.del_route(prefix)
            host.stack.add_route(prefix, host.dev, via)


def test_without_routers(host: Any) -> None:
    behind_a_gateway(host)
    sock, six = host.socket(AF_INET), host.socket(AF_INET6)
    assert outcome(sock.sendto, b"x", MSG_DONTROUTE, ("192.0.2.1", 9)) == "ENETUNREACH"
    assert outcome(sock.sendto, b"x", MSG_DONTROUTE, ("10.9.0.7", 9)) == 1
    assert outcome(six.sendto, b"x", MSG_DONTROUTE, ("2001:db8::1", 9)) == 1
    sock.setsockopt(SOL_SOCKET, SO_DONTROUTE, 1)
    assert outcome(sock.sendto, b"x", ("192.0.2.1", 9)) == "ENETUNREACH"
    assert outcome(sock.connect, ("192.0.2.1", 9)) == "ENETUNREACH"
    stream = host.socket(AF_INET, socket.SOCK_STREAM)
    stream.setsockopt(SOL_SOCKET, SO_DONTROUTE, 1)
    assert outcome(stream.connect, ("192.0.2.1", 9)) == "ENETUNREACH"


def test_trying_the_way(host: Any) -> None:
    sock = host.socket(AF_INET)
    assert sock.sendto(b"abc", MSG_PROBE, (PEER4, 9)) == 3
    assert sock.sendto(b"abc", MSG_PROBE | MSG_CONFIRM, (PEER4, 9)) == 3
    assert host.sent() == []
    assert sock.sendto(b"abc", MSG_CONFIRM, (PEER4, 9)) == 3
    assert len(host.sent()) == 1


def test_no_packet_had_a_processor_or_a_queue(host: Any) -> None:
    sock = host.socket(AF_INET)
    assert sock.getsockopt(SOL_SOCKET, 49) == -1
    assert sock.getsockopt(SOL_SOCKET, 56) == 0
    assert outcome(sock.setsockopt, SOL_SOCKET, 56, 1) == "ENOPROTOOPT"
