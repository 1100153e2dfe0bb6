"""The sender's scoreboard: what the SACK blocks of an ACK say about our entries.

Each entry carries its tags (`skb.sacked`); the counters of the socket add them up:

    sacked_out   packets SACKED_ACKED
    lost_out     packets LOST
    retrans_out  packets SACKED_RETRANS: retransmitted and not known to be lost again

A block that covers part of a multi-segment entry cuts it, on an MSS boundary; what is
SACKed is merged with a SACKed neighbour, and its overhead is no longer charged. Blocks
repeat from ACK to ACK, grown at one end; what the last ACK already told is skipped
(`sack_cache`). Blocks are checked first: an old or absurd one is counted and ignored, and
the first one may be a duplicate report (DSACK, RFC 2883), which tells `undo` that a
retransmission was needless.

What is merged, and so what is charged, depends on the order of the walk: by sequence, from
where the block before ended, past what is known, and from the highest SACK for all above
it. It is the kernel's, for overlapping and senseless blocks too.

Without SACK the same counters are kept by counting duplicate ACKs (NewReno, RFC 6582).

Sources: RFC 2018, RFC 6675, Linux `tcp_sacktag_write_queue`, `tcp_sacktag_one`,
`tcp_add_reno_sack`; rules D-12, D-13.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TypeAlias

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
from ustack.tcp.undo import note_dsack
from ustack.wire.seq import unwrap

Block: TypeAlias = tuple[int, int, bool]  # [left, right) and whether it is a duplicate report
_LEFT = itemgetter(0)
END = -1  # the place behind the last entry
# what `_match` has found
NOT_IN, IN, NO_SEGMENT = range(3)
# what `_shift` has done
NOT_SHIFTED, NOTHING, SHIFTED = range(3)
_ENTRY_MAX = 65535 * 8
_TAGS = SACKED_ACKED | SACKED_RETRANS | LOST


def highest_sack_seq(sk: TcpSock) -> int:
    """Where the highest SACKed entry ends; snd_una if nothing is SACKed."""
    return max(sk.highest_sack, sk.snd_una) if sk.sacked_out else sk.snd_una


def sacktag_write_queue(sk: TcpSock, seg: Segment, prior_snd_una: int, st: AckState) -> None:
    """Apply the SACK option of `seg`."""
    una = sk.snd_una
    raw = [(unwrap(left, una), unwrap(right, una)) for left, right in seg.options.sacks]
    if not sk.sacked_out:
        sk.highest_sack = una
    dup = _check_dsack(sk, raw, prior_snd_una, st)
    if st.ack < prior_snd_una - sk.max_window or not sk.packets_out:
        return
    usable = [
        (left, right, dup and not i)
        for i, (left, right) in enumerate(raw)
        if _is_valid(sk, left, right, dup and not i, st.ack) and right > prior_snd_una
    ]
    usable.sort(key=_LEFT)
    _tag_blocks(sk, usable, sk.sack_cache if sk.sacked_out else (), st)
    sk.sack_cache = tuple(usable)
    if st.reord < sk.highest_sack and (sk.ca_state != CA_LOSS or sk.undo_marker is not None):
        rack.check_sack_reordering(sk, st.reord, False)


def _check_dsack(
    sk: TcpSock, blocks: list[tuple[int, int]], prior_snd_una: int, st: AckState
) -> bool:
    """Is the first block a report of data received twice? (`tcp_check_dsack`)"""
    left, right = blocks[0]
    mib = sk.net.mib
    if left < st.ack:
        mib.inc("TcpExtTCPDSACKRecv")
    elif len(blocks) > 1 and left >= blocks[1][0] and right <= blocks[1][1]:
        mib.inc("TcpExtTCPDSACKOfoRecv")
    else:
        return False
    segs = _dsack_seen(sk, left, right, st)
    if not segs:
        mib.inc("TcpExtTCPDSACKIgnoredDubious")
        return False
    mib.inc("TcpExtTCPDSACKRecvSegs", segs)
    if right <= prior_snd_una:  # of entries that are gone
        note_dsack(sk, right, segs)
    return True


def _dsack_seen(sk: TcpSock, left: int, right: int, st: AckState) -> int:
    """Note a duplicate report: of how many packets, 0 if nothing that we sent twice
    explains it."""
    if right <= left or right - left > sk.max_window:
        return 0
    segs = 1
    tlp = False
    if right - left > sk.mss_cache:
        segs = -(-(right - left) // sk.mss_cache)
    else:
        tlp = right == sk.tlp_high_seq
    sk.dsack_dups += segs
    if sk.dsack_dups > sk.total_retrans:
        return 0
    st.flag |= FLAG_DSACKING_ACK
    st.dsack_tlp = tlp
    if sk.reord_seen and not tlp:
        sk.dsack_seen = True  # RACK was too hasty; a probe that was not needed is no sign
    st.sack_delivered += segs
    return segs


def _is_valid(sk: TcpSock, left: int, right: int, dup: bool, ack: int) -> bool:
    """RFC 2018: inside what we have sent and the peer has not acknowledged (rule D-12). A
    duplicate may lie below, down to where the undo began (`tcp_is_sackblock_valid`)."""
    if right <= sk.snd_nxt and left < right:
        if left > sk.snd_una:
            return True
        marker = sk.undo_marker
        if dup and marker is not None and right <= sk.snd_una:
            if left >= marker or (right > marker and left >= right - sk.max_window):
                return True
    if dup:
        name = "Old" if sk.undo_marker is not None else "NoUndo"
        sk.net.mib.inc("TcpExtTCPDSACKIgnored" + name)
    elif ack == sk.snd_una or right > sk.snd_una:  # else reordering has made it old
        sk.net.mib.inc("TcpExtTCPSACKDiscard")
    return False


def _tag_blocks(sk: TcpSock, blocks: list[Block], cache: tuple[Block, ...], st: AckState) -> None:
    """Tag what the blocks cover and the last ACK's (`cache`) did not, in order of sequence.
    A duplicate report that lies in the next block is seen to on the way."""
    at = END  # the entry where the walk stands
    for i, (left, right, dup) in enumerate(blocks):
        inner = blocks[i + 1] if i + 1 < len(blocks) and blocks[i + 1][2] else None
        cache = _ahead(cache, left)
        while cache and not dup and right > cache[0][0]:
            old_left, old_right, _ = cache[0]
            if left < old_left:
                at = _walk(sk, _skip(sk, at, left), left, old_left, dup, inner, st)
            if right <= old_right:
                break
            if inner is not None and inner[0] < old_right:
                at = _walk(sk, _skip(sk, at, inner[0]), inner[0], inner[1], True, None, st)
            if highest_sack_seq(sk) == old_right:  # all is new above
                cache = cache[1:]
                at = _walk(sk, _highest(sk), left, right, dup, inner, st)
                break
            at = _skip(sk, at, old_right)
            cache = _ahead(cache[1:], left)
        else:
            if left >= highest_sack_seq(sk):
                at = _highest(sk)  # perhaps back: a block of the last ACK reached further
            at = _walk(sk, _skip(sk, at, left), left, right, dup, inner, st)


def _ahead(cache: tuple[Block, ...], left: int) -> tuple[Block, ...]:
    """Without the blocks that end before `left`."""
    while cache and left >= cache[0][1]:
        cache = cache[1:]
    return cache


def _highest(sk: TcpSock) -> int:
    """The entry above the highest SACK."""
    return _skip(sk, END, sk.highest_sack) if sk.sacked_out else 0


def _skip(sk: TcpSock, at: int, seq: int) -> int:
    """Go on to the entry that holds `seq`; never back. END if there is none."""
    queue = sk.rtx_queue
    if END < at < len(queue) and queue.at(at).seq > seq:
        return at
    at = queue.index_of(seq)
    skb = queue.at(at)
    return at if skb.seq <= seq < skb.end_seq else END


def _walk(
    sk: TcpSock, at: int, left: int, right: int, dup: bool, inner: Block | None, st: AckState
) -> int:
    """From entry `at` on tag what lies in [left, right); where the walk ended
    (`tcp_sacktag_walk`). `inner`: a duplicate report inside."""
    queue = sk.rtx_queue
    while END < at < len(queue):
        skb = queue.at(at)
        if skb.seq >= right:
            return at
        verdict = NOT_IN
        is_dup = dup
        if inner is not None and skb.seq < inner[1]:
            verdict = _match(sk, skb, inner[0], inner[1])
            is_dup = is_dup or verdict == IN
        if verdict != IN:
            shifted = _shift(sk, at, left, right, is_dup, st)
            if shifted == SHIFTED:
                continue  # what stands at `at` now comes next
            verdict = NOT_IN if shifted == NOTHING else _match(sk, skb, left, right)
        if verdict == NO_SEGMENT:
            return at
        if verdict == IN:
            _sacktag_one(sk, skb, is_dup, st)
        at += 1
    return END


def _match(sk: TcpSock, skb: Skb, left: int, right: int) -> int:
    """Is `skb` IN the block? A multi-segment entry that is partly in it is cut at an MSS
    boundary; then this is about its (new) front, and the rear comes next. NO_SEGMENT: the
    block ends before the first one does (`tcp_match_skb_to_sack`)."""
    if left <= skb.seq and skb.end_seq <= right:
        return IN
    if skb.pcount <= 1 or skb.end_seq <= left:
        return NOT_IN
    mss = skb.gso_size
    verdict = IN if left <= skb.seq else NOT_IN
    length = (right if verdict == IN else left) - skb.seq
    if length < mss:
        if verdict == IN:
            return NO_SEGMENT
        length = mss
    whole = length - length % mss
    if verdict == NOT_IN:
        if whole < length:
            whole += mss
        if whole >= skb.len:
            return NOT_IN
    if too_fragmented(sk, skb):
        return NO_SEGMENT
    fragment(sk, skb, whole, mss)  # perhaps only a FIN stays behind
    return verdict


def _seglen(skb: Skb) -> int:
    return skb.len if skb.pcount <= 1 else skb.gso_size


def _shift(sk: TcpSock, i: int, left: int, right: int, dup: bool, st: AckState) -> int:
    """Tag what the block covers of entry `i` by merging it into the SACKed entry before it,
    as long as both consist of segments of one size; one that closes a gap takes in the
    entry behind it as well. NOT_SHIFTED: tag it in place (`tcp_shift_skb_data`)."""
    queue = sk.rtx_queue
    skb = queue.at(i)
    if not i or not _may_shift(sk, queue.at(i - 1), skb, dup):
        return NOT_SHIFTED
    prev = queue.at(i - 1)
    whole = left <= skb.seq and skb.end_seq <= right
    segs = skb.pcount
    mss = _seglen(skb)
    if not whole:
        if skb.end_seq <= left or skb.pcount <= 1:
            return NOTHING
        segs = (right - skb.seq) // mss
    if left > skb.seq or mss != _seglen(prev):
        return NOT_SHIFTED
    if not segs:
        return NOTHING
    length = min(segs * mss, skb.len)
    if skb.seq + length <= sk.snd_una or not _has_room(prev, length, segs):
        return NOT_SHIFTED
    eaten = length == skb.len  # with its FIN, whether that is in the block or not
    if not eaten:
        _cut(sk, skb, segs, mss)
    _merge(sk, prev, skb, mss, dup, st)
    if eaten:
        _close_gap(sk, i, prev, mss, st)
    return SHIFTED


def _may_shift(sk: TcpSock, prev: Skb, skb: Skb, dup: bool) -> bool:
    """Is `prev` SACKed and nothing else, and will `skb` be, and not go at once?"""
    retransmitted = skb.sacked & (LOST | SACKED_RETRANS) == SACKED_RETRANS
    return (
        skb.len > 0
        and skb.end_seq > sk.snd_una
        and (dup or not retransmitted)
        and prev.sacked & _TAGS == SACKED_ACKED
        and not prev.eor
    )


def _close_gap(sk: TcpSock, i: int, prev: Skb, mss: int, st: AckState) -> None:
    """What came before entry `i` is now part of `prev`: perhaps so may `i`."""
    if i == len(sk.rtx_queue):
        return
    skb = sk.rtx_queue.at(i)
    alike = skb.sacked & _TAGS == SACKED_ACKED and _seglen(skb) == mss
    if skb.len and alike and not prev.eor and _has_room(prev, skb.len, skb.pcount):
        _merge(sk, prev, skb, mss, False, st)


def _has_room(skb: Skb, length: int, pcount: int) -> bool:
    """As much as an entry's 16-bit count of segments of 8 bytes can tell
    (`tcp_skb_shift`)."""
    return skb.len + length < _ENTRY_MAX and skb.pcount + pcount <= 0xFFFF


def _cut(sk: TcpSock, skb: Skb, segs: int, mss: int) -> None:
    """Only the first `segs` segments of `skb` are in the block."""
    pcount = skb.pcount
    rear = split(skb, segs * mss)
    skb.pcount, rear.pcount = segs, pcount - segs
    skb.gso_size = rear.gso_size = mss
    sk.wmem_queued += TX_OVERHEAD
    sk.rtx_queue.insert_after(skb, rear)
    rack.listed(sk, rear)


def _merge(sk: TcpSock, prev: Skb, skb: Skb, mss: int, dup: bool, st: AckState) -> None:
    """`skb` becomes part of `prev` and leaves the queue (`tcp_shifted_skb`)."""
    _sacktag_one(sk, skb, dup, st)
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


def _sacktag_one(sk: TcpSock, skb: Skb, dup: bool, st: AckState) -> None:
    """The peer holds this entry, for the second time if `dup` (`tcp_sacktag_one`)."""
    if dup and skb.sacked & (SACKED_RETRANS | EVER_RETRANS):
        note_dsack(sk, skb.end_seq, skb.pcount)
        if skb.sacked & SACKED_ACKED and skb.seq < st.reord:
            st.reord = skb.seq
    if skb.end_seq > sk.snd_una:  # else it is about to leave
        if not skb.sacked & SACKED_ACKED:
            _newly_sacked(sk, skb, st)
        if dup and skb.sacked & SACKED_RETRANS:
            skb.sacked &= ~SACKED_RETRANS
            sk.retrans_out -= skb.pcount
    if skb.tx_delivered_at:
        skb_delivered(sk, skb, st)
    sk.highest_sack = max(sk.highest_sack, skb.end_seq)


def _newly_sacked(sk: TcpSock, skb: Skb, st: AckState) -> None:
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
    st.sack_delivered += skb.pcount


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
