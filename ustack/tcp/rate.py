"""Delivery rate samples: how fast the network took what we sent.

Every entry remembers, when it is sent, how much had been delivered by then and when
(`transmit._rate_skb_sent`). When it is delivered the difference is a sample: packets
delivered, over the longer of the time it took to send them and to have them
acknowledged. An interval below the minimum RTT is noise and is discarded. A sample taken
while the application had nothing to send says nothing of the path and is so marked.

Sources: draft-cheng-iccrg-delivery-rate-estimation, Linux tcp_rate.c; rule D-49.
"""

from __future__ import annotations

from ustack.tcp.ackstate import AckState
from ustack.tcp.rtt import NO_RTT
from ustack.tcp.skb import SACKED_ACKED, Skb
from ustack.tcp.sock import TcpSock


def skb_delivered(sk: TcpSock, skb: Skb, st: AckState) -> None:
    """`skb`, whose snapshot is unused (`tx_delivered_at`), has been (S)ACKed: the most
    recently sent one gives the sample."""
    if not st.prior_delivered_at or skb.tx_time > sk.first_tx:
        st.prior_delivered = skb.tx_delivered
        st.prior_delivered_at = skb.tx_delivered_at
        st.is_app_limited = skb.is_app_limited
        st.send_interval = skb.tx_time - skb.first_tx
        sk.first_tx = skb.tx_time
    if skb.sacked & SACKED_ACKED:
        skb.tx_delivered_at = 0  # not again when it is acknowledged


def generate(sk: TcpSock, st: AckState, delivered: int, lost: int) -> None:
    """At the end of an ACK: the sample, into tcp_info's figures (`tcp_rate_gen`)."""
    if sk.app_limited and sk.delivered > sk.app_limited:
        sk.app_limited = 0
    if delivered:
        sk.delivered_at = st.now
    st.acked_sacked = delivered
    if not st.prior_delivered_at:
        return
    count = sk.delivered - st.prior_delivered
    interval = st.now - st.prior_delivered_at
    interval_us = (interval if interval > st.send_interval else st.send_interval) // 1000
    min_rtt = sk.min_rtt.value
    if not interval_us or (interval_us < min_rtt and min_rtt != NO_RTT):
        return
    if not st.is_app_limited or count * sk.rate_interval_us >= sk.rate_delivered * interval_us:
        sk.rate_delivered = count
        sk.rate_interval_us = interval_us
        sk.rate_app_limited = st.is_app_limited


def check_app_limited(sk: TcpSock) -> None:
    """The application is about to add data: had it run dry? (`tcp_rate_check_app_limited`)"""
    if sk.write_seq - sk.snd_nxt >= sk.mss_cache or sk.wmem_alloc:
        return
    in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
    if in_flight < sk.cc.snd_cwnd and sk.lost_out <= sk.retrans_out:
        sk.app_limited = (sk.delivered + in_flight) or 1
