"""The receive buffer: what it may hold, what window it lets us offer, how it grows.

The buffer is charged for packets (`rmem_alloc`), the window promises payload; the ratio
between the two is measured from what arrives (`scaling_ratio`). Three things move the
window up: `rcv_ssthresh`, the receiver's slow start; `rcvbuf`, doubled while the
application reads about as fast as data comes (`rcv_space_adjust`, "DRS"); and reading
itself. When the buffer is over-full, payload is repacked, then out-of-order data is
given up, and only then is data in order refused.

The arithmetic is in `window`; here it meets the socket.

Sources: Linux `tcp_select_window`, `tcp_rcv_space_adjust`, `tcp_try_rmem_schedule`,
`tcp_prune_queue`; rules B-33, B-34, B-60 to B-71.
"""

from __future__ import annotations

from ustack.sock.sock import RCVBUF_LOCK, SOCK_MIN_RCVBUF
from ustack.tcp import window
from ustack.tcp.segment import Segment
from ustack.tcp.sock import MS, PREDICTION_OFF, TcpSock

MIN_GROW_LEN = 128
MAX_DELTA_MS = 2**31 // 1_000_000 * 1000  # a larger timestamp delta is nonsense


def free_space(sk: TcpSock) -> int:
    """Payload that the rest of the buffer can take (`tcp_space`)."""
    return window.win_from_space(sk.rcvbuf - sk.rmem_alloc, sk.scaling_ratio)


def full_space(sk: TcpSock) -> int:
    """Payload that the whole buffer can take (`tcp_full_space`)."""
    return window.win_from_space(sk.rcvbuf, sk.scaling_ratio)


def new_window(sk: TcpSock) -> int:
    """The window that free space allows now (`__tcp_select_window`, rule B-61)."""
    ratio, clamp = sk.scaling_ratio, sk.window_clamp
    allowed = sk.rcvbuf * ratio >> 8
    free = (sk.rcvbuf - sk.rmem_alloc) * ratio >> 8
    if free >= (clamp if clamp < allowed else allowed) >> 1:
        if sk.rcv_wscale and free >= sk.rcv_mss > 0 and not sk.net.sysctl.tcp_shrink_window:
            # room enough, the usual case: what `window.select_window` would say
            unit = 1 << sk.rcv_wscale
            win = sk.rcv_ssthresh
            return ((win if win < free else free) + unit - 1) & -unit
    else:
        sk.quick = 0
    return window.select_window(
        free,
        allowed,
        sk.window_clamp,
        sk.rcv_mss,
        sk.rcv_ssthresh,
        sk.rcv_wnd,
        sk.rcv_wscale,
        sk.net.sysctl.tcp_shrink_window,
    )


def select_window(sk: TcpSock) -> int:
    """Choose the window to advertise and note it; the value of the header field."""
    old = sk.rcv_wnd
    if sk.rcvq_overflow:
        sk.rcvq_overflow = False
        sk.rcv_wnd = 0
        sk.rcv_wup = sk.rcv_nxt
        sk.pred_wnd = PREDICTION_OFF
        return 0
    win = new_window(sk)
    cur_win = sk.rcv_wup + old - sk.rcv_nxt
    if win < cur_win:
        win = window.offered_window(win, cur_win, sk.rcv_wscale, sk.net.sysctl.tcp_shrink_window)
    sk.rcv_wnd = win  # what is accepted may be more than the field can say
    sk.rcv_wup = sk.rcv_nxt
    if not win:
        sk.pred_wnd = PREDICTION_OFF
        if old:
            sk.net.mib.inc("TcpExtTCPToZeroWindowAdv")
    elif not old:
        sk.net.mib.inc("TcpExtTCPFromZeroWindowAdv")
    win >>= sk.rcv_wscale
    return win if win < 65535 else 65535


def init_window(sk: TcpSock, mss: int, wscale_ok: bool) -> None:
    """The first window and the scale, for a SYN or a SYN-ACK (rule B-60)."""
    sysctl = sk.net.sysctl
    full = full_space(sk)
    locked = bool(sk.userlocks & RCVBUF_LOCK)
    clamp = window.initial_clamp(sk.window_clamp, full, locked)
    sk.rcv_wnd, sk.window_clamp, sk.rcv_wscale = window.select_initial_window(
        full, mss, clamp, wscale_ok, sysctl.tcp_rmem[2], sysctl.rmem_max
    )
    sk.rcv_ssthresh = sk.rcv_wnd


