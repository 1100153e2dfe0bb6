"""The ping socket (Linux: `struct ping_sock`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ustack.sock.datagram import tx_done
from ustack.sock.sock import AF_INET6, SOCK_DGRAM, Sock
from ustack.wire.packet import IPPROTO_ICMP, IPPROTO_ICMPV6, RxPacket

if TYPE_CHECKING:
    from ustack.ping.host import PingHost


class Message:
    """A received message: `truesize` is what it is charged with, `dropcount` how many the
    socket had dropped before it."""

    __slots__ = ("dropcount", "rx", "truesize")

    def __init__(self, rx: RxPacket, truesize: int, dropcount: int) -> None:
        self.rx = rx
        self.truesize = truesize
        self.dropcount = dropcount


class PingSock(Sock):
    """One endpoint of echo requests; `sport` is its identifier, 0 if it has none yet."""

    __slots__ = ("host", "receive_queue")

    def __init__(self, host: PingHost, family: int) -> None:
        v6 = family == AF_INET6
        super().__init__(host.net, family, SOCK_DGRAM, IPPROTO_ICMPV6 if v6 else IPPROTO_ICMP)
        self.host = host
        self.prot = host.prot
        self.receive_queue: deque[Message] = deque()
        self.reuse = True  # identifiers may be shared, unless a socket forbids it
        self.v6only = v6

    def __repr__(self) -> str:
        return f"<PingSock {self.sport} rmem={self.rmem_alloc} wmem={self.wmem_alloc}>"

    @property
    def v6(self) -> bool:
        return self.family == AF_INET6

    def handle_tx_done(self, charge: int, now: int) -> None:
        tx_done(self, charge, now)
