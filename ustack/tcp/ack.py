"""What an arriving ACK frees, measures and sets in motion.

`tcp_ack` is the spine, one function a step:

    validate          is the number ours to believe?
    ack_update_window the peer's window, if this segment is news
    sacktag           what the SACK blocks tell
    clean_rtx_queue   entries that end at or below snd_una leave; their charge is freed
    process_tlp_ack   was the tail loss probe needed?
    fastretrans_alert is anything lost? (only for a dubious ACK)
    cong_control      how much may fly now
    xmit_recovery     send again what is lost

An ACK is dubious if it acknowledges nothing new, reports SACK blocks, or arrives while
something is wrong already.

Sources: RFC 9293 section 3.10.7.4, RFC 5681, Linux `tcp_ack`, `tcp_clean_rtx_queue`,
`tcp_ack_update_rtt`, `tcp_cong_control`; rules A-36, A-37, A-51, C-27, D-1, D-2.
"""

from __future__ import annotations

from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp import chrono, mtu_probe, rack, txstamp
from ustack.tcp.ackstate import (
    FLAG_ACK_MAYBE_DELAYED,
    FLAG_ACKED,
    FLAG_CA_ALERT,
    FLAG_DATA,
    FLAG_DATA_ACKED,
    FLAG_DSACKING_ACK,
    FLAG_FORWARD_PROGRESS,
    FLAG_NOT_DUP,
    FLAG_ORIG_SACK_ACKED,
    FLAG_RETRANS_DATA_ACKED,
    FLAG_SACK_RENEGING,
    FLAG_SET_XMIT_TIMER,
    FLAG_SND_UNA_ADVANCED,
    FLAG_SYN_ACKED,
    FLAG_WIN_UPDATE,
    AckState,
)
from ustack.tcp.cwnd import cwnd_reduction, is_cwnd_limited_now, slow_start_after_idle_check
from ustack.tcp.output import sync_mss
from ustack.tcp.pacing import update_pacing_rate
from ustack.tcp.predict import fast_path_check
from ustack.tcp.rate import generate, skb_delivered
from ustack.tcp.recovery import fastretrans_alert, process_tlp_ack, xmit_recovery
from ustack.tcp.retransmit import trim_head
from ustack.tcp.sacktag import highest_sack_seq, remove_reno_sacks, sacktag_write_queue
from ustack.tcp.segment import Segment
from ustack.tcp.skb import EVER_RETRANS, LOST, SACKED_ACKED, SACKED_RETRANS, Skb
from ustack.tcp.sock import MS, PENDING_PROBE0, PREDICTION_OFF, TcpSock
from ustack.tcp.state import CA_CWR, CA_OPEN, CA_RECOVERY
from ustack.tcp.timers import (
    clamp_probe0,
    clear_xmit_timer,
    pacing_delay,
    probe0_interval,
    rearm_rto,
    reset_xmit_timer,
    schedule_loss_probe,
)
from ustack.tcp.undo import is_before_retransmission
from ustack.tcp.validate import replace_ts_recent, send_challenge_ack
from ustack.wire.tcp import SYN

ACK_OK, ACK_OLD, ACK_REJECTED = 1, 0, -1


def tcp_ack(sk: TcpSock, seg: Segment) -> int:
    """Process the acknowledgement of `seg`. ACK_OK; ACK_OLD for a duplicate from the past;
    ACK_REJECTED if it acknowledges what was never sent, or is too old to be honest."""
    ack = seg.ack
    now = seg.now
    prior_una = sk.snd_una
    if ack < prior_una:
        return _old_ack(sk, seg)
    if ack > sk.snd_nxt:
        send_challenge_ack(sk, now)
        return ACK_REJECTED
    prior_packets = sk.packets_out
    in_flight = prior_packets - sk.sacked_out - sk.lost_out + sk.retrans_out
    st = AckState(ack, now, sk.snd_nxt, in_flight)
    prior_fack = highest_sack_seq(sk) if sk.sacked_out else prior_una
    delivered, lost = sk.delivered, sk.lost
    if sk.tstamp_ok and seg.options.has_ts and seg.options.tsval != sk.ts_recent:
        replace_ts_recent(sk, seg)
    if seg.seq != seg.end_seq:
        st.flag = FLAG_DATA
    if ack_update_window(sk, seg):
        st.flag |= FLAG_WIN_UPDATE
    if ack > prior_una:
        st.flag |= FLAG_SND_UNA_ADVANCED
        sk.retransmits = 0
        sk.bytes_acked += ack - prior_una
        sk.snd_una = ack
    if seg.options.sacks and sk.sack_ok:
        sacktag_write_queue(sk, seg, prior_una, st)
        sk.delivered += st.sack_delivered
    sk.err_soft = 0
    sk.probes_out = 0
    sk.rcv_tstamp = now
    if prior_packets:
        _account(sk, seg, st, prior_una, prior_fack, delivered, lost)
    else:
        _ack_without_queue(sk, seg, st)
    return ACK_OK