def init_buffer_space(sk: TcpSock, now: int) -> None:
    """On reaching ESTABLISHED (`tcp_init_buffer_space`, rule B-64)."""
    maxwin = full_space(sk)
    sk.rcvq_time = now
    sk.rcvq_seq = sk.copied_seq
    clamp = min(sk.window_clamp, maxwin)
    if clamp > 2 * sk.advmss and clamp + sk.advmss > maxwin:  # one segment is in reserve
        clamp = max(2 * sk.advmss, maxwin - sk.advmss)
    sk.window_clamp = clamp
    sk.rcv_ssthresh = min(sk.rcv_ssthresh, clamp)
    sk.rcvq_space = min(sk.rcv_ssthresh, sk.rcv_wnd, 10 * sk.advmss)


def set_window_clamp(sk: TcpSock, value: int) -> None:
    """TCP_WINDOW_CLAMP, or the clamp that the buffer allows (`tcp_set_window_clamp`)."""
    old, new = sk.window_clamp, max(SOCK_MIN_RCVBUF // 2, value)
    sk.window_clamp = new
    if new < old:
        sk.rcv_ssthresh = min(sk.rcv_ssthresh, new)
    elif new > old:
        sk.rcv_ssthresh = max(min(sk.rcv_wnd, new), sk.rcv_ssthresh)


def initialize_rcv_mss(sk: TcpSock) -> None:
    """First guess at the peer's segment size (rule B-51)."""
    hint = min(sk.advmss, sk.mss_cache, sk.rcv_wnd // 2, 536)
    sk.rcv_mss = max(hint, 88)


def grow_window(sk: TcpSock, seg: Segment) -> None:
    """A segment has come whose payload justifies its cost: offer more (rule B-63)."""
    incr = window.grow_window(
        sk.rcv_ssthresh,
        sk.window_clamp,
        free_space(sk),
        seg.len,
        seg.truesize,
        sk.scaling_ratio,
        sk.advmss,
        sk.rcv_mss,
        sk.net.sysctl.tcp_rmem[2],
    )
    if incr:
        sk.rcv_ssthresh += incr
        sk.quick |= 1


def measure_ratio(sk: TcpSock, seg: Segment) -> None:
    """Segments of a new size have come: what do they cost? (rule B-62)"""
    ratio = window.scaling_ratio(seg.len, seg.truesize)
    if ratio != sk.scaling_ratio:
        sk.scaling_ratio = ratio
        set_window_clamp(sk, full_space(sk))
        sk.rcvq_space = min(sk.rcvq_space, sk.window_clamp)


def rcv_rtt_update(sk: TcpSock, sample_us: int, window_bound: bool) -> None:
    """The receiver's RTT: a smaller sample counts at once. A larger one is smoothed in,
    unless the window or a slow reader may have caused it."""
    old = sk.rcv_rtt_us
    if not old or sample_us << 3 < old:
        sk.rcv_rtt_us = sample_us << 3
    elif not window_bound and sk.rcv_nxt == sk.copied_seq:
        sk.rcv_rtt_us = old + sample_us - (old >> 3)


def rcv_rtt_measure(sk: TcpSock, now: int) -> None:
    """Without timestamps: the time to receive one window."""
    if sk.rcv_rtt_time:
        if sk.rcv_nxt < sk.rcv_rtt_seq:
            return
        rcv_rtt_update(sk, max((now - sk.rcv_rtt_time) // 1000, 1), True)
    sk.rcv_rtt_seq = sk.rcv_nxt + sk.rcv_wnd
    sk.rcv_rtt_time = now


def rcv_rtt_measure_ts(sk: TcpSock, seg: Segment) -> None:
    """With timestamps: data that answers something we sent."""
    tsecr = seg.options.tsecr
    if tsecr == sk.rcv_rtt_last_tsecr:
        return
    sk.rcv_rtt_last_tsecr = tsecr
    if seg.end_seq - seg.seq >= sk.rcv_mss:
        delta_ms = (seg.now // MS + sk.tsoffset - tsecr) & 0xFFFFFFFF
        if 0 < delta_ms < MAX_DELTA_MS:
            rcv_rtt_update(sk, delta_ms * 1000, False)


def rcv_space_adjust(sk: TcpSock, now: int) -> None:
    """After copying to the application: once a round trip, has it read enough to deserve
    a larger buffer? (rule B-70)"""
    rtt_us = sk.rcv_rtt_us >> 3
    if not rtt_us or now - sk.rcvq_time < rtt_us * 1000:
        return
    inq = sk.rcv_nxt - sk.copied_seq
    copied = sk.copied_seq - sk.rcvq_seq - inq
    if copied > sk.rcvq_space:
        rcvbuf_grow(sk, copied)
    sk.rcvq_seq = sk.copied_seq
    sk.rcvq_time = now


def rcvbuf_grow(sk: TcpSock, newval: int) -> None:
    """Room for two round trips of data, and more while the rate still rises."""
    oldval, sk.rcvq_space = sk.rcvq_space, newval
    sysctl = sk.net.sysctl
    if not sysctl.tcp_moderate_rcvbuf or sk.userlocks & RCVBUF_LOCK:
        return
    win = newval << 1
    win += 2 * (win * (newval - oldval) // max(oldval, 1))
    if sk.ofo_queue:
        win += sk.ofo_queue.max_end - sk.rcv_nxt
    rcvbuf = min(window.space_from_win(win, sk.scaling_ratio), sysctl.tcp_rmem[2])
    if rcvbuf > sk.rcvbuf:
        sk.rcvbuf = rcvbuf
        sk.window_clamp = full_space(sk)


# -- overflow ------------------------------------------------------------------------------


def rmem_schedule(sk: TcpSock, seq: int, in_order: bool) -> bool:
    """Is there room for one more entry? Makes room if it can (rule B-34)."""
    if sk.rmem_alloc <= sk.rcvbuf:
        return True
    if _prune(sk, seq):
        return True
    if not in_order:
        return False
    return _prune_ofo(sk, seq) and sk.rmem_alloc <= sk.rcvbuf


def _prune(sk: TcpSock, seq: int) -> bool:
    """`tcp_prune_queue`: repack, then drop out-of-order data."""
    mib = sk.net.mib
    mib.inc("TcpExtPruneCalled")
    _clamp_window(sk)
    if sk.rmem_alloc <= sk.rcvbuf:
        return True
    sk.reserved = 0
    sk.rmem_alloc -= sk.ofo_queue.collapse(sk.scaling_ratio, sk.rcvbuf >> 3)
    sk.rmem_alloc -= sk.receive_queue.collapse(sk.copied_seq, sk.scaling_ratio)
    if sk.rmem_alloc <= sk.rcvbuf:
        return True
    _prune_ofo(sk, seq)
    if sk.rmem_alloc <= sk.rcvbuf:
        return True
    mib.inc("TcpExtRcvPruned")
    sk.pred_wnd = PREDICTION_OFF
    return False


def _prune_ofo(sk: TcpSock, seq: int) -> bool:
    """Give up out-of-order data, the highest first, an eighth of the buffer at a time until
    what is left fits; what we SACKed is then forgotten."""
    before = sk.ofo_queue.dropped
    while freed := sk.ofo_queue.prune(seq, sk.rcvbuf >> 3):
        sk.rmem_alloc -= freed
        if sk.rmem_alloc <= sk.rcvbuf:
            break
    if sk.ofo_queue.dropped == before:
        return False
    sk.net.mib.inc("TcpExtOfoPruned")
    sk.drops += sk.ofo_queue.dropped - before
    if sk.sack_ok:
        sk.sacks.reset()
    return True


def _clamp_window(sk: TcpSock) -> None:
    """Over the limit: grow the buffer if it is ours to grow, else offer less
    (`tcp_clamp_window`)."""
    sk.quick = 0
    rmem_max = sk.net.sysctl.tcp_rmem[2]
    if sk.rcvbuf < rmem_max and not sk.userlocks & RCVBUF_LOCK:
        sk.rcvbuf = min(sk.rmem_alloc, rmem_max)
    if sk.rmem_alloc > sk.rcvbuf:
        sk.rcv_ssthresh = min(sk.window_clamp, 2 * sk.advmss)
