"""Finding the path MTU by trying (rule A-43, RFC 4821).

Problem. A router that drops what is too long, and whose ICMP gets lost, is a black hole:
the handshake passes, full segments never do. With tcp_mtu_probing 1 a connection that has
met one starts to look for the path MTU itself, with 2 every connection does.

Structure. `MtuProbe` holds a range of packet sizes: `search_low` passes, above `search_high`
nothing may. While it is enabled the MSS is that of `search_low` (`output.sync_mss`). Now and
then, instead of the next segments, one is sent that is half way up (`mtu_probe`). It is new
data, so nothing is wasted; but only if there is enough more behind it that its loss shows
by duplicate ACKs. If it is acknowledged `search_low` moves up, and the window, which counts
packets, falls in proportion. If it alone is found lost `search_high` moves down, and the
data goes again in smaller segments, which is nobody's congestion. A retransmission for any
other reason ends the trial without a result. Once the range is narrow there is a pause of
tcp_probe_interval, and it is opened again.

A black hole is suspected when tcp_retries1 timeouts have passed: probing begins there, and
each further timeout halves `search_low`.

Sources: RFC 4821; Linux `tcp_mtu_probe`, `tcp_mtup_init`, `tcp_mtu_probing`,
`tcp_mtup_probe_success`, `tcp_mtup_probe_failed`, `tcp_mtu_check_reprobe`.
"""

from __future__ import annotations

from ustack.sock.truesize import TX_OVERHEAD
from ustack.tcp import mss
from ustack.tcp.cwnd import current_ssthresh
from ustack.tcp.skb import Skb
from ustack.tcp.sock import SEC, MtuProbe, TcpSock
from ustack.tcp.state import CA_CWR, CA_OPEN
from ustack.tcp.transmit import transmit_skb
from ustack.tcp.txstamp import is_stamped
from ustack.wire.packet import DROPPED
from ustack.wire.tcp import ACK, FIN, PSH

_LEAST_CWND = 11
# what `mtu_probe` says: nothing done, something to wait for, a probe is out
NO_PROBE, WAIT, PROBED = 0, -1, 1


def mtu_to_mss(sk: TcpSock, mtu: int) -> int:
    """Payload of a full segment of a connection on a path of this MTU (`tcp_mtu_to_mss`)."""
    return mss.mtu_to_mss(
        mtu,
        _net_header_len(sk),
        sk.mss_clamp,
        sk.tcp_header_len,
        min_snd_mss=sk.net.sysctl.tcp_min_snd_mss,
    )


def mss_to_mtu(sk: TcpSock, size: int) -> int:
    """The packet that carries so much (`tcp_mss_to_mtu`)."""
    return size + sk.tcp_header_len + _net_header_len(sk)


def _net_header_len(sk: TcpSock) -> int:
    assert sk.dst is not None  # a connection has a route before it has an MSS
    return 20 if sk.dst.version == 4 else 40


def init(sk: TcpSock, now: int) -> None:
    """A connection begins (`tcp_mtup_init`)."""
    probing = sk.net.sysctl.tcp_mtu_probing
    sk.mtup = _begin(sk, now) if probing else None
    if sk.mtup is not None:
        sk.mtup.enabled = probing > 1


def _begin(sk: TcpSock, now: int) -> MtuProbe:
    sysctl = sk.net.sysctl
    low = mss_to_mtu(sk, sysctl.tcp_base_mss)
    return MtuProbe(low, _highest(sk), now)


def _highest(sk: TcpSock) -> int:
    """The packet that the peer's MSS allows."""
    return sk.mss_clamp + mss.TCP_HEADER_LEN + _net_header_len(sk)


def black_hole(sk: TcpSock, now: int) -> None:
    """The timeouts of tcp_retries1 have passed (`tcp_mtu_probing`). The caller renews the
    MSS."""
    sysctl = sk.net.sysctl
    mtup = sk.mtup
    if mtup is None:  # the setting has changed since the connection began
        mtup = sk.mtup = _begin(sk, now)
    if not mtup.enabled:
        mtup.enabled = True
        mtup.probe_timestamp = now
        return
    size = min(sysctl.tcp_base_mss, mtu_to_mss(sk, mtup.search_low) >> 1)
    size = max(size, sysctl.tcp_mtu_probe_floor, sysctl.tcp_min_snd_mss)
    mtup.search_low = mss_to_mtu(sk, size)


