"""The bind conflict matrix and the searches for a free port."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from tests.sock.fakes import FakeNet
from ustack.sock.ports import PortTable
from ustack.wire.packet import IPPROTO_TCP, IPPROTO_UDP

AF_INET, AF_INET6 = 2, 10
A, B = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
A6 = bytes(15) + b"\x07"


@dataclass(eq=False)
class Owner:
    family: int = AF_INET
    reuse: bool = False
    reuseport: bool = False
    v6only: bool = False
    listening: bool = False
    bindtodevice: int = 0
    sport: int = 0
    rcv_saddr: bytes = b""
    saddr: bytes = A
    daddr: bytes = B
    dport: int = 80
    port_range: int = 0


def table(kind: int = IPPROTO_TCP, low: int = 32768, high: int = 60999) -> PortTable:
    net = FakeNet()
    net.sysctl.ip_local_port_range = (low, high)
    return PortTable(net, kind)


def refused(ports: PortTable, sk: Owner, addr: bytes, port: int) -> int:
    """The errno that bind raises, 0 if none."""
    try:
        ports.bind(sk, addr, port)
    except OSError as why:
        return why.errno or 0
    return 0


OPTIONS = {"none": (False, False), "reuse": (True, False), "reuseport": (False, True)}


@pytest.mark.parametrize("kind", [IPPROTO_TCP, IPPROTO_UDP])
@pytest.mark.parametrize("state", ["bound", "listening"])
@pytest.mark.parametrize("where", ["same", "wildcard", "other"])
@pytest.mark.parametrize("first", OPTIONS)
@pytest.mark.parametrize("second", OPTIONS)
def test_conflict_matrix(kind: int, state: str, where: str, first: str, second: str) -> None:
    ports = table(kind)
    holder = Owner(reuse=OPTIONS[first][0], reuseport=OPTIONS[first][1])
    ports.bind(holder, A, 500)
    holder.listening = state == "listening" and kind == IPPROTO_TCP
    sk = Owner(reuse=OPTIONS[second][0], reuseport=OPTIONS[second][1])
    addr = {"same": A, "wildcard": b"", "other": B}[where]
    agreed = first == second and (
        first == "reuseport" or (first == "reuse" and not holder.listening)
    )
    expected = 0 if where == "other" or agreed else errno.EADDRINUSE
    assert refused(ports, sk, addr, 500) == expected
    assert sk.sport == (0 if expected else 500)
    assert sk.rcv_saddr == (b"" if expected else addr)


@pytest.mark.parametrize("v6only", [False, True])
@pytest.mark.parametrize("v6_first", [False, True])
@pytest.mark.parametrize("addr4", [b"", A])
def test_dual_stack_wildcard(v6only: bool, v6_first: bool, addr4: bytes) -> None:
    ports = table()
    pair = [(Owner(AF_INET6, v6only=v6only), b""), (Owner(), addr4)]
    if not v6_first:
        pair.reverse()
    assert refused(ports, *pair[0], 500) == 0
    assert refused(ports, *pair[1], 500) == (0 if v6only else errno.EADDRINUSE)


def test_wildcard_of_one_family_leaves_addresses_of_the_other() -> None:
    ports = table()
    ports.bind(Owner(), b"", 500)
    assert refused(ports, Owner(AF_INET6, v6only=True), A6, 500) == 0
    assert refused(ports, Owner(AF_INET6), A, 500) == errno.EADDRINUSE  # mapped


def test_devices_keep_owners_apart() -> None:
    ports = table()
    ports.bind(Owner(bindtodevice=1), b"", 500)
    assert refused(ports, Owner(bindtodevice=2), b"", 500) == 0
    assert refused(ports, Owner(bindtodevice=1), b"", 500) == errno.EADDRINUSE
    assert refused(ports, Owner(), b"", 500) == errno.EADDRINUSE


def test_only_one_of_two_reuseaddr_sockets_may_listen() -> None:
    ports = table()
    first, second = Owner(reuse=True), Owner(reuse=True)
    ports.bind(first, b"", 500)
    ports.bind(second, b"", 500)
    ports.rebind_check(first)
    first.listening = True
    with pytest.raises(OSError) as why:
        ports.rebind_check(second)
    assert why.value.errno == errno.EADDRINUSE


def test_privileged_port() -> None:
    net = FakeNet()
    net.sysctl.ip_unprivileged_port_start = 1024
    ports = PortTable(net, IPPROTO_TCP)
    assert refused(ports, Owner(), b"", 1023) == errno.EACCES
    assert refused(ports, Owner(), b"", 1024) == 0


def test_release_and_inherit() -> None:
    ports = table()
    listener = Owner()
    ports.bind(listener, b"", 500)
    child = Owner(rcv_saddr=A, sport=500)
    ports.inherit(child, listener)
    assert list(ports.owners(500)) == [listener, child]
    ports.release(listener)
    ports.release(listener)
    assert refused(ports, Owner(), A, 500) == errno.EADDRINUSE
    assert refused(ports, Owner(), B, 500) == 0
    ports.release(child)
    assert refused(ports, Owner(), A, 500) == 0


def test_bind_zero_starts_with_the_odd_ports_then_takes_the_rest() -> None:
    ports = table(low=40000, high=40003)
    taken = [Owner() for _ in range(4)]
    for sk in taken:
        ports.bind(sk, b"", 0)
    assert {sk.sport for sk in taken[:2]} == {40001, 40003}
    assert {sk.sport for sk in taken[2:]} == {40000, 40002}
    assert refused(ports, Owner(), b"", 0) == errno.EADDRINUSE
    assert refused(ports, Owner(reuse=True), b"", 0) == errno.EADDRINUSE


def test_udp_bind_zero_takes_every_port() -> None:
    ports = table(IPPROTO_UDP, low=40000, high=40004)
    taken = [Owner() for _ in range(5)]
    for sk in taken:
        ports.bind(sk, b"", 0)
    assert {sk.sport for sk in taken} == set(range(40000, 40005))
    assert refused(ports, Owner(), b"", 0) == errno.EADDRINUSE
    assert refused(ports, Owner(), A, 0) == errno.EADDRINUSE


def test_connect_prefers_the_even_ports_and_shares_them() -> None:
    ports = table(low=40000, high=40003)
    pairs: set[tuple[bytes, int]] = set()

    def connect(daddr: bytes) -> int:
        port = ports.connect_port(Owner(daddr=daddr), lambda p: (daddr, p) not in pairs)
        pairs.add((daddr, port))
        return port

    got = [connect(A) for _ in range(4)]
    assert set(got[:2]) == {40000, 40002}
    assert set(got[2:]) == {40001, 40003}
    with pytest.raises(OSError) as why:
        connect(A)
    assert why.value.errno == errno.EADDRNOTAVAIL
    assert {connect(B) for _ in range(4)} == set(got)  # another 4-tuple shares them


def test_connect_never_joins_a_bound_port() -> None:
    ports = table(low=40000, high=40001)
    bound = Owner(reuse=True)
    ports.bind(bound, A, 40000)
    assert ports.connect_port(Owner(), lambda port: True) == 40001
    ports.release(bound)
    assert ports.connect_port(Owner(), lambda port: True) == 40000


def test_connect_is_cheap_with_most_ports_in_use() -> None:
    """20,000 live connections to one destination: a further one looks at few ports."""
    ports = table()
    used: set[int] = set()
    looked = 0

    def is_unique(port: int) -> bool:
        nonlocal looked
        looked += 1
        return port not in used

    for _ in range(25_000):
        used.add(ports.connect_port(Owner(), is_unique))
    assert len(used) == 25_000
    assert looked < 25_000 * 70
