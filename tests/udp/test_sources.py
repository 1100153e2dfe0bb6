"""Which address a datagram is from, and what a socket hears: on ours and on a kernel."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import IFINDEX, LO, PEER4, PEER6, US4, US6, ip4, ip6, outcome, udp4, udp6

MAPPED = "::ffff:"
MSG_MORE, IP_PKTINFO = 0x8000, 8


def sock6(host: Any) -> Any:
    return host.socket(socket.AF_INET6)


def sock4(host: Any) -> Any:
    return host.socket(socket.AF_INET)


def pktinfo(text: str, ifindex: int = 0) -> tuple[tuple[int, int, bytes]]:
    return ((socket.IPPROTO_IP, IP_PKTINFO, struct.pack("i", ifindex) + ip4(text) + bytes(4)),)


def to6(text: str, port: int = 5) -> tuple[str, int, int, int]:
    return text, port, 0, 0


def source_of(packet: bytes) -> bytes:
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


def test_the_mapped_wildcard_is_for_ipv4(host: Any) -> None:
    """C-51, E-16: an IPv6 socket bound to ::ffff:0.0.0.0 has no IPv6 half."""
    s = sock6(host)
    s.bind(to6(f"{MAPPED}0.0.0.0", 7))
    assert outcome(s.getsockname)[0] in (f"{MAPPED}0.0.0.0", f"{MAPPED}0:0")
    host.inject(udp6(US6, 7, b"six"))
    host.inject(udp4(US4, 7, b"four"))
    assert s.recv(9) == b"four"
    host.sent()
    assert outcome(s.sendto, b"x", to6(PEER6)) == "EAFNOSUPPORT"
    assert s.sendto(b"x", to6(MAPPED + PEER4)) == 1
    (packet,) = host.sent()
    assert source_of(packet) == ip4(US4)
    assert outcome(sock4(host).bind, ("0.0.0.0", 7)) == "EADDRINUSE"
    assert outcome(sock4(host).bind, (US4, 7)) == "EADDRINUSE"
    only6 = sock6(host)
    only6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    only6.bind(to6("::", 7))


def test_the_mapped_wildcard_is_this_host(host: Any) -> None:
    """E-16: as a peer it is 127.0.0.1, as :: is ::1."""
    s = sock6(host)
    s.connect(to6(f"{MAPPED}0.0.0.0"))
    assert s.getsockname()[0] == f"{MAPPED}127.0.0.1"


def test_a_loopback_source_stays(host: Any) -> None:
    """E-1: nobody could answer."""
    s = sock4(host)
    s.bind(("127.0.0.1", 0))
    assert outcome(s.sendto, b"x", (PEER4, 5)) == "EINVAL"
    assert outcome(s.connect, (PEER4, 5)) == "EINVAL"


@pytest.mark.parametrize(
    ("addr", "errno"), [("239.1.2.3", "EINVAL"), ("255.255.255.255", "EINVAL"),
                        ("10.9.0.255", "ENETUNREACH")]
)  # fmt: skip
def test_a_mapped_group_is_no_source(host: Any, addr: str, errno: str) -> None:
    """C-51: bound to one, an IPv4 socket sends from any address, an IPv6 socket cannot."""
    s = sock6(host)
    s.bind(to6(MAPPED + addr, 7))
    assert outcome(s.sendto, b"x", to6(MAPPED + PEER4)) == errno
    assert outcome(s.sendto, b"x", to6(PEER6)) == "EAFNOSUPPORT"
    s = sock4(host)
    s.bind((addr, 8))
    assert s.sendto(b"x", (PEER4, 5)) == 1


def test_packet_info_without_address_frees_the_source(host: Any) -> None:
    """E-45."""
    s = sock4(host)
    s.bind(("127.0.0.1", 0))
    s.sendmsg([b"x"], pktinfo("0.0.0.0"), 0, (PEER4, 5))
    (packet,) = host.sent()
    assert source_of(packet) == ip4(US4)


def test_local_on_another_device(host: Any) -> None:
    """E-45: with a device given, an address is local if it is that device's."""
    s = sock4(host)
    s.sendmsg([b"x"], pktinfo("0.0.0.0", IFINDEX), 0, ("127.0.0.1", 5))
    (packet,) = host.sent()
    assert (packet[16:20], source_of(packet)) == (ip4("127.0.0.1"), ip4(US4))
    s.sendmsg([b"x"], pktinfo("0.0.0.0", LO), 0, ("127.0.0.1", 5))
    assert not host.sent()
    control = ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes(16) + struct.pack("i", IFINDEX)),)
    sock6(host).sendmsg([b"x"], control, 0, to6("::1"))
    (packet,) = host.sent()
    assert (packet[24:40], source_of(packet)) == (ip6("::1"), ip6(US6))


