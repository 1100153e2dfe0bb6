"""How fast, in how large bursts, and how far apart: the pacing rate and what it allows.

The rate is what the window would send if it were spread over the round trip, with
headroom to grow: 200 % in slow start, 120 % after. It is computed whether or not it is
enforced, because it also sets the size of a burst: about one millisecond of it, and more
on short paths, where a large burst costs nobody anything.

Bursts wait for one another on a socket whose `pacing_status` says so: that of a congestion
control that needs it, or with SO_MAX_PACING_RATE set. `sk.wstamp` is then the earliest time
of the next transmission (`tcp_wstamp_ns`): each one moves it on by its length over the rate.
Time that had passed since then is credit, and shortens the wait by up to half. Nothing waits
before ten segments have gone. Who is told to wait (`output.pacing_test`) has armed T_PACING,
an exact timer, which goes on where that stopped.

Sources: Linux `tcp_update_pacing_rate`, `tcp_tso_autosize`, `tcp_update_skb_after_send`;
rules A-31, D-50.
"""

from __future__ import annotations

from ustack.sock.sock import PACING_UNLIMITED
from ustack.tcp.mss import GSO_MAX_SIZE

PACING_NONE, PACING_NEEDED = range(2)  # `pacing_status` (Linux: SK_PACING_*)
_UNPACED_SEGMENTS = 10
_SEC = 1_000_000_000
PACING_SHIFT = 10  # a burst is rate / 1024: about one millisecond
# What one packet holds, whatever tcp_min_tso_segs asks for: 65535 less IPv4 and TCP headers
# with timestamps. Above GSO_MAX_SIZE, since two segments of a 64 KiB MTU go in one burst.
PACKET_MAX = 65483


def update_pacing_rate(
    snd_cwnd: int,
    ssthresh: int,
    mss: int,
    srtt_us: int,
    ss_ratio: int = 200,
    ca_ratio: int = 120,
    max_pacing: int = PACING_UNLIMITED,
    packets_out: int = 0,
) -> int:
    """The pacing rate in bytes/s. `srtt_us` is scaled by 8, 0 if there is no sample yet:
    then the rate counts a round trip of 1/8 us, in effect no limit."""
    rate = mss * 80_000 * (ss_ratio if snd_cwnd < ssthresh // 2 else ca_ratio)
    rate *= snd_cwnd if snd_cwnd > packets_out else packets_out
    if srtt_us:
        rate //= srtt_us
    return rate if rate < max_pacing else max_pacing


def tso_segs(
    pacing_rate: int,
    min_rtt_us: int,
    mss: int,
    min_tso_segs: int = 2,
    gso_max: int = GSO_MAX_SIZE,
    tso_rtt_log: int = 9,
) -> int:
    """How many segments one transmission may carry (Linux: `tcp_tso_autosize`)."""
    size = pacing_rate >> PACING_SHIFT
    shift = min_rtt_us >> tso_rtt_log
    if shift < 32:
        size += gso_max >> shift
    segs = (size if size < gso_max else gso_max) // mss
    if segs >= min_tso_segs:
        return segs
    return min(min_tso_segs, PACKET_MAX // mss or 1)


def gap_after(length: int, rate: int, credit: int, data_segs_out: int) -> int:
    """How many ns after a burst of `length` bytes the next one may go, if this one comes
    `credit` ns later than it might have (Linux: `tcp_update_skb_after_send`)."""
    if not rate or rate == PACING_UNLIMITED or data_segs_out < _UNPACED_SEGMENTS:
        return 0
    gap = length * _SEC // rate
    return gap - min(gap // 2, credit)
