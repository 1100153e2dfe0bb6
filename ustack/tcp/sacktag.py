"""The sender's scoreboard: what the SACK blocks of an ACK say about our entries.

Each entry carries its tags (`skb.sacked`); the counters of the socket add them up:

    sacked_out   packets SACKED_ACKED
    lost_out     packets LOST
    retrans_out  packets SACKED_RETRANS: retransmitted and not known to be lost again

A block that covers part of a multi-segment entry cuts it, on an MSS boundary. Blocks
repeat from ACK to ACK, grown at one end; what the last ACK already told is skipped
(`sack_cache`). Blocks are checked first: an old or absurd one is counted and ignored, and
the first one may be a duplicate report (DSACK, RFC 2883).

Without SACK the same counters are kept by counting duplicate ACKs (NewReno, RFC 6582).

Sources: RFC 2018, RFC 6675, Linux `tcp_sacktag_write_queue`, `tcp_sacktag_one`,
`tcp_add_reno_sack`; rules D-12, D-13.
"""

from __future__ import annotations

from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp import rack
from ustack.tcp.ackstate import (
    FLAG_DATA_SACKED,
    FLAG_DSACKING_ACK,
    FLAG_ORIG_SACK_ACKED,
    AckState,
)
from ustack.tcp.output import split
from ustack.tcp.rate import skb_delivered
from ustack.tcp.retransmit import fragment, too_fragmented
from ustack.tcp.segment import Segment
from ustack.tcp.skb import EVER_RETRANS, LOST, MAX_PARTS, SACKED_ACKED, SACKED_RETRANS, Skb
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CA_LOSS
from ustack.wire.seq import unwrap

# what `_shift` has done
NOT_SHIFTED, NOTHING, SHIFTED = range(3)
_TAGS = SACKED_ACKED | SACKED_RETRANS | LOST


def highest_sack_seq(sk: TcpSock) -> int:
    """Where the highest SACKed entry ends; snd_una if nothing is SACKed."""
    return max(sk.highest_sack, sk.snd_una) if sk.sacked_out else sk.snd_una


def sacktag_write_queue(sk: TcpSock, seg: Segment, prior_snd_una: int, st: AckState) -> None:
    """Apply the SACK option of `seg`."""
    una = sk.snd_una
    raw = [(unwrap(left, una), unwrap(right, una)) for left, right in seg.options.sacks]
    blocks = list(raw)
    if not sk.sacked_out:
        sk.highest_sack = una
        sk.sack_cache = ()
    if _check_dsack(sk, raw, st):
        blocks = raw[1:]
    if st.ack < prior_snd_una - sk.max_window:
        return
    _note_dsacked_entries(sk, raw, blocks, st)
    if not sk.packets_out:
        return
    valid = [block for block in blocks if _is_valid(sk, block)]
    for left, right in sorted(valid):
        for start, end in _news(sk.sack_cache, left, right):
            _tag_range(sk, start, end, (left, right), st)
    sk.sack_cache = tuple(valid)
    if st.reord < sk.highest_sack and sk.ca_state != CA_LOSS:
        rack.check_sack_reordering(sk, st.reord, sk.highest_sack)


def _check_dsack(sk: TcpSock, blocks: list[tuple[int, int]], st: AckState) -> bool:
    """Is the first block a report of data received twice? (`tcp_check_dsack`)"""
    left, right = blocks[0]
    mib = sk.net.mib
    if left < st.ack:
        mib.inc("TcpExtTCPDSACKRecv")
    elif len(blocks) > 1 and left >= blocks[1][0] and right <= blocks[1][1]:
        mib.inc("TcpExtTCPDSACKOfoRecv")
    else:
        return False
    if not _dsack_seen(sk, left, right, st):
        mib.inc("TcpExtTCPDSACKIgnoredDubious")
        return False
    return True


