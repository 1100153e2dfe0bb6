"""Receiving (rules E-26 to E-31; Linux: `udp_recvmsg`, `__skb_recv_udp`).

One call, one datagram: a pending error first, then the oldest datagram, else wait. Tasks
that wait are exclusive waiters, a datagram wakes one of them.

Two queues. Arrivals go to `receive_queue`. A reader that finds `reader_queue` empty takes
all of them over; what it has consumed is given back to the receive buffer when
`reader_queue` has run empty or a quarter of the buffer has come together, so a buffer that
was full stays full for a while. Then, too, arrivals are taken over (Linux:
`udp_rmem_release`).
"""

from __future__ import annotations

from collections import deque

from ustack.sock.cmsg import recv_cmsgs
from ustack.sock.deadlines import NEVER
from ustack.sock.recv_error import recv_error
from ustack.sock.sock import (
    F_RECV_CMSGS,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    RCV_SHUTDOWN,
    RecvMsg,
    would_block,
)
from ustack.sock.wait import Op, Wait
from ustack.udp.sock import Datagram, UdpSock


def recvmsg(sk: UdpSock, length: int, flags: int, now: int) -> RecvMsg | Op[RecvMsg]:
    """Receive one datagram, at most `length` bytes of it."""
    if flags & MSG_ERRQUEUE:
        return recv_error(sk, length)
    msg = _try_recv(sk, length, flags)
    if msg is not None:
        return msg
    timeo = sk.wait_budget(sk.rcvtimeo, flags)
    if not timeo:
        raise would_block()
    if sk.shutdown & RCV_SHUTDOWN:
        return RecvMsg()
    return _wait_and_recv(sk, length, flags, timeo, now)


def _wait_and_recv(sk: UdpSock, length: int, flags: int, timeo: int, now: int) -> Op[RecvMsg]:
    deadline = None if timeo >= NEVER else now + timeo
    while not sk.shutdown & RCV_SHUTDOWN:
        now = yield Wait(sk.wait_queue, deadline, exclusive=True)
        msg = _try_recv(sk, length, flags)
        if msg is not None:
            return msg
        if deadline is not None and now >= deadline:
            raise would_block()
    return RecvMsg()


def _try_recv(sk: UdpSock, length: int, flags: int) -> RecvMsg | None:
    """One pass: a pending error, a datagram, or nothing."""
    if sk.err:
        sk.raise_pending()
    if flags & MSG_PEEK:
        return _peek(sk, length, flags)
    queue = sk.reader_queue
    if not queue:
        if not sk.receive_queue:
            return None
        queue = _refill(sk)
    dg = queue.popleft()
    deficit = sk.forward_deficit + dg.truesize
    if queue and deficit < sk.rcvbuf >> 2:
        sk.forward_deficit = deficit
    else:
        sk.forward_deficit = 0
        sk.rmem_alloc -= deficit
        if sk.receive_queue:
            _take_over(sk)
    sk.net.mib.values["Udp6InDatagrams" if len(dg.rx.src) == 16 else "UdpInDatagrams"] += 1
    msg = _fill(sk, dg, 0, length, flags)
    if sk.peek_off > 0:
        sk.peek_off = max(sk.peek_off - msg.len, 0)
    return msg


def _refill(sk: UdpSock) -> deque[Datagram]:
    """Take everything that has arrived over for reading; `reader_queue` is empty."""
    sk.reader_queue, sk.receive_queue = sk.receive_queue, sk.reader_queue
    return sk.reader_queue


def _take_over(sk: UdpSock) -> None:
    """Take what has arrived over for reading, behind what is there already."""
    sk.reader_queue.extend(sk.receive_queue)
    sk.receive_queue.clear()


def first_length(sk: UdpSock) -> int:
    """The length of the first datagram, 0 if there is none (Linux: `first_packet_length`)."""
    queue = sk.reader_queue
    if not queue:
        if not sk.receive_queue:
            return 0
        queue = _refill(sk)
    return queue[0].end - queue[0].start


def _peek(sk: UdpSock, length: int, flags: int) -> RecvMsg | None:
    """The first datagram, or the one that SO_PEEK_OFF has come to, left where it is. What has
    arrived is taken over if it is not among what was taken over before."""
    msg = _peek_taken(sk, length, flags)
    if msg is None and sk.receive_queue:
        _take_over(sk)
        msg = _peek_taken(sk, length, flags)
    return msg


def _peek_taken(sk: UdpSock, length: int, flags: int) -> RecvMsg | None:
    spans = sk.peek_off >= 0
    off = max(sk.peek_off, 0)
    for dg in sk.reader_queue:
        size = dg.end - dg.start
        if spans and off >= size and (size or off or dg.marks & Datagram.PEEKED):
            off -= size
            continue
        if not size:
            dg.marks |= Datagram.PEEKED
        msg = _fill(sk, dg, off, length, flags)
        if spans:
            sk.peek_off += msg.len
        return msg
    return None


def _fill(sk: UdpSock, dg: Datagram, off: int, length: int, flags: int) -> RecvMsg:
    """The result of a call that got `dg` from byte `off` on."""
    rx = dg.rx
    msg = RecvMsg()
    size = dg.end - dg.start
    copied = min(length, size - off)
    if length <= size - off and length < size:
        msg.flags = MSG_TRUNC
    if copied:
        start = dg.start + off
        msg.chunks.append(memoryview(rx.buf)[start : start + copied])
    msg.len = size if flags & MSG_TRUNC else copied
    msg.addr = (rx.src, dg.sport)
    if sk.timestamp or sk.tsflags or sk.inet_flags & F_RECV_CMSGS or sk.gro:
        gro = dg.gro if sk.gro else 0
        msg.control = recv_cmsgs(sk, rx, dg.dropcount, gro, dg.marks & Datagram.INFO != 0)
    return msg
