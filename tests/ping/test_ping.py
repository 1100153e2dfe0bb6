"""ICMP datagram sockets: what they send, what they hear, on ours and on a kernel."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import IFINDEX, PEER4, PEER6, US4, US6, answer, ip4, ip6, outcome
from ustack.wire.checksum import checksum

AF_INET, AF_INET6, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM
SOL_IP, SOL_IPV6, SOL_SOCKET = 0, 41, 1
MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_PROBE, MSG_TRUNC, MSG_ERRQUEUE = 1, 2, 4, 0x10, 0x20, 0x2000
MSG_MORE = 0x8000
POLLIN, POLLOUT, POLLERR = 0x41, 0x304, 0x8
IP_RECVERR, IPV6_RECVERR = 11, 25
TO4, TO6 = (PEER4, 0), (PEER6, 0)


def echo(kind: int = 8, code: int = 0, ident: int = 0x1234, seq: int = 7, data: bytes = b"data"):
    return struct.pack("!BBHHH", kind, code, 0xBEEF, ident, seq) + data


def ping4(host: Any) -> Any:
    return host.socket(AF_INET, DGRAM, 1)


def ping6(host: Any) -> Any:
    return host.socket(AF_INET6, DGRAM, 58)


def sent_by(host: Any, sock: Any, message: bytes, to: Any) -> bytes:
    """The packet in which the request leaves."""
    assert sock.sendto(message, to) == len(message)
    (packet,) = host.sent()
    return packet


def test_which_protocols_there_are(host: Any) -> None:
    for family, kind, proto in (
        (AF_INET, DGRAM, 58), (AF_INET6, DGRAM, 1), (AF_INET, socket.SOCK_STREAM, 1),
    ):  # fmt: skip
        assert outcome(host.socket, family, kind, proto) == "EPROTONOSUPPORT"
    sock = ping4(host)
    assert [sock.getsockopt(SOL_SOCKET, name) for name in (38, 3, 2)] == [1, DGRAM, 1]
    assert ping6(host).getsockopt(SOL_IPV6, 26) == 1  # V6ONLY


def test_sockets_may_be_refused() -> None:
    from tests.udp.both import OurHost

    host = OurHost()
    host.stack.sysctl.ping_group_range = (1, 0)
    assert outcome(ping4, host) == "EACCES"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "EINVAL"),
        (b"1234567", "EINVAL"),
        (echo(0), "EINVAL"),
        (echo(8, 1), "EINVAL"),
        (echo(13), "EINVAL"),
        (echo(data=bytes(65_535 - 20 - 8 + 1)), "EMSGSIZE"),
        (echo(data=bytes(70_000)), "EMSGSIZE"),
    ],
)
def test_only_echo_requests_are_sent(host: Any, message: bytes, code: str) -> None:
    sock = ping4(host)
    assert outcome(sock.sendto, message, TO4) == code
    assert host.sent() == []
    assert sock.getsockname()[1] != 0  # bound before anything else is looked at


def test_only_echo_requests_are_sent_over_ipv6(host: Any) -> None:
    sock = ping6(host)
    for message in (b"", echo(8), echo(129), echo(128, 1)):
        assert outcome(sock.sendto, message, TO6) == "EINVAL"
    assert outcome(sock.sendto, echo(128), ("::ffff:" + PEER4, 0)) == "EINVAL"


def test_identifier_and_checksum_are_the_sockets(host: Any) -> None:
    sock = ping4(host)
    sock.setsockopt(SOL_IP, 2, 9)
    sock.setsockopt(SOL_IP, 1, 0x28)
    packet = sent_by(host, sock, echo(), (PEER4, 777))
    ident = sock.getsockname()[1]
    assert sock.getsockname()[0] == "0.0.0.0"
    assert packet[12:20] == ip4(US4) + ip4(PEER4)
    assert (packet[1], packet[6:8], packet[8]) == (0x28, b"\x40\0", 9)
    assert packet[20:22] + packet[24:] == b"\x08\0" + struct.pack("!HH", ident, 7) + b"data"
    assert checksum(packet[20:]) == 0
    control = [(SOL_IP, 2, struct.pack("i", 33))]
    sock.sendmsg([echo()], control, 0, TO4)
    assert [packet[8] for packet in host.sent()] == [33]
    assert outcome(sock.sendmsg, [echo()], [(SOL_IP, 99, bytes(4))], 0, TO4) == "EINVAL"


def test_identifier_and_checksum_over_ipv6(host: Any) -> None:
    sock = ping6(host)
    packet = sent_by(host, sock, echo(128), TO6)
    ident = sock.getsockname()[1]
    assert packet[8:40] == ip6(US6) + ip6(PEER6)
    assert packet[40:42] + packet[44:] == b"\x80\0" + struct.pack("!HH", ident, 7) + b"data"
    assert checksum(packet[8:40] + struct.pack("!II", 12, 58) + packet[40:]) == 0


def test_flags(host: Any) -> None:
    sock = ping4(host)
    assert outcome(sock.sendto, echo(), MSG_OOB, TO4) == "ENOTSUP"
    assert sock.sendto(echo(), MSG_PROBE, TO4) == 12
    assert host.sent() == []
    for flags in (MSG_DONTROUTE, MSG_MORE):
        assert sock.sendto(echo(), flags, TO4) == 12
        assert len(host.sent()) == 1
    assert outcome(sock.recv, 100, MSG_OOB) == "ENOTSUP"


def test_calls_that_make_no_sense(host: Any) -> None:
    sock = ping4(host)
    assert outcome(sock.send, echo()) == "EDESTADDRREQ"
    assert outcome(sock.listen) == "ENOTSUP"
    assert outcome(sock.setsockopt, 17, 1, 1) == "ENOPROTOOPT"
    assert outcome(sock.getsockopt, 17, 1) == "ENOTSUP"
    assert outcome(sock.setsockopt, SOL_SOCKET, 42, 3) == "ENOTSUP"  # SO_PEEK_OFF
    assert outcome(sock.setsockopt, SOL_SOCKET, 60, 1) == "ENOTSUP"  # SO_ZEROCOPY
    assert outcome(sock.sendto, echo(), ("10.9.0.255", 0)) == "EACCES"
    assert outcome(sock.shutdown, 1) == "ENOTCONN"
    assert outcome(sock.sendto, echo(), TO4) == "EPIPE"


@pytest.mark.parametrize(
    ("addr", "code"),
    [
        ("10.9.0.77", "EADDRNOTAVAIL"),
        ("10.9.0.255", "EADDRNOTAVAIL"),
        ("224.0.0.1", "EADDRNOTAVAIL"),
        (US4, None),
        ("", None),
    ],
)
def test_binding(host: Any, addr: str, code: str | None) -> None:
    sock = ping4(host)
    assert outcome(sock.bind, (addr, 99)) == code
    if code is None:
        assert sock.getsockname() == (addr or "0.0.0.0", 99)
        assert outcome(sock.bind, (addr, 100)) == "EINVAL"
        assert sent_by(host, sock, echo(), TO4)[24:26] == b"\0c"


def test_identifiers_follow_each_other_and_may_be_shared(host: Any) -> None:
    one, other, third = ping4(host), ping4(host), ping4(host)
    one.bind(("", 0))
    other.bind(("", 0))
    ident = one.getsockname()[1]
    assert other.getsockname()[1] == ident % 0xFFFF + 1
    third.setsockopt(SOL_SOCKET, 2, 0)
    assert outcome(third.bind, ("", ident)) == "EADDRINUSE"
    third.setsockopt(SOL_SOCKET, 2, 1)
    assert outcome(third.bind, ("", ident)) is None
    host.inject(answer(sent_by(host, one, echo(), TO4), 0))
    assert outcome(one.recv, 100) == "EAGAIN"
    assert third.recv(100)[4:6] == struct.pack("!H", ident)  # the newest hears


def test_mapped_addresses_are_no_place_to_be(host: Any) -> None:
    assert outcome(ping6(host).bind, ("::ffff:" + US4, 0)) == "EINVAL"


# -- receiving -------------------------------------------------------------------------------


def test_replies_come_with_their_header(host: Any) -> None:
    sock = ping4(host)
    for name in (8, 12, 13, 20):
        sock.setsockopt(SOL_IP, name, 1)
    packet = sent_by(host, sock, echo(), TO4)
    assert sock.poll() == POLLOUT
    reply = answer(packet, 0)
    host.inject(reply)
    assert sock.poll() == POLLOUT | POLLIN
    assert struct.unpack("9I", sock.getsockopt(SOL_SOCKET, 55, 36))[0] == 832
    assert sock.recvmsg(100, 500, MSG_PEEK)[0] == reply[20:]
    data, control, flags, peer = sock.recvmsg(100, 500)
    assert (data, flags, peer) == (reply[20:], 0, (PEER4, 0))
    assert control == [
        (SOL_IP, 8, struct.pack("i", IFINDEX) + bytes(4) + ip4(US4)),
        (SOL_IP, 2, struct.pack("i", 61)),
        (SOL_IP, 1, b"\x10"),
        (SOL_IP, 20, struct.pack("=H", AF_INET) + reply[22:24] + ip4(US4) + bytes(8)),
    ]
    assert outcome(sock.recv, 100) == "EAGAIN"


def test_replies_over_ipv6(host: Any) -> None:
    sock = ping6(host)
    for name in (49, 51, 66):
        sock.setsockopt(SOL_IPV6, name, 1)
    reply = answer(sent_by(host, sock, echo(128), TO6), 129)
    host.inject(reply)
    data, control, _, peer = sock.recvmsg(100, 500)
    assert (data, peer) == (reply[40:], (PEER6, 0, 0, 0))
    assert control == [
        (SOL_IPV6, 50, ip6(US6) + struct.pack("i", IFINDEX)),
        (SOL_IPV6, 52, struct.pack("i", 61)),
        (SOL_IPV6, 67, struct.pack("i", 0x10)),
    ]


def test_what_does_not_fit_is_lost(host: Any) -> None:
    sock = ping4(host)
    packet = sent_by(host, sock, echo(), TO4)
    host.inject(answer(packet, 0))
    data, _, flags, _ = sock.recvmsg(10, 0, MSG_TRUNC)
    assert (data, flags) == (answer(packet, 0)[20:30], MSG_TRUNC)
    assert outcome(sock.recv, 100) == "EAGAIN"


def test_requests_are_answered_and_not_heard(host: Any) -> None:
    sock = ping4(host)
    packet = sent_by(host, sock, echo(), TO4)
    host.inject(answer(packet, 8))
    assert outcome(sock.recv, 100) == "EAGAIN"
    assert [reply[20] for reply in host.sent()] == [0]


def test_a_host_pings_itself(host: Any) -> None:
    for sock, message, here, kind in (
        (ping4(host), echo(), US4, 0), (ping6(host), echo(128), US6, 129),
    ):  # fmt: skip
        sock.sendto(message, (here, 0))
        data, _, _, peer = sock.recvmsg(100)
        assert (data[0], data[8:], peer[0]) == (kind, b"data", here)


def test_large_requests_come_back_whole(host: Any) -> None:
    sock = ping4(host)
    message = echo(data=bytes(range(256)) * 200)
    assert sock.sendto(message, ("127.0.0.1", 0)) == len(message)
    assert sock.recv(70_000)[8:] == message[8:]
    assert sock.sendto(message, TO4) == len(message)
    assert len(host.sent()) == 35


def test_the_buffer_has_an_end(host: Any) -> None:
    sock = ping4(host)
    sock.setsockopt(SOL_SOCKET, 8, 1)
    packet = sent_by(host, sock, echo(), TO4)
    for _ in range(6):
        host.inject(answer(packet, 0))
    meminfo = struct.unpack("9I", sock.getsockopt(SOL_SOCKET, 55, 36))
    assert (meminfo[0], meminfo[8]) == (2496, 3)


def test_a_connected_socket_hears_everybody_who_answers(host: Any) -> None:
    sock = ping4(host)
    sock.connect((PEER4, 55))
    assert sock.getsockname()[0] == US4
    sock.send(echo())
    sock.sendto(echo(), ("10.9.0.7", 0))
    packets = host.sent()
    assert [packet[16:20] for packet in packets] == [ip4(PEER4), ip4("10.9.0.7")]
    for packet in packets:
        host.inject(answer(packet, 0))
    assert [sock.recvmsg(100)[3][0] for _ in packets] == [PEER4, "10.9.0.7"]


# -- errors ------------------------------------------------------------------------------------

# (type, code) -> errno of a connected socket, and with IP_RECVERR
ERRORS4 = {
    (3, 0): (0, 101), (3, 1): (0, 113), (3, 3): (111, 111), (3, 4): (90, 90), (11, 0): (0, 113),
    (12, 0): (71, 71),
}  # fmt: skip
ERRORS6 = {
    (1, 0): (0, 101), (1, 3): (0, 113), (1, 4): (111, 111), (2, 0): (0, 90), (3, 0): (0, 113),
    (4, 1): (71, 71),
}  # fmt: skip


@pytest.mark.parametrize("six", [False, True])
def test_errors(host: Any, six: bool) -> None:
    loose, sock = (ping6(host), ping6(host)) if six else (ping4(host), ping4(host))
    message, to = (echo(128), TO6) if six else (echo(), TO4)
    sock.connect(to)
    sock.send(message)
    packet = host.sent()[0]
    unheard = sent_by(host, loose, message, to)
    for (kind, code), (expected, _) in (ERRORS6 if six else ERRORS4).items():
        host.inject(answer(unheard, kind, code, 1300))
        assert loose.poll() == POLLOUT
        host.inject(answer(packet, kind, code, 1300))
        assert sock.poll() == POLLOUT | (POLLERR if expected else 0), (kind, code)
        assert sock.getsockopt(SOL_SOCKET, 4) == expected, (kind, code)


@pytest.mark.parametrize("six", [False, True])
def test_errors_in_the_queue(host: Any, six: bool) -> None:
    sock = ping6(host) if six else ping4(host)
    message, to = (echo(128), TO6) if six else (echo(), TO4)
    level, name = (SOL_IPV6, IPV6_RECVERR) if six else (SOL_IP, IP_RECVERR)
    sock.setsockopt(level, name, 1)
    packet = sent_by(host, sock, message, to)
    for (kind, code), (_, expected) in (ERRORS6 if six else ERRORS4).items():
        host.inject(answer(packet, kind, code, 1300))
        assert sock.poll() == POLLOUT | POLLERR
        data, control, flags, peer = sock.recvmsg(100, 500, MSG_ERRQUEUE)
        assert (data, flags, peer[:2]) == (packet[40 if six else 20 :], MSG_ERRQUEUE, to)
        ((got_level, got_name, error),) = control
        info = 1300 if six or (kind, code) == (3, 4) else 0
        head = struct.pack("=IBBBBII", expected, 3 if six else 2, kind, code, 0, info, 0)
        assert (got_level, got_name, error[:16]) == (level, name, head), (kind, code)
        assert error[20:24] == ip4(PEER4) if not six else error[24:40] == ip6(PEER6)
        assert sock.getsockopt(SOL_SOCKET, 4) == 0
