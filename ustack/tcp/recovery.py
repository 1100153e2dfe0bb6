"""What to do about loss: the five states of the sender (Linux: `tcp_fastretrans_alert`).

    Open       nothing special
    Disorder   something was SACKed or acknowledged twice; nothing is lost yet
    CWR        the window is being reduced without loss (local drop, later ECN)
    Recovery   loss was found by RACK, or by three duplicate ACKs without SACK
    Loss       the retransmission timer fired

Recovery decides *what was lost* and lets it be sent again; *how much may fly* is the
business of `cwnd` and of congestion control. CWR and Recovery end when snd_una passes
`high_seq`, the highest byte sent when they began; so does Loss.

A reduction that proves to have been needless is taken back (`undo`). Left to a later
version, at its place in `_process_loss`: F-RTO, which learns that from what arrives after a
timeout, without timestamps.

Sources: RFC 6675, RFC 6582, RFC 8985, Linux tcp_input.c; rules D-5, D-14 to D-20, D-26, D-28.
"""

from __future__ import annotations

from ustack.tcp import mtu_probe, rack
from ustack.tcp.ackstate import (
    FLAG_DATA_SACKED,
    FLAG_LOST_RETRANS,
    FLAG_NOT_DUP,
    FLAG_SACK_RENEGING,
    FLAG_SET_XMIT_TIMER,
    FLAG_SND_UNA_ADVANCED,
    AckState,
)
from ustack.tcp.congestion.base import EVENT_LOSS
from ustack.tcp.cwnd import (
    any_retrans_done,
    current_ssthresh,
    cwnd_reduction,
    end_cwnd_reduction,
    in_cwnd_reduction,
    init_cwnd_reduction,
    set_ca_state,
    try_keep_open,
)
from ustack.tcp.pmtu import simple_retransmit
from ustack.tcp.retransmit import fragment, xmit_retransmit_queue
from ustack.tcp.sacktag import add_reno_sack
from ustack.tcp.skb import LOST, SACKED_ACKED, UNLISTED
from ustack.tcp.sock import MS, PENDING_RETRANS, TcpSock
from ustack.tcp.state import CA_CWR, CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY
from ustack.tcp.timers import rearm_rto, reset_xmit_timer
from ustack.tcp.undo import (
    init_undo,
    try_undo_dsack,
    try_undo_loss,
    try_undo_partial,
    try_undo_recovery,
)


def fastretrans_alert(sk: TcpSock, st: AckState, now: int) -> None:
    """Drive the state machine by one dubious ACK. Sets `st.retransmit` when the caller is
    to resend what is lost."""
    if not sk.packets_out and sk.sacked_out:
        sk.sacked_out = 0
    if _check_sack_reneging(sk, st, now):
        return
    if sk.ca_state == CA_OPEN:
        sk.retrans_stamp = 0
    elif sk.snd_una >= sk.high_seq and _leave_reduction(sk, st):
        return
    if sk.ca_state == CA_RECOVERY:
        _recovery(sk, st, now)
        return
    if sk.ca_state == CA_LOSS:
        st.retransmit = _process_loss(sk, st)
        _identify_packet_loss(sk, st, now)
        if sk.ca_state != CA_OPEN and not st.flag & FLAG_LOST_RETRANS:
            return
    _disorder(sk, st, now)


def _check_sack_reneging(sk: TcpSock, st: AckState, now: int) -> bool:
    """The peer dropped what it had SACKed: let the RTO come soon, not now, in case it is
    only late (rule D-28)."""
    if not st.flag & FLAG_SACK_RENEGING or not st.flag & FLAG_SND_UNA_ADVANCED:
        return False
    delay = max((sk.rtt.srtt_us >> 4) * 1000, 10 * MS)
    reset_xmit_timer(sk, PENDING_RETRANS, now + delay)
    st.flag &= ~FLAG_SET_XMIT_TIMER
    return True


