"""MSS, receive window and pacing arithmetic, against what Linux 6.18 was seen to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tcp.harness import Bench
from ustack.sock.truesize import rx_truesize
from ustack.tcp.congestion.base import AckSample, CongestionControl
from ustack.tcp.mss import (
    GSO_MAX_SIZE,
    TCP_MSS_DEFAULT,
    TSTAMP_LEN,
    advertise_mss,
    bound_to_half_wnd,
    mtu_to_mss,
    size_goal,
)
from ustack.tcp.pacing import (
    PACING_NEEDED,
    PACING_UNLIMITED,
    gap_after,
    tso_segs,
    update_pacing_rate,
)
from ustack.tcp.window import (
    grow_window,
    initial_clamp,
    offered_window,
    scaling_ratio,
    select_initial_window,
    select_window,
    space_from_win,
    space_is_low,
    win_from_space,
)

RMEM_MAX = 33554432
CORE_RMEM_MAX = 4194304


class TestMss:
    @pytest.mark.parametrize(
        ("option", "mss"),
        [
            (None, 536),
            (1, 48),
            (40, 48),
            (88, 88),
            (100, 100),
            (536, 536),
            (1460, 1460),
            (9000, 1460),
        ],
    )
    def test_peer_option_on_mtu_1500(self, option: int | None, mss: int) -> None:
        assert mtu_to_mss(1500, 20, TCP_MSS_DEFAULT if option is None else option) == mss

    @pytest.mark.parametrize(("window", "mss"), [(536, 536), (537, 268), (1000, 500), (3000, 1460)])
    def test_peer_window(self, window: int, mss: int) -> None:
        assert bound_to_half_wnd(mtu_to_mss(1500, 20, 1460), window) == mss

    def test_tiny_window_leaves_room_for_a_minimal_packet(self) -> None:
        assert bound_to_half_wnd(1460, 10) == 48
        assert bound_to_half_wnd(1448, 10, 32) == 36
        assert bound_to_half_wnd(1460, 0) == 1460

    def test_options_and_extensions_come_off(self) -> None:
        assert mtu_to_mss(1500, 20, 1460, 20 + TSTAMP_LEN) == 1448
        assert mtu_to_mss(1500, 40, 1460, 20 + TSTAMP_LEN) == 1428
        assert mtu_to_mss(1500, 40, 1440, ext_hdr_len=8) == 1432

    def test_advertised(self) -> None:
        assert advertise_mss(1500, False) == 1460
        assert advertise_mss(1500, True) == 1440
        assert advertise_mss(1500, False, user_mss=500) == 500
        assert advertise_mss(1500, False, user_mss=32767) == 1460
        assert advertise_mss(200, False) == 256
        assert advertise_mss(65536, False) == 65495
        assert advertise_mss(1280, True) == 1220
        assert advertise_mss(65536, True) == 65476
        assert advertise_mss(65515 + 60, True) == 65515
        assert advertise_mss(65516 + 60, True) == 65535

    def test_first_window_on_loopback(self) -> None:
        """MTU 65536 with timestamps: half of a window of 65483 makes two segments of
        32741, which a reader sees as 65482 bytes."""
        advertised = advertise_mss(65536, False)
        window, _, _ = select_initial_window(
            65536, advertised - TSTAMP_LEN, 0, True, RMEM_MAX, CORE_RMEM_MAX
        )
        assert (advertised, window) == (65495, 65483)
        header_len = 20 + TSTAMP_LEN
        mss = bound_to_half_wnd(mtu_to_mss(65536, 20, advertised, header_len), window, header_len)
        assert mss == 32741
        assert 2 * mss == 65482

    def test_size_goal(self) -> None:
        assert size_goal(1460, 65535) == 22 * 1460
        assert size_goal(1448, 1 << 24, 32) == 45 * 1448
        assert size_goal(1460, 2000) == 1460
        assert size_goal(32741, 65483, 32) == 32741


class TestPacing:
    def test_rate_is_window_per_round_trip(self) -> None:
        slow_start = update_pacing_rate(10, 0x7FFFFFFF, 1000, 8 * 100_000)
        assert slow_start == 2 * 10 * 1000 * 10  # 200 %, ten round trips a second
        assert update_pacing_rate(10, 20, 1000, 8 * 100_000) == 120_000
        assert update_pacing_rate(10, 22, 1000, 8 * 100_000) == 200_000

    def test_rate_counts_what_is_out(self) -> None:
        assert update_pacing_rate(10, 10, 1000, 800_000, packets_out=30) == 360_000

    def test_rate_is_capped_and_needs_a_sample(self) -> None:
        assert update_pacing_rate(10, 20, 1000, 800_000, max_pacing=5000) == 5000
        assert update_pacing_rate(10, 20, 1000, 0) == 10 * 1000 * 80_000 * 120
        assert update_pacing_rate(1 << 30, 20, 65000, 0) <= PACING_UNLIMITED

    @pytest.mark.parametrize(
        ("rate", "min_rtt_us", "segs"),
        [
            (0, 100, 44),  # a short path: full bursts at any rate
            (0, 512, 22),
            (0, 5120, 2),
            (1024 * 1460 * 7, 1 << 20, 7),  # 1 ms worth
            (1024 * 1460 * 7, 5120, 7),
            (0, 0xFFFFFFFF, 2),  # no sample yet
            (0, 512 * 4, 2),
            (PACING_UNLIMITED, 1 << 20, 44),
        ],
    )
    def test_burst(self, rate: int, min_rtt_us: int, segs: int) -> None:
        assert tso_segs(rate, min_rtt_us, 1460) == segs

    def test_burst_stops_growing_on_long_paths(self) -> None:
        assert tso_segs(0, 31 << 9, 1, min_tso_segs=0, gso_max=1 << 31) == 1
        assert tso_segs(0, 32 << 9, 1, min_tso_segs=0, gso_max=1 << 32) == 0

    def test_a_burst_is_one_packet(self) -> None:
        assert tso_segs(0, 1 << 20, 1460, min_tso_segs=1000) == 44
        assert tso_segs(0, 1 << 20, 65483, min_tso_segs=2) == 1

    def test_burst_of_huge_segments(self) -> None:
        assert tso_segs(PACING_UNLIMITED, 0, 32741) == 2
        assert tso_segs(0, 1 << 20, 1460, min_tso_segs=1) == 1
        assert GSO_MAX_SIZE // 1460 == 44


class TestInitialWindow:
    def test_active_open(self) -> None:
        got = select_initial_window(65536, 1460, 0, True, RMEM_MAX, CORE_RMEM_MAX)
        assert got == (64240, 65535 << 10, 10)

    def test_passive_open_with_timestamps(self) -> None:
        got = select_initial_window(65536, 1448, 0, True, RMEM_MAX, CORE_RMEM_MAX)
        assert got[0] == 65160

    def test_locked_buffer(self) -> None:
        full = win_from_space(40000, 128)
        clamp = initial_clamp(0, full, rcvbuf_locked=True)
        assert clamp == full == 20000
        got = select_initial_window(full, 1460, clamp, True, RMEM_MAX, CORE_RMEM_MAX)
        assert got == (18980, 20000, 0)

    def test_clamp_without_lock(self) -> None:
        assert initial_clamp(0, 20000, rcvbuf_locked=False) == 0
        assert initial_clamp(5000, 20000, rcvbuf_locked=True) == 5000

    def test_peer_without_scaling(self) -> None:
        got = select_initial_window(200_000, 1460, 0, False, RMEM_MAX, CORE_RMEM_MAX)
        assert got == (198560, 65535, 0)

    def test_route_window_and_small_space(self) -> None:
        assert select_initial_window(65536, 1460, 0, True, 0, 0, init_rcv_wnd=4)[0] == 5840
        assert select_initial_window(1000, 1460, 0, True, 0, 0) == (1000, 65535, 0)
        assert select_initial_window(-5, 1460, 0, True, 0, 0)[0] == 0

    @given(st.integers(0, 1 << 31), st.integers(48, 65495), st.integers(0, 1 << 31))
    def test_scale_is_enough_and_no_more(self, space: int, mss: int, rmem: int) -> None:
        window, clamp, scale = select_initial_window(space, mss, 0, True, rmem, 0)
        largest = min(max(rmem, space - space % mss if space > mss else space), 65535 << 14)
        assert window <= largest
        assert clamp == 65535 << scale
        assert scale == 14 or largest >> scale <= 65535
        assert scale == 0 or largest >> (scale - 1) > 65535


def window_for(rcvbuf: int, rmem: int, ratio: int, **changes: int) -> int:
    """The window of a socket without scaling whose `rcv_mss` is 1460."""
    full = win_from_space(rcvbuf, ratio)
    args = {"rcv_mss": 1460, "rcv_ssthresh": full, "rcv_wnd": 0, "rcv_wscale": 0} | changes
    return select_window(win_from_space(rcvbuf - rmem, ratio), full, full, **args)


class TestWindow:
    def test_ratio_of_full_segments(self) -> None:
        ratio = scaling_ratio(1460, rx_truesize(1500))
        assert ratio == 162
        assert win_from_space(131072, ratio) == 82944
        assert scaling_ratio(1, 1000) == 1
        assert space_from_win(win_from_space(25600, 128), 128) == 25600

    def test_updates_while_a_full_buffer_is_read(self) -> None:
        """rcvbuf 40000 locked, window 0, 1000 bytes read at a time."""
        ratio = 162
        clamp = win_from_space(40000, ratio)
        rmem, window, read, unread_head = 17 * 2304, 0, 0, 1460
        updates = []
        while read < 13000:
            read += 1000
            unread_head -= 1000
            if unread_head <= 0:
                rmem -= 2304
                unread_head += 1460
            if 2 * window <= clamp:
                new = window_for(40000, rmem, ratio, rcv_wnd=window)
                if new > 0 and new >= 2 * window:
                    window = new
                    updates.append((read, new))
        assert updates == [(2000, 1460), (3000, 2920), (6000, 5840), (12000, 11680)]

    def test_scaled_window_after_full_segments(self) -> None:
        assert window_for(131072, 2304, 162, rcv_wscale=10, rcv_ssthresh=81900) == 81920

    def test_small_windows_are_withheld(self) -> None:
        full = win_from_space(131072, 128)
        assert window_for(131072, 131072 - 2000, 128, rcv_wscale=7) == 0  # less than a segment
        assert window_for(131072, 131072 - 2 * (full >> 4) + 2, 128, rcv_mss=100) == 0
        assert window_for(131072, 131072 - 2 * (full >> 4), 128, rcv_mss=100) == 4096 - 4096 % 100
        assert window_for(131072, 140000, 128, rcv_wscale=7) == 0

    def test_scale_rounds_up_unless_space_is_low(self) -> None:
        assert window_for(131072, 0, 128, rcv_wscale=10, rcv_ssthresh=60001) == 60416
        low = window_for(131072, 131072 - 2 * 20000, 128, rcv_wscale=10)
        assert low == 19 * 1024

    def test_unscaled_window_stands_within_one_segment(self) -> None:
        assert window_for(60000, 0, 128, rcv_wnd=29200) == 29200
        assert window_for(60000, 0, 128, rcv_wnd=28000) == 29200
        assert window_for(60000, 0, 128, rcv_wnd=31000) == 29200
        # rcv_mss as large as the buffer: only one segment fits, a half more must count
        assert window_for(2000, 0, 128, rcv_mss=1460, rcv_wnd=300) == 1000

    def test_no_buffer_no_window(self) -> None:
        assert select_window(5000, 0, 1000, 1460, 5000, 0, 0) == 0

    def test_unscaled_boundaries(self) -> None:
        full = 30000
        for offered, expected in ((28540, 29200), (28541, 28541), (30000, 30000), (30001, 29200)):
            assert select_window(full, full, full, 1460, full, offered, 0) == expected
        # a segment as large as the buffer: the offer stands until half a buffer more is free
        for free, expected in ((800, 300), (801, 801)):
            assert select_window(free, 1000, 1000, 1460, 1000, 300, 0) == expected

    def test_zero_window_boundaries(self) -> None:
        # half of the buffer free is not low: a window below the segment size is fine
        assert select_window(1000, 2000, 2000, 1500, 2000, 0, 0) == 0
        assert select_window(1000, 2000, 2000, 1500, 2000, 100, 2) == 1000
        assert select_window(999, 2000, 2000, 1500, 2000, 100, 2) == 0
        assert select_window(900, 2000, 2000, 900, 2000, 100, 2) == 900
        assert select_window(899, 2000, 2000, 900, 2000, 100, 2) == 0
        # a sixteenth of the buffer, when the clamp is lower than that
        assert select_window(125, 2000, 260, 1, 260, 100, 0) == 125
        assert select_window(124, 2000, 260, 1, 260, 100, 0) == 0

    def test_low_space(self) -> None:
        assert space_is_low(499, 1000, 5000)
        assert not space_is_low(500, 1000, 5000)
        assert space_is_low(500, 5000, 1002)

    def test_right_edge_never_moves_left(self) -> None:
        assert offered_window(1000, 5000, 0) == 5000
        assert offered_window(0, 5000, 10) == 5120
        assert offered_window(6144, 5000, 10) == 6144
        assert offered_window(0, 5000, 10, shrink=True) == 0
        assert offered_window(0, 5000, 0, shrink=True) == 5000

    def test_shrinking_rounds_down_first(self) -> None:
        full = win_from_space(131072, 128)
        got = select_window(50_000, full, full, 1460, full, full, 10, shrink=True)
        assert got == 50_000 // 1024 * 1024
        assert select_window(50_000, full, full, 1460, 3000, full, 10, shrink=True) == 3072
        assert select_window(5000, full, full, 1460, full, full, 13, shrink=True) == 0
        # without a scale there is no shrinking, and no rounding before the test
        assert select_window(1025, 2048, 2048, 1, 2048, 0, 0, shrink=True) == 1025
        # 33000 is not low until it is rounded down; then it is less than a segment
        assert select_window(33000, 65600, 65600, 60000, 65600, 0, 13, shrink=True) == 0
        assert select_window(33000, 65600, 65600, 60000, 65600, 0, 13) == 40960

    def test_half_of_the_buffer_is_not_low_when_shrinking(self) -> None:
        assert select_window(1024, 2048, 2048, 1500, 2048, 0, 1, shrink=True) == 1024
        assert select_window(0, 0, 5, 1, 5, 0, 1, shrink=True) == 0

    @given(
        st.integers(-50_000, 1 << 22),
        st.integers(0, 1 << 22),
        st.integers(1, 1 << 22),
        st.integers(1, 65_000),
        st.integers(0, 14),
        st.integers(0, 1 << 22),
    )
    def test_never_more_than_there_is(
        self, free: int, whole: int, clamp: int, rcv_mss: int, scale: int, rcv_wnd: int
    ) -> None:
        window = select_window(free, whole, clamp, rcv_mss, clamp, rcv_wnd, scale)
        unit = 1 << scale
        assert window >= 0
        assert window <= max(free, 0) + unit - 1
        assert window <= clamp + unit - 1
        assert scale == 0 or window % unit == 0
        if free < whole >> 4 or free < min(rcv_mss, clamp, whole):
            low = free < min(clamp, whole) >> 1
            assert window == 0 or not low


class TestGrowth:
    def grow(self, ssthresh: int, length: int, truesize: int, **changes: int) -> int:
        args = {
            "window_clamp": 82944,
            "free_space": 80000,
            "ratio": 162,
            "advmss": 1460,
            "rcv_mss": 1460,
            "tcp_rmem_max": RMEM_MAX,
        } | changes
        return grow_window(ssthresh, length=length, truesize=truesize, **args)

    def test_dense_segment_gives_two_segments(self) -> None:
        assert self.grow(64240, 1460, 2304) == 2920

    def test_merged_frame_gives_twice_its_length(self) -> None:
        assert self.grow(20000, 14600, 832 + 4 * 4096) == 29200

    def test_room_is_the_limit(self) -> None:
        assert self.grow(79000, 1460, 2304) == 1000
        assert self.grow(80000, 1460, 2304) == 0
        assert self.grow(64240, 1460, 2304, window_clamp=64240) == 0

    def test_expensive_segments_count_while_the_window_is_small(self) -> None:
        assert self.grow(64240, 500, 1280) == 2920
        # 128 bytes of 832: two halvings of 10.6 MB (a quarter) must still exceed the window
        assert self.grow(3_000_000, 128, 832, window_clamp=1 << 24, free_space=1 << 24) == 0
        assert self.grow(2_000_000, 128, 832, window_clamp=1 << 24, free_space=1 << 24) == 2920

    def test_boundaries(self) -> None:
        assert self.grow(79999, 500, 1280) == 1
        # the charge is worth exactly the payload: dense
        assert self.grow(20000, 810, 1280, rcv_mss=500) == 2920
        assert self.grow(20000, 809, 1280, rcv_mss=500) == 1618
        # 405 is half of it: one halving, allowed up to half of the largest buffer
        half = win_from_space(100_000, 162) // 2
        small = {"tcp_rmem_max": 100_000, "rcv_mss": 500}
        assert self.grow(half, 405, 1280, **small) == 1000
        assert self.grow(half + 1, 405, 1280, **small) == 0
        assert self.grow(half // 2, 404, 1280, **small) == 1000
        assert self.grow(half // 2 + 1, 404, 1280, **small) == 0


# -- pacing --------------------------------------------------------------------------------


def test_d50_the_wait_after_a_burst():
    assert gap_after(1000, 100_000, 0, 10) == 10_000_000
    assert gap_after(1000, 100_000, 0, 9) == 0  # the first ten segments do not wait
    assert gap_after(1000, 100_000, 3_000_000, 10) == 7_000_000
    assert gap_after(1000, 100_000, 10**12, 10) == 5_000_000  # credit is half at most
    assert gap_after(1000, 0, 0, 10) == gap_after(1000, PACING_UNLIMITED, 0, 10) == 0


class Paced(CongestionControl):
    """Asks for pacing, as an algorithm does that sets a rate."""

    name = "paced"
    needs_pacing = True

    def ssthresh(self) -> int:
        return max(self.snd_cwnd >> 1, 2)

    def cong_avoid(self, ack: AckSample) -> None:
        self.slow_start(ack.acked)


def test_d50_a_congestion_control_may_need_pacing():
    """Its bursts then keep to the pacing rate that the window gives."""

    def install(b: Bench) -> None:
        b.sk.host.congestion_controls["paced"] = Paced
        b.setopt(6, 13, b"paced")

    b = Bench.connected(mss=1000, rtt=20, prepare=install)
    assert b.sk.pacing_status == PACING_NEEDED
    b.send(40000)
    assert len(b.take()) == 10
    b.run(20)
    b.inject(ack=10001)  # all at once: without pacing twenty segments would answer
    assert 0 < len(b.take()) <= 4
    b.run(20)
    assert len({s.at for s in b.take()}) > 3
