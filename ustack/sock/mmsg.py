"""Several messages by one call (Linux: `__sys_sendmmsg`, `do_recvmmsg`).

Problem: the call is a loop over sendmsg or recvmsg, with rules for how it ends early.

* An error before the first message is the call's error. Later, the call returns what it
  has done. sendmmsg loses that error; recvmmsg keeps it as the socket's pending error for
  the next call, except EAGAIN.
* sendmmsg stops after a message that was taken only in part, and marks all but the last
  with MSG_BATCH. At most 1024 messages are looked at.
* recvmmsg reports a pending error first. MSG_WAITFORONE: once there is a message, do not
  wait for more. The timeout is looked at after each message, so a call without messages
  waits beyond it: the kernel's does.
* A cancelled call that has sent or received something returns that.

`after` is called between messages with the time: what one has sent to this host itself is
delivered before the next, as the kernel's soft interrupts do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from errno import EAGAIN
from typing import NamedTuple, TypeVar

from ustack.sock.proto import Address, Cmsg
from ustack.sock.sock import MSG_DONTWAIT, MSG_EOR, MSG_ERRQUEUE, MSG_OOB, RecvMsg, Sock
from ustack.sock.wait import Interrupted, Op, Wait
from ustack.wire.packet import Buffer

MSG_WAITFORONE, MSG_BATCH = 0x10000, 0x40000
UIO_MAXIOV = 1024

T = TypeVar("T")


class Message(NamedTuple):
    """One message to send; of `flags` only MSG_EOR counts."""

    data: Buffer
    control: tuple[Cmsg, ...] = ()
    flags: int = 0
    addr: Address | None = None


def _finish(op: Op[T], now: int) -> Generator[Wait, int, tuple[T, int, bool]]:
    """`yield from` an operation: its result, the time, and whether it was interrupted."""
    interrupted = False
    try:
        wait = next(op)
        while True:
            try:
                now = yield wait
            except Interrupted as why:
                interrupted = True
                wait = op.throw(why)
            else:
                wait = op.send(now)
    except StopIteration as stop:
        return stop.value, now, interrupted


def sendmmsg(
    sk: Sock, messages: Sequence[Message], flags: int, now: int, after: Callable[[int], None]
) -> Op[list[int]]:
    """Send them in order; the number of bytes taken of each that was sent."""
    done: list[int] = []
    last = min(len(messages), UIO_MAXIOV) - 1
    interrupted = False
    try:
        for i, msg in enumerate(messages[:UIO_MAXIOV]):
            how = flags | msg.flags & MSG_EOR | (MSG_BATCH if i < last else 0)
            result = sk.prot.sendmsg(sk, msg.data, how, now, msg.addr, msg.control)
            if not isinstance(result, int):
                result, now, interrupted = yield from _finish(result, now)
            done.append(result)
            if interrupted or result < len(msg.data):
                break
            after(now)
    except (OSError, Interrupted):
        if not done:
            raise
    return done


def recvmmsg(
    sk: Sock,
    vlen: int,
    length: int,
    flags: int,
    timeout: int | None,
    now: int,
    after: Callable[[int], None],
) -> Op[list[RecvMsg]]:
    """Up to `vlen` messages of up to `length` bytes; `timeout` in ns."""
    if not flags & MSG_ERRQUEUE:
        sk.raise_pending()
    deadline = None if timeout is None else now + timeout
    done: list[RecvMsg] = []
    interrupted = False
    try:
        while len(done) < vlen:
            result = sk.prot.recvmsg(sk, length, flags & ~MSG_WAITFORONE, now)
            if not isinstance(result, RecvMsg):
                result, now, interrupted = yield from _finish(result, now)
            done.append(result)
            late = deadline is not None and now >= deadline
            if late or interrupted or result.flags & MSG_OOB:
                break
            if flags & MSG_WAITFORONE:
                flags |= MSG_DONTWAIT
            after(now)
    except OSError as why:
        if not done:
            raise
        if why.errno != EAGAIN and why.errno is not None:
            sk.err = why.errno
    except Interrupted:
        if not done:
            raise
    return done
