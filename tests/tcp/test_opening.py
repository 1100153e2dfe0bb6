"""Opening: connect, listen, accept, half-open requests, the catch-all listener."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import (
    ISN,
    LOCAL4,
    MS,
    PEER4,
    PEER_PORT,
    PORT,
    SOL_SOCKET,
    SOL_TCP,
    Bench,
)
from ustack.sock.addr import MAPPED_PREFIX
from ustack.sock.sock import AF_INET, AF_INET6, SOCK_STREAM
from ustack.tcp.listen import Request, listen_any
from ustack.tcp.state import CLOSE, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT
from ustack.wire.packet import TAKEN
from ustack.wire.tcp import syn_options

ISNS = (0, 2**31 - 1, 2**32 - 1)
SO_ERROR, SO_RCVBUF, SO_LINGER, SO_KEEPALIVE, SO_ACCEPTCONN = 4, 8, 13, 9, 30
TCP_MAXSEG, TCP_SYNCNT, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP = 2, 7, 9, 10
TCP_QUICKACK, TCP_CONGESTION, TCP_NODELAY = 12, 13, 1


def new(b: Bench, family: int = AF_INET):
    sk = b.stack.socket(family, SOCK_STREAM)
    sk.nonblocking = True
    return sk


def syn(b: Bench, port: int = PEER_PORT, **fields) -> None:
    b.inject("S", seq=0, sport=port, options=b.peer_syn_options(), **fields)


# -- connect -------------------------------------------------------------------------------


@pytest.mark.parametrize("isn", ISNS)
@pytest.mark.parametrize("peer_isn", ISNS)
def test_c14_c15_active_open_at_the_edges_of_sequence_space(isn, peer_isn):
    b = Bench.connected(isn=isn, peer_isn=peer_isn)
    b.send(b"hello")
    b.expect("PA", seq=1, ack=1, data=b"hello")
    b.inject("PA", data=b"world", ack=6)
    assert b.recv() == b"world"
    b.close()
    b.inject("FA", ack=7)
    assert not b.sk.host.sockets()


@pytest.mark.parametrize("isn", ISNS)
@pytest.mark.parametrize("peer_isn", ISNS)
def test_c3_c5_passive_open_at_the_edges_of_sequence_space(isn, peer_isn):
    b = Bench.accepted(isn=isn, peer_isn=peer_isn)
    b.inject("PA", data=b"hello")
    b.send(b"world")
    assert b.recv() == b"hello"
    b.inject("RA", ack=6)
    assert b.sk.state == CLOSE


def test_c14_syn_contents():
    b = Bench.syn_sent()
    s = b.expect("S", seq=0, raw_ack=0, win=64240)
    assert s.raw_options.hex().startswith("020405b40402080a")
    assert s.raw_options.hex().endswith("0103030a")
    assert s.raw[6] & 0x40  # DF
    plain = Bench.syn_sent(tcp_timestamps=0)
    assert plain.expect("S").raw_options.hex() == "020405b4010104020103030a"


def test_b60_initial_windows():
    def small(b: Bench) -> None:
        b.setopt(SOL_SOCKET, SO_RCVBUF, 20000)

    b = Bench(tcp_timestamps=0)
    b.new_socket()
    small(b)
    b.start_connect()
    s = b.expect("S", win=18980)
    assert s.options.wscale == 0
    b = Bench.listening()
    b.ts = True
    syn(b)
    assert b.expect("SA", win=65160).options.wscale == -1  # the peer did not offer one


def test_c12_connect_says_in_each_state_what_the_kernel_says():
    b = Bench.syn_sent()
    b.raises(errno.EALREADY, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert b.sk.prot.connect(b.sk, (PEER4, PEER_PORT), b.now) is None
    b.raises(errno.EISCONN, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.inject("RA")
    b.raises(errno.EISCONN, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    listener = Bench.listening()
    listener.raises(errno.EISCONN, listener.sk.prot.connect, (PEER4, 1), listener.now)


def test_c12_a_failed_attempt_is_told_once_and_can_be_repeated():
    b = Bench.syn_sent()
    b.inject("RA", seq=0, ack=1)
    b.raises(errno.ECONNREFUSED, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    assert b.sk.sport == PORT  # the user has chosen it
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.take()
    b.inject("RA", seq=0, ack=1)
    assert b.getopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED
    b.raises(errno.ECONNABORTED, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)


def test_c12_a_port_chosen_for_an_attempt_goes_with_it():
    b = Bench()
    sk = b.new_socket()
    b.raises(errno.EINPROGRESS, sk.prot.connect, (PEER4, PEER_PORT), b.now)
    port = sk.sport
    b.sport = port
    b.inject("RA", seq=0, ack=1)
    assert sk.sport == 0
    assert not b.stack.tcp.ports.owners(port)
    assert not sk.host.established


def test_c12_blocking_connect_waits_for_the_outcome():
    b = Bench()
    b.new_socket()
    b.sk.prot.bind(b.sk, (LOCAL4, PORT), b.now)
    call = b.start("connect", (PEER4, PEER_PORT))
    assert not call.done
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert call.done
    assert call.error is None


def test_c12_sndtimeo_bounds_a_blocking_connect():
    b = Bench()
    b.new_socket()
    b.sk.sndtimeo = 500 * MS
    call = b.start("connect", (PEER4, PEER_PORT))
    b.run(499)
    assert not call.done
    b.run(2)
    assert call.error is not None
    assert call.error.errno == errno.EINPROGRESS
    again = b.start("connect", (PEER4, PEER_PORT))
    b.run(501)
    assert again.error.errno == errno.EALREADY


def test_c12_no_connection_to_multicast_broadcast_or_nowhere():
    b = Bench()
    b.new_socket()
    for address in (bytes([224, 0, 0, 1]), bytes([10, 9, 0, 255]), b"\xff" * 4, bytes([8] * 4)):
        b.raises(errno.ENETUNREACH, b.sk.prot.connect, (address, 7), b.now)
        assert b.sk.sport == 0


def test_c12_bound_4_tuple_in_use():
    b = Bench.connected()
    other = new(b)
    other.reuse = b.sk.reuse = True
    other.host.ports.inherit(other, b.sk)
    other.sport, other.saddr, other.rcv_saddr = PORT, LOCAL4, LOCAL4
    with pytest.raises(OSError) as why:
        other.prot.connect(other, (PEER4, PEER_PORT), b.now)
    assert why.value.errno == errno.EADDRNOTAVAIL


def test_c13_syn_retries():
    b = Bench.syn_sent()
    b.take()
    b.run(200_000)
    times = [s.at for s in b.take()]
    assert times == [pytest.approx(t * 1000, abs=1) for t in (1, 2, 3, 4, 5, 7, 11, 19, 35, 67)]
    assert b.sk.state == CLOSE
    assert b.sk.err == errno.ETIMEDOUT


def test_c15_a_wrong_ack_is_reset_and_the_syn_repeated_soon():
    b = Bench.syn_sent()
    b.take()
    b.inject("A", seq=0, ack=7)
    b.expect("R", seq=7)
    b.run(9)
    b.expect("S", seq=0)
    assert b.sk.state == SYN_SENT


def test_c15_what_is_ignored_in_syn_sent():
    b = Bench.syn_sent()
    b.take()
    for flags in ("R", "A", "F", "P", ""):
        b.inject(flags, seq=0, ack=1)
        b.expect_nothing()
        assert b.sk.state == SYN_SENT


def test_c15_timestamp_echo_out_of_range_is_reset():
    b = Bench.syn_sent(ts=True)
    ours = b.sent[0].options.tsval
    b.take()
    for echo in (ours - 1, ours + 1):
        b.inject("SA", seq=0, ack=1, options=syn_options(1460, None, True, (5, echo)))
        b.expect("R", seq=1)
    b.run(40)
    b.inject("SA", seq=0, ack=1, options=syn_options(1460, None, True, (5, ours + 40)))
    assert b.sk.state == ESTABLISHED


def test_c15_a_waiting_writer_saves_the_ack():
    b = Bench.syn_sent()
    b.take()
    call = b.start_send(b"hello")
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert call.done
    assert b.brief() == [("PA", 1, 5)]


def test_c15_interactive_mode_delays_the_ack():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_TCP, TCP_QUICKACK, 0)

    b = Bench()
    b.new_socket()
    prepare(b)
    b.start_connect()
    b.take()
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    b.expect_nothing()
    b.run(199)
    b.expect_nothing()
    b.run(2)
    b.expect("A", seq=1, ack=1)


def test_c16_simultaneous_open():
    b = Bench.syn_sent(tcp_timestamps=0)
    own = b.expect("S").raw_options
    b.inject("S", seq=0, options=b"")  # whatever the peer offers, our options stand
    assert b.sk.state == SYN_RECV
    assert b.poll() == 0
    b.raises(errno.EALREADY, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    assert b.expect("SA", seq=0, ack=1).raw_options == own
    b.inject("SA", seq=0, ack=1, options=b"")
    assert b.sk.state == ESTABLISHED
    b.expect("A", seq=1, ack=1)
    assert b.sk.snd_wnd == 65535
    b.send(b"x")
    b.expect("PA", seq=1)


def test_c16_a_shutdown_in_syn_recv_waits_for_the_handshake():
    b = Bench.syn_sent()
    b.inject("S", seq=0, options=b.peer_syn_options())
    b.take()
    b.shutdown()
    b.expect_nothing()
    b.inject("A", ack=1)
    b.expect("FA", seq=1)


def test_c16_a_crossed_syn_is_repeated_and_given_up():
    b = Bench.syn_sent()
    b.take()
    b.inject("S", seq=0, options=b.peer_syn_options())
    b.take()
    b.run(200_000)
    assert {s.flags for s in b.take()} == {"SA"}
    assert b.sk.state == CLOSE
    assert b.sk.err == errno.ETIMEDOUT


@pytest.mark.parametrize("address", [b"\x7f\0\0\x01", LOCAL4])
@pytest.mark.parametrize("isn", [ISN, *ISNS])
def test_c16_self_connection(address, isn):
    b = Bench(isn=isn)
    b.new_socket()
    b.checks = False
    b.sk.prot.bind(b.sk, (address, PORT), b.now)
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (address, PORT), b.now)
    b.stack.run_softirq(b.now)
    assert b.sk.state == ESTABLISHED
    assert b.sk.prot.connect(b.sk, (address, PORT), b.now) is None
    b.send(b"to myself")
    b.stack.run_softirq(b.now)
    assert b.recv() == b"to myself"
    b.stack.run_softirq(b.now)
    b.shutdown()
    b.stack.run_softirq(b.now)
    b.run(300)
    b.stack.run_softirq(b.now)
    assert b.recv() == b""
    b.close()
    b.run(200_000)
    assert_empty(b)


def test_a40_an_absent_mss_option_means_the_default():
    assert Bench.connected(mss=None).sk.mss_cache == 536
    assert Bench.connected(mss=None, v6=True).sk.mss_cache == 1220
    assert Bench.accepted(mss=None).sk.mss_cache == 536
    assert Bench.accepted(mss=None, v6=True).sk.mss_cache == 1220


def test_a41_maxseg_lowers_what_is_offered_and_what_is_sent():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_TCP, TCP_MAXSEG, 500)

    b = Bench()
    b.new_socket()
    prepare(b)
    b.start_connect()
    assert b.getopt(SOL_TCP, TCP_MAXSEG) == 500
    assert b.expect("S").options.mss == 500
    b = Bench.accepted(prepare=prepare)
    assert b.sk.mss_cache == 500


def test_c18_disconnect_makes_the_socket_new_but_keeps_what_the_user_set():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_TCP, TCP_NODELAY, 1)
        b.setopt(SOL_SOCKET, SO_RCVBUF, 20000)
        b.setopt(SOL_TCP, TCP_CONGESTION, b"cubic")

    b = Bench.connected(prepare=prepare)
    b.inject("PA", data=b"unread")
    b.inject("PA", seq=20, data=b"hole")
    b.send(b"unacked")
    b.take()
    b.sk.prot.connect(b.sk, None, b.now)
    b.expect("RA", seq=8, ack=7)
    assert b.sk.state == CLOSE
    assert b.poll() == 0x4 | 0x8 | 0x10 | 0x100
    b.raises(errno.ECONNRESET, b.recv)
    b.raises(errno.ENOTCONN, b.recv)
    assert (b.sk.sport, b.sk.saddr) == (PORT, LOCAL4)
    assert b.sk.rmem_alloc == b.sk.wmem_queued == b.ioctl(0x541B) == 0
    assert b.ioctl(0x5411) == 7 + 65535 + 2  # the gap before the next ISN, as Linux shows it
    assert b.getopt(SOL_TCP, TCP_NODELAY) == 1
    assert b.getopt(SOL_SOCKET, SO_RCVBUF) == 40000
    assert b.sk.cc.name == "cubic"
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 0
    b.peer_seq = 1
    b.start_connect()
    b.expect("S", seq=0, win=18980)
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    b.inject("PA", data=b"again")
    assert b.recv() == b"again"


def test_c18_a_fresh_object_and_a_disconnected_one_differ_in_nothing_but_the_user_settings():
    b = Bench.connected(ts=True, wscale=7)
    for _ in range(12):
        b.inject("PA", data=b"x" * 500, urg=3)
        b.send(3000)
    b.inject("PA", seq=b.peer_seq + 50, data=b"y")
    b.run(1000)
    b.sk.prot.connect(b.sk, None, b.now)
    b.sk.sock_error()
    fresh = new(b)
    b.sk.prot.bind(fresh, (LOCAL4, 9), b.now)
    ours, theirs = _state(b.sk), _state(fresh)
    kept = {"sndbuf", "rcvbuf", "sport", "last_port", "heap_at", "ip_id", "page_used"}
    kept |= {"snd_una", "snd_nxt", "write_seq"}  # what SIOCOUTQ shows
    assert {k for k in ours if ours[k] != theirs[k]} <= kept


def _state(sk) -> dict[str, object]:
    """Every plain value of a socket."""
    names = [name for cls in type(sk).__mro__ for name in getattr(cls, "__slots__", ())]
    values = {name: getattr(sk, name, None) for name in names if name != "__weakref__"}
    found = {k: v for k, v in values.items() if isinstance(v, int | bytes | tuple | str | None)}
    for part in ("rtt", "min_rtt", "cc", "sacks"):
        thing = getattr(sk, part)
        for cls in type(thing).__mro__:
            for name in getattr(cls, "__slots__", ()):
                value = getattr(thing, name, None)
                if isinstance(value, int | str | float | None):
                    found[f"{part}.{name}"] = value
    return found


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


# -- nothing stays behind ------------------------------------------------------------------


def assert_empty(b: Bench, listeners: int = 0) -> None:
    host = b.stack.tcp
    assert not host.established
    assert len(host.listeners) == listeners
    assert host.tw_count == 0
    assert len(host.ports) == listeners
    assert len(b.stack.deadlines) == 0