def _leave_reduction(sk: TcpSock, st: AckState) -> bool:
    """snd_una has passed high_seq; true if the ACK is dealt with."""
    if sk.ca_state == CA_CWR:
        # one more ACK than high_seq itself, so that a CWR bit is not undone by its own ACK
        if sk.snd_una != sk.high_seq:
            end_cwnd_reduction(sk, st.now)
            set_ca_state(sk, CA_OPEN)
    elif sk.ca_state == CA_RECOVERY:
        if not sk.sack_ok:
            sk.sacked_out = 0
        if try_undo_recovery(sk, st):
            return True
        end_cwnd_reduction(sk, st.now)
    return False


def _recovery(sk: TcpSock, st: AckState, now: int) -> None:
    """In Recovery: more to repair, unless it turns out that it was not called for."""
    if not st.flag & FLAG_SND_UNA_ADVANCED:
        if not sk.sack_ok:
            add_reno_sack(sk, st.num_dupack)
    elif try_undo_partial(sk, st):
        return
    if try_undo_dsack(sk, st):
        _try_to_open(sk)
    _identify_packet_loss(sk, st, now)
    if sk.ca_state != CA_RECOVERY:
        if not sk.lost_out:
            return
        enter_recovery(sk)
    st.retransmit = True


def _process_loss(sk: TcpSock, st: AckState) -> bool:
    """In Loss; true if data is to be resent (`tcp_process_loss`, without F-RTO)."""
    if st.flag & FLAG_SND_UNA_ADVANCED and try_undo_loss(sk, st):
        return False
    if sk.snd_una >= sk.high_seq:
        try_undo_recovery(sk, st)
        return False
    if not sk.sack_ok:
        if sk.snd_nxt > sk.high_seq and st.num_dupack:
            add_reno_sack(sk, st.num_dupack)
        elif st.flag & FLAG_SND_UNA_ADVANCED:
            sk.sacked_out = 0
    return True


def _disorder(sk: TcpSock, st: AckState, now: int) -> None:
    """In Open, Disorder or CWR, or in Loss when a retransmission was lost too: does a
    recovery begin?"""
    if not sk.sack_ok:
        if st.flag & FLAG_SND_UNA_ADVANCED:
            sk.sacked_out = 0
        add_reno_sack(sk, st.num_dupack)
    if sk.ca_state <= CA_DISORDER:
        try_undo_dsack(sk, st)
    _identify_packet_loss(sk, st, now)
    if not sk.lost_out:
        _try_to_open(sk)
    elif sk.mtup is not None and mtu_probe.lost(sk):
        simple_retransmit(sk, now)
    else:
        enter_recovery(sk)
        st.retransmit = True


def _try_to_open(sk: TcpSock) -> None:
    """Nothing is known to be lost (`tcp_try_to_open`)."""
    if not any_retrans_done(sk):
        sk.retrans_stamp = 0
    if sk.ca_state != CA_CWR:
        try_keep_open(sk)


def enter_recovery(sk: TcpSock) -> None:
    """Loss was found: reduce the window and repair (rule D-16)."""
    if not any_retrans_done(sk):
        sk.retrans_stamp = 0  # giving up counts from our fast retransmit
    sk.net.mib.inc("TcpExtTCPSackRecovery" if sk.sack_ok else "TcpExtTCPRenoRecovery")
    sk.prior_ssthresh = 0
    init_undo(sk)
    if not in_cwnd_reduction(sk):
        sk.prior_ssthresh = current_ssthresh(sk)
        init_cwnd_reduction(sk)
    set_ca_state(sk, CA_RECOVERY)


def _identify_packet_loss(sk: TcpSock, st: AckState, now: int) -> None:
    """What does this ACK show to be lost? (`tcp_identify_packet_loss`)"""
    if not sk.rtx_queue:
        return
    if not sk.sack_ok:
        _newreno_mark_lost(sk, bool(st.flag & FLAG_SND_UNA_ADVANCED))
        return
    prior_retrans = sk.retrans_out
    if rack.mark_lost(sk, now):
        st.flag &= ~FLAG_SET_XMIT_TIMER  # the reordering timer has the slot
    if prior_retrans > sk.retrans_out:
        st.flag |= FLAG_LOST_RETRANS


