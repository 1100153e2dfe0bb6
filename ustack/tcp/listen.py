"""The passive side: half-open requests and the accept queue.

A SYN to a listener makes a `Request`, a light object that stands in the connection table,
answers with a SYN-ACK and repeats it. The handshake's last ACK turns it into a child
socket in the accept queue, where `accept` finds it. The accept queue holds backlog + 1;
when it is full, SYNs are dropped (the client tries again) and a completing ACK is
ignored, so that a later one can still succeed.

The catch-all listener (`listen_any`) receives the SYNs that no other listener wants, for
any local address and port, and may think before it answers: `on_syn(request)` is called
once, and the request waits until `accept`, `refuse`, `unreachable` or `drop`. Repeated
SYNs join the waiting request. Requests are bounded by the backlog and expire.

SYN cookies would be a third kind of answer in `conn_request`; they come later.

Sources: RFC 9293 section 3.10.7.2, Linux `tcp_conn_request`, `tcp_check_req`,
`reqsk_timer_handler`, `inet_csk_accept`; rules C-1 to C-10.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from errno import EADDRINUSE, EINVAL
from typing import TYPE_CHECKING

from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Dst
from ustack.sock.errors import error
from ustack.sock.sock import RCVBUF_LOCK, Sock, would_block
from ustack.sock.wait import Op, Wait
from ustack.tcp import window
from ustack.tcp.handshake import create_child
from ustack.tcp.lifecycle import set_state
from ustack.tcp.mss import TSTAMP_LEN, advertise_mss, default_mss
from ustack.tcp.paws import paws_reject, ts_between
from ustack.tcp.segment import Segment
from ustack.tcp.sock import MS, SEC, TCP_RTO_MAX, TcpSock
from ustack.tcp.state import CLOSE, LISTEN, SS_CONNECTED, SS_UNCONNECTED, SYN_RECV
from ustack.wire.packet import IPPROTO_TCP
from ustack.wire.tcp import ACK, FIN, RST, SYN, build, data_options, syn_options

if TYPE_CHECKING:
    from ustack.tcp.host import TcpHost

SYNACK_TIMEOUT = 1 * SEC
PENDING_TIMEOUT = 64 * SEC  # a client has given up by then


class AcceptQueue:
    """A listener's two queues: half-open requests, and children waiting for accept."""

    __slots__ = ("_children", "_requests", "max_backlog", "on_syn", "young")

    def __init__(self, max_backlog: int) -> None:
        self.max_backlog = max_backlog
        self.young = 0  # half-open requests whose SYN-ACK has not timed out yet
        self.on_syn: Callable[[Request], None] | None = None
        self._children: deque[TcpSock] = deque()
        self._requests: dict[bytes, Request] = {}

    def __len__(self) -> int:
        return len(self._children)

    def is_full(self) -> bool:
        """More than the backlog: backlog + 1 fit (rule C-2)."""
        return len(self._children) > self.max_backlog

    def syn_is_full(self) -> bool:
        return len(self._requests) > self.max_backlog

    @property
    def half_open(self) -> int:
        return len(self._requests)

    def add_request(self, request: Request) -> None:
        self._requests[request.key] = request
        self.young += 1

    def remove_request(self, request: Request) -> None:
        if self._requests.pop(request.key, None) is not None and not request.num_timeout:
            self.young -= 1

    def max_retries(self, retries: int) -> int:
        """How often a SYN-ACK is repeated: less while old requests clog more than half of
        the queue (rule C-4)."""
        pending = len(self._requests)
        if pending * 2 > max(8, self.max_backlog):
            young = self.young * 2
            while retries > 2 and pending >= young:
                retries -= 1
                young *= 2
        return retries

    def requests(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))

    def push(self, child: TcpSock) -> None:
        self._children.append(child)

    def pop(self) -> TcpSock:
        return self._children.popleft()

    def drain(self) -> list[TcpSock]:
        """Take out everything, oldest first."""
        children = list(self._children)
        self._children.clear()
        return children


