"""Opening a connection, from either side, and from both at once.

Active: `connect` chooses addresses and ports, sends a SYN and waits in SYN_SENT;
`synsent_input` takes the answer. Passive: a `listen.Request` has answered a SYN and the
last ACK makes a child (`create_child`), which then takes the same way as the third case:
`synack_received` completes whatever is in SYN_RECV. `init_transfer` sets up what only an
established connection has: windows, buffers, congestion control.

Sources: RFC 9293 section 3.5, RFC 6528, Linux `tcp_v4_connect`, `tcp_connect_init`,
`tcp_rcv_synsent_state_process`, `tcp_create_openreq_child`, `tcp_init_transfer`,
`__inet_stream_connect`; rules C-12 to C-18, B-60, D-3, D-40.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import (
    EADDRNOTAVAIL,
    EALREADY,
    ECONNABORTED,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENETUNREACH,
)
from typing import TYPE_CHECKING

from ustack.sock import notify
from ustack.sock.addr import ANY4, ANY6, is_multicast, normalize
from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.sock import AF_INET6, BINDPORT_LOCK, F_DONTROUTE
from ustack.sock.truesize import TX_OVERHEAD
from ustack.sock.wait import Op, Wait
from ustack.tcp import mtu_probe, rack, rcvbuf
from ustack.tcp.acking import enter_quickack_mode
from ustack.tcp.congestion.base import INFINITE_SSTHRESH
from ustack.tcp.cwnd import set_ca_state
from ustack.tcp.lifecycle import disconnect, reset, set_state
from ustack.tcp.mss import TCP_HEADER_LEN, TSTAMP_LEN, advertise_mss, default_mss
from ustack.tcp.output import sndbuf_expand, sync_mss
from ustack.tcp.pacing import update_pacing_rate
from ustack.tcp.predict import fast_path_on
from ustack.tcp.segment import Segment
from ustack.tcp.skb import Skb
from ustack.tcp.sock import (
    ACK_SCHED,
    ACK_TIMER,
    MAX_QUICKACKS,
    MS,
    PENDING_RETRANS,
    PREDICTION_OFF,
    T_DELACK,
    T_KEEPALIVE,
    TCP_DELACK_MAX,
    TCP_INIT_CWND,
    TcpSock,
)
from ustack.tcp.state import (
    CA_LOSS,
    CA_OPEN,
    CLOSE,
    ESTABLISHED,
    LISTEN,
    SS_CONNECTED,
    SS_CONNECTING,
    SS_DISCONNECTING,
    SS_UNCONNECTED,
    SYN_RECV,
    SYN_SENT,
)
from ustack.tcp.timers import clear_xmit_timer, reset_xmit_timer, rto_ns
from ustack.tcp.timewait import TimeWait
from ustack.tcp.transmit import send_ack, transmit_skb
from ustack.wire.seq import MASK
from ustack.wire.tcp import ACK, RST, SYN

if TYPE_CHECKING:
    from ustack.tcp.listen import Request

TIMEOUT_MIN = 8 * MS  # two ticks of the kernel's clock
TIMEOUT_FALLBACK = 3_000_000  # us


# -- connect(2) ----------------------------------------------------------------------------


def connect(sk: TcpSock, addr: tuple[bytes, int] | None, now: int) -> None | Op[None]:
    """connect(2) (rule C-12); None as address dissolves the association."""
    if addr is None:
        disconnect(sk, now)
        sk.sock_state = SS_UNCONNECTED
        return None
    if sk.sock_state == SS_DISCONNECTING:
        raise error(EINVAL)
    if sk.sock_state == SS_UNCONNECTED and sk.state == CLOSE:
        _start(sk, addr, now)
        budget = sk.wait_budget(sk.sndtimeo, 0)
        if not budget:
            raise error(EINPROGRESS)
        return _wait_connected(sk, now, now + budget if budget < NEVER else None)
    if sk.sock_state == SS_CONNECTING:
        return _continue(sk, now)
    raise error(EISCONN)


def _continue(sk: TcpSock, now: int) -> None | Op[None]:
    """A further call while an attempt is under way, or has ended untold."""
    if sk.state in (SYN_SENT, SYN_RECV):
        budget = sk.wait_budget(sk.sndtimeo, 0)
        if not budget:
            raise error(EALREADY)
        return _wait_connected(sk, now, now + budget if budget < NEVER else None, EALREADY)
    _outcome(sk, now)
    return None


def _outcome(sk: TcpSock, now: int) -> None:
    """How the attempt ended. A failed one leaves the socket as new (rule C-12)."""
    if sk.state != CLOSE:
        sk.sock_state = SS_CONNECTED
        return
    err = sk.sock_error() or ECONNABORTED
    sk.sock_state = SS_UNCONNECTED
    disconnect(sk, now)
    raise error(err)


def _wait_connected(
    sk: TcpSock, now: int, deadline: int | None, late: int = EINPROGRESS
) -> Op[None]:
    while sk.state in (SYN_SENT, SYN_RECV):
        if deadline is not None and now >= deadline:
            raise error(late)
        now = yield Wait(sk.wait_queue, deadline)  # interrupted, the handshake goes on
    _outcome(sk, now)


def _start(sk: TcpSock, addr: tuple[bytes, int], now: int) -> None:
    """Route, bind, and send the SYN (`tcp_v4_connect`)."""
    daddr, dport = addr
    v6 = sk.family == AF_INET6
    daddr = normalize(daddr) or (ANY6 if v6 else ANY4)  # the wildcard means this host
    if v6 and len(daddr) == 4 and sk.v6only:
        raise error(ENETUNREACH)
    if is_multicast(daddr):
        raise error(ENETUNREACH)
    dst = sk.net.route(daddr, sk.saddr or None, sk.bindtodevice)
    off_link = dst.version == 4 and dst.gateway is not None
    if dst.broadcast or (off_link and sk.inet_flags & F_DONTROUTE):
        raise error(ENETUNREACH)
    daddr = dst.daddr
    saddr = sk.saddr or dst.saddr
    if len(saddr) != len(daddr):
        raise error(EINVAL)
    had_saddr = sk.saddr
    sk.dst, sk.saddr, sk.daddr, sk.dport = dst, saddr, daddr, dport
    sk.rcv_saddr = sk.rcv_saddr or saddr
    try:
        _take_pair(sk, now)
    except OSError:
        sk.saddr, sk.daddr, sk.dport, sk.dst = had_saddr, b"", 0, None
        if not had_saddr:
            sk.rcv_saddr = b""
        raise
    sk.err = 0
    sk.sock_state = SS_CONNECTING
    set_state(sk, SYN_SENT)
    sk.net.mib.inc("TcpActiveOpens")
    _send_syn(sk, now)


def _take_pair(sk: TcpSock, now: int) -> None:
    """Get the 4-tuple, with a port for `sk` if it has none; EADDRNOTAVAIL if it cannot be
    had (`inet_hash_connect`)."""
    host = sk.host
    if not sk.sport:
        host.ports.connect_port(sk, lambda port: not host.is_taken(sk, port, True, now))
    elif host.is_taken(sk, sk.sport, False, now):
        raise error(EADDRNOTAVAIL)
    old = host.established.get(host.key_of(sk, sk.sport))
    if isinstance(old, TimeWait):
        old.hand_over(sk)
    host.hash(sk)


def _send_syn(sk: TcpSock, now: int) -> None:
    """Fresh sequence numbers and windows, then the SYN (`tcp_connect`)."""
    host = sk.host
    # what a pair in TIME_WAIT, or a connection before on this socket, has left behind
    reset_sequences(sk, sk.write_seq & MASK or host.next_isn(sk, now))
    sk.tsoffset = host.ts_offset(sk)
    connect_init(sk, now)
    skb = Skb(sk.write_seq, SYN)
    skb.end_seq += 1
    skb.set_pcount(sk.mss_cache)
    sk.write_seq += 1
    sk.rtx_queue.append(skb)
    sk.wmem_queued += TX_OVERHEAD
    sk.retrans_stamp = now
    transmit_skb(sk, skb, now)
    sk.packets_out += skb.pcount
    sk.snd_nxt = sk.write_seq
    sk.pushed_seq = sk.write_seq
    reset_xmit_timer(sk, PENDING_RETRANS, now + rto_ns(sk))


def reset_sequences(sk: TcpSock, iss: int) -> None:
    """Every variable of the send sequence space starts at the ISN."""
    sk.iss = iss
    sk.write_seq = sk.snd_una = sk.snd_nxt = sk.snd_up = sk.snd_sml = sk.pushed_seq = iss
    sk.cwnd_usage_seq = sk.retransmit_high = sk.highest_sack = sk.high_seq = iss


def connect_init(sk: TcpSock, now: int) -> None:
    """Windows and sizes of a SYN (`tcp_connect_init`)."""
    assert sk.dst is not None  # connect has just routed
    sysctl = sk.net.sysctl
    sk.mss_clamp = sk.user_mss or default_mss(sk.dst.version == 6)
    sk.max_window = 0
    if sysctl.tcp_timestamps:  # until the peer says that it has none
        sk.tcp_header_len = TCP_HEADER_LEN + TSTAMP_LEN
    mtu_probe.init(sk, now)
    sync_mss(sk, sk.dst.mtu(now))
    sk.advmss = advertise_mss(sk.dst.mtu(now), sk.dst.version == 6, sk.user_mss, sysctl.min_adv_mss)
    with_ts = sk.ts_recent_stamp and sysctl.tcp_timestamps  # of the pair in TIME_WAIT before
    segment = sk.advmss - TSTAMP_LEN if with_ts else sk.advmss
    rcvbuf.initialize_rcv_mss(sk)
    rcvbuf.init_window(sk, segment, sysctl.tcp_window_scaling)
    sk.snd_wnd = 0
    sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = 0
    sk.retransmits = 0
    sk.rcv_tstamp = now


# -- SYN_SENT ------------------------------------------------------------------------------


def synsent_input(
    sk: TcpSock, seg: Segment, data_snd_check: Callable[[TcpSock, int], None]
) -> bool:
    """A segment in SYN_SENT; false if it deserves a RST (rule C-15)."""
    flags = seg.flags
    if flags & ACK:
        if seg.ack <= sk.snd_una or seg.ack > sk.snd_nxt:
            if not sk.retransmits:
                reset_xmit_timer(sk, PENDING_RETRANS, seg.now + TIMEOUT_MIN)
            return bool(flags & RST)
        if not _timestamp_echo_ok(sk, seg):
            sk.net.mib.inc("TcpExtPAWSActive")
            return bool(flags & RST)
        if flags & RST:
            reset(sk, seg.now)
            return True
        if flags & SYN:
            _synack_for_us(sk, seg)
            data_snd_check(sk, seg.now)
            return True
        sk.drop("TCP_FLAGS")
    elif flags & RST:
        sk.drop("TCP_RESET")
    elif flags & SYN:
        _simultaneous_open(sk, seg)
    else:
        sk.drop("NOT_SPECIFIED")
    return True


def _timestamp_echo_ok(sk: TcpSock, seg: Segment) -> bool:
    """The echo must lie between our first SYN and now."""
    options = seg.options
    if not options.has_ts or not options.tsecr or not sk.net.sysctl.tcp_timestamps:
        return True
    now_ts = seg.now // MS + sk.tsoffset
    first_ts = sk.retrans_stamp // MS + sk.tsoffset
    age = (now_ts - options.tsecr) & 0xFFFFFFFF
    return age <= now_ts - first_ts


def _take_options(sk: TcpSock, seg: Segment) -> None:
    """What the peer's SYN offers, as far as we offered it too."""
    options, sysctl = seg.options, sk.net.sysctl
    sk.tstamp_ok = options.has_ts and bool(sysctl.tcp_timestamps)
    sk.sack_ok = options.sack_perm and sysctl.tcp_sack
    sk.wscale_ok = options.wscale >= 0 and sysctl.tcp_window_scaling
    sk.snd_wscale = options.wscale if sk.wscale_ok else 0
    if sk.tstamp_ok:
        sk.ts_recent = options.tsval
        sk.ts_recent_stamp = seg.now
    if options.mss:
        sk.mss_clamp = min(options.mss, sk.user_mss or options.mss)


