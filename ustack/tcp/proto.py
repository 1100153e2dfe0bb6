"""TCP's system calls (Linux: `tcp_prot`, `inet_stream_ops`)."""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENOTTY
from typing import Any, ClassVar, cast

from ustack.sock import multicast
from ustack.sock.addr import is_multicast, normalize
from ustack.sock.errors import error
from ustack.sock.options import SOL_TCP, get_common, set_common, unknown_option
from ustack.sock.proto import Address
from ustack.sock.sock import (
    AF_INET6,
    BINDADDR_LOCK,
    BINDPORT_LOCK,
    F_NO_PORT,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    Sock,
)
from ustack.sock.wait import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRNORM,
    Op,
)
from ustack.tcp import handshake, lifecycle, listen, options, recvmsg, sendmsg
from ustack.tcp.sock import URG_VALID, TcpSock
from ustack.tcp.state import CLOSE, LISTEN, SYN_RECV, SYN_SENT

SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK = 0x541B, 0x5411, 0x894B, 0x8905


class TcpProto:
    """The `sock.proto.Proto` of TCP sockets."""

    __slots__ = ()

    name = "TCP"

    def bind(self, sk: Sock, addr: Address, now: int) -> None:
        """Rule C-51."""
        tcp = _tcp(sk)
        host, port = normalize(addr[0]), addr[1]
        bound = tcp.state != CLOSE or tcp.sport != 0
        if tcp.family != AF_INET6 or not bound:  # `__inet6_bind` looks at the port first
            _check_local(tcp, host)
        if bound:
            raise error(EINVAL)
        if port or not tcp.inet_flags & F_NO_PORT:
            tcp.host.ports.bind(tcp, host, port)
        else:
            tcp.rcv_saddr = host
        tcp.saddr = b"" if host and tcp.net.is_group(host) else host
        if host:
            tcp.userlocks |= BINDADDR_LOCK
        if port:
            tcp.userlocks |= BINDPORT_LOCK

    def listen(self, sk: Sock, backlog: int, now: int) -> None:
        listen.listen(_tcp(sk), backlog, now)

    def accept(self, sk: Sock, now: int) -> Sock | Op[Sock]:
        return listen.accept(_tcp(sk), now)

    def connect(self, sk: Sock, addr: Address | None, now: int) -> None | Op[None]:
        return handshake.connect(_tcp(sk), addr, now)

    # the packet path: straight to the functions, which take a TcpSock
    sendmsg: ClassVar[Any] = staticmethod(cast("Any", sendmsg.sendmsg))
    recvmsg: ClassVar[Any] = staticmethod(cast("Any", recvmsg.recvmsg))

    def shutdown(self, sk: Sock, how: int, now: int) -> None:
        lifecycle.shutdown(_tcp(sk), how, now)

    def close(self, sk: Sock, now: int) -> None | Op[None]:
        multicast.leave_all(sk, now)
        return lifecycle.close(_tcp(sk), now)

    def setsockopt(self, sk: Sock, level: int, name: int, value: bytes, now: int) -> None:
        tcp = _tcp(sk)
        if level == SOL_TCP:
            options.setsockopt(tcp, name, value, now)
        elif not set_common(sk, level, name, value, now):
            raise unknown_option(sk, level, False)

    def getsockopt(self, sk: Sock, level: int, name: int, optlen: int, now: int) -> bytes:
        if level == SOL_TCP:
            return options.getsockopt(_tcp(sk), name, optlen, now)
        value = get_common(sk, level, name, optlen, now)
        if value is None:
            raise unknown_option(sk, level, True)
        return value

    def ioctl(self, sk: Sock, request: int, now: int) -> int:
        """Rules A-14, B-22, B-32."""
        tcp = _tcp(sk)
        if request not in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK):
            raise error(ENOTTY)
        if request == SIOCATMARK:
            return int(bool(tcp.urg_data) and tcp.urg_seq == tcp.copied_seq)
        if tcp.state == LISTEN:
            raise error(EINVAL)
        if tcp.state in (SYN_SENT, SYN_RECV):
            return 0
        if request == SIOCINQ:
            return recvmsg.inq(tcp)
        start = tcp.snd_una if request == SIOCOUTQ else tcp.snd_nxt
        return tcp.write_seq - start

    def poll(self, sk: Sock, now: int) -> int:
        """Rule B-80 (`tcp_poll`)."""
        return poll(_tcp(sk))


def _check_local(sk: TcpSock, host: bytes) -> None:
    """Can `sk` be bound to this address?"""
    if not host:
        return
    if sk.family != AF_INET6:
        if len(host) == 16:
            raise error(EAFNOSUPPORT)
    elif len(host) == 4 and sk.v6only:
        raise error(EINVAL)
    if len(host) == 16 and is_multicast(host):
        raise error(EINVAL)
    if not (sk.freebind or sk.net.sysctl.ip_nonlocal_bind):
        if not (sk.net.is_local(host) or sk.net.is_group(host)):
            raise error(EADDRNOTAVAIL)


def _tcp(sk: Sock) -> TcpSock:
    assert isinstance(sk, TcpSock)
    return sk


def poll(sk: TcpSock) -> int:
    """The mask of poll(2). Sets NOSPACE when the socket is not writable."""
    if sk.state == LISTEN:
        queue = sk.accept_queue
        return POLLIN | POLLRDNORM if queue is not None and len(queue) else 0
    mask = 0
    if sk.shutdown == SHUTDOWN_MASK or sk.state == CLOSE:
        mask |= POLLHUP
    if sk.shutdown & RCV_SHUTDOWN:
        mask |= POLLIN | POLLRDNORM | POLLRDHUP
    if sk.state not in (SYN_SENT, SYN_RECV):
        mask |= _poll_data(sk)
    if sk.err or sk.error_queue:
        mask |= POLLERR
    return mask


def _poll_data(sk: TcpSock) -> int:
    """What only a connection that is, or was, open can say."""
    mask = 0
    target = sk.rcvlowat
    if sk.urg_data and sk.urg_seq == sk.copied_seq and not sk.oobinline:
        target += 1
    if sk.epollin_ready(target):
        mask |= POLLIN | POLLRDNORM
    if sk.shutdown & SEND_SHUTDOWN or sk.is_writeable():
        mask |= POLLOUT | POLLWRNORM
    else:
        sk.nospace = True  # a waiter is to be told
    if sk.urg_data & URG_VALID:
        mask |= POLLPRI
    return mask
