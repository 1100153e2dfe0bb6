"""recvmsg(2) with MSG_ERRQUEUE: one entry of the error queue, as a program is shown it.

The control messages are the times, what the socket wants to know of the packet, and last
the `sock_extended_err` with the address of who reported the error. Of a packet of our own
that was stamped (`sock.notify`) the packet itself is the payload. An IPv6 socket is told
about it as about a received one, an IPv4 socket with SOF_TIMESTAMPING_OPT_CMSG; both then
find its source where a reporter would stand.

Sources: Linux `ip_recv_error`, `ipv6_recv_error`, `sock_dequeue_err_skb`,
`ipv4_datagram_support_cmsg`, `ip6_datagram_support_cmsg`.
"""

from __future__ import annotations

from struct import Struct

from ustack.sock.addr import present
from ustack.sock.cmsg import recv_cmsgs, sent_cmsgs, timestamp
from ustack.sock.error_queue import FROM_ICMP, ORIGIN_TIMESTAMPING, Cmsg, ErrEntry
from ustack.sock.notify import FRAME_HEADER_LEN, LOOPBACK, OPT_CMSG, SOFTWARE, times
from ustack.sock.sock import AF_INET6, MSG_ERRQUEUE, MSG_TRUNC, RecvMsg, Sock, would_block

_SOL_IP, _SOL_IPV6, _IP_RECVERR, _IPV6_RECVERR = 0, 41, 11, 25
_EXTENDED_ERR = Struct("=IBBBBII")  # errno, origin, type, code, pad, info, data
_SOCKADDR_IN = Struct("=HH4s8x")
_SOCKADDR_IN6 = Struct("=HHI16sI")


def recv_error(sk: Sock, length: int) -> RecvMsg:
    """Take one entry; EAGAIN if there is none (Linux: `ip_recv_error`)."""
    entry = _dequeue(sk)
    v6 = sk.family == AF_INET6
    msg = RecvMsg()
    msg.len = min(len(entry.payload), length)
    if msg.len:
        msg.chunks.append(memoryview(entry.payload)[: msg.len])
    msg.flags = MSG_ERRQUEUE
    if msg.len < len(entry.payload):
        msg.flags |= MSG_TRUNC
    msg.addr = entry.addr
    if entry.at >= 0:
        _add_times(msg, sk, entry.at + sk.net.wall_ns, entry.origin == ORIGIN_TIMESTAMPING)
    if entry.rx is not None:
        msg.control += recv_cmsgs(sk, entry.rx, 0, 0, True, True)
    offender = entry.offender
    if entry.iif and (v6 or sk.tsflags & OPT_CMSG):
        start = FRAME_HEADER_LEN if entry.iif == LOOPBACK else 0
        offender = sent_cmsgs(msg.control, sk, entry.payload[start:], entry.iif)
    msg.control.append(_extended_err(entry, offender, v6))
    return msg


def _add_times(msg: RecvMsg, sk: Sock, at: int, stamp: bool) -> None:
    """When it happened; SO_TIMESTAMPING tells of stamps only."""
    if sk.timestamp:
        msg.control.append(timestamp(sk.timestamp, at))
    if stamp and sk.tsflags & SOFTWARE:
        msg.control.append(times(sk, at))


def _dequeue(sk: Sock) -> ErrEntry:
    queue = sk.error_queue
    if not queue:
        raise would_block()
    entry = queue.pop(0)
    sk.rmem_alloc -= entry.charge
    if queue and queue[0].origin in FROM_ICMP:
        sk.err = queue[0].errno
    elif entry.origin in FROM_ICMP:
        sk.err = 0
    if queue:
        sk.error_report()
    return entry


def _extended_err(entry: ErrEntry, offender: bytes, v6: bool) -> Cmsg:
    head = _EXTENDED_ERR.pack(
        entry.errno, entry.origin, entry.type, entry.code, 0, entry.info, entry.data
    )  # fmt: skip
    if v6:
        if not offender:
            return _SOL_IPV6, _IPV6_RECVERR, head + bytes(_SOCKADDR_IN6.size)
        shown = present(offender, True)
        return _SOL_IPV6, _IPV6_RECVERR, head + _SOCKADDR_IN6.pack(AF_INET6, 0, 0, shown, 0)
    if not offender:
        return _SOL_IP, _IP_RECVERR, head + bytes(_SOCKADDR_IN.size)
    return _SOL_IP, _IP_RECVERR, head + _SOCKADDR_IN.pack(2, 0, offender)
