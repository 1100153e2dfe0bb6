"""The error queue of a socket: IP_RECVERR and MSG_ERRQUEUE (Linux: `sk_error_queue`).

An error that a packet of ours met can be queued with all that is known about it, beside
the one pending errno. A program takes entries one at a time with MSG_ERRQUEUE, which
never waits (`sock.recv_error`): the payload is what the ICMP quoted of the datagram, the
address is where it was going, and a control message holds a `sock_extended_err` and who
reported it.

What became of a packet that met no error comes by the same way: when it left, and that
its bytes are no longer needed (`sock.notify`). Such an entry has no address, and is not
purged when IP_RECVERR is switched off.

Invariants: what is queued is charged to the receive buffer and refused beyond it; while
the queue is not empty poll says ERR; taking an ICMP entry sets the pending errno from
the next ICMP entry, or clears it.

Sources: Linux `ip_icmp_error`, `ip_local_error`, `sock_queue_err_skb`, `skb_errqueue_purge`.
"""

from __future__ import annotations

from typing import TypeAlias

from ustack.sock.icmp import IcmpError
from ustack.sock.sock import Sock
from ustack.sock.truesize import rx_truesize
from ustack.wire.packet import RxPacket

# ee_origin
ORIGIN_LOCAL, ORIGIN_ICMP, ORIGIN_ICMP6 = 1, 2, 3
ORIGIN_TIMESTAMPING, ORIGIN_ZEROCOPY = 4, 5
FROM_ICMP = (ORIGIN_ICMP, ORIGIN_ICMP6)
_QUOTED_IP = 28  # an entry holds the quoted packet's headers too


Cmsg: TypeAlias = tuple[int, int, bytes]


class ErrEntry:
    """One queued error. `addr` is where the packet was going, `offender` (b"" for an error
    of this host) who reported it, `payload` what is known of its payload. `rx` is the
    packet that brought it, if one did: a program may ask about that too. A time `at` (ns, -1
    for none) comes before the error among the control messages.
    With an `iif` the payload is a whole packet that went to the device of that index."""

    __slots__ = (
        "addr", "at", "charge", "code", "data", "errno", "iif", "info", "offender", "origin",
        "payload", "rx", "type",
    )  # fmt: skip

    def __init__(
        self,
        errno: int,
        origin: int,
        type_: int,
        code: int,
        info: int,
        addr: tuple[bytes, int] | None,
        offender: bytes,
        payload: bytes,
        data: int = 0,
    ) -> None:
        self.errno = errno
        self.origin = origin
        self.type = type_
        self.code = code
        self.info = info
        self.addr = addr
        self.offender = offender
        self.payload = payload
        self.data = data
        self.rx: RxPacket | None = None
        self.charge = rx_truesize(_QUOTED_IP + len(payload))
        self.at = -1
        self.iif = 0


def queue_icmp(sk: Sock, e: IcmpError, errno: int, port: int, payload: bytes) -> None:
    """Queue an ICMP error about a packet of `sk` to `port` (Linux: `ip_icmp_error`)."""
    origin = ORIGIN_ICMP6 if e.version == 6 else ORIGIN_ICMP
    entry = ErrEntry(errno, origin, e.type, e.code, e.info, (e.dst, port), e.offender, payload)
    rx = e.rx
    if rx is not None:  # what is queued is the packet that brought it, from the payload on
        entry.charge = rx.truesize or rx_truesize(rx.end - rx.l3)
        rx.l4 = rx.end - len(payload)
        entry.rx = rx
    queue(sk, entry)


def queue_local(sk: Sock, errno: int, addr: tuple[bytes, int], info: int, now: int) -> None:
    """Queue an error that this host itself found, if the socket wants them (Linux:
    `ip_local_error`, `ipv6_local_error`)."""
    if sk.recverr6 if len(addr[0]) == 16 else sk.recverr:
        entry = ErrEntry(errno, ORIGIN_LOCAL, 0, 0, info, addr, b"", b"")
        entry.at = now
        queue(sk, entry)


def queue(sk: Sock, entry: ErrEntry) -> None:
    """Queue `entry` if there is room for it (Linux: `sock_queue_err_skb`)."""
    if sk.rmem_alloc + entry.charge >= sk.rcvbuf:
        return
    sk.rmem_alloc += entry.charge
    if sk.error_queue is None:
        sk.error_queue = []
    sk.error_queue.append(entry)
    sk.error_report()


def purge(sk: Sock) -> None:
    """Drop every entry: the socket is closed."""
    for entry in sk.error_queue or ():
        sk.rmem_alloc -= entry.charge
    sk.error_queue = None


def purge_errors(sk: Sock) -> None:
    """Drop the errors, for IP_RECVERR was turned off, and keep the rest."""
    kept = [entry for entry in sk.error_queue or () if entry.origin >= ORIGIN_TIMESTAMPING]
    for entry in sk.error_queue or ():
        if entry.origin < ORIGIN_TIMESTAMPING:
            sk.rmem_alloc -= entry.charge
    sk.error_queue = kept or None
