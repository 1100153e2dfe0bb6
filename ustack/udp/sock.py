"""The UDP socket (Linux: `struct udp_sock`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from ustack.sock.datagram import is_writeable, tx_done
from ustack.sock.dst import Dst
from ustack.sock.sock import SOCK_DGRAM, Sock
from ustack.wire.packet import IPPROTO_UDP, RxPacket

if TYPE_CHECKING:
    from ustack.udp.host import UdpHost


class Datagram:
    """One received datagram: its payload is `rx.buf[start:end]`.

    `truesize` is what it is charged with, `dropcount` how many the socket had dropped
    before it, `gro` its segment size if it is several datagrams kept together for UDP_GRO,
    else 0. `marks`: PEEKED, a peek has seen it; INFO, the socket wanted IP_PKTINFO when it
    came.
    """

    __slots__ = ("dropcount", "end", "gro", "marks", "rx", "sport", "start", "truesize")

    PEEKED: ClassVar[int] = 1
    INFO: ClassVar[int] = 2

    def __init__(
        self, rx: RxPacket, sport: int, start: int, end: int, truesize: int, gro: int = 0
    ) -> None:
        self.rx = rx
        self.sport = sport
        self.start = start
        self.end = end
        self.truesize = truesize
        self.gro = gro
        self.dropcount = 0
        self.marks = 0


class Cork:
    """A datagram on its way: where it goes and how, fixed by its first call, and its bytes.

    `gso_size` and `dontfrag` are what control messages asked for, -1 where the socket's
    options hold. `own_ttl`: `ttl` comes from a control message; else an IPv4 datagram has what
    the socket's options say when it leaves. `stamps` are the transmit timestamps wanted for it,
    `zerocopy` how many of its calls had MSG_ZEROCOPY.

    A corked one collects in `buffer`; `charge` is what its fragments are charged with
    meanwhile, on `wmem_alloc`, `first` the part of the first, `tail` the IP length of the
    last, `mtu` the most that they may have; `sport` is the port that an IPv6 one is from,
    `live` a path that has a learned MTU and may get another.
    """

    __slots__ = (
        "buffer", "charge", "daddr", "dontfrag", "dport", "dst", "first", "gso_size", "live", "mtu",
        "opt_id", "own_ttl", "saddr", "sport", "stamps", "tail", "tos", "ttl", "zerocopy",
    )  # fmt: skip

    first: int  # these four of a corked one only
    live: Dst | None
    mtu: int
    sport: int

    def __init__(
        self, dst: Dst, saddr: bytes, daddr: bytes, dport: int, ttl: int, tos: int
    ) -> None:
        self.dst = dst
        self.saddr = saddr
        self.daddr = daddr
        self.dport = dport
        self.ttl = ttl
        self.tos = tos
        self.own_ttl = False
        self.gso_size = -1
        self.dontfrag = -1
        self.stamps = 0
        self.opt_id = -1
        self.zerocopy = 0
        self.buffer: bytearray | None = None
        self.charge = 0
        self.tail = 0


class UdpSock(Sock):
    """One UDP endpoint; connected if `daddr` is set.

    Received datagrams wait in `receive_queue`; a reader takes them over, all at once, into
    `reader_queue`, and what it has taken is given back to the buffer (`forward_deficit`)
    when that is empty or a quarter of the buffer has come together (E-26).

    `flow` is (source, destination, destination port) of the last connect or corked send
    over IPv4, whichever came later: a connected send goes there, and so does a pending
    datagram. A corked send elsewhere thus redirects a connected socket, and a connect the
    pending datagram, as on Linux, where all of them share `inet->cork.fl`.
    """

    __slots__ = (
        "cork", "corked", "csum_base", "flow", "forward_deficit", "gro", "gso_size", "hash_key",
        "hashed", "host", "no_check6_rx", "no_check6_tx", "old_peer", "order", "reader_queue",
        "receive_queue", "saddr4",
    )  # fmt: skip

    def __init__(self, host: UdpHost, family: int) -> None:
        super().__init__(host.net, family, SOCK_DGRAM, IPPROTO_UDP)
        self.host = host
        self.prot = host.prot
        self.receive_queue: deque[Datagram] = deque()
        self.reader_queue: deque[Datagram] = deque()
        self.forward_deficit = 0
        self.hash_key: tuple[bytes, int] | tuple[bytes, int, bytes, int] | None = None
        self.flow = (b"", b"", 0)
        self.old_peer = b""  # the only one whose IPv6 packets are heard, b"" for all
        self.saddr4 = b""  # source of IPv4 packets where `saddr` is an IPv6 address
        self.hashed = b""  # `rcv_saddr` when it was put there
        self.order = 0  # among the sockets of one key
        self.csum_base = 0  # pseudo-header sum of the addresses in `flow` and the protocol
        self.corked = False  # UDP_CORK
        self.cork: Cork | None = None  # the pending datagram
        self.gso_size = 0  # UDP_SEGMENT
        self.gro = False  # UDP_GRO
        self.no_check6_tx = False
        self.no_check6_rx = False

    def __repr__(self) -> str:
        return f"<UdpSock {self.sport}->{self.dport} rmem={self.rmem_alloc} wmem={self.wmem_alloc}>"

    def has_data(self) -> bool:
        """Is a datagram waiting?"""
        return bool(self.reader_queue or self.receive_queue)

    def is_writeable(self) -> bool:
        """Does poll say OUT? Less than half of the buffer is in use (rule E-11)."""
        return is_writeable(self)

    def handle_tx_done(self, charge: int, now: int) -> None:
        tx_done(self, charge, now)
