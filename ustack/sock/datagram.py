"""What datagram sockets have in common, whatever their protocol (Linux: net/core/datagram.c).

A datagram may start while the charge of what is still below the socket is less than the
send buffer, whatever its size (rule E-10); poll promises room at half of it (E-11).

Sources: Linux `sock_alloc_send_pskb`, `sock_wfree`, `sock_writeable`, `datagram_poll`.
"""

from __future__ import annotations

from errno import EPIPE

from ustack.sock import notify
from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.sock import (
    F_SELECT_ERR_QUEUE,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    Sock,
    would_block,
)
from ustack.sock.wait import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    Op,
    Wait,
)


def has_room(sk: Sock, timeo: int) -> bool:
    """May a datagram start? Raises what a sender must be told first, and EAGAIN if it is
    not to wait."""
    sk.raise_pending()
    if sk.shutdown & SEND_SHUTDOWN:
        raise error(EPIPE)
    if sk.wmem_alloc < sk.sndbuf:
        return True
    sk.nospace = True
    if not timeo:
        raise would_block()
    return False


def wait_for_room(sk: Sock, timeo: int, now: int) -> Op[int]:
    """Wait until a datagram may start; ends with the time."""
    deadline = None if timeo >= NEVER else now + timeo
    while True:
        now = yield Wait(sk.wait_queue, deadline)
        left = timeo if deadline is None else max(deadline - now, 0)
        if has_room(sk, left):
            return now


def is_writeable(sk: Sock) -> bool:
    """Is less than half of the send buffer in use?"""
    return sk.wmem_alloc < sk.sndbuf >> 1


def tx_done(sk: Sock, charge: int, now: int) -> None:
    """A device has let go of a packet."""
    sk.wmem_alloc -= charge
    if sk.notify is not None:
        notify.tx_done(sk, charge, now)
    if is_writeable(sk):
        sk.wake_writers()


def poll(sk: Sock, readable: bool) -> int:
    """The poll mask of a socket that has, or has not, something to read (rule E-29)."""
    mask = 0
    if sk.err or sk.error_queue:
        mask = POLLERR
        if sk.inet_flags & F_SELECT_ERR_QUEUE:
            mask |= POLLPRI
    if sk.shutdown & RCV_SHUTDOWN:
        mask |= POLLRDHUP | POLLIN | POLLRDNORM
    if sk.shutdown == SHUTDOWN_MASK:
        mask |= POLLHUP
    if readable:
        mask |= POLLIN | POLLRDNORM
    if is_writeable(sk):
        mask |= POLLOUT | POLLWRNORM | POLLWRBAND
    return mask
