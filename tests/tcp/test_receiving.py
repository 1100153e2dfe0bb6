"""Receiving: what recv takes and when it wakes, the buffer, urgent data, ACKs, readiness."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.tcp.harness import MS, SOL_SOCKET, SOL_TCP, Bench
from tests.tcp.receiving import acks, buffer, meminfo
from ustack.sock.wait import (
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDNORM,
    POLLWRNORM,
)
from ustack.tcp.sock import URG_VALID

MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_ERRQUEUE = 0x1, 0x2, 0x20, 0x100, 0x2000
SO_RCVBUF, SO_OOBINLINE, SO_RCVLOWAT, SO_RCVTIMEO, SO_PEEK_OFF, SO_MEMINFO = 8, 10, 18, 20, 42, 55
TCP_WINDOW_CLAMP, TCP_QUICKACK, TCP_INQ = 10, 12, 36
SIOCINQ, SIOCATMARK = 0x541B, 0x8905
IN, OUT = POLLIN | POLLRDNORM, POLLOUT | POLLWRNORM


# -- recv ----------------------------------------------------------------------------------


def test_b1_b5_what_recv_says_in_each_state():
    fresh = Bench()
    fresh.new_socket()
    fresh.raises(errno.ENOTCONN, fresh.recv)
    listener = Bench.listening()
    listener.raises(errno.ENOTCONN, listener.recv)
    b = Bench.syn_sent()
    b.raises(errno.EAGAIN, b.recv)
    b = Bench.connected()
    b.raises(errno.EAGAIN, b.recv)
    b.raises(errno.EAGAIN, b.recv, 10, MSG_ERRQUEUE)
    b.shutdown(0)
    assert b.recv() == b""
    b.inject("PA", data=b"late")
    assert b.recv() == b"late"


def test_b3_one_call_drains_all_segments():
    b = Bench.connected()
    for data in (b"abc", b"def", b"ghi"):
        b.inject("PA", data=data)
    assert b.recv() == b"abcdefghi"


def test_b5_data_then_error_once_then_the_end():
    b = Bench.connected()
    b.inject("PA", data=b"abc")
    b.inject("RA")
    assert b.recv() == b"abc"
    b.raises(errno.ECONNRESET, b.recv)
    assert b.recv() == b""


def test_b6_reading_nothing_still_needs_something():
    b = Bench.connected()
    b.raises(errno.EAGAIN, b.recv, 0)
    b.inject("PA", data=b"abc")
    assert b.recv(0) == b""
    assert b.ioctl(SIOCINQ) == 3
    b.recv()
    b.inject("FA")
    assert b.recv(0) == b""


def test_b7_woken_by_lowat_not_by_the_target():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100)
    call = b.start("recvmsg", 10, 0)
    b.inject("PA", data=b"x" * 60)
    assert not call.done
    b.inject("PA", data=b"x" * 40)
    assert call.done
    assert call.result.len == 10


def test_b7_what_was_taken_does_not_count_towards_lowat():
    b = Bench.connected()
    b.inject("PA", data=b"x" * 60)
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100)
    call = b.start("recvmsg", 1000, 0)
    b.inject("PA", data=b"x" * 60)
    assert not call.done
    b.inject("PA", data=b"x" * 40)
    assert call.result.len == 160


def test_b7_bytes_already_queued_are_returned_at_once():
    b = Bench.connected()
    b.inject("PA", data=b"x" * 60)
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100)
    assert b.start("recvmsg", 10, 0).len == 10


@pytest.mark.parametrize("event", ["fin", "rst", "urgent", "shutdown"])
def test_b7_what_else_wakes_a_reader(event):
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 100)
    call = b.start("recvmsg", 10, 0)
    if event == "fin":
        b.inject("FA")
    elif event == "rst":
        b.inject("RA")
    elif event == "urgent":
        b.inject("PAU", data=b"x", urg=1)
    else:
        b.shutdown(0)
    assert call.woken
    assert call.done == (event != "urgent")


def test_b7_a_full_buffer_wakes_a_reader_that_wants_more():
    b = Bench.connected(prepare=buffer(4000), mss=1000)
    b.setopt(SOL_SOCKET, SO_RCVLOWAT, 4000)
    call = b.start("recvmsg", 4000, MSG_WAITALL)
    while not call.woken:
        b.inject("A", data=b"x" * 500)
    assert not call.done
    assert b.sk.copied_seq == b.sk.rcv_nxt  # it took what there was, to make room


def test_b8_fin_ends_reads_and_keeps_ending_them():
    b = Bench.connected()
    b.inject("PA", data=b"abc")
    b.inject("FA")
    assert b.recv() == b"abc"
    assert b.recv() == b""
    assert b.recv() == b""


def test_b9_waitall():
    b = Bench.connected()
    b.inject("PA", data=b"x" * 60)
    call = b.start("recvmsg", 100, MSG_WAITALL)
    assert not call.done
    b.inject("PA", data=b"x" * 60)
    assert call.result.len == 100
    b.inject("FA")
    assert b.start("recvmsg", 100, MSG_WAITALL).len == 20


def test_b9_b10_waitall_ends_with_the_time():
    b = Bench.connected()
    b.sk.rcvtimeo = 100 * MS
    b.inject("PA", data=b"x" * 60)
    call = b.start("recvmsg", 100, MSG_WAITALL)
    b.run(99)
    assert not call.done
    b.run(1)
    assert call.result.len == 60
    call = b.start("recvmsg", 100, 0)
    b.run(100)
    assert call.error.errno == errno.EAGAIN


def test_b10_so_rcvtimeo_values():
    b = Bench.connected()
    for seconds, micros, error in ((0, 1_000_000, errno.EDOM), (0, -1, errno.EDOM)):
        with pytest.raises(OSError) as why:
            b.setopt(SOL_SOCKET, SO_RCVTIMEO, struct.pack("qq", seconds, micros))
        assert why.value.errno == error
    b.setopt(SOL_SOCKET, SO_RCVTIMEO, struct.pack("qq", -1, 0))
    call = b.start("recvmsg", 10, 0) if b.sk.rcvtimeo else None
    assert call is None


def test_a_cancelled_read_keeps_what_it_took():
    b = Bench.connected()
    b.inject("PA", data=b"x" * 60)
    call = b.start("recvmsg", 100, MSG_WAITALL)
    call.cancel()
    assert call.result.len == 60
    call = b.start("recvmsg", 100, 0)
    call.cancel()
    assert call.done
    assert call.result is None


def test_b11_peek_and_peek_off():
    b = Bench.connected()
    b.inject("PA", data=b"abc")
    b.inject("PA", data=b"defghij")
    assert b.recv(5, MSG_PEEK) == b"abcde"
    b.setopt(SOL_SOCKET, SO_PEEK_OFF, 0)
    assert b.recv(3) == b"abc"
    assert b.recv(2, MSG_PEEK) == b"de"
    assert b.recv(2, MSG_PEEK) == b"fg"
    assert b.recv(1) == b"d"
    assert b.getopt(SOL_SOCKET, SO_PEEK_OFF) == 3
    assert b.recv(10, MSG_PEEK) == b"hij"
    b.raises(errno.EAGAIN, b.recv, 10, MSG_PEEK)
    b.setopt(SOL_SOCKET, SO_PEEK_OFF, -1)
    assert b.recv() == b"efghij"


def test_b12_trunc_counts_without_copying():
    b = Bench.connected()
    b.inject("PA", data=b"abcdefgh")
    msg = b.sk.prot.recvmsg(b.sk, 4, MSG_TRUNC | 0x40, b.now)
    assert (msg.len, msg.chunks) == (4, [])
    assert b.ioctl(SIOCINQ) == 4


def test_b13_no_source_address():
    b = Bench.connected()
    b.inject("PA", data=b"x")
    assert b.sk.prot.recvmsg(b.sk, 4, 0, b.now).addr is None


def test_b14_tcp_inq():
    b = Bench.connected()
    for value in (2, -1):
        with pytest.raises(OSError) as why:
            b.setopt(SOL_TCP, TCP_INQ, value)
        assert why.value.errno == errno.EINVAL
    b.setopt(SOL_TCP, TCP_INQ, 1)
    b.inject("PA", data=b"abcde")

    def hint(length: int) -> int:
        ((level, kind, data),) = b.sk.prot.recvmsg(b.sk, length, 0x40, b.now).control
        assert (level, kind) == (SOL_TCP, 36)
        return int.from_bytes(data, "little")

    assert hint(2) == 3
    assert hint(3) == 0
    b.inject("FA")
    assert hint(3) == 1
    assert hint(3) == 1


def test_b11_the_peek_offset_moves_while_the_call_still_waits():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_PEEK_OFF, 4)
    call = b.start("recvmsg", 100, MSG_PEEK | MSG_WAITALL)
    b.inject("PA", data=b"0123456789")
    assert not call.done
    assert b.getopt(SOL_SOCKET, SO_PEEK_OFF) == 10
    b.raises(errno.EAGAIN, b.recv, 1, MSG_PEEK)


def test_b16_a_peeking_reader_follows_the_one_that_read():
    b = Bench.connected()
    b.inject("PA", data=b"abc")
    peek = b.start("recvmsg", 6, MSG_PEEK | MSG_WAITALL)
    assert b.recv() == b"abc"
    b.inject("PA", data=b"defghi")
    assert peek.done


def test_b16_after_that_it_starts_anew_with_each_wake_up():
    b = Bench.connected()
    b.inject("PA", data=b"abc")
    peek = b.start("recvmsg", 9, MSG_PEEK | MSG_WAITALL)
    assert b.recv() == b"abc"
    b.inject("PA", data=b"d")
    b.inject("PA", data=b"efghi")
    assert b"".join(peek.result.chunks) == b"abc" + b"d" + b"defgh"


# -- urgent data ---------------------------------------------------------------------------


def test_b20_b21_b22_urgent_byte_out_of_band():
    b = Bench.connected()
    b.inject("PAU", data=b"abc", urg=3)
    b.inject("PA", data=b"de")
    assert b.poll() == IN | OUT | POLLPRI
    assert b.ioctl(SIOCINQ) == 2
    assert b.ioctl(SIOCATMARK) == 0
    assert b.recv() == b"ab"
    assert b.ioctl(SIOCATMARK) == 1
    assert b.recv(1, MSG_OOB | MSG_PEEK) == b"c"
    assert b.recv(1, MSG_OOB) == b"c"
    b.raises(errno.EINVAL, b.recv, 1, MSG_OOB)
    assert b.poll() == IN | OUT
    assert b.recv() == b"de"


def test_b21_urgent_byte_in_line():
    b = Bench.connected()
    b.setopt(SOL_SOCKET, SO_OOBINLINE, 1)
    b.inject("PAU", data=b"abc", urg=3)
    b.inject("PA", data=b"de")
    b.raises(errno.EINVAL, b.recv, 1, MSG_OOB)
    assert b.recv() == b"ab"
    assert b.ioctl(SIOCATMARK) == 1
    assert b.recv() == b"cde"


def test_b20_announced_but_not_here():
    b = Bench.connected()
    b.inject("AU", data=b"ab", urg=5)
    b.raises(errno.EAGAIN, b.recv, 1, MSG_OOB)
    assert b.recv() == b"ab"
    b.inject("PA", data=b"cdef")
    assert b.recv(1, MSG_OOB) == b"e"
    assert b.recv() == b"cd"
    assert b.recv() == b"f"
    b.inject("AU", data=b"g", urg=9)
    b.inject("FA")
    assert b.recv(1, MSG_OOB) == b""
    b.inject("RA")
    b2 = Bench.connected()
    b2.inject("AU", data=b"g", urg=9)
    b2.inject("RA")
    b2.raises(errno.ENOTCONN, b2.recv, 1, MSG_OOB)


def test_b20_behind_the_announced_byte_the_header_is_read():
    b = Bench.connected()
    b.inject("AU", data=b"a", urg=2)
    b.inject("FA")  # the FIN has the number of the urgent byte
    assert not b.sk.urg_data & URG_VALID
    b.inject("A")
    assert b.poll() & POLLPRI
    assert b.recv(1, MSG_OOB) == b"\0"  # the last byte of that ACK's header


def test_b21_b70_the_skipped_byte_is_no_read_of_its_own():
    b = Bench.connected()
    b.inject("AU", data=b"abc", urg=1)
    b.run(60)
    b.sk.rcv_rtt_us = 50_000 << 3
    assert b.recv() == b"bc"
    assert b.sk.rcvq_seq == b.sk.copied_seq


def test_b14_a_call_says_what_is_left_if_it_began_so():
    b = Bench.connected()
    call = b.start("recvmsg", 10, 0)
    b.setopt(SOL_TCP, TCP_INQ, 1)
    b.inject("PA", data=b"abc")
    assert call.result.control == []
    b.inject("PA", data=b"abc")
    assert b.start("recvmsg", 1, 0).control == [(SOL_TCP, TCP_INQ, b"\2\0\0\0")]


def test_b20_length_zero():
    b = Bench.connected()
    b.inject("PAU", data=b"a", urg=1)
    msg = b.sk.prot.recvmsg(b.sk, 0, MSG_OOB, b.now)
    assert (msg.len, msg.flags) == (0, MSG_OOB | MSG_TRUNC)


def test_b21_a_newer_pointer_replaces_an_unread_byte():
    b = Bench.connected()
    b.inject("PAU", data=b"abc", urg=3)
    b.inject("PAU", data=b"def", urg=3)
    assert b.recv(1, MSG_OOB) == b"f"
    assert b.recv() == b"abcde"
    b = Bench.connected()
    b.inject("PAU", data=b"a", urg=1)
    b.inject("PAU", data=b"b", urg=1)  # the first is next to be read, and never will be
    assert b.recv(1, MSG_OOB) == b"b"
    b.raises(errno.EAGAIN, b.recv)


def test_b21_old_pointers_are_ignored():
    b = Bench.connected()
    b.inject("PA", data=b"abc")
    b.inject("AU", seq=1, data=b"ab", urg=1)
    b.inject("AU", data=b"", urg=0)
    assert b.poll() == IN | OUT | POLLPRI if b.sk.urg_data & 0x100 else IN | OUT
    assert b.recv() == b"abc"


# -- queueing ------------------------------------------------------------------------------


def test_b30_partial_overlap_at_the_head():
    b = Bench.connected()
    b.inject("PA", data=b"abcd")
    b.take()
    b.inject("PA", seq=3, data=b"XXef")
    b.expect("A", ack=7, sacks=[(3, 5)])
    assert b.recv() == b"abcdef"


def test_b30_wholly_old_data_is_reported_at_once():
    b = Bench.connected()
    b.inject("PA", data=b"abcd")
    b.take()
    b.inject("PA", seq=1, data=b"ab")
    b.expect("A", ack=5, sacks=[(1, 3)])
    b.inject("PA", data=b"e")
    assert b.expect("A", ack=6).sacks == []


def test_b30_across_the_right_edge_only_into_an_empty_queue():
    b = Bench.connected(prepare=buffer(20000))
    edge = b.sk.cur_win
    b.inject("PA", seq=1, data=b"x" * 1000)
    b.take()
    for at in range(1001, edge - 1000, 1000):
        b.inject("PA", seq=at, data=b"x" * 1000)
    b.take()
    at = b.sk.rcv_nxt - b.sk.irs
    room = b.sk.cur_win
    b.inject("PA", seq=at, data=b"x" * (room + 100))
    b.expect("A", ack=at)
    assert b.stack.mib["TcpExtBeyondWindow"] == 1
    b.recv()
    b.take()
    b.inject("PA", seq=at, data=b"x" * (b.sk.cur_win + 100))
    assert b.sk.rcv_nxt - b.sk.irs > at


def test_b31_the_bytes_that_came_first_win():
    b = Bench.connected()
    b.inject("A", seq=5, data=b"CCCC")
    b.inject("A", seq=3, data=b"bbXX")
    b.inject("A", seq=1, data=b"aa")
    assert b.recv() == b"aabbXXCC"
    b = Bench.connected()
    b.inject("A", seq=5, data=b"BBBB")
    b.take()
    b.inject("A", seq=1, data=b"xxxxyyyyZZ")
    b.expect("A", ack=11, sacks=[(5, 9)])
    assert b.recv() == b"xxxxyyyyZZ"


def test_b31_every_out_of_order_segment_is_acknowledged():
    b = Bench.connected(sack=False)
    for i in range(10):
        b.inject("A", seq=100 + 10 * i, data=b"x" * 10)
    assert acks(b) == [(1, 64240)] * 10


def test_b32_inq_does_not_count_the_fin():
    b = Bench.connected()
    b.inject("FPA", data=b"abc")
    assert b.ioctl(SIOCINQ) == 3
    b.recv()
    assert b.ioctl(SIOCINQ) == 0


def test_b33_rmem_is_the_sum_of_what_packets_cost():
    b = Bench.connected()
    b.inject("A", data=b"x" * 1460)
    b.inject("A", data=b"x" * 500)
    b.inject("A", seq=5000, data=b"x" * 1000)
    assert meminfo(b)[0] == 2304 + 1280 + 2304
    b.recv(1000)
    assert meminfo(b)[0] == 2304 + 1280 + 2304
    b.recv()
    assert meminfo(b)[0] == 2304


def test_b33_so_rcvbuf():
    b = Bench.connected()
    for value, got in ((0, 2304), (2304, 4608), (10**8, 8388608), (-1, 8388608)):
        b.setopt(SOL_SOCKET, SO_RCVBUF, value)
        assert b.getopt(SOL_SOCKET, SO_RCVBUF) == got


def test_b34_many_small_segments_are_repacked():
    b = Bench.connected(prepare=buffer(10000))
    sent = bytes(i & 255 for i in range(400))
    for i in range(400):
        b.inject("PA", data=sent[i : i + 1])
    assert meminfo(b)[0] <= 3000
    assert b.recv() == sent


def test_b34_out_of_order_data_goes_before_data_in_order():
    b = Bench.connected(prepare=buffer(20000))
    for i in range(80):
        b.inject("A", seq=2000 + 61 * i, data=b"x" * 60)
    assert meminfo(b)[0] <= 40000 + 832
    assert b.stack.mib["TcpExtTCPOFODrop"] > 0
    b.inject("A", seq=1, data=b"y" * 500)
    assert b.sk.rcv_nxt - b.sk.irs == 501
    assert b.stack.mib["TcpExtOfoPruned"] > 0
    assert b.recv() == b"y" * 500


def test_b34_out_of_order_data_goes_until_the_rest_fits():
    b = Bench.connected()
    for i in range(2, 8):
        b.inject("PA", seq=1100 * i, data=bytes(1000))
    b.setopt(SOL_SOCKET, SO_RCVBUF, 2000)
    b.take()
    b.inject("PA", seq=1, data=bytes(100))
    assert [skb.seq - b.sk.irs for skb in b.sk.ofo_queue] == [2200]
    assert b.sk.rmem_alloc <= b.sk.rcvbuf
    b.expect("A", ack=101)


def test_b34_nothing_left_to_give_up_the_window_closes():
    b = Bench.connected(prepare=buffer(2000), mss=500)
    sizes = []
    for _ in range(30):
        b.inject("A", seq=b.sk.rcv_nxt - b.sk.irs, data=b"x" * min(500, max(b.sk.cur_win, 1)))
        sizes.append(meminfo(b)[0])
    assert max(sizes) <= 4000 + 1280
    assert acks(b)[-1][1] == 0
    assert len(b.recv()) == b.sk.copied_seq - b.sk.irs - 1


def test_b34_the_buffer_grows_if_the_user_has_not_fixed_it():
    b = Bench.connected()
    for _ in range(110):
        b.inject("A", data=b"x" * 490)
    assert b.getopt(SOL_SOCKET, SO_RCVBUF) > 131072
    assert len(b.recv()) == 110 * 490


def test_b35_a_closed_window_is_answered():
    b = Bench.connected(prepare=buffer(20000))
    while b.sk.cur_win:
        b.inject("A", data=b"x" * min(1460, b.sk.cur_win))
    b.run(300)
    b.take()
    top = b.sk.rcv_nxt - b.sk.irs
    for seq, data in ((top, b"x" * 100), (top, b"x"), (top - 1, b"")):
        b.run(600)
        b.inject("A", seq=seq, data=data)
        b.expect("A", ack=top, win=0, len=0)
    assert b.stack.mib["TcpExtBeyondWindow"] == 2
    b.inject("FA", seq=top)
    assert b.sk.fin_received
