"""UDP's system calls and options (Linux: `udp_prot`, `inet_dgram_ops`)."""

from __future__ import annotations

from errno import EINVAL, ENOPROTOOPT, ENOTCONN, ENOTTY, EOPNOTSUPP
from typing import NoReturn

from ustack.sock import datagram
from ustack.sock.errors import error
from ustack.sock.options import (
    SOL_UDP,
    get_common,
    read_int,
    set_common,
    unknown_option,
    write_int,
)
from ustack.sock.proto import Address, Cmsg
from ustack.sock.sock import RecvMsg, Sock
from ustack.sock.wait import Op
from ustack.udp import connect, cork, recvmsg, sendmsg
from ustack.udp.sock import UdpSock
from ustack.wire.packet import Buffer

SIOCINQ, SIOCOUTQ = 0x541B, 0x5411
UDP_CORK, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX, UDP_SEGMENT, UDP_GRO = 1, 101, 102, 103, 104


class UdpProto:
    """The `sock.proto.Proto` of UDP sockets."""

    __slots__ = ()

    name = "UDP"

    def bind(self, sk: Sock, addr: Address, now: int) -> None:
        connect.bind(_udp(sk), addr)

    def listen(self, sk: Sock, backlog: int, now: int) -> NoReturn:
        raise error(EOPNOTSUPP)

    def accept(self, sk: Sock, now: int) -> NoReturn:
        raise error(EOPNOTSUPP)

    def connect(self, sk: Sock, addr: Address | None, now: int) -> None:
        if addr is None:
            connect.disconnect(_udp(sk))
        else:
            connect.connect(_udp(sk), addr)

    def sendmsg(
        self,
        sk: Sock,
        data: Buffer,
        flags: int,
        now: int,
        addr: Address | None = None,
        control: tuple[Cmsg, ...] = (),
    ) -> int | Op[int]:
        return sendmsg.sendmsg(_udp(sk), data, flags, now, addr, control)

    def recvmsg(self, sk: Sock, length: int, flags: int, now: int) -> RecvMsg | Op[RecvMsg]:
        return recvmsg.recvmsg(_udp(sk), length, flags, now)

    def shutdown(self, sk: Sock, how: int, now: int) -> None:
        """ENOTCONN on an unconnected socket, which is shut down all the same (E-17)."""
        if not 0 <= how <= 2:
            raise error(EINVAL)
        sk.shutdown |= how + 1
        sk.state_change()
        if not sk.daddr:
            raise error(ENOTCONN)

    def close(self, sk: Sock, now: int) -> None:
        connect.close(_udp(sk), now)

    def ioctl(self, sk: Sock, request: int, now: int) -> int:
        """SIOCOUTQ, and SIOCINQ: the length of the first datagram (E-11)."""
        if request == SIOCOUTQ:
            return sk.wmem_alloc
        if request == SIOCINQ:
            return recvmsg.first_length(_udp(sk))
        raise error(ENOTTY)

    def poll(self, sk: Sock, now: int) -> int:
        """Rule E-29 (Linux: `udp_poll`)."""
        return datagram.poll(sk, _udp(sk).has_data())

    def setsockopt(self, sk: Sock, level: int, name: int, value: bytes, now: int) -> None:
        if level == SOL_UDP:
            _set_udp(_udp(sk), name, read_int(value), now)
        elif not set_common(sk, level, name, value, now):
            raise unknown_option(sk, level, False)

    def getsockopt(self, sk: Sock, level: int, name: int, optlen: int, now: int) -> bytes:
        if level == SOL_UDP:
            if optlen < 0:
                raise error(EINVAL)
            return write_int(_get_udp(_udp(sk), name), optlen)
        value = get_common(sk, level, name, optlen, now)
        if value is None:
            raise unknown_option(sk, level, True)
        return value


def _udp(sk: Sock) -> UdpSock:
    assert isinstance(sk, UdpSock)
    return sk


def _set_udp(sk: UdpSock, name: int, value: int, now: int) -> None:
    if name == UDP_CORK:
        sk.corked = value != 0
        if not value:
            try:
                cork.push(sk, now)
            except OSError:
                pass  # nobody is told
    elif name == UDP_NO_CHECK6_TX:
        sk.no_check6_tx = value != 0
    elif name == UDP_NO_CHECK6_RX:
        sk.no_check6_rx = value != 0
    elif name == UDP_SEGMENT:
        if not 0 <= value <= 0xFFFF:
            raise error(EINVAL)
        sk.gso_size = value
    elif name == UDP_GRO:
        sk.gro = value != 0
    else:
        raise error(ENOPROTOOPT)


def _get_udp(sk: UdpSock, name: int) -> int:
    if name == UDP_CORK:
        return int(sk.corked)
    if name == UDP_NO_CHECK6_TX:
        return int(sk.no_check6_tx)
    if name == UDP_NO_CHECK6_RX:
        return int(sk.no_check6_rx)
    if name == UDP_SEGMENT:
        return sk.gso_size
    if name == UDP_GRO:
        return int(sk.gro)
    raise error(ENOPROTOOPT)
