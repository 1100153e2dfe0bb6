"""Corners that random programs (`tests.fuzz.udp`) have shown: on ours and on a kernel."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import IFINDEX, LO, PEER4, PEER6, US4, US6, ip4, ip6, outcome, udp4
from tests.udp.test_sources import dissolve, pktinfo, to6

SOL_IP, SOL_SOCKET, SOL_UDP, SOL_IPV6 = 0, 1, 17, 41
DONTROUTE, PROBE, PEEK, TRUNC, ERRQUEUE, MORE = 4, 0x10, 2, 0x20, 0x2000, 0x8000
TO, TO6 = (PEER4, 9), (PEER6, 9, 0, 0)


def udp_socket(host: Any, v6: bool = False) -> Any:
    return host.socket(socket.AF_INET6 if v6 else socket.AF_INET)


def send(s: Any, data: bytes, flags: int = 0, to: Any = None, control: Any = ()) -> Any:
    return outcome(s.sendmsg, [data], control, flags, to)


def meminfo(s: Any) -> tuple[int, int]:
    """What is charged for receiving, and for sending."""
    words = struct.unpack("9I", s.getsockopt(SOL_SOCKET, 55, 36))
    return words[0], words[2]


def sizes(packets: list[bytes]) -> list[int]:
    return [len(packet) for packet in packets]


# -- what the first call of a corked datagram fixes (E-4, E-5) ---------------------------------


@pytest.mark.parametrize("v6", [False, True])
def test_a_cork_keeps_the_way_it_found(host: Any, v6: bool) -> None:
    """Path MTU, type of service, and whether it may be cut."""
    s, to = udp_socket(host, v6), TO6 if v6 else TO
    send(s, b"x" * 600, MORE, to)
    if v6:
        s.setsockopt(SOL_IPV6, 62, 1)  # IPV6_DONTFRAG
    else:
        s.setsockopt(SOL_IP, 1, 0x28)  # IP_TOS
        s.setsockopt(SOL_IP, 10, 5)  # IP_MTU_DISCOVER: OMIT
    assert send(s, b"y" * 1400) == 1400
    first, second = host.sent()
    assert (len(first), len(second)) == ((1496, 608) if v6 else (1500, 548))
    assert first[1] == 0 or v6


def test_a_segment_size_is_fixed_too(host: Any) -> None:
    s = udp_socket(host)
    s.setsockopt(SOL_UDP, 103, 1000)
    send(s, b"x" * 900, MORE, TO)
    s.setsockopt(SOL_UDP, 103, 0)
    send(s, b"y" * 900)
    assert [size - 28 for size in sizes(host.sent())] in ([1000, 800], [1800])  # GSO or not


def test_switching_cork_off_tells_no_error(host: Any) -> None:
    """E-6."""
    s = udp_socket(host)
    send(s, b"x" * 3000, MORE, TO, ((SOL_UDP, 103, struct.pack("H", 1473)),))
    assert outcome(s.setsockopt, SOL_UDP, 1, 0) is None
    assert not host.sent()


# -- where connected sends go (E-5, E-16) --------------------------------------------------------


def test_a_probe_redirects(host: Any) -> None:
    s = udp_socket(host)
    s.connect(TO)
    send(s, b"x", MORE | PROBE, (PEER4, 7))
    send(s, b"y", 0, None, ((SOL_UDP, 103, struct.pack("H", 100)),))
    send(s, b"z", DONTROUTE)
    assert [packet[22:24] for packet in host.sent()] == [b"\0\x07", b"\0\x09"]


def test_a_probe_is_not_measured(host: Any) -> None:
    """E-5: what is pending leaves as it may, whatever the socket wants by now."""
    s = udp_socket(host)
    send(s, b"x" * 1472, MORE, TO)
    s.setsockopt(SOL_IP, 10, 2)  # IP_MTU_DISCOVER: DO
    assert send(s, b"yy", PROBE, TO) == 2
    assert sizes(host.sent()) == [1500]


def test_a_corked_send_to_the_peer_keeps_the_source(host: Any) -> None:
    s = udp_socket(host)
    s.connect(("127.0.0.1", 9))
    send(s, b"x", MORE | PROBE, ("127.0.0.1", 9), pktinfo(US4))
    to = udp_socket(host)
    to.bind(("127.0.0.1", 9))
    send(s, b"x", MORE)
    send(s, b"")
    assert to.recvmsg(9)[3][0] == US4


@pytest.mark.parametrize(("level", "name", "value"), [(SOL_SOCKET, 5, 1), (SOL_IP, 1, 0x28)])
def test_options_that_forget_the_route(host: Any, level: int, name: int, value: int) -> None:
    """E-45: SO_DONTROUTE and another IP_TOS; the next send finds it again."""
    s = udp_socket(host)
    s.connect(TO)
    assert s.getsockopt(SOL_IP, 14) == 1500
    s.setsockopt(level, name, value)
    assert outcome(s.getsockopt, SOL_IP, 14) == "ENOTCONN"
    s.setsockopt(SOL_SOCKET, 5, 0)
    s.send(b"x")
    assert s.getsockopt(SOL_IP, 14) == 1500


def test_a_port_unreachable_of_a_port_given_back(host: Any) -> None:
    """E-5: a pending IPv6 datagram is from the port that the socket had."""
    s, to = udp_socket(host, True), udp_socket(host, True)
    to.bind(to6("::1", 9))
    s.connect(to6("::1", 9))
    port = s.getsockname()[1]
    send(s, b"x", MORE)
    dissolve(s)
    send(s, b"y")
    assert to.recvmsg(9)[3][1] == port


# -- by which device (C-53, E-45) ----------------------------------------------------------------


@pytest.mark.parametrize(("v6", "addr"), [(False, US4), (True, US6)])
def test_our_own_packets_come_by_the_device_of_the_address(host: Any, v6: bool, addr: str) -> None:
    s = udp_socket(host, v6)
    s.bind((addr, 7, 0, 0) if v6 else (addr, 7))
    s.setsockopt(SOL_SOCKET, 62, IFINDEX)  # SO_BINDTOIFINDEX
    s.setsockopt(SOL_IPV6 if v6 else SOL_IP, 49 if v6 else 8, 1)
    udp_socket(host, v6).sendto(b"x", (addr, 7, 0, 0) if v6 else (addr, 7))
    ((_, _, info),) = s.recvmsg(9, 99)[1]
    assert struct.unpack("i", info[-4:] if v6 else info[:4]) == (IFINDEX,)


@pytest.mark.parametrize("addr", ["10.9.0.255", PEER4])
def test_what_is_sent_by_loopback_is_for_one(host: Any, addr: str) -> None:
    """F-1: whatever address it has, also that of all hosts of the subnet."""
    first, second, s = (udp_socket(host) for _ in range(3))
    for to in (first, second):
        to.setsockopt(SOL_SOCKET, 2, 1)  # SO_REUSEADDR
        to.setsockopt(SOL_IP, 8, 1)
        to.bind(("0.0.0.0", 7))
    s.setsockopt(SOL_SOCKET, 62, LO)
    s.sendto(b"x", (addr, 7))
    assert second.recvmsg(9, 99)[1][0][2] == struct.pack("i", LO) + ip4(addr) * 2
    assert outcome(first.recv, 9) == "EAGAIN"


def test_an_error_by_loopback_is_for_loopback(host: Any) -> None:
    """E-37: of IPv4."""
    s = udp_socket(host)
    s.setsockopt(SOL_SOCKET, 62, IFINDEX)
    s.connect((US4, 9))
    assert [send(s, b"x"), send(s, b"x")] == [1, 1]
    s.setsockopt(SOL_SOCKET, 62, 0)
    assert [send(s, b"x"), send(s, b"x")] == [1, "ECONNREFUSED"]


def test_a_device_is_a_wish_of_packet_info_over_ipv6(host: Any) -> None:
    """E-46: with an address. SO_BINDTODEVICE is a command."""
    s = udp_socket(host, True)
    control = ((SOL_IPV6, 50, ip6(US6) + struct.pack("i", LO)),)
    assert send(s, b"x", 0, (US6, 9, 0, 0), control) == 1
    s.setsockopt(SOL_SOCKET, 62, LO)
    assert send(s, b"x", 0, (US6, 9, 0, 0)) == "ENETUNREACH"


def test_what_was_not_asked_for_in_time(host: Any) -> None:
    """E-45: IP_PKTINFO is found out when a datagram comes."""
    s = udp_socket(host)
    s.bind(("0.0.0.0", 7))
    host.inject(udp4(US4, 7, b"x"))
    s.setsockopt(SOL_IP, 8, 1)
    assert s.recvmsg(9, 99)[1] == [(SOL_IP, 8, bytes(8) + ip4(US4))]


# -- who may have a port, who is asked first (C-52, C-53) ----------------------------------------


def test_the_newest_decides_about_sharing(host: Any) -> None:
    alone, first, second = (udp_socket(host) for _ in range(3))
    alone.bind(("127.0.0.1", 7))
    for s, addr in ((first, US4), (second, "0.0.0.0")):
        s.setsockopt(SOL_SOCKET, 15, 1)
        assert outcome(s.bind, (addr, 7)) is None


def test_ipv6_sockets_that_share_are_asked_last(host: Any) -> None:
    alone, first, second = udp_socket(host), udp_socket(host, True), udp_socket(host, True)
    alone.bind(("127.0.0.1", 7))
    for s, addr, result in ((first, US6, None), (second, "::", "EADDRINUSE")):
        s.setsockopt(SOL_SOCKET, 15, 1)
        assert outcome(s.bind, to6(addr, 7)) == result


def test_a_connected_ipv6_socket_is_in_the_way_of_ipv4(host: Any) -> None:
    s = udp_socket(host, True)
    s.bind(to6("::", 7))
    s.connect(to6("::1", 9))
    assert outcome(udp_socket(host).bind, ("0.0.0.0", 7)) == "EADDRINUSE"
    assert outcome(udp_socket(host).bind, (US4, 7)) is None


def test_dissolving_makes_nobody_newer(host: Any) -> None:
    first, second = udp_socket(host), udp_socket(host)
    for s in (first, second):
        s.setsockopt(SOL_SOCKET, 2, 1)
        s.bind((US4, 7))
    first.connect(TO)
    dissolve(first)
    host.inject(udp4(US4, 7, b"x"))
    assert second.recv(9) == b"x"


def test_the_last_to_connect_is_asked_first(host: Any) -> None:
    """With the same peer, on this host, whoever was bound first."""
    wild, exact, peer = udp_socket(host), udp_socket(host), udp_socket(host)
    peer.bind(("127.0.0.1", 5))
    for s, addr in ((wild, "0.0.0.0"), (exact, "127.0.0.1")):
        s.setsockopt(SOL_SOCKET, 2, 1)
        s.bind((addr, 7))
    for s in (wild, exact):
        s.connect(("127.0.0.1", 5))
    peer.sendto(b"x", ("127.0.0.1", 7))
    assert exact.recv(9) == b"x"


# -- charges (E-10, E-26, E-40) --------------------------------------------------------------------


def test_a_half_full_queue_wastes_nothing(host: Any) -> None:
    """What is in pages moves into the head, if it has room."""
    s, to = udp_socket(host), udp_socket(host)
    to.bind(("127.0.0.1", 7))
    to.setsockopt(SOL_SOCKET, 8, 5000)
    to.setsockopt(SOL_UDP, 104, 1)
    for _ in range(2):
        send(s, b"x" * 1000, MORE, ("127.0.0.1", 7))
        send(s, b"y" * 400)
    assert meminfo(to)[0] == 2 * (2304 + 400)
    send(s, b"x" * 1000, MORE, ("127.0.0.1", 7))
    send(s, b"y" * 400)
    assert meminfo(to)[0] == 2 * (2304 + 400) + 2304


def test_an_error_is_charged_as_the_packet_that_brought_it(host: Any) -> None:
    for v6, charge in ((False, 1280), (True, 2304)):
        s = udp_socket(host, v6)
        s.setsockopt(SOL_IPV6 if v6 else SOL_IP, 25 if v6 else 11, 1)
        s.sendto(b"x" * 600, to6("::1", 9) if v6 else ("127.0.0.1", 9))
        assert meminfo(s)[0] == charge


def test_the_largest_bursts_are_cut_on_loopback(host: Any) -> None:
    """E-15: its Ethernet header makes them too long."""
    s, to = udp_socket(host), udp_socket(host)
    to.bind(("127.0.0.1", 7))
    to.setsockopt(SOL_UDP, 104, 1)
    control = ((SOL_UDP, 103, struct.pack("H", 1400)),)
    for size, got in ((65493, 65493), (65494, 1400)):
        send(s, b"x" * size, 0, ("127.0.0.1", 7), control)
        assert len(to.recv(70_000)) == got
    while outcome(to.recv, 70_000) != "EAGAIN":
        pass


# -- the rest ------------------------------------------------------------------------------------


def test_the_segment_size_is_told_to_those_who_still_ask(host: Any) -> None:
    """E-15: of a burst that came while UDP_GRO was on."""
    s, to = udp_socket(host), udp_socket(host)
    to.bind(("127.0.0.1", 7))
    to.setsockopt(SOL_UDP, 104, 1)
    for asked in (1, 0):
        send(s, b"x" * 3000, 0, ("127.0.0.1", 7), ((SOL_UDP, 103, struct.pack("H", 1400)),))
        to.setsockopt(SOL_UDP, 104, asked)
        data, control = to.recvmsg(9000, 64)[:2]
        assert (len(data), [message[:2] for message in control]) == (3000, [(17, 104)] * asked)


def test_truncated_by_what_was_peeked_before(host: Any) -> None:
    """E-27: with SO_PEEK_OFF within a datagram, a buffer that the rest just fills."""
    s = udp_socket(host)
    s.bind(("0.0.0.0", 7))
    host.inject(udp4(US4, 7, b"abcdef"))
    s.setsockopt(SOL_SOCKET, 42, 2)
    assert s.recvmsg(4, 0, PEEK)[2] == TRUNC
    s.setsockopt(SOL_SOCKET, 42, 2)
    assert s.recvmsg(5, 0, PEEK)[2] == 0


def test_what_an_error_tells_is_asked_when_it_is_read(host: Any) -> None:
    """E-40, E-45: and to IP_RECVORIGDSTADDR the payload is all that there is."""
    s = udp_socket(host)
    s.bind(("127.0.0.1", 7))
    s.setsockopt(SOL_IP, 11, 1)
    for data, name in ((b"abcd", 20), (b"abc", 20), (b"x", 12)):
        s.sendto(data, ("127.0.0.1", 9))
        s.setsockopt(SOL_IP, name, 1)
        outcome(s.recv, 1)
        control = s.recvmsg(9, 200, ERRQUEUE)[1]
        s.setsockopt(SOL_IP, name, 0)
        told = {kind: value for _, kind, value in control}
        if name == 12:
            assert told[2] == struct.pack("i", 64)
        else:
            assert (20 in told) == (data == b"abcd")
            assert data != b"abcd" or told[20][2:4] == b"cd"


def test_the_time_of_an_error_of_our_own(host: Any) -> None:
    """E-9, B-15."""
    s = udp_socket(host)
    s.setsockopt(SOL_IP, 11, 1)
    s.setsockopt(SOL_SOCKET, 29, 1)
    assert send(s, bytes(65508), 0, ("127.0.0.1", 9)) == "EMSGSIZE"
    data, control, _, _ = s.recvmsg(9, 200, ERRQUEUE)
    assert (data, [(level, kind) for level, kind, _ in control]) == (b"", [(1, 29), (0, 11)])
    assert struct.unpack_from("=IBBBBI", control[1][2])[5] == 65535  # the path MTU


def test_the_last_fragment_may_end_anywhere(host: Any) -> None:
    """F-3: so it takes up to seven bytes more than the others."""
    s = udp_socket(host)
    s.bind(("0.0.0.0", 7))
    host.inject(frag_needed(1279))
    s.sendto(b"x" * (1256 * 2 + 3 - 8), TO)
    assert sizes(host.sent()) == [1276, 1279]


def frag_needed(mtu: int) -> bytes:
    """A peer's word about a packet that we might have sent."""
    from tests.udp.both import _ip4
    from ustack.wire import icmp

    quote = udp4(PEER4, 9, b"", src=US4, sport=7)
    return _ip4(icmp.build(3, 4, mtu, quote), ip4(PEER4), ip4(US4))


def test_a_refused_burst_has_had_an_identification(host: Any) -> None:
    """F-4, E-15: one of the socket's, and segments of a burst take but one."""
    s = udp_socket(host)
    s.connect(TO)
    s.send(b"x")
    send(s, bytes(12901), 0, None, ((SOL_UDP, 103, struct.pack("H", 100)),))
    s.send(b"x")
    idents = [int.from_bytes(packet[4:6], "big") for packet in host.sent()]
    assert (idents[1] - idents[0]) % 65536 == 2
