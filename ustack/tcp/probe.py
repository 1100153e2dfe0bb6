"""Probes: packets sent because nothing else would happen.

The tail loss probe (RFC 8985 section 7) asks, two round trips after the last
transmission, whether the tail of a flight was lost, before the retransmission timeout
would. The zero-window probe (RFC 9293 section 3.8.6.1) asks whether a window that was
closed, or too small for what is queued, has opened; it is also what releases a corked
tail after about 200 ms when nothing is in flight.

Sources: Linux `tcp_send_loss_probe`, `tcp_write_wakeup`; rules D-20, A-26, A-50.
"""

from __future__ import annotations

from ustack.tcp.output import (
    PUSH_PROBE,
    current_mss,
    event_new_data_sent,
    snd_wnd_test,
    tso_fragment,
    write_xmit,
)
from ustack.tcp.retransmit import SENT, fragment, resend
from ustack.tcp.sock import NAGLE_OFF, TcpSock
from ustack.tcp.timers import rearm_rto
from ustack.tcp.transmit import send_probe_ack, transmit_skb
from ustack.wire.packet import DROPPED
from ustack.wire.tcp import PSH


def send_loss_probe(sk: TcpSock, now: int) -> bool:
    """Tail loss probe: new data past the congestion window if the peer's window allows,
    else the last segment again; false if neither could be sent (rule D-20)."""
    if sk.tlp_high_seq is not None:
        return False  # one probe per episode
    mss_now = current_mss(sk, now)
    sk.tlp_retrans = False
    head = sk.send_head
    packets_out = sk.packets_out
    if head is not None and snd_wnd_test(sk, head, mss_now):
        write_xmit(sk, mss_now, NAGLE_OFF, PUSH_PROBE, now)
        if sk.packets_out == packets_out:
            return False
    elif not _resend_last_segment(sk, mss_now, now):
        return False
    sk.tlp_high_seq = sk.snd_nxt
    sk.net.mib.inc("TcpExtTCPLossProbes")
    return True


def _resend_last_segment(sk: TcpSock, mss_now: int, now: int) -> bool:
    """The TLP retransmission: one segment from the end of the queue."""
    tail = sk.rtx_queue.tail()
    if tail is None:
        return False
    if tail.pcount > 1 and tail.len > (tail.pcount - 1) * mss_now:
        tail = fragment(sk, tail, (tail.pcount - 1) * mss_now, mss_now)
    if resend(sk, tail, 1, now) != SENT:
        return False
    sk.tlp_retrans = True
    return True


def write_wakeup(sk: TcpSock, now: int) -> bool:
    """Zero-window probe (rule A-50, `tcp_write_wakeup`): real data if the window admits a
    byte of it, else an empty ACK that the peer must answer. False if the device dropped
    the data."""
    skb = sk.send_head
    if skb is None or not skb.seq < sk.wnd_end:
        if sk.snd_una != sk.snd_up and sk.snd_una + 1 <= sk.snd_up <= sk.snd_una + 0xFFFF:
            send_probe_ack(sk, True, now)
        send_probe_ack(sk, False, now)
        return True
    mss_now = current_mss(sk, now)
    room = sk.wnd_end - skb.seq
    sk.pushed_seq = max(sk.pushed_seq, skb.end_seq)
    if room < skb.end_seq - skb.seq or skb.len > mss_now:
        room = min(room, mss_now)
        skb.flags |= PSH
        tso_fragment(sk, skb, room, mss_now)  # even if all that stays behind is a FIN
    skb.flags |= PSH
    skb.set_pcount(mss_now)
    if transmit_skb(sk, skb, now) == DROPPED:
        return False
    event_new_data_sent(sk, skb, now)
    rearm_rto(sk, now)
    return True