def _account(
    sk: TcpSock,
    seg: Segment,
    st: AckState,
    prior_una: int,
    prior_fack: int,
    delivered: int,
    lost: int,
) -> None:
    """The part of `tcp_ack` that concerns the retransmit queue."""
    now = st.now
    clean_rtx_queue(sk, seg, st, prior_una, prior_fack)
    if sk.dsack_seen or sk.reo_wnd_steps != 1:
        rack.update_reo_wnd(sk, st.prior_delivered)
    if sk.tlp_high_seq is not None:
        process_tlp_ack(sk, st)
    flag = st.flag
    if not flag & FLAG_NOT_DUP or flag & FLAG_CA_ALERT or sk.ca_state != CA_OPEN:
        if not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DSACKING_ACK):
            st.num_dupack = seg.segs
        _alert(sk, seg, st, prior_una)
    if st.flag & FLAG_SET_XMIT_TIMER:
        if not sk.packets_out:
            clear_xmit_timer(sk)
        elif not schedule_loss_probe(sk, True, now):
            rearm_rto(sk, now)
    generate(sk, st, sk.delivered - delivered, sk.lost - lost)
    _cong_control(sk, st, sk.lost - lost)
    if st.retransmit:
        xmit_recovery(sk, st, now)


def _old_ack(sk: TcpSock, seg: Segment) -> int:
    """Below snd_una: perhaps reordered, perhaps forged (RFC 5961 section 5.2)."""
    if seg.ack < sk.snd_una - min(sk.max_window, sk.bytes_acked):
        send_challenge_ack(sk, seg.now)
        return ACK_REJECTED
    if seg.options.sacks and sk.sack_ok:
        st = AckState(seg.ack, seg.now, sk.snd_nxt, sk.in_flight)
        sacktag_write_queue(sk, seg, sk.snd_una, st)
        _alert(sk, seg, st, sk.snd_una)
        xmit_recovery(sk, st, seg.now)
    return ACK_OLD


def _alert(sk: TcpSock, seg: Segment, st: AckState, prior_una: int) -> None:
    """Nothing is as it should be: is anything lost, or was it never?"""
    st.prior_una = prior_una
    if sk.tstamp_ok and seg.options.has_ts:
        st.tsecr = seg.options.tsecr
    fastretrans_alert(sk, st, st.now)


def _ack_without_queue(sk: TcpSock, seg: Segment, st: AckState) -> None:
    """Nothing was in flight: only the window can be news, or a duplicate report."""
    if st.flag & FLAG_DSACKING_ACK:
        _alert(sk, seg, st, sk.snd_una)
    ack_probe(sk, st.now)
    if sk.tlp_high_seq is not None:
        process_tlp_ack(sk, st)


# -- the window ----------------------------------------------------------------------------


def ack_update_window(sk: TcpSock, seg: Segment) -> bool:
    """Take the peer's window if the segment is newer than what told us last (rule A-51)."""
    window = seg.window
    if not seg.flags & SYN:
        window <<= sk.snd_wscale
    if not (
        seg.ack > sk.snd_una
        or seg.seq > sk.snd_wl1
        or (seg.seq == sk.snd_wl1 and (window > sk.snd_wnd or not window))
    ):
        return False
    sk.snd_wl1 = seg.seq
    if sk.snd_wnd != window:
        sk.snd_wnd = window
        sk.pred_wnd = PREDICTION_OFF
        fast_path_check(sk)
        if sk.write_queue and not sk.packets_out:
            slow_start_after_idle_check(sk, seg.now)
        if window > sk.max_window:
            sk.max_window = window
            sync_mss(sk, sk.pmtu_cookie)
    return True


def ack_probe(sk: TcpSock, now: int) -> None:
    """Unsent data and nothing in flight: has the window opened? (rule A-50)"""
    head = sk.send_head
    if head is None:
        return
    if head.end_seq <= sk.wnd_end:
        sk.rtt.backoff = 0
        sk.probes_tstamp = 0
        if sk.pending == PENDING_PROBE0:
            clear_xmit_timer(sk)
    else:
        at = clamp_probe0(sk, now + probe0_interval(sk), now) + pacing_delay(sk, now)
        reset_xmit_timer(sk, PENDING_PROBE0, at)