def test_several_packet_infos(host: Any) -> None:
    """E-45, E-46: one without a device leaves the device to the others; over IPv6 two devices
    are one too many."""
    s = sock4(host)
    s.sendmsg([b"x"], pktinfo("0.0.0.0", IFINDEX) + pktinfo(US4), 0, ("127.0.0.1", 5))
    assert len(host.sent()) == 1
    lo, tun = (
        (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes(16) + struct.pack("i", i))
        for i in (LO, IFINDEX)
    )
    assert outcome(sock6(host).sendmsg, [b"x"], (lo, tun), 0, to6("::1")) == "EINVAL"


def test_what_goes_to_loopback_is_ours(host: Any) -> None:
    """F-1, E-45: whatever its address."""
    s, to = sock4(host), sock4(host)
    to.bind(("0.0.0.0", 7))
    s.sendmsg([b"x"], pktinfo("0.0.0.0", LO), 0, (PEER4, 7))
    assert to.recv(9) == b"x"
    assert not host.sent()


def test_an_address_of_the_device(host: Any) -> None:
    """C-51: an IPv6 socket on a device cannot have the address of another."""
    s = sock6(host)
    s.setsockopt(socket.SOL_SOCKET, 62, IFINDEX)  # SO_BINDTOIFINDEX
    assert outcome(s.bind, to6("::1")) == "EADDRNOTAVAIL"
    s.bind(to6(US6))


def test_mapped_packet_info_to_an_ipv6_peer(host: Any) -> None:
    """E-46."""
    info = ip6(MAPPED + US4) + bytes(4)
    control = ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info),)
    assert outcome(sock6(host).sendmsg, [b"x"], control, 0, to6(PEER6)) == "EINVAL"


def test_a_socket_of_two_peers_has_two_sources(host: Any) -> None:
    """E-16: what connect to an IPv4 peer has found stays, beside the IPv6 address."""
    s = sock6(host)
    s.connect(to6(PEER6))
    s.connect(to6(f"{MAPPED}127.0.0.1"))
    assert outcome(s.sendto, b"x", to6(MAPPED + PEER4)) == "EINVAL"
    assert s.sendto(b"x", to6(PEER6)) == 1


def test_connect_that_fails_moves_what_is_pending(host: Any) -> None:
    """E-5, E-16: a pending datagram goes where connect was asked to go."""
    s = sock4(host)
    s.sendmsg([b"x"], (), MSG_MORE, (PEER4, 5))
    assert outcome(s.connect, ("10.9.0.255", 6)) == "EACCES"
    s.sendmsg([b"y"], (), 0, None)
    (packet,) = host.sent()
    assert packet[16:20] == ip4("10.9.0.255")
    assert packet[22:24] == b"\0\x06"


def test_dissolved_but_faithful(host: Any) -> None:
    """E-16: after connect to AF_UNSPEC the IPv6 half hears its old peer only."""
    s = sock6(host)
    s.bind(to6("::", 7))
    s.connect(to6(PEER6))
    dissolve(s)
    host.inject(udp6(US6, 7, b"stranger", src="fd00:9::77"))
    host.inject(udp6(US6, 7, b"peer", sport=77))
    host.inject(udp4(US4, 7, b"four"))
    assert [s.recv(9), s.recv(9)] == [b"peer", b"four"]
    assert outcome(s.recv, 9) == "EAGAIN"


def dissolve(s: Any) -> None:
    if hasattr(s, "sk"):
        s.sk.prot.connect(s.sk, None, 0)
        return
    import ctypes

    assert ctypes.CDLL(None).connect(s.fileno(), bytes(28), 28) == 0


def test_bind_that_fails_forgets_the_address(host: Any) -> None:
    """C-54."""
    taken, s = sock4(host), sock4(host)
    taken.bind(("127.0.0.1", 7))
    s.bind(("127.0.0.1", 0))
    dissolve(s)
    assert s.getsockname() == ("127.0.0.1", 0)
    assert outcome(s.bind, ("127.0.0.1", 7)) == "EADDRINUSE"
    assert s.getsockname() == ("0.0.0.0", 0)


def test_groups_by_the_address_of_a_device(host: Any) -> None:
    """E-18: IP_MULTICAST_IF 127.0.0.1 is the source of what is sent to groups."""
    s = sock4(host)
    mreq = bytes(4) + ip4("127.0.0.1")
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreq)
    s.connect(("239.1.2.3", 5))
    assert s.getsockname()[0] == "127.0.0.1"


def test_our_own_address_over_ipv6(host: Any) -> None:
    """F-2: from outside it is a source like any other."""
    s = sock6(host)
    s.bind(to6("::", 7))
    for src in (US6, "::"):
        host.inject(udp6(US6, 7, b"x", src=src))
        assert s.recvmsg(9)[3][0] == src


def test_path_mtu_of_loopback(host: Any) -> None:
    """F-10: 65535 is the most that IP_MTU says."""
    s = sock4(host)
    s.connect(("127.0.0.1", 5))
    assert s.getsockopt(socket.IPPROTO_IP, 14) == 65535
