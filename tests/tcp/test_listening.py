"""The passive side: listeners, half-open requests, accept, the catch-all."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import (
    LOCAL4,
    MS,
    PEER4,
    PEER_PORT,
    PORT,
    SOL_SOCKET,
    SOL_TCP,
    Bench,
)
from tests.tcp.opening import assert_empty, new, syn
from ustack.sock.addr import MAPPED_PREFIX
from ustack.sock.sock import AF_INET6
from ustack.tcp.listen import Request, listen_any
from ustack.tcp.state import CLOSE, LISTEN
from ustack.wire.packet import TAKEN

ISNS = (0, 2**31 - 1, 2**32 - 1)
SO_ERROR, SO_RCVBUF, SO_LINGER, SO_KEEPALIVE, SO_ACCEPTCONN = 4, 8, 13, 9, 30
TCP_MAXSEG, TCP_SYNCNT, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP = 2, 7, 9, 10
TCP_QUICKACK, TCP_CONGESTION, TCP_NODELAY = 12, 13, 1


# -- listen --------------------------------------------------------------------------------


def test_c1_listen():
    b = Bench(somaxconn=100)
    b.new_socket()
    b.sk.prot.listen(b.sk, -1, b.now)
    assert b.sk.accept_queue.max_backlog == 100
    assert 32768 <= b.sk.sport <= 60999
    assert b.getopt(SOL_SOCKET, SO_ACCEPTCONN) == 1
    b.sk.prot.listen(b.sk, 5, b.now)
    assert b.sk.accept_queue.max_backlog == 5
    for bench in (Bench.syn_sent(), Bench.connected(), Bench.close_wait()):
        bench.raises(errno.EINVAL, bench.sk.prot.listen, 5, bench.now)


def test_c1_two_reuseaddr_sockets_the_first_to_listen_wins():
    b = Bench()
    first, second = new(b), new(b)
    for sk in (first, second):
        sk.reuse = True
        sk.prot.bind(sk, (b"", PORT), b.now)
    first.prot.listen(first, 1, b.now)
    with pytest.raises(OSError) as why:
        second.prot.listen(second, 1, b.now)
    assert why.value.errno == errno.EADDRINUSE


def test_c2_accept_queue_takes_backlog_plus_one():
    b = Bench.listening(backlog=1)
    for port in (1001, 1002):
        syn(b, port)
        b.expect("SA")
        b.inject("A", seq=1, ack=1, sport=port)
    syn(b, 1003)
    b.expect_nothing()
    assert b.stack.mib["TcpExtListenOverflows"] == 1


def test_c2_half_open_requests_take_backlog_plus_one():
    b = Bench.listening(backlog=4)
    for port in range(1001, 1010):
        syn(b, port)
    assert len(b.take()) == 5
    assert b.sk.accept_queue.half_open == 5
    b.run(100_000)
    assert b.sk.accept_queue.half_open == 0
    assert b.sk.accept_queue.young == 0
    assert not b.stack.tcp.established


def test_c3_data_in_a_syn_is_not_acknowledged():
    b = Bench.listening()
    b.inject("S", seq=0, data=b"early", options=b.peer_syn_options())
    b.expect("SA", ack=1)


@pytest.mark.parametrize("flags", ["SR", "SF", "F", "P", "R", ""])
def test_c3_c10_what_a_listener_ignores(flags):
    b = Bench.listening()
    b.inject(flags, seq=0)
    b.expect_nothing()
    assert not b.stack.tcp.established


@pytest.mark.parametrize("flags", ["A", "FA", "SA", "PA"])
def test_c10_an_ack_to_a_listener_is_reset(flags):
    b = Bench.listening()
    b.inject(flags, seq=0, ack=77)
    b.expect("R", seq=77)


def test_c3_no_answer_to_a_broadcast_address():
    b = Bench.listening()
    for address in (bytes([10, 9, 0, 255]), b"\xff" * 4, bytes([224, 0, 0, 1])):
        b.local = address
        b.inject("S", seq=0)
        b.inject("A", seq=0, ack=0)
        b.expect_nothing()


def test_c4_syn_ack_retransmissions():
    b = Bench.listening()
    syn(b)
    b.expect("SA")
    b.run(62_900)
    assert [round(s.at) for s in b.take()] == [1000, 3000, 7000, 15000, 31000]
    assert b.sk.accept_queue.half_open == 1
    b.run(200)
    assert b.sk.accept_queue.half_open == 0
    b.inject("A", seq=1, ack=1)
    b.expect("R", seq=1)


def test_c4_syncnt_of_the_listener_counts():
    b = Bench.listening()
    b.setopt(SOL_TCP, TCP_SYNCNT, 1)
    syn(b)
    b.take()
    b.run(70_000)
    assert [round(s.at) for s in b.take()] == [1000]


def test_c4_old_requests_give_way_when_the_queue_is_half_full():
    b = Bench.listening(backlog=16)
    for port in range(1001, 1012):
        syn(b, port)
    b.take()
    b.run(10_000)
    assert b.sk.accept_queue.half_open == 8  # the rest had two retries instead of five


def test_c4_a_repeated_syn_gets_the_syn_ack_again_but_not_too_often():
    b = Bench.listening()
    for _ in range(3):
        syn(b)
    assert b.flags() == ["SA", "SA"]
    b.run(600)
    syn(b)
    b.expect("SA")


def test_c5_the_completing_ack():
    b = Bench.listening()
    syn(b)
    b.take()
    b.inject("A", seq=1, ack=2)
    b.expect("R", seq=2)
    b.inject("", seq=1)
    b.inject("A", seq=70_000, ack=1)
    b.expect("A", seq=1, ack=1)
    assert len(b.sk.accept_queue) == 0
    b.inject("PA", seq=1, ack=1, data=b"with data")
    b.expect("A", ack=10)
    b.accept()
    assert b.recv() == b"with data"


def test_c5_reset_of_a_half_open_connection():
    b = Bench.listening()
    syn(b)
    b.take()
    b.inject("R", seq=5)
    b.expect("A", seq=1, ack=1)
    assert b.sk.accept_queue.half_open == 1
    b.inject("R", seq=1)
    b.expect_nothing()
    assert b.sk.accept_queue.half_open == 0


def test_c5_a_syn_in_the_window_ends_the_request():
    b = Bench.listening()
    syn(b)
    b.take()
    b.inject("S", seq=9)
    b.expect("RA", ack=10)
    assert not b.stack.tcp.established


def full_queue(**settings) -> Bench:
    """A listener with two connections, which are all it takes, and a third half open."""
    b = Bench.listening(backlog=1, **settings)
    syn(b, 1001)
    syn(b, 1002)
    b.inject("A", seq=1, ack=1, sport=1001)
    syn(b, 1003)
    b.inject("A", seq=1, ack=1, sport=1002)
    b.take()
    return b


def test_c5_full_accept_queue_a_later_segment_completes():
    b = full_queue()
    b.inject("PA", seq=1, ack=1, sport=1003, data=b"again")
    b.expect_nothing()
    assert len(b.sk.accept_queue) == 2
    b.run(1001)
    b.expect("SA", dport=1003)
    listener = b.sk
    b.accept()
    b.sk = listener
    b.inject("PA", seq=1, ack=1, data=b"again", sport=1003)
    b.accept()
    b.sk = listener
    assert b.accept().dport == 1003
    assert b.recv() == b"again"


def test_c5_abort_on_overflow():
    b = full_queue(tcp_abort_on_overflow=True)
    b.inject("A", seq=1, ack=1, sport=1003)
    b.expect("R", seq=1)
    assert b.sk.accept_queue.half_open == 0


def test_c5_a_false_timestamp_echo_does_not_complete():
    b = Bench.listening(ts=True)
    syn(b)
    first = b.expect("SA").options.tsval
    b.run(1001)
    last = b.expect("SA").options.tsval
    assert last - first == 1000
    for echo in (first - 1, last + 1):
        b.run(600)
        b.inject("A", seq=1, ack=1, tsecr=echo)
        b.expect("A", seq=1, ack=1)
    b.inject("A", seq=1, ack=1, tsecr=first + 3)
    assert len(b.sk.accept_queue) == 1
    assert b.stack.mib["TcpExtTSEcrRejected"] == 2


def test_c5_no_route_back_for_the_child():
    b = Bench.listening()
    syn(b)
    b.take()
    request = b.stack.tcp.established.copy().popitem()[1]
    request.dst.obsolete = True
    b.stack.del_address("10.9.0.2")
    b.stack.add_address(b.dev, "10.9.0.2/32")
    b.inject("A", seq=1, ack=1)
    assert len(b.sk.accept_queue) == 0
    b.run(100_000)
    assert_empty(b, listeners=1)


def test_c6_accept():
    b = Bench.listening()
    b.raises(errno.EAGAIN, b.sk.prot.accept, b.now)
    fresh = new(b)
    with pytest.raises(OSError) as why:
        fresh.prot.accept(fresh, b.now)
    assert why.value.errno == errno.EINVAL
    call = b.start("accept")
    syn(b)
    b.take()
    b.inject("A", seq=1, ack=1)
    assert call.done
    assert call.result.dport == PEER_PORT
    assert not call.result.nonblocking


def test_c6_fifo_and_connections_already_reset():
    b = Bench.listening()
    for port in (1001, 1002):
        syn(b, port)
        b.inject("PA", seq=1, ack=1, sport=port, data=b"data")
    b.inject("RA", seq=5, ack=1, sport=1001)
    listener = b.sk
    b.accept()
    assert b.sk.dport == 1001
    assert b.recv() == b"data"
    b.raises(errno.ECONNRESET, b.recv)
    assert b.recv() == b""
    b.sk = listener
    assert b.accept().dport == 1002


def test_c6_children_inherit():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_SOCKET, SO_RCVBUF, 30000)
        b.setopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        b.setopt(SOL_SOCKET, SO_LINGER, b"\1\0\0\0\5\0\0\0")
        b.setopt(SOL_TCP, TCP_NODELAY, 1)
        b.setopt(SOL_TCP, TCP_CONGESTION, b"cubic")
        b.setopt(SOL_TCP, TCP_DEFER_ACCEPT, 0)

    b = Bench.accepted(prepare=prepare)
    assert b.getopt(SOL_SOCKET, SO_RCVBUF) == 60000
    assert b.getopt(SOL_SOCKET, SO_KEEPALIVE) == 1
    assert b.sk.linger
    assert b.sk.linger_time == 5000 * MS
    assert b.getopt(SOL_TCP, TCP_NODELAY) == 1
    assert b.sk.cc.name == "cubic"
    assert b.sk.cc is not b.listener.cc


def test_c7_closing_a_listener():
    b = Bench.listening()
    syn(b, 1001)
    b.inject("A", seq=1, ack=1, sport=1001)
    syn(b, 1002)
    b.take()
    b.close()
    b.expect("RA", seq=1, sport=PORT, dport=1001)
    b.expect_nothing()
    b.inject("A", seq=1, ack=1, sport=1002)
    b.expect("R", seq=1)
    assert_empty(b)


def test_c7_shut_rd_of_a_listener():
    b = Bench.listening()
    syn(b)
    b.inject("A", seq=1, ack=1)
    b.take()
    call = b.start("accept")
    assert not hasattr(call, "done")  # one was waiting
    waiting = b.start("accept")
    b.shutdown(0)
    assert waiting.error.errno == errno.EINVAL
    assert b.sk.state == CLOSE
    b.raises(errno.EINVAL, b.sk.prot.accept, b.now)


def test_c9_defer_accept():
    b = Bench.listening()
    b.setopt(SOL_TCP, TCP_DEFER_ACCEPT, 3)
    assert b.getopt(SOL_TCP, TCP_DEFER_ACCEPT) == 3
    syn(b)
    b.take()
    b.inject("A", seq=1, ack=1)
    assert len(b.sk.accept_queue) == 0
    b.run(900)
    b.expect_nothing()
    b.inject("PA", seq=1, ack=1, data=b"now")
    assert len(b.sk.accept_queue) == 1


def test_c9_a_bare_ack_completes_after_the_period():
    b = Bench.listening()
    b.setopt(SOL_TCP, TCP_DEFER_ACCEPT, 3)
    syn(b)
    b.take()
    b.inject("A", seq=1, ack=1)
    b.run(3100)
    b.expect("SA")  # the last chance
    b.inject("A", seq=1, ack=1)
    assert len(b.sk.accept_queue) == 1


def test_c33_c2_syn_of_a_time_wait_pair_skips_the_syn_queue_limit():
    b = Bench.accepted(backlog=0)
    b.close()
    b.take()
    b.inject("FA", seq=1, ack=2)
    b.take()
    for port in (1001, 1002):
        syn(b, port)
    assert b.flags() == ["SA"]
    b.inject("S", seq=10_000, options=b.peer_syn_options())
    s = b.expect("SA")
    assert s.seq == 2 + 65537


def test_c52_reuseport_group_shares():
    b = Bench()
    group = [new(b) for _ in range(4)]
    for sk in group:
        sk.reuseport = True
        sk.prot.bind(sk, (b"", PORT), b.now)
        sk.prot.listen(sk, 100, b.now)
    for port in range(2000, 2100):
        syn(b, port)
    counts = [sk.accept_queue.half_open for sk in group]
    assert sum(counts) == 100
    assert min(counts) > 10


def test_c53_the_more_specific_listener_wins():
    b = Bench()
    wild, exact = new(b), new(b)
    for sk, address in ((wild, b""), (exact, LOCAL4)):
        sk.reuseport = True
        sk.prot.bind(sk, (address, PORT), b.now)
        sk.prot.listen(sk, 8, b.now)
    syn(b)
    assert (wild.accept_queue.half_open, exact.accept_queue.half_open) == (0, 1)


def test_dual_stack_listener_and_connection():
    b = Bench()
    sk = new(b, AF_INET6)
    sk.prot.bind(sk, (bytes(16), PORT), b.now)
    sk.prot.listen(sk, 8, b.now)
    b.sk = sk
    syn(b)
    b.take()
    b.inject("A", seq=1, ack=1)
    b.accept()
    assert (b.sk.family, b.sk.daddr) == (AF_INET6, PEER4)
    b.send(b"x")
    assert b.expect("PA").raw[0] >> 4 == 4
    mapped = new(b, AF_INET6)
    with pytest.raises(OSError) as why:
        mapped.prot.connect(mapped, (MAPPED_PREFIX + PEER4, 9), b.now)
    assert why.value.errno == errno.EINPROGRESS
    assert b.expect("S").raw[0] >> 4 == 4


def test_v6only_listener_does_not_take_ipv4():
    b = Bench()
    sk = new(b, AF_INET6)
    sk.v6only = True
    sk.prot.bind(sk, (bytes(16), PORT), b.now)
    sk.prot.listen(sk, 8, b.now)
    syn(b)
    b.expect("RA")
    mapped = new(b, AF_INET6)
    mapped.v6only = True
    with pytest.raises(OSError) as why:
        mapped.prot.connect(mapped, (MAPPED_PREFIX + PEER4, 9), b.now)
    assert why.value.errno == errno.ENETUNREACH


def test_d3_a_repeated_handshake_without_timestamps_starts_at_3_s():
    b = Bench.syn_sent(ts=False)
    b.run(1001)
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert b.sk.rtt.rto_us == 3_000_000
    b = Bench.listening(ts=False)
    syn(b)
    b.run(1001)
    b.inject("A", seq=1, ack=1)
    assert b.accept().rtt.rto_us == 3_000_000


def test_d3_timestamps_measure_a_repeated_handshake():
    b = Bench.listening(ts=True)
    syn(b)
    b.run(1001)
    b.run(30)
    b.inject("A", seq=1, ack=1)
    assert b.accept().rtt.srtt_us >> 3 == 31_000


# -- the catch-all listener ----------------------------------------------------------------


class CatchAll:
    """A bench whose socket gets every SYN that nobody wants, on a stack with an AnyIP prefix."""

    def __init__(self, backlog: int = 8, **settings) -> None:
        self.b = b = Bench(**settings)
        b.new_socket()
        self.asked: list[Request] = []
        listen_any(b.sk, backlog, self.asked.append, b.now)
        b.listener = b.sk

    def syn(self, port: int = PEER_PORT, dport: int = 443, **fields) -> None:
        syn(self.b, port, dport=dport, **fields)


def test_catch_all_accept():
    c = CatchAll()
    c.syn()
    c.b.expect_nothing()
    (request,) = c.asked
    assert (request.saddr, request.sport) == (LOCAL4, 443)
    assert (request.daddr, request.dport) == (PEER4, PEER_PORT)
    c.syn()
    assert len(c.asked) == 1  # a repeated SYN joins
    c.b.run(2000)
    request.accept(c.b.now)
    c.b.expect("SA", sport=443, ack=1)
    request.refuse(c.b.now)  # too late, nothing happens
    c.b.inject("PA", seq=1, ack=1, data=b"hello", dport=443)
    sk = c.b.accept()
    assert (sk.sport, sk.rcv_saddr) == (443, LOCAL4)
    assert c.b.recv() == b"hello"
    assert list(c.b.stack.tcp.ports.owners(443)) == [sk]


def test_catch_all_answers_from_inside_the_callback():
    c = CatchAll()
    listen_any(c.b.sk, 8, lambda request: request.accept(c.b.now), c.b.now)
    c.syn()
    c.b.expect("SA", sport=443)


def test_catch_all_refuse():
    c = CatchAll()
    c.syn()
    c.asked[0].refuse(c.b.now)
    c.b.expect("RA", ack=1, sport=443)
    c.asked[0].accept(c.b.now)
    c.b.expect_nothing()
    assert not c.b.stack.tcp.established
    c.syn()
    assert len(c.asked) == 2


def test_catch_all_unreachable():
    c = CatchAll()
    c.syn()
    frames = []
    c.b.dev.xmit = lambda packet: frames.append(packet) or TAKEN
    c.asked[0].unreachable(1, c.b.now)
    assert [(p.header + b"".join(p.payload))[20:22] for p in frames] == [b"\3\1"]
    assert not c.b.stack.tcp.established


def test_catch_all_drop_and_the_client_s_second_thoughts():
    c = CatchAll()
    c.syn()
    c.asked[0].drop()
    c.syn()
    assert len(c.asked) == 2
    c.b.inject("R", seq=1, dport=443)
    assert not c.asked[1].pending
    c.asked[1].accept(c.b.now)
    c.b.expect_nothing()
    assert not c.b.stack.tcp.established


def test_catch_all_is_bounded_and_expires():
    c = CatchAll(backlog=4)
    for port in range(1001, 1020):
        c.syn(port)
    assert len(c.asked) == 5
    c.b.run(64_001)
    assert not any(request.pending for request in c.asked)
    c.b.expect_nothing()
    assert_empty(c.b)


def test_catch_all_comes_after_every_listener_and_only_for_syns():
    c = CatchAll()
    other = new(c.b)
    other.prot.bind(other, (b"", 443), c.b.now)
    other.prot.listen(other, 4, c.b.now)
    c.syn()
    c.b.expect("SA")
    assert not c.asked
    c.b.inject("A", seq=0, ack=9, dport=80)
    c.b.expect("R", seq=9)
    c.b.inject("F", seq=0, dport=80)
    c.b.expect_nothing()


def test_catch_all_there_is_one():
    c = CatchAll()
    with pytest.raises(OSError) as why:
        listen_any(new(c.b), 4, c.asked.append, c.b.now)
    assert why.value.errno == errno.EADDRINUSE
    listen_any(c.b.sk, 3, c.asked.append, c.b.now)
    assert c.b.sk.accept_queue.max_backlog == 3
    bound = new(c.b)
    bound.prot.bind(bound, (b"", 80), c.b.now)
    with pytest.raises(OSError) as why:
        listen_any(bound, 4, c.asked.append, c.b.now)
    assert why.value.errno == errno.EINVAL
    bound.prot.close(bound, c.b.now)
    c.syn()
    c.b.close()
    assert c.b.sk.state == CLOSE
    assert not c.asked[0].pending
    assert_empty(c.b)
    listen_any(new(c.b), 4, c.asked.append, c.b.now)


def test_catch_all_time_wait_and_ports():
    c = CatchAll()
    c.syn()
    c.asked[0].accept(c.b.now)
    c.b.inject("A", seq=1, ack=1, dport=443)
    c.b.accept()
    c.b.sport = 443
    c.b.close()
    c.b.take()
    c.b.inject("FA", seq=1, ack=2)
    c.b.expect("A", seq=2, ack=2)
    (tw,) = c.b.stack.tcp.timewaits()
    assert list(c.b.stack.tcp.ports.owners(443)) == [tw]
    c.b.sk = c.b.listener
    assert c.b.sk.state == LISTEN
    c.b.run(60_001)
    assert_empty(c.b)
