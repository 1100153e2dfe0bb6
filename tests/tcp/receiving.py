"""What the tests of receiving and of acknowledging share."""

from __future__ import annotations

import struct

from tests.tcp.harness import SOL_SOCKET, Bench
from ustack.sock.wait import (
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
)

MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_ERRQUEUE = 0x1, 0x2, 0x20, 0x100, 0x2000
SO_RCVBUF, SO_OOBINLINE, SO_RCVLOWAT, SO_RCVTIMEO, SO_PEEK_OFF, SO_MEMINFO = 8, 10, 18, 20, 42, 55
TCP_WINDOW_CLAMP, TCP_QUICKACK, TCP_INQ = 10, 12, 36
SIOCINQ, SIOCATMARK = 0x541B, 0x8905
IN, OUT = POLLIN | POLLRDNORM, POLLOUT | POLLWRNORM


def buffer(value: int):
    return lambda b: b.setopt(SOL_SOCKET, SO_RCVBUF, value)


def meminfo(b: Bench) -> tuple[int, ...]:
    raw = b.sk.prot.getsockopt(b.sk, SOL_SOCKET, SO_MEMINFO, 36, b.now)
    return struct.unpack("9I", raw)


def acks(b: Bench) -> list[tuple[int, int]]:
    """Take; (ack, window field) of each."""
    return [(s.ack, s.win) for s in b.take()]