def _newreno_mark_lost(sk: TcpSock, snd_una_advanced: bool) -> None:
    """Three duplicate ACKs, then every partial ACK: the head is lost (RFC 6582)."""
    if not (
        (sk.ca_state < CA_RECOVERY and sk.sacked_out >= sk.reordering)
        or (sk.ca_state == CA_RECOVERY and snd_una_advanced)
    ):
        return
    head = sk.rtx_queue.head()
    if head is None or head.sacked & LOST:
        return
    mss = head.gso_size
    if head.pcount > 1 and head.len > mss:
        fragment(sk, head, mss, mss)
    rack.mark_skb_lost(sk, head)


def xmit_recovery(sk: TcpSock, st: AckState, now: int) -> None:
    """At the end of ACK processing: first what is lost (`tcp_xmit_recovery`)."""
    if st.retransmit:
        xmit_retransmit_queue(sk, now)


def reo_timeout(sk: TcpSock, now: int) -> None:
    """The reordering allowance of RACK has run out (`tcp_rack_reo_timeout`)."""
    prior_in_flight, prior_lost = sk.in_flight, sk.lost
    rack.detect_loss(sk, now)
    if prior_in_flight != sk.in_flight:
        if sk.ca_state != CA_RECOVERY:
            enter_recovery(sk)
            if not sk.cc.has_cong_control:
                cwnd_reduction(sk, 1, sk.lost - prior_lost, False)
        xmit_retransmit_queue(sk, now)
    if sk.pending != PENDING_RETRANS:
        rearm_rto(sk, now)


def process_tlp_ack(sk: TcpSock, st: AckState) -> None:
    """Has the tail loss probe repaired a loss? Then the window has to fall for it
    (rule D-20, `tcp_process_tlp_ack`)."""
    if sk.tlp_high_seq is None or st.ack < sk.tlp_high_seq:
        return
    if not sk.tlp_retrans or st.dsack_tlp:
        sk.tlp_high_seq = None  # new data, or both copies have arrived
    elif st.ack > sk.tlp_high_seq:
        init_cwnd_reduction(sk)
        set_ca_state(sk, CA_CWR)
        end_cwnd_reduction(sk, st.now)
        try_keep_open(sk)
        sk.net.mib.inc("TcpExtTCPLossProbeRecovery")
    elif not st.flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DATA_SACKED):
        sk.tlp_high_seq = None  # a pure duplicate ACK: the original and the probe arrived


def enter_loss(sk: TcpSock, now: int) -> None:
    """The retransmission timer fired (rule D-5, `tcp_enter_loss`)."""
    cc = sk.cc
    prior_state = sk.ca_state
    _timeout_mark_lost(sk, now)
    if (
        prior_state <= CA_DISORDER
        or sk.snd_una >= sk.high_seq
        or (prior_state == CA_LOSS and not sk.retransmits)
    ):
        sk.prior_ssthresh = current_ssthresh(sk)
        cc.prior_cwnd = cc.snd_cwnd
        cc.snd_ssthresh = cc.ssthresh()
        cc.cwnd_event(EVENT_LOSS, now)
        init_undo(sk)
    cc.snd_cwnd = sk.in_flight + 1
    cc.snd_cwnd_cnt = 0
    sk.snd_cwnd_stamp = now
    if prior_state <= CA_DISORDER and sk.sacked_out >= sk.net.sysctl.tcp_reordering:
        sk.reordering = min(sk.reordering, sk.net.sysctl.tcp_reordering)
    set_ca_state(sk, CA_LOSS)
    sk.high_seq = sk.snd_nxt
    sk.tlp_high_seq = None


def _timeout_mark_lost(sk: TcpSock, now: int) -> None:
    """Everything is lost but what is SACKed and what left only just now."""
    head = sk.rtx_queue.head()
    reneged = head is not None and bool(head.sacked & SACKED_ACKED)
    if reneged:
        sk.net.mib.inc("TcpExtTCPSACKReneging")
        sk.sacked_out = 0
        sk.sack_cache = ()
    elif not sk.sack_ok:
        sk.sacked_out = 0
    for skb in sk.rtx_queue:
        if reneged:
            if skb.sacked & SACKED_ACKED:
                skb.sacked = skb.sacked & ~SACKED_ACKED | UNLISTED
        elif sk.sack_ok and skb is not head and rack.skb_timeout_ns(sk, skb, 0, now) > 0:
            continue
        rack.mark_skb_lost(sk, skb)