class Request:
    """A connection that is not one yet (Linux: `struct tcp_request_sock`)."""

    __slots__ = (
        "acked", "advmss", "csum_base", "daddr", "deadline", "dport", "dst", "heap_at", "host",
        "iif", "irs", "iss", "key", "last_oow_ack_time", "listener", "mss", "num_retrans",
        "num_timeout", "pending", "rcv_wnd", "rcv_wscale", "sack_ok", "saddr", "saved_syn",
        "sent_at", "snd_wscale", "sport", "state", "syn", "tos", "ts_recent", "tsoffset",
        "tstamp_ok", "tsval_first", "tsval_last", "window_clamp", "wscale_ok",
    )  # fmt: skip

    def __init__(self, listener: TcpSock, seg: Segment, key: bytes, dst: Dst) -> None:
        host = listener.host
        rx, options, sysctl = seg.rx, seg.options, host.net.sysctl
        self.host: TcpHost = host
        self.listener = listener
        self.key = key
        self.state = SYN_RECV
        self.saddr, self.daddr = rx.dst, rx.src
        self.sport, self.dport = seg.dport, seg.sport
        self.dst = dst
        self.iif = rx.iif
        self.tos = listener.tclass if len(self.daddr) == 16 else listener.tos
        self.irs = seg.raw_seq
        self.iss = 0
        self.tsoffset = 0
        self.csum_base = host.pseudo_base(self.saddr, self.daddr)
        self.mss = default_mss(dst.version == 6)
        if options.mss:  # TCP_MAXSEG limits what the peer says, not what it leaves unsaid
            self.mss = min(options.mss, listener.user_mss or options.mss)
        self.tstamp_ok = bool(sysctl.tcp_timestamps) and options.has_ts
        self.ts_recent = options.tsval
        self.sack_ok = sysctl.tcp_sack and options.sack_perm
        self.wscale_ok = sysctl.tcp_window_scaling and options.wscale >= 0
        self.snd_wscale = options.wscale if self.wscale_ok else 0
        self.tsval_first = self.tsval_last = 0
        self.advmss = self.rcv_wnd = self.rcv_wscale = self.window_clamp = 0
        self.num_timeout = self.num_retrans = 0
        self.acked = False
        self.pending = False  # the catch-all has not answered yet
        self.sent_at = 0  # the first SYN-ACK
        self.last_oow_ack_time = 0
        self.deadline = NEVER
        self.heap_at = NEVER
        self.syn: Segment | None = None
        self.saved_syn = bytes(rx.buf[rx.l3 : seg.data_off]) if listener.save_syn else b""

    # -- what a catch-all listener may answer ---------------------------------------------
    # Each of them once, and only while the request is `pending`; else nothing happens.

    def accept(self, now: int) -> None:
        """Answer with a SYN-ACK: the connection will come out of the listener's accept."""
        if self.pending:
            self.pending = False
            self.syn = None
            self.start(now)

    def refuse(self, now: int) -> None:
        """Answer with a RST: connection refused."""
        if self.pending and self.syn is not None:
            self.syn.now = now
            self.host.send_reset(self.syn)
            self.forget()

    def unreachable(self, code: int, now: int) -> None:
        """Answer with an ICMP destination unreachable of this code."""
        if self.pending and self.syn is not None:
            self.syn.rx.now = now
            self.host.net.icmp_unreach(self.syn.rx, code)
            self.forget()

    def drop(self) -> None:
        """Do not answer; a repeated SYN is a new request."""
        if self.pending:
            self.forget()

    def wait_for_answer(self, syn: Segment) -> None:
        """Keep the SYN until one of the above is called, or until nobody can want it."""
        self.pending = True
        self.syn = syn
        self._set_deadline(syn.now + PENDING_TIMEOUT)

    # -- life ---------------------------------------------------------------------------------

    def start(self, now: int) -> None:
        """Choose the window, send the first SYN-ACK, start its timer."""
        if self.current_dst() is None:
            self.forget()
            return
        self._init_window(now)
        self._set_deadline(now + SYNACK_TIMEOUT)
        self.send_synack(now)
        self.tsval_first = self.tsval_last

    def current_dst(self) -> Dst | None:
        """The route, asked for again if it has changed; None if there is none any more."""
        if self.dst.obsolete:
            try:
                sk = self.listener
                self.dst = self.host.net.route(self.daddr, self.saddr, sk.bindtodevice)
            except OSError:
                return None
        return self.dst

    def _set_deadline(self, at: int) -> None:
        self.deadline = at
        self.host.net.deadlines.arm(self, at)

    def _init_window(self, now: int) -> None:
        """As `rcvbuf.init_window`, for a socket that does not exist yet (rule B-60)."""
        sk, sysctl = self.listener, self.host.net.sysctl
        dst = self.dst
        self.advmss = advertise_mss(dst.mtu(now), dst.version == 6, sk.user_mss, sysctl.min_adv_mss)
        full = window.win_from_space(sk.rcvbuf, sk.scaling_ratio)
        clamp = window.initial_clamp(sk.window_clamp, full, bool(sk.userlocks & RCVBUF_LOCK))
        self.rcv_wnd, self.window_clamp, self.rcv_wscale = window.select_initial_window(
            full,
            self.advmss - (TSTAMP_LEN if self.tstamp_ok else 0),
            clamp,
            self.wscale_ok,
            sysctl.tcp_rmem[2],
            sysctl.rmem_max,
        )

    def forget(self) -> None:
        """Leave the tables without a packet."""
        self.pending = False
        self.syn = None
        self.deadline = NEVER
        self.host.net.deadlines.forget(self)
        self.host.established.pop(self.key, None)
        if self.listener.accept_queue is not None:
            self.listener.accept_queue.remove_request(self)

    def send_synack(self, now: int) -> None:
        """SYN-ACK: DF, IP id 0 (rule C-4)."""
        self.tsval_last = (now // MS + self.tsoffset) & 0xFFFFFFFF
        ts = (self.tsval_last, self.ts_recent) if self.tstamp_ok else None
        options = syn_options(
            self.advmss, self.rcv_wscale if self.wscale_ok else None, self.sack_ok, ts
        )
        csum = (self.csum_base + 20 + len(options)) % 65535
        header = build(
            self.sport, self.dport, self.iss, self.irs + 1, SYN | ACK,
            min(self.rcv_wnd, 65535), options, csum=csum,
        )  # fmt: skip
        self.sent_at = self.sent_at or now
        self.host.net.send_reply(IPPROTO_TCP, self.saddr, self.daddr, header, self.tos, now)
        self.host.net.mib.values["TcpOutSegs"] += 1

    def next_deadline(self) -> int:
        return self.deadline

    def handle_timeout(self, now: int) -> None:
        """No ACK yet: repeat the SYN-ACK, or give up (`reqsk_timer_handler`)."""
        queue = self.listener.accept_queue
        if self.pending or queue is None:
            self.forget()
            return
        net = self.host.net
        retries = queue.max_retries(self.listener.syn_retries or net.sysctl.tcp_synack_retries)
        net.mib.inc("TcpExtTCPTimeouts")
        deferred = self.listener.defer_accept
        if self.num_timeout >= retries and (not self.acked or self.num_timeout >= deferred):
            self.forget()
            return
        if not self.acked or self.num_timeout >= deferred - 1:
            self._repeat_synack(now)
        if not self.num_timeout:
            queue.young -= 1
        self.num_timeout += 1
        self._set_deadline(now + self._timeout())

    def _timeout(self) -> int:
        """The wait before the next SYN-ACK (`tcp_reqsk_timeout`)."""
        return min(SYNACK_TIMEOUT << min(self.num_timeout, 30), TCP_RTO_MAX)

    # -- input ----------------------------------------------------------------------------------

    def process(self, seg: Segment) -> TcpSock | None:
        """A segment for this pair: a child if it completes the handshake
        (rule C-5, `tcp_check_req`)."""
        seg.place(self.irs + 1, self.iss + 1)
        flags = seg.flags & (SYN | RST | ACK)
        if self.pending:
            if flags & RST and seg.seq == self.irs + 1:
                self.forget()  # the client has changed its mind
            return None
        past = self._is_past(seg)
        if flags == SYN and seg.seq == self.irs and not past:
            if not self._rate_limited(seg):
                self._repeat_synack(seg.now)
                self._set_deadline(seg.now + self._timeout())
            return None
        if flags & ACK and seg.ack != self.iss + 1 and not flags & RST:
            self.host.send_reset(seg)
            return None
        if not self._acceptable(seg, past):
            if not flags & RST and not self._rate_limited(seg):
                self._send_ack(seg.now)
            return None
        if seg.options.has_ts and self.tstamp_ok and seg.seq <= self.irs + 1:
            self.ts_recent = seg.options.tsval
        if seg.seq == self.irs:
            flags &= ~SYN  # what lies before the window does not count
        if flags & (RST | SYN):
            self._kill(seg)
            return None
        return self._complete(seg) if flags & ACK else None

    def _is_past(self, seg: Segment) -> bool:
        """PAWS. The age of `ts_recent` is a guess, as in the kernel."""
        if not seg.options.has_ts:
            return False
        stamp = seg.now - self._timeout()
        rst = seg.flags & RST != 0
        return paws_reject(self.ts_recent, stamp, seg.options.tsval, rst, seg.now)

    def _acceptable(self, seg: Segment, past: bool) -> bool:
        """Timestamps and sequence numbers; what fails is counted."""
        mib = self.host.net.mib
        tsecr = seg.options.tsecr
        if past:
            mib.drop("TCP_RFC7323_PAWS")
            mib.inc("TcpExtPAWSEstab")
        elif tsecr and self.tstamp_ok and not ts_between(tsecr, self.tsval_first, self.tsval_last):
            mib.drop("TCP_RFC7323_TSECR")
            mib.inc("TcpExtTSEcrRejected")
        elif not seg.in_window(self.irs + 1, self.irs + 1 + min(self.rcv_wnd, 65535)):
            mib.drop("TCP_OVERWINDOW")
        else:
            return True
        return False

    def _repeat_synack(self, now: int) -> None:
        """Our answer was lost, or its ACK."""
        self.num_retrans += 1
        self.host.net.mib.inc("TcpRetransSegs")
        self.host.net.mib.inc("TcpExtTCPSynRetrans")
        self.send_synack(now)

    def _kill(self, seg: Segment) -> None:
        """RST at the expected place, or a SYN in the window. RST elsewhere is a guess
        (RFC 5961 section 3)."""
        if seg.flags & RST:
            if seg.seq != self.irs + 1:
                if not self._rate_limited(seg):
                    self._send_ack(seg.now)
                return
        else:
            self.host.send_reset(seg)
        self.host.net.mib.inc("TcpExtEmbryonicRsts")
        self.host.net.mib.inc("TcpAttemptFails")
        self.forget()

    def _complete(self, seg: Segment) -> TcpSock | None:
        queue = self.listener.accept_queue
        if queue is None:
            return None
        mib = self.host.net.mib
        if self.num_timeout < self.listener.defer_accept and seg.end_seq == self.irs + 1:
            self.acked = True
            mib.inc("TcpExtTCPDeferAcceptDrop")
            return None
        if queue.is_full() or self.current_dst() is None:
            mib.inc("TcpExtListenOverflows", queue.is_full())
            mib.inc("TcpExtListenDrops")
            if self.host.net.sysctl.tcp_abort_on_overflow:
                self.host.send_reset(seg)
                mib.inc("TcpExtEmbryonicRsts")
                self.forget()
            self.acked = True
            return None
        self.forget()
        child = create_child(self, seg)
        queue.push(child)
        return child

    def _rate_limited(self, seg: Segment) -> bool:
        if seg.seq != seg.end_seq and not seg.flags & SYN:
            return False
        limit = self.host.net.sysctl.tcp_invalid_ratelimit * MS
        if self.last_oow_ack_time and seg.now - self.last_oow_ack_time < limit:
            self.host.net.mib.inc("TcpExtTCPACKSkippedSynRecv")
            return True
        self.last_oow_ack_time = seg.now
        return False

    def _send_ack(self, now: int) -> None:
        ts = (now // MS + self.tsoffset, self.ts_recent) if self.tstamp_ok else None
        options = data_options(ts, ())
        csum = (self.csum_base + 20 + len(options)) % 65535
        header = build(
            self.sport, self.dport, self.iss + 1, self.irs + 1, ACK,
            min(self.rcv_wnd >> self.rcv_wscale, 65535), options, csum=csum,
        )  # fmt: skip
        self.host.net.send_reply(IPPROTO_TCP, self.saddr, self.daddr, header, self.tos, now)


def conn_request(sk: TcpSock, seg: Segment, key: bytes, iss: int | None = None) -> None:
    """A SYN for listener `sk` (rule C-3). `iss`: continue a TIME_WAIT pair from there."""
    queue = sk.accept_queue
    mib = sk.net.mib
    if queue is None:
        return
    if iss is None and queue.syn_is_full():
        mib.inc("TcpExtTCPReqQFullDrop")
        mib.inc("TcpExtListenDrops")
        return
    if queue.is_full():
        mib.inc("TcpExtListenOverflows")
        mib.inc("TcpExtListenDrops")
        return
    try:
        dst = sk.net.route(seg.rx.src, seg.rx.dst, sk.bindtodevice)
    except OSError:
        mib.inc("TcpExtListenDrops")
        mib.drop("IP_OUTNOROUTES")
        return
    if iss is None and not _has_syn_room(sk, queue):
        mib.inc("TcpExtListenDrops")
        return
    request = Request(sk, seg, key, dst)
    request.iss = iss if iss is not None else sk.host.next_isn(request, seg.now)
    request.tsoffset = sk.host.ts_offset(request)
    queue.add_request(request)
    sk.host.established[key] = request
    if queue.on_syn is None:
        request.start(seg.now)
    else:
        request.wait_for_answer(seg)
        queue.on_syn(request)


def _has_syn_room(sk: TcpSock, queue: AcceptQueue) -> bool:
    """Without cookies the last quarter of tcp_max_syn_backlog is for clients known to be
    alive; none are remembered here."""
    sysctl = sk.net.sysctl
    limit: int = sysctl.tcp_max_syn_backlog
    return bool(sysctl.tcp_syncookies) or limit - queue.half_open >= limit >> 2


def listen_input(sk: TcpSock, seg: Segment, key: bytes, iss: int | None = None) -> bool:
    """A segment for a listener; false if it deserves a RST (rule C-10)."""
    if seg.flags & ACK:
        return seg.flags & RST != 0
    if seg.flags & (SYN | FIN | RST) == SYN:
        conn_request(sk, seg, key, iss)
    elif not seg.flags & RST:
        sk.net.mib.drop("TCP_FLAGS")
    return True


# -- calls ---------------------------------------------------------------------------------


def listen(sk: TcpSock, backlog: int, now: int) -> None:
    """listen(2) (rule C-1)."""
    backlog = _clamp_backlog(sk, backlog)
    if sk.state == LISTEN and sk.accept_queue is not None:
        sk.accept_queue.max_backlog = backlog
        return
    _require_unused(sk)
    if sk.sport:
        sk.host.ports.rebind_check(sk)
    else:
        sk.host.ports.bind(sk, sk.rcv_saddr, 0)
    _become_listener(sk, backlog)
    sk.host.add_listener(sk)


def listen_any(sk: TcpSock, backlog: int, on_syn: Callable[[Request], None], now: int) -> None:
    """Make `sk`, which must be unbound, the host's catch-all listener. A further call
    changes backlog and `on_syn`. EADDRINUSE: the host has one already.

    `on_syn(request)` is called from inside packet processing, once for each request that no
    other listener wants; `request` has `saddr, sport` (what the client wants to reach) and
    `daddr, dport` (the client). It, or anybody later, calls one of the request's answers;
    what is accepted and completes its handshake comes out of `accept`.
    """
    host = sk.host
    if host.catch_all is not sk:
        _require_unused(sk)
        if sk.sport:
            raise error(EINVAL)
        if host.catch_all is not None:
            raise error(EADDRINUSE)
        _become_listener(sk, 0)
        host.catch_all = sk
    if sk.accept_queue is not None:
        sk.accept_queue.max_backlog = _clamp_backlog(sk, backlog)
        sk.accept_queue.on_syn = on_syn


def _clamp_backlog(sk: TcpSock, backlog: int) -> int:
    somaxconn: int = sk.net.sysctl.somaxconn
    return somaxconn if backlog < 0 else min(backlog, somaxconn)


def _require_unused(sk: TcpSock) -> None:
    """Neither connected, nor connecting, nor failed to without anybody knowing."""
    if sk.state != CLOSE or sk.sock_state != SS_UNCONNECTED:
        raise error(EINVAL)


def _become_listener(sk: TcpSock, backlog: int) -> None:
    sk.accept_queue = AcceptQueue(backlog)
    sk.pingpong = 0
    set_state(sk, LISTEN)


def accept(sk: TcpSock, now: int) -> Sock | Op[Sock]:
    """accept(2): the oldest complete connection (rule C-6)."""
    queue = sk.accept_queue
    if sk.state != LISTEN or queue is None:
        raise error(EINVAL)
    if len(queue):
        return _take(queue)
    budget = sk.wait_budget(sk.rcvtimeo, 0)
    if not budget:
        raise would_block()
    return _accept(sk, now, now + budget if budget < NEVER else None)


def _accept(sk: TcpSock, now: int, deadline: int | None) -> Op[Sock]:
    while True:
        queue = sk.accept_queue
        if sk.state != LISTEN or queue is None:
            raise error(EINVAL)
        if len(queue):
            return _take(queue)
        if deadline is not None and now >= deadline:
            raise would_block()
        now = yield Wait(sk.wait_queue, deadline, exclusive=True)


def _take(queue: AcceptQueue) -> TcpSock:
    child = queue.pop()
    child.parent = None
    child.sock_state = SS_CONNECTED
    return child
