"""The receive window: how much to offer, and when it may grow.

Problem. The window promises buffer space, but the buffer is charged by what packets cost,
not by their payload. `scaling_ratio` (of 256) is the share of the buffer that payload can
use: 128 until the first full segment shows what one costs.

Pieces, all arithmetic:
- `select_initial_window`: the window of the SYN, and the scale that the largest
  buffer would need (it can never be changed later).
- `select_window`: the window that the free space allows. Small windows are worse than
  none (silly window syndrome), so below a sixteenth of the buffer, or one segment, the
  answer is 0. `offered_window` then keeps the promise already made: the right edge
  never moves left.
- `grow_window`: `rcv_ssthresh`, the receiver's slow start. It rises while arriving
  segments carry enough payload for what they cost.

Limits: `under_memory_pressure` does not exist here; a host's memory is not modelled.

Sources: RFC 9293 section 3.8.6.2.2, RFC 7323 section 2; Linux `tcp_select_initial_window`,
`__tcp_select_window`, `tcp_select_window`, `tcp_grow_window`, `tcp_measure_rcv_mss`.
"""

from __future__ import annotations

MAX_WSCALE = 14
DEFAULT_SCALING_RATIO = 128


def win_from_space(space: int, ratio: int) -> int:
    """The payload that `space` bytes of buffer can take."""
    return space * ratio >> 8


def space_from_win(win: int, ratio: int) -> int:
    """The buffer that `win` bytes of payload need."""
    return (win << 8) // ratio


def scaling_ratio(length: int, truesize: int) -> int:
    """The share of 256 that payload has in a packet of this length and charge."""
    return min((length << 8) // truesize or 1, 255)


def initial_clamp(window_clamp: int, full_space: int, rcvbuf_locked: bool) -> int:
    """The clamp a handshake starts from: a buffer that the user has fixed bounds it.

    `window_clamp` is TCP_WINDOW_CLAMP, 0 if unset; so is the result.
    """
    if rcvbuf_locked and (window_clamp > full_space or window_clamp == 0):
        return full_space
    return window_clamp


def select_initial_window(
    space: int,
    mss: int,
    window_clamp: int,
    wscale_ok: bool,
    tcp_rmem_max: int,
    rmem_max: int,
    init_rcv_wnd: int = 0,
) -> tuple[int, int, int]:
    """(rcv_wnd, window_clamp, rcv_wscale) for a new connection.

    `space` is the whole buffer as payload, `mss` the advertised MSS less the options of
    every segment, `window_clamp` 0 for none, `init_rcv_wnd` the route's in segments.
    """
    if window_clamp == 0:
        window_clamp = 65535 << MAX_WSCALE
    space = min(max(space, 0), window_clamp)
    if space > mss:
        space -= space % mss
    rcv_wnd = min(space, init_rcv_wnd * mss) if init_rcv_wnd else space
    wscale = 0
    if wscale_ok:
        largest = min(max(space, tcp_rmem_max, rmem_max), window_clamp)
        wscale = min(max(largest.bit_length() - 16, 0), MAX_WSCALE)
    return rcv_wnd, min(65535 << wscale, window_clamp), wscale


def space_is_low(free_space: int, allowed_space: int, window_clamp: int) -> bool:
    """Less than half of the buffer is free: the time for quick ACKs is over."""
    return free_space < min(window_clamp, allowed_space) >> 1


def select_window(
    free_space: int,
    allowed_space: int,
    window_clamp: int,
    rcv_mss: int,
    rcv_ssthresh: int,
    rcv_wnd: int,
    rcv_wscale: int,
    shrink: bool = False,
) -> int:
    """The window that the free space allows (Linux: `__tcp_select_window`).

    `free_space` and `allowed_space` are the free and the whole buffer as payload,
    `rcv_wnd` the window last advertised, `shrink` the setting tcp_shrink_window.
    """
    full_space = min(window_clamp, allowed_space)
    mss = min(rcv_mss, full_space)
    if mss <= 0:
        return 0
    unit = 1 << rcv_wscale
    shrink = shrink and rcv_wscale > 0
    low = free_space < full_space >> 1
    if low or shrink:
        free_space &= -unit
        low = free_space < full_space >> 1
    if low and (free_space < allowed_space >> 4 or free_space < mss or free_space <= 0):
        return 0
    if rcv_wscale:
        if free_space > rcv_ssthresh:
            free_space = rcv_ssthresh
        return (free_space + unit - 1) & -unit
    return _unscaled_window(min(free_space, rcv_ssthresh), mss, full_space, rcv_wnd)


def _unscaled_window(free_space: int, mss: int, full_space: int, rcv_wnd: int) -> int:
    """Whole segments; the last offer stands while it is within one of them."""
    if rcv_wnd <= free_space - mss or rcv_wnd > free_space:
        return free_space - free_space % mss
    if mss == full_space and free_space > rcv_wnd + (full_space >> 1):
        return free_space
    return rcv_wnd


def offered_window(new_win: int, cur_win: int, rcv_wscale: int, shrink: bool = False) -> int:
    """The window to advertise: `new_win`, unless it takes back what was offered.

    The header field is `min(result, 65535 << rcv_wscale) >> rcv_wscale`.
    """
    if new_win < cur_win and not (shrink and rcv_wscale):
        unit = 1 << rcv_wscale
        return (cur_win + unit - 1) & -unit
    return new_win


def grow_window(
    rcv_ssthresh: int,
    window_clamp: int,
    free_space: int,
    length: int,
    truesize: int,
    ratio: int,
    advmss: int,
    rcv_mss: int,
    tcp_rmem_max: int,
) -> int:
    """By how much `rcv_ssthresh` rises for an arriving segment; 0 is not at all.

    To be called for segments of 128 bytes and more. When it is above 0 the caller also
    keeps the quick ACK budget alive (its low bit).
    """
    room = min(window_clamp, free_space) - rcv_ssthresh
    if room <= 0:
        return 0
    if win_from_space(truesize, ratio) <= length:
        incr = 2 * advmss
    else:
        incr = _grow_bloated(rcv_ssthresh, length, truesize, ratio, rcv_mss, tcp_rmem_max)
    return min(room, max(incr, 2 * length)) if incr else 0


def _grow_bloated(
    rcv_ssthresh: int, length: int, truesize: int, ratio: int, rcv_mss: int, tcp_rmem_max: int
) -> int:
    """The window may grow with expensive segments while it is small enough: each halving
    of the largest buffer that still exceeds it excuses a doubling of the overhead."""
    cost = win_from_space(truesize, ratio) >> 1
    window = win_from_space(tcp_rmem_max, ratio) >> 1
    while rcv_ssthresh <= window:
        if cost <= length:
            return 2 * rcv_mss
        cost >>= 1
        window >>= 1
    return 0
