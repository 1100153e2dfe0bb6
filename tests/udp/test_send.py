"""Datagrams out: order of errors, addresses, accounting, cork, segmentation."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.sock.fakes import LOCAL4, LOCAL6, PEER4, PEER6, SUBNET_BROADCAST
from tests.udp.helpers import (
    MSG_DONTWAIT,
    MSG_MORE,
    Host,
    data_of,
    datagram,
    fails,
    is_op,
    queued,
    recv,
    send,
)
from ustack.sock.options import SO_BROADCAST, SO_SNDBUF, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_UDP
from ustack.sock.sock import AF_INET6, PMTUDISC_DO, PMTUDISC_PROBE, Sock
from ustack.sock.wait import POLLOUT, Wait
from ustack.udp.sock import UdpSock
from ustack.wire.checksum import fold, partial_sum, pseudo_sum
from ustack.wire.packet import DROPPED, IPPROTO_UDP, QUEUED

DEST = (PEER4, 5000)
OFF_LINK = b"\xc0\0\x02\x01"


def setopt(sk: Sock, level: int, name: int, value: int) -> None:
    sk.prot.setsockopt(sk, level, name, struct.pack("i", value), 0)


# -- errors and addresses ----------------------------------------------------------------------


def test_order_of_errors() -> None:
    host = Host()
    sk = host.create_sock(2)
    big = bytes(65536)
    fails(errno.EMSGSIZE, send, sk, big, flags=1)  # before MSG_OOB
    assert sk.sport  # bound before anything is looked at
    fails(errno.EOPNOTSUPP, send, sk, b"x", flags=1)  # before the missing address
    fails(errno.EDESTADDRREQ, send, sk, b"x")
    fails(errno.EINVAL, send, sk, b"x", (PEER4, 0))
    fails(errno.EAFNOSUPPORT, send, sk, b"x", (PEER6, 1))
    fails(
        errno.EINVAL, send, sk, b"x", (OFF_LINK, 1), ((SOL_IP, 8, bytes(11)),)
    )  # before the route
    fails(errno.ENETUNREACH, send, sk, b"x", (OFF_LINK, 1))
    fails(errno.EACCES, send, sk, b"x", (SUBNET_BROADCAST, 1))
    fails(errno.EACCES, send, sk, b"x", (b"\xff" * 4, 1))
    fails(errno.EMSGSIZE, send, sk, bytes(65508), DEST)
    assert host.net.mib["IpOutNoRoutes"] == 1
    assert not host.fake.sent
    setopt(sk, SOL_SOCKET, SO_BROADCAST, 1)
    assert send(sk, b"x", (SUBNET_BROADCAST, 1)) == 1


def test_ports_exhausted() -> None:
    host = Host()
    host.net.sysctl.ip_local_port_range = (40000, 40000)
    host.bound(0)
    fails(errno.EAGAIN, send, host.create_sock(2), b"x", DEST)
    fails(errno.EAGAIN, host.connected)
    fails(errno.EADDRINUSE, host.bound, 0)


def test_datagram_on_the_wire() -> None:
    host = Host()
    sk = host.bound(7)
    sk.ttl, sk.tos = 9, 0x20
    assert send(sk, b"hello", DEST) == 5
    (sent,) = host.fake.sent
    assert (sent.saddr, sent.daddr, sent.data) == (LOCAL4, PEER4, b"hello")
    assert (sent.ttl, sent.tos, sent.charge) == (9, 0x20, 832)
    assert sent.header == struct.pack(
        ">HHHH", 7, 5000, 13, pseudo_sum(LOCAL4, PEER4, IPPROTO_UDP, 13)
    )
    assert host.net.mib["UdpOutDatagrams"] == 1
    sk.no_check = True
    send(sk, b"hello", DEST)
    assert host.fake.sent[1].header[6:] == b"\0\0"


@pytest.mark.parametrize("size", [0, 1, 64, 1472])
@pytest.mark.parametrize("v6", [False, True])
def test_connected_checksum_verifies(size: int, v6: bool) -> None:
    host = Host()
    sk = host.connected(family=AF_INET6 if v6 else 2, addr=PEER6 if v6 else PEER4)
    data = bytes(range(256)) * 6
    send(sk, data[:size])
    (sent,) = host.fake.sent
    # the field holds the pseudo-header sum; the complement of the whole goes out
    whole = partial_sum(sent.header[:6] + b"\0\0" + sent.data)
    csum = 0xFFFF ^ fold(whole + int.from_bytes(sent.header[6:], "big"))
    host.prot.close(sk, 0)
    echo = host.bound(5000, family=AF_INET6)
    rx = datagram(sent.data, 5000, sent.sport, sent.saddr, sent.daddr, csum=csum or 0xFFFF)
    host.rcv(rx)
    assert queued(echo) == [data[:size]]


def test_wildcard_destination_is_this_host() -> None:
    host = Host()
    send(host.create_sock(2), b"x", (b"", 9))
    send(host.create_sock(AF_INET6), b"x", (b"", 9))
    bound = host.bound(5, LOCAL4)
    send(bound, b"x", (b"", 9))
    loop4, loop6 = b"\x7f\0\0\x01", bytes(15) + b"\x01"
    assert [(s.saddr, s.daddr) for s in host.fake.sent] == [
        (loop4, loop4),
        (loop6, loop6),
        (LOCAL4, LOCAL4),
    ]


def test_mapped_destinations() -> None:
    host = Host()
    sk = host.create_sock(AF_INET6)
    send(sk, b"x", (PEER4, 9))
    assert host.fake.sent[0].saddr == LOCAL4
    host.prot.connect(sk, (PEER4, 9), 0)
    fails(errno.EAFNOSUPPORT, send, sk, b"x", (PEER6, 9))
    six = host.bound(5, LOCAL6, AF_INET6)
    assert six.v6only
    fails(errno.ENETUNREACH, send, six, b"x", (PEER4, 9))
    fails(errno.ENETUNREACH, host.prot.connect, six, (PEER4, 9), 0)


def test_control_messages() -> None:
    host = Host()
    sk = host.create_sock(2)
    pktinfo = struct.pack("i", 0) + LOCAL4 + bytes(4)
    control = ((SOL_IP, 8, pktinfo), (SOL_IP, 2, struct.pack("i", 3)), (SOL_IP, 1, b"\x05"))
    send(sk, b"x", DEST, control)
    assert (host.fake.sent[0].ttl, host.fake.sent[0].tos) == (3, 5)
    elsewhere = struct.pack("i", 0) + OFF_LINK + bytes(4)
    fails(errno.ENETUNREACH, send, sk, b"x", DEST, ((SOL_IP, 8, elsewhere),))
    for bad in (
        (SOL_IP, 2, bytes(4)),
        (SOL_IP, 99, b"x"),
        (SOL_SOCKET, 50, b"x"),
        (SOL_UDP, 9, b"x"),
    ):
        fails(errno.EINVAL, send, sk, b"x", DEST, (bad,))
    assert send(sk, b"x", DEST, ((SOL_IPV6, 50, b"x"), (99, 1, b""))) == 1
    fails(errno.ENOBUFS, send, sk, b"x", DEST, ((99, 1, bytes(200_000)),))


def test_probe_sends_nothing() -> None:
    host = Host()
    sk = host.create_sock(2)
    assert send(sk, b"xyz", DEST, flags=0x10) == 3
    fails(errno.ENETUNREACH, send, sk, b"xyz", (OFF_LINK, 1), flags=0x10)
    assert not host.fake.sent


def test_size_limits() -> None:
    host = Host()
    sk = host.create_sock(2)
    assert send(sk, bytes(65507), DEST) == 65507
    sk.recverr = True
    sk.pmtudisc = PMTUDISC_DO
    host.net.route(PEER4).pmtu = 1400
    assert send(sk, bytes(1372), DEST) == 1372
    fails(errno.EMSGSIZE, send, sk, bytes(1373), DEST)
    (entry,) = sk.error_queue or []
    assert (entry.errno, entry.origin, entry.info, entry.addr) == (
        errno.EMSGSIZE,
        1,
        1400,
        (PEER4, 0),
    )
    sk.pmtudisc = PMTUDISC_PROBE
    assert send(sk, bytes(1472), DEST) == 1472
    fails(errno.EMSGSIZE, send, sk, bytes(1473), DEST)
    six = host.create_sock(AF_INET6)
    assert send(six, bytes(65527), (PEER6, 9)) == 65527
    fails(errno.EMSGSIZE, send, six, bytes(65528), (PEER6, 9))


# -- connect -----------------------------------------------------------------------------------


def test_connect_and_dissolve() -> None:
    host = Host()
    sk = host.connected()
    assert (sk.saddr, sk.rcv_saddr, sk.daddr, sk.dport) == (LOCAL4, LOCAL4, PEER4, 5000)
    port = sk.sport
    host.prot.connect(sk, (PEER4, 5001), 0)
    assert (sk.sport, sk.dport) == (port, 5001)
    host.prot.connect(sk, None, 0)
    assert (sk.saddr, sk.sport, sk.daddr, sk.dport) == (b"", 0, b"", 0)
    assert not host.sockets()
    fails(errno.EDESTADDRREQ, send, sk, b"x")


def test_dissolve_keeps_what_was_bound() -> None:
    host = Host()
    sk = host.bound(7)
    host.prot.connect(sk, DEST, 0)
    host.prot.connect(sk, None, 0)
    assert (sk.rcv_saddr, sk.sport) == (b"", 7)
    host.rcv(datagram(b"x", sport=1234))
    assert queued(sk) == [b"x"]
    exact = host.bound(8, LOCAL4)
    host.prot.connect(exact, DEST, 0)
    host.prot.connect(exact, None, 0)
    assert (exact.saddr, exact.sport) == (LOCAL4, 8)


def test_connected_may_send_elsewhere() -> None:
    host = Host()
    sk = host.connected()
    send(sk, b"x", (b"\x0a\x09\0\x63", 9))
    assert host.fake.sent[0].daddr == b"\x0a\x09\0\x63"
    assert host.fake.sent[0].dport == 9


def test_bind_rules() -> None:
    host = Host()
    sk = host.bound(7)
    fails(errno.EINVAL, host.prot.bind, sk, (b"", 8), 0)
    fails(errno.EADDRINUSE, host.bound, 7)
    fails(errno.EADDRNOTAVAIL, host.bound, 9, OFF_LINK)
    fails(errno.EAFNOSUPPORT, host.bound, 9, LOCAL6)
    free = host.create_sock(2)
    free.freebind = True
    host.prot.bind(free, (OFF_LINK, 9), 0)
    six = host.create_sock(AF_INET6)
    six.v6only = True
    fails(errno.EINVAL, host.prot.bind, six, (LOCAL4, 9), 0)
    fails(errno.EOPNOTSUPP, host.prot.listen, six, 5, 0)
    fails(errno.EOPNOTSUPP, host.prot.accept, six, 0)
    host.prot.close(sk, 0)
    host.bound(7)


# -- room --------------------------------------------------------------------------------------


def stuck(sndbuf: int) -> tuple[Host, UdpSock]:
    """A socket whose device keeps what it is given."""
    host = Host()
    host.fake.verdict = QUEUED
    sk = host.connected()
    setopt(sk, SOL_SOCKET, SO_SNDBUF, sndbuf // 2)
    assert sk.sndbuf == sndbuf
    return host, sk


@pytest.mark.parametrize(
    ("size", "accepted", "wmem"), [(100, 49, 40768), (1472, 18, 41472), (4000, 6, 41472)]
)
def test_eagain_when_the_buffer_is_full(size: int, accepted: int, wmem: int) -> None:
    host, sk = stuck(40_000)
    for _ in range(accepted):
        assert send(sk, bytes(size), flags=MSG_DONTWAIT) == size
    fails(errno.EAGAIN, send, sk, bytes(size), flags=MSG_DONTWAIT)
    assert sk.wmem_alloc == wmem
    assert sk.prot.ioctl(sk, 0x5411, 0) == wmem
    assert host.net.mib["UdpSndbufErrors"] == 1


def test_fragments_may_take_twice_the_buffer() -> None:
    _, sk = stuck(4608)
    assert send(sk, bytes(4000)) == 4000
    sk.wmem_alloc = 0
    fails(errno.ENOBUFS, send, sk, bytes(8000))
    assert sk.wmem_alloc == 0


def test_pollout_goes_at_half_and_wakes_there() -> None:
    _, sk = stuck(40_000)
    woken: list[int] = []

    class Watcher:
        exclusive = False

        def wake(self, mask: int) -> bool:
            woken.append(sk.wmem_alloc)
            return True

    sk.wait_queue.add(Watcher())
    for _ in range(9):
        send(sk, bytes(1472))
    assert not sk.prot.poll(sk, 0) & POLLOUT
    assert sk.wmem_alloc == 20736
    sk.handle_tx_done(2304, 0)
    assert sk.wmem_alloc == 18432
    assert sk.prot.poll(sk, 0) & POLLOUT
    assert woken == [18432]


def test_blocking_send_waits_for_room() -> None:
    host, sk = stuck(4608)
    for _ in range(2):
        send(sk, bytes(1472))
    sk.sndtimeo = 1000
    op = sk.prot.sendmsg(sk, b"late", 0, 0)
    assert is_op(op)
    assert next(op).deadline == 1000  # type: ignore[arg-type]
    assert isinstance(op.send(500), Wait)  # type: ignore[union-attr]
    sk.handle_tx_done(2304, 600)
    with pytest.raises(StopIteration) as stop:
        op.send(600)  # type: ignore[union-attr]
    assert stop.value.value == 4
    assert host.fake.sent[-1].data == b"late"
    send(sk, bytes(1472))
    op = sk.prot.sendmsg(sk, b"never", 0, 0)
    next(op)  # type: ignore[arg-type]
    with pytest.raises(BlockingIOError):
        op.send(1000)  # type: ignore[union-attr]


def test_shutdown_and_pending_error_come_before_room() -> None:
    host = Host()
    sk = host.connected()
    sk.err = errno.ECONNREFUSED
    fails(errno.ECONNREFUSED, send, sk, b"x")
    assert send(sk, b"x") == 1
    sk.prot.shutdown(sk, 1, 0)
    fails(errno.EPIPE, send, sk, b"x")
    assert len(host.fake.sent) == 1


def test_drop_below_is_told_only_with_recverr() -> None:
    host = Host()
    host.fake.verdict = DROPPED
    sk = host.connected()
    assert send(sk, b"x") == 1
    sk.recverr = True
    fails(errno.ENOBUFS, send, sk, b"x")
    assert host.net.mib["UdpSndbufErrors"] == 2


# -- cork --------------------------------------------------------------------------------------


def test_more_then_plain() -> None:
    host = Host()
    sk = host.create_sock(2)
    send(sk, b"a" * 10, DEST, flags=MSG_MORE)
    assert sk.wmem_alloc == 832
    send(sk, b"b" * 20, (OFF_LINK, 0))  # neither address nor port is looked at
    (sent,) = host.fake.sent
    assert (sent.data, sent.daddr, sent.dport) == (b"a" * 10 + b"b" * 20, PEER4, 5000)
    assert sk.wmem_alloc == 0
    assert sk.cork is None


def test_empty_pieces() -> None:
    host = Host()
    sk = host.connected()
    send(sk, b"", flags=MSG_MORE)
    send(sk, b"xyz")
    send(sk, b"abc", flags=MSG_MORE)
    send(sk, b"")
    assert [s.data for s in host.fake.sent] == [b"xyz", b"abc"]


def test_cork_option() -> None:
    host = Host()
    sk = host.connected()
    setopt(sk, SOL_UDP, 1, 1)
    assert sk.prot.getsockopt(sk, SOL_UDP, 1, 4, 0) == struct.pack("i", 1)
    for piece in (b"a", b"b", b"c"):
        send(sk, piece)
    assert not host.fake.sent
    setopt(sk, SOL_UDP, 1, 0)
    setopt(sk, SOL_UDP, 1, 0)
    assert [s.data for s in host.fake.sent] == [b"abc"]


def test_error_discards_what_is_pending() -> None:
    host = Host()
    sk = host.connected()
    send(sk, bytes(40000), flags=MSG_MORE)
    fails(errno.EMSGSIZE, send, sk, bytes(30000), flags=MSG_MORE)
    assert sk.wmem_alloc == 0
    send(sk, b"alone")
    assert [s.data for s in host.fake.sent] == [b"alone"]
    send(sk, b"gone", flags=MSG_MORE)
    host.prot.close(sk, 0)
    assert len(host.fake.sent) == 1
    assert sk.wmem_alloc == 0


def test_corked_charge_follows_the_fragments() -> None:
    host = Host()
    sk = host.connected()
    for _ in range(3):
        send(sk, bytes(1000), flags=MSG_MORE)
    # a fragment made for 1028 bytes and filled up by 472, one made for 548 and filled up
    # by 952, one made for 68
    assert sk.wmem_alloc == 2304 + 472 + 1280 + 952 + 832
    send(sk, b"")
    assert host.fake.sent[0].charge == 5840


def test_cancelled_corked_send_leaves_nothing() -> None:
    _, sk = stuck(4608)
    for _ in range(2):
        send(sk, bytes(1472))
    op = sk.prot.sendmsg(sk, b"x", MSG_MORE, 0)
    next(op)  # type: ignore[arg-type]
    op.close()  # type: ignore[union-attr]
    assert sk.cork is None
    assert sk.wmem_alloc == 4608


# -- segmentation ------------------------------------------------------------------------------


def test_segment_option() -> None:
    host = Host()
    sk = host.connected()
    setopt(sk, SOL_UDP, 103, 100)
    send(sk, bytes(250))
    send(sk, bytes(100))
    assert [s.gso_size for s in host.fake.sent] == [100, 0]
    fails(errno.EINVAL, send, sk, bytes(100 * 128 + 1))
    setopt(sk, SOL_UDP, 103, 1473)
    fails(errno.EMSGSIZE, send, sk, bytes(3000))
    fails(errno.EINVAL, setopt, sk, SOL_UDP, 103, 65536)
    control = ((SOL_UDP, 103, struct.pack("H", 200)),)
    send(sk, bytes(250), None, control)
    assert host.fake.sent[-1].gso_size == 200
    sk.no_check = True
    fails(errno.EINVAL, send, sk, bytes(250), None, control)


def test_echo() -> None:
    host = Host()
    sk = host.bound()
    host.rcv(datagram(b"ping"))
    msg = recv(sk)
    send(sk, data_of(msg), msg.addr)
    (sent,) = host.fake.sent
    assert (sent.data, sent.sport, sent.dport, sent.daddr) == (b"ping", 7, 5000, PEER4)


# -- found against the kernel ------------------------------------------------------------------


def test_device_mtu_above_the_largest_datagram() -> None:
    host = Host()
    host.fake.dev.mtu = 65536
    sk = host.create_sock(2)
    sk.err = errno.ECONNREFUSED
    fails(errno.EMSGSIZE, send, sk, bytes(65508), DEST)  # before the pending error


def test_connect_redirects_what_is_pending() -> None:
    host = Host()
    sk = host.create_sock(2)
    send(sk, b"a", DEST, flags=MSG_MORE)
    host.prot.connect(sk, (PEER4, 6000), 0)
    send(sk, b"b")
    assert [(s.data, s.dport) for s in host.fake.sent] == [(b"ab", 6000)]


def test_corked_send_redirects_a_connected_socket() -> None:
    host = Host()
    sk = host.connected(5000)
    send(sk, b"a", (PEER4, 6000), flags=MSG_MORE)
    send(sk, b"b")
    send(sk, b"c")  # goes where the corked one went
    send(sk, b"d", flags=MSG_MORE)  # corked itself, it goes to the peer, and so does what follows
    send(sk, b"")
    send(sk, b"e")
    assert [(s.data, s.dport) for s in host.fake.sent] == [
        (b"ab", 6000),
        (b"c", 6000),
        (b"d", 5000),
        (b"e", 5000),
    ]


def test_probe_of_a_pending_datagram_adds_nothing() -> None:
    host = Host()
    sk = host.connected()
    send(sk, b"a", flags=MSG_MORE)
    assert send(sk, bytes(65508), flags=0x10) == 65508
    assert [s.data for s in host.fake.sent] == [b"a"]


def test_families_do_not_mix_in_one_datagram() -> None:
    host = Host()
    sk = host.create_sock(AF_INET6)
    send(sk, b"a", (PEER6, 9), flags=MSG_MORE)
    fails(errno.EINVAL, send, sk, b"b", (PEER4, 9))
    send(sk, b"c")
    send(sk, b"a", (PEER4, 9), flags=MSG_MORE)
    send(sk, b"b", (PEER6, 9))
    assert [(s.data, len(s.daddr)) for s in host.fake.sent] == [(b"ac", 16), (b"ab", 4)]


def test_order_of_errors_on_an_ipv6_socket() -> None:
    host = Host()
    sk = host.create_sock(AF_INET6)
    assert send(sk, b"x", (PEER6, 9), flags=1) == 1  # MSG_OOB is for IPv4 to refuse
    fails(errno.EOPNOTSUPP, send, sk, b"x", (PEER4, 9), flags=1)
    fails(errno.EDESTADDRREQ, send, sk, bytes(70000))
    host.prot.connect(sk, (PEER4, 9), 0)
    fails(errno.EAFNOSUPPORT, send, sk, bytes(70000), (PEER6, 9))
    fails(errno.EAFNOSUPPORT, host.prot.connect, sk, (PEER6, 9), 0)


def test_connected_ipv6_socket_sends_ipv4_from_an_ipv4_address() -> None:
    host = Host()
    sk = host.connected(addr=PEER6, family=AF_INET6)
    send(sk, b"x", (PEER4, 9))
    assert host.fake.sent[0].saddr == LOCAL4


def test_identifications_begin_anew_with_a_connect() -> None:
    """F-4."""
    host = Host()
    sk = host.connected()
    sk.ip_id = 7
    host.prot.connect(sk, DEST, 0)
    assert sk.ip_id == 0


def test_what_is_to_be_cut_is_charged_by_pages() -> None:
    """E-15, E-10: with UDP_SEGMENT in force a datagram is a small head and its payload, also
    a corked one, and also where it comes out as one segment."""
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_UDP, 103, 1400)
    send(sk, b"x" * 1000, DEST)
    assert host.fake.sent[-1].charge == 832 + 1000
    send(sk, b"x" * 100, DEST, flags=MSG_MORE)
    setopt(sk, SOL_UDP, 103, 0)  # the first call decides
    send(sk, b"", flags=MSG_MORE)
    send(sk, b"x" * 3000, flags=MSG_MORE)
    assert sk.wmem_alloc == 832 + 3100
    send(sk, b"")
    assert (host.fake.sent[-1].charge, host.fake.sent[-1].gso_size) == (832 + 3100, 1400)


def test_a_segment_size_that_does_not_fit_matters_only_if_reached() -> None:
    """E-15."""
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_UDP, 103, 1473)
    assert send(sk, bytes(1472), DEST) == 1472
    fails(errno.EMSGSIZE, send, sk, bytes(1473), DEST)
