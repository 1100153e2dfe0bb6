"""recv(2) on a connection: what it takes, when it returns, when it wakes.

One call drains what is queued, across segment boundaries, up to its length; the sender's
writes do not exist any more. When nothing is left it returns if it has its *target*
(SO_RCVLOWAT, or the whole length with MSG_WAITALL), or if waiting is pointless; else it
sleeps. A sleeper is woken by the socket's rules (`data.data_ready`), not by its own
target, and then looks again. Data comes before errors: what was received before a RST can
still be read.

The bytes are handed out as views of the packets they came in; the caller copies them
once. An entry's charge is given back when it is read to its end; then an ACK may be due,
or a window update (`acking.cleanup_rbuf`).

Sources: Linux `tcp_recvmsg_locked`, `tcp_recv_urg`, `tcp_inq`; rules B-1 to B-22, B-32.
"""

from __future__ import annotations

from errno import EAGAIN, EINVAL, ENOTCONN

from ustack.sock.cmsg import add_times
from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.recv_error import recv_error
from ustack.sock.sock import (
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    RCV_SHUTDOWN,
    RecvMsg,
    would_block,
)
from ustack.sock.wait import Interrupted, Op, Wait
from ustack.tcp.acking import cleanup_rbuf
from ustack.tcp.predict import fast_path_check
from ustack.tcp.rcvbuf import rcv_space_adjust
from ustack.tcp.recv_queue import NO_TIME
from ustack.tcp.sock import URG_VALID, TcpSock
from ustack.tcp.state import CLOSE, LISTEN, SYN_RECV, SYN_SENT

TCP_CM_INQ = 36
SOL_TCP = 6
URG_READ = 0x400


class _Read(RecvMsg):
    """One receive call in progress: what the kernel's loop carries in local variables, and
    the message that it will return."""

    __slots__ = (
        "arrived", "call_flags", "inq", "left", "peek_offset", "peek_seq", "peeking", "skipped",
        "target",
    )  # fmt: skip

    def __init__(self, sk: TcpSock, length: int, flags: int) -> None:
        self.chunks = []
        self.len = 0
        self.flags = 0
        self.control = []
        self.addr = None
        self.arrived = NO_TIME  # when the last segment touched came
        self.left = length
        self.inq = sk.inq_cmsg  # TCP_INQ as the call began
        self.call_flags = flags
        self.peeking = bool(flags & MSG_PEEK)
        self.peek_offset = max(sk.peek_off, 0)
        self.peek_seq = sk.copied_seq
        if self.peeking:
            self.peek_seq += self.peek_offset
        self.skipped = 0  # urgent bytes that a peek went past
        target = sk.rcvlowat
        if target > length or flags & MSG_WAITALL:
            target = length
        self.target = target or 1


def recvmsg(sk: TcpSock, length: int, flags: int, now: int) -> RecvMsg | Op[RecvMsg]:
    """Up to `length` bytes, or an operation that waits for them."""
    if flags & MSG_ERRQUEUE:
        return recv_error(sk, length)
    if sk.state == LISTEN:
        raise error(ENOTCONN)
    if flags & MSG_OOB:
        return recv_urg(sk, length, flags)
    read = _Read(sk, length, flags)
    budget = 0 if flags & MSG_DONTWAIT or sk.nonblocking else sk.rcvtimeo
    if _pass(sk, read, now, budget != 0):
        return _finish(sk, read, now)
    return _recv_blocking(sk, read, now, now + budget if budget < NEVER else None)


def _recv_blocking(sk: TcpSock, read: _Read, now: int, deadline: int | None) -> Op[RecvMsg]:
    """Sleep and look again until `_pass` is content (rule B-7)."""
    forever = sk.wait_queue.forever
    try:
        while True:
            if sk.ack_pending or read.len:
                cleanup_rbuf(sk, read.len, now)
            now = yield forever if deadline is None else Wait(sk.wait_queue, deadline)
            if read.peeking:
                _follow_other_reader(sk, read)
            if not read.left:
                return _finish(sk, read, now)  # whatever woke it: it wanted nothing (B-6)
            may_wait = deadline is None or now < deadline
            if _pass(sk, read, now, may_wait):
                return _finish(sk, read, now)
    except Interrupted:
        if not read.len:
            raise
    return _finish(sk, read, now)


def _follow_other_reader(sk: TcpSock, read: _Read) -> None:
    """Somebody else has read: peek from there. What was peeked before stays in the message,
    so from then on each wake-up peeks from the start again (rule B-16)."""
    start = sk.copied_seq + read.peek_offset
    if read.peek_seq - read.len - read.skipped != start:
        read.peek_seq = start


def _pass(sk: TcpSock, read: _Read, now: int, may_wait: bool) -> bool:
    """Take what is there; true if the call is to return. Raises its error (B-4, B-5)."""
    if _take(sk, read, now):
        return True
    copied = read.len
    if copied:
        return (
            copied >= read.target
            or not may_wait
            or bool(sk.err)
            or sk.state == CLOSE
            or bool(sk.shutdown & RCV_SHUTDOWN)
        )
    if sk.fin_received:
        return True
    if sk.err:
        sk.raise_pending()
    if sk.shutdown & RCV_SHUTDOWN:
        return True
    if sk.state == CLOSE:
        raise error(ENOTCONN)
    if not may_wait:
        cleanup_rbuf(sk, 0, now)
        raise would_block()
    return False


