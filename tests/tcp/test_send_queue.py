"""What send() accepts, when it blocks, and what an ACK frees (rules A-1 to A-14, A-36)."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import SOL_SOCKET, SOL_TCP, Bench
from ustack.sock.sock import MSG_DONTWAIT, MSG_EOR, MSG_MORE, MSG_OOB, SHUT_WR
from ustack.sock.wait import POLLOUT
from ustack.tcp.state import CLOSE

OVERHEAD = 832
SO_SNDBUF, SO_SNDTIMEO = 7, 21
TCP_NODELAY, TCP_CORK, TCP_NOTSENT_LOWAT = 1, 3, 25
SIOCOUTQ, SIOCOUTQNSD = 0x5411, 0x894B
SECOND = 1_000_000_000


def with_sndbuf(size: int, **settings) -> Bench:
    return Bench.connected(prepare=lambda b: b.setopt(SOL_SOCKET, SO_SNDBUF, size // 2), **settings)


def fill(b: Bench, size: int) -> int:
    """Send pieces of `size` until EAGAIN; how much was taken."""
    total = 0
    while True:
        try:
            total += b.send(size)
        except BlockingIOError:
            return total


def test_a1_every_entry_costs_its_payload_and_832():
    b = Bench.connected(mss=1000)
    b.send(100, MSG_EOR)
    b.setopt(SOL_TCP, TCP_CORK, 1)
    b.send(100, MSG_EOR)
    b.send(100)
    assert b.wq() == 300 + 3 * OVERHEAD
    b.inject(ack=101)
    assert b.wq() == 200 + 2 * OVERHEAD


def test_a1_a_bare_fin_costs_832():
    b = Bench.connected()
    b.shutdown(SHUT_WR)
    assert b.wq() == OVERHEAD


@pytest.mark.parametrize(
    ("value", "got"),
    [(0, 4608), (1, 4608), (2304, 4608), (4608, 9216), (10**6, 2 * 10**6), (10**8, 8388608),
     (-1, 8388608)],
)  # fmt: skip
def test_a2_so_sndbuf(value, got):
    b = Bench()
    b.new_socket()
    assert b.getopt(SOL_SOCKET, SO_SNDBUF) == 16384
    b.setopt(SOL_SOCKET, SO_SNDBUF, value)
    assert b.getopt(SOL_SOCKET, SO_SNDBUF) == got


def test_a3_a_new_entry_needs_wmem_queued_below_sndbuf():
    b = Bench.connected(mss=1000)
    b.inject(win=0, ack=1)
    b.sk.sndbuf = 3 * (1000 + OVERHEAD)
    for _ in range(3):
        b.send(1000, MSG_EOR)
    assert b.wq() == b.sk.sndbuf
    b.raises(errno.EAGAIN, b.send, 1)
    b.sk.sndbuf += 1
    assert b.send(1) == 1


def test_a4_writable_when_a_third_is_free():
    b = with_sndbuf(60000)
    assert b.getopt(SOL_SOCKET, SO_SNDBUF) == 60000
    fill(b, 1460)
    seen = []
    while not b.poll() & POLLOUT:
        seen.append(b.wq())
        b.inject(ack=b.rel(b.sk.snd_una) + 1460)
    assert seen[-1] > 40000 >= b.wq()


def test_a5_small_writes_past_sndbuf_while_the_tail_has_room():
    b = with_sndbuf(12000)
    total = fill(b, 100)
    assert total == 100 + 5 * 1460
    assert b.wq() == 12392
    assert b.sk.write_seq == b.sk.snd_nxt


def test_a6_a_blocked_write_pushes_what_it_has_queued():
    b = with_sndbuf(60000)
    call = b.start_send(100_000, MSG_MORE)
    assert not call.done
    sent = b.take()
    assert sum(s.len for s in sent) == 10 * 1460
    assert not any(s.len % 1460 for s in sent)


def test_a6_nonblocking_too():
    """The last entry is pushed although MSG_MORE would hold it: it was cut short by EOR."""
    b = Bench.connected()
    b.sk.sndbuf = 3000
    b.setopt(SOL_TCP, TCP_CORK, 1)
    b.send(100, MSG_EOR)
    b.send(100, MSG_EOR)
    b.expect(len=100)
    b.sk.sndbuf = 4000
    b.send(50_000)
    assert sum(s.len for s in b.take()) > 100


def test_a7_a_blocked_writer_resumes_at_two_thirds():
    b = with_sndbuf(20000)
    call = b.start_send(100_000)
    b.inject(ack=1461)
    assert not call.done
    assert not call.woken
    while not call.woken:
        before = b.wq()
        b.inject(ack=b.rel(b.sk.snd_una) + 1460)
    assert before > 20000 * 2 // 3
    for _ in range(200):
        if call.done:
            break
        b.inject()
    assert call.result == 100_000


def test_a8_send_timeout_returns_what_was_queued():
    b = with_sndbuf(20000)
    b.sk.sndtimeo = SECOND // 5
    call = b.start_send(100_000)
    b.run(199)
    assert not call.done
    b.run(2)
    assert call.result == 46720


def test_a8_send_timeout_with_nothing_queued_is_eagain():
    b = with_sndbuf(20000)
    fill(b, 1460)
    b.sk.sndtimeo = SECOND // 5
    call = b.start_send(1)
    b.run(201)
    assert call.error.errno == errno.EAGAIN


def test_a8_an_error_after_some_bytes_waits_for_the_next_call():
    b = with_sndbuf(20000)
    call = b.start_send(100_000)
    queued = b.rel(b.sk.write_seq) - 1
    b.inject("RA", ack=1)
    assert call.result == queued
    b.raises(errno.ECONNRESET, b.send, 1)
    b.raises(errno.EPIPE, b.send, 1)


def test_a8_a_cancelled_call_returns_what_it_queued():
    b = with_sndbuf(20000)
    call = b.start_send(100_000)
    call.cancel()
    assert call.result == b.rel(b.sk.write_seq) - 1 > 0
    fill(b, 1460)
    call = b.start_send(1)
    call.cancel()
    assert call.done
    assert call.result is None


def test_a9_error_selection():
    b = Bench.connected()
    b.inject("RA")
    b.raises(errno.ECONNRESET, b.send, 1)
    b.raises(errno.EPIPE, b.send, 1)
    b = Bench.close_wait()
    b.inject("RA")
    b.raises(errno.EPIPE, b.send, 1)
    b = Bench.fin_wait1()
    b.raises(errno.EPIPE, b.send, 1)
    b.raises(errno.EPIPE, b.send, 0)


def test_a10_states():
    b = Bench()
    b.new_socket()
    b.raises(errno.EPIPE, b.send, 1)
    b = Bench.listening()
    b.raises(errno.EPIPE, b.send, 1)
    b = Bench.syn_sent()
    b.raises(errno.EAGAIN, b.send, 1)
    assert Bench.connected().send(0) == 0


def test_a10_a_blocking_send_waits_for_the_handshake():
    b = Bench.syn_sent()
    call = b.start_send(10)
    assert not call.done
    b.take()
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert call.result == 10
    assert [s.len for s in b.take() if s.len] == [10]


def test_a11_notsent_lowat():
    b = Bench.connected()
    b.setopt(SOL_TCP, TCP_NOTSENT_LOWAT, 10000)
    fill(b, 2000)
    assert b.sk.write_seq - b.sk.snd_nxt == 32120
    while not b.poll() & POLLOUT:
        b.inject(ack=b.rel(b.sk.snd_una) + 1460)
    assert 2 * (b.sk.write_seq - b.sk.snd_nxt) < 10000
    assert b.wq() <= 2 * b.sk.sndbuf // 3
    b.setopt(SOL_TCP, TCP_NOTSENT_LOWAT, -1)
    assert b.getopt(SOL_TCP, TCP_NOTSENT_LOWAT) == -1  # 2**32 - 1, no limit


class Watcher:
    """Counts wake-ups."""

    exclusive = False

    def __init__(self) -> None:
        self.woken = 0

    def wake(self, mask: int) -> bool:
        self.woken += bool(mask & POLLOUT)
        return True


def test_a12_no_wake_without_nospace():
    b = with_sndbuf(20000)
    watcher = Watcher()
    b.sk.wait_queue.add(watcher)
    b.send(1000)
    b.inject()
    assert watcher.woken == 0
    fill(b, 1460)
    assert b.sk.nospace
    while b.sk.packets_out or b.sk.write_queue:
        b.inject()
    assert watcher.woken == 1


def test_a12_eagain_with_empty_queues_runs_the_write_space_check():
    b = Bench.connected()
    watcher = Watcher()
    b.sk.wait_queue.add(watcher)
    b.sk.sndbuf = 0
    b.raises(errno.EAGAIN, b.send, 1)
    assert b.sk.nospace
    assert watcher.woken == 0
    b.setopt(SOL_SOCKET, SO_SNDBUF, 20000)
    assert watcher.woken == 1


def test_a13_sndbuf_at_establishment_and_growth():
    b = Bench.connected()
    assert b.getopt(SOL_SOCKET, SO_SNDBUF) == 46080
    for _ in range(12):
        fill(b, 1460)
        b.inject()
        b.run(1)
        b.inject()
    assert b.getopt(SOL_SOCKET, SO_SNDBUF) >= 2 * b.sk.cc.snd_cwnd // 2 * 2304
    locked = with_sndbuf(20000)
    assert locked.getopt(SOL_SOCKET, SO_SNDBUF) == 20000


def test_a14_outq():
    b = Bench.connected(mss=1000)
    b.send(15000)
    assert (b.ioctl(SIOCOUTQ), b.ioctl(SIOCOUTQNSD)) == (15000, 5000)
    b.inject(ack=501)
    assert (b.ioctl(SIOCOUTQ), b.ioctl(SIOCOUTQNSD)) == (14500, 5000)
    b.inject(ack=10001)
    b.inject(ack=15001)
    b.shutdown(SHUT_WR)
    assert b.ioctl(SIOCOUTQ) == 1
    b = Bench.syn_sent()
    assert b.ioctl(SIOCOUTQ) == 0
    b = Bench.listening()
    b.raises(errno.EINVAL, b.ioctl, SIOCOUTQ)


def test_a28_eor_starts_a_new_entry_and_never_merges():
    b = Bench.connected(mss=1000)
    b.setopt(SOL_TCP, TCP_CORK, 1)
    b.send(100, MSG_EOR)
    b.send(100)
    assert b.wq() == 200 + 2 * OVERHEAD
    b.setopt(SOL_TCP, TCP_NODELAY, 1)
    assert b.lens() == [100, 100]
    b.run(700)
    assert {s.len for s in b.take()} == {100}


def test_a36_an_entry_of_one_mss_is_kept_until_wholly_acked():
    b = Bench.connected()
    b.send(100)
    before = b.wq()
    b.inject(ack=51)
    assert b.wq() == before
    assert b.ioctl(SIOCOUTQ) == 50


def test_a36_an_entry_of_several_is_trimmed_to_the_byte():
    b = Bench.connected(mss=1000)
    b.send(4000)
    b.inject(ack=1501)
    assert b.wq() == 2500 + OVERHEAD
    assert b.sk.packets_out == 3
    b.inject(ack=2001)
    assert b.sk.packets_out == 2


def test_a37_side_effects_of_an_ack():
    b = Bench.connected()
    b.send(100)
    b.run(1000)
    assert b.sk.retransmits
    b.sk.err_soft = errno.EHOSTUNREACH
    b.inject()
    assert not b.sk.retransmits
    assert not b.sk.err_soft
    assert b.sk.rcv_tstamp == b.now


def test_flags_a65_and_zero_copy_of_bytes():
    """Receive-only flag bits do not matter to send, and bytes are kept by reference."""
    b = Bench.connected()
    for flag in (0x10, 0x20, 0x100, 0x200, 0x800, 0x2000, 0x4000):
        assert b.send(1, flag | MSG_DONTWAIT) == 1
    data = bytes(3000)
    b.send(data, MSG_MORE)
    part = b.sk.write_queue[-1].parts[-1]
    assert b.sk.state != CLOSE
    assert getattr(part, "obj", part) is data


def test_a12_a_write_that_found_no_room_is_told_even_if_its_push_made_some():
    b = Bench.connected(mss=100, window=65535)
    b.sk.cc.snd_cwnd = 20
    assert b.send(30000, MSG_OOB) < 30000
    assert b.sk.is_writeable()  # the buffer has grown with what was sent
    assert b.sk.nospace