def _settle_header_len(sk: TcpSock) -> None:
    """Whether timestamps take their room is known now."""
    sk.tcp_header_len = TCP_HEADER_LEN
    if sk.tstamp_ok:
        sk.tcp_header_len += TSTAMP_LEN
        sk.advmss -= TSTAMP_LEN


def _take_irs(sk: TcpSock, seg: Segment) -> None:
    sk.irs = seg.raw_seq
    sk.rcv_nxt = seg.raw_seq + 1
    sk.rcv_wup = sk.copied_seq = sk.urg_seq = sk.rcvq_seq = sk.rcv_nxt
    seg.seq, seg.end_seq = seg.raw_seq, seg.raw_seq + 1 + seg.len
    sk.rcv_rtt_seq = sk.rcv_nxt


def _synack_for_us(sk: TcpSock, seg: Segment) -> None:
    """SYN-ACK: the connection is established."""
    assert sk.dst is not None  # since connect
    now = seg.now
    _take_options(sk, seg)
    _take_irs(sk, seg)
    sk.snd_wl1 = seg.seq
    _undo_spurious_syn(sk, seg)
    if seg.window:
        sk.max_window = seg.window
        sync_mss(sk, sk.pmtu_cookie)
    sk.snd_wnd = seg.window
    _syn_acked(sk, seg)
    sk.bytes_acked += seg.ack - sk.snd_una
    sk.snd_una = sk.snd_up = seg.ack
    renew_pacing_rate(sk)  # by an MSS with room for timestamps, and the default one into no window
    _settle_header_len(sk)
    sync_mss(sk, sk.dst.mtu(now))
    rcvbuf.initialize_rcv_mss(sk)
    _finish_connect(sk, now)
    if sk.write_pending or sk.defer_accept or sk.pingpong:
        enter_quickack_mode(sk, MAX_QUICKACKS)  # data, or the timer, will carry the ACK
        sk.ack_pending |= ACK_SCHED | ACK_TIMER
        sk.arm(T_DELACK, now + TCP_DELACK_MAX)
    else:
        send_ack(sk, now)


