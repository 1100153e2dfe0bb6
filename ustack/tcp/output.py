"""What may leave now, and how much of it at once.

`write_xmit` is the one place where that is decided. It walks the unsent queue and asks,
for its head, a series of small tests, each with one reason to say no:

    pacing_test      the rate limit says later
    cwnd_test        the congestion window is full
    snd_wnd_test     the peer's window does not admit the first segment
    nagle_test       a small segment had better wait for more data, or an ACK
    tso_should_defer a burst would be longer after the ACK that is about to come
    small_queue_test enough of this connection sits below us already

What passes is cut where the windows allow (`mss_split_point`), sent, and moved from the
write queue to the retransmit queue. Nothing else sends new data, save `push_one` for a
large write in progress and the probes, which override a named test each.

Who calls: `sendmsg` (through `push`), an ACK that made room (`push_pending_frames`), the
timers. All of them run to completion inside the call that caused them.

A segment is `mss_now` bytes: MSS less the options that this very packet will carry. An
entry handed down may be many segments; the device cuts it.

Sources: Linux tcp_output.c; rules A-20 to A-34, A-50, A-75, D-20.
"""

from __future__ import annotations

from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Dst
from ustack.sock.sock import SNDBUF_LOCK
from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp import chrono, mss
from ustack.tcp.cwnd import cwnd_validate, enter_cwr
from ustack.tcp.mss import GSO_MAX_SIZE
from ustack.tcp.mtu_probe import mtu_probe, mtu_to_mss
from ustack.tcp.pacing import PACKET_MAX, tso_segs
from ustack.tcp.skb import MAX_PARTS, Skb
from ustack.tcp.sock import (
    NAGLE_CORK,
    NAGLE_OFF,
    NAGLE_PUSH,
    PENDING_LOSS_PROBE,
    T_PACING,
    TcpSock,
)
from ustack.tcp.state import CA_CWR, CA_RECOVERY, CLOSE
from ustack.tcp.timers import check_probe_timer, rearm_rto, schedule_loss_probe
from ustack.tcp.transmit import transmit_skb
from ustack.wire.packet import DROPPED
from ustack.wire.tcp import ACK, FIN, PSH, SYN

# `push_one`: how write_xmit is limited
PUSH_ALL, PUSH_ONE, PUSH_PROBE = 0, 1, 2
# may the head go, and if not, what was it short of?
FITS, WAITS, SHORT_OF_CWND, SHORT_OF_RWND = range(4)

DEFER_NS = 1_000_000  # an ACK is worth waiting for that long


# -- sizes ---------------------------------------------------------------------------------


def sync_mss(sk: TcpSock, pmtu: int) -> int:
    """Recompute mss_cache for a path MTU (rule A-40, `tcp_sync_mss`)."""
    size = mtu_to_mss(sk, pmtu)
    size = mss.bound_to_half_wnd(size, sk.max_window, sk.tcp_header_len)
    sk.pmtu_cookie = pmtu
    mtup = sk.mtup
    if mtup is not None:
        mtup.search_high = min(mtup.search_high, pmtu)
        if mtup.enabled:
            size = min(size, mtu_to_mss(sk, mtup.search_low))
    sk.mss_cache = size
    return size


def reroute(sk: TcpSock, stale: Dst) -> Dst:
    """Addresses or routes have changed: ask again. Without a way the old one stands, and
    the sending fails."""
    try:
        sk.dst = sk.net.route(sk.daddr, sk.saddr, sk.bindtodevice)
    except OSError:
        return stale
    return sk.dst


def current_mss(sk: TcpSock, now: int) -> int:
    """Payload bytes of a full segment sent now, net of all options (`tcp_current_mss`)."""
    dst = sk.dst
    size = sk.mss_cache
    if dst is not None:
        if dst.obsolete:
            dst = reroute(sk, dst)
        if dst.pmtu or dst.dev.mtu != sk.pmtu_cookie:
            pmtu = dst.mtu(now)
            if pmtu != sk.pmtu_cookie:
                size = sync_mss(sk, pmtu)
    if sk.sacks.eff_sacks:
        blocks = min(sk.sacks.eff_sacks, 3 if sk.tstamp_ok else 4)
        size -= 4 + 8 * blocks
    return size


