"""The connection: every variable of one TCP socket, flat (Linux: `struct tcp_sock`).

`TcpSock` is the noun; the verbs are the module functions that take it as their first
argument (`output.write_xmit(sk, now)`, `ack.tcp_ack(sk, seg)`). Structures with
invariants of their own (queues, estimators, congestion control) hang off it and never
see it.

Conventions: sequence numbers are unwrapped ints; sizes are bytes; windows and counters
in packets say so; times are integer ns, `_us` where Linux computes in microseconds.
Timers are a table of absolute deadlines (`timers`), NEVER when off.
"""

from __future__ import annotations

from collections import deque
from errno import EINVAL
from typing import TYPE_CHECKING

from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.notify import deliver_until
from ustack.sock.sock import PACING_UNLIMITED, RCVBUF_LOCK, SOCK_STREAM, Sock
from ustack.tcp.congestion.base import CongestionControl
from ustack.tcp.mss import TCP_HEADER_LEN
from ustack.tcp.pacing import PACING_NEEDED, PACING_NONE
from ustack.tcp.recv_queue import OfoQueue, ReceiveQueue
from ustack.tcp.rtt import MinRttFilter, RttEstimator
from ustack.tcp.rtx_queue import RtxQueue
from ustack.tcp.sack import SackList
from ustack.tcp.skb import Skb
from ustack.tcp.state import CA_OPEN, CLOSE, LISTEN, NAMES, SS_UNCONNECTED
from ustack.tcp.window import space_from_win
from ustack.wire.packet import IPPROTO_TCP

if TYPE_CHECKING:
    from ustack.tcp.host import TcpHost
    from ustack.tcp.listen import AcceptQueue

MS = 1_000_000
SEC = 1_000_000_000

TCP_INIT_CWND = 10
MSS_DEFAULT = 536
TCP_ATO_MIN = 40 * MS
TCP_DELACK_MAX = 200 * MS
# where Linux has these, no option or sysctl changes them
TCP_RTO_MIN, TCP_RTO_MAX = 200 * MS, 120 * SEC
MAX_QUICKACKS = 16

# `timers` slots. RETRANS is shared, its meaning is `pending` (rule D-4).
T_RETRANS, T_DELACK, T_KEEPALIVE, T_PACING, T_COMPRESSED_ACK = range(5)
NUM_TIMERS = 5
# `pending`
PENDING_NONE, PENDING_RETRANS, PENDING_LOSS_PROBE, PENDING_REO, PENDING_PROBE0 = range(5)

# `ack_pending` bits (Linux: ICSK_ACK_*)
ACK_SCHED, ACK_TIMER, ACK_PUSHED, ACK_PUSHED2, ACK_NOW = 1, 2, 4, 8, 16

# `nonagle` bits
NAGLE_OFF, NAGLE_CORK, NAGLE_PUSH = 1, 2, 4

PREDICTION_OFF = -1  # of `pred_wnd`

# `urg_data` bits: a byte announced but not here, or here (low 8 bits hold it)
URG_NOTYET, URG_VALID = 0x200, 0x100


class MtuProbe:
    """What is known of the path MTU by trying (`mtu_probe`). `probe_size` is that of the
    packet that is being tried, 0 if none is; its data are [seq_start, seq_end)."""

    __slots__ = (
        "enabled", "probe_size", "probe_timestamp", "search_high", "search_low", "seq_end",
        "seq_start",
    )  # fmt: skip

    def __init__(self, search_low: int, search_high: int, now: int) -> None:
        self.enabled = False
        self.search_low = search_low
        self.search_high = search_high
        self.probe_size = 0
        self.probe_timestamp = now  # when the range was last opened
        self.seq_start = self.seq_end = 0


