"""TCP_INFO: the state of a connection as the kernel's `struct tcp_info` lays it out.

Times are us where the kernel's are (rto, ato, rtt), ms for the ages. Source: Linux
`tcp_get_info`, include/uapi/linux/tcp.h (6.18, up to tcpi_total_rto_time).
"""

from __future__ import annotations

from struct import Struct

from ustack.tcp import chrono
from ustack.tcp.rtt import NO_RTT
from ustack.tcp.sock import MS, TcpSock
from ustack.tcp.state import LISTEN
from ustack.tcp.timers import delack_max

_INFO = Struct("=8B24I4Q6I4Q2I2Q6I2HI")

_U32 = 0xFFFFFFFF  # what counts for long enough wraps

OPT_TIMESTAMPS, OPT_SACK, OPT_WSCALE = 1, 2, 4


def tcp_info(sk: TcpSock, now: int) -> bytes:
    """The whole structure, native byte order."""
    words = [word & _U32 for word in _words(sk, now)]
    return _INFO.pack(*_head(sk), *words, *_totals(sk, now), *_tail(sk))


def _head(sk: TcpSock) -> tuple[int, ...]:
    options = (
        (OPT_TIMESTAMPS if sk.tstamp_ok else 0)
        | (OPT_SACK if sk.sack_ok else 0)
        | (OPT_WSCALE if sk.wscale_ok else 0)
    )
    return (
        sk.state,
        sk.ca_state,
        min(sk.retransmits, 255),
        min(sk.probes_out, 255),
        min(sk.rtt.backoff, 255),
        options,
        (sk.snd_wscale & 15) | (sk.rcv_wscale & 15) << 4 if sk.wscale_ok else 0,
        1 if sk.rate_app_limited and sk.state != LISTEN else 0,
    )


def _age_ms(then: int, now: int) -> int:
    return max(now - then, 0) // MS


def _words(sk: TcpSock, now: int) -> tuple[int, ...]:
    queue = sk.accept_queue
    listening = sk.state == LISTEN and queue is not None
    return (
        sk.rtt.rto_us,
        min(sk.ato, delack_max(sk)) // 1000,
        sk.mss_cache,
        sk.rcv_mss,
        len(queue) if listening and queue is not None else sk.packets_out,
        queue.max_backlog if listening and queue is not None else sk.sacked_out,
        sk.lost_out,
        sk.retrans_out,
        0,
        _age_ms(sk.lsndtime, now),
        0,
        _age_ms(sk.lrcvtime, now),
        _age_ms(sk.rcv_tstamp, now),
        sk.pmtu_cookie,
        sk.rcv_ssthresh,
        sk.rtt.srtt_us >> 3,
        sk.rtt.mdev_us >> 2,
        sk.cc.snd_ssthresh,
        sk.cc.snd_cwnd,
        sk.advmss,
        sk.reordering,
        sk.rcv_rtt_us >> 3,
        sk.rcvq_space,
        sk.total_retrans,
    )


def delivery_rate(sk: TcpSock) -> int:
    """Bytes per second of the best recent sample, 0 if there is none."""
    if not sk.rate_interval_us:
        return 0
    return sk.rate_delivered * sk.mss_cache * 1_000_000 // sk.rate_interval_us


def _totals(sk: TcpSock, now: int) -> tuple[int, ...]:
    min_rtt = sk.min_rtt.get()
    return (
        sk.pacing_rate,
        sk.max_pacing_rate,
        sk.bytes_acked,
        sk.bytes_received,
        sk.segs_out & _U32,
        sk.segs_in & _U32,
        max(sk.write_seq - sk.snd_nxt, 0),
        0 if min_rtt == NO_RTT else min_rtt & _U32,
        sk.data_segs_in & _U32,
        sk.data_segs_out & _U32,
        delivery_rate(sk),
        chrono.total(sk, chrono.BUSY, now),
        chrono.total(sk, chrono.RWND_LIMITED, now),
        chrono.total(sk, chrono.SNDBUF_LIMITED, now),
    )


def _tail(sk: TcpSock) -> tuple[int, ...]:
    return (
        sk.delivered & _U32,
        0,
        sk.bytes_sent,
        sk.bytes_retrans,
        sk.dsack_dups & _U32,
        sk.reord_seen & _U32,
        sk.rcv_ooopack & _U32,
        sk.snd_wnd,
        sk.rcv_wnd,
        0,
        0,
        0,
        0,
    )