def mtu_probe(sk: TcpSock, mss_now: int, now: int) -> int:
    """Send a probe if this is the time for one. PROBED: it is at the head of the write
    queue, and out; WAIT: there would be one if less were in flight."""
    mtup = sk.mtup
    if (
        mtup is None
        or not mtup.enabled
        or mtup.probe_size
        or sk.ca_state != CA_OPEN
        or sk.cc.snd_cwnd < _LEAST_CWND
        or sk.sacks.eff_sacks
    ):
        return NO_PROBE
    size = mtu_to_mss(sk, mtup.search_high + mtup.search_low >> 1)
    width = mtup.search_high - mtup.search_low
    if (
        size > mtu_to_mss(sk, mtup.search_high)
        or width < sk.net.sysctl.tcp_probe_threshold
    ):  # fmt: skip
        _check_reprobe(sk, mtup, mss_now, now)
        return NO_PROBE
    verdict = _may_send(sk, size)
    if verdict != PROBED:
        return verdict
    skb = _build(sk, size, mss_now)
    skb.set_pcount(size)
    if transmit_skb(sk, skb, now) == DROPPED:
        return NO_PROBE  # it goes in smaller segments
    sk.cc.snd_cwnd -= 1  # it stands for two packets
    mtup.probe_size = mss_to_mtu(sk, size)
    mtup.seq_start, mtup.seq_end = skb.seq, skb.end_seq
    return PROBED


def _check_reprobe(sk: TcpSock, mtup: MtuProbe, mss_now: int, now: int) -> None:
    """The range is narrow: after a while look again whether the path has changed."""
    if now - mtup.probe_timestamp >= sk.net.sysctl.tcp_probe_interval * SEC:
        mtup.probe_size = 0
        mtup.search_high = _highest(sk)
        mtup.search_low = mss_to_mtu(sk, mss_now)
        mtup.probe_timestamp = now


def _may_send(sk: TcpSock, size: int) -> int:
    """Is there data, and room in both windows, for the probe and what shows its loss?"""
    needed = size + (sk.reordering + 1) * sk.mss_cache
    if sk.write_seq - sk.snd_nxt < needed or sk.snd_wnd < needed:
        return NO_PROBE
    if sk.snd_nxt + needed > sk.wnd_end:
        return WAIT
    in_flight = sk.in_flight
    if in_flight + 2 > sk.cc.snd_cwnd:
        return WAIT if in_flight else NO_PROBE
    return PROBED if _can_coalesce(sk, size) else NO_PROBE


def _can_coalesce(sk: TcpSock, size: int) -> bool:
    """Nothing forbids to merge the first `size` unsent bytes: no MSG_EOR, no stamp."""
    for skb in sk.write_queue:
        if size <= skb.len:
            break
        if skb.eor or is_stamped(sk, skb):
            return False
        size -= skb.len
    return True


def _build(sk: TcpSock, size: int, mss_now: int) -> Skb:
    """Move the first `size` bytes of the write queue into an entry of their own."""
    queue = sk.write_queue
    probe = Skb(queue[0].seq, ACK)
    sk.wmem_queued += TX_OVERHEAD
    while probe.len < size:
        skb = queue[0]
        take = min(size - probe.len, skb.len)
        probe.parts += skb.take_front(take)
        probe.len += take
        if not skb.len:
            probe.flags |= skb.flags
            probe.eor = skb.eor
            queue.popleft()
            sk.wmem_queued -= TX_OVERHEAD
        else:
            probe.flags |= skb.flags & ~(FIN | PSH)
            skb.seq += take
            skb.set_pcount(mss_now)
    probe.end_seq = probe.seq + size + (1 if probe.flags & FIN else 0)
    queue.appendleft(probe)
    return probe


def inconclusive(sk: TcpSock) -> None:
    """Something is sent again: the trial is over (`__tcp_retransmit_skb`)."""
    if sk.mtup is not None:
        sk.mtup.probe_size = 0


def acked(sk: TcpSock, now: int) -> bool:
    """snd_una has moved. True if that shows that the probe has arrived: the caller renews
    the MSS (`tcp_mtup_probe_success`)."""
    mtup = sk.mtup
    if mtup is None or not mtup.probe_size or mtup.seq_end > sk.snd_una:
        return False
    cc = sk.cc
    sk.prior_ssthresh = current_ssthresh(sk)
    cc.snd_cwnd = max(cc.snd_cwnd * mss_to_mtu(sk, sk.mss_cache) // mtup.probe_size, 1)
    cc.snd_cwnd_cnt = 0
    sk.snd_cwnd_stamp = now
    cc.snd_ssthresh = current_ssthresh(sk)
    mtup.search_low = mtup.probe_size
    mtup.probe_size = 0
    sk.net.mib.inc("TcpExtTCPMTUPSuccess")
    return True


def lost(sk: TcpSock) -> bool:
    """Something was found lost. True if it is the probe: it was too long, and that is all.
    The caller sends again what is too long (`tcp_mtup_probe_failed`)."""
    mtup = sk.mtup
    if mtup is None or not mtup.probe_size:
        return False
    if sk.ca_state >= CA_CWR or sk.snd_una != mtup.seq_start:
        return False
    mtup.search_high = mtup.probe_size - 1
    mtup.probe_size = 0
    sk.net.mib.inc("TcpExtTCPMTUPFail")
    sk.cc.snd_cwnd += 1  # the one that the probe took
    return True