def xmit_size_goal(sk: TcpSock, mss_now: int, large_allowed: bool) -> int:
    """How big an entry may grow: a whole number of segments (rule A-30)."""
    if not large_allowed:
        return mss_now
    limit = GSO_MAX_SIZE
    if sk.max_window < 2 * GSO_MAX_SIZE:
        limit = mss.bound_to_half_wnd(limit, sk.max_window, sk.tcp_header_len)
    goal = sk.gso_segs * mss_now
    if limit < goal or limit >= goal + mss_now:
        sk.gso_segs = min(limit // mss_now, 65535)
        goal = sk.gso_segs * mss_now
    return goal if goal > mss_now else mss_now


# -- the tests -----------------------------------------------------------------------------


def cwnd_test(sk: TcpSock) -> int:
    """Packets that the congestion window lets go at once, 0 if none (`tcp_cwnd_test`)."""
    in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
    cwnd = sk.cc.snd_cwnd
    if in_flight >= cwnd:
        return 0
    half, room = cwnd >> 1 or 1, cwnd - in_flight
    return half if half < room else room


def snd_wnd_test(sk: TcpSock, skb: Skb, mss_now: int) -> bool:
    """Does the first segment of `skb` end inside the peer's window?"""
    end = skb.end_seq
    if skb.len > mss_now:
        end = skb.seq + mss_now
    return end <= sk.snd_una + sk.snd_wnd


def nagle_check(sk: TcpSock, partial: bool, nonagle: int) -> bool:
    """Must a partial segment wait? Minshall's variant: only for a small one still out,
    or under cork (rule A-23)."""
    return partial and (
        bool(nonagle & NAGLE_CORK)
        or (not nonagle and sk.packets_out > 0 and sk.snd_una < sk.snd_sml <= sk.snd_nxt)
    )


def nagle_test(sk: TcpSock, skb: Skb, mss_now: int, nonagle: int) -> bool:
    """May `skb`, one segment or less, go now? (`tcp_nagle_test`)"""
    if skb.len >= mss_now or nonagle & NAGLE_PUSH or sk.snd_una != sk.snd_up or skb.flags & FIN:
        return True
    return not nagle_check(sk, True, nonagle)


def pacing_test(sk: TcpSock, now: int) -> bool:
    """False while a burst has to wait for its time, of a socket with a `pacing_status`
    (rule D-50, `tcp_pacing_check`). T_PACING goes on then."""
    if sk.wstamp <= now:
        return True
    if sk.timers[T_PACING] == NEVER:
        sk.arm_exact(T_PACING, sk.wstamp)
    return False


def small_queue_test(sk: TcpSock, skb: Skb, factor: int = 0) -> bool:
    """False if the device still holds enough of this connection (rule A-33, TSQ); twice as
    much for each `factor`. When it has let go of some, `retransmit.tsq_write` goes on."""
    if not sk.wmem_alloc:
        return True
    limit = max(2 * (skb.len + TX_OVERHEAD), sk.pacing_rate >> 10)
    if not sk.pacing_status:
        limit = min(limit, sk.net.sysctl.tcp_limit_output_bytes)
    limit <<= factor
    if sk.wmem_alloc < limit or len(sk.rtx_queue) <= 1:
        return True
    sk.tsq_throttled = True
    return False


# -- cutting -------------------------------------------------------------------------------


def mss_split_point(sk: TcpSock, skb: Skb, mss_now: int, max_segs: int, nonagle: int) -> int:
    """How many bytes of a multi-segment entry go: what the windows allow, in whole
    segments, the tail piece only if Nagle lets it (`tcp_mss_split_point`)."""
    room = sk.snd_una + sk.snd_wnd - skb.seq
    max_len = mss_now * max_segs
    if max_len <= room and skb is not sk.write_queue[-1]:
        return max_len
    needed = min(skb.len, room)
    if max_len <= needed:
        return max_len
    partial = needed % mss_now
    if nagle_check(sk, partial != 0, nonagle):
        return needed - partial
    return needed


def split(skb: Skb, nbytes: int) -> Skb:
    """Cut `skb` after `nbytes`; returns the rear part. PSH, FIN and EOR go with it."""
    rear = Skb(skb.seq + nbytes, skb.flags)
    rear.end_seq = skb.end_seq
    front_parts = skb.take_front(nbytes)
    rear.parts, skb.parts = skb.parts, front_parts
    rear.len, skb.len = skb.len, nbytes
    rear.eor, skb.eor = skb.eor, False
    if skb.tx_time:
        rear.tx_time, rear.tx_mark, rear.sacked = skb.tx_time, skb.tx_mark, skb.sacked
        rear.first_tx, rear.is_app_limited = skb.first_tx, skb.is_app_limited
        rear.tx_delivered, rear.tx_delivered_at = skb.tx_delivered, skb.tx_delivered_at
    skb.end_seq = rear.seq
    skb.flags &= ~(FIN | PSH)
    return rear


def tso_fragment(sk: TcpSock, skb: Skb, nbytes: int, mss_now: int) -> None:
    """Cut the head of the unsent queue in two (`tso_fragment`)."""
    rear = split(skb, nbytes)
    skb.set_pcount(mss_now)
    rear.set_pcount(mss_now)
    sk.wmem_queued += TX_OVERHEAD
    sk.write_queue.insert(1, rear)


def grow_skb(sk: TcpSock, skb: Skb, missing: int) -> None:
    """Fill the head up from the entry behind it (`tcp_grow_skb`, rule A-34)."""
    queue = sk.write_queue
    if len(queue) < 2 or skb.eor or skb.flags & (SYN | FIN):
        return
    behind = queue[1]
    nbytes = min(missing, behind.len)
    if not nbytes or len(skb.parts) + len(behind.parts) > MAX_PARTS:
        return
    skb.parts.extend(behind.take_front(nbytes))
    skb.len += nbytes
    skb.end_seq += nbytes
    behind.seq += nbytes
    if not behind.len:
        skb.end_seq = behind.end_seq
        skb.flags |= behind.flags
        skb.eor = behind.eor
        del queue[1]
        sk.wmem_queued -= TX_OVERHEAD


# -- the loop ------------------------------------------------------------------------------


def write_xmit(sk: TcpSock, mss_now: int, nonagle: int, push_one: int, now: int) -> bool:
    """Send what may be sent. True if data is left with nothing in flight, so that only a
    probe can move it (`tcp_write_xmit`)."""
    sent = 0
    cwnd_limited = rwnd_limited = False
    prior_packets = sk.packets_out
    if sk.mtup is not None and not push_one and (sent := _probe_mtu(sk, mss_now, now)) < 0:
        return False
    queue = sk.write_queue
    while queue:
        skb = queue[0]
        if sk.pacing_status and not pacing_test(sk, now):
            break
        quota = cwnd_test(sk) or push_one == PUSH_PROBE
        if not quota:
            cwnd_limited = True
            break
        if skb.len > mss_now or len(queue) > 1:
            quota = _fill(sk, skb, quota, mss_now)
        skb.set_pcount(mss_now)
        verdict = _fit(sk, skb, mss_now, quota, nonagle, push_one, now)
        if verdict != FITS:
            cwnd_limited = verdict == SHORT_OF_CWND
            rwnd_limited = verdict == SHORT_OF_RWND
            break
        if sk.wmem_alloc and not small_queue_test(sk, skb):
            break
        if transmit_skb(sk, skb, now) == DROPPED:
            enter_cwr(sk)
            break
        event_new_data_sent(sk, skb, now)
        if skb.len < skb.pcount * mss_now:
            sk.snd_sml = skb.end_seq  # Minshall: the last small segment sent
        sent += skb.pcount
        if push_one:
            break
    if sent and push_one != PUSH_PROBE:
        _arm_timer(sk, prior_packets, now)
    return _after_xmit(sk, sent, cwnd_limited, rwnd_limited, now)


def _probe_mtu(sk: TcpSock, mss_now: int, now: int) -> int:
    """A probe first, if it is time for one: packets sent, negative if it is to be waited
    for."""
    result = mtu_probe(sk, mss_now, now) if sk.write_queue else 0
    if result > 0:
        event_new_data_sent(sk, sk.write_queue[0], now)
    return result


def burst_segs(sk: TcpSock, mss_now: int) -> int:
    """Segments that one burst may have: about 1 ms at the pacing rate (rule A-31)."""
    sysctl = sk.net.sysctl
    return tso_segs(
        sk.pacing_rate,
        sk.min_rtt.value,
        mss_now,
        sysctl.tcp_min_tso_segs,
        GSO_MAX_SIZE,
        sysctl.tcp_tso_rtt_log,
    )


def _fill(sk: TcpSock, skb: Skb, quota: int, mss_now: int) -> int:
    """The segments of this burst. What the head lacks of that it takes from the entry
    behind."""
    if 2 * mss_now > PACKET_MAX:
        return _fill_packet(sk, skb, quota, mss_now)
    max_segs = burst_segs(sk, mss_now)
    if quota > max_segs:
        quota = max_segs
    if quota * mss_now > skb.len:
        grow_skb(sk, skb, quota * mss_now - skb.len)
    return quota


def _fill_packet(sk: TcpSock, skb: Skb, quota: int, mss_now: int) -> int:
    """Two segments so long are more than one packet can hold, but for a short second one."""
    quota = min(quota, sk.net.sysctl.tcp_min_tso_segs)
    grow_skb(sk, skb, max(min(quota * mss_now, PACKET_MAX) - skb.len, 0))
    return 2 if quota > 1 and skb.len <= PACKET_MAX else 1


def _fit(
    sk: TcpSock, skb: Skb, mss_now: int, quota: int, nonagle: int, push_one: int, now: int
) -> int:
    """Cut `skb` to what may go; unless it FITS all of it had better wait."""
    if not snd_wnd_test(sk, skb, mss_now):
        return SHORT_OF_RWND
    limit = mss_now
    if skb.pcount == 1:
        mode = nonagle if skb is sk.write_queue[-1] else NAGLE_PUSH
        if not nagle_test(sk, skb, mss_now, mode):
            return WAITS
    else:
        if not push_one and sk.packets_out:
            verdict = tso_should_defer(sk, skb, mss_now, now)
            if verdict != FITS:
                return verdict
        if sk.snd_una == sk.snd_up:  # urgent data goes out one segment at a time
            limit = mss_split_point(sk, skb, mss_now, quota, nonagle)
    if skb.len > limit:
        tso_fragment(sk, skb, limit, mss_now)
    return FITS


def tso_should_defer(sk: TcpSock, skb: Skb, mss_now: int, now: int) -> int:
    """Wait for the next ACK, if it is due at once, and send a longer burst then?
    (rule A-32, `tcp_tso_should_defer`)"""
    last = sk.wstamp if sk.pacing_status else sk.last_tx
    if sk.ca_state >= CA_RECOVERY or now - last > DEFER_NS:
        return FITS
    cwnd = sk.cc.snd_cwnd
    send_win = sk.snd_una + sk.snd_wnd - skb.seq
    cong_win = (cwnd - sk.in_flight) * mss_now
    limit = min(send_win, cong_win)
    if limit >= burst_segs(sk, mss_now) * mss_now:
        return FITS
    if skb is not sk.write_queue[-1] and limit >= skb.len:
        return FITS
    divisor = sk.net.sysctl.tcp_tso_win_divisor
    if limit >= (min(sk.snd_wnd, cwnd * mss_now) // divisor if divisor else 3 * mss_now):
        return FITS
    head = sk.rtx_queue.first
    srtt = sk.rtt.srtt_us * 125  # ns; it is kept eightfold
    if head is None or head.tx_time + srtt - now > min(srtt >> 1, DEFER_NS):
        return FITS
    if cong_win < send_win:
        if cong_win <= skb.len:
            return SHORT_OF_CWND
    elif send_win <= skb.len:
        return SHORT_OF_RWND
    return FITS if skb.flags & FIN or skb.eor else WAITS


def _arm_timer(sk: TcpSock, prior_packets: int, now: int) -> None:
    """New data is out: a tail loss probe if this connection uses them, else the RTO if
    it is not running."""
    if not schedule_loss_probe(sk, False, now) and (
        not prior_packets or sk.pending == PENDING_LOSS_PROBE
    ):
        rearm_rto(sk, now)


def _after_xmit(sk: TcpSock, sent: int, cwnd_limited: bool, rwnd_limited: bool, now: int) -> bool:
    """Bookkeeping at the end of `write_xmit`."""
    if rwnd_limited:
        chrono.start(sk, chrono.RWND_LIMITED, now)
    elif sk.chrono_type == chrono.RWND_LIMITED:
        chrono.stop(sk, chrono.RWND_LIMITED, now)
    if not cwnd_limited:
        in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
        cwnd_limited = in_flight >= sk.cc.snd_cwnd
    if sent or cwnd_limited:
        cwnd_validate(sk, cwnd_limited, now)
    if sent:
        if sk.ca_state == CA_RECOVERY or sk.ca_state == CA_CWR:
            sk.prr_out += sent
        return False
    return not sk.packets_out and bool(sk.write_queue)


def event_new_data_sent(sk: TcpSock, skb: Skb, now: int) -> None:
    """The head of the write queue is on the wire (`tcp_event_new_data_sent`). The caller
    sees to the timer, once, when it has sent all it may."""
    sk.snd_nxt = skb.end_seq
    sk.write_queue.popleft()
    sk.rtx_queue.append(skb)
    sk.packets_out += skb.pcount
    sk.net.mib.values["TcpExtTCPOrigDataSent"] += skb.pcount
    if sk.nospace:
        check_space(sk, now)


# -- space for writers ---------------------------------------------------------------------


def check_space(sk: TcpSock, now: int) -> None:
    """Room may have appeared for a blocked writer (rule A-12, `tcp_check_space`)."""
    if sk.nospace:
        if sndbuf_expand(sk):
            sk.snd_cwnd_stamp = now
        if sk.is_writeable():
            sk.write_space()
            chrono.stop(sk, chrono.SNDBUF_LIMITED, now)


def sndbuf_expand(sk: TcpSock, initial: bool = False) -> bool:
    """Auto-tune SO_SNDBUF to the congestion window (rule A-13, `tcp_sndbuf_expand`); false
    if it is fixed, or the window full."""
    if sk.userlocks & SNDBUF_LOCK or not (initial or sk.in_flight < sk.cc.snd_cwnd):
        return False
    per_mss = max(sk.mss_clamp, sk.mss_cache) + 192 + 320
    per_mss = (1 << (per_mss - 1).bit_length()) + 256
    segments = max(10, sk.cc.snd_cwnd, sk.reordering + 1)
    want = sk.cc.sndbuf_expand * segments * per_mss
    if sk.sndbuf < want:
        sk.sndbuf = min(want, sk.net.sysctl.tcp_wmem[2])
    return True


# -- pushing -------------------------------------------------------------------------------


def push_pending_frames(sk: TcpSock, now: int) -> None:
    """Send what the socket's own Nagle mode lets go (`tcp_push_pending_frames`)."""
    if sk.write_queue:
        push_frames(sk, current_mss(sk, now), sk.nonagle, now)


def push_frames(sk: TcpSock, mss_now: int, nonagle: int, now: int) -> None:
    """Send in Nagle mode `nonagle`; arm the probe if nothing can go
    (`__tcp_push_pending_frames`)."""
    if sk.state == CLOSE:
        return
    if write_xmit(sk, mss_now, nonagle, PUSH_ALL, now):
        check_probe_timer(sk, now)


def push_one(sk: TcpSock, mss_now: int, now: int) -> None:
    """Send the head while a large write is still being copied (`tcp_push_one`)."""
    write_xmit(sk, mss_now, NAGLE_PUSH, PUSH_ONE, now)


def send_fin(sk: TcpSock, now: int) -> None:
    """Queue a FIN behind everything and push, Nagle or not (rule A-75)."""
    if sk.write_queue:
        tail = sk.write_queue[-1]
        tail.flags |= FIN
        tail.end_seq += 1
    else:
        tail = Skb(sk.write_seq, ACK | FIN)
        tail.end_seq += 1
        if not sk.chrono_type:
            chrono.start(sk, chrono.BUSY, now)
        sk.write_queue.append(tail)
        sk.wmem_queued += TX_OVERHEAD
    sk.write_seq += 1
    push_frames(sk, current_mss(sk, now), NAGLE_OFF, now)
