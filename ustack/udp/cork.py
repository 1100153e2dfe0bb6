"""The pending datagram: UDP_CORK and MSG_MORE (rules E-3 to E-8).

A corked call does not send, it adds to a datagram whose destination, route, TTL, TOS and
segment size the first call has fixed; later calls bring bytes only, their addresses and
control messages are not looked at. A call that is not corked, or switching UDP_CORK off,
sends the whole. Any error discards all of it, as does close; shutdown leaves it.

The bytes collect in one buffer, and are charged as the fragments that Linux would lay
them out in: a fragment costs what it is made with, and a byte for every byte that later
calls add to it. The first fragment waits for room like any datagram, further ones fail
with ENOBUFS at twice the send buffer.

Sources: Linux `udp_sendmsg`, `ip_append_data`, `udp_push_pending_frames`,
`udp_flush_pending_frames`.
"""

from __future__ import annotations

from errno import EMSGSIZE, ENOBUFS

from ustack.sock import notify
from ustack.sock.errors import error
from ustack.sock.multicast import hops
from ustack.sock.sock import F_DONTFRAG, MSG_MORE, MSG_PROBE, PMTUDISC_PROBE
from ustack.sock.truesize import segmented_truesize, tx_truesize
from ustack.sock.wait import Op
from ustack.udp import output
from ustack.udp.sock import Cork, UdpSock
from ustack.wire.packet import Buffer


def append(sk: UdpSock, pending: Cork, data: Buffer, flags: int, now: int) -> int | Op[int]:
    """Add `data` to the pending datagram, and send it unless this call too is corked. With
    MSG_PROBE the data is not added, the rest is as ever."""
    first = pending.buffer is None
    if first:
        _fix(sk, pending, now)
    try:
        if first:
            output.check_size(sk, pending, len(data), now)
            timeo = sk.wait_budget(sk.sndtimeo, flags)
            if not output.has_room(sk, timeo):
                return _wait_and_append(sk, pending, data, flags, timeo, now)
        if first or not flags & MSG_PROBE:
            _add(sk, pending, b"" if flags & MSG_PROBE else data, flags, now)
        elif not (sk.corked or flags & MSG_MORE):
            push(sk, now)
        if first and pending.stamps:
            pending.opt_id = notify.number(sk, pending.opt_id)
    except OSError:
        flush(sk)
        raise
    return len(data)


def _fix(sk: UdpSock, pending: Cork, now: int) -> None:
    """What the first call finds holds for all: path, fragments, segments."""
    pending.live = pending.dst if pending.dst.pmtu else None
    pending.dst = pending.dst.frozen()
    pending.mtu = output.path_mtu(sk, pending.dst, now)
    if pending.dst.version == 4 and sk.pmtudisc < PMTUDISC_PROBE:
        pending.mtu = min(pending.mtu, output.MAX_LEN)
    pending.dst.layout = pending.mtu
    pending.sport = sk.sport
    if pending.gso_size < 0:
        pending.gso_size = sk.gso_size
    if pending.dontfrag < 0:
        pending.dontfrag = int(sk.inet_flags & F_DONTFRAG != 0)
    pending.first = 0
    pending.buffer = bytearray()


def _wait_and_append(
    sk: UdpSock, pending: Cork, data: Buffer, flags: int, timeo: int, now: int
) -> Op[int]:
    try:
        now = yield from output.wait_for_room(sk, timeo, now)
        _add(sk, pending, data, flags, now)
        if pending.stamps:
            pending.opt_id = notify.number(sk, pending.opt_id)
    except BaseException:  # also when cancelled: nothing stays pending
        flush(sk)
        raise
    return len(data)


def _add(sk: UdpSock, pending: Cork, data: Buffer, flags: int, now: int) -> None:
    buffer = pending.buffer
    assert buffer is not None
    length = len(buffer) + len(data)
    output.check_size(sk, pending, length, now)
    _lay_out(sk, pending, length, len(data))
    buffer += data
    if not (sk.corked or flags & MSG_MORE):
        push(sk, now)


def _lay_out(sk: UdpSock, pending: Cork, length: int, added: int) -> None:
    """Charge `added` more bytes, `length` in all, to the fragments they go to."""
    if output.gso_segment(sk, pending):  # one packet, its payload in pages
        _charge(sk, pending, added if pending.tail else segmented_truesize(added))
        pending.tail = output.HEADER_LEN + length
        return
    v6 = len(pending.daddr) == 16
    hlen = output.IP6_HLEN if v6 else output.IP4_HLEN
    mtu = pending.mtu
    full = (mtu - hlen & ~7) + hlen - (output.FRAG6_HLEN if v6 else 0)
    if full <= hlen:
        raise error(EMSGSIZE)
    if v6 and hlen + output.HEADER_LEN + length > mtu:
        mtu = full
    if not pending.tail:
        added += output.HEADER_LEN
    while added or not pending.tail:
        room = mtu - pending.tail
        if room < added:
            room = full - pending.tail
        if pending.tail and room > 0:  # into the last fragment
            room = min(room, added)
            pending.tail += room
            added -= room
            _charge(sk, pending, room)
            continue
        gap = max(pending.tail - full, 0) if pending.tail else 0  # moves on to the next
        size = hlen + added + gap
        if size > mtu:
            size = full
        more = pending.tail > 0
        if more and sk.wmem_alloc >= 2 * sk.sndbuf:
            output.count_sndbuf_error(sk)
            raise error(ENOBUFS)
        pending.tail = size
        added -= size - hlen - gap
        _charge(sk, pending, tx_truesize(size, v6), more)


def _charge(sk: UdpSock, pending: Cork, size: int, more: bool = False) -> None:
    """Charge the last fragment; `more`: it is a new one, and not the first."""
    if more or pending.charge > pending.first:
        pending.charge += size
    else:
        pending.charge = pending.first = pending.first + size
    sk.wmem_alloc += size


def push(sk: UdpSock, now: int) -> None:
    """Send the pending datagram, if any (Linux: `udp_push_pending_frames`)."""
    pending = sk.cork
    if pending is None or pending.buffer is None:
        return
    data = bytes(pending.buffer)
    charge = pending.charge
    flush(sk)
    if pending.live is not None:
        pending.dst.learn_from(pending.live)
    if len(pending.daddr) == 4:
        pending.saddr, pending.daddr, pending.dport = sk.flow
        if not pending.own_ttl:
            pending.ttl = sk.ttl if not pending.dst.multicast else hops(sk, False)
    gso_size = output.check_gso(sk, pending, len(data), now)
    sport = pending.sport if len(pending.daddr) == 16 else 0
    output.transmit(sk, pending, data, gso_size, charge, now, sport)


def flush(sk: UdpSock) -> None:
    """Discard the pending datagram, if any (Linux: `udp_flush_pending_frames`)."""
    pending, sk.cork = sk.cork, None
    if pending is not None:
        sk.wmem_alloc -= pending.charge
        pending.charge = 0
