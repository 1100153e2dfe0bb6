"""What the error queue tells of datagrams that met no error: MSG_ZEROCOPY, timestamps."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import (
    IFINDEX,
    PEER4,
    PEER6,
    US4,
    US6,
    OurHost,
    answer,
    ip4,
    ip6,
    outcome,
    udp4,
)
from ustack.link.fifo import Fifo
from ustack.sock.wait import POLLERR

AF_INET, AF_INET6 = socket.AF_INET, socket.AF_INET6
SOL_IP, SOL_SOCKET, SOL_IPV6 = 0, 1, 41
SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING, SO_TIMESTAMPING_NEW, SO_ZEROCOPY = 29, 35, 37, 65, 60
MSG_ERRQUEUE, MSG_MORE, MSG_ZEROCOPY = 0x2000, 0x8000, 0x4000000
TX, RX, SOFTWARE, OPT_ID, SCHED, TSONLY = 1 << 1, 1 << 3, 1 << 4, 1 << 7, 1 << 8, 1 << 11
OPT_CMSG = 1 << 10
ENOMSG = 42
TO = (PEER4, 9)


def entry(sock: Any) -> Any:
    """The next entry: (payload, control messages), or the errno's name."""
    got = outcome(sock.recvmsg, 5000, 500, MSG_ERRQUEUE)
    if isinstance(got, str):
        return got
    data, control, flags, peer = got
    assert (flags, peer) == (MSG_ERRQUEUE, None)
    return data, control


def ranges(sock: Any) -> list[tuple[int, int]]:
    """The ranges of calls whose buffers are free again, until the queue is empty."""
    found = []
    while (got := entry(sock)) != "EAGAIN":
        data, ((level, name, error),) = got
        errno, origin, type_, code, _, low, high = struct.unpack_from("=IBBBBII", error)
        assert (data, errno, origin, type_, code) == (b"", 0, 5, 0, 1)
        assert (level, name, len(error)) in ((SOL_IP, 11, 32), (SOL_IPV6, 25, 44))
        assert not any(error[16:])
        found.append((low, high))
    return found


# -- MSG_ZEROCOPY ----------------------------------------------------------------------------


def zerocopy(host: Any, family: int = AF_INET, to: Any = TO) -> Any:
    sock = host.socket(family)
    sock.setsockopt(SOL_SOCKET, SO_ZEROCOPY, 1)
    sock.connect(to)
    return sock


def test_the_option(host: Any) -> None:
    sock = host.socket(AF_INET)
    assert sock.getsockopt(SOL_SOCKET, SO_ZEROCOPY) == 0
    assert [outcome(sock.setsockopt, SOL_SOCKET, SO_ZEROCOPY, value) for value in (2, -1, 1)] == [
        "EINVAL", "EINVAL", None,
    ]  # fmt: skip
    assert sock.getsockopt(SOL_SOCKET, SO_ZEROCOPY) == 1


def test_without_the_option_the_flag_means_nothing(host: Any) -> None:
    sock = host.socket(AF_INET)
    assert sock.sendto(b"x", MSG_ZEROCOPY, TO) == 1
    assert ranges(sock) == []


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_calls_that_follow_each_other_are_one_range(host: Any, family: int) -> None:
    sock = zerocopy(host, family, TO if family == AF_INET else (PEER6, 9))
    sock.send(b"x")
    assert ranges(sock) == []
    sock.send(b"x", MSG_ZEROCOPY)
    assert sock.poll() & POLLERR
    assert sock.getsockopt(SOL_SOCKET, 4) == 0
    assert ranges(sock) == [(0, 0)]
    for data in (b"x", b"", b"y" * 3000):
        sock.send(data, MSG_ZEROCOPY)
    assert ranges(sock) == [(1, 3)]
    assert struct.unpack("9I", sock.getsockopt(SOL_SOCKET, 55, 36))[0] == 0


def test_every_call_to_a_corked_datagram_counts(host: Any) -> None:
    sock = zerocopy(host)
    sock.send(b"a", MSG_ZEROCOPY | MSG_MORE)
    assert ranges(sock) == []
    sock.send(b"b", MSG_ZEROCOPY)
    assert ranges(sock) == [(0, 1)]
    assert len(host.sent()) == 1


def test_a_call_that_fails_has_no_number(host: Any) -> None:
    sock = zerocopy(host)
    assert outcome(sock.send, bytes(70_000), MSG_ZEROCOPY) == "EMSGSIZE"
    sock.send(b"x", MSG_ZEROCOPY)
    assert ranges(sock) == [(0, 0)]


