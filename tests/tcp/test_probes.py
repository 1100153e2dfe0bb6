"""Zero windows, probes, keepalive, and giving up (rules A-50 to A-52, A-71 to A-77, D-5,
D-9, D-20)."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import SOL_SOCKET, SOL_TCP, Bench
from ustack.sock.sock import SHUT_WR
from ustack.tcp.state import CLOSE, ESTABLISHED, FIN_WAIT2
from ustack.wire.packet import DROPPED, TAKEN

TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT = 1, 4, 5, 6, 18
SO_KEEPALIVE = 9


def zero_window(b: Bench, queued: int = 1000) -> None:
    """Everything sent is acknowledged, the window is closed, `queued` bytes wait."""
    b.inject(win=0)
    b.send(queued)
    b.take()


def near(values: list[float], wanted: list[float]) -> bool:
    """Within the tolerance of rule 0.2: the kernel's ticks."""
    return len(values) == len(wanted) and all(
        abs(v - w) <= max(12, 0.04 * w) for v, w in zip(values, wanted, strict=True)
    )


def test_a50_probes_of_a_closed_window():
    b = Bench.connected(hz=250)
    b.send(1000)
    b.inject(win=0)
    b.send(1000)
    b.take()
    start = b.ms
    b.run(7000)
    sent = b.take()
    assert {(s.flags, s.seq, s.len) for s in sent} == {("A", 1000, 0)}
    assert near([s.at - start for s in sent], [205, 621, 1453, 3117, 6509])


def test_a50_answers_keep_the_back_off_and_the_connection():
    b = Bench.connected()
    b.send(1000)
    zero_window(b)
    gaps = []
    last = b.ms
    for _ in range(25):
        while not b.sent:
            b.run(100)
        probe = b.take()[0]
        gaps.append(probe.at - last)
        last = probe.at
        b.inject(win=0)
        last = b.ms
    assert b.sk.state == ESTABLISHED
    assert max(gaps) <= 120_100
    assert gaps[-1] > 119_000


def test_a50_a_window_that_admits_some_of_it():
    b = Bench.connected()
    b.inject(win=128)
    b.send(500)
    b.expect_nothing()
    b.run(210)
    assert b.brief() == [("PA", 1, 128)]
    assert not b.sk.probes_out
    b.inject(win=65535)
    assert b.lens() == [372]


def test_a50_a_probe_is_not_a_small_segment_to_nagle():
    b = Bench.connected()
    b.inject(win=128)
    b.send(500)
    b.run(210)
    b.take()
    b.inject(ack=1, win=65535)
    assert b.lens() == [372]


def test_a50_opening_the_window_cancels_the_probe():
    b = Bench.connected()
    zero_window(b)
    b.run(3000)
    assert b.sk.rtt.backoff
    b.take()
    b.inject(win=65535)
    assert b.brief() == [("PA", 1, 1000)]
    assert not b.sk.rtt.backoff


def test_a50_urgent_data_gets_an_extra_probe():
    b = Bench.connected()
    b.inject(win=0)
    b.send(100, 1)
    b.run(210)
    assert b.brief() == [("AU", 1, 0), ("AU", 0, 0)]


def test_a50_a_fin_that_does_not_fit_waits_behind_the_data():
    b = Bench.connected()
    b.inject(win=500)
    b.send(500)
    b.take()
    b.inject(ack=501, win=0)
    b.close()
    b.run(250)
    b.inject(ack=501, win=1)
    assert ("FA", 501, 0) in b.brief()
    b = Bench.connected()
    b.inject(win=0)
    b.send(500)
    b.shutdown(SHUT_WR)
    b.take()
    b.inject(win=500)
    b.run(500)
    sent = b.take()
    assert sent[0].len == 500
    assert "F" not in sent[0].flags


def test_a51_what_updates_the_window():
    b = Bench.connected(wscale=0)
    b.inject(data=b"x" * 10)
    wl1 = b.peer_seq - 10
    b.inject(seq=wl1, win=60000)  # older: refused unless larger
    assert b.sk.snd_wnd == 65535
    b.inject(win=30000)  # newer sequence number
    assert b.sk.snd_wnd == 30000
    b.inject(win=20000)  # same numbers, smaller
    assert b.sk.snd_wnd == 30000
    b.inject(win=40000)  # same numbers, larger
    assert b.sk.snd_wnd == 40000
    b.inject(win=0)  # same numbers, closed
    assert b.sk.snd_wnd == 0
    b.inject(win=40000)
    b.send(100)
    b.inject(win=500)  # acknowledges something new
    assert b.sk.snd_wnd == 500


