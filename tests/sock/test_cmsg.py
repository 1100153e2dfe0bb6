"""Control messages of received packets, in the kernel's order and layout."""

from __future__ import annotations

import struct

from tests.sock.fakes import LOCAL4, LOCAL6, PEER4, PEER6, FakeNet
from ustack.sock import options as o
from ustack.sock.addr import MAPPED_PREFIX, normalize, present
from ustack.sock.cmsg import parse_send, recv_cmsgs
from ustack.sock.sock import AF_INET, AF_INET6, SOCK_DGRAM, Sock
from ustack.wire.packet import RxPacket

PORTS = struct.pack(">HHHH", 5000, 7, 8, 0)
RX4 = RxPacket(PORTS, 0, 0, 8, 17, PEER4, LOCAL4, 0x10, 61, 0, True, 2, 1_500_002_999)
RX6 = RxPacket(PORTS, 0, 0, 8, 17, PEER6, LOCAL6, 0x20, 62, 0, True, 2, 0)

ALL4 = (o.IP_RECVORIGDSTADDR, o.IP_RECVTOS, o.IP_RECVTTL, o.IP_PKTINFO)
ALL6 = (o.IPV6_RECVORIGDSTADDR, o.IPV6_RECVTCLASS, o.IPV6_RECVHOPLIMIT, o.IPV6_RECVPKTINFO)


def sock(family: int) -> Sock:
    sk = Sock(FakeNet(), family, SOCK_DGRAM, 17)
    one = struct.pack("i", 1)
    for name in ALL4:
        assert o.set_common(sk, o.SOL_IP, name, one, 0)
    for name in ALL6:
        assert o.set_common(sk, o.SOL_IPV6, name, one, 0) == (family == AF_INET6)
    return sk


def test_ipv4() -> None:
    sk = sock(AF_INET)
    sk.net.wall_ns = 1_000_000_000_000
    assert o.set_common(sk, o.SOL_SOCKET, o.SO_TIMESTAMP, b"\1\0\0\0", 0)
    assert o.set_common(sk, o.SOL_SOCKET, o.SO_RXQ_OVFL, b"\1\0\0\0", 0)
    assert recv_cmsgs(sk, RX4, 3, 1400) == [
        (1, 29, struct.pack("qq", 1001, 500_002)),
        (1, 40, struct.pack("I", 3)),
        (17, 104, struct.pack("i", 1400)),
        (0, 8, struct.pack("i", 2) + LOCAL4 + LOCAL4),
        (0, 2, struct.pack("i", 61)),
        (0, 1, b"\x10"),
        (0, 20, struct.pack("H", 2) + b"\0\x07" + LOCAL4 + bytes(8)),
    ]
    assert o.set_common(sk, o.SOL_SOCKET, o.SO_TIMESTAMPNS, b"\1\0\0\0", 0)
    assert recv_cmsgs(sk, RX4, 0, 0)[0] == (1, 35, struct.pack("qq", 1001, 500_002_999))


def test_ipv6() -> None:
    assert recv_cmsgs(sock(AF_INET6), RX6, 0, 0) == [
        (41, 50, LOCAL6 + struct.pack("i", 2)),
        (41, 52, struct.pack("i", 62)),
        (41, 67, struct.pack("i", 0x20)),
        (41, 74, struct.pack("H", 10) + b"\0\x07" + bytes(4) + LOCAL6 + bytes(4)),
    ]


def test_ipv4_on_an_ipv6_socket() -> None:
    control = recv_cmsgs(sock(AF_INET6), RX4, 0, 0)
    assert control[0] == (41, 50, MAPPED_PREFIX + LOCAL4 + struct.pack("i", 2))
    assert [(level, type_) for level, type_, _ in control[1:]] == [(0, 8), (0, 2), (0, 1), (0, 20)]


def test_send_to_ipv6() -> None:
    sk = sock(AF_INET6)
    control = (
        (41, 50, LOCAL6 + struct.pack("i", 2)),
        (41, 52, struct.pack("i", 3)),
        (41, 67, struct.pack("i", 4)),
        (41, 62, struct.pack("i", 1)),
    )
    wanted = parse_send(sk, control, True)
    assert (wanted.saddr, wanted.oif, wanted.ttl, wanted.tos, wanted.dontfrag) == (
        LOCAL6, 2, 3, 4, 1,
    )  # fmt: skip
    mapped = parse_send(sk, ((41, 50, MAPPED_PREFIX + LOCAL4 + struct.pack("i", 2)),), False)
    assert (mapped.saddr, mapped.oif) == (LOCAL4, 2)


def test_addresses() -> None:
    assert normalize(bytes(4)) == normalize(bytes(16)) == b""
    assert normalize(MAPPED_PREFIX + bytes(4)) == bytes(4)
    assert normalize(MAPPED_PREFIX + LOCAL4) == LOCAL4
    assert present(LOCAL4, True) == MAPPED_PREFIX + LOCAL4
    assert present(b"", True) == bytes(16)
    assert present(b"", False) == bytes(4)