def _syn_acked(sk: TcpSock, seg: Segment) -> None:
    """Our SYN leaves the retransmit queue; its round trip is the first sample (D-3)."""
    head = sk.rtx_queue.head()
    if head is not None and head.flags & SYN:
        sk.rtx_queue.popleft()
        sk.wmem_queued -= TX_OVERHEAD
        sk.packets_out -= head.pcount
        if sk.retrans_out:
            sk.retrans_out -= head.pcount
        if sk.lost_out:
            sk.lost_out -= head.pcount
        rtt_us = -1
        if not head.sacked:
            rtt_us = (seg.now - head.tx_time) // 1000
        elif sk.tstamp_ok and seg.options.tsecr:
            rtt_us = ((seg.now // MS + sk.tsoffset - seg.options.tsecr) & 0xFFFFFFFF) * 1000
        if rtt_us >= 0:
            sk.min_rtt.update(seg.now // 1000, max(rtt_us, 1))
            sk.rtt.sample(rtt_us, seg.ack, sk.snd_nxt)
        if sk.sack_ok:
            rack.advance(sk, head, seg.now)
        sk.delivered += 1
        sk.delivered_at = seg.now
    if sk.sack_ok or sk.ca_state != CA_LOSS:  # else the state is held (`undo`)
        set_ca_state(sk, CA_OPEN)
    sk.retransmits = 0
    sk.err_soft = 0
    sk.rcv_tstamp = seg.now
    clear_xmit_timer(sk)


def _undo_spurious_syn(sk: TcpSock, seg: Segment) -> None:
    """The echo is of the very first SYN or SYN-ACK: that it was repeated says nothing of
    the path (`tcp_try_undo_spurious_syn`)."""
    first = (sk.retrans_stamp // MS + sk.tsoffset) & 0xFFFFFFFF
    if sk.undo_marker is not None and sk.tstamp_ok and seg.options.tsecr == first:
        sk.undo_marker = None


def _finish_connect(sk: TcpSock, now: int) -> None:
    """`tcp_finish_connect`."""
    set_state(sk, ESTABLISHED)
    sk.lrcvtime = now
    init_transfer(sk, now)
    sk.retrans_stamp = 0
    sk.lsndtime = now
    if sk.keepopen:
        sk.arm(T_KEEPALIVE, now + sk.keepalive_time)
    sk.pred_wnd = PREDICTION_OFF if sk.snd_wscale else sk.snd_wnd
    sk.state_change()


def _simultaneous_open(sk: TcpSock, seg: Segment) -> None:
    """A SYN crosses ours: answer with a SYN-ACK, same ISN, same options (rule C-16)."""
    assert sk.dst is not None  # since connect
    now = seg.now
    _take_options(sk, seg)
    _take_irs(sk, seg)
    sk.snd_wnd = sk.max_window = seg.window
    sk.snd_wl1 = seg.seq
    _settle_header_len(sk)
    sync_mss(sk, sk.dst.mtu(now))
    rcvbuf.initialize_rcv_mss(sk)
    set_state(sk, SYN_RECV)
    head = sk.rtx_queue.head()
    if head is not None:
        head.flags |= ACK
        transmit_skb(sk, head, now)


# -- SYN_RECV ------------------------------------------------------------------------------


def create_child(request: Request, seg: Segment) -> TcpSock:
    """The socket of an accepted connection, in SYN_RECV, with the listener's settings
    (rule C-6, `tcp_create_openreq_child`)."""
    parent = request.listener
    host = request.host
    sk = TcpSock(host, parent.family)
    _inherit(sk, parent)
    sk.parent = parent
    sk.saddr = sk.rcv_saddr = request.saddr
    sk.daddr = request.daddr
    sk.sport, sk.dport = request.sport, request.dport
    sk.dst = request.dst
    host.ports.inherit(sk, parent if parent.sport else sk)
    reset_sequences(sk, request.iss + 1)
    sk.iss = request.iss
    sk.irs = request.irs
    sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = sk.urg_seq = request.irs + 1
    sk.rcv_rtt_seq = sk.rcvq_seq = sk.rcv_nxt
    sk.tsoffset = request.tsoffset
    sk.tstamp_ok, sk.sack_ok, sk.wscale_ok = request.tstamp_ok, request.sack_ok, request.wscale_ok
    sk.window_clamp, sk.rcv_ssthresh = request.window_clamp, request.rcv_wnd
    sk.rcv_wnd, sk.rcv_wscale = request.rcv_wnd, request.rcv_wscale
    sk.snd_wscale = request.snd_wscale
    sk.ts_recent, sk.ts_recent_stamp = request.ts_recent, seg.now if request.tstamp_ok else 0
    sk.advmss = request.advmss
    _settle_header_len(sk)
    sk.mss_clamp = request.mss
    sk.saved_syn = request.saved_syn
    sk.snd_wnd = sk.max_window = seg.window << sk.snd_wscale
    sk.rcv_tstamp = sk.lsndtime = sk.lrcvtime = seg.now
    sync_mss(sk, sk.dst.mtu(seg.now))
    rcvbuf.initialize_rcv_mss(sk)
    sk.total_retrans = request.num_retrans
    sk.segs_in = 1  # the SYN
    if request.num_timeout:
        sk.undo_marker = request.iss
        sk.retrans_stamp = request.sent_at
    _synack_rtt(sk, seg, -1 if request.num_retrans else (seg.now - request.sent_at) // 1000)
    sk.state = SYN_RECV
    host.hash(sk)
    host.net.mib.inc("TcpPassiveOpens")
    return sk


_FASTOPEN = (6, 23)  # SOL_TCP, TCP_FASTOPEN
_INHERITED = (
    "sndbuf", "rcvbuf", "userlocks", "nonagle", "keepopen", "keepalive_time", "keepalive_intvl",
    "keepalive_probes", "linger", "linger_time", "linger2", "oobinline", "rcvlowat",
    "mark", "user_mss", "notsent_lowat", "user_timeout", "tos", "ttl", "pmtudisc", "bindtodevice",
    "tclass", "hop_limit", "pmtudisc6", "tsflags",
    "reuse", "reuseport", "rcvtimeo", "sndtimeo", "recverr", "v6only", "max_pacing_rate",
    "syn_retries", "scaling_ratio", "timestamp", "inq_cmsg", "peek_off", "inet_flags", "minttl",
    "freebind", "pingpong", "pacing_rate", "pacing_status", "thin_lto", "delack_max",
    "save_syn",
)  # fmt: skip


def _inherit(sk: TcpSock, parent: TcpSock) -> None:
    for name in _INHERITED:
        setattr(sk, name, getattr(parent, name))
    sk.userlocks &= ~BINDPORT_LOCK
    if parent.kept is not None:  # but for what belongs to the queue of a listener
        sk.kept = {k: v for k, v in parent.kept.items() if k != _FASTOPEN}
    sk.set_rto_bounds(parent.rto_min_us, parent.rto_max_us)
    if parent.notify is not None:
        notify.of(sk)
    if parent.ca_name != sk.ca_name:
        sk.ca_name = parent.ca_name
        sk.cc = sk.host.new_congestion_control(parent.ca_name)


def _synack_rtt(sk: TcpSock, seg: Segment, rtt_us: int) -> None:
    """The round trip of our SYN-ACK; if it was repeated (-1), what the echoed timestamp
    says (rule D-3, `tcp_synack_rtt_meas`)."""
    if rtt_us < 0 and sk.tstamp_ok and seg.options.tsecr:
        rtt_us = ((seg.now // MS + sk.tsoffset - seg.options.tsecr) & 0xFFFFFFFF) * 1000
    if rtt_us >= 0:
        sk.min_rtt.update(seg.now // 1000, max(rtt_us, 1))
        sk.rtt.sample(rtt_us, sk.snd_una, sk.snd_nxt)


def synack_received(sk: TcpSock, seg: Segment) -> None:
    """The ACK of our SYN-ACK: ESTABLISHED."""
    now = seg.now
    sk.delivered += 1
    if not sk.rtt.srtt_us:
        _synack_rtt(sk, seg, -1)
    if sk.retrans_stamp:
        _undo_spurious_syn(sk, seg)
    init_transfer(sk, now)
    renew_pacing_rate(sk)
    sk.retrans_stamp = 0
    sk.copied_seq = sk.rcv_nxt
    set_state(sk, ESTABLISHED)
    sk.snd_una = seg.ack
    sk.snd_wnd = seg.window if seg.flags & SYN else seg.window << sk.snd_wscale
    sk.snd_wl1 = seg.seq
    sk.lsndtime = now
    rcvbuf.initialize_rcv_mss(sk)
    fast_path_on(sk)
    if sk.keepopen:
        sk.arm(T_KEEPALIVE, now + sk.keepalive_time)
    sk.state_change()
    if sk.parent is not None and sk.parent.state == LISTEN:
        sk.parent.data_ready()


def init_transfer(sk: TcpSock, now: int) -> None:
    """What an established connection has (`tcp_init_transfer`)."""
    mtu_probe.init(sk, now)
    if not sk.wscale_ok:
        sk.rcv_wscale = 0
        sk.window_clamp = min(sk.window_clamp, 65535)
    if not sk.rtt.srtt_us:
        sk.rtt.rto_us = TIMEOUT_FALLBACK  # what was repeated told us nothing (D-3)
    cc = sk.cc
    lossy = sk.total_retrans > 1 and sk.undo_marker is not None
    cc.snd_cwnd = 1 if lossy else TCP_INIT_CWND
    cc.snd_ssthresh = INFINITE_SSTHRESH  # a SYN that had to be repeated says nothing of it
    sk.snd_cwnd_stamp = now
    sk.prior_ssthresh = 0  # no duplicate report brings back what was before
    cc.init(now)
    if cc.needs_pacing:
        sk.start_pacing()
    rcvbuf.init_buffer_space(sk, now)
    sndbuf_expand(sk, initial=True)


def renew_pacing_rate(sk: TcpSock) -> None:
    """The first pacing rate (`tcp_update_pacing_rate`)."""
    cc = sk.cc
    sysctl = sk.net.sysctl
    sk.pacing_rate = update_pacing_rate(
        cc.snd_cwnd,
        cc.snd_ssthresh,
        sk.mss_cache,
        sk.rtt.srtt_us,
        sysctl.tcp_pacing_ss_ratio,
        sysctl.tcp_pacing_ca_ratio,
        sk.max_pacing_rate,
    )
