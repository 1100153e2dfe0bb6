"""The system calls of ping sockets (Linux: `ping_prot`, `pingv6_prot`).

Limits: no ICMP filters, no extended echo requests (RFC 8335).
"""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENETUNREACH, ENOTCONN, ENOTTY, EOPNOTSUPP
from typing import NoReturn

from ustack.ping import sendmsg
from ustack.ping.sock import PingSock
from ustack.sock import datagram, error_queue, multicast
from ustack.sock.addr import is_multicast
from ustack.sock.cmsg import recv_cmsgs
from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.options import (
    SO_PEEK_OFF,
    SOL_SOCKET,
    get_common,
    set_common,
    unknown_option,
)
from ustack.sock.proto import Address, Cmsg
from ustack.sock.recv_error import recv_error
from ustack.sock.sock import (
    BINDADDR_LOCK,
    BINDPORT_LOCK,
    F_DONTROUTE,
    F_RECV_CMSGS,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    RCV_SHUTDOWN,
    SHUTDOWN_MASK,
    RecvMsg,
    Sock,
    would_block,
)
from ustack.sock.wait import Op, Wait
from ustack.wire.packet import Buffer


class PingProto:
    """The `sock.proto.Proto` of ping sockets."""

    __slots__ = ()

    name = "PING"

    def bind(self, sk: Sock, addr: Address, now: int) -> None:
        ping, (local, ident) = _ping(sk), addr
        _check_local(ping, local)
        if ping.sport:
            raise error(EINVAL)
        ping.host.bind(ping, ident)
        ping.saddr = ping.rcv_saddr = local
        if local:
            ping.userlocks |= BINDADDR_LOCK
        if ident:
            ping.userlocks |= BINDPORT_LOCK
        ping.dst = None

    def listen(self, sk: Sock, backlog: int, now: int) -> NoReturn:
        raise error(EOPNOTSUPP)

    def accept(self, sk: Sock, now: int) -> NoReturn:
        raise error(EOPNOTSUPP)

    def connect(self, sk: Sock, addr: Address | None, now: int) -> None:
        if addr is None:
            _disconnect(_ping(sk))
        else:
            _connect(_ping(sk), addr)

    def sendmsg(
        self,
        sk: Sock,
        data: Buffer,
        flags: int,
        now: int,
        addr: Address | None = None,
        control: tuple[Cmsg, ...] = (),
    ) -> int | Op[int]:
        return sendmsg.sendmsg(_ping(sk), data, flags, now, addr, control)

    def recvmsg(self, sk: Sock, length: int, flags: int, now: int) -> RecvMsg | Op[RecvMsg]:
        ping = _ping(sk)
        if flags & MSG_OOB:
            raise error(EOPNOTSUPP)
        if flags & MSG_ERRQUEUE:
            return recv_error(ping, length)
        msg = _try_recv(ping, length, flags)
        if msg is not None:
            return msg
        timeo = ping.wait_budget(ping.rcvtimeo, flags)
        if not timeo:
            raise would_block()
        return _wait_and_recv(ping, length, flags, None if timeo >= NEVER else now + timeo)

    def shutdown(self, sk: Sock, how: int, now: int) -> None:
        """ENOTCONN on an unconnected socket, which is shut down all the same."""
        if not 0 <= how <= 2:
            raise error(EINVAL)
        sk.shutdown |= how + 1
        sk.state_change()
        if not sk.daddr:
            raise error(ENOTCONN)

    def close(self, sk: Sock, now: int) -> None:
        ping = _ping(sk)
        ping.host.release(ping)
        ping.receive_queue.clear()
        error_queue.purge(ping)
        multicast.leave_all(ping, now)
        ping.rmem_alloc = 0
        ping.daddr = b""
        ping.dport = 0
        ping.dst = None
        ping.socket = None
        ping.shutdown = SHUTDOWN_MASK  # calls that still wait end
        ping.state_change()

    def setsockopt(self, sk: Sock, level: int, name: int, value: bytes, now: int) -> None:
        _refuse_peek_off(level, name)
        if not set_common(sk, level, name, value, now):
            raise unknown_option(sk, level, False)

    def getsockopt(self, sk: Sock, level: int, name: int, optlen: int, now: int) -> bytes:
        _refuse_peek_off(level, name)
        value = get_common(sk, level, name, optlen, now)
        if value is None:
            raise unknown_option(sk, level, True)
        return value

    def ioctl(self, sk: Sock, request: int, now: int) -> int:
        raise error(ENOTTY)

    def poll(self, sk: Sock, now: int) -> int:
        return datagram.poll(sk, bool(_ping(sk).receive_queue))


