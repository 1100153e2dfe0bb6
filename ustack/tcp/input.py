"""A segment for a connection, step by step (RFC 9293 section 3.10.7).

`rcv` is the entry. An established connection takes the short way (`_established`): the
checks of `validate`, the ACK, urgent data, payload, then what there is to send. All other
states take `_state_process`, which handles the opening (`handshake`) and the closing
handshake around the same steps.

Every segment ends with the same two questions: can something be sent now
(`data_snd_check`), and is an ACK due (`ack_snd_check`).

Sources: RFC 9293, Linux `tcp_rcv_established`, `tcp_rcv_state_process`; rules C-15 to C-29.
"""

from __future__ import annotations

from ustack.sock.sock import RCV_SHUTDOWN, SEND_SHUTDOWN
from ustack.tcp.ack import ACK_REJECTED, tcp_ack
from ustack.tcp.acking import ack_snd_check, event_data_recv
from ustack.tcp.data import data_queue, data_ready, queue_rcv, urg
from ustack.tcp.handshake import synack_received, synsent_input
from ustack.tcp.lifecycle import (
    done,
    orphan_fin_wait2,
    orphan_fin_wait2_with_fin,
    reset,
    set_state,
    shutdown_send,
    time_wait,
)
from ustack.tcp.output import check_space, push_pending_frames
from ustack.tcp.predict import fits_reservation, is_predicted
from ustack.tcp.rcvbuf import rcv_rtt_measure_ts
from ustack.tcp.segment import Segment
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import (
    CLOSE,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    SYN_RECV,
    SYN_SENT,
    TIME_WAIT,
)
from ustack.tcp.timewait import TIMEWAIT_LEN
from ustack.tcp.validate import OK, RESET, is_next, replace_ts_recent, validate_incoming
from ustack.wire.tcp import ACK, FIN, RST, SYN, URG

# what `_all_acked` says: process the rest, nothing is left to do, answer with a RST
GO_ON, CONSUMED, REFUSED = 0, 1, 2


def rcv(sk: TcpSock, seg: Segment) -> bool:
    """Process one segment. False if it deserves a RST in answer, which the caller sends."""
    seg.place(sk.rcv_nxt, sk.snd_una)
    segs = seg.segs if seg.rx.gso_size else 1
    sk.segs_in += segs
    if seg.len:
        sk.data_segs_in += segs
    if sk.state == ESTABLISHED:
        return _established(sk, seg)
    return _state_process(sk, seg)


def _established(sk: TcpSock, seg: Segment) -> bool:
    if is_next(sk, seg):
        if seg.window == sk.pred_wnd and is_predicted(sk, seg):
            if not seg.len:
                _predicted_ack(sk, seg)
                return True
            if fits_reservation(sk, seg):
                _predicted_data(sk, seg)
                return True
    else:
        if not seg.flags & (ACK | RST | SYN):
            sk.drop("TCP_FLAGS")
            return True
        if not _validated(sk, seg):
            return True
    if tcp_ack(sk, seg) == ACK_REJECTED:
        sk.drop("TCP_UNSENT_ACK" if seg.ack > sk.snd_nxt else "TCP_TOO_OLD_ACK")
        return True
    _process_text(sk, seg)
    return True


def _predicted_ack(sk: TcpSock, seg: Segment) -> None:
    """A pure ACK on the fast path. What we owe ourselves is not asked."""
    if sk.tstamp_ok:
        replace_ts_recent(sk, seg)
        sk.rcv_rtt_last_tsecr = seg.options.tsecr
    tcp_ack(sk, seg)
    if sk.write_queue or sk.nospace:
        data_snd_check(sk, seg.now)


def _predicted_data(sk: TcpSock, seg: Segment) -> None:
    """Payload on the fast path: first the queue, then the ACK if it says anything new."""
    if sk.tstamp_ok:
        replace_ts_recent(sk, seg)
        rcv_rtt_measure_ts(sk, seg)
    queue_rcv(sk, seg)
    event_data_recv(sk, seg)
    if seg.ack == sk.snd_una:
        sk.snd_wl1 = seg.seq
    else:
        tcp_ack(sk, seg)
        if sk.write_queue or sk.nospace:
            data_snd_check(sk, seg.now)
    if sk.ack_pending:
        ack_snd_check(sk, seg.now)
    data_ready(sk)


def _validated(sk: TcpSock, seg: Segment) -> bool:
    """Run the incoming checks; a valid RST ends the connection here."""
    verdict = validate_incoming(sk, seg)
    if verdict == OK:
        return True
    if verdict == RESET:
        reset(sk, seg.now)
    return False