def test_a51_a_window_update_is_no_duplicate_ack():
    b = Bench.connected(sack=False, window=20000)
    b.send(14600)
    b.take()
    for win in (20000, 30000, 40000, 50000, 60000):  # the first is news for its number
        b.inject(ack=1, win=win)
    assert b.sk.sacked_out == 0
    b.inject(ack=1, win=60000)
    assert b.sk.sacked_out == 1


def test_a52_acks_do_not_lie_beyond_a_shrunk_window():
    b = Bench.connected()
    b.send(10 * 1460)
    b.take()
    b.inject(ack=1461, win=2000, data=b"x" * 3000)
    ack = b.take()[-1]
    assert ack.len == 0
    assert ack.seq == 1461 + 2000
    b = Bench.connected(wscale=7)
    b.send(10 * 1460)
    b.take()
    b.inject(ack=1461, win=(9 * 1460 - 800) >> 7, data=b"x" * 3000)
    assert b.take()[-1].seq == 1 + 10 * 1460  # less than a unit of our own scale, 1024


def test_a52_only_the_head_is_retransmitted_into_a_closed_window():
    b = Bench.connected()
    b.send(6 * 1460)
    b.take()
    b.inject(ack=1461, win=0)
    b.run(3000)
    assert {s.seq for s in b.take()} == {1461}
    assert b.sk.state == ESTABLISHED


def test_a52_a_retransmission_keeps_inside_the_window():
    b = Bench.connected()
    b.send(3000)
    b.take()
    b.inject(ack=1, win=700, data=b"x")
    b.run(1000)
    again = [s for s in b.take() if s.len and s.seq == 1]
    assert again
    assert max(s.len for s in again) <= 700


# -- giving up -----------------------------------------------------------------------------


def test_d5_the_timeline_of_a_single_segment():
    """The kernel sends at 0, 208, 416, 856, 1688, 3352 and 6776 ms: its timers run up to
    an eighth of their length late."""
    b = Bench.connected()
    b.send(100)
    b.run(7000)
    wanted = [0, 200, 400, 800, 1600, 3200, 6400]
    assert [s.at for s in b.take()] == pytest.approx(wanted, abs=0.1)


def test_d5_the_probe_does_not_start_the_clock_of_giving_up():
    b = Bench.connected()
    b.setopt(SOL_TCP, TCP_USER_TIMEOUT, 1500)
    b.send(100)
    b.run(1899)
    assert b.sk.state == ESTABLISHED
    b.run(15)
    assert b.sk.state == CLOSE
    b.raises(errno.ETIMEDOUT, b.recv)


def test_d9_fifteen_retries_of_924_seconds():
    b = Bench.connected()
    b.send(100)
    b.run(400 + 924_000)
    assert b.sk.state == ESTABLISHED
    b.run(125_000)
    assert b.sk.state == CLOSE
    assert b.sk.err == errno.ETIMEDOUT
    assert b.sk.wmem_queued == 0


def test_d9_the_soft_error_is_the_reason():
    b = Bench.connected()
    b.setopt(SOL_TCP, TCP_USER_TIMEOUT, 1000)
    b.send(100)
    b.sk.err_soft = errno.EHOSTUNREACH
    b.run(3000)
    b.raises(errno.EHOSTUNREACH, b.send, 1)


def test_d9_an_orphan_has_eight_retries():
    b = Bench.connected()
    b.send(100)
    b.close()
    b.run(400 + 100_000)
    assert b.sk.state != CLOSE
    b.run(110_000)
    assert b.sk.state == CLOSE
    assert not b.stack.tcp.sockets()


def test_d9_zero_window_probes_without_an_answer():
    b = Bench.connected()
    b.send(1000)
    zero_window(b)
    b.run(924_000)
    assert b.sk.state == ESTABLISHED
    probes = len(b.take())
    b.run(1000)
    probes += len(b.take())
    assert b.sk.state == CLOSE
    assert probes == 15
    assert b.sk.err == errno.ETIMEDOUT