# -- what is acknowledged ------------------------------------------------------------------


def clean_rtx_queue(
    sk: TcpSock, seg: Segment, st: AckState, prior_una: int, prior_fack: int
) -> None:
    """Remove what snd_una covers and learn from when it was sent (rule A-36)."""
    prior_sacked = sk.sacked_out
    first_ackt = last_ackt = 0
    fully_acked = True
    queue = sk.rtx_queue
    una = sk.snd_una
    if sk.notify is not None:
        txstamp.acked(sk, una, st.now)
    skb = queue.first
    while skb is not None:
        start = skb.seq
        if skb.end_seq > una:
            if skb.pcount == 1 or una <= skb.seq:
                break
            acked = _tso_acked(sk, skb, una)
            if not acked:
                break
            fully_acked = False
        else:
            acked = skb.pcount
        sent_at = _entry_acked(sk, skb, start, acked, st, seg)
        if sent_at:
            first_ackt = first_ackt or sent_at
            last_ackt = sent_at
        if not fully_acked:
            break
        queue.popleft()
        sk.wmem_queued -= skb.len + TX_OVERHEAD
        skb = queue.first
    if skb is None:
        chrono.stop(sk, chrono.BUSY, st.now)
        if not sk.write_queue:
            sk.page = None
    elif skb.sacked & SACKED_ACKED:
        st.flag |= FLAG_SACK_RENEGING
    if prior_una < sk.snd_up <= una or sk.snd_up < una:
        sk.snd_up = una
    runt = fully_acked and not prior_sacked and una - prior_una < sk.mss_cache
    rtt_valid = _measure(sk, seg, st, first_ackt, last_ackt, runt)
    _after_clean(sk, st, prior_fack, rtt_valid)


def _tso_acked(sk: TcpSock, skb: Skb, una: int) -> int:
    """Part of a multi-segment entry is acknowledged: trim it; packets gone."""
    old = skb.pcount
    trim_head(sk, skb, una - skb.seq)
    return old - skb.set_pcount(skb.gso_size)


def _entry_acked(sk: TcpSock, skb: Skb, start: int, acked: int, st: AckState, seg: Segment) -> int:
    """Take `acked` packets of an entry, which began at `start`, off the counters; its send
    time if that is a valid RTT sample, else 0."""
    sacked = skb.sacked
    sent_at = 0
    if sacked & (SACKED_RETRANS | EVER_RETRANS):
        if sacked & SACKED_RETRANS:
            sk.retrans_out -= acked
        st.flag |= FLAG_RETRANS_DATA_ACKED
    elif not sacked & SACKED_ACKED:
        sent_at = skb.tx_time
        if start < st.low_acked:
            st.low_acked = start
        if skb.end_seq <= sk.high_seq:
            st.flag |= FLAG_ORIG_SACK_ACKED
    if sacked & SACKED_ACKED:
        sk.sacked_out -= acked
    elif sk.sack_ok:
        sk.delivered += acked
        if not sacked & EVER_RETRANS or not _is_echo_of_original(sk, skb, seg):
            rack.advance(sk, skb, st.now)
    if sacked & LOST:
        sk.lost_out -= acked
    sk.packets_out -= acked
    st.pkts_acked += acked
    if skb.tx_delivered_at:
        skb_delivered(sk, skb, st)
    if skb.flags & SYN:
        st.flag |= FLAG_SYN_ACKED
        sk.retrans_stamp = 0
    else:
        st.flag |= FLAG_DATA_ACKED
    return sent_at


def _is_echo_of_original(sk: TcpSock, skb: Skb, seg: Segment) -> bool:
    """Does the echoed timestamp precede the retransmission of `skb`? Then it was not needed
    (`tcp_skb_spurious_retrans`)."""
    return sk.tstamp_ok and is_before_retransmission(sk, seg.options.tsecr, skb.tx_time)


