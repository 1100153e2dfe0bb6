"""Sending datagrams: size, room, departure (rules E-9 to E-15).

A datagram, or each of its fragments, is charged to `wmem_alloc` from here until the
device has let go of it. While the charge is below `sndbuf` another datagram may start,
whatever its size; its further fragments may take the charge to twice that, and ENOBUFS
beyond. Room is only ever taken by packets that are stuck below the socket: the peer
cannot stop a UDP sender.

Sources: Linux `__ip_append_data`, `sock_alloc_send_pskb`, `ip_make_skb`, `udp_send_skb`.
"""

from __future__ import annotations

from errno import EINVAL, EMSGSIZE, ENOBUFS
from struct import Struct

from ustack.sock import datagram, notify
from ustack.sock.dst import Dst
from ustack.sock.error_queue import queue_local
from ustack.sock.errors import error
from ustack.sock.sock import (
    AF_INET6,
    F_DONTFRAG,
    PMTUDISC_OMIT,
    PMTUDISC_PROBE,
    PMTUDISC_WANT,
    SEND_SHUTDOWN,
)
from ustack.sock.truesize import datagram_truesize, segmented_truesize, tx_truesize
from ustack.sock.wait import Op
from ustack.udp.sock import Cork, UdpSock
from ustack.wire.packet import DROPPED, IPPROTO_UDP, Buffer

_HEADER = Struct(">HHHH")
HEADER_LEN = 8
MAX_LEN = 0xFFFF
_MAX_SEGMENTS = 128
IP4_HLEN, IP6_HLEN, FRAG6_HLEN = 20, 40, 8
_WIRE4_HLEN, _WIRE6_HLEN = IP4_HLEN + HEADER_LEN, IP6_HLEN + HEADER_LEN


# -- size ----------------------------------------------------------------------------------


def fragment_size(sk: UdpSock, pending: Cork, now: int) -> int:
    """The largest packet for the datagram: what its first call has found if it is corked."""
    return pending.mtu if pending.buffer is not None else path_mtu(sk, pending.dst, now)


def path_mtu(sk: UdpSock, dst: Dst, now: int) -> int:
    """The largest packet for `dst`: the path MTU, or the device's for sockets that go by
    it (Linux: `ip_sk_use_pmtu`)."""
    if dst.version == 4:
        return dst.mtu(now) if sk.pmtudisc < PMTUDISC_PROBE else dst.dev.mtu
    mtu = dst.mtu(now) if sk.pmtudisc6 < PMTUDISC_PROBE else dst.dev.mtu
    return min(mtu, sk.frag_size) if sk.frag_size else mtu


def check_size(sk: UdpSock, pending: Cork, length: int, now: int) -> None:
    """EMSGSIZE for a datagram of `length` bytes of payload that cannot be sent (E-9)."""
    v6 = len(pending.daddr) == 16
    mtu = fragment_size(sk, pending, now)
    limit = MAX_LEN + (IP6_HLEN if v6 else 0)
    disc = sk.pmtudisc6 if v6 else sk.pmtudisc
    dontfrag = pending.dontfrag if pending.dontfrag >= 0 else sk.inet_flags & F_DONTFRAG
    if (disc > PMTUDISC_WANT and disc != PMTUDISC_OMIT) or (v6 and dontfrag):
        if gso_segment(sk, pending) <= 0:
            limit = min(limit, mtu)
    if length + HEADER_LEN + (IP6_HLEN if v6 else IP4_HLEN) > limit:
        port = pending.dport if v6 else sk.dport  # as Linux has it: the peer's
        if gso_segment(sk, pending):
            mtu = MAX_LEN + (IP6_HLEN if v6 else 0)
        elif not v6 and pending.buffer is None and disc < PMTUDISC_PROBE:
            mtu = min(mtu, MAX_LEN)
        queue_local(sk, EMSGSIZE, (pending.daddr, port), mtu, now)
        raise error(EMSGSIZE)


def gso_segment(sk: UdpSock, pending: Cork) -> int:
    """UDP_SEGMENT in force for this datagram, 0 if none."""
    return pending.gso_size if pending.gso_size >= 0 else sk.gso_size


def check_gso(sk: UdpSock, pending: Cork, length: int, now: int) -> int:
    """The segment size to cut the datagram with, 0 if it is to stay whole (E-15)."""
    size = gso_segment(sk, pending)
    if not size:
        return 0
    v6 = len(pending.daddr) == 16
    headers = HEADER_LEN + (IP6_HLEN if v6 else IP4_HLEN)
    if headers + min(size, length) > fragment_size(sk, pending, now):
        raise _refused(sk, v6, EMSGSIZE)
    if length > size * _MAX_SEGMENTS or no_checksum(sk, v6):
        raise _refused(sk, v6, EINVAL)
    return size if length > size else 0


def _refused(sk: UdpSock, v6: bool, errno: int) -> OSError:
    """The error for a datagram that had its IP header already, and an identification."""
    if sk.ip_id and not v6:
        sk.ip_id += 1
    return error(errno)


def charges(sk: UdpSock, pending: Cork, length: int, mtu: int) -> tuple[int, int]:
    """(charge of the datagram, charge of all its fragments but the last)."""
    v6 = len(pending.daddr) == 16
    hlen = IP6_HLEN if v6 else IP4_HLEN
    if gso_segment(sk, pending):
        return segmented_truesize(length), 0
    return datagram_truesize(hlen, HEADER_LEN + length, mtu)


# -- room and departure --------------------------------------------------------------------