def test_a71_user_timeout_bounds_zero_window_probing():
    b = Bench.connected()
    b.setopt(SOL_TCP, TCP_USER_TIMEOUT, 3000)
    b.send(1000)
    zero_window(b)
    b.run(3100)
    assert b.sk.state == ESTABLISHED
    b.run(200)
    assert b.sk.state == CLOSE


def test_a71_user_timeout_of_a_connection_attempt():
    b = Bench(cc="reno")
    b.new_socket()
    b.setopt(SOL_TCP, TCP_USER_TIMEOUT, 2500)
    b.start_connect()
    b.run(2490)
    assert b.sk.state != CLOSE
    b.run(100)
    assert b.sk.err == errno.ETIMEDOUT


def test_a71_negative_is_refused():
    b = Bench.connected()
    b.raises(errno.EINVAL, b.setopt, SOL_TCP, TCP_USER_TIMEOUT, -1)


def test_local_drops_do_not_end_a_connection_at_once():
    """A retransmission that the device refuses still starts the clock."""
    b = Bench.connected()
    b.send(100)
    b.dev.verdict = DROPPED
    b.run(30_000)
    assert b.sk.state == ESTABLISHED
    b.dev.verdict = TAKEN
    b.run(700)
    assert b.lens()[-1] == 100
    b.inject()
    assert not b.sk.packets_out


def test_a_closed_window_under_flight_does_not_time_out_while_the_peer_answers():
    b = Bench.connected()
    b.send(3000)
    b.take()
    b.inject(ack=1461, win=0)
    for _ in range(200):
        b.run(10_000)
        b.inject(ack=1461, win=0)
        assert b.sk.state == ESTABLISHED
    b.run(500_000)
    assert b.sk.state == CLOSE


# -- keepalive -----------------------------------------------------------------------------


def keepalive(b: Bench) -> None:
    b.setopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    b.setopt(SOL_TCP, TCP_KEEPIDLE, 1)
    b.setopt(SOL_TCP, TCP_KEEPINTVL, 1)
    b.setopt(SOL_TCP, TCP_KEEPCNT, 2)


def test_a73_keepalive():
    b = Bench.connected(prepare=keepalive)
    b.run(5000)
    sent = b.take()
    assert [(s.flags, s.seq, s.len) for s in sent] == [("A", 0, 0), ("A", 0, 0), ("RA", 1, 0)]
    assert near([s.at for s in sent], [1000, 2000, 3050])
    b.raises(errno.ETIMEDOUT, b.recv)


def test_a73_answers_keep_it_alive():
    b = Bench.connected(prepare=keepalive)
    for _ in range(20):
        b.run(1000)
        if b.take():
            b.inject()
    assert b.sk.state == ESTABLISHED


def test_a73_no_probes_while_data_is_in_flight_or_unsent():
    b = Bench.connected(prepare=keepalive)
    zero_window(b)
    b.run(10_000)
    assert b.sk.state == ESTABLISHED
    assert b.sk.net.mib["TcpExtTCPKeepAlive"] == 0


@pytest.mark.parametrize(
    ("option", "bad"), [(TCP_KEEPIDLE, 0), (TCP_KEEPIDLE, 32768), (TCP_KEEPCNT, 128)]
)
def test_a73_ranges(option, bad):
    b = Bench.connected()
    b.raises(errno.EINVAL, b.setopt, SOL_TCP, option, bad)


def test_a76_an_orphan_in_fin_wait2_is_gone_after_a_minute():
    b = Bench.connected()
    b.close()
    b.take()
    b.inject(ack=2)
    assert b.stack.tcp.timewaits()
    b.run(59_000)
    assert b.stack.tcp.timewaits()
    b.run(2000)
    assert not b.stack.tcp.timewaits()


def test_a76_with_an_owner_fin_wait2_lasts():
    b = Bench.fin_wait2()
    b.run(200_000)
    assert b.sk.state == FIN_WAIT2


def test_tlp_d20_one_segment_waits_for_a_delayed_ack():
    b = Bench.connected(rtt=10)
    b.send(100)
    b.take()
    b.run_until(10 + 209)  # two round trips and 200 ms, but not later than the RTO
    b.expect_nothing()
    b.run_until(10 + 211)
    b.expect("PA", seq=1, len=100)
    assert b.sk.retrans_out == 0  # a probe is not a retransmission that recovery counts
    assert b.sk.total_retrans == 1