def test_recverr_off_purges_errors_only(host: Any) -> None:
    sock = zerocopy(host)
    sock.setsockopt(SOL_IP, 11, 1)
    sock.send(b"x")
    host.inject(answer(host.sent()[0], 3, 3, 0))
    sock.getsockopt(SOL_SOCKET, 4)
    sock.send(b"x", MSG_ZEROCOPY)
    sock.setsockopt(SOL_IP, 11, 0)
    assert ranges(sock) == [(0, 0)]


# -- transmit timestamps -----------------------------------------------------------------------


def stamp(got: Any) -> tuple[int, int, int]:
    """(when, which moment, key) of an entry without payload."""
    data, ((_, name, times), (_, _, error)) = got
    assert (data, name) == (b"", SO_TIMESTAMPING)
    errno, origin, _, _, _, info, key = struct.unpack_from("=IBBBBII", error)
    assert (errno, origin) == (ENOMSG, 4)
    seconds, nanoseconds, *hardware = struct.unpack("6q", times)
    assert hardware == [0] * 4
    return seconds * 10**9 + nanoseconds, info, key


def test_when_datagrams_left(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | SCHED | SOFTWARE | OPT_ID | TSONLY)
    sock.sendto(b"one", TO)
    sock.sendto(b"two", TO)
    assert sock.poll() & POLLERR
    assert sock.getsockopt(SOL_SOCKET, 4) == 0
    stamps = [stamp(entry(sock)) for _ in range(4)]
    assert [found[1:] for found in stamps] == [(1, 0), (0, 0), (1, 1), (0, 1)]
    assert [found[0] for found in stamps] == sorted(found[0] for found in stamps)
    assert entry(sock) == "EAGAIN"


@pytest.mark.parametrize("size", [3, 3000])
def test_the_packet_comes_along(host: Any, size: int) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | SOFTWARE)
    sock.sendto(b"x" * size, TO)
    packet = host.sent()[0]
    data, control = entry(sock)
    assert (data[:20], data[28:]) == (packet[:20], packet[28:])
    assert [message[1] for message in control] == [SO_TIMESTAMPING, 11]
    assert control[1][2][16:] == bytes(16)
    assert entry(sock) == "EAGAIN"


def test_over_ipv6_it_names_the_source(host: Any) -> None:
    sock = host.socket(AF_INET6)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | SOFTWARE | OPT_ID)
    sock.sendto(b"abc", (PEER6, 9))
    sock.sendto(b"abc", ("::ffff:" + PEER4, 9))
    six, four = entry(sock)[1][1][2], entry(sock)[1][1][2]
    assert (six[24:40], four[24:40]) == (ip6(US6), ip6("::ffff:" + US4))
    assert (six[12:16], four[12:16]) == (struct.pack("I", 0), struct.pack("I", 1))


@pytest.mark.parametrize("v6", [False, True])
def test_packet_info_names_it_over_ipv4(host: Any, v6: bool) -> None:
    """E-45."""
    sock = host.socket(AF_INET6 if v6 else AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | OPT_CMSG | OPT_ID)
    sock.setsockopt(SOL_IP, 8, 1)  # IP_PKTINFO
    sock.sendto(b"abc", ("::ffff:" + PEER4 if v6 else PEER4, 9))
    info = entry(sock)[1][0][2]
    assert info == struct.pack("i", IFINDEX) + (bytes(4) if v6 else ip4(US4)) + ip4(PEER4)


def test_a_control_message_asks_for_one_datagram(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, SOFTWARE | OPT_ID | TSONLY)
    sock.sendto(b"x", TO)
    assert entry(sock) == "EAGAIN"
    wanted = [(SOL_SOCKET, SO_TIMESTAMPING, struct.pack("I", TX))]
    sock.sendmsg([b"x"], wanted, 0, TO)
    assert stamp(entry(sock))[1:] == (0, 0)
    for data in (struct.pack("I", SOFTWARE), b"\0"):
        bad = [(SOL_SOCKET, SO_TIMESTAMPING, data)]
        assert outcome(sock.sendmsg, [b"x"], bad, 0, TO) == "EINVAL"


def test_without_software_stamps_there_is_no_time(host: Any) -> None:
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | TSONLY)
    sock.sendto(b"x", TO)
    assert [message[1] for message in entry(sock)[1]] == [11]


