"""The pending datagram: UDP_CORK and MSG_MORE (rules E-3 to E-8).

A corked call does not send, it adds to a datagram whose destination, route, TTL, TOS and
segment size the first call has fixed; later calls bring bytes only, their addresses and
control messages are not looked at. A call that is not corked, or switching UDP_CORK off,
sends the whole. Any error discards all of it, as does close; shutdown leaves it.

The bytes collect in one buffer, and are charged as the fragments they will leave in. The
first piece waits for room like any datagram, further ones fail with ENOBUFS at twice the
send buffer.

Sources: Linux `udp_sendmsg`, `ip_append_data`, `udp_push_pending_frames`,
`udp_flush_pending_frames`.
"""

from __future__ import annotations

from errno import ENOBUFS

from ustack.sock.errors import error
from ustack.sock.sock import MSG_MORE
from ustack.sock.wait import Op
from ustack.udp import output
from ustack.udp.sock import Cork, UdpSock
from ustack.wire.packet import Buffer


def append(sk: UdpSock, pending: Cork, data: Buffer, flags: int, now: int) -> int | Op[int]:
    """Add `data` to the pending datagram, and send it unless this call too is corked."""
    first = pending.buffer is None
    if first:
        pending.buffer = bytearray()
    try:
        if first:
            output.check_size(sk, pending, len(data), now)
            timeo = sk.wait_budget(sk.sndtimeo, flags)
            if not output.has_room(sk, timeo):
                return _wait_and_append(sk, pending, data, flags, timeo, now)
        _add(sk, pending, data, flags, now)
    except OSError:
        flush(sk)
        raise
    return len(data)


def _wait_and_append(
    sk: UdpSock, pending: Cork, data: Buffer, flags: int, timeo: int, now: int
) -> Op[int]:
    try:
        now = yield from output.wait_for_room(sk, timeo, now)
        _add(sk, pending, data, flags, now)
    except BaseException:  # also when cancelled: nothing stays pending
        flush(sk)
        raise
    return len(data)


def _add(sk: UdpSock, pending: Cork, data: Buffer, flags: int, now: int) -> None:
    buffer = pending.buffer
    assert buffer is not None
    length = len(buffer) + len(data)
    output.check_size(sk, pending, length, now)
    mtu = output.fragment_size(sk, pending.dst, now)
    charge, before_last = output.charges(pending, length, mtu, output.gso_segment(sk, pending))
    others = sk.wmem_alloc - pending.charge
    if before_last and charge > pending.charge and others + before_last >= 2 * sk.sndbuf:
        output.count_sndbuf_error(sk)
        raise error(ENOBUFS)
    buffer += data
    sk.wmem_alloc = others + charge
    pending.charge = charge
    if not (sk.corked or flags & MSG_MORE):
        push(sk, now)


def push(sk: UdpSock, now: int) -> None:
    """Send the pending datagram, if any (Linux: `udp_push_pending_frames`)."""
    pending = sk.cork
    if pending is None or pending.buffer is None:
        return
    data = bytes(pending.buffer)
    charge = pending.charge
    flush(sk)
    gso_size = output.check_gso(sk, pending, len(data), now)
    output.transmit(sk, pending, data, gso_size, charge, now)


def flush(sk: UdpSock) -> None:
    """Discard the pending datagram, if any (Linux: `udp_flush_pending_frames`)."""
    pending, sk.cork = sk.cork, None
    if pending is not None:
        sk.wmem_alloc -= pending.charge
        pending.charge = 0
