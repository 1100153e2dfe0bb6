"""ICMP errors, the pending errno and the error queue."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.sock.fakes import LOCAL4, LOCAL6, PEER4, PEER6
from tests.udp.helpers import MSG_DONTWAIT, Host, data_of, datagram, fails, queued, recv, send
from ustack.sock.icmp import IcmpError
from ustack.sock.options import IP_RECVERR, SO_ERROR, SOL_IP, SOL_IPV6, SOL_SOCKET
from ustack.sock.sock import AF_INET6, MSG_ERRQUEUE, PMTUDISC_DONT
from ustack.sock.wait import POLLERR
from ustack.udp.sock import UdpSock

ROUTER = b"\xc0\0\x02\x02"
ROUTER6 = b"\xfe\x80" + bytes(13) + b"\x01"


def icmp(
    sk: UdpSock, type_: int, code: int, info: int = 0, dport: int = 5000, payload: bytes = b""
) -> IcmpError:
    """An error about a datagram of `sk` to port `dport` of the peer."""
    ports = struct.pack(">HHHH", sk.sport, dport, 8 + len(payload), 0)
    return IcmpError(
        4, type_, code, info, ROUTER, LOCAL4, PEER4, 17, ports + payload, 0
    )  # fmt: skip


FATAL = {
    (3, 2): errno.ENOPROTOOPT,
    (3, 3): errno.ECONNREFUSED,
    (3, 4): errno.EMSGSIZE,
    (3, 6): errno.ENETUNREACH,
    (3, 9): errno.ENETUNREACH,
    (3, 13): errno.EHOSTUNREACH,
    (12, 0): errno.EPROTO,
}


@pytest.mark.parametrize("message", [*FATAL, (3, 0), (3, 1), (3, 5), (11, 0), (4, 0)])
def test_which_errors_reach_a_connected_socket(message: tuple[int, int]) -> None:
    host = Host()
    sk = host.connected()
    host.icmp_err(icmp(sk, *message, info=1400))
    assert sk.err == FATAL.get(message, 0)
    assert bool(sk.prot.poll(sk, 0) & POLLERR) == (message in FATAL)
    assert host.fake.pmtu_updates == ([(PEER4, 1400)] if message == (3, 4) else [])


def test_unconnected_socket_hears_of_none() -> None:
    host = Host()
    sk = host.bound()
    host.icmp_err(icmp(sk, 3, 3))
    assert sk.err == 0


def test_error_about_nobody_is_counted() -> None:
    host = Host()
    sk = host.connected()
    host.icmp_err(icmp(sk, 3, 3, dport=5001))  # another peer port
    assert sk.err == 0
    assert host.net.mib["IcmpInErrors"] == 1


def test_pending_error_is_told_once_and_before_data() -> None:
    host = Host()
    sk = host.connected()
    host.rcv(datagram(b"data", dport=sk.sport))
    host.icmp_err(icmp(sk, 3, 3))
    host.prot.connect(sk, (PEER4, 5000), 0)  # leaves it pending
    fails(errno.ECONNREFUSED, recv, sk)
    assert queued(sk) == [b"data"]
    host.icmp_err(icmp(sk, 3, 3))
    fails(errno.ECONNREFUSED, send, sk, b"x")
    assert not host.fake.sent
    host.icmp_err(icmp(sk, 3, 3))
    host.icmp_err(icmp(sk, 3, 2))  # the latest wins
    taken = sk.prot.getsockopt(sk, SOL_SOCKET, SO_ERROR, 4, 0)
    assert struct.unpack("i", taken)[0] == errno.ENOPROTOOPT
    assert send(sk, b"x") == 1


def test_frag_needed_is_learned_but_no_error_without_pmtu_discovery() -> None:
    host = Host()
    sk = host.connected()
    sk.pmtudisc = PMTUDISC_DONT
    host.icmp_err(icmp(sk, 3, 4, info=1400))
    assert sk.err == 0
    assert [mtu for _, mtu in host.fake.pmtu_updates] == [1400]


def test_error_queue() -> None:
    host = Host()
    sk = host.bound()
    sk.prot.setsockopt(sk, SOL_IP, IP_RECVERR, struct.pack("i", 1), 0)
    host.icmp_err(icmp(sk, 3, 3, payload=b"quoted"))
    host.icmp_err(icmp(sk, 11, 0, payload=b"later"))
    assert sk.err == errno.EHOSTUNREACH
    assert sk.rmem_alloc == 2 * 832
    msg = recv(sk, 3, MSG_ERRQUEUE)
    assert data_of(msg) == b"quo"
    assert msg.addr == (PEER4, 5000)
    assert msg.flags == MSG_ERRQUEUE | 0x20
    ((level, type_, data),) = msg.control
    assert (level, type_) == (SOL_IP, IP_RECVERR)
    assert data.hex() == "6f00000002030300" + "00000000" * 2 + "02000000c0000202" + "00" * 8
    assert sk.err == errno.EHOSTUNREACH  # that of the next entry
    assert sk.prot.poll(sk, 0) & POLLERR
    assert data_of(recv(sk, 100, MSG_ERRQUEUE)) == b"later"
    assert sk.err == 0
    assert sk.rmem_alloc == 0
    assert not sk.prot.poll(sk, 0) & POLLERR
    fails(errno.EAGAIN, recv, sk, 100, MSG_ERRQUEUE)


def test_error_queue_is_bounded_and_purged() -> None:
    host = Host()
    sk = host.bound()
    sk.recverr = True
    sk.rcvbuf = 4000
    for _ in range(9):
        host.icmp_err(icmp(sk, 3, 3))
    assert len(sk.error_queue or ()) == 4
    sk.prot.setsockopt(sk, SOL_IP, IP_RECVERR, struct.pack("i", 0), 0)
    assert sk.rmem_alloc == 0
    assert not sk.error_queue


def test_ipv6_errors() -> None:
    host = Host()
    sk = host.connected(addr=PEER6, family=AF_INET6)
    ports = struct.pack(">HHHH", sk.sport, 5000, 12, 0) + b"data"

    def icmp6(type_: int, code: int, info: int = 0) -> IcmpError:
        return IcmpError(6, type_, code, info, ROUTER6, LOCAL6, PEER6, 17, ports, 0)

    host.icmp_err(icmp6(1, 0))
    assert sk.err == 0
    host.icmp_err(icmp6(1, 4))
    fails(errno.ECONNREFUSED, recv, sk)
    host.icmp_err(icmp6(2, 0, 1300))
    fails(errno.EMSGSIZE, send, sk, b"x")
    assert host.fake.pmtu_updates == [(PEER6, 1300)]
    sk.recverr6 = True
    host.icmp_err(icmp6(1, 4))
    msg = recv(sk, 100, MSG_ERRQUEUE | MSG_DONTWAIT)
    ((level, type_, data),) = msg.control
    assert (level, type_, len(data)) == (SOL_IPV6, 25, 44)
    assert data[:8].hex() == "6f00000003010400"
    assert data[24:40] == ROUTER6


def test_garbage_quotes_do_no_harm() -> None:
    host = Host()
    host.icmp_err(IcmpError(4, 255, 255, 0, ROUTER, LOCAL4, PEER4, 17, bytes(8), 0))
    host.icmp_err(IcmpError(6, 255, 255, 0, ROUTER6, LOCAL6, PEER6, 17, bytes(8), 0))
    assert host.net.mib["Icmp6InErrors"] == 1
