"""What every socket has, whatever its protocol (Linux: `struct sock`, `inet_sock`).

Buffers are accounted, not allocated: `rmem_alloc` is what the received packets in the
queues cost, `wmem_queued` what TCP's send queues hold, `wmem_alloc` what the device has
not yet let go of. The truesize model is in `sock.truesize`.

The three callbacks (`data_ready`, `write_space`, `state_change`) may only wake.
"""

from __future__ import annotations

from errno import EAGAIN
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Dst
from ustack.sock.errors import error
from ustack.sock.net import Net
from ustack.sock.wait import (
    POLLERR,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    WaitQueue,
)

if TYPE_CHECKING:
    from ustack.sock.error_queue import ErrEntry
    from ustack.sock.multicast import Multicast
    from ustack.sock.notify import TxNotify
    from ustack.sock.proto import Proto

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
SOCK_STREAM, SOCK_DGRAM = 1, 2
RCV_SHUTDOWN, SEND_SHUTDOWN, SHUTDOWN_MASK = 1, 2, 3
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2

PACING_UNLIMITED = 0xFFFF_FFFF_FFFF_FFFF  # SO_MAX_PACING_RATE when unset
SOCK_MIN_SNDBUF = 4608
SOCK_MIN_RCVBUF = 2304

# `userlocks`: which buffers and addresses the user has fixed
SNDBUF_LOCK, RCVBUF_LOCK, BINDADDR_LOCK, BINDPORT_LOCK = 1, 2, 4, 8

# IP_MTU_DISCOVER
PMTUDISC_DONT, PMTUDISC_WANT, PMTUDISC_DO, PMTUDISC_PROBE, PMTUDISC_INTERFACE, PMTUDISC_OMIT = (
    0,
    1,
    2,
    3,
    4,
    5,
)

MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_CTRUNC, MSG_PROBE = 0x1, 0x2, 0x4, 0x8, 0x10
MSG_TRUNC, MSG_DONTWAIT, MSG_EOR, MSG_WAITALL = 0x20, 0x40, 0x80, 0x100
MSG_CONFIRM, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_MORE = 0x800, 0x2000, 0x4000, 0x8000
MSG_ZEROCOPY, MSG_FASTOPEN = 0x4000000, 0x20000000

# `inet_flags`: which control messages a receive call returns, and rarer switches
F_PKTINFO, F_RECVTTL, F_RECVTOS, F_RECVORIGDSTADDR = 0x1, 0x2, 0x4, 0x8
F_RECVPKTINFO6, F_RECVHOPLIMIT, F_RECVTCLASS, F_RECVORIGDSTADDR6 = 0x10, 0x20, 0x40, 0x80
F_RXQ_OVFL = 0x100
F_DONTROUTE, F_DONTFRAG, F_SELECT_ERR_QUEUE = 0x200, 0x400, 0x800
F_ZEROCOPY, F_TIMESTAMPING_NEW, F_NO_PORT = 0x1000, 0x2000, 0x4000
F_RECV_CMSGS = 0x1FF  # any of the first two lines, or RXQ_OVFL


