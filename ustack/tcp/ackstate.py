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
FLAG_FORWARD_PROGRESS = FLAG_ACKED | FLAG_DATA_SACKED
FLAG_CA_ALERT = FLAG_DATA_SACKED | FLAG_DSACKING_ACK


class AckState:
    """Numbers gathered while one ACK is processed. Times are ns, 0 or -1 if none.

    Most ACKs touch few of them: the defaults live in the class, and there are no slots.
    """

    flag = 0
    first_sackt = 0
    last_sackt = 0
    num_dupack = 0
    pkts_acked = 0
    sack_delivered = 0  # packets that its blocks report, duplicates included
    acked_sacked = 0  # packets newly delivered by this ACK
    rtt_us = -1
    retransmit = False  # recovery wants lost data resent, then new data
    dsack_tlp = False
    # for `undo`, set for a dubious ACK only
    prior_una = 0
    tsecr = 0  # the echoed timestamp, 0: none
    # the newest delivered entry's snapshot, for the rate sample
    prior_delivered = 0
    prior_delivered_at = 0
    send_interval = 0
    is_app_limited = False

    def __init__(self, ack: int, now: int, snd_nxt: int, in_flight: int) -> None:
        self.ack = ack
        self.now = now
        self.reord = snd_nxt  # lowest sequence SACKed late, never retransmitted
        self.low_acked = snd_nxt  # lowest acknowledged, never retransmitted nor SACKed
        self.prior_in_flight = in_flight
