"""ACKs, windows and readiness, rule by rule."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import MS, SOL_SOCKET, SOL_TCP, Bench
from tests.tcp.receiving import buffer
from ustack.sock.wait import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRNORM,
)
from ustack.tcp.state import CLOSE

MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_ERRQUEUE = 0x1, 0x2, 0x20, 0x100, 0x2000
SO_RCVBUF, SO_OOBINLINE, SO_RCVLOWAT, SO_RCVTIMEO, SO_PEEK_OFF, SO_MEMINFO = 8, 10, 18, 20, 42, 55
TCP_WINDOW_CLAMP, TCP_QUICKACK, TCP_INQ = 10, 12, 36
SIOCINQ, SIOCATMARK = 0x541B, 0x8905
IN, OUT = POLLIN | POLLRDNORM, POLLOUT | POLLWRNORM


# -- ACKs ----------------------------------------------------------------------------------


def test_b50_window_updates_after_reading():
    b = Bench.connected(prepare=buffer(20000))
    while b.sk.cur_win:
        b.inject("A", data=b"x" * min(1460, b.sk.cur_win))
    b.run(300)
    b.take()
    updates = {}
    for read in range(1000, 15000, 1000):
        b.recv(1000)
        for s in b.take():
            updates[read] = s.win
    assert updates == {2000: 1460, 3000: 2920, 6000: 5840, 12000: 11680}


def test_b50_reading_small_segments_acknowledges_them():
    b = Bench.connected()
    for _ in range(20):
        b.inject("A", data=b"x" * 100)
        b.recv()
    b.take()
    assert not b.sk.quick
    b.inject("PA", data=b"x" * 100)
    b.expect_nothing()
    b.recv()
    b.expect("A")  # a pushed segment, read to the end


def test_b51_segment_size_estimate():
    b = Bench.connected()
    assert b.sk.rcv_mss == 536
    b.inject("A", data=b"x" * 700)
    assert b.sk.rcv_mss == 700
    for size in (600, 600):
        b.inject("A", data=b"x" * size)
    assert b.sk.rcv_mss == 600  # twice the same size is no accident
    b.inject("A", data=b"x" * 1460)
    assert b.sk.rcv_mss == 1460


def test_b51_with_timestamps_and_sack_blocks_the_size_is_the_same():
    b = Bench.connected(ts=True)
    b.send(2000)
    b.inject("A", data=b"x" * 1448)
    b.inject("A", data=b"x" * 600, ack=1)
    b.inject("A", data=b"x" * 588, ack=1, sacks=[(500, 600)])
    assert b.sk.last_seg_size == 600


def test_b52_two_full_segments_are_acknowledged_at_once():
    b = Bench.connected()
    for _ in range(30):
        b.inject("A", data=b"x" * 1460)
        b.recv()
    b.run(100)
    b.sk.quick = 0
    b.take()
    b.sk.rcvlowat = 5000  # else the window must not have shrunk: see the next test
    b.inject("A", data=b"x" * 1460)
    b.expect_nothing()
    b.inject("A", data=b"x" * 1460)
    b.expect("A")


def test_b52_not_if_the_reader_is_expected_to_make_room_first():
    b = Bench.connected()
    for _ in range(30):
        b.inject("A", data=b"x" * 1460)
        b.recv()
    b.run(100)
    b.sk.quick = 0
    b.take()
    b.inject("A", data=b"x" * 1460)
    b.inject("A", data=b"x" * 1460)
    b.expect_nothing()
    b.recv()
    b.expect("A")


def quiet(b: Bench) -> None:
    """Past the quick ACKs of the start, everything acknowledged and read."""
    for _ in range(25):
        b.inject("A", data=b"x" * 100)
        b.recv()
        b.run(1)
    b.run(100)
    b.sk.quick = 0
    b.sk.ato = 40 * MS
    b.take()


def test_b53_delayed_ack_timeline():
    b = Bench.connected()
    quiet(b)
    start = b.ms
    b.inject("A", data=b"x" * 10)
    b.run(39.9)
    b.expect_nothing()
    b.run(0.2)
    assert b.expect("A").at == pytest.approx(start + 40, abs=0.1)
    assert b.sk.ato == 80 * MS  # nothing came to travel on


def test_b53_the_timer_follows_the_gaps_between_segments():
    b = Bench.connected()
    quiet(b)
    b.inject("A", data=b"x" * 10)
    for gap, ato in ((10, 40), (25, 45)):
        b.run(gap)
        b.inject("A", data=b"x" * 10)
        assert b.sk.ato == ato * MS
    b.run(201)  # longer than the RTO: the start again
    b.inject("A", data=b"x" * 10)
    assert b.take()[-1].ack == b.peer_seq
    assert b.sk.quick


def test_b53_with_ticks_the_gap_is_counted_in_them():
    b = Bench.connected(hz=250)
    b.sk.quick = 0
    b.now += 2 * MS  # the middle of a tick
    b.inject("A", data=b"x" * 100)
    b.run(27.9)
    b.inject("A", data=b"x" * 100)
    assert b.sk.ato == 5 * 4 * MS + 7 * 4 * MS
    b.run(0.2)
    b.inject("A", data=b"x" * 100)
    assert b.sk.ato == 6 * 4 * MS + 20 * MS
    b.inject("A", data=b"x" * 100)
    assert b.sk.ato == 5 * 4 * MS + 20 * MS


def test_b54_duplicate_acks_are_merged_after_the_third():
    b = Bench.connected(rtt=100)
    b.send(10)
    b.run(100)
    b.inject("A", ack=11)
    for _ in range(4):
        b.inject("A", data=b"x" * 1460)
    b.sk.rcv_rtt_us, b.sk.quick = 100_000 << 3, 0
    b.sk.rcv_ssthresh = b.sk.window_clamp  # growing would bring another quick ACK
    b.take()
    base = b.peer_seq
    for i in range(10):
        b.inject("A", seq=base + 1460 * (i + 1), data=b"x" * 1460)
    assert len(b.take()) == 3
    b.run(0.9)
    b.expect_nothing()
    b.run(0.2)
    b.expect("A", ack=base, sacks=[(base + 1460, base + 11 * 1460)])
    assert b.stack.mib["TcpExtTCPAckCompressed"] == 6


def test_b54_a_third_block_is_not_hidden():
    b = Bench.connected(rtt=100)
    b.send(10)
    b.run(100)
    b.inject("A", ack=11)
    b.sk.rcv_rtt_us = 100_000 << 3
    b.take()
    for seq in (100, 101, 102, 103):
        b.inject("A", seq=seq, data=b"x")
    b.take()
    b.inject("A", seq=200, data=b"y")
    b.expect_nothing()
    b.inject("A", seq=300, data=b"y")
    b.expect("A", sacks=[(200, 201), (100, 104)])


def test_b55_quick_acks_at_the_start():
    b = Bench.connected()
    for _ in range(20):
        b.inject("A", data=b"x" * 1460)
        b.expect("A")
        b.recv()
    b = Bench.connected()
    count = 0
    for _ in range(30):
        b.inject("A", data=b"x" * 100)
        count += len(b.take())
    assert count == 16


def test_b56_b57_interactive_mode_and_quickack():
    b = Bench.connected()
    b.inject("PA", data=b"request")
    b.take()
    b.recv()
    assert b.getopt(SOL_TCP, TCP_QUICKACK) == 1
    b.send(b"reply")
    b.take()
    assert b.getopt(SOL_TCP, TCP_QUICKACK) == 0
    b.inject("PA", data=b"request", ack=6)
    b.expect_nothing()  # it waits for the reply
    b.run(41)
    b.expect("A")
    assert b.getopt(SOL_TCP, TCP_QUICKACK) == 1
    b.setopt(SOL_TCP, TCP_QUICKACK, 0)
    b.inject("PA", data=b"request")
    b.recv()
    b.expect_nothing()
    b.setopt(SOL_TCP, TCP_QUICKACK, 2)
    b.expect("A")
    assert b.getopt(SOL_TCP, TCP_QUICKACK) == 0


def test_b58_sack_blocks_most_recent_first_three_with_timestamps():
    b = Bench.connected()
    for seq in (100, 200, 300, 400, 500):
        b.inject("A", seq=seq, data=b"x" * 10)
    b.run(1)
    assert b.take()[-1].sacks == [(500, 510), (400, 410), (300, 310), (200, 210)]
    b = Bench.connected(ts=True)
    for seq in (100, 200, 300, 400, 500):
        b.inject("A", seq=seq, data=b"x" * 10)
    b.run(1)
    assert b.take()[-1].sacks == [(500, 510), (400, 410), (300, 310)]
    b.inject("A", seq=505, data=b"x")
    b.run(1)
    assert b.take()[-1].sacks == [(505, 506), (500, 510), (400, 410)]


def test_b58_no_dsack_if_the_setting_is_off():
    b = Bench.connected(tcp_dsack=False)
    b.inject("PA", data=b"abcd")
    b.inject("PA", seq=1, data=b"ab")
    assert b.take()[-1].sacks == []


# -- windows -------------------------------------------------------------------------------


def test_b62_b64_the_clamp_follows_the_measured_ratio():
    b = Bench.connected()
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 64076
    b.inject("A", data=b"x" * 1460)
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 82944
    assert Bench.accepted(ts=True).getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 64088


def test_b63_data_out_of_order_counts_only_after_the_window_has_grown():
    b = Bench.connected(prepare=lambda b: b.setopt(SOL_SOCKET, SO_RCVBUF, 10000), sack=True)
    b.inject("A", seq=2, data=b"x" * 1448)
    assert b.sk.rcv_ssthresh == 8760 + 2 * 1460  # free space would be 11060 by now


def test_b63_a_fin_out_of_order_that_costs_nothing_lets_the_window_grow():
    b = Bench.connected(sack=True)
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100000)
    b.inject("A", seq=2, data=b"x" * 10)
    before = b.sk.rcv_ssthresh
    b.inject("FA", seq=12)
    assert b.sk.rcv_ssthresh - before == 2 * b.sk.advmss


def test_b64_window_clamp_values():
    b = Bench()
    b.new_socket()
    b.setopt(SOL_TCP, TCP_WINDOW_CLAMP, 0)
    b.setopt(SOL_TCP, TCP_WINDOW_CLAMP, 1)
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 1152
    b = Bench.connected()
    with pytest.raises(OSError) as why:
        b.setopt(SOL_TCP, TCP_WINDOW_CLAMP, 0)
    assert why.value.errno == errno.EINVAL
    b.setopt(SOL_TCP, TCP_WINDOW_CLAMP, 10_000)
    assert b.sk.rcv_ssthresh == 10_000


def test_b61_the_right_edge_never_moves_left():
    b = Bench.connected(wscale=7)
    edge = 0
    for _ in range(100):
        b.inject("A", data=b"x" * 700)
        for s in b.take():
            assert s.ack + (s.win << 10) >= edge
            edge = s.ack + (s.win << 10)
    assert edge


def test_b70_the_buffer_follows_a_fast_reader():
    b = Bench.connected(ts=True, wscale=7)
    b.send(10)
    b.run(20)
    seen = []
    flight = 10
    for _ in range(8):
        b.run(10)
        for _ in range(flight):
            b.inject("A", data=b"x" * 1448, ack=11)
            b.recv()
        b.send(1)
        b.run(10)
        b.inject("A", ack=b.sk.snd_nxt - b.sk.iss)
        flight *= 2
        seen.append(b.getopt(SOL_SOCKET, SO_RCVBUF))
    assert seen[-1] > 4 * 131072
    assert seen == sorted(seen)


def test_b70_a_fixed_buffer_stays():
    b = Bench.connected(ts=True, prepare=buffer(50_000))
    for _ in range(200):
        b.inject("A", data=b"x" * 1448)
        b.recv()
        b.run(1)
    assert b.getopt(SOL_SOCKET, SO_RCVBUF) == 100_000


def test_b70_out_of_order_data_makes_room_for_itself():
    b = Bench.connected()
    for _ in range(43):
        b.inject("A", data=b"x" * 1460)
        b.recv()
    base = b.peer_seq
    for i in range(40):
        b.inject("A", seq=base + 1460 * (i + 1), data=b"x" * 1460)
    assert b.getopt(SOL_SOCKET, SO_RCVBUF) == 140736
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 89059


def test_b71_rcvlowat():
    b = Bench()
    b.new_socket()
    for value, lowat, rcvbuf in (
        (1000, 1000, 131072),
        (100_000, 100_000, 200_000),
        (-1, 16777216, 33554432),
        (0, 1, 33554432),
    ):
        b.setopt(SOL_SOCKET, SO_RCVLOWAT, value)
        assert b.getopt(SOL_SOCKET, SO_RCVLOWAT) == lowat
        assert b.getopt(SOL_SOCKET, SO_RCVBUF) == rcvbuf
        assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 0
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100_000)
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 100_000
    b = Bench.connected(prepare=buffer(20_000))
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 10**6)
    assert b.getopt(SOL_SOCKET, SO_RCVLOWAT) == 20_000


def test_b71_lowering_it_wakes_a_reader():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100)
    call = b.start("recvmsg", 10, 0)
    b.inject("PA", data=b"x" * 20)
    assert not call.done
    assert b.poll() == OUT
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 20)
    assert call.done


# -- readiness -----------------------------------------------------------------------------


def test_b80_poll():
    fresh = Bench()
    fresh.new_socket()
    assert fresh.poll() == OUT | POLLHUP
    assert Bench.syn_sent().poll() == 0
    b = Bench.connected()
    assert b.poll() == OUT
    b.inject("PA", data=b"x")
    assert b.poll() == IN | OUT
    b.recv()
    b.inject("FA")
    assert b.poll() == IN | OUT | POLLRDHUP
    b.shutdown()
    assert b.poll() == IN | OUT | POLLHUP | POLLRDHUP
    assert Bench.fin_wait1().poll() == OUT
    b = Bench.connected()
    b.inject("RA")
    assert b.poll() == IN | OUT | POLLERR | POLLHUP | POLLRDHUP
    assert b.getopt(SOL_SOCKET, 4) == errno.ECONNRESET
    assert b.poll() == IN | OUT | POLLHUP | POLLRDHUP
    b = Bench.listening()
    assert b.poll() == 0
    b.inject("S", seq=0, options=b.peer_syn_options())
    b.inject("A", seq=1, ack=1)
    assert b.poll() == IN


def test_b80_an_urgent_byte_that_is_skipped_is_nothing_to_read():
    b = Bench.connected()
    b.inject("PAU", data=b"a", urg=1)
    assert b.poll() == OUT | POLLPRI
    b.recv(1, MSG_OOB)
    b.raises(errno.EAGAIN, b.recv)


def test_b82_each_error_is_taken_once():
    b = Bench.connected()
    b.inject("RA")
    assert b.getopt(SOL_SOCKET, 4) == errno.ECONNRESET
    assert b.getopt(SOL_SOCKET, 4) == 0
    assert b.recv() == b""
    b.raises(errno.EPIPE, b.send, b"x")
    assert b.sk.state == CLOSE


def test_a_dropped_segment_counts_in_meminfo():
    b = Bench.connected(sack=True)
    b.inject("A", seq=1 + 70000, data=b"beyond")
    assert b.sk.drops == 1
    b.inject("A", seq=11, data=b"x" * 10)
    b.inject("A", seq=11, data=b"x" * 10)
    assert b.sk.drops == 2
    b.inject("A", seq=1, data=b"x" * 20)
    assert b.sk.drops == 3
    b.inject("R", seq=500)
    assert b.sk.drops == 4


def test_b61_what_is_accepted_may_be_more_than_the_field_can_say():
    b = Bench.connected()
    for _ in range(40):
        b.inject("A", data=b"x" * 1460)
        b.recv()
    assert b.sk.rcv_wnd > 65535
    assert b.take()[-1].win == 65535


def test_b53_a_missed_delay_doubles_up_to_the_timeout():
    b = Bench.connected(hz=250, rtt=46)
    b.sk.quick, b.sk.lrcvtime, b.sk.ato = 0, b.now, 180 * MS
    b.inject("A", data=b"x" * 10)
    assert b.sk.ato == 22 * 4 * MS + 20 * MS
    b.run(300)
    assert b.sk.ato == 216 * MS  # more than an ACK is ever delayed
    b.sk.ato, b.sk.lrcvtime = 240 * MS, b.now
    b.inject("A", data=b"x" * 10)
    b.run(300)
    assert b.sk.ato == 248 * MS  # the timeout of 246 ms in ticks