class RecvMsg:
    """What a receive call returns: views of the received bytes, to be copied once.

    `chunks` are views into packet buffers, `len` bytes in all (with MSG_TRUNC the real
    length, which may be more than the chunks hold). `control` holds
    (level, type, data bytes). `addr` is (address bytes, port) or None.
    """

    __slots__ = ("addr", "chunks", "control", "flags", "len")

    def __init__(self) -> None:
        self.chunks: list[bytes | memoryview] = []
        self.len = 0
        self.flags = 0
        self.control: list[tuple[int, int, bytes]] = []
        self.addr: tuple[bytes, int] | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Sock:
    """Fields and callbacks common to TCP and UDP sockets."""

    __slots__ = (
        "bindtodevice",
        "broadcast",
        "cookie",
        "daddr",
        "dport",
        "dst",
        "err",
        "err_soft",
        "family",
        "filter_drops",
        "frag_size",
        "freebind",
        "heap_at",
        "hop_limit",
        "inet_flags",
        "ip_id",
        "ip_template",
        "keepopen",
        "kept",
        "linger",
        "linger_time",
        "max_pacing_rate",
        "wmem_queued",
        "mark",
        "mc",
        "minttl",
        "net",
        "no_check",
        "nonblocking",
        "nospace",
        "notify",
        "oobinline",
        "pmtudisc",
        "pmtudisc6",
        "port_range",
        "priority",
        "protocol",
        "prot",
        "rcvbuf",
        "rcvlowat",
        "rcvtimeo",
        "recverr",
        "recverr6",
        "reuse",
        "reuseport",
        "rmem_alloc",
        "saddr",
        "rcv_saddr",
        "shutdown",
        "sndbuf",
        "sndtimeo",
        "sport",
        "tclass",
        "tos",
        "tsflags",
        "ttl",
        "type",
        "userlocks",
        "v6only",
        "wait_queue",
        "wmem_alloc",
        "peek_off",
        "drops",
        "error_queue",
        "timestamp",
        "socket",
        "__weakref__",
    )

    prot: Proto  # the protocol's call table, set by its sockets

    def __init__(  # noqa: PLR0915
        self, net: Net, family: int, type_: int, protocol: int
    ) -> None:
        self.net = net
        self.family = family
        self.type = type_
        self.protocol = protocol
        self.socket: object = None  # the application's handle; None for an orphan
        # addresses: network-order bytes, b"" when unset; ports are ints, 0 when unset
        self.saddr = b""  # source of outgoing packets
        self.rcv_saddr = b""  # bound address that incoming packets must match, b"" is any
        self.daddr = b""
        self.sport = 0
        self.dport = 0
        self.dst: Dst | None = None
        self.bindtodevice = 0
        self.userlocks = 0
        # IP options: what IPv4 packets get, what IPv6 packets get
        self.tos = 0
        self.tclass = 0
        self.ttl = -1  # -1: ip_default_ttl
        self.hop_limit = -1
        self.minttl = 0
        self.pmtudisc = PMTUDISC_WANT
        self.pmtudisc6 = PMTUDISC_WANT
        self.frag_size = 0  # IPV6_MTU: the most a fragment may have, 0 for no limit
        self.port_range = 0  # IP_LOCAL_PORT_RANGE: high << 16 | low, 0 for the host's
        self.mc: Multicast | None = None  # None: multicast options as they are by default
        self.recverr = False  # IP_RECVERR: errors that IPv4 packets meet are queued
        self.recverr6 = False  # IPV6_RECVERR
        self.v6only = False
        self.freebind = False
        self.kept: dict[tuple[int, int], int | bytes] | None = None  # `sock.kept`
        self.cookie = 0  # SO_COOKIE, 0 until asked for
        self.inet_flags = 0  # the rarer options, F_* above
        self.ip_id = 0
        self.ip_template: object = None  # what `queue_xmit` keeps between packets
        # socket options
        self.reuse = False
        self.reuseport = False
        self.broadcast = False
        self.keepopen = False
        self.oobinline = False
        self.linger = False
        self.linger_time = 0  # ns
        self.no_check = False
        self.priority = 0
        self.mark = 0
        self.timestamp = 0  # SO_TIMESTAMP family in force, 0 if none
        self.tsflags = 0  # SO_TIMESTAMPING
        self.notify: TxNotify | None = None  # who awaits the departure of what was sent
        self.rcvlowat = 1
        self.rcvtimeo = NEVER  # ns a blocking receive may wait
        self.sndtimeo = NEVER
        self.peek_off = -1
        self.max_pacing_rate = PACING_UNLIMITED  # bytes/s
        self.nonblocking = False
        # state
        self.shutdown = 0
        self.err = 0  # pending error, taken by one caller
        self.err_soft = 0
        self.error_queue: list[ErrEntry] | None = None
        self.nospace = False  # somebody failed to write (SOCK_NOSPACE)
        self.drops = 0
        # accounting, bytes
        self.sndbuf = net.sysctl.wmem_default
        self.rcvbuf = net.sysctl.rmem_default
        self.rmem_alloc = 0
        self.wmem_alloc = 0
        self.wmem_queued = 0
        self.wait_queue = WaitQueue()
        self.heap_at = NEVER

    # -- callbacks: they may only wake -----------------------------------------------

    def data_ready(self) -> None:
        """There is something to read (Linux: `sock_def_readable`)."""
        self.wait_queue.wake(POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND)

    def wake_writers(self) -> None:
        """There is room to write; the caller has tested the protocol's predicate."""
        self.wait_queue.wake(POLLOUT | POLLWRNORM | POLLWRBAND)

    def state_change(self) -> None:
        """The state has changed: everybody looks again."""
        self.wait_queue.wake_all(-1)

    def error_report(self) -> None:
        """An error is pending or queued (Linux: `sk_error_report`)."""
        self.wait_queue.wake_all(POLLERR)

    # -- errors ------------------------------------------------------------------------

    def sock_error(self) -> int:
        """Take the pending error: its errno, 0 if none. Each error is reported once."""
        err, self.err = self.err, 0
        return err

    def raise_pending(self) -> None:
        """Raise the pending error, if any."""
        if self.err:
            raise error(self.sock_error())

    # -- what option tables call; protocols that differ override ---------------------------

    @property
    def listening(self) -> bool:
        """Does it accept connections? (SO_ACCEPTCONN, and the rules of binding)"""
        return False

    def on_sndbuf_changed(self, now: int) -> None:
        """SO_SNDBUF was set: there may be room now (Linux: `sock_def_write_space`)."""
        if self.wmem_alloc << 1 <= self.sndbuf:
            self.wake_writers()

    def on_max_pacing_rate_changed(self) -> None:
        """SO_MAX_PACING_RATE was set. Only a device with a queue by flows would heed it."""

    def on_keepalive_changed(self, now: int) -> None:
        """SO_KEEPALIVE was set or cleared."""

    def on_rcvbuf_changed(self, now: int) -> None:
        """SO_RCVBUF was set."""

    def set_rcvlowat(self, value: int, now: int) -> None:
        """SO_RCVLOWAT; `value` is positive."""
        self.rcvlowat = value

    def timestamping_base(self, from_write_seq: bool) -> int:
        """What the numbers of SOF_TIMESTAMPING_OPT_ID are counted from. A stream counts
        bytes, from the next one written or the first one not acknowledged."""
        return 0

    # -- waiting -------------------------------------------------------------------------

    def wait_budget(self, timeo: int, flags: int) -> int:
        """How long this call may wait, in ns: 0 for non-blocking calls, NEVER for ever."""
        return 0 if flags & MSG_DONTWAIT or self.nonblocking else timeo

    # -- timers: a protocol with timers overrides both --------------------------------------

    def next_deadline(self) -> int:
        return NEVER

    def handle_timeout(self, now: int) -> None:
        """Run the timers that are due."""

    def handle_tx_done(self, charge: int, now: int) -> None:
        """The device has let go of a packet of ours (Linux: `sock_wfree`)."""
        self.wmem_alloc -= charge


def would_block() -> OSError:
    """EAGAIN, as every non-blocking call that cannot proceed raises it."""
    return error(EAGAIN)
