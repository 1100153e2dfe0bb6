"""bind, connect, disconnect, close: a socket's addresses (rules C-51, C-54, E-16, E-19).

Sources: Linux `__inet_bind`, `__inet6_bind`, `__ip4_datagram_connect`,
`__ip6_datagram_connect`, `__udp_disconnect`, `udp_destruct_common`.
"""

from __future__ import annotations

from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENETUNREACH

from ustack.sock import error_queue, multicast
from ustack.sock.addr import ANY4
from ustack.sock.dst import Dst
from ustack.sock.errors import error
from ustack.sock.proto import Address
from ustack.sock.sock import (
    AF_INET6,
    BINDADDR_LOCK,
    BINDPORT_LOCK,
    F_DONTROUTE,
    F_NO_PORT,
    SHUTDOWN_MASK,
)
from ustack.udp import cork, output, sendmsg
from ustack.udp.sock import UdpSock

# what means something else on every link: interface-local and link-local groups
_LINK_SCOPES = (b"\xff\x01", b"\xff\x02")


def bind(sk: UdpSock, addr: Address) -> None:
    """Bind to (address, port); b"" is the wildcard, port 0 any port."""
    local, port = addr
    if sk.family != AF_INET6 or not sk.sport:  # `__inet6_bind` looks at the port first
        check_local(sk, local)
    if sk.sport:
        raise error(EINVAL)
    takes_port = port != 0 or not sk.inet_flags & F_NO_PORT
    try:
        if takes_port:
            sk.host.ports.bind(sk, local, port)
        else:
            sk.rcv_saddr = local
    except OSError as why:
        if why.errno == EADDRINUSE:  # an address from before is gone too
            sk.saddr = sk.saddr4 = sk.rcv_saddr = b""
        raise
    if sk.family == AF_INET6 and len(local) == 16:
        sk.v6only = True
    # an IPv6 socket keeps a mapped group as its source, and cannot send
    group = len(local) == 16 or sk.family != AF_INET6
    sk.saddr = b"" if local and group and sk.net.is_group(local) else local
    if local:
        sk.userlocks |= BINDADDR_LOCK
    if port:
        sk.userlocks |= BINDPORT_LOCK
    sk.dst = None
    if takes_port:
        sk.host.table.hash(sk)


def check_local(sk: UdpSock, local: bytes) -> None:
    """Can `sk` be bound to this address?"""
    if not local:
        return
    if sk.family != AF_INET6:
        if len(local) == 16:
            raise error(EAFNOSUPPORT)
    elif len(local) == 4 and sk.v6only:
        raise error(EINVAL)
    if len(local) == 16 and local[:2] in _LINK_SCOPES and not sk.bindtodevice:
        raise error(EINVAL)
    if local == ANY4 or sk.freebind or sk.net.sysctl.ip_nonlocal_bind:
        return
    if not (sk.net.is_local(local) or sk.net.is_group(local)):
        raise error(EADDRNOTAVAIL)
    home = sk.net.address_device(local) if sk.bindtodevice and len(local) == 16 else 0
    if home and home != sk.bindtodevice:
        raise error(EADDRNOTAVAIL)


def connect(sk: UdpSock, addr: Address) -> None:
    """Set the peer: the default destination, and the only sender that is heard. May be
    repeated; a pending error stays pending. As on Linux, a socket that goes from an IPv6
    peer to an IPv4 one keeps its IPv6 address, and hears nothing."""
    if not sk.sport:
        sendmsg.autobind(sk)
    daddr = addr[0]
    if sk.family == AF_INET6:
        daddr = sendmsg.dest6(sk, daddr)
        if len(daddr) == 4 and sk.v6only:
            raise error(ENETUNREACH)
    elif len(daddr) == 16:
        raise error(EAFNOSUPPORT)
    v4 = len(daddr) == 4 or sk.family != AF_INET6
    saddr, dst = _find_way(sk, daddr, addr[1], v4)
    sendmsg.check_broadcast(sk, dst)
    if sk.inet_flags & F_DONTROUTE:
        sendmsg.check_on_link(dst)
    if not any(sk.saddr):
        sk.saddr = saddr
    elif v4 and len(sk.saddr) == 16:
        sk.saddr4 = saddr
    if not any(sk.rcv_saddr):
        sk.rcv_saddr = saddr
    sk.daddr = dst.daddr
    sk.dport = addr[1]
    sk.dst = dst
    sk.old_peer = b""
    if v4:
        sk.ip_id = 0  # begins anew
    sk.host.table.hash(sk)


def _find_way(sk: UdpSock, daddr: bytes, dport: int, v4: bool) -> tuple[bytes, Dst]:
    """The source and the path for a new peer. Over IPv4 connected sends have been redirected
    even if there is none (Linux: `ip_route_connect`)."""
    saddr = sendmsg.source(sk, daddr)
    if v4:
        sk.dst = None
        output.set_flow(sk, saddr or ANY4, daddr or ANY4, dport)
    dst = sendmsg.path(sk, daddr, saddr, sk.bindtodevice)
    saddr = saddr or dst.saddr
    if v4 and sk.bindtodevice and not any(daddr):  # is what this host means there, too?
        dst = sendmsg.path(sk, dst.daddr, saddr, sk.bindtodevice)
    if v4 or sk.cork is None:  # a pending IPv4 datagram goes where IPv4 was last meant
        output.set_flow(sk, saddr, dst.daddr, dport)
    return saddr, dst


def disconnect(sk: UdpSock) -> None:
    """Dissolve the association; an address and a port that were not bound go too. As on
    Linux, the IPv6 half of a socket goes on to hear its old peer only."""
    if sk.family == AF_INET6 and sk.daddr:
        sk.old_peer = sk.daddr
    sk.daddr = b""
    sk.dport = 0
    sk.dst = None
    sk.bindtodevice = 0
    if not sk.userlocks & BINDADDR_LOCK:
        sk.saddr = sk.saddr4 = sk.rcv_saddr = b""
    if sk.userlocks & BINDPORT_LOCK:
        sk.host.table.hash(sk)
    else:
        release(sk)


def release(sk: UdpSock) -> None:
    """Give the port back; the socket hears nothing any more."""
    sk.host.table.unhash(sk)
    sk.host.ports.release(sk)
    sk.sport = 0


def close(sk: UdpSock, now: int) -> None:
    """Drop everything: what is pending, what was received, what went wrong."""
    cork.flush(sk)
    release(sk)
    sk.reader_queue.clear()
    sk.receive_queue.clear()
    sk.forward_deficit = 0
    error_queue.purge(sk)
    multicast.leave_all(sk, now)
    sk.rmem_alloc = 0
    sk.daddr = b""
    sk.dport = 0
    sk.dst = None
    sk.socket = None
    sk.shutdown = SHUTDOWN_MASK  # calls that still wait end
    sk.state_change()