def send_at_once(sk: UdpSock, pending: Cork, data: Buffer, flags: int, now: int) -> int | Op[int]:
    """The uncorked path (Linux: `ip_make_skb`, `udp_send_skb`)."""
    v6 = len(pending.daddr) == 16
    total = len(data) + (_WIRE6_HLEN if v6 else _WIRE4_HLEN)
    limit = min(fragment_size(sk, pending, now), MAX_LEN)
    small = total <= limit and not gso_segment(sk, pending)
    if not small:
        check_size(sk, pending, len(data), now)
    if sk.err or sk.shutdown & SEND_SHUTDOWN or sk.wmem_alloc >= sk.sndbuf:
        timeo = sk.wait_budget(sk.sndtimeo, flags)
        if not has_room(sk, timeo):
            return _wait_and_send(sk, pending, data, timeo, now)
    if small:
        transmit(sk, pending, data, 0, tx_truesize(total, v6), now)
        return len(data)
    return depart(sk, pending, data, now)


def has_room(sk: UdpSock, timeo: int) -> bool:
    """May a datagram start? Raises what a sender must be told first, and EAGAIN if it is
    not to wait (Linux: `sock_alloc_send_pskb`)."""
    try:
        return datagram.has_room(sk, timeo)
    except BlockingIOError:
        count_sndbuf_error(sk)
        raise


def wait_for_room(sk: UdpSock, timeo: int, now: int) -> Op[int]:
    """Wait until a datagram may start; ends with the time."""
    try:
        return (yield from datagram.wait_for_room(sk, timeo, now))
    except BlockingIOError:
        count_sndbuf_error(sk)
        raise


def _wait_and_send(sk: UdpSock, pending: Cork, data: Buffer, timeo: int, now: int) -> Op[int]:
    now = yield from wait_for_room(sk, timeo, now)
    return depart(sk, pending, data, now)


def depart(sk: UdpSock, pending: Cork, data: Buffer, now: int) -> int:
    """Charge the datagram and send it; its length, whatever became of it below (E-13)."""
    length = len(data)
    mtu = fragment_size(sk, pending, now)
    gso_size = check_gso(sk, pending, length, now) if gso_segment(sk, pending) else 0
    charge, before_last = charges(sk, pending, length, mtu)
    if before_last and sk.wmem_alloc + before_last >= 2 * sk.sndbuf:
        count_sndbuf_error(sk)
        raise error(ENOBUFS)
    transmit(sk, pending, data, gso_size, charge, now)
    return length


def transmit(
    sk: UdpSock, pending: Cork, data: Buffer, gso_size: int, charge: int, now: int, sport: int = 0
) -> None:
    """Put the header on and send (Linux: `udp_send_skb`); from `sport` if it is not the
    socket's any more."""
    length = len(data)
    saddr, daddr = pending.saddr, pending.daddr
    ulen = length + HEADER_LEN
    v6 = len(daddr) == 16
    if no_checksum(sk, v6):
        csum = 0
    else:
        if daddr is sk.flow[1] and saddr is sk.flow[0]:
            csum = sk.csum_base + ulen
        else:
            csum = csum_base(saddr, daddr) + ulen
        if csum > 0xFFFF:
            csum -= 0xFFFF
    header = _HEADER.pack(sport or sk.sport, pending.dport, ulen, csum)
    stamps, zerocopy = pending.stamps, pending.zerocopy
    if stamps or zerocopy:
        notify.datagram_leaves(sk, stamps)
    verdict = sk.net.send_datagram(
        sk, IPPROTO_UDP, saddr, daddr, pending.dst, header, [data], length, gso_size,
        charge, pending.ttl, pending.tos, now,
    )  # fmt: skip
    if stamps or zerocopy:
        notify.datagram_left(
            sk, stamps, pending.opt_id, zerocopy, verdict == DROPPED,
            _stamped_charge(sk, pending, ulen, charge), pending.dst.dev.ifindex, now,
        )  # fmt: skip
    if verdict == DROPPED:
        count_sndbuf_error(sk)
        if sk.recverr6 if v6 else sk.recverr:
            raise error(ENOBUFS)
    sk.net.mib.values["Udp6OutDatagrams" if v6 else "UdpOutDatagrams"] += 1


def _stamped_charge(sk: UdpSock, pending: Cork, ulen: int, charge: int) -> int:
    """The charge of what carries the stamps of a datagram: of its first fragment."""
    v6 = len(pending.daddr) == 16
    packet = sk.notify.packet if sk.notify is not None else b""
    size = len(packet) - (IP6_HLEN + FRAG6_HLEN if v6 else IP4_HLEN)
    if not packet or size >= ulen - (FRAG6_HLEN if v6 else 0):
        return charge
    if pending.buffer is not None:
        return pending.first
    return tx_truesize(len(packet) - (FRAG6_HLEN if v6 else 0), v6)


def set_flow(sk: UdpSock, saddr: bytes, daddr: bytes, dport: int) -> None:
    """Remember where connected sends go."""
    sk.flow = (saddr, daddr, dport)
    sk.csum_base = csum_base(saddr, daddr)


def csum_base(saddr: bytes, daddr: bytes) -> int:
    """The part of the pseudo header's sum that does not depend on the length, below 65535."""
    return (int.from_bytes(saddr + daddr, "big") + IPPROTO_UDP) % 0xFFFF


def no_checksum(sk: UdpSock, v6: bool) -> bool:
    return sk.no_check6_tx if v6 else sk.no_check


def count_sndbuf_error(sk: UdpSock) -> None:
    sk.net.mib.inc("Udp6SndbufErrors" if sk.family == AF_INET6 else "UdpSndbufErrors")
