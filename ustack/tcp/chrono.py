"""What the sender was waiting for, and how long (tcp_info's busy, rwnd-limited and
sndbuf-limited times).

One clock runs at a time; a more specific reason takes over from BUSY and gives back to
it. Source: Linux `tcp_chrono_start`, `tcp_chrono_stop`.
"""

from __future__ import annotations

from ustack.tcp.sock import TcpSock

BUSY, RWND_LIMITED, SNDBUF_LIMITED = 1, 2, 3


def _set(sk: TcpSock, kind: int, now: int) -> None:
    if sk.chrono_type:
        sk.chrono_stat[sk.chrono_type] += now - sk.chrono_start
    sk.chrono_start = now
    sk.chrono_type = kind


def start(sk: TcpSock, kind: int, now: int) -> None:
    """Waiting for `kind` begins, unless something more specific is being waited for."""
    if kind > sk.chrono_type:
        _set(sk, kind, now)


def stop(sk: TcpSock, kind: int, now: int) -> None:
    """Waiting for `kind` is over; with data still around the sender is merely busy."""
    if not sk.rtx_queue and not sk.write_queue:
        if sk.chrono_type:
            _set(sk, 0, now)
    elif kind == sk.chrono_type:
        _set(sk, BUSY, now)


def total(sk: TcpSock, kind: int, now: int) -> int:
    """Time spent in `kind` so far, in us. BUSY includes the specific kinds."""
    kinds = (BUSY, RWND_LIMITED, SNDBUF_LIMITED) if kind == BUSY else (kind,)
    ns = sum(sk.chrono_stat[k] for k in kinds)
    if sk.chrono_type in kinds:
        ns += now - sk.chrono_start
    return ns // 1000
