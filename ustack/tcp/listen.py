"""The passive side: half-open requests and the accept queue.

A SYN to a listener makes a `Request`, a light object that stands in the connection table,
answers with a SYN-ACK and repeats it. The handshake's last ACK turns it into a child
socket in the accept queue, where `accept` finds it. The accept queue holds backlog + 1;
when it is full, SYNs are dropped (the client tries again) and a completing ACK is
ignored, so that a later one can still succeed.

A catch-all listener (`host.catch_all`) receives the SYNs that no other listener wants,
for any local address, and may think before it answers: `on_syn(request)` is called once,
and the request waits until `accept()`, `refuse()`, `unreachable(code)` or `drop()`.
Repeated SYNs join the waiting request. Requests are bounded by the backlog and expire.

SYN cookies would be a third kind of answer in `conn_request`; they come later.

Sources: RFC 9293 section 3.10.7.2, Linux `tcp_conn_request`, `tcp_check_req`,
`reqsk_timer_handler`, `inet_csk_accept`; rules C-1 to C-10.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from errno import EINVAL
from typing import TYPE_CHECKING

from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.sock import RCVBUF_LOCK, Sock, would_block
from ustack.sock.wait import Op, Wait
from ustack.tcp import window
from ustack.tcp.handshake import create_child
from ustack.tcp.lifecycle import set_state
from ustack.tcp.mss import advertise_mss
from ustack.tcp.segment import Segment
from ustack.tcp.sock import MS, SEC, TcpSock
from ustack.tcp.state import CLOSE, LISTEN, SS_CONNECTED, SS_UNCONNECTED, SYN_RECV
from ustack.tcp.paws import ts_diff
from ustack.wire.packet import IPPROTO_TCP
from ustack.wire.tcp import ACK, RST, SYN, build, data_options, syn_options

if TYPE_CHECKING:
    from ustack.tcp.host import TcpHost

SYNACK_TIMEOUT = 1 * SEC


class AcceptQueue:
    """A listener's two queues: half-open requests, and children waiting for accept."""

    __slots__ = ("_children", "_requests", "max_backlog", "on_syn")

    def __init__(self, max_backlog: int) -> None:
        self.max_backlog = max_backlog
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

    def remove_request(self, request: Request) -> None:
        self._requests.pop(request.key, None)

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
        "acked", "advmss", "csum_base", "daddr", "deadline", "dport", "heap_at", "host", "iif",
        "irs", "iss", "key", "last_oow_ack_time", "listener", "mss", "num_retrans", "num_timeout",
        "pending", "rcv_wnd", "rcv_wscale", "sack_ok", "saddr", "sent_at", "snd_wscale", "sport",
        "state", "syn", "tos", "ts_recent", "tsoffset", "tstamp_ok", "window_clamp", "wscale_ok",
    )  # fmt: skip

    def __init__(self, listener: TcpSock, seg: Segment, key: bytes) -> None:
        host = listener.host
        rx, options, sysctl = seg.rx, seg.options, host.net.sysctl
        self.host: TcpHost = host
        self.listener = listener
        self.key = key
        self.state = SYN_RECV
        self.saddr, self.daddr = rx.dst, rx.src
        self.sport, self.dport = seg.dport, seg.sport
        self.iif = rx.iif
        self.tos = listener.tos
        self.irs = seg.raw_seq
        self.iss = 0
        self.tsoffset = 0
        self.csum_base = host.pseudo_base(self.saddr, self.daddr)
        self.mss = options.mss or 536
        self.tstamp_ok = bool(sysctl.tcp_timestamps) and options.has_ts
        self.ts_recent = options.tsval
        self.sack_ok = sysctl.tcp_sack and options.sack_perm
        self.wscale_ok = sysctl.tcp_window_scaling and options.wscale >= 0
        self.snd_wscale = options.wscale if self.wscale_ok else 0
        self.advmss = self.rcv_wnd = self.rcv_wscale = self.window_clamp = 0
        self.num_timeout = self.num_retrans = 0
        self.acked = False
        self.pending = False  # the catch-all has not answered yet
        self.sent_at = 0
        self.last_oow_ack_time = 0
        self.deadline = NEVER
        self.heap_at = NEVER
        self.syn: Segment | None = None

    # -- what a catch-all listener may answer ---------------------------------------------

    def accept(self, now: int) -> None:
        """Answer with a SYN-ACK: the connection will come out of the listener's accept."""
        if self.pending:
            self.pending = False
            self.syn = None
            self.start(now)

    def refuse(self, now: int) -> None:
        """Answer with a RST: connection refused."""
        if self.pending and self.syn is not None:
            self.host.send_reset(self.syn)
            self.forget()

    def unreachable(self, code: int) -> None:
        """Answer with an ICMP destination unreachable of this code."""
        if self.pending and self.syn is not None:
            self.host.net.icmp_unreach(self.syn.rx, code)
            self.forget()

    def drop(self) -> None:
        """Do not answer; a repeated SYN is a new request."""
        if self.pending:
            self.forget()

    # -- life ---------------------------------------------------------------------------------

    def start(self, now: int) -> None:
        """Choose the window, send the first SYN-ACK, start its timer."""
        self._init_window()
        self.deadline = now + SYNACK_TIMEOUT
        self.host.net.deadlines.arm(self, self.deadline)
        self.send_synack(now)

    def _init_window(self) -> None:
        """As `rcvbuf.init_window`, for a socket that does not exist yet (rule B-60)."""
        sk, sysctl = self.listener, self.host.net.sysctl
        dst = self.host.net.route(self.daddr, self.saddr)
        self.advmss = advertise_mss(dst.dev.mtu, dst.version == 6, sk.user_mss, sysctl.min_adv_mss)
        full = window.win_from_space(sk.rcvbuf, sk.scaling_ratio)
        clamp = window.initial_clamp(sk.window_clamp, full, bool(sk.userlocks & RCVBUF_LOCK))
        self.rcv_wnd, self.window_clamp, self.rcv_wscale = window.select_initial_window(
            full,
            self.advmss - (12 if self.tstamp_ok else 0),
            clamp,
            self.wscale_ok,
            sysctl.tcp_rmem[2],
            sysctl.rmem_max,
        )

    def forget(self) -> None:
        """Leave the tables without a packet."""
        self.deadline = NEVER
        self.host.established.pop(self.key, None)
        if self.listener.accept_queue is not None:
            self.listener.accept_queue.remove_request(self)

    def send_synack(self, now: int) -> None:
        """SYN-ACK: DF, IP id 0 (rule C-4)."""
        ts = (now // MS + self.tsoffset, self.ts_recent) if self.tstamp_ok else None
        options = syn_options(
            self.advmss, self.rcv_wscale if self.wscale_ok else None, self.sack_ok, ts
        )
        csum = (self.csum_base + 20 + len(options)) % 65535
        header = build(
            self.sport, self.dport, self.iss, self.irs + 1, SYN | ACK,
            min(self.rcv_wnd, 65535), options, csum=csum,
        )  # fmt: skip
        self.sent_at = now
        self.host.net.send_reply(IPPROTO_TCP, self.saddr, self.daddr, header, self.tos, now)
        self.host.net.mib.values["TcpOutSegs"] += 1

    def next_deadline(self) -> int:
        return self.deadline

    def handle_timeout(self, now: int) -> None:
        """No ACK yet: repeat the SYN-ACK, or give up (`reqsk_timer_handler`)."""
        net = self.host.net
        retries = self.listener.syn_retries or net.sysctl.tcp_synack_retries
        if self.pending or self.num_timeout >= max(retries, self.listener.defer_accept):
            net.mib.inc("TcpAttemptFails")
            self.forget()
            return
        self.num_timeout += 1
        if not (self.acked and self.num_timeout < self.listener.defer_accept):
            self.num_retrans += 1
            net.mib.inc("TcpRetransSegs")
            net.mib.inc("TcpExtTCPSynRetrans")
            self.send_synack(now)
        self.deadline = now + (SYNACK_TIMEOUT << self.num_timeout)

    # -- input ----------------------------------------------------------------------------------

    def process(self, seg: Segment) -> TcpSock | None:
        """A segment for this pair: a child if it completes the handshake
        (rule C-5, `tcp_check_req`)."""
        seg.place(self.irs + 1, self.iss + 1)
        flags = seg.flags
        if seg.raw_seq == self.irs and flags & (SYN | RST | ACK) == SYN:
            if not self.pending and not self._rate_limited(seg.now):
                self._repeat_synack(seg.now)
            return None
        if self.pending:
            return None
        if flags & ACK and seg.ack != self.iss + 1:
            self.host.send_reset(seg)
            return None
        if self._paws_reject(seg) or not self._in_window(seg):
            if not flags & RST and not self._rate_limited(seg.now):
                self._send_ack(seg.now)
            return None
        if flags & RST or flags & SYN:
            self._kill(seg)
            return None
        if not flags & ACK:
            return None
        return self._complete(seg)

    def _repeat_synack(self, now: int) -> None:
        """The client repeats its SYN: our answer was lost."""
        self.num_retrans += 1
        self.host.net.mib.inc("TcpRetransSegs")
        self.host.net.mib.inc("TcpExtTCPSynRetrans")
        self.send_synack(now)

    def _kill(self, seg: Segment) -> None:
        """RST at the expected place, or a SYN in the window."""
        if seg.flags & SYN:
            self.host.send_reset(seg)
        elif seg.seq != self.irs + 1:
            if not self._rate_limited(seg.now):
                self._send_ack(seg.now)  # a challenge, as RFC 5961 has it
            return
        self.host.net.mib.inc("TcpExtEmbryonicRsts")
        self.host.net.mib.inc("TcpAttemptFails")
        self.forget()

    def _complete(self, seg: Segment) -> TcpSock | None:
        queue = self.listener.accept_queue
        if queue is None:
            return None
        if self.listener.defer_accept > self.num_timeout and seg.end_seq == self.irs + 1:
            self.acked = True
            self.host.net.mib.inc("TcpExtTCPDeferAcceptDrop")
            return None
        if queue.is_full():
            self.host.net.mib.inc("TcpExtListenOverflows")
            if self.host.net.sysctl.tcp_abort_on_overflow:
                self.host.send_reset(seg)
                self.forget()
            self.acked = True
            return None
        self.forget()
        child = create_child(self, seg)
        queue.push(child)
        return child

    def _paws_reject(self, seg: Segment) -> bool:
        if not self.tstamp_ok or not seg.options.has_ts or seg.flags & RST:
            return False
        return ts_diff(self.ts_recent, seg.options.tsval) > 1

    def _in_window(self, seg: Segment) -> bool:
        start = self.irs + 1
        end = start + self.rcv_wnd
        return seg.seq == start or (seg.seq < end and seg.end_seq > start)

    def _rate_limited(self, now: int) -> bool:
        limit = self.host.net.sysctl.tcp_invalid_ratelimit * MS
        if self.last_oow_ack_time and now - self.last_oow_ack_time < limit:
            self.host.net.mib.inc("TcpExtTCPACKSkippedSynRecv")
            return True
        self.last_oow_ack_time = now
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
        request = Request(sk, seg, key)
        sk.net.route(request.daddr, request.saddr)
    except OSError:
        mib.inc("TcpExtListenDrops")
        mib.drop("IP_OUTNOROUTES")
        return
    request.iss = iss if iss is not None else sk.host.next_isn(request, seg.now)
    request.tsoffset = sk.host.ts_offset(request)
    queue.add_request(request)
    sk.host.established[key] = request
    if queue.on_syn is None:
        request.start(seg.now)
        return
    request.pending = True
    request.syn = seg
    request.deadline = seg.now + 64 * SYNACK_TIMEOUT
    sk.net.deadlines.arm(request, request.deadline)
    queue.on_syn(request)


def listen_input(sk: TcpSock, seg: Segment, key: bytes) -> bool:
    """A segment for a listener; false if it deserves a RST (rule C-10)."""
    if seg.flags & ACK:
        return seg.flags & RST != 0
    if seg.flags & RST:
        return True
    if seg.flags & SYN:
        if seg.flags & 1:
            sk.net.mib.drop("TCP_FLAGS")
        else:
            conn_request(sk, seg, key)
        return True
    sk.net.mib.drop("TCP_FLAGS")
    return True


# -- calls ---------------------------------------------------------------------------------


def listen(sk: TcpSock, backlog: int, now: int) -> None:
    """listen(2) (rule C-1)."""
    somaxconn = sk.net.sysctl.somaxconn
    backlog = somaxconn if backlog < 0 else min(backlog, somaxconn)
    if sk.state == LISTEN and sk.accept_queue is not None:
        sk.accept_queue.max_backlog = backlog
        return
    if sk.state != CLOSE or sk.sock_state != SS_UNCONNECTED:
        raise error(EINVAL)
    queue = AcceptQueue(backlog)
    if sk.sport:
        sk.host.ports.rebind_check(sk)
    else:
        sk.host.ports.bind(sk, b"", 0)
    sk.accept_queue = queue
    set_state(sk, LISTEN)
    sk.host.add_listener(sk)


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
    return _accept(sk, now + budget if budget < NEVER else None)


def _accept(sk: TcpSock, deadline: int | None) -> Op[Sock]:
    while True:
        now = yield Wait(sk.wait_queue, deadline, exclusive=True)
        queue = sk.accept_queue
        if sk.state != LISTEN or queue is None:
            raise error(EINVAL)
        if len(queue):
            return _take(queue)
        if deadline is not None and now >= deadline:
            raise would_block()


def _take(queue: AcceptQueue) -> TcpSock:
    child = queue.pop()
    child.parent = None
    child.sock_state = SS_CONNECTED
    return child
