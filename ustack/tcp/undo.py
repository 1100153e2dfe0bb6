"""Taking a reduction of the window back: it was not called for.

Problem. What looked lost may only have been late, and the window was cut for nothing.
There are two proofs that every retransmission of a recovery was needless:

    DSACK       the peer reports each of them as received twice. `undo_retrans` counts the
                retransmissions not yet so reported; 0 means all of them
    timestamps  the ACK echoes a timestamp from before the first retransmission
                (`retrans_stamp`), so it was the original that arrived (Eifel, RFC 3522)

Structure. `init_undo` is called where a window is reduced for loss; it notes where
(`undo_marker`; None: there is nothing to undo) and how many retransmissions are in flight
already. The caller has saved the window in `cc.prior_cwnd` and the threshold in
`prior_ssthresh`, 0 if it must not come back. What `fastretrans_alert` asks, and when:

    try_undo_recovery  all that was out at the loss is acknowledged
    try_undo_partial   part of it is, in Recovery
    try_undo_loss      part of it is, in Loss
    try_undo_dsack     in Recovery, and in Open and Disorder afterwards

Invariant: `undo_retrans` is -1, not 0, until the first retransmission, since 0 would allow
the undo at once.

Limits: without SACK the state is held until something above `high_seq` is acknowledged, so
that late duplicate ACKs do not start the next recovery (RFC 6582 section 4.1); the window is
back before. An undo takes the marks of loss off, not those of retransmission. If the head was
acknowledged in part, and is sent again after the next timeout, it counts twice in
`retrans_out`, as in Linux; with SACK until nothing is in flight, without for good.

Sources: RFC 2883, RFC 3522, RFC 3708; Linux `tcp_may_undo`, `tcp_init_undo`,
`tcp_undo_cwnd_reduction`, `tcp_try_undo_recovery` and its siblings; rule D-26.
"""

from __future__ import annotations

from ustack.tcp import rack
from ustack.tcp.ackstate import AckState
from ustack.tcp.cwnd import any_retrans_done, set_ca_state, try_keep_open
from ustack.tcp.skb import LOST
from ustack.tcp.sock import MS, TcpSock
from ustack.tcp.state import CA_LOSS, CA_OPEN

NOT_YET = -1  # `undo_retrans` before the first retransmission


def init_undo(sk: TcpSock) -> None:
    """A reduction begins: what may be undone starts here (`tcp_init_undo`)."""
    sk.undo_marker = sk.snd_una
    probe = sk.tlp_high_seq is not None and sk.tlp_retrans
    sk.undo_retrans = sk.retrans_out + probe or NOT_YET


def note_dsack(sk: TcpSock, end: int, segs: int) -> None:
    """The peer has `segs` packets that end at `end` twice."""
    if sk.undo_marker is not None and sk.undo_retrans > 0 and end > sk.undo_marker:
        sk.undo_retrans = max(sk.undo_retrans - segs, 0)


def is_before_retransmission(sk: TcpSock, tsecr: int, sent_at: int) -> bool:
    """Does the echo `tsecr` (0: none) precede what was sent at `sent_at`?"""
    return bool(tsecr and (tsecr - (sent_at // MS + sk.tsoffset)) & 0x80000000)


def _packet_delayed(sk: TcpSock, st: AckState) -> bool:
    """Was what this ACK is for sent before the first retransmission?"""
    if sk.retrans_stamp:
        return is_before_retransmission(sk, st.tsecr, sk.retrans_stamp)
    # nothing was retransmitted yet; but without SACK the stamp is cleared at high_seq
    return sk.sack_ok or sk.snd_una < sk.high_seq


def _may_undo(sk: TcpSock, st: AckState) -> bool:
    return sk.undo_marker is not None and (not sk.undo_retrans or _packet_delayed(sk, st))


def _undo_cwnd_reduction(sk: TcpSock, unmark_loss: bool, now: int) -> None:
    """The window and its threshold as before; `unmark_loss`: nothing is lost either."""
    cc = sk.cc
    if unmark_loss:
        for skb in sk.rtx_queue:
            skb.sacked &= ~LOST
        sk.lost_out = 0
    if sk.prior_ssthresh:
        cc.snd_cwnd = cc.undo_cwnd()
        cc.snd_ssthresh = max(cc.snd_ssthresh, sk.prior_ssthresh)
    sk.snd_cwnd_stamp = now
    sk.undo_marker = None
    sk.rack_advanced = True  # look at the losses again


def _is_held(sk: TcpSock) -> bool:
    """Has the state to last until more is acknowledged?
    (`tcp_is_non_sack_preventing_reopen`)"""
    if sk.snd_una != sk.high_seq or sk.sack_ok:
        return False
    if not any_retrans_done(sk):
        sk.retrans_stamp = 0
    return True


def try_undo_recovery(sk: TcpSock, st: AckState) -> bool:
    """All that was out at the loss is acknowledged: Open again, with the old window if
    nothing was lost. True if the state has to be held."""
    if _may_undo(sk, st):
        in_loss = sk.ca_state == CA_LOSS
        _undo_cwnd_reduction(sk, False, st.now)
        sk.net.mib.inc("TcpExtTCPLossUndo" if in_loss else "TcpExtTCPFullUndo")
    elif sk.reo_wnd_persist:
        sk.reo_wnd_persist -= 1
    if _is_held(sk):
        return True
    set_ca_state(sk, CA_OPEN)
    return False


def try_undo_dsack(sk: TcpSock, st: AckState) -> bool:
    """Every retransmission has been reported as a duplicate."""
    if sk.undo_marker is None or sk.undo_retrans:
        return False
    sk.reo_wnd_persist = min(rack.REO_WND_PERSIST, sk.reo_wnd_persist + 1)
    _undo_cwnd_reduction(sk, False, st.now)
    sk.net.mib.inc("TcpExtTCPDSACKUndo")
    return True


def try_undo_loss(sk: TcpSock, st: AckState) -> bool:
    """After a timeout: the original has arrived, or every retransmission twice."""
    if not _may_undo(sk, st):
        return False
    _undo_cwnd_reduction(sk, True, st.now)
    sk.net.mib.inc("TcpExtTCPLossUndo")
    sk.retransmits = 0
    if not _is_held(sk) and sk.sack_ok:
        set_ca_state(sk, CA_OPEN)
    return True


def try_undo_partial(sk: TcpSock, st: AckState) -> bool:
    """In Recovery a hole was filled by a late packet, not by a retransmission. True while
    retransmissions are out: send new data, but find nothing more lost."""
    if sk.undo_marker is None or not _packet_delayed(sk, st):
        return False
    rack.check_sack_reordering(sk, st.prior_una, True)
    if sk.retrans_out:
        return True
    if not any_retrans_done(sk):
        sk.retrans_stamp = 0
    _undo_cwnd_reduction(sk, True, st.now)
    sk.net.mib.inc("TcpExtTCPPartialUndo")
    try_keep_open(sk)
    return False