def _process_text(sk: TcpSock, seg: Segment) -> None:
    """Urgent data, payload, FIN; then sending and acknowledging."""
    if sk.tstamp_ok and seg.options.tsecr != sk.rcv_rtt_last_tsecr:
        rcv_rtt_measure_ts(sk, seg)
    if seg.flags & URG or sk.urg_data:
        urg(sk, seg)
    if seg.seq != seg.end_seq:
        data_queue(sk, seg)
    if sk.write_queue or sk.nospace:
        data_snd_check(sk, seg.now)
    if sk.ack_pending:
        ack_snd_check(sk, seg.now)


def data_snd_check(sk: TcpSock, now: int) -> None:
    """An ACK may have made room in a window and in the send buffer."""
    if sk.write_queue:
        push_pending_frames(sk, now)
    if sk.nospace:
        check_space(sk, now)


def _state_process(sk: TcpSock, seg: Segment) -> bool:
    """Every state but ESTABLISHED (`tcp_rcv_state_process`)."""
    if sk.state == CLOSE:
        sk.drop("TCP_CLOSE")
        return False
    if sk.state == SYN_SENT:
        return synsent_input(sk, seg, data_snd_check)
    if not seg.flags & (ACK | RST | SYN):
        sk.drop("TCP_FLAGS")
        return True
    if not _validated(sk, seg):
        return True
    if sk.state == SYN_RECV:
        if not sk.snd_una <= seg.ack <= sk.snd_nxt:
            return False
        tcp_ack(sk, seg)
        synack_received(sk, seg)
        if sk.shutdown & SEND_SHUTDOWN:
            shutdown_send(sk, seg.now)
    elif tcp_ack(sk, seg) == ACK_REJECTED:
        sk.drop("TCP_UNSENT_ACK")
        return True
    elif sk.snd_una == sk.write_seq:
        verdict = _all_acked(sk, seg)
        if verdict != GO_ON:
            return verdict == CONSUMED
    return _late_text(sk, seg)


def _all_acked(sk: TcpSock, seg: Segment) -> int:
    """Everything is acknowledged; where we have sent a FIN, that too."""
    if sk.state == FIN_WAIT1:
        return _fin_acked(sk, seg)
    if sk.state == CLOSING:
        time_wait(sk, TIME_WAIT, TIMEWAIT_LEN, seg.now)
        return CONSUMED
    if sk.state == LAST_ACK:
        done(sk, seg.now)
        return CONSUMED
    return GO_ON


def _fin_acked(sk: TcpSock, seg: Segment) -> int:
    """FIN_WAIT1 -> FIN_WAIT2; an orphan becomes a light object, or is reset by data."""
    set_state(sk, FIN_WAIT2)
    sk.shutdown |= SEND_SHUTDOWN
    if not sk.dead:
        sk.state_change()
        return GO_ON
    if sk.linger2 < 0 or _has_new_data(sk, seg):
        done(sk, seg.now)
        sk.net.mib.inc("TcpExtTCPAbortOnData")
        return REFUSED
    if seg.flags & FIN:
        orphan_fin_wait2_with_fin(sk, seg.now)
        return GO_ON
    orphan_fin_wait2(sk, seg.now)
    return CONSUMED if sk.state == CLOSE else GO_ON


def _has_new_data(sk: TcpSock, seg: Segment) -> bool:
    """Payload that we do not have yet; a FIN is none."""
    return seg.end_seq != seg.seq and seg.end_seq - (seg.flags & FIN) > sk.rcv_nxt


def _late_text(sk: TcpSock, seg: Segment) -> bool:
    """Payload and FIN in the states around and after ESTABLISHED (rule C-29)."""
    state = sk.state
    if seg.flags & URG or sk.urg_data:
        urg(sk, seg)
    if state == ESTABLISHED:
        data_queue(sk, seg)
    elif state in (FIN_WAIT1, FIN_WAIT2) or seg.seq < sk.rcv_nxt:  # nothing can follow a FIN
        if sk.shutdown & RCV_SHUTDOWN and _has_new_data(sk, seg):
            sk.net.mib.inc("TcpExtTCPAbortOnData")
            reset(sk, seg.now)
            return False
        data_queue(sk, seg)
    else:
        sk.drop("NOT_SPECIFIED")
    if sk.state != CLOSE:
        data_snd_check(sk, seg.now)
        ack_snd_check(sk, seg.now)
    return True
