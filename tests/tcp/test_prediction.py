"""The kernel's fast path, and what it leaves out (decision 0003; rules A-50, B-50, C-27)."""

from __future__ import annotations

import pytest

from tests.tcp.harness import Bench
from ustack.tcp.predict import PAGE, forward_alloc
from ustack.tcp.sock import PREDICTION_OFF

SO_RCVBUF, TCP_QUICKACK = 8, 12


def reserve(b: Bench, want: int) -> None:
    """Queue data that is not acknowledged until `want` bytes are left of a page."""
    assert forward_alloc(b.sk) < PAGE
    b.send((forward_alloc(b.sk) - want) % PAGE - 832)
    b.take()
    assert forward_alloc(b.sk) == want


def closed_window(b: Bench) -> float:
    """The peer's window is closed, data waits; when the probe is due."""
    b.inject(win=0)
    reserve(b, 1000)
    return b.ms + b.sk.rtt.rto_us / 1000


@pytest.mark.parametrize(("length", "postponed"), [(100, False), (200, True)])
def test_a50_predicted_data_does_not_postpone_the_probe(length, postponed):
    b = Bench.connected()
    due = closed_window(b)
    b.run(50)
    b.inject("PA", win=0, data=b"x" * length)  # 200 bytes cost more than is reserved
    b.take()
    b.run_until(due + 1)
    assert bool(b.take()) != postponed


def test_data_in_the_wrong_order_turns_prediction_off_until_all_is_in_order():
    b = Bench.connected()
    assert b.sk.pred_wnd == 65535
    b.inject("A", seq=11, data=b"y" * 10)
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.inject("A", seq=31, data=b"y" * 10)
    b.inject("A", seq=1, data=b"x" * 10)
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.inject("A", seq=21, data=b"x" * 10)
    assert b.sk.pred_wnd == 65535


def test_urgent_data_turns_prediction_off_until_it_is_read():
    b = Bench.connected()
    b.inject("AU", data=b"ab", urg=2)
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.recv(1)
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.inject("A", data=b"c")
    b.recv()
    assert b.sk.pred_wnd == 65535


def test_a_scaled_window_is_predicted_after_the_first_segment_only():
    b = Bench.connected(wscale=2, window=1000)
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.inject("A", data=b"x")
    assert b.sk.pred_wnd == 1000
    b.inject("A", win=500)
    assert b.sk.pred_wnd == 500


def test_a_window_of_zero_turns_prediction_off():
    b = Bench.connected(prepare=lambda b: b.setopt(1, SO_RCVBUF, 4000))
    for _ in range(20):
        b.inject("A", data=b"x" * min(500, b.sk.cur_win) or b"x")
    assert b.take()[-1].win == 0
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.peer_seq = b.sk.rcv_nxt - b.sk.irs
    b.recv()
    assert b.sk.pred_wnd == PREDICTION_OFF
    b.inject("A", data=b"x")
    assert b.sk.pred_wnd == 65535


def test_c27_an_old_ack_is_a_drop_unless_it_was_predicted():
    b = Bench.connected()
    b.inject(ack=-5000)
    assert b.sk.drops == 0
    b.inject(ack=-5000, win=1000)
    assert b.sk.drops == 1


@pytest.mark.parametrize(("win", "ecr"), [(None, 5), (1000, 0)])
def test_c26_a_predicted_ack_that_is_too_old_still_moves_the_timestamp(win, ecr):
    b = Bench.connected(ts=True)
    old = b.sk.ts_recent
    b.inject(ack=-5000, win=win, tsval=old + 5)
    assert b.expect("A").options.tsecr == old + ecr


def test_c26_after_established_nothing_is_predicted():
    b = Bench.close_wait(ts=True)
    old = b.sk.ts_recent
    b.inject(ack=-5000, tsval=old + 5)
    assert b.expect("A").options.tsecr == old


def test_a_predicted_ack_does_not_ask_whether_we_owe_one():
    b = Bench.connected()
    b.setopt(6, TCP_QUICKACK, 0)
    b.send(10)
    b.inject("A", ack=1, data=b"x" * 10)
    b.take()
    b.sk.pingpong = 0
    b.inject("A", ack=11)
    b.expect_nothing()
    b.inject("A", ack=11, win=1000)
    b.expect("A", ack=11)


def test_what_was_reserved_in_vain_serves_the_next_segments():
    b = Bench.connected()
    b.inject("A", data=b"x" * 150)
    while forward_alloc(b.sk) >= 832:
        b.inject("A", data=b"x" * 150)  # no room for another such
    left = forward_alloc(b.sk)
    b.inject("A", data=b"x")  # merged
    assert forward_alloc(b.sk) == left + PAGE
    b.inject("A", data=b"x" * 1460)
    assert forward_alloc(b.sk) == left + PAGE - 2304
    b.recv()
    assert forward_alloc(b.sk) == 0
