"""send(2) on a connection: from the application's buffer into the write queue.

The stream is laid down in entries of up to `size_goal` bytes. What remains of a write is
appended to the unsent tail as long as that has room, without asking for buffer space;
only a new entry asks (rule A-5). So a small write may succeed on a full buffer, and one
write may overshoot by an entry. While a large write is being copied the first part is
already on its way (`_push_during_copy`).

When there is no space the call sleeps, after pushing what it has queued; it is woken when
a third of the buffer is free. What was queued is never taken back: an error, a timeout or
a cancellation after n > 0 bytes makes the call return n (rule A-8), and the error waits
for the next call.

Payload is kept by reference. Small writes that extend an entry are gathered in a page of
fixed size, so that thousands of them do not become thousands of parts.

Sources: Linux `tcp_sendmsg_locked`, `tcp_push`, `sk_stream_wait_memory`,
`sk_stream_wait_connect`; rules A-1 to A-12, A-20 to A-28, A-60, A-65 to A-67.
"""

from __future__ import annotations

from errno import EPIPE

from ustack.sock.cmsg import SendOptions, send_socket
from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.notify import TX_RECORD, stream_zerocopy
from ustack.sock.options import SOL_SOCKET
from ustack.sock.proto import Address, Cmsg
from ustack.sock.sock import (
    F_ZEROCOPY,
    MSG_EOR,
    MSG_MORE,
    MSG_OOB,
    MSG_ZEROCOPY,
    SEND_SHUTDOWN,
    would_block,
)
from ustack.sock.truesize import TX_OVERHEAD
from ustack.sock.wait import Interrupted, Op, Wait
from ustack.tcp import chrono, txstamp
from ustack.tcp.cwnd import slow_start_after_idle_check
from ustack.tcp.output import (
    PUSH_ALL,
    current_mss,
    push_frames,
    push_one,
    write_xmit,
    xmit_size_goal,
)
from ustack.tcp.rate import check_app_limited
from ustack.tcp.skb import MAX_PARTS, Skb
from ustack.tcp.sock import NAGLE_CORK, NAGLE_PUSH, TcpSock
from ustack.tcp.state import CLOSE_WAIT, ESTABLISHED, SYN_RECV, SYN_SENT
from ustack.tcp.timers import check_probe_timer
from ustack.wire.packet import Buffer
from ustack.wire.tcp import ACK, PSH

PAGE = 4096  # small writes are gathered in pieces of this size
_SMALL = 2048  # what counts as a small write


def sendmsg(
    sk: TcpSock,
    data: Buffer,
    flags: int,
    now: int,
    addr: Address | None = None,
    control: tuple[Cmsg, ...] = (),
) -> int | Op[int]:
    """Queue `data`; the bytes taken, or an operation that waits for room.

    An address is ignored on a connection, as by the kernel. OSError EPIPE, EAGAIN, or the
    pending error.
    """
    if sk.state not in (ESTABLISHED, CLOSE_WAIT):
        budget = sk.wait_budget(sk.sndtimeo, flags)
        if sk.state in (SYN_SENT, SYN_RECV) and budget and not sk.err:
            return _send_when_connected(sk, data, flags, control, now, budget)
        _refuse(sk)
    stamps = sk.tsflags & TX_RECORD
    if control:
        stamps = _read_control(sk, control, stamps)
    view = memoryview(data)
    done = copy_in(sk, view, 0, flags, now)
    if done == len(view):
        if done:
            if sk.notify is not None:
                _want_notices(sk, flags, stamps, now)
            push(sk, flags, now)
        return done
    budget = sk.wait_budget(sk.sndtimeo, flags)
    if not budget:
        return _would_block(sk, done, flags, stamps, now)
    deadline = now + budget if budget < NEVER else None
    return _send_blocking(sk, view, done, flags, stamps, now, deadline)


def _read_control(sk: TcpSock, control: tuple[Cmsg, ...], stamps: int) -> int:
    """The transmit timestamps wanted; EINVAL for whatever is wrong."""
    wanted = SendOptions()
    for level, kind, data in control:
        if level == SOL_SOCKET:
            send_socket(sk, wanted, kind, data)
    return wanted.stamps if wanted.stamps >= 0 else stamps


def _refuse(sk: TcpSock) -> None:
    """Not connected (rule A-10)."""
    sk.raise_pending()
    if sk.state in (SYN_SENT, SYN_RECV):
        raise would_block()
    raise error(EPIPE)


