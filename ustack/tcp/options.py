"""The options of level SOL_TCP (Linux: `do_tcp_setsockopt`, `do_tcp_getsockopt`).

One table: name -> (getter, setter). Values are ints in four native bytes, but for
TCP_INFO and TCP_CONGESTION. What an option does besides being stored is in its setter.

Rules A-11, A-24, A-25, A-41, A-71 to A-73, B-14, B-57, B-64, C-9, C-13, D-41.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOENT, ENOPROTOOPT, EPERM
from typing import TypeAlias

from ustack.sock.errors import error
from ustack.sock.kept import get_kept, keep, kept, set_kept
from ustack.sock.options import SOL_TCP, read_int, write_int
from ustack.tcp.acking import cleanup_rbuf
from ustack.tcp.info import tcp_info
from ustack.tcp.output import push_pending_frames
from ustack.tcp.rcvbuf import set_window_clamp
from ustack.tcp.sock import (
    ACK_PUSHED,
    ACK_SCHED,
    MS,
    NAGLE_CORK,
    NAGLE_OFF,
    NAGLE_PUSH,
    SEC,
    T_KEEPALIVE,
    TCP_DELACK_MAX,
    TCP_RTO_MIN,
    TcpSock,
)
from ustack.tcp.state import CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_SENT
from ustack.tcp.timeouts import keepalive_elapsed
from ustack.tcp.timers import in_ticks
from ustack.tcp.transmit import tcp_time_stamp

TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT = 1, 2, 3, 4, 5, 6
TCP_SYNCNT, TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_INFO = 7, 8, 9, 10, 11
TCP_QUICKACK, TCP_CONGESTION, TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT, TCP_INQ = 12, 13, 18, 25, 36
TCP_THIN_LINEAR_TIMEOUTS, TCP_THIN_DUPACK = 16, 17
TCP_RTO_MAX_MS, TCP_RTO_MIN_US, TCP_DELACK_MAX_US = 44, 45, 46
TCP_FASTOPEN, TCP_TIMESTAMP, TCP_SAVE_SYN, TCP_SAVED_SYN, TCP_ULP = 23, 24, 27, 28, 31
TCP_FASTOPEN_NO_COOKIE = 34

_CA_NAME_MAX = 16
_LINGER2_MAX = 120
_RTO_MAX_S = 120
_TIMEOUT_MIN_US = 4001  # more than one of the kernel's ticks

Getter: TypeAlias = Callable[[TcpSock, int], int]
Setter: TypeAlias = Callable[[TcpSock, int, int], None]


# -- setters with consequences -------------------------------------------------------------


def _set_nodelay(sk: TcpSock, value: int, now: int) -> None:
    if value:
        sk.nonagle |= NAGLE_OFF | NAGLE_PUSH
        push_pending_frames(sk, now)
    else:
        sk.nonagle &= ~NAGLE_OFF


def _set_cork(sk: TcpSock, value: int, now: int) -> None:
    if value:
        sk.nonagle |= NAGLE_CORK
        return
    sk.nonagle &= ~NAGLE_CORK
    if sk.nonagle & NAGLE_OFF:
        sk.nonagle |= NAGLE_PUSH
    push_pending_frames(sk, now)


def _set_maxseg(sk: TcpSock, value: int, now: int) -> None:
    if value and not 88 <= value <= 32767:
        raise error(EINVAL)
    sk.user_mss = value


def _get_maxseg(sk: TcpSock, now: int) -> int:
    if sk.user_mss and sk.state in (CLOSE, LISTEN):
        return sk.user_mss
    return sk.mss_cache


def _set_keepidle(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 1, 32767)
    sk.keepalive_time = value * SEC
    if sk.keepopen and sk.state not in (CLOSE, LISTEN):
        elapsed = keepalive_elapsed(sk, now)
        sk.arm(T_KEEPALIVE, now + max(sk.keepalive_time - elapsed, 0))


def _set_keepintvl(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 1, 32767)
    sk.keepalive_intvl = value * SEC


def _set_keepcnt(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 1, 127)
    sk.keepalive_probes = value


def _set_syncnt(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 1, 127)
    sk.syn_retries = value


def _set_linger2(sk: TcpSock, value: int, now: int) -> None:
    sk.linger2 = -1 if value < 0 else min(value, _LINGER2_MAX) * SEC


def _get_linger2(sk: TcpSock, now: int) -> int:
    if sk.linger2 < 0:
        return -1
    return sk.linger2 // SEC or sk.net.sysctl.tcp_fin_timeout


def _set_defer_accept(sk: TcpSock, value: int, now: int) -> None:
    """Seconds to a number of SYN-ACK timeouts (`secs_to_retrans`)."""
    retrans, period, timeout = 0, 1, 1
    if value > 0:
        retrans = 1
        while value > period and retrans < 255:
            retrans += 1
            timeout = min(timeout << 1, _RTO_MAX_S)
            period += timeout
    sk.defer_accept = retrans


def _get_defer_accept(sk: TcpSock, now: int) -> int:
    """The number of timeouts back to seconds (`retrans_to_secs`)."""
    period, timeout = 0, 1
    for i in range(sk.defer_accept):
        period += timeout if i == 0 else min(timeout, _RTO_MAX_S)
        timeout <<= 1
    return period


def _set_window_clamp(sk: TcpSock, value: int, now: int) -> None:
    if not value:
        if sk.state != CLOSE:
            raise error(EINVAL)
        sk.window_clamp = 0
        return
    set_window_clamp(sk, value)


def _set_quickack(sk: TcpSock, value: int, now: int) -> None:
    """Not sticky: an even value other than 0 goes back to interactive mode at once."""
    if not value:
        sk.pingpong = max(sk.pingpong, 1)
        return
    sk.pingpong = 0
    if sk.state in (ESTABLISHED, CLOSE_WAIT) and sk.ack_pending & ACK_SCHED:
        sk.ack_pending |= ACK_PUSHED
        cleanup_rbuf(sk, 1, now)
        if not value & 1:
            sk.pingpong = max(sk.pingpong, 1)


def _set_user_timeout(sk: TcpSock, value: int, now: int) -> None:
    if value < 0:
        raise error(EINVAL)
    sk.user_timeout = value * MS


def _set_notsent_lowat(sk: TcpSock, value: int, now: int) -> None:
    sk.notsent_lowat = value & 0xFFFFFFFF
    sk.write_space()


def _set_inq(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 0, 1)
    sk.inq_cmsg = bool(value)


def _set_thin_lto(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 0, 1)
    sk.thin_lto = bool(value)


def _set_thin_dupack(sk: TcpSock, value: int, now: int) -> None:
    """Checked and forgotten: early retransmission has taken its place."""
    _check(value, 0, 1)


def _set_rto_max(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 1000, _RTO_MAX_S * 1000)
    sk.set_rto_bounds(sk.rto_min_us, in_ticks(sk, value * 1000))


def _set_rto_min(sk: TcpSock, value: int, now: int) -> None:
    _check(value, _TIMEOUT_MIN_US, TCP_RTO_MIN // 1000)
    sk.set_rto_bounds(in_ticks(sk, value), sk.rto_max_us)


def _set_delack_max(sk: TcpSock, value: int, now: int) -> None:
    _check(value, _TIMEOUT_MIN_US, TCP_DELACK_MAX // 1000)
    sk.delack_max = in_ticks(sk, value) * 1000


def _set_fastopen(sk: TcpSock, value: int, now: int) -> None:
    """Kept only: connections open the ordinary way."""
    if value < 0 or sk.state not in (CLOSE, LISTEN):
        raise error(EINVAL)
    keep(sk, SOL_TCP, TCP_FASTOPEN, min(value, sk.net.sysctl.somaxconn))


def _set_fastopen_no_cookie(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 0, 1)
    if sk.state not in (CLOSE, LISTEN):
        raise error(EINVAL)
    keep(sk, SOL_TCP, TCP_FASTOPEN_NO_COOKIE, value)


def _kept(name: int) -> Getter:
    def get(sk: TcpSock, now: int) -> int:
        value = kept(sk, SOL_TCP, name)
        return value if isinstance(value, int) else 0

    return get


def _set_save_syn(sk: TcpSock, value: int, now: int) -> None:
    _check(value, 0, 2)
    sk.save_syn = value


def _set_timestamp(sk: TcpSock, value: int, now: int) -> None:
    raise error(EPERM)  # for TCP_REPAIR


def _get_timestamp(sk: TcpSock, now: int) -> int:
    return (tcp_time_stamp(sk, now) ^ 0x80000000) - 0x80000000  # as an int


def _check(value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise error(EINVAL)


_OPTIONS: dict[int, tuple[Getter, Setter]] = {
    TCP_NODELAY: (lambda sk, now: int(bool(sk.nonagle & NAGLE_OFF)), _set_nodelay),
    TCP_MAXSEG: (_get_maxseg, _set_maxseg),
    TCP_CORK: (lambda sk, now: int(bool(sk.nonagle & NAGLE_CORK)), _set_cork),
    TCP_KEEPIDLE: (lambda sk, now: sk.keepalive_time // SEC, _set_keepidle),
    TCP_KEEPINTVL: (lambda sk, now: sk.keepalive_intvl // SEC, _set_keepintvl),
    TCP_KEEPCNT: (lambda sk, now: sk.keepalive_probes, _set_keepcnt),
    TCP_SYNCNT: (lambda sk, now: sk.syn_retries or sk.net.sysctl.tcp_syn_retries, _set_syncnt),
    TCP_LINGER2: (_get_linger2, _set_linger2),
    TCP_DEFER_ACCEPT: (_get_defer_accept, _set_defer_accept),
    TCP_WINDOW_CLAMP: (lambda sk, now: sk.window_clamp, _set_window_clamp),
    TCP_QUICKACK: (lambda sk, now: int(not sk.pingpong), _set_quickack),
    TCP_USER_TIMEOUT: (lambda sk, now: sk.user_timeout // MS, _set_user_timeout),
    TCP_NOTSENT_LOWAT: (
        lambda sk, now: (sk.notsent_lowat ^ 0x80000000) - 0x80000000,  # as an int
        _set_notsent_lowat,
    ),
    TCP_FASTOPEN: (_kept(TCP_FASTOPEN), _set_fastopen),
    TCP_FASTOPEN_NO_COOKIE: (_kept(TCP_FASTOPEN_NO_COOKIE), _set_fastopen_no_cookie),
    TCP_TIMESTAMP: (_get_timestamp, _set_timestamp),
    TCP_SAVE_SYN: (lambda sk, now: sk.save_syn, _set_save_syn),
    TCP_INQ: (lambda sk, now: int(sk.inq_cmsg), _set_inq),
    TCP_THIN_LINEAR_TIMEOUTS: (lambda sk, now: int(sk.thin_lto), _set_thin_lto),
    TCP_THIN_DUPACK: (lambda sk, now: 0, _set_thin_dupack),
    TCP_RTO_MAX_MS: (lambda sk, now: sk.rto_max_us // 1000, _set_rto_max),
    TCP_RTO_MIN_US: (lambda sk, now: sk.rto_min_us, _set_rto_min),
    TCP_DELACK_MAX_US: (lambda sk, now: sk.delack_max // 1000, _set_delack_max),
}


# -- the calls -----------------------------------------------------------------------------


def setsockopt(sk: TcpSock, name: int, value: bytes, now: int) -> None:
    """Level SOL_TCP. OSError ENOPROTOOPT, EINVAL, ENOENT, EPERM."""
    if name == TCP_CONGESTION:
        _set_congestion(sk, value, now)
        return
    if name == TCP_ULP:  # there is none
        raise error(ENOENT if value else EINVAL)
    number = read_int(value)
    option = _OPTIONS.get(name)
    if option is not None:
        option[1](sk, number, now)
    elif not set_kept(sk, SOL_TCP, name, number, value):
        raise error(ENOPROTOOPT)


def getsockopt(sk: TcpSock, name: int, optlen: int, now: int) -> bytes:
    """Level SOL_TCP; a short buffer is filled partly."""
    if optlen < 0:
        raise error(EINVAL)
    if name == TCP_INFO:
        return tcp_info(sk, now)[:optlen]
    if name == TCP_CONGESTION:
        return sk.ca_name.encode().ljust(_CA_NAME_MAX, b"\0")[:optlen]
    if name == TCP_SAVED_SYN:
        return _take_saved_syn(sk, optlen)
    option = _OPTIONS.get(name)
    value = get_kept(sk, SOL_TCP, name, optlen) if option is None else option[0](sk, now)
    if value is None:
        raise error(ENOPROTOOPT)
    return value[:optlen] if isinstance(value, bytes) else write_int(value, optlen)


def _take_saved_syn(sk: TcpSock, optlen: int) -> bytes:
    """The headers of the SYN that made this connection, once. A buffer that is too short is
    EINVAL."""
    saved = sk.saved_syn
    if len(saved) > optlen:
        raise error(EINVAL)
    sk.saved_syn = b""
    return saved


def _set_congestion(sk: TcpSock, value: bytes, now: int) -> None:
    """TCP_CONGESTION: change the algorithm; the window carries over (rule D-41)."""
    if not value:
        raise error(EINVAL)
    name = value[: _CA_NAME_MAX - 1].split(b"\0", 1)[0].decode("ascii", "replace")
    if name not in sk.host.congestion_controls:
        raise error(ENOENT)
    old = sk.cc
    new = sk.host.new_congestion_control(name)
    new.snd_cwnd, new.snd_ssthresh = old.snd_cwnd, old.snd_ssthresh
    new.snd_cwnd_clamp, new.prior_cwnd = old.snd_cwnd_clamp, old.prior_cwnd
    sk.ca_name, sk.cc = name, new
    if sk.state not in (CLOSE, LISTEN, SYN_SENT):
        new.init(now)
        if new.needs_pacing:
            sk.start_pacing()
