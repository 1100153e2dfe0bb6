"""The path takes less than we thought: send again what is too long.

Source: Linux `tcp_simple_retransmit`; rule A-42.
"""

from __future__ import annotations

from ustack.tcp.cwnd import current_ssthresh, set_ca_state
from ustack.tcp.output import current_mss
from ustack.tcp.rack import mark_skb_lost
from ustack.tcp.retransmit import xmit_retransmit_queue
from ustack.tcp.sacktag import limit_reno_sacked
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CA_LOSS


def simple_retransmit(sk: TcpSock, now: int) -> None:
    """Everything in flight in segments longer than the new MSS is lost, which is nobody's
    congestion: it goes out again without a smaller window."""
    mss_now = current_mss(sk, now)
    for skb in sk.rtx_queue:
        if min(skb.len, skb.gso_size) > mss_now:
            mark_skb_lost(sk, skb)
    if not sk.lost_out:
        return
    if not sk.sack_ok:
        limit_reno_sacked(sk)
    if sk.ca_state != CA_LOSS:
        sk.high_seq = sk.snd_nxt
        sk.cc.snd_ssthresh = current_ssthresh(sk)
        sk.prior_ssthresh = 0
        sk.undo_marker = None
        set_ca_state(sk, CA_LOSS)
    xmit_retransmit_queue(sk, now)
