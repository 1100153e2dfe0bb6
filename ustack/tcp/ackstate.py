"""What one arriving ACK has told so far: filled step by step by the functions of `ack`."""

from __future__ import annotations

FLAG_DATA = 0x01  # the segment carries data
FLAG_WIN_UPDATE = 0x02  # it changed the send window
FLAG_DATA_ACKED = 0x04  # it acknowledged new data
FLAG_RETRANS_DATA_ACKED = 0x08  # ... some of which had been retransmitted
FLAG_SYN_ACKED = 0x10
FLAG_DATA_SACKED = 0x20  # new SACK
FLAG_LOST_RETRANS = 0x80  # a retransmission was found lost
FLAG_ORIG_SACK_ACKED = 0x200  # never retransmitted data (S)ACKed
FLAG_SND_UNA_ADVANCED = 0x400
FLAG_DSACKING_ACK = 0x800  # a duplicate was reported
FLAG_SET_XMIT_TIMER = 0x1000
FLAG_SACK_RENEGING = 0x2000  # snd_una stopped at SACKed data
FLAG_ACK_MAYBE_DELAYED = 0x10000

FLAG_ACKED = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED
FLAG_CA_ALERT = FLAG_DATA_SACKED | FLAG_DSACKING_ACK


class AckState:
    """Numbers gathered while one ACK is processed. Times are ns, 0 or -1 if none."""

    __slots__ = (
        "ack",
        "acked_sacked",
        "dsack_tlp",
        "first_sackt",
        "flag",
        "is_app_limited",
        "last_sackt",
        "low_acked",
        "now",
        "num_dupack",
        "pkts_acked",
        "prior_delivered",
        "prior_delivered_at",
        "prior_in_flight",
        "prior_tx",
        "rate_interval_us",
        "reord",
        "retransmit",
        "rtt_us",
        "send_interval",
    )

    def __init__(self, ack: int, now: int, snd_nxt: int, in_flight: int) -> None:
        self.ack = ack
        self.now = now
        self.flag = 0
        self.reord = snd_nxt  # lowest sequence SACKed late, never retransmitted
        self.low_acked = snd_nxt  # lowest acknowledged, never retransmitted nor SACKed
        self.prior_in_flight = in_flight
        self.first_sackt = self.last_sackt = 0
        self.num_dupack = 0
        self.pkts_acked = 0
        self.acked_sacked = 0  # packets newly delivered by this ACK
        self.rtt_us = -1
        self.retransmit = False  # recovery wants lost data resent, then new data
        self.dsack_tlp = False
        # the newest delivered entry's snapshot, for the rate sample
        self.prior_delivered = 0
        self.prior_delivered_at = 0
        self.prior_tx = 0
        self.send_interval = 0
        self.rate_interval_us = 0
        self.is_app_limited = False