def _finish(sk: TcpSock, done: int, flags: int, stamps: int, now: int) -> int:
    if done:
        if sk.notify is not None:
            _want_notices(sk, flags, stamps, now)
        push(sk, flags, now)
    return done


def _want_notices(sk: TcpSock, flags: int, stamps: int, now: int) -> None:
    """A call has taken something: tell the program what becomes of it, if it asks."""
    if stamps:
        txstamp.want(sk, stamps)
    if flags & MSG_ZEROCOPY and sk.inet_flags & F_ZEROCOPY:
        stream_zerocopy(sk, sk.write_seq, sk.snd_una, now)


def _would_block(sk: TcpSock, done: int, flags: int, stamps: int, now: int) -> int:
    """No room and no time to wait: what was taken, else EAGAIN."""
    sk.nospace = True
    if done:
        _push_before_sleeping(sk, flags, now)
        sk.nospace = True  # although what has gone may have made room
        return _finish(sk, done, flags, stamps, now)
    if not sk.write_queue and not sk.rtx_queue:
        sk.write_space()  # nothing in the queues will ever wake an edge-triggered watcher
    raise would_block()


def _send_when_connected(
    sk: TcpSock, data: Buffer, flags: int, control: tuple[Cmsg, ...], now: int, budget: int
) -> Op[int]:
    """Wait for the handshake, then send (`sk_stream_wait_connect`)."""
    deadline = now + budget if budget < NEVER else None
    sk.write_pending += 1  # the ACK of the SYN-ACK may travel on what we send
    try:
        while sk.state in (SYN_SENT, SYN_RECV) and not sk.err:
            if deadline is not None and now >= deadline:
                raise would_block()
            now = yield Wait(sk.wait_queue, deadline)
    finally:
        sk.write_pending -= 1
    if sk.state not in (ESTABLISHED, CLOSE_WAIT):
        _refuse(sk)
    stamps = _read_control(sk, control, sk.tsflags & TX_RECORD)
    view = memoryview(data)
    done = copy_in(sk, view, 0, flags, now)
    if done == len(view):
        return _finish(sk, done, flags, stamps, now)
    return (yield from _send_blocking(sk, view, done, flags, stamps, now, deadline))


def _send_blocking(
    sk: TcpSock,
    view: memoryview,
    done: int,
    flags: int,
    stamps: int,
    now: int,
    deadline: int | None,
) -> Op[int]:
    """The rest of a send that found no room (rules A-6, A-7)."""
    try:
        while True:
            sk.nospace = True
            if done:
                _push_before_sleeping(sk, flags, now)
            now = yield from _wait_for_space(sk, done, now, deadline)
            done = copy_in(sk, view, done, flags, now)
            if done == len(view):
                return _finish(sk, done, flags, stamps, now)
    except Interrupted:
        if not done:
            raise
    except OSError:
        if not done:
            raise
    # what stands at the end, a FIN too, gets PSH
    return _finish(sk, done, flags, stamps, now)


def _push_before_sleeping(sk: TcpSock, flags: int, now: int) -> None:
    """Everything queued may go, Nagle and cork or not (rule A-6)."""
    if sk.write_queue:
        _mark_push(sk)
        if flags & MSG_OOB:
            sk.snd_up = sk.write_seq
        push_frames(sk, current_mss(sk, now), NAGLE_PUSH, now)


def _wait_for_space(sk: TcpSock, done: int, now: int, deadline: int | None) -> Op[int]:
    """Sleep until there is room, return the time (`sk_stream_wait_memory`)."""
    while not sk.stream_memory_free():
        _check_can_send(sk, done)
        sk.nospace = True
        if deadline is not None and now >= deadline:
            raise would_block()
        now = yield Wait(sk.wait_queue, deadline)
    _check_can_send(sk, done)
    return now


def _check_can_send(sk: TcpSock, done: int) -> None:
    """A pending error, else EPIPE once the send side is shut (rule A-9). A call that has
    taken something leaves the error to the next one (rule A-8)."""
    if sk.err or sk.shutdown & SEND_SHUTDOWN:
        if not done:
            sk.raise_pending()
        raise error(EPIPE)


# -- the append-or-new loop ----------------------------------------------------------------