def _ping(sk: Sock) -> PingSock:
    assert isinstance(sk, PingSock)
    return sk


def _refuse_peek_off(level: int, name: int) -> None:
    if level == SOL_SOCKET and name == SO_PEEK_OFF:
        raise error(EOPNOTSUPP)


# -- addresses -------------------------------------------------------------------------------


def _check_local(sk: PingSock, local: bytes) -> None:
    """Can `sk` be bound to this address (Linux: `ping_check_bind_addr`)?"""
    if not local:
        return
    if sk.v6 and len(local) == 4:
        raise error(EINVAL)
    if not sk.v6 and len(local) == 16:
        raise error(EAFNOSUPPORT)
    free = sk.freebind or sk.net.sysctl.ip_nonlocal_bind
    if is_multicast(local) or not (free or sk.net.is_local(local)):
        raise error(EADDRNOTAVAIL)


def _connect(sk: PingSock, addr: Address) -> None:
    if not sk.sport:
        sendmsg.autobind(sk)
    if sk.v6 and len(addr[0]) == 4:
        raise error(ENETUNREACH)
    daddr = sendmsg.check_family(sk, addr[0])
    dst, saddr = sendmsg.route(sk, daddr, sk.saddr, sk.bindtodevice)
    if sk.inet_flags & F_DONTROUTE:
        sendmsg.check_on_link(dst)
    sk.saddr = saddr
    sk.rcv_saddr = sk.rcv_saddr or saddr
    sk.daddr, sk.dport = dst.daddr, addr[1]
    sk.dst = dst


def _disconnect(sk: PingSock) -> None:
    sk.daddr = b""
    sk.dport = 0
    sk.dst = None
    sk.bindtodevice = 0
    if not sk.userlocks & BINDADDR_LOCK:
        sk.saddr = sk.rcv_saddr = b""
    if not sk.userlocks & BINDPORT_LOCK:
        sk.host.release(sk)


# -- receiving -------------------------------------------------------------------------------


def _wait_and_recv(sk: PingSock, length: int, flags: int, deadline: int | None) -> Op[RecvMsg]:
    while not sk.shutdown & RCV_SHUTDOWN:
        now = yield Wait(sk.wait_queue, deadline, exclusive=True)
        msg = _try_recv(sk, length, flags)
        if msg is not None:
            return msg
        if deadline is not None and now >= deadline:
            raise would_block()
    return RecvMsg()


def _try_recv(sk: PingSock, length: int, flags: int) -> RecvMsg | None:
    """A pending error, a message with its ICMP header, or nothing (Linux: `ping_recvmsg`)."""
    sk.raise_pending()
    queue = sk.receive_queue
    if not queue:
        return None
    message = queue[0]
    if not flags & MSG_PEEK:
        queue.popleft()
        sk.rmem_alloc -= message.truesize
    rx = message.rx
    msg = RecvMsg()
    size = rx.end - rx.l4
    msg.len = min(length, size)
    if msg.len < size:
        msg.flags = MSG_TRUNC
    if msg.len:
        msg.chunks.append(memoryview(rx.buf)[rx.l4 : rx.l4 + msg.len])
    msg.addr = (rx.src, 0)
    if sk.timestamp or sk.tsflags or sk.inet_flags & F_RECV_CMSGS:
        msg.control = recv_cmsgs(sk, rx, message.dropcount, 0)
    return msg