class TcpSock(Sock):
    """One TCP endpoint: a connection, an attempt at one, or a listener."""

    __slots__ = (
        # identity
        "host", "key", "state", "csum_base", "dead", "sock_state", "last_port",
        "write_pending",
        # send: sequence space
        "iss", "snd_una", "snd_nxt", "write_seq", "snd_wnd", "snd_wl1", "max_window",
        "pushed_seq", "snd_sml", "snd_up",
        # send: queues
        "write_queue", "rtx_queue", "page", "page_used",
        # send: segmentation and modes
        "mss_cache", "mss_clamp", "user_mss", "advmss", "pmtu_cookie", "mtup", "gso_segs",
        "nonagle",
        "notsent_lowat", "snd_wscale", "rcv_wscale", "wscale_ok", "sack_ok", "tstamp_ok",
        "tcp_header_len",
        # send: flight and recovery
        "packets_out", "sacked_out", "lost_out", "retrans_out", "ca_state", "high_seq",
        "undo_marker", "undo_retrans", "retrans_stamp", "retransmits", "prr_delivered", "prr_out",
        "reordering", "reord_seen", "rack_mstamp", "rack_end_seq", "rack_rtt_us", "rack_advanced",
        "rack_list", "rack_upto",
        "retransmit_high", "sack_cache", "tlp_high_seq", "tlp_retrans", "highest_sack",
        "reo_wnd_steps", "reo_wnd_persist", "dsack_seen", "last_delivered",
        # estimators and congestion control
        "rtt", "min_rtt", "cc", "ca_name", "max_packets_out", "cwnd_usage_seq", "is_cwnd_limited",
        "snd_cwnd_used", "tsq_throttled", "tx_charged",
        "snd_cwnd_stamp", "lsndtime", "last_tx", "delivered", "delivered_at",
        "pacing_rate", "pacing_status", "wstamp",
        "first_tx", "app_limited", "lost", "rate_app_limited", "rate_delivered",
        "rate_interval_us", "prior_ssthresh",
        # timers
        "timers", "pending", "probes_out", "probes_tstamp", "syn_retries", "user_timeout",
        "keepalive_time", "keepalive_intvl", "keepalive_probes", "linger2", "rcv_tstamp",
        "thin_lto", "rto_min_us", "rto_max_us", "delack_max",
        # receive: sequence space and window
        "irs", "rcv_nxt", "copied_seq", "rcv_wup", "rcv_wnd", "rcv_ssthresh", "window_clamp",
        "scaling_ratio", "rcv_mss", "last_seg_size", "ts_recent", "ts_recent_stamp", "tsoffset",
        # receive: queues
        "receive_queue", "ofo_queue", "sacks", "urg_data", "urg_seq", "fin_received",
        "inq_cmsg", "pred_wnd", "reserved",
        # receive: buffer auto-tuning
        "rcvq_space", "rcvq_seq", "rcvq_time", "rcv_rtt_us", "rcv_rtt_seq", "rcv_rtt_time",
        "rcv_rtt_last_tsecr", "rcvq_overflow",
        # acknowledging
        "ack_pending", "quick", "pingpong", "ato", "lrcvtime", "last_oow_ack_time",
        "compressed_ack", "dup_ack_counter", "compressed_ack_rcv_nxt",
        # listening
        "accept_queue", "defer_accept", "parent", "save_syn", "saved_syn",
        # statistics (tcp_info)
        "bytes_sent", "bytes_acked", "bytes_received", "bytes_retrans", "segs_in", "segs_out",
        "data_segs_in", "data_segs_out", "dsack_dups", "total_retrans", "rcv_ooopack",
        "chrono_type", "chrono_start", "chrono_stat",
    )  # fmt: skip

    def __init__(self, host: TcpHost, family: int) -> None:
        net = host.net
        super().__init__(net, family, SOCK_STREAM, IPPROTO_TCP)
        sysctl = net.sysctl
        self.host = host
        self.prot = host.prot
        self.state = CLOSE
        self.key = b""  # established-table key: the 4-tuple as it arrives
        self.csum_base = 0  # pseudo-header sum of addresses and protocol
        self.dead = False  # nobody owns this socket any more (SOCK_DEAD)
        self.tx_charged = 0  # bytes ever charged to `wmem_alloc` for entries
        self.sock_state = SS_UNCONNECTED
        self.write_pending = 0  # writers that wait for the handshake
        self.last_port = 0  # the port that was given back; getsockname still shows it
        self.sndbuf = sysctl.tcp_wmem[1]
        self.rcvbuf = sysctl.tcp_rmem[1]

        # what the user has set outlives a connection
        self.user_mss = 0  # TCP_MAXSEG
        self.nonagle: int = 0
        self.notsent_lowat: int = 0  # 0: the sysctl
        self.syn_retries: int = 0  # TCP_SYNCNT, 0: the sysctl
        self.user_timeout: int = 0  # ns
        self.keepalive_time: int = sysctl.tcp_keepalive_time * SEC
        self.keepalive_intvl: int = sysctl.tcp_keepalive_intvl * SEC
        self.keepalive_probes: int = sysctl.tcp_keepalive_probes
        self.linger2 = 0  # ns; -1: no FIN_WAIT2 lingering
        self.defer_accept = 0  # SYN-ACK timeouts to wait for data
        self.inq_cmsg: bool = False
        self.save_syn: int = 0  # TCP_SAVE_SYN: keep the headers of SYNs
        self.saved_syn = b""
        self.pacing_status: int = PACING_NONE
        self.thin_lto: bool = False
        self.rto_min_us: int = sysctl.tcp_rto_min_us
        self.rto_max_us: int = sysctl.tcp_rto_max_ms * 1000
        self.delack_max: int = TCP_DELACK_MAX
        self.ca_name = sysctl.tcp_congestion_control
        self.accept_queue: AcceptQueue | None = None
        self.parent: TcpSock | None = None
        self.ofo_queue = OfoQueue()
        self.receive_queue = ReceiveQueue()
        self.init_connection()

    # -- a new connection (Linux: `tcp_init_sock`, `tcp_disconnect`) -------------------

    def init_connection(self) -> None:
        """Every variable of a connection as at the start."""
        self._init_send()
        self._init_recovery()
        self._init_timers()
        self._init_receive()
        self._init_statistics()

    def _init_send(self) -> None:
        self.iss = self.snd_una = self.snd_nxt = self.write_seq = 0
        self.snd_wnd = self.snd_wl1 = self.max_window = 0
        self.pushed_seq = self.snd_sml = self.snd_up = 0
        self.write_queue: deque[Skb] = deque()
        self.rtx_queue = RtxQueue()
        self.wmem_queued = 0
        self.page: bytearray | None = None  # small writes are gathered here
        self.page_used = 0
        self.mss_cache = MSS_DEFAULT
        self.mss_clamp = 0xFFFF  # what the peer allows, headers excluded
        self.advmss = 0
        self.pmtu_cookie = 0
        self.mtup: MtuProbe | None = None  # None: the path MTU is not probed
        self.gso_segs = 0
        self.snd_wscale = self.rcv_wscale = 0
        self.wscale_ok = self.sack_ok = self.tstamp_ok = False
        self.tcp_header_len = TCP_HEADER_LEN  # with the options that every segment carries

    def _init_recovery(self) -> None:
        sysctl = self.net.sysctl
        self.packets_out = self.sacked_out = self.lost_out = self.retrans_out = 0
        self.ca_state = CA_OPEN
        self.high_seq = 0
        self.undo_marker: int | None = None
        self.undo_retrans = 0  # retransmissions no DSACK has reported; -1: none was sent
        self.retrans_stamp = 0
        self.retransmits = 0
        self.prr_delivered = self.prr_out = 0
        self.reordering = sysctl.tcp_reordering
        self.reord_seen = 0
        self.rack_mstamp = self.rack_end_seq = self.rack_rtt_us = 0
        self.rack_advanced = False
        self.rack_list: list[Skb] | None = None
        self.rack_upto = 0
        self.retransmit_high = 0  # end of the highest retransmitted entry
        self.tlp_high_seq: int | None = None
        self.tlp_retrans = False
        self.highest_sack = 0
        self.sack_cache: tuple[tuple[int, int, bool], ...] = ()  # blocks of the last ACK
        self.reo_wnd_steps = 1
        self.reo_wnd_persist = 0
        self.dsack_seen = False
        self.last_delivered = 0
        self.rtt = RttEstimator(self.rto_min_us, self.rto_max_us)
        self.min_rtt = MinRttFilter()
        self.cc: CongestionControl = self.host.new_congestion_control(self.ca_name)
        self.max_packets_out = 0
        self.cwnd_usage_seq = 0
        self.is_cwnd_limited = False
        self.snd_cwnd_used = 0  # most packets out since the window was last judged
        self.tsq_throttled = False  # something waits for the device to let go of packets
        self.snd_cwnd_stamp = self.lsndtime = self.last_tx = 0
        self.pacing_rate = self.max_pacing_rate
        self.wstamp = 0  # of a paced socket: the next transmission may go then
        self.delivered = self.delivered_at = self.first_tx = self.app_limited = self.lost = 0
        self.rate_delivered = self.rate_interval_us = 0
        self.rate_app_limited = True
        self.prior_ssthresh = 0

    def _init_timers(self) -> None:
        self.timers = [NEVER] * NUM_TIMERS
        self.pending = PENDING_NONE
        self.probes_out = self.probes_tstamp = 0
        self.rcv_tstamp = 0

    def _init_receive(self) -> None:
        self.irs = self.rcv_nxt = self.copied_seq = self.rcv_wup = 0
        self.rcv_wnd = self.rcv_ssthresh = self.window_clamp = 0
        self.scaling_ratio = 128  # payload bytes per 256 charged bytes
        self.rcv_mss = 0
        self.last_seg_size = 0
        self.pred_wnd = PREDICTION_OFF  # the window field of a predicted segment (`predict`)
        self.reserved = 0  # memory for both queues, if more than whole pages (`predict`)
        self.ts_recent = 0
        self.ts_recent_stamp = 0  # ns when ts_recent was stored, 0 if never
        self.tsoffset = 0
        self.sacks = SackList()
        self.urg_data = self.urg_seq = 0
        self.fin_received = False  # SOCK_DONE
        self.rcvq_space = self.rcvq_seq = self.rcvq_time = 0
        self.rcv_rtt_us = 0  # x8
        self.rcv_rtt_seq = self.rcv_rtt_time = self.rcv_rtt_last_tsecr = 0
        self.ack_pending = self.quick = self.pingpong = self.ato = 0
        self.lrcvtime = self.last_oow_ack_time = 0
        self.compressed_ack = self.dup_ack_counter = self.compressed_ack_rcv_nxt = 0
        self.rcvq_overflow = False  # the next ACK advertises a zero window (B-34)

    def _init_statistics(self) -> None:
        """The figures of tcp_info."""
        self.bytes_sent = self.bytes_acked = self.bytes_received = self.bytes_retrans = 0
        self.segs_in = self.segs_out = self.data_segs_in = self.data_segs_out = 0
        self.dsack_dups = self.total_retrans = self.rcv_ooopack = 0
        self.chrono_type = self.chrono_start = 0
        self.chrono_stat = [0, 0, 0, 0]  # none, busy, rwnd-limited, sndbuf-limited: ns

    # -- small facts used everywhere -------------------------------------------------

    @property
    def listening(self) -> bool:
        return self.state == LISTEN

    @property
    def in_flight(self) -> int:
        """Packets in the network (RFC 6675's pipe; rule D-12)."""
        return self.packets_out - self.sacked_out - self.lost_out + self.retrans_out

    @property
    def send_head(self) -> Skb | None:
        """The first entry not yet sent."""
        return self.write_queue[0] if self.write_queue else None

    @property
    def cur_win(self) -> int:
        """What is left of the window we offered (`tcp_receive_window`)."""
        win = self.rcv_wup + self.rcv_wnd - self.rcv_nxt
        return win if win > 0 else 0

    @property
    def wnd_end(self) -> int:
        """The right edge of the peer's window."""
        return self.snd_una + self.snd_wnd

    def __repr__(self) -> str:
        return (
            f"<TcpSock {NAMES[self.state]} {self.sport}->{self.dport} una={self.snd_una - self.iss}"
            f" nxt={self.snd_nxt - self.iss} wseq={self.write_seq - self.iss}"
            f" rcv_nxt={self.rcv_nxt - self.irs}>"
        )

    # -- timers ----------------------------------------------------------------------

    def arm(self, which: int, at: int) -> None:
        """Set timer `which` to fire at `at` (`sk_reset_timer`); a store unless earlier."""
        hz = self.net.sysctl.hz
        if hz:  # as jiffies: the tick that contains `at` has to pass whole
            tick = SEC // hz
            at = (at // tick + 1) * tick
        self.timers[which] = at
        if at < self.heap_at:
            self.net.deadlines.arm(self, at)

    def arm_exact(self, which: int, at: int) -> None:
        """As `arm`, for what is no jiffies timer in the kernel (`hrtimer_start`)."""
        self.timers[which] = at
        if at < self.heap_at:
            self.net.deadlines.arm(self, at)

    def disarm(self, which: int) -> None:
        self.timers[which] = NEVER

    def next_deadline(self) -> int:
        return min(self.timers)

    def handle_timeout(self, now: int) -> None:
        self.host.handle_timers(self, now)

    def drop(self, reason: str) -> None:
        """A segment of this connection is dropped, for a reason of the kernel's
        (`tcp_drop_reason`); SO_MEMINFO counts it."""
        self.drops += 1
        self.net.mib.drop(reason)

    # -- buffers -----------------------------------------------------------------------

    def on_sndbuf_changed(self, now: int) -> None:
        """SO_SNDBUF was set: there may be room now."""
        self.write_space()

    def set_rto_bounds(self, rto_min_us: int, rto_max_us: int) -> None:
        """TCP_RTO_MIN_US, TCP_RTO_MAX_MS. The RTO itself changes with the next sample."""
        self.rto_min_us = self.rtt.rto_min_us = rto_min_us
        self.rto_max_us = self.rtt.rto_max_us = rto_max_us

    def on_max_pacing_rate_changed(self) -> None:
        """SO_MAX_PACING_RATE was set: bursts keep to it from now on, and for good."""
        if self.max_pacing_rate != PACING_UNLIMITED:
            self.start_pacing()
        self.pacing_rate = min(self.pacing_rate, self.max_pacing_rate)

    def start_pacing(self) -> None:
        if not self.pacing_status:
            self.pacing_status = PACING_NEEDED
            self.wstamp = self.last_tx

    def on_keepalive_changed(self, now: int) -> None:
        """SO_KEEPALIVE on an open connection takes effect at once (`tcp_set_keepalive`)."""
        if self.state in (CLOSE, LISTEN):
            return
        if self.keepopen:
            self.arm(T_KEEPALIVE, now + self.keepalive_time)
        else:
            self.disarm(T_KEEPALIVE)

    def set_rcvlowat(self, value: int, now: int) -> None:
        """SO_RCVLOWAT, and the buffer that it needs (rule B-71, `tcp_set_rcvlowat`)."""
        rmem_max = self.net.sysctl.tcp_rmem[2]
        locked = bool(self.userlocks & RCVBUF_LOCK)
        self.rcvlowat = min(value, (self.rcvbuf if locked else rmem_max) >> 1) or 1
        if self.fin_received or self.epollin_ready(self.rcvlowat):
            self.data_ready()
        if not locked:
            need = space_from_win(self.rcvlowat, self.scaling_ratio)
            if need > self.rcvbuf:
                self.rcvbuf = need
                if 0 < self.window_clamp < self.rcvlowat:
                    self.window_clamp = self.rcvlowat

    def epollin_ready(self, target: int) -> bool:
        """Is there `target` to read, or no prospect of more? (`tcp_epollin_ready`)"""
        avail = self.rcv_nxt - self.copied_seq
        return avail > 0 and (
            avail >= target
            or self.rmem_alloc > self.rcvbuf - (self.rcvbuf >> 3)
            or self.cur_win <= self.rcv_mss
        )

    def stream_memory_free(self) -> bool:
        """May a new entry be made? (rule A-3, `sk_stream_memory_free`)"""
        return self.wmem_queued < self.sndbuf and self.write_seq - self.snd_nxt < (
            self.notsent_lowat or self.net.sysctl.tcp_notsent_lowat
        )

    def timestamping_base(self, from_write_seq: bool) -> int:
        if self.state in (CLOSE, LISTEN):
            raise error(EINVAL)
        return self.write_seq if from_write_seq else self.snd_una

    def is_writeable(self) -> bool:
        """Does poll say OUT? A third of the buffer is free (rule A-4)."""
        queued = self.wmem_queued
        return (
            self.sndbuf - queued >= queued >> 1
            and queued < self.sndbuf
            and 2 * (self.write_seq - self.snd_nxt) < self.effective_notsent_lowat()
        )

    def effective_notsent_lowat(self) -> int:
        return self.notsent_lowat or self.net.sysctl.tcp_notsent_lowat

    def write_space(self) -> None:
        """Wake writers if there is room by the poll rule (`sk_stream_write_space`)."""
        if self.is_writeable():
            self.nospace = False
            self.wake_writers()

    def handle_tx_done(self, charge: int, now: int) -> None:
        """The device has let go of a packet: what small queues or autocorking held back
        may go (`tcp_wfree`, `tcp_tasklet_func`)."""
        self.wmem_alloc -= charge
        if self.notify is not None:
            deliver_until(self, self.notify.leaving, self.tx_charged - self.wmem_alloc, now)
        self.host.tx_done(self, now)
