"""Closing: close, shutdown, linger, orphans, RST, TIME_WAIT, and that nothing stays behind."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from tests.tcp.closing import assert_empty, linger
from tests.tcp.harness import LOCAL4, MS, PEER4, PEER_PORT, PORT, SOL_SOCKET, SOL_TCP, Bench, Call
from ustack.sock.sock import AF_INET, SOCK_STREAM
from ustack.tcp.lifecycle import close_state
from ustack.tcp.state import (
    AFTER_CLOSE,
    CLOSE,
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    LISTEN,
    SYN_RECV,
    SYN_SENT,
    TIME_WAIT,
)

SO_KEEPALIVE, SO_LINGER, TCP_LINGER2 = 9, 13, 8
ISNS = (0, 2**31 - 1, 2**32 - 1)


# -- close ---------------------------------------------------------------------------------


def test_a70_unread_data_means_reset():
    b = Bench.connected()
    b.inject("PA", data=b"hello")
    b.send(100)
    b.take()
    b.close()
    b.expect("RA", seq=101, sport=PORT)
    b.expect_nothing()
    assert_empty(b)


def test_a70_a_fin_is_nothing_unread():
    b = Bench.connected()
    b.inject("PA", data=b"hello")
    b.recv()
    b.inject("FA")
    b.take()
    b.close()
    b.expect("FA", seq=1, ack=7)


def test_a70_linger_zero_means_reset():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_LINGER, linger(0))
    b.send(5)
    b.take()
    b.close()
    b.expect("RA", seq=6, sport=PORT)
    assert_empty(b)


def test_a70_a77_linger_waits_for_the_last_ack():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_LINGER, linger(5))
    b.send(5)
    call = b.close()
    assert isinstance(call, Call)
    assert not call.done
    b.run(100)
    b.inject("A", ack=7)
    assert call.done
    with pytest.raises(OSError) as why:
        b.setopt(SOL_SOCKET, SO_LINGER, b"\1\0\0\0")
    assert why.value.errno == errno.EINVAL


def test_a70_linger_is_over_after_its_time():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_LINGER, linger(2))
    b.send(5)
    call = b.close()
    b.run(1999)
    assert not call.done
    b.run(1)
    assert call.done
    assert b.sk.state == FIN_WAIT1
    assert b.sk.dead


def test_a72_linger2_negative():
    b = Bench.connected()
    b.setopt(SOL_TCP, TCP_LINGER2, -1)
    assert b.getopt(SOL_TCP, TCP_LINGER2) == -1
    b.close()
    b.take()
    b.inject("A", ack=2)
    b.expect("R", seq=2)
    assert_empty(b)
    b = Bench.fin_wait2()
    b.setopt(SOL_TCP, TCP_LINGER2, -1)
    b.close()
    b.expect("RA", seq=2, sport=PORT)
    assert_empty(b)


@pytest.mark.parametrize(("seconds", "lifetime"), [(5, 5_000), (0, 60_000), (300, 120_000)])
def test_a72_a76_an_orphan_waits_so_long_in_fin_wait2(seconds, lifetime):
    b = Bench.connected()
    b.setopt(SOL_TCP, TCP_LINGER2, seconds)
    b.close()
    b.inject("A", ack=2)
    b.take()
    b.run(lifetime - 1)
    assert b.stack.tcp.established
    b.run(2)
    b.expect_nothing()
    assert_empty(b)


def test_a74_shutdown():
    b = Bench()
    b.new_socket()
    b.raises(errno.EINVAL, b.shutdown, 3)
    b.raises(errno.ENOTCONN, b.shutdown, 1)
    b = Bench.connected()
    b.shutdown(1)
    b.expect("FA")
    b.shutdown(1)
    b.expect_nothing()
    b.raises(errno.EPIPE, b.send, b"x")
    b.inject("PA", data=b"still", ack=2)
    assert b.recv() == b"still"
    b = Bench.syn_sent()
    b.shutdown(1)
    assert b.sk.state == CLOSE
    assert b.getopt(SOL_SOCKET, 4) == errno.ECONNRESET


@pytest.mark.parametrize("state", ["fin_wait1", "fin_wait2"])
def test_a76_data_for_an_orphan_is_reset(state):
    b = getattr(Bench, state)()
    b.close()
    b.inject("PA", data=b"too late", ack=1 if state == "fin_wait1" else 2)
    b.expect("R", seq=1 if state == "fin_wait1" else 2)
    assert_empty(b)


def test_a76_an_orphan_gives_up_on_a_silent_peer():
    b = Bench.connected()
    b.send(5)
    b.close()
    b.run(3_600_000)
    assert_empty(b)


def test_a76_an_orphan_gives_up_on_a_closed_window():
    b = Bench.connected()
    b.inject("A", win=0)
    b.send(5)
    b.close()
    for _ in range(40):
        b.run(120_000)
    assert_empty(b)


def test_a76_orphans_are_bounded():
    b = Bench.listening(tcp_max_orphans=3)
    listener = b.sk
    for port in range(1001, 1006):
        b.inject("S", seq=0, sport=port, options=b.peer_syn_options())
        b.inject("A", seq=1, ack=1, sport=port)
        b.sk = listener
        b.accept()
        b.close()
    assert len(b.stack.tcp.orphans) == 3
    assert [s.dport for s in b.take() if s.flags == "RA"] == [1004, 1005]
    assert b.stack.mib["TcpExtTCPAbortOnMemory"] == 2
    b.sk = listener
    b.close()
    b.run(4_000_000)
    assert_empty(b)


def test_c28_close_state_table():
    for state, (after, fin) in {
        ESTABLISHED: (FIN_WAIT1, True),
        SYN_RECV: (FIN_WAIT1, True),
        CLOSE_WAIT: (LAST_ACK, True),
        SYN_SENT: (CLOSE, False),
        LISTEN: (CLOSE, False),
        TIME_WAIT: (CLOSE, False),
        FIN_WAIT1: (FIN_WAIT1, False),
        FIN_WAIT2: (FIN_WAIT2, False),
        CLOSING: (CLOSING, False),
        LAST_ACK: (LAST_ACK, False),
        CLOSE: (CLOSE, False),
    }.items():
        assert AFTER_CLOSE[state] == (after, fin)
    b = Bench.connected()
    assert close_state(b.sk)
    assert b.sk.state == FIN_WAIT1


@pytest.mark.parametrize("isn", ISNS)
@pytest.mark.parametrize("peer_isn", ISNS)
def test_c25_both_orders_of_closing_at_the_edges_of_sequence_space(isn, peer_isn):
    b = Bench.connected(isn=isn, peer_isn=peer_isn)
    b.close()
    b.expect("FA", seq=1)
    b.inject("A", ack=2)
    b.inject("FA", ack=2)
    b.expect("A", seq=2, ack=2)
    assert b.stack.tcp.tw_count == 1
    b.run(60_001)
    assert_empty(b)
    b = Bench.connected(isn=isn, peer_isn=peer_isn)
    b.inject("FA")
    b.run(300)
    b.expect("A", ack=2)
    b.close()
    b.expect("FA", seq=1, ack=2)
    b.inject("A", ack=2)
    assert_empty(b)


def test_c25_simultaneous_close():
    b = Bench.connected()
    b.close()
    b.expect("FA", seq=1)
    b.inject("FA", ack=1)
    b.expect("A", seq=2, ack=2)
    assert b.sk.state == CLOSING
    b.inject("A", ack=2)
    assert b.stack.tcp.tw_count == 1
    b.run(60_001)
    assert_empty(b)


def test_c25_what_is_queued_beyond_a_fin_is_dropped():
    b = Bench.connected()
    b.inject("A", seq=11, data=b"beyond")
    b.inject("FA", seq=5, data=b"")
    b.inject("A", seq=1, data=b"abcd")
    assert b.sk.state == CLOSE_WAIT
    assert b.recv() == b"abcd"
    assert b.recv() == b""
    assert b.sk.rmem_alloc == 0
    assert not b.sk.sacks.num_sacks


def test_c25_the_ack_of_a_fin_waits_for_what_we_may_have_to_say():
    b = Bench.connected()
    for _ in range(40):
        b.inject("A", data=b"x")
        b.recv()
    b.run(300)
    b.sk.ato = 40 * MS
    b.take()
    b.inject("FA")
    b.expect_nothing()
    b.run(41)
    b.expect("A", ack=42)


def test_c29_data_after_close_of_the_reading_side():
    b = Bench.fin_wait2()
    b.inject("PA", data=b"ok", ack=2)
    assert b.recv() == b"ok"
    b.shutdown(0)
    b.take()
    b.inject("PA", data=b"no", ack=2)
    b.expect("R", seq=2)
    b.raises(errno.ECONNRESET, b.recv)


# -- RST -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (Bench.connected, errno.ECONNRESET),
        (Bench.close_wait, errno.EPIPE),
        (Bench.fin_wait1, errno.ECONNRESET),
        (Bench.fin_wait2, errno.ECONNRESET),
        (Bench.closing, errno.ECONNRESET),
        (Bench.last_ack, errno.ECONNRESET),
    ],
)
def test_c21_reset_errors(make: Callable[[], Bench], error: int):
    b = make()
    b.inject("RA")
    assert b.sk.state == CLOSE
    assert b.getopt(SOL_SOCKET, 4) == error
    b.raises(errno.EPIPE, b.send, b"x")


def test_c21_where_a_reset_counts():
    b = Bench.connected()
    b.inject("R", seq=2)
    b.expect("A", seq=1, ack=1)  # a challenge
    b.inject("R", seq=70_000)
    b.inject("R", seq=0)
    b.expect_nothing()
    assert b.sk.state == ESTABLISHED
    b = Bench.connected()
    b.inject("A", seq=101, data=b"x" * 100)
    b.inject("A", seq=11, data=b"x" * 10)
    b.inject("R", seq=201)  # the end of the highest block
    assert b.sk.state == CLOSE
    b = Bench.connected()
    b.inject("PA", data=b"x" * 10)
    b.inject("A", seq=21, data=b"x" * 100)
    b.sk.sacks.dsack_set(b.sk.rcv_nxt + 300, b.sk.rcv_nxt + 400)
    b.inject("R", seq=b.sk.rcv_nxt + 400 - b.sk.irs)
    assert b.sk.state == ESTABLISHED
    b = Bench.close_wait()
    b.inject("R", seq=1)  # one below, after a FIN
    assert b.sk.state == CLOSE


def test_c22_answers_to_segments_that_fit_nothing():
    b = Bench()
    b.inject("S", seq=100)
    b.expect("RA", raw_seq=0, ack=101, win=0)
    b.inject("", seq=100, data=b"abc")
    b.expect("RA", raw_seq=0, ack=103)
    b.inject("FA", seq=100, ack=55)
    b.expect("R", seq=55)
    b.inject("SFA", seq=100, ack=56)
    b.expect("R", seq=56)
    b.inject("R", seq=100)
    b.inject("RA", seq=100, ack=7)
    b.inject("S", seq=100, bad_csum=True)
    b.expect_nothing()


def test_c23_c24_syn_in_a_connection():
    b = Bench.connected()
    b.inject("S", seq=500)
    b.expect("A", seq=1, ack=1)
    b.inject("S", seq=500)
    b.expect_nothing()
    b.run(501)
    b.inject("S", seq=500)
    b.expect("A")
    assert b.sk.state == ESTABLISHED
    assert b.stack.mib["TcpExtTCPChallengeACK"] == 2


def test_c24_a_repeated_bare_fin_is_answered_each_time():
    b = Bench.close_wait()
    for _ in range(3):
        b.inject("FA", seq=1)
    assert len(b.take()) == 3


def test_c27_acks_of_what_was_never_sent():
    b = Bench.connected()
    b.send(10)
    b.take()
    b.inject("PA", ack=50, data=b"lost")
    b.expect("A", seq=11, ack=1)
    b.raises(errno.EAGAIN, b.recv)
    b = Bench.fin_wait1()
    b.inject("PA", ack=50, data=b"lost")
    b.expect("A", seq=2, ack=1)
    assert b.sk.state == FIN_WAIT1
    b.raises(errno.EAGAIN, b.recv)


# -- TIME_WAIT -----------------------------------------------------------------------------


def time_wait(**settings) -> Bench:
    b = Bench.fin_wait2(**settings)
    b.inject("FA", ack=2)
    b.take()
    return b


def test_c30_the_socket_is_closed_at_once():
    b = time_wait()
    assert b.sk.state == CLOSE
    assert b.recv() == b""
    (tw,) = b.stack.tcp.timewaits()
    assert set(b.stack.tcp.ports.owners(PORT)) == {tw, b.sk}
    b.close()
    assert list(b.stack.tcp.ports.owners(PORT)) == [tw]
    b.run(60_001)
    assert_empty(b)


def test_c30_an_ephemeral_port_is_held_by_the_pair_alone():
    b = Bench()
    b.new_socket()
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.sport = b.sk.sport
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    b.shutdown()
    b.inject("FA", ack=2)
    (tw,) = b.stack.tcp.timewaits()
    assert list(b.stack.tcp.ports.owners(b.sport)) == [tw]


def test_c30_a_window_too_large_for_the_field_loses_its_high_bits():
    b = time_wait()
    (tw,) = b.stack.tcp.timewaits()
    tw.rcv_wnd = 0x1FE9C
    b.inject("A", seq=0, ack=2, data=b"x")
    assert b.expect("A").win == 0xFE9C


def test_c31_input():
    b = time_wait()
    b.run(50_000)
    b.inject("A", seq=2, ack=2)
    b.expect_nothing()
    b.run(59_000)
    b.inject("FA", seq=1, ack=2)  # the peer did not get our ACK
    b.expect("A", seq=2, ack=2)
    b.run(59_000)
    b.inject("S", seq=1)  # an old one: answered, but the time runs on
    b.expect("A", seq=2, ack=2)
    b.run(1_001)
    assert b.stack.tcp.tw_count == 0


def test_c31_reset_kills_it_but_not_with_rfc1337():
    b = time_wait()
    b.inject("R", seq=2)
    assert b.stack.tcp.tw_count == 0
    b = time_wait(tcp_rfc1337=True)
    b.inject("R", seq=2)
    assert b.stack.tcp.tw_count == 1
    b.inject("R", seq=5)
    b.expect_nothing()
    assert b.stack.tcp.tw_count == 1


def test_c31_answers_without_data_are_rationed():
    b = time_wait()
    for _ in range(3):
        b.inject("A", seq=30, ack=2)
    assert len(b.take()) == 1
    for _ in range(3):
        b.inject("PA", seq=30, ack=2, data=b"x")
    assert len(b.take()) == 3


def test_c31_fin_wait2_without_an_owner():
    b = Bench.fin_wait2()
    b.close()
    (tw,) = b.stack.tcp.timewaits()
    assert tw.substate == FIN_WAIT2
    b.inject("A", ack=2)
    b.expect_nothing()
    b.inject("S", seq=5, ack=2)
    b.expect("RA")
    assert b.stack.tcp.tw_count == 0
    b = Bench.fin_wait2()
    b.close()
    b.inject("FA", ack=2)
    b.expect("A", seq=2, ack=2)
    assert b.stack.tcp.timewaits()[0].substate == TIME_WAIT


def test_c33_a_new_syn_reopens_the_pair():
    b = Bench.accepted()
    listener = b.listener
    b.close()
    b.inject("FA", seq=1, ack=2)
    b.take()
    b.inject("S", seq=10, options=b.peer_syn_options())
    s = b.expect("SA", ack=11)
    assert s.seq == 2 + 65537
    assert b.stack.tcp.tw_count == 0
    b.inject("A", seq=11, ack=2 + 65538)
    assert len(listener.accept_queue) == 1


def test_c33_an_old_syn_does_not_and_without_a_listener_none_does():
    b = Bench.accepted()
    b.close()
    b.inject("FA", seq=1, ack=2)
    b.take()
    b.inject("S", seq=1, options=b.peer_syn_options())
    b.expect("A", seq=2, ack=2)
    b = time_wait()
    b.inject("S", seq=10)
    b.expect("A", seq=2, ack=2)
    assert b.stack.tcp.tw_count == 1


def test_c33_a_newer_timestamp_is_enough():
    b = Bench.accepted(ts=True)
    b.close()
    b.inject("FA", seq=1, ack=2)
    b.take()
    b.run(10)
    b.inject("S", seq=0, options=b.peer_syn_options())
    b.expect("SA", ack=1)


def test_c35_above_the_limit_there_is_no_time_wait():
    b = time_wait(tcp_max_tw_buckets=0)
    assert b.stack.mib["TcpExtTCPTimeWaitOverflow"] == 1
    b.close()
    assert_empty(b)


def test_c50_c51_a_time_wait_pair_keeps_its_port_from_others():
    b = time_wait()
    b.close()
    other = b.stack.socket(AF_INET, SOCK_STREAM)
    with pytest.raises(OSError) as why:
        other.prot.bind(other, (LOCAL4, PORT), b.now)
    assert why.value.errno == errno.EADDRINUSE
    b.run(60_001)
    other.prot.bind(other, (LOCAL4, PORT), b.now)