def copy_in(sk: TcpSock, view: memoryview, done: int, flags: int, now: int) -> int:
    """Queue `view[done:]` as far as there is room; how far that was."""
    if sk.err or sk.shutdown & SEND_SHUTDOWN:
        _check_can_send(sk, done)
    if not done:
        check_app_limited(sk)
    length = len(view)
    mss_now = current_mss(sk, now)
    goal = xmit_size_goal(sk, mss_now, not flags & MSG_OOB)
    queue = sk.write_queue
    while done < length:
        tail = queue[-1] if queue else None
        if tail is None or tail.len >= goal or tail.eor or len(tail.parts) >= MAX_PARTS:
            if not sk.stream_memory_free():
                return done
            tail = _new_entry(sk, now)
        take = min(goal - tail.len, length - done)
        done = _append(sk, tail, view, done, take)
        if done == length:
            if flags & MSG_EOR:
                tail.eor = True
        elif tail.len >= goal and not flags & MSG_OOB:
            _push_during_copy(sk, tail, mss_now, now)
    return done


def _new_entry(sk: TcpSock, now: int) -> Skb:
    """An empty entry at the end of the queue (`tcp_skb_entail`)."""
    skb = Skb(sk.write_seq, ACK)
    if not sk.chrono_type:
        chrono.start(sk, chrono.BUSY, now)
    sk.write_queue.append(skb)
    sk.wmem_queued += TX_OVERHEAD
    sk.nonagle &= ~NAGLE_PUSH
    if not sk.packets_out and now - sk.lsndtime > sk.rtt.rto_us * 1000:
        slow_start_after_idle_check(sk, now)
    return skb


def _append(sk: TcpSock, tail: Skb, view: memoryview, done: int, take: int) -> int:
    """Add `view[done:done+take]` to the tail; the new `done`."""
    if not done:
        tail.flags &= ~PSH  # a new call: its own end is what is to be pushed
    if tail.parts and take < _SMALL:
        take = _append_small(sk, tail, view, done, take)
    else:
        part = view if take == len(view) else view[done : done + take]
        tail.append(part, False)
    sk.wmem_queued += take
    sk.write_seq += take
    return done + take


def _append_small(sk: TcpSock, tail: Skb, view: memoryview, done: int, take: int) -> int:
    """Gather a small write in the socket's page; how much of it fitted."""
    page = sk.page
    if page is None or sk.page_used >= PAGE:
        page = sk.page = bytearray(PAGE)
        sk.page_used = 0
    start = sk.page_used
    take = min(take, PAGE - start)
    end = start + take
    page[start:end] = view[done : done + take]
    sk.page_used = end
    last = tail.parts[-1]
    if isinstance(last, memoryview) and last.obj is page and tail.page_end == start:
        tail.append(memoryview(page)[start - len(last) : end], True)
    else:
        tail.append(memoryview(page)[start:end], False)
    tail.page_end = end
    return take


def _push_during_copy(sk: TcpSock, tail: Skb, mss_now: int, now: int) -> None:
    """An entry is full and more comes: transmission starts meanwhile (rule A-21)."""
    if _forced_push(sk):
        _mark_push(sk)
        push_frames(sk, mss_now, NAGLE_PUSH, now)
    elif tail is sk.write_queue[0]:
        push_one(sk, mss_now, now)


# -- pushing -------------------------------------------------------------------------------


def _forced_push(sk: TcpSock) -> bool:
    """Half of the largest window has been written since the last push mark."""
    return sk.write_seq > sk.pushed_seq + (sk.max_window >> 1)


def _mark_push(sk: TcpSock) -> None:
    sk.write_queue[-1].flags |= PSH
    sk.pushed_seq = sk.write_seq


def push(sk: TcpSock, flags: int, now: int) -> None:
    """At the end of a send (rule A-20, `tcp_push`)."""
    queue = sk.write_queue
    if not queue:
        return
    if flags & MSG_OOB:
        sk.snd_up = sk.write_seq
    tail = queue[-1]
    mss_now = current_mss(sk, now)
    if not flags & MSG_MORE or _forced_push(sk):
        tail.flags |= PSH
        sk.pushed_seq = sk.write_seq
    if sk.wmem_alloc and _should_autocork(sk, tail, xmit_size_goal(sk, mss_now, True)):
        sk.net.mib.inc("TcpExtTCPAutoCorking")
        sk.tsq_throttled = True
        return
    if write_xmit(sk, mss_now, NAGLE_CORK if flags & MSG_MORE else sk.nonagle, PUSH_ALL, now):
        check_probe_timer(sk, now)


def _should_autocork(sk: TcpSock, tail: Skb, goal: int) -> bool:
    """Our data is still in the device queue: wait for it to drain, more may come and
    travel along (rule A-27)."""
    return (
        tail.len < goal
        and sk.net.sysctl.tcp_autocorking
        and bool(sk.rtx_queue)
        and sk.wmem_alloc >= tail.len + TX_OVERHEAD
        and not tail.eor
    )
