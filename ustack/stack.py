"""One host: its network layer, TCP, UDP and ping, and the calls that make sockets.

Sans-IO: whoever drives it (`io` in real time, `sim` in virtual time) gives it packets and
the time through the entries of `ip.host`, and devices to send through.
"""

from __future__ import annotations

from errno import EACCES, EAFNOSUPPORT, EINVAL, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT

from ustack.ip.host import IpHost
from ustack.ping.host import PingHost
from ustack.sock.dst import SoftDevice
from ustack.sock.errors import error
from ustack.sock.net import SeedSource
from ustack.sock.sock import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, Sock
from ustack.sock.sysctl import Sysctl
from ustack.tcp.host import TcpHost
from ustack.udp.host import UdpHost
from ustack.wire.packet import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

_SOCK_RAW, _SOCK_MAX, _SOCK_TYPE_MASK = 3, 11, 0xF
_SOCK_NONBLOCK, _SOCK_CLOEXEC = 0x800, 0x80000
_NPROTO = 46  # address families
_IPPROTO_MAX = 263  # MPTCP is the last
_PROTOCOLS = {SOCK_STREAM: IPPROTO_TCP, SOCK_DGRAM: IPPROTO_UDP}
_PING = {AF_INET: IPPROTO_ICMP, AF_INET6: IPPROTO_ICMPV6}


class Stack(IpHost):
    """A host with TCP, UDP and ping sockets.

    Seams for whoever answers for any address: `tcp.catch_all`, `udp.on_flow`, `on_echo`.
    """

    def __init__(
        self,
        *,
        seeds: SeedSource,
        loopback: SoftDevice,
        sysctl: Sysctl | None = None,
        wall_ns: int = 0,
    ) -> None:
        super().__init__(seeds=seeds, loopback=loopback, sysctl=sysctl, wall_ns=wall_ns)
        self.tcp = TcpHost(self)
        self.udp = UdpHost(self)
        self.ping_host = PingHost(self)
        self.ping = self.ping_host
        self.register(IPPROTO_TCP, self.tcp.rcv, self.tcp.icmp_err)
        self.register(IPPROTO_UDP, self.udp.rcv, self.udp.icmp_err, self.udp.rcv_many)

    def socket(self, family: int, type_: int, proto: int = 0) -> Sock:
        """Make a socket (Linux: `__sys_socket`, `inet_create`); errors as there."""
        flags, kind = type_ & ~_SOCK_TYPE_MASK, type_ & _SOCK_TYPE_MASK
        if flags & ~(_SOCK_NONBLOCK | _SOCK_CLOEXEC):
            raise error(EINVAL)
        if not 0 <= family < _NPROTO:
            raise error(EAFNOSUPPORT)
        if kind >= _SOCK_MAX:
            raise error(EINVAL)
        if family not in (AF_INET, AF_INET6):
            raise error(EAFNOSUPPORT)
        if not 0 <= proto < _IPPROTO_MAX:
            raise error(EINVAL)
        if kind == _SOCK_RAW:
            raise error(EPERM)
        if kind not in _PROTOCOLS:
            raise error(ESOCKTNOSUPPORT)
        ping = kind == SOCK_DGRAM and proto == _PING[family]
        if proto not in (0, _PROTOCOLS[kind]) and not ping:
            raise error(EPROTONOSUPPORT)
        sk: Sock
        if kind == SOCK_STREAM:
            sk = self.tcp.create_sock(family)
        elif ping:
            low, high = self.sysctl.ping_group_range
            if low > high:
                raise error(EACCES)
            sk = self.ping_host.create_sock(family)
        else:
            sk = self.udp.create_sock(family)
        sk.nonblocking = bool(flags & _SOCK_NONBLOCK)
        return sk
