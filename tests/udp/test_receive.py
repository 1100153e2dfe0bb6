"""Datagrams in: lookup, checks, accounting, recv."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sock.fakes import LOCAL4, LOCAL6, PEER4, PEER6
from tests.udp.helpers import (
    MSG_DONTWAIT,
    MSG_PEEK,
    MSG_TRUNC,
    Host,
    data_of,
    datagram,
    fails,
    is_op,
    queued,
    recv,
)
from ustack.sock.options import SO_MEMINFO, SO_PEEK_OFF, SO_RCVBUF, SO_RXQ_OVFL, SOL_SOCKET
from ustack.sock.sock import AF_INET, AF_INET6, RecvMsg, Sock
from ustack.sock.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, Wait
from ustack.udp.sock import UdpSock
from ustack.wire.packet import IPPROTO_UDP, RxPacket

OTHER4 = b"\x7f\0\0\x05"


def setopt(sk: Sock, level: int, name: int, value: int) -> None:
    sk.prot.setsockopt(sk, level, name, struct.pack("i", value), 0)


def rmem(sk: Sock) -> int:
    return int(struct.unpack("9I", sk.prot.getsockopt(sk, SOL_SOCKET, SO_MEMINFO, 36, 0))[0])


# -- lookup --------------------------------------------------------------------------------


def test_best_match_wins() -> None:
    host = Host()
    wildcard = host.create_sock(AF_INET)
    exact = host.create_sock(AF_INET)
    conn = host.create_sock(AF_INET)
    for sk, addr in ((wildcard, b""), (exact, LOCAL4), (conn, LOCAL4)):
        sk.reuse = True
        host.prot.bind(sk, (addr, 7), 0)
    host.prot.connect(conn, (PEER4, 5000), 0)
    host.rcv(datagram(b"conn"))
    host.rcv(datagram(b"exact", sport=5001))
    host.rcv(datagram(b"wild", sport=5001, dst=OTHER4))
    assert queued(conn) == [b"conn"]
    assert queued(exact) == [b"exact"]
    assert queued(wildcard) == [b"wild"]


def test_connected_socket_hears_nobody_else() -> None:
    host = Host()
    sk = host.connected(5000)
    host.rcv(datagram(b"x", dport=sk.sport, sport=5001))
    assert not sk.has_data()
    assert len(host.fake.unreachable) == 1


def test_newest_of_equal_reuseaddr_sockets_gets_unicast() -> None:
    host = Host()
    socks = [host.create_sock(AF_INET) for _ in range(3)]
    for sk in socks:
        sk.reuse = True
        host.prot.bind(sk, (b"", 7), 0)
    host.rcv(datagram(b"x"))
    assert [sk.has_data() for sk in socks] == [False, False, True]


def test_reuseport_shares_by_flow() -> None:
    host = Host()
    socks = [host.create_sock(AF_INET) for _ in range(2)]
    for sk in socks:
        sk.reuseport = True
        host.prot.bind(sk, (b"", 7), 0)
    for sport in range(1000, 1100):
        host.rcv(datagram(b"a", sport=sport))
        host.rcv(datagram(b"b", sport=sport))
    counts = [len(queued(sk)) for sk in socks]
    assert sum(counts) == 200
    assert min(counts) > 50  # both take part
    assert counts[0] % 2 == 0  # a flow stays with one


def test_bound_device_must_match_and_is_preferred() -> None:
    host = Host()
    plain, on_three = host.create_sock(AF_INET), host.create_sock(AF_INET)
    for sk in (plain, on_three):
        sk.reuse = True
    on_three.bindtodevice = 3
    host.prot.bind(on_three, (b"", 7), 0)
    host.prot.bind(plain, (b"", 7), 0)
    host.rcv(datagram(b"two", iif=2))
    host.rcv(datagram(b"three", iif=3))
    assert queued(plain) == [b"two"]
    assert queued(on_three) == [b"three"]


def test_dual_stack() -> None:
    host = Host()
    sk = host.bound(family=AF_INET6)
    host.rcv(datagram(b"four"))
    host.rcv(datagram(b"six", src=PEER6, dst=LOCAL6))
    first, second = recv(sk), recv(sk)
    assert (data_of(first), first.addr) == (b"four", (PEER4, 5000))
    assert (data_of(second), second.addr) == (b"six", (PEER6, 5000))
    only = Host()
    sk = only.create_sock(AF_INET6)
    sk.v6only = True
    only.prot.bind(sk, (b"", 7), 0)
    only.rcv(datagram(b"four"))
    assert not sk.has_data()


def test_many_connected_sockets_on_one_port() -> None:
    host = Host()
    socks = []
    for port in range(1, 2001):
        sk = host.create_sock(AF_INET)
        sk.reuse = True
        host.prot.bind(sk, (LOCAL4, 7), 0)
        host.prot.connect(sk, (PEER4, port), 0)
        socks.append(sk)
    for port in (1, 777, 2000):
        host.rcv(datagram(b"x", sport=port))
    assert [i + 1 for i, sk in enumerate(socks) if sk.has_data()] == [1, 777, 2000]
    for sk in socks:
        host.prot.close(sk, 0)
    assert not host.sockets()


# -- checks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rx", "reason"),
    [
        (datagram(b"x", csum=1), "UDP_CSUM"),
        (datagram(b"x", ulen=7), "UDP_TOO_SHORT"),
        (datagram(b"x", ulen=10), "UDP_TOO_SHORT"),
        (datagram(b"x", ulen=0), "UDP_TOO_SHORT"),
        (datagram(b"x", src=PEER6, dst=LOCAL6, csum=0), "UDP_CSUM"),
        (RxPacket(bytes(27), 0, 20, 27, 17, PEER4, LOCAL4, 0, 64, 0, False, 2, 0), "UDP_TOO_SHORT"),
    ],
)
def test_refused(rx: RxPacket, reason: str) -> None:
    host = Host()
    sk = host.bound(family=AF_INET6)
    host.rcv(rx)
    assert not sk.has_data()
    assert host.net.mib.drops == {reason: 1}
    assert host.net.mib["Udp6InErrors" if len(rx.src) == 16 else "UdpInErrors"] == 1
    assert not host.fake.unreachable


def test_no_checksum_is_fine_over_ipv4_and_padding_is_trimmed() -> None:
    host = Host()
    sk = host.bound()
    host.rcv(datagram(b"abc", csum=0))
    host.rcv(datagram(b"abcXX", ulen=11, csum=0))
    assert queued(sk) == [b"abc", b"abc"]


def test_bad_checksum_to_a_closed_port_gets_no_answer() -> None:
    host = Host()
    host.rcv(datagram(b"x", dport=9, csum=1))
    assert not host.fake.unreachable
    host.rcv(datagram(b"x", dport=9))
    assert len(host.fake.unreachable) == 1
    assert host.net.mib["UdpNoPorts"] == 1


@given(st.binary(max_size=64), st.integers(0, 2000), st.booleans(), st.booleans())
def test_any_bytes(tail: bytes, gso_size: int, v6: bool, vouched: bool) -> None:
    host = Host()
    host.bound(family=AF_INET6)
    src, dst = (PEER6, LOCAL6) if v6 else (PEER4, LOCAL4)
    buf = bytes(40) + tail
    host.rcv(RxPacket(buf, 0, 40, len(buf), IPPROTO_UDP, src, dst, 0, 64, gso_size, vouched, 2, 0))


def test_flow_seam() -> None:
    host = Host()
    asked: list[bytes] = []
    flow = host.create_sock(AF_INET)

    def on_flow(rx: RxPacket) -> UdpSock | None:
        asked.append(rx.dst)
        return flow if rx.src == PEER4 else None

    host.on_flow = on_flow
    host.rcv(datagram(b"hello", dport=99))
    host.rcv(datagram(b"hello", dport=99, src=OTHER4))
    assert asked == [LOCAL4, LOCAL4]
    assert queued(flow) == [b"hello"]
    assert len(host.fake.unreachable) == 1


# -- accounting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rcvbuf", "size", "held"),
    [(2304, 100, 2), (20_000, 100, 24), (20_000, 1472, 8), (212_992, 1472, 92)],
)
def test_receive_buffer(rcvbuf: int, size: int, held: int) -> None:
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_SOCKET, SO_RCVBUF, rcvbuf // 2)
    assert sk.rcvbuf == rcvbuf
    for _ in range(200):
        host.rcv(datagram(bytes(size)))
    assert len(queued(sk)) == held
    assert sk.rmem_alloc == 0
    assert sk.drops == 200 - held
    assert host.net.mib["UdpRcvbufErrors"] == 200 - held


def test_one_oversize_datagram_enters_an_empty_queue() -> None:
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_SOCKET, SO_RCVBUF, 0)
    host.rcv(datagram(bytes(5000)))
    host.rcv(datagram(b"x"))
    assert [len(data) for data in queued(sk)] == [5000]


@pytest.mark.parametrize(
    ("rcvbuf", "steps"),
    [
        (8000, {2: 2496, 5: 2496, 8: 2496}),
        (16000, {4: 4160, 9: 4160, 14: 4160, 18: 3328}),
        (20000, {6: 5824, 13: 5824, 20: 5824, 23: 2496}),
        (40000, {12: 10816, 25: 10816, 38: 10816, 47: 7488}),
    ],
)
def test_reading_gives_back_in_quarters(rcvbuf: int, steps: dict[int, int]) -> None:
    """As SO_MEMINFO showed it on Linux 6.18."""
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_SOCKET, SO_RCVBUF, rcvbuf // 2)
    for _ in range(rcvbuf // 832):
        host.rcv(datagram(bytes(100)))
    seen, last = {}, rmem(sk)
    for i in range(rcvbuf // 832):
        recv(sk)
        if rmem(sk) != last:
            seen[i], last = last - rmem(sk), rmem(sk)
    assert seen == steps


def test_merged_frame_is_taken_apart() -> None:
    host = Host()
    sk = host.bound()
    host.rcv(datagram(b"a" * 100 + b"b" * 100 + b"c" * 7, gso_size=100))
    assert sk.rmem_alloc == 3 * 832 + 207  # heads, and the payload in pages
    assert queued(sk) == [b"a" * 100, b"b" * 100, b"c" * 7]


def test_drop_count_is_told_on_later_datagrams() -> None:
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_SOCKET, SO_RXQ_OVFL, 1)
    setopt(sk, SOL_SOCKET, SO_RCVBUF, 0)
    for _ in range(5):
        host.rcv(datagram(b"x"))
    assert recv(sk).control == []
    recv(sk)
    host.rcv(datagram(b"x"))
    assert recv(sk).control == [(SOL_SOCKET, SO_RXQ_OVFL, struct.pack("I", 3))]


# -- recv --------------------------------------------------------------------------------------


def test_truncation() -> None:
    host = Host()
    sk = host.bound()
    for _ in range(3):
        host.rcv(datagram(b"abcdef"))
    cut = recv(sk, 4)
    assert (data_of(cut), cut.len, cut.flags) == (b"abcd", 4, MSG_TRUNC)
    cut = recv(sk, 4, MSG_TRUNC | MSG_DONTWAIT)
    assert (data_of(cut), cut.len, cut.flags) == (b"abcd", 6, MSG_TRUNC)
    cut = recv(sk, 0)
    assert (cut.chunks, cut.len, cut.flags) == ([], 0, MSG_TRUNC)
    fails(errno.EAGAIN, recv, sk)


def test_zero_length_datagram() -> None:
    host = Host()
    sk = host.bound()
    host.rcv(datagram(b""))
    assert sk.prot.poll(sk, 0) & POLLIN
    assert sk.prot.ioctl(sk, 0x541B, 0) == 0
    msg = recv(sk)
    assert (msg.len, msg.chunks, msg.addr) == (0, [], (PEER4, 5000))
    assert not sk.prot.poll(sk, 0) & POLLIN


def test_peek_leaves_the_datagram() -> None:
    host = Host()
    sk = host.bound()
    host.rcv(datagram(b"abc"))
    for _ in range(2):
        assert data_of(recv(sk, 2, MSG_PEEK | MSG_DONTWAIT)) == b"ab"
    assert host.net.mib["UdpInDatagrams"] == 0
    assert queued(sk) == [b"abc"]
    assert host.net.mib["UdpInDatagrams"] == 1


def test_peek_offset_spans_datagrams() -> None:
    """The sequence that Linux 6.18 gave."""
    host = Host()
    sk = host.bound()
    for data in (b"z", b"z", b"z", b"abcd", b"", b"efgh"):
        host.rcv(datagram(data))
    setopt(sk, SOL_SOCKET, SO_PEEK_OFF, 2)
    seen = []
    for _ in range(6):
        msg = recv(sk, 3, MSG_PEEK | MSG_DONTWAIT)
        seen.append((data_of(msg), msg.flags, sk.peek_off))
    assert seen == [
        (b"z", 0, 3),
        (b"abc", MSG_TRUNC, 6),
        (b"d", 0, 7),
        (b"", 0, 7),
        (b"efg", MSG_TRUNC, 10),
        (b"h", 0, 11),
    ]
    assert data_of(recv(sk, 2)) == b"z"
    assert sk.peek_off == 10


def test_waiting_readers_share() -> None:
    host = Host()
    sk = host.bound()
    ops = [sk.prot.recvmsg(sk, 100, 0, 0) for _ in range(3)]
    woken: list[int] = []

    class Reader:
        exclusive = True

        def __init__(self, index: int) -> None:
            self.index = index
            self.asleep = True

        def wake(self, mask: int) -> bool:
            if self.asleep:
                woken.append(self.index)
                self.asleep = False
                return True
            return False

    for i, op in enumerate(ops):
        assert is_op(op)
        wait = next(op)  # type: ignore[arg-type]
        assert isinstance(wait, Wait)
        assert wait.exclusive
        assert wait.deadline is None
        wait.queue.add(Reader(i))
    host.rcv(datagram(b"one"))
    assert woken == [0]
    host.rcv(datagram(b"two"))
    assert woken == [0, 1]
    for i, data in enumerate((b"one", b"two")):
        with pytest.raises(StopIteration) as stop:
            ops[i].send(1)  # type: ignore[union-attr]
        assert data_of(stop.value.value) == data
    assert isinstance(ops[2].send(1), Wait)  # type: ignore[union-attr]  # nothing for the third


def test_receive_timeout() -> None:
    host = Host()
    sk = host.bound()
    sk.rcvtimeo = 5_000
    op = sk.prot.recvmsg(sk, 100, 0, 1_000)
    assert next(op).deadline == 6_000  # type: ignore[arg-type]
    assert isinstance(op.send(5_999), Wait)  # type: ignore[union-attr]
    with pytest.raises(BlockingIOError):
        op.send(6_000)  # type: ignore[union-attr]


def test_close_ends_a_waiting_receive() -> None:
    host = Host()
    sk = host.bound()
    op = sk.prot.recvmsg(sk, 100, 0, 0)
    next(op)  # type: ignore[arg-type]
    sk.prot.close(sk, 0)
    with pytest.raises(StopIteration) as stop:
        op.send(1)  # type: ignore[union-attr]
    assert stop.value.value.len == 0


def test_shutdown() -> None:
    host = Host()
    sk = host.bound()
    fails(errno.ENOTCONN, sk.prot.shutdown, sk, 0, 0)
    fails(errno.EINVAL, sk.prot.shutdown, sk, 3, 0)
    assert sk.prot.poll(sk, 0) & (POLLIN | POLLRDHUP) == POLLIN | POLLRDHUP
    assert isinstance(sk.prot.recvmsg(sk, 10, 0, 0), RecvMsg)  # a blocking call ends at once
    fails(errno.EAGAIN, recv, sk)
    host.rcv(datagram(b"still"))
    assert queued(sk) == [b"still"]
    sk = host.connected()
    sk.prot.shutdown(sk, 2, 0)
    assert sk.prot.poll(sk, 0) & (POLLHUP | POLLIN | POLLOUT) == POLLHUP | POLLIN | POLLOUT
    assert not sk.prot.poll(sk, 0) & POLLERR


# -- what only the charges show ----------------------------------------------------------------


def test_looking_takes_over() -> None:
    """E-26: SIOCINQ and MSG_PEEK take what has arrived over for reading, as a read does; what
    comes later is not among it, so that the charge of what is read is given back at once."""
    for look in (lambda sk: sk.prot.ioctl(sk, 0x541B, 0), lambda sk: recv(sk, flags=MSG_PEEK)):
        host = Host()
        sk = host.bound()
        host.rcv(datagram(b"a"))
        look(sk)
        host.rcv(datagram(b"b"))
        recv(sk)
        assert sk.rmem_alloc == 832


def test_a_long_bad_datagram_is_the_sockets_drop() -> None:
    """E-25, E-30: a kernel verifies a short one before it looks for a socket."""
    host = Host()
    sk = host.bound()
    host.rcv(datagram(bytes(68), csum=1))
    assert sk.drops == 0
    host.rcv(datagram(bytes(69), csum=1))
    assert sk.drops == 1


def test_no_checksum_over_ipv6_whoever_vouches() -> None:
    """E-14, E-25: zero is no checksum, not one that a device could have verified."""
    host = Host()
    sk = host.bound(family=10)
    rx = datagram(b"x", src=PEER6, dst=LOCAL6, csum=0)
    rx.csum_ok = True
    host.rcv(rx)
    assert not sk.has_data()
    setopt(sk, 17, 102, 1)  # UDP_NO_CHECK6_RX
    host.rcv(rx)
    assert queued(sk) == [b"x"]


def test_giving_back_takes_over() -> None:
    """E-26: what has arrived meanwhile is among what is to be read, so that its charge is
    given back late."""
    host = Host()
    sk = host.bound()
    setopt(sk, SOL_SOCKET, SO_RCVBUF, 5000)  # a quarter is three small datagrams
    for data in (b"1", b"2", b"3"):
        host.rcv(datagram(data))
    recv(sk)
    host.rcv(datagram(b"4"))
    host.rcv(datagram(b"5"))
    assert [recv(sk) and sk.rmem_alloc for _ in range(4)] == [4160, 1664, 1664, 0]