@pytest.mark.parametrize(
    ("flags", "result"),
    [
        (0, 0),
        (RX | SOFTWARE, RX | SOFTWARE),
        (1 << 17, 1 << 17),
        (1 << 20, "EINVAL"),
        (1 << 16, "EINVAL"),
        (1 << 15, "ENOTSUP"),
        (1 << 12, "EINVAL"),
    ],
)
def test_flags(host: Any, flags: int, result: int | str) -> None:
    sock = host.socket(AF_INET)
    code = outcome(sock.setsockopt, SOL_SOCKET, SO_TIMESTAMPING, flags)
    value = struct.unpack("II", sock.getsockopt(SOL_SOCKET, SO_TIMESTAMPING, 8))
    assert (code, value) == ((result, (0, 0)) if isinstance(result, str) else (None, (result, 0)))


# -- receive timestamps ------------------------------------------------------------------------


def received(host: Any, *options: tuple[int, int]) -> list[tuple[int, int, int]]:
    """The control messages of a datagram: (level, type, length)."""
    sock = host.socket(AF_INET)
    sock.bind(("", 2000))
    for name, value in options:
        sock.setsockopt(SOL_SOCKET, name, value)
    host.inject(udp4(US4, 2000, b"hi"))
    control = sock.recvmsg(100, 500)[1]
    sock.close()
    return [(level, name, len(data)) for level, name, data in control]


def test_when_datagrams_came(host: Any) -> None:
    assert received(host, (SO_TIMESTAMPING, RX)) == []
    assert received(host, (SO_TIMESTAMPING, RX | SOFTWARE)) == [(1, SO_TIMESTAMPING, 48)]
    assert received(host, (SO_TIMESTAMPING, RX | SOFTWARE), (SO_TIMESTAMPNS, 1)) == [
        (1, SO_TIMESTAMPNS, 16), (1, SO_TIMESTAMPING, 48),
    ]  # fmt: skip
    assert received(host, (SO_TIMESTAMPING_NEW, RX | SOFTWARE)) == [(1, SO_TIMESTAMPING_NEW, 48)]
    assert received(host, (SO_TIMESTAMPING_NEW, RX | SOFTWARE), (SO_TIMESTAMP, 1)) == [
        (1, SO_TIMESTAMP, 16), (1, SO_TIMESTAMPING, 48),
    ]  # fmt: skip


# -- behind a slow device ------------------------------------------------------------------------


def test_notices_wait_for_the_device() -> None:
    host = OurHost()
    stack, now = host.stack, [0]
    fifo = Fifo(
        host.dev, lambda: now[0], stack.deadlines, stack.handle_tx_done, rate=1000, limit=50
    )
    host.dev = fifo  # type: ignore[assignment]
    stack.add_device(fifo)
    stack.del_address(US4)
    stack.add_address(fifo, f"{US4}/24")
    sock = zerocopy(host)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | SOFTWARE | OPT_ID | TSONLY)
    for _ in range(3):  # 128 bytes each on the wire: 128 ms
        sock.send(bytes(100), MSG_ZEROCOPY)
    kinds = []
    for at in range(0, 500, 100):
        now[0] = at * 1_000_000
        stack.handle_timeout(now[0])
        while (got := entry(sock)) != "EAGAIN":
            kinds.append((at, len(got[1])))
    assert kinds == [(0, 2), (0, 1), (200, 2), (200, 1), (300, 2), (300, 1)]


def test_a_stamp_is_charged_as_the_first_fragment(host: Any) -> None:
    """E-40: it stands in the error queue with that, and no more."""
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | SOFTWARE)
    for size, charge in ((100, 832), (1472, 2304), (8000, 2304)):
        sock.sendto(bytes(size), TO)
        assert struct.unpack("9I", sock.getsockopt(SOL_SOCKET, 55, 36))[0] == charge
        sock.recvmsg(9000, 500, MSG_ERRQUEUE)


@pytest.mark.parametrize("v6", [False, True])
def test_a_stamped_packet_on_loopback_has_an_ethernet_header(host: Any, v6: bool) -> None:
    """B-15, E-40: and what the socket is told of it is right all the same."""
    sock = host.socket(AF_INET6 if v6 else AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, TX | SOFTWARE | 1 << 10)
    sock.setsockopt(SOL_IPV6 if v6 else SOL_IP, 49 if v6 else 8, 1)  # packet info
    sock.sendto(b"x" * 9, ("::1", 9, 0, 0) if v6 else ("127.0.0.1", 9))
    data, control = entry(sock)
    kind, first = (b"\x86\xdd", 0x60) if v6 else (b"\x08\0", 0x45)
    assert data[:14] == bytes(12) + kind
    assert (data[14], len(data)) == (first, 14 + (40 if v6 else 20) + 8 + 9)
    info = next(value for level, name, value in control if (level, name) in ((0, 8), (41, 50)))
    assert (ip6("::1") if v6 else bytes((127, 0, 0, 1))) in info
