"""Header prediction: when the kernel takes its fast path, and what it leaves out there.

Problem. Linux compares one word of the header with what it expects (`pred_flags`). A segment
that matches is not checked again, and is processed in another order: payload goes to the queue
before the acknowledgement is looked at, an acknowledgement of nothing new is not looked at at
all, and a pure ACK does not ask whether we owe one. Peers can see that: a retransmission
acknowledges more or less, a zero window probe is postponed or not.

Structure. `pred_wnd` is the window field that a predicted segment has, OFF while something is
unusual: data out of order, urgent data, no window to offer. `fast_path_check` turns the
prediction on again, at the places where the kernel does, and only there: a connection with
window scaling starts without it. `is_predicted` compares the rest of the header.

Payload takes the fast path only if its charge fits into what the socket has reserved already
(`forward_alloc`). The kernel reserves whole pages and gives whole pages back at once, so what
is left is the rest of the last page. Only payload for which was reserved, and which then went
into the room of the entry before it, leaves a page more behind, until something is freed:
`reserved` is then what has been reserved in all, else 0.

Sources: Linux `tcp_rcv_established`, `tcp_fast_path_check`, `sk_forced_mem_schedule`,
`sk_mem_reclaim`; decision 0003.
"""

from __future__ import annotations

from ustack.tcp.segment import Segment
from ustack.tcp.sock import TcpSock
from ustack.wire.tcp import ACK, PSH

PAGE = 4096


def fast_path_check(sk: TcpSock) -> None:
    """Predict again if nothing is unusual any more (`tcp_fast_path_check`)."""
    if not sk.ofo_queue and sk.rcv_wnd and sk.rmem_alloc < sk.rcvbuf and not sk.urg_data:
        fast_path_on(sk)


def fast_path_on(sk: TcpSock) -> None:
    """Expect the window that the peer offers now."""
    sk.pred_wnd = sk.snd_wnd >> sk.snd_wscale


def forward_alloc(sk: TcpSock) -> int:
    """Memory that is reserved and not used."""
    used = sk.rmem_alloc + sk.wmem_queued
    return sk.reserved - used if sk.reserved > used else -used % PAGE


def reserve_in_vain(sk: TcpSock, charge: int) -> None:
    """`charge` bytes were reserved, and will not be charged."""
    left = forward_alloc(sk)
    if charge > left:
        pages = -(-(charge - left) // PAGE)
        sk.reserved = sk.rmem_alloc + sk.wmem_queued + left + pages * PAGE


def is_predicted(sk: TcpSock, seg: Segment) -> bool:
    """Is a segment that `validate.is_next`, and whose window is `pred_wnd`, as predicted in
    all else?"""
    if seg.flags & ~PSH != ACK or seg.ack > sk.snd_nxt:
        return False
    return seg.hdr_len == sk.tcp_header_len and seg.options.has_ts == sk.tstamp_ok


def fits_reservation(sk: TcpSock, seg: Segment) -> bool:
    """May predicted payload be queued without a further reservation?"""
    return seg.len < PAGE and seg.charge() <= forward_alloc(sk)