def _measure(
    sk: TcpSock, seg: Segment, st: AckState, first_ackt: int, last_ackt: int, runt: bool
) -> bool:
    """Choose the RTT sample (rule D-2) and feed the estimators; false if there is none."""
    now = st.now
    seq_rtt = sack_rtt = ca_rtt = -1
    if first_ackt and not st.flag & FLAG_RETRANS_DATA_ACKED:
        seq_rtt = (now - first_ackt) // 1000 if now > first_ackt else 0
        ca_rtt = (now - last_ackt) // 1000 if now > last_ackt else 0
        if (
            runt
            and st.pkts_acked == 1
            and st.prior_delivered + 1 == sk.delivered
            and not st.flag & (FLAG_CA_ALERT | FLAG_SYN_ACKED)
        ):
            st.flag |= FLAG_ACK_MAYBE_DELAYED  # a lone small packet over the round trip
    if st.first_sackt:
        sack_rtt = max(now - st.first_sackt, 0) // 1000
        ca_rtt = max(now - st.last_sackt, 0) // 1000
    if seq_rtt < 0:
        seq_rtt = sack_rtt
    if seq_rtt < 0 and seg.options.tsecr and st.flag & FLAG_ACKED and sk.tstamp_ok:
        delta_ms = (now // MS + sk.tsoffset - seg.options.tsecr) & 0xFFFFFFFF
        if delta_ms < 1 << 22:
            seq_rtt = ca_rtt = max(delta_ms, 1) * 1000
    st.rtt_us = ca_rtt
    if seq_rtt < 0:
        return False
    if ca_rtt <= sk.min_rtt.value or not st.flag & FLAG_ACK_MAYBE_DELAYED:
        # an ACK that may have been delayed proves nothing larger
        sk.min_rtt.update(now // 1000, ca_rtt or 1)
    sk.rtt.sample(seq_rtt, sk.snd_una, sk.snd_nxt)
    return True


def _after_clean(sk: TcpSock, st: AckState, prior_fack: int, rtt_valid: bool) -> None:
    """Timers and reordering, once the queue is clean."""
    sk.reserved = 0
    if not st.flag & FLAG_ACKED:
        head = sk.rtx_queue.head()
        if (
            head is not None
            and rtt_valid
            and st.first_sackt
            and st.now - st.first_sackt > st.now - head.tx_time
        ):
            st.flag |= FLAG_SET_XMIT_TIMER  # the RTO was not meant for this RTT
        return
    st.flag |= FLAG_SET_XMIT_TIMER
    if sk.mtup is not None and mtu_probe.acked(sk, st.now):
        sync_mss(sk, sk.pmtu_cookie)
    if not sk.sack_ok:
        remove_reno_sacks(sk, st.pkts_acked)
        return
    if st.low_acked < prior_fack:
        rack.check_sack_reordering(sk, st.low_acked, False)
    if not sk.packets_out:
        sk.retrans_out = 0  # see `undo`: an entry may have counted twice


# -- how much may fly ----------------------------------------------------------------------


def _cong_control(sk: TcpSock, st: AckState, newly_lost: int) -> None:
    """Reduce, or let congestion control grow the window; renew the pacing rate."""
    cc = sk.cc
    sample = sk.host.ack_sample
    sample.now, sample.acked, sample.rtt_us = st.now, st.acked_sacked, st.rtt_us
    if st.pkts_acked or st.first_sackt:
        sample.srtt_us = sk.rtt.srtt_us
        sample.min_rtt_us = sk.min_rtt.value
        sample.in_flight = st.prior_in_flight
        sample.snd_una, sample.snd_nxt = sk.snd_una, sk.snd_nxt
        sample.delivered, sample.losses = sk.delivered, newly_lost
        cc.pkts_acked(sample)
    if cc.has_cong_control:
        cc.cong_control(sample)
        return
    sysctl = sk.net.sysctl
    if sk.ca_state == CA_RECOVERY or sk.ca_state == CA_CWR:
        advanced = bool(st.flag & FLAG_SND_UNA_ADVANCED)
        cwnd_reduction(sk, st.acked_sacked, newly_lost, advanced)
    elif (
        # with reordering about SACKed data counts; otherwise only a cumulative ACK does
        st.flag
        & (FLAG_FORWARD_PROGRESS if sk.reordering > sysctl.tcp_reordering else FLAG_DATA_ACKED)
    ):
        sample.is_cwnd_limited = is_cwnd_limited_now(sk)
        cc.cong_avoid(sample)
        sk.snd_cwnd_stamp = st.now
    sk.pacing_rate = update_pacing_rate(
        cc.snd_cwnd,
        cc.snd_ssthresh,
        sk.mss_cache,
        sk.rtt.srtt_us,
        sysctl.tcp_pacing_ss_ratio,
        sysctl.tcp_pacing_ca_ratio,
        sk.max_pacing_rate,
        sk.packets_out,
    )
