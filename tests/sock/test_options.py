"""The common option tables, against what Linux 6.18 answered."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.sock.fakes import FakeNet
from ustack.sock import options as o
from ustack.sock.deadlines import NEVER
from ustack.sock.sock import AF_INET, AF_INET6, PACING_UNLIMITED, SOCK_DGRAM, SOCK_STREAM, Sock

INT_MAX = 2**31 - 1


def sock(family: int = AF_INET, type_: int = SOCK_DGRAM) -> Sock:
    return Sock(FakeNet(), family, type_, 17)


def put(sk: Sock, level: int, name: int, value: int | bytes) -> int:
    """Set it; the errno, 0 for success."""
    data = struct.pack("i", value) if isinstance(value, int) else value
    try:
        if not o.set_common(sk, level, name, data, 0):
            raise o.unknown_option(sk, level, False)
    except OSError as why:
        return why.errno or -1
    return 0


def get(sk: Sock, level: int, name: int, optlen: int = 4) -> bytes:
    value = o.get_common(sk, level, name, optlen, 0)
    if value is None:
        raise o.unknown_option(sk, level, True)
    return value


def get_int(sk: Sock, level: int, name: int) -> int:
    return int(struct.unpack("i", get(sk, level, name))[0])


EINVAL = errno.EINVAL
# (level, name, family) -> {value set: value then read, or the errno as a string}
RANGES: list[tuple[int, int, int, dict[int, int | str]]] = [
    (o.SOL_SOCKET, o.SO_REUSEADDR, AF_INET, {0: 0, 1: 1, -1: 1, 7: 1}),
    (o.SOL_SOCKET, o.SO_SNDBUF, AF_INET, {0: 4608, 5000: 10000, -1: 8388608}),
    (o.SOL_SOCKET, o.SO_RCVBUF, AF_INET, {0: 2304, 5000: 10000, -1: 8388608}),
    (o.SOL_SOCKET, o.SO_RCVLOWAT, AF_INET, {0: 1, 9: 9, -1: INT_MAX}),
    (o.SOL_SOCKET, o.SO_PEEK_OFF, AF_INET, {0: 0, 9: 9, -1: -1}),
    (o.SOL_SOCKET, o.SO_TYPE, AF_INET, {1: "ENOPROTOOPT"}),
    (o.SOL_SOCKET, o.SO_SNDLOWAT, AF_INET, {1: "ENOPROTOOPT"}),
    (o.SOL_SOCKET, 200, AF_INET, {1: "ENOPROTOOPT"}),
    (o.SOL_IP, o.IP_TTL, AF_INET, {0: "EINVAL", 1: 1, 255: 255, 256: "EINVAL", -1: 64}),
    (o.SOL_IP, o.IP_TOS, AF_INET, {0: 0, 255: 255, 256: 0, -1: 255}),
    (o.SOL_IP, o.IP_MTU_DISCOVER, AF_INET, {0: 0, 5: 5, 6: "EINVAL", -1: "EINVAL"}),
    (o.SOL_IP, o.IP_MINTTL, AF_INET6, {0: 0, 255: 255, 256: "EINVAL", -1: "EINVAL"}),
    (o.SOL_IPV6, o.IPV6_UNICAST_HOPS, AF_INET6, {0: 0, 255: 255, 256: "EINVAL", -1: 64}),
    (o.SOL_IPV6, o.IPV6_TCLASS, AF_INET6, {0: 0, 255: 255, 256: "EINVAL", -1: 0}),
    (o.SOL_IPV6, o.IPV6_V6ONLY, AF_INET6, {0: 0, 9: 1}),
    (o.SOL_IPV6, o.IPV6_V6ONLY, AF_INET, {1: "ENOPROTOOPT"}),
    (99, 1, AF_INET, {1: "ENOPROTOOPT"}),
]


@pytest.mark.parametrize(("level", "name", "family", "expected"), RANGES)
def test_ranges(level: int, name: int, family: int, expected: dict[int, int | str]) -> None:
    for value, result in expected.items():
        sk = sock(family)
        err = put(sk, level, name, value)
        if isinstance(result, str):
            assert err == getattr(errno, result), value
        else:
            assert err == 0, value
            assert get_int(sk, level, name) == result, value


def test_short_values() -> None:
    sk, sk6 = sock(), sock(AF_INET6)
    assert put(sk, o.SOL_SOCKET, o.SO_REUSEADDR, b"\1\0\0") == EINVAL
    assert put(sk, o.SOL_SOCKET, 200, b"") == EINVAL  # before the name is looked at
    assert put(sk, o.SOL_IP, o.IP_TOS, b"\5\0\0") == 0
    assert sk.tos == 5
    assert put(sk, o.SOL_IP, o.IP_TOS, b"") == 0
    assert sk.tos == 0
    assert put(sk, o.SOL_IP, o.IP_TTL, b"") == EINVAL
    assert put(sk6, o.SOL_IPV6, o.IPV6_TCLASS, b"\5") == EINVAL


def test_short_buffers() -> None:
    sk, sk6 = sock(), sock(AF_INET6)
    assert get(sk, o.SOL_SOCKET, o.SO_SNDBUF, 2) == b"\x00\x40"
    assert get(sk, o.SOL_SOCKET, o.SO_SNDBUF, 0) == b""
    assert get(sk, o.SOL_IP, o.IP_TTL, 2) == b"\x40"  # one byte where it fits one
    assert get(sk6, o.SOL_IPV6, o.IPV6_UNICAST_HOPS, 2) == b"\x40\x00"
    assert len(get(sk, o.SOL_SOCKET, o.SO_MEMINFO, 64)) == 36
    assert len(get(sk, o.SOL_SOCKET, o.SO_LINGER, 4)) == 4
    with pytest.raises(OSError) as why:
        get(sk, o.SOL_SOCKET, o.SO_SNDBUF, -1)
    assert why.value.errno == EINVAL


@pytest.mark.parametrize(
    ("family", "level", "name", "expected"),
    [
        (AF_INET, 99, 1, errno.EOPNOTSUPP),
        (AF_INET, o.SOL_IPV6, o.IPV6_V6ONLY, errno.EOPNOTSUPP),
        (AF_INET, o.SOL_IP, 9, errno.ENOPROTOOPT),
        (AF_INET, o.SOL_SOCKET, 200, errno.ENOPROTOOPT),
        (AF_INET, o.SOL_SOCKET, o.SO_SNDBUFFORCE, errno.ENOPROTOOPT),
        (AF_INET6, 99, 1, errno.ENOPROTOOPT),
    ],
)
def test_unknown_when_read(family: int, level: int, name: int, expected: int) -> None:
    with pytest.raises(OSError) as why:
        get(sock(family), level, name)
    assert why.value.errno == expected


def test_error_is_taken() -> None:
    sk = sock()
    sk.err, sk.err_soft = errno.ECONNREFUSED, errno.EHOSTUNREACH
    assert get_int(sk, o.SOL_SOCKET, o.SO_ERROR) == errno.ECONNREFUSED
    assert get_int(sk, o.SOL_SOCKET, o.SO_ERROR) == errno.EHOSTUNREACH
    assert get_int(sk, o.SOL_SOCKET, o.SO_ERROR) == 0


def test_timeouts() -> None:
    sk = sock()
    assert put(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, struct.pack("qq", 3, 5)) == 0
    assert sk.rcvtimeo == 3_000_005_000
    assert get(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, 16) == struct.pack("qq", 3, 5)
    sk.net.sysctl.hz = 250
    assert put(sk, o.SOL_SOCKET, o.SO_SNDTIMEO, struct.pack("qq", 3, 5)) == 0
    assert get(sk, o.SOL_SOCKET, o.SO_SNDTIMEO, 16) == struct.pack("qq", 3, 4000)
    assert put(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, struct.pack("qq", 0, 1_000_000)) == errno.EDOM
    assert put(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, 1) == EINVAL
    assert put(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, struct.pack("qq", -1, 0)) == 0
    assert sk.rcvtimeo == 0
    assert put(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, bytes(16)) == 0
    assert sk.rcvtimeo == NEVER
    assert get(sk, o.SOL_SOCKET, o.SO_RCVTIMEO, 16) == bytes(16)


def test_linger() -> None:
    sk = sock()
    assert put(sk, o.SOL_SOCKET, o.SO_LINGER, 1) == EINVAL
    assert put(sk, o.SOL_SOCKET, o.SO_LINGER, struct.pack("ii", 1, 5)) == 0
    assert (sk.linger, sk.linger_time) == (True, 5_000_000_000)
    assert get(sk, o.SOL_SOCKET, o.SO_LINGER, 8) == struct.pack("ii", 1, 5)


def test_meminfo() -> None:
    sk = sock()
    sk.rmem_alloc, sk.wmem_alloc, sk.wmem_queued, sk.drops = 1, 2, 3, 4
    values = struct.unpack("9I", get(sk, o.SOL_SOCKET, o.SO_MEMINFO, 36))
    assert values == (1, 212992, 2, 212992, 0, 3, 0, 0, 4)


def test_tcp_keeps_its_ecn_bits() -> None:
    sk = sock(type_=SOCK_STREAM)
    sk.tos = 2
    assert put(sk, o.SOL_IP, o.IP_TOS, 0xFF) == 0
    assert sk.tos == 0xFE


def test_mtu_needs_a_connection() -> None:
    sk = sock()
    with pytest.raises(OSError) as why:
        get(sk, o.SOL_IP, o.IP_MTU)
    assert why.value.errno == errno.ENOTCONN
    sk.daddr = b"\x0a\x09\0\x01"
    sk.dst = sk.net.route(sk.daddr)
    assert get_int(sk, o.SOL_IP, o.IP_MTU) == 1500
    assert put(sk, o.SOL_IP, o.IP_MTU, 1400) == errno.ENOPROTOOPT


def test_v6only_is_fixed_by_binding() -> None:
    sk = sock(AF_INET6)
    sk.sport = 7
    assert put(sk, o.SOL_IPV6, o.IPV6_V6ONLY, 1) == EINVAL


def test_privileges_are_configurable() -> None:
    sk = sock()
    for name in (o.SO_MARK, o.SO_SNDBUFFORCE, o.SO_RCVBUFFORCE):
        assert put(sk, o.SOL_SOCKET, name, 100_000_000) == 0
    assert (sk.mark, sk.sndbuf, sk.rcvbuf) == (100_000_000, 200_000_000, 200_000_000)
    sk.net.sysctl.cap_net_admin = False
    for name in (o.SO_MARK, o.SO_SNDBUFFORCE, o.SO_RCVBUFFORCE, o.SO_PRIORITY):
        assert put(sk, o.SOL_SOCKET, name, 100) == errno.EPERM
    assert put(sk, o.SOL_SOCKET, o.SO_PRIORITY, 6) == 0


def test_a_larger_send_buffer_wakes_writers() -> None:
    sk = sock()
    sk.wmem_alloc = 10_000
    woken: list[int] = []

    class Watcher:
        exclusive = False

        def wake(self, mask: int) -> bool:
            woken.append(sk.sndbuf)
            return True

    sk.wait_queue.add(Watcher())
    assert put(sk, o.SOL_SOCKET, o.SO_SNDBUF, 6_000) == 0
    assert woken == []
    assert put(sk, o.SOL_SOCKET, o.SO_SNDBUF, 10_000) == 0
    assert woken == [20_000]


def test_pacing_rate() -> None:
    sk = sock()
    assert get(sk, o.SOL_SOCKET, o.SO_MAX_PACING_RATE, 8) == b"\xff" * 8
    assert put(sk, o.SOL_SOCKET, o.SO_MAX_PACING_RATE, struct.pack("Q", 1 << 33)) == 0
    assert sk.max_pacing_rate == 1 << 33
    assert get(sk, o.SOL_SOCKET, o.SO_MAX_PACING_RATE, 4) == b"\xff" * 4
    assert put(sk, o.SOL_SOCKET, o.SO_MAX_PACING_RATE, -1) == 0
    assert sk.max_pacing_rate == PACING_UNLIMITED
    assert put(sk, o.SOL_SOCKET, o.SO_MAX_PACING_RATE, 0) == 0
    assert get(sk, o.SOL_SOCKET, o.SO_MAX_PACING_RATE, 8) == bytes(8)