def _dsack_seen(sk: TcpSock, left: int, right: int, st: AckState) -> bool:
    """Note a duplicate report; false if nothing that we sent twice explains it."""
    if right <= left or right - left > sk.max_window:
        return False
    segs = 1
    tlp = False
    if right - left > sk.mss_cache:
        segs = -(-(right - left) // sk.mss_cache)
    else:
        tlp = right == sk.tlp_high_seq
    sk.dsack_dups += segs
    if sk.dsack_dups > sk.total_retrans:
        return False
    st.flag |= FLAG_DSACKING_ACK
    st.dsack_tlp = tlp
    if sk.reord_seen and not tlp:
        sk.dsack_seen = True  # RACK was too hasty; a probe that was not needed is no sign
    return True


def _note_dsacked_entries(
    sk: TcpSock, raw: list[tuple[int, int]], blocks: list[tuple[int, int]], st: AckState
) -> None:
    """A DSACK above snd_una: that retransmission has arrived and is no longer out."""
    if len(raw) == len(blocks) or not sk.packets_out or raw[0][1] <= sk.snd_una:
        return
    left, right = raw[0]
    for i in range(sk.rtx_queue.index_of(left), len(sk.rtx_queue)):
        skb = sk.rtx_queue.at(i)
        if skb.seq >= right:
            break
        if left <= skb.seq and skb.end_seq <= right and skb.sacked & SACKED_RETRANS:
            if skb.sacked & SACKED_ACKED:
                st.reord = min(st.reord, skb.seq)
            skb.sacked &= ~SACKED_RETRANS
            sk.retrans_out -= skb.pcount


def _is_valid(sk: TcpSock, block: tuple[int, int]) -> bool:
    """RFC 2018: inside what we have sent and the peer has not acknowledged (rule D-12)."""
    left, right = block
    if right <= left or right > sk.snd_nxt or left >= sk.snd_nxt:
        sk.net.mib.inc("TcpExtTCPSACKDiscard")
        return False
    return left > sk.snd_una  # one that starts at snd_una makes no sense


def _news(cache: tuple[tuple[int, int], ...], left: int, right: int) -> list[tuple[int, int]]:
    """The parts of a block that the previous ACK did not report."""
    for old_left, old_right in cache:
        if left <= old_left and old_right <= right:
            return [part for part in ((left, old_left), (old_right, right)) if part[0] < part[1]]
    return [(left, right)]


def _tag_range(sk: TcpSock, start: int, end: int, block: tuple[int, int], st: AckState) -> None:
    """Of the entries that touch [start, end), tag those that lie in `block`, cutting those
    that straddle an edge of it."""
    left, right = block
    queue = sk.rtx_queue
    i = queue.index_of(start)
    while i < len(queue):
        skb = queue.at(i)
        if skb.seq >= end:
            return
        shifted = _shift(sk, i, left, right, st)
        if shifted == SHIFTED:
            continue  # what stands at `i` now comes next
        i += 1
        if shifted == NOTHING or skb.end_seq <= left or skb.sacked & SACKED_ACKED:
            continue
        verdict = _match(sk, skb, left, right)
        if verdict is None:
            continue  # the front part was cut off; its rear comes next
        if verdict:
            _sacktag_one(sk, skb, st)


def _match(sk: TcpSock, skb: Skb, left: int, right: int) -> bool | None:
    """Is `skb` in the block? A multi-segment entry that is partly in it is cut at an MSS
    boundary: True if its (new) front is in, None if the front is not and the rear may be
    (`tcp_match_skb_to_sack`)."""
    in_sack = left <= skb.seq and skb.end_seq <= right
    if in_sack or skb.pcount <= 1:
        return in_sack
    mss = skb.gso_size
    in_sack = left <= skb.seq
    length = (right if in_sack else left) - skb.seq
    if length < mss:
        if in_sack:
            return False
        length = mss
    whole = length - length % mss
    if not in_sack and whole < length:
        whole += mss
    if (whole >= skb.len and not in_sack) or too_fragmented(sk, skb):
        return False
    fragment(sk, skb, whole, mss)  # perhaps only a FIN stays behind
    return True if in_sack else None


def _seglen(skb: Skb) -> int:
    return skb.len if skb.pcount <= 1 else skb.gso_size


def _shift(sk: TcpSock, i: int, left: int, right: int, st: AckState) -> int:
    """Tag what the block covers of entry `i` by merging it into the SACKed entry before it,
    as long as both consist of segments of one size; one that closes a gap takes in the
    entry behind it as well. NOT_SHIFTED: tag it in place (`tcp_shift_skb_data`)."""
    queue = sk.rtx_queue
    skb = queue.at(i)
    if not i or not skb.len or skb.sacked & (LOST | SACKED_RETRANS) == SACKED_RETRANS:
        return NOT_SHIFTED
    prev = queue.at(i - 1)
    if prev.sacked & _TAGS != SACKED_ACKED or prev.eor:
        return NOT_SHIFTED
    if left <= skb.seq and skb.end_seq <= right:
        mss = _seglen(skb)
        if mss != _seglen(prev):
            return NOT_SHIFTED
    else:
        if skb.end_seq <= left or skb.pcount <= 1:
            return NOTHING
        mss = skb.gso_size
        if not left <= skb.seq or mss != _seglen(prev):
            return NOT_SHIFTED
        segs = (right - skb.seq) // mss
        if not segs:
            return NOTHING
        _cut(sk, skb, segs, mss)
    _merge(sk, prev, skb, mss, st)
    if i < len(queue):
        behind = queue.at(i)
        alike = behind.sacked & _TAGS == SACKED_ACKED and _seglen(behind) == mss
        if behind.len and alike and not prev.eor:
            _merge(sk, prev, behind, mss, st)
    return SHIFTED


def _cut(sk: TcpSock, skb: Skb, segs: int, mss: int) -> None:
    """Only the first `segs` segments of `skb` are in the block."""
    pcount = skb.pcount
    rear = split(skb, segs * mss)
    skb.pcount, rear.pcount = segs, pcount - segs
    skb.gso_size = rear.gso_size = mss
    sk.wmem_queued += TX_OVERHEAD
    sk.rtx_queue.insert_after(skb, rear)


def _merge(sk: TcpSock, prev: Skb, skb: Skb, mss: int, st: AckState) -> None:
    """`skb` becomes part of `prev` and leaves the queue (`tcp_shifted_skb`)."""
    if not skb.sacked & SACKED_ACKED:
        _sacktag_one(sk, skb, st)
    prev.parts += skb.parts
    if len(prev.parts) > MAX_PARTS:  # sent again only if the peer takes its word back
        prev.parts = [b"".join(prev.parts)]
    prev.len += skb.len
    prev.end_seq = skb.end_seq
    if prev.pcount == 1:
        prev.gso_size = mss
    prev.pcount += skb.pcount
    prev.flags |= skb.flags
    prev.eor = skb.eor
    prev.sacked |= skb.sacked & EVER_RETRANS
    prev.tx_mark = max(prev.tx_mark, skb.tx_mark)
    prev.tx_delivered_at = 0
    sk.rtx_queue.remove_after(prev)
    sk.wmem_queued -= TX_OVERHEAD


def _sacktag_one(sk: TcpSock, skb: Skb, st: AckState) -> None:
    """The peer holds this entry (`tcp_sacktag_one`)."""
    sacked = skb.sacked
    rack.advance(sk, skb, st.now)
    if sacked & SACKED_RETRANS:
        # not tagged lost: the retransmission may still be in flight, leave it counted
        if sacked & LOST:
            skb.sacked &= ~(LOST | SACKED_RETRANS)
            sk.lost_out -= skb.pcount
            sk.retrans_out -= skb.pcount
    else:
        if not sacked & EVER_RETRANS:
            if skb.seq < highest_sack_seq(sk):
                st.reord = min(st.reord, skb.seq)
            if skb.end_seq <= sk.high_seq:
                st.flag |= FLAG_ORIG_SACK_ACKED
            if not st.first_sackt:
                st.first_sackt = skb.tx_time
            st.last_sackt = skb.tx_time
        if sacked & LOST:
            skb.sacked &= ~LOST
            sk.lost_out -= skb.pcount
    skb.sacked |= SACKED_ACKED
    st.flag |= FLAG_DATA_SACKED
    sk.sacked_out += skb.pcount
    sk.delivered += skb.pcount
    if skb.tx_delivered_at:
        skb_delivered(sk, skb, st)
    sk.highest_sack = max(sk.highest_sack, skb.end_seq)


# -- without SACK: duplicate ACKs are counted ----------------------------------------------


def add_reno_sack(sk: TcpSock, num_dupack: int) -> None:
    """Each duplicate ACK says that one packet, nobody knows which, has arrived."""
    if not num_dupack:
        return
    prior = sk.sacked_out
    sk.sacked_out += num_dupack
    _check_reno_reordering(sk, 0)
    sk.delivered += max(sk.sacked_out - prior, 0)


def _check_reno_reordering(sk: TcpSock, addend: int) -> None:
    """At least one packet, the hole, has not arrived. More duplicate ACKs than that allows
    mean that the network reorders."""
    holes = min(max(sk.lost_out, 1), sk.packets_out)
    if sk.sacked_out + holes <= sk.packets_out:
        return
    sk.sacked_out = sk.packets_out - holes
    sk.reordering = min(sk.packets_out + addend, sk.net.sysctl.tcp_max_reordering)
    sk.reord_seen += 1
    sk.net.mib.inc("TcpExtTCPRenoReorder")


def limit_reno_sacked(sk: TcpSock) -> None:
    """Keep sacked_out possible after more packets were found lost."""
    holes = min(max(sk.lost_out, 1), sk.packets_out)
    sk.sacked_out = min(sk.sacked_out, sk.packets_out - holes)


def remove_reno_sacks(sk: TcpSock, acked: int) -> None:
    """A cumulative ACK of `acked` packets: one filled the hole, the rest had been counted."""
    if acked > 0:
        sk.delivered += max(acked - sk.sacked_out, 1)
        sk.sacked_out = max(sk.sacked_out - (acked - 1), 0)
    _check_reno_reordering(sk, acked)