def _take(sk: TcpSock, read: _Read, now: int) -> bool:
    """Drain the queue into the message; true if that ends the call (rule B-3). A read of
    length 0 looks too: it returns once there is data, and takes the end (rule B-6)."""
    queue = sk.receive_queue
    while True:
        seq = read.peek_seq if read.peeking else sk.copied_seq
        if sk.urg_data and sk.urg_seq == seq and read.len:
            return True  # a read stops short of the urgent byte
        found = queue.find(seq)
        if found is None:
            return False
        skb, offset = found
        avail = len(skb.data) - offset
        if avail:
            read.arrived = skb.tstamp
            if _copy(sk, read, skb.data, offset, avail, seq):
                rcv_space_adjust(sk, now)  # a peek begins a new interval, too
        seq = read.peek_seq if read.peeking else sk.copied_seq
        if seq < skb.end_seq - skb.fin:
            if not read.left:
                return True
            continue  # stopped at the urgent byte
        if skb.fin:
            if not read.peeking:
                sk.copied_seq += 1
                sk.rmem_alloc -= queue.eat().truesize
                sk.reserved = 0
            return True
        if not read.peeking:
            sk.rmem_alloc -= queue.eat().truesize
            sk.reserved = 0
        if not read.left:
            return True


def _copy(sk: TcpSock, read: _Read, data: memoryview, offset: int, avail: int, seq: int) -> bool:
    """Hand out up to `left` bytes of one entry, around the urgent byte (rule B-21); false if
    that byte was all."""
    used = min(avail, read.left)
    if sk.urg_data:
        urg_offset = sk.urg_seq - seq
        if 0 <= urg_offset < used:
            if urg_offset:
                used = urg_offset
            elif not sk.oobinline:
                read.skipped += 1  # the byte is read with MSG_OOB
                _advance(sk, read, 1)
                offset += 1
                used -= 1
                if not used:
                    return False
    if not read.call_flags & MSG_TRUNC:
        whole = used == len(data)
        read.chunks.append(data if whole else data[offset : offset + used])
    read.len += used
    read.left -= used
    _advance(sk, read, used)
    if sk.peek_off >= 0:  # seen by whoever reads while this call sleeps (rule B-11)
        if read.peeking:
            sk.peek_off += used
        else:
            sk.peek_off = max(sk.peek_off - used, 0)
    return True


def _advance(sk: TcpSock, read: _Read, n: int) -> None:
    if read.peeking:
        read.peek_seq += n
        return
    sk.copied_seq += n
    if sk.urg_data and sk.copied_seq > sk.urg_seq:
        sk.urg_data = 0
        fast_path_check(sk)


def _finish(sk: TcpSock, read: _Read, now: int) -> RecvMsg:
    """Account for the read: ACK or window update, peek offset, control messages."""
    msg = read
    if msg.len or sk.ack_pending:
        cleanup_rbuf(sk, msg.len, now)
    if (sk.timestamp or sk.tsflags) and read.arrived != NO_TIME:
        add_times(msg.control, sk, read.arrived)
    if read.inq:
        _add_inq(sk, msg)
    return msg


def _add_inq(sk: TcpSock, msg: RecvMsg) -> None:
    """TCP_INQ: what is left, not 0 once the end is known (rule B-14, `tcp_inq_hint`)."""
    hint = sk.rcv_nxt - sk.copied_seq
    if sk.fin_received:
        hint = max(hint, 1)
    msg.control.append((SOL_TCP, TCP_CM_INQ, hint.to_bytes(4, "little")))


def recv_urg(sk: TcpSock, length: int, flags: int) -> RecvMsg:
    """recv with MSG_OOB: the urgent byte, never waiting (rule B-20)."""
    if sk.oobinline or not sk.urg_data or sk.urg_data == URG_READ:
        raise error(EINVAL)
    if sk.state == CLOSE and not sk.fin_received:
        raise error(ENOTCONN)
    msg = RecvMsg()
    if sk.urg_data & URG_VALID:
        byte = bytes((sk.urg_data & 0xFF,))
        if not flags & MSG_PEEK:
            sk.urg_data = URG_READ
        msg.flags |= MSG_OOB
        if length > 0:
            msg.len = 1
            if not flags & MSG_TRUNC:
                msg.chunks.append(byte)
        else:
            msg.flags |= MSG_TRUNC
    elif sk.state != CLOSE and not sk.shutdown & RCV_SHUTDOWN:
        raise error(EAGAIN)
    if sk.inq_cmsg:
        _add_inq(sk, msg)
    return msg


def inq(sk: TcpSock) -> int:
    """SIOCINQ: bytes that can be read, up to the urgent mark (rules B-22, B-32)."""
    if sk.state in (SYN_SENT, SYN_RECV):
        return 0
    if not sk.oobinline and sk.urg_data and sk.copied_seq <= sk.urg_seq < sk.rcv_nxt:
        return sk.urg_seq - sk.copied_seq
    answer = sk.rcv_nxt - sk.copied_seq
    if answer and sk.fin_received:
        answer -= 1
    return answer
