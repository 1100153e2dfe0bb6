"""UDP of one host: its tables and its entry points."""

from __future__ import annotations

from collections.abc import Callable

from mypy_extensions import mypyc_attr

from ustack.sock.icmp import IcmpError
from ustack.sock.net import Net
from ustack.sock.ports import PortTable
from ustack.udp import input as udp_input
from ustack.udp.lookup import UdpTable
from ustack.udp.proto import UdpProto
from ustack.udp.sock import UdpSock
from ustack.wire.packet import IPPROTO_UDP, RxPacket


@mypyc_attr(allow_interpreted_subclasses=True)
class UdpHost:
    """Demultiplexes to the sockets of one stack.

    `on_flow`: asked about a datagram to this host that no socket wants. It may answer
    with a socket, which gets the datagram, or with None: port unreachable.
    """

    __slots__ = ("net", "on_flow", "ports", "prot", "table")

    def __init__(self, net: Net) -> None:
        self.net = net
        self.ports = PortTable(net, IPPROTO_UDP)
        self.table = UdpTable(net.seeds.stream("udp").getrandbits(128).to_bytes(16, "big"))
        self.prot = UdpProto()
        self.on_flow: Callable[[RxPacket], UdpSock | None] | None = None

    def create_sock(self, family: int) -> UdpSock:
        """A new socket of AF_INET or AF_INET6."""
        return UdpSock(self, family)

    def sockets(self) -> list[UdpSock]:
        """Every bound socket, oldest first."""
        return list(self.table.socks)

    def rcv(self, rx: RxPacket) -> None:
        """A datagram for this host, from IP."""
        udp_input.rcv(self, rx)

    def rcv_many(self, rx: RxPacket) -> None:
        """A broadcast or multicast, from IP."""
        udp_input.rcv(self, rx, True)

    def icmp_err(self, e: IcmpError) -> None:
        """An ICMP error about a datagram of this host."""
        udp_input.icmp_err(self, e)
