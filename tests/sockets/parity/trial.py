"""One run of one scenario: what a script may do, and the trace that comes of it.

A scenario is a function of a `Trial`. It makes sockets and calls on them, plays the peer
through flows, and lets time pass; everything it does is an event of the trace. It sees
normalized results (a value, or the name of an errno) and may branch on them.

    @parity("A-10")
    def test_fresh_socket(t):
        s = t.socket()
        t.check(s.send(10) == "EPIPE")

Steps stand 30 ms apart (`run`), so that neither side's timers fall between them in a
different order; `settle` is for steps between which no timer can be armed.
"""

from __future__ import annotations

import errno
import socket
import struct
import traceback
from collections.abc import Callable
from typing import Any

from tests.sockets.parity.kernel import KernelSut
from tests.sockets.parity.lateness import Lateness
from tests.sockets.parity.peer import EPHEMERAL, Flow, Seen, brief, icmp, pattern, udp
from tests.sockets.parity.shaper import Shaper
from tests.sockets.parity.stack import StackSut, VirtualClock
from tests.sockets.parity.trace import Event, Trace

MS = 1_000_000
LOCAL4, PEER4, LOCAL6, PEER6 = "10.9.0.2", "10.9.0.1", "fd00:9::2", "fd00:9::1"
PORT, PEER_PORT = 7000, 40000
STEP, SETTLE = 30.0, 4.0

SOL_SOCKET, SOL_IP, SOL_TCP, SOL_UDP, SOL_IPV6 = 1, 0, 6, 17, 41
SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK = 0x541B, 0x5411, 0x894B, 0x8905
MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, MSG_EOR = 0x1, 0x2, 0x20, 0x40, 0x80
MSG_WAITALL, MSG_ERRQUEUE, MSG_MORE = 0x100, 0x2000, 0x8000
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2

_POLL = (
    (0x1, "IN"), (0x2, "PRI"), (0x4, "OUT"), (0x8, "ERR"), (0x10, "HUP"), (0x20, "NVAL"),
    (0x40, "RDNORM"), (0x80, "RDBAND"), (0x100, "WRNORM"), (0x200, "WRBAND"), (0x2000, "RDHUP"),
)  # fmt: skip
# SO_MEMINFO; how much was set aside for later use (fwd_alloc) is nobody's business
_MEMINFO = ("rmem", "rcvbuf", "wmem", "sndbuf", None, "wmem_queued", "optmem", "backlog", "drops")
_INFO = struct.Struct("=8B24I4Q6I4Q2I2Q6I")
_INFO_NAMES = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "limited",
    "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets",
    "last_data_sent", "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu",
    "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh", "snd_cwnd", "advmss", "reordering",
    "rcv_rtt", "rcv_space", "total_retrans", "pacing_rate", "max_pacing_rate", "bytes_acked",
    "bytes_received", "segs_out", "segs_in", "notsent_bytes", "min_rtt", "data_segs_in",
    "data_segs_out", "delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited", "delivered",
    "delivered_ce", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack",
    "snd_wnd", "rcv_wnd", "rehash",
)  # fmt: skip


def poll_names(mask: int) -> str:
    return "|".join(name for bit, name in _POLL if mask & bit) or "0"


class Failed(AssertionError):
    """A script found what it did not expect."""


class Trial:
    """The script's side of one run."""

    def __init__(self, sut: KernelSut | StackSut, v6: bool) -> None:
        self.sut = sut
        self.v6 = v6
        self.local_text, self.peer_text = (LOCAL6, PEER6) if v6 else (LOCAL4, PEER4)
        self.af = socket.AF_INET6 if v6 else socket.AF_INET
        self.local = socket.inet_pton(self.af, self.local_text)
        self.peer = socket.inet_pton(self.af, self.peer_text)
        self.trace = Trace(sut.name)
        self.flows: list[Flow] = []
        self.started = sut.now()
        self.calls: list[Call] = []
        self._seen: list[Seen] = []
        self._window = 0
        self._names = 0

    # -- the trace ---------------------------------------------------------------------

    def event(self, kind: str, text: str, value: Any = None, since: float | None = None) -> None:
        at = (self.sut.now() - self.started) / MS
        self.trace.events.append(Event(kind, text, value, at, since))

    def rule(self, *rules: str) -> None:
        """From here on the script is about these rules."""
        self.event("rule", " ".join(rules))

    def check(self, fact: object, why: object = "") -> None:
        """What the rules say of either backend."""
        if not fact:
            raise Failed(f"{self.sut.name}: {why}")

    def counters(self, *names: str) -> dict[str, int]:
        """What these counters of nstat(8) have come to; those that have not moved are left
        out."""
        found = {name: n for name, n in self.sut.counters(names).items() if n}
        self.event("call", "counters", found)
        return found

    # -- time --------------------------------------------------------------------------

    def run(self, ms: float = STEP, quietly: bool = False) -> list[Seen]:
        """Let `ms` pass; the packets that came since the last time. `quietly`: they are
        for the script only and not compared."""
        sut = self.sut
        self._window = sut.now()
        self._seen = []
        sut.pump(self._window + round(ms * MS), self._take)
        if not quietly:
            self.event("run", f"{ms:g} ms")
            for seen in self._seen:
                at = (self._window - self.started) / MS + seen.at
                self.trace.events.append(Event("wire", seen.text, None, at, seen.at))
        for call in [*self.calls]:
            call.look()
        return self._seen

    def settle(self) -> list[Seen]:
        """Let pass only what any reaction takes that waits for no timer."""
        return self.run(SETTLE)

    def _take(self, raw: bytes, at: int) -> None:
        seen = Seen(self, raw, (at - self._window) / MS)
        if not seen.noise:
            self._seen.append(seen)

    # -- the peer ----------------------------------------------------------------------

    def flow(self, port: int = PEER_PORT, **settings: Any) -> Flow:
        """A connection as the peer will play it."""
        flow = Flow(self, port, **settings)
        self.flows.append(flow)
        return flow

    def find_flow(self, sport: int, dport: int, syn: bool) -> Flow | None:
        for flow in self.flows:
            if flow.port == dport and flow.sport == sport:
                return flow
        for flow in self.flows:
            if syn and flow.port == dport and flow.sport is None:
                flow.sport = sport
                return flow
        return self.flow(dport, sport=sport) if syn else None

    def inject(self, packet: bytes, text: str) -> None:
        self.event("peer", text)
        self.sut.inject(packet)

    def udp(self, data: bytes, sport: int = PEER_PORT, dport: int = PORT, **plant: Any) -> None:
        """The peer sends a datagram; `plant` as `peer.udp`, and `src` and `dst`."""
        shown = "".join(f" {key} {_brief(value)}" for key, value in plant.items())
        src, dst = plant.pop("src", self.peer), plant.pop("dst", self.local)
        packet = udp(src, dst, sport, dport, data, **plant)
        self.inject(packet, f"udp {sport}>{dport} {brief(data)}{shown}")

    def ip(self, packet: bytes, text: str = "") -> None:
        """The peer sends any packet at all."""
        self.inject(packet, text or f"packet {brief(packet)}")

    def icmp_error(self, kind: int, code: int, quoted: Seen | bytes, rest: int = 0) -> None:
        """An ICMP error (of the family's own numbers) about a packet that the system sent."""
        raw = quoted if isinstance(quoted, bytes) else quoted.raw
        quote = raw[: 20 + 8] if not self.v6 else raw[: 40 + 20]
        packet = icmp(self.peer, self.local, kind, code, rest, quote)
        self.inject(packet, f"icmp {kind}/{code} rest {rest:#x}")

    # -- sockets -----------------------------------------------------------------------

    def socket(self, kind: str = "tcp", cc: str | None = "reno") -> Socket:
        """A fresh non-blocking socket; TCP with this congestion control."""
        type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        raw = self.sut.socket(self.af, type_)
        if kind == "tcp" and cc is not None:
            raw.setsockopt(SOL_TCP, socket.TCP_CONGESTION, cc.encode())
        return self.wrap(raw)

    def make(self, family: int, type_: int, proto: int = 0) -> Any:
        """socket(2) with any arguments: a `Socket` or an errno, closed again at once."""
        value: Any = "a socket"
        try:
            self.sut.socket(family, type_, proto).close()
        except OSError as why:
            value = errno.errorcode.get(why.errno or 0, str(why))
        self.event("call", f"socket({family}, {type_:#x}, {proto})", value)
        return value

    def wrap(self, raw: Any) -> Socket:
        self._names += 1
        return Socket(self, raw, f"s{self._names}" if self._names > 1 else "s")

    def connected(
        self,
        *,
        prepare: Callable[[Socket], None] | None = None,
        cc: str = "reno",
        rtt: float = SETTLE,
        **settings: Any,
    ) -> tuple[Socket, Flow]:
        """An active open, completed `rtt` ms after the SYN."""
        s = self.socket(cc=cc)
        if prepare is not None:
            prepare(s)
        flow = self.flow(PEER_PORT + len(self.flows), **settings)
        s.connect(flow.port)
        self.run(rtt)
        flow.syn_ack()
        self.settle()
        return s, flow

    def listener(self, backlog: int = 8, **options: Any) -> Socket:
        """A listener on PORT."""
        s = self.socket(**options)
        s.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind("", PORT)
        s.listen(backlog)
        return s

    def accepted(
        self,
        listener: Socket | None = None,
        *,
        rtt: float = SETTLE,
        prepare: Callable[[Socket], None] | None = None,
        **settings: Any,
    ) -> tuple[Socket, Flow]:
        """A passive open, completed `rtt` ms after the SYN-ACK, and accepted."""
        if listener is None:
            listener = self.listener()
        if prepare is not None:
            prepare(listener)
        flow = self.flow(PEER_PORT + len(self.flows), sport=PORT, **settings)
        flow.syn()
        self.run(rtt)
        flow.ack(1)
        self.settle()
        s = listener.accept()
        assert isinstance(s, Socket), s
        return s, flow


class Call:
    """A blocking call under way."""

    def __init__(self, owner: Socket, text: str, raw: Any) -> None:
        self.owner = owner
        self.text = text
        self.raw = raw
        self.value: Any = None
        self.done = False
        owner.trial.calls.append(self)
        self.look()

    def look(self) -> None:
        """Note its end, if it has ended."""
        outcome = self.raw.outcome
        if self.done or outcome is None:
            return
        self.done = True
        at, result = outcome
        trial = self.owner.trial
        trial.calls.remove(self)
        self.value = self.owner.plain(result)
        since = max(0.0, (at - trial._window) / MS)
        shown = "a socket" if isinstance(self.value, Socket) else self.value
        trial.event("done", self.text, shown, since)


class Socket:
    """The calls of a program, recorded. A result is a plain value or an errno's name."""

    def __init__(self, trial: Trial, raw: Any, name: str) -> None:
        self.trial = trial
        self.raw = raw
        self.label = name
        self.sent = 0  # bytes accepted by `send`, for the pattern

    def plain(self, result: Any) -> Any:
        """A result as both backends show it."""
        if isinstance(result, OSError):
            return errno.errorcode.get(result.errno or 0, str(result))
        if isinstance(result, tuple) and len(result) == 5:
            return self._message(*result)
        if isinstance(result, tuple) and len(result) == 2 and hasattr(result[0], "getsockname"):
            return self.trial.wrap(result[0])
        return result

    def _message(self, data: bytes, flags: int, control: Any, addr: Any, n: int) -> Any:
        words = [brief(data) if n == len(data) else f"{n} of {brief(data)}"]
        if flags:
            words.append(f"flags {flags:#x}")
        if control:
            words.append(f"control {[(level, kind, bytes(d).hex()) for level, kind, d in control]}")
        if addr:
            words.append(f"from {addr[0]} {addr[1]}")
        return Message(" ".join(words), data, n)

    def _call(
        self, text: str, call: Callable[[], Any], show: Callable[[Any], Any] = lambda v: v
    ) -> Any:
        try:
            value = show(self.plain(call()))
        except OSError as why:
            value = self.plain(why)
        shown = "a socket" if isinstance(value, Socket) else value
        self.trial.event("call", f"{self.label}.{text}", _Shown(shown) if shown is None else shown)
        return value

    # -- addresses ---------------------------------------------------------------------

    def _addr(self, host: str | None, port: int) -> Any:
        host = self.trial.peer_text if host is None else host
        return (host, port, 0, 0) if self.trial.v6 else (host, port)

    def bind(self, host: str, port: int) -> Any:
        return self._call(f"bind({host}, {port})", lambda: self.raw.bind(self._addr(host, port)))

    def listen(self, backlog: int) -> Any:
        return self._call(f"listen({backlog})", lambda: self.raw.listen(backlog))

    def accept(self, flags: int = 0) -> Any:
        """A `Socket`, or an errno."""
        return self._call(f"accept({flags or ''})", lambda: self.raw.accept(flags))

    def connect(self, port: int = PEER_PORT, host: str | None = None) -> Any:
        to = self._addr(host, port)
        return self._call(f"connect({to[0]}, {port})", lambda: self.raw.connect(to))

    def disconnect(self) -> Any:
        return self._call("connect(AF_UNSPEC)", self.raw.disconnect)

    def name(self) -> Any:
        return self._call("getsockname()", self.raw.getsockname, _own_address)

    def peername(self) -> Any:
        return self._call("getpeername()", self.raw.getpeername, lambda a: f"{a[0]} {a[1]}")

    # -- data --------------------------------------------------------------------------

    def send(self, data: bytes | int, flags: int = 0, to: Any = None, control: Any = ()) -> Any:
        """Send bytes, or that many bytes of the pattern; `to` is (host or None, port)."""
        body = pattern(self.sent, data) if isinstance(data, int) else data
        text = f"send({data if isinstance(data, int) else brief(data)}"
        text += (f", {flags:#x}" if flags else "") + (f", to {to}" if to else "") + ")"
        addr = self._addr(*to) if to is not None else None
        n = self._call(text, lambda: self.raw.send(body, flags, addr, control))
        if isinstance(n, int):
            self.sent += n
        return n

    def recv(self, length: int = 1 << 20, flags: int = 0) -> Any:
        """A `Message`, or an errno."""
        text = f"recv({length}{f', {flags:#x}' if flags else ''})"
        return self._call(text, lambda: self.raw.recv(length, flags))

    def raw_recv(self) -> Any:
        """Receive without a word in the trace: for what may differ from run to run."""
        try:
            return self.raw.recv(1 << 16)
        except OSError as why:
            return self.plain(why)

    def start_send(self, data: int, flags: int = 0) -> Call:
        body = pattern(self.sent, data)
        return self._start(f"send({data})", lambda raw: raw.send(body, flags))

    def start_recv(self, length: int, flags: int = 0) -> Call:
        return self._start(f"recv({length}, {flags:#x})", lambda raw: raw.recv(length, flags))

    def start_accept(self) -> Call:
        return self._start("accept()", lambda raw: raw.accept())

    def start_connect(self, port: int = PEER_PORT, host: str | None = None) -> Call:
        to = self._addr(host, port)
        return self._start(f"connect({to[0]}, {port})", lambda raw: raw.connect(to))

    def start_close(self) -> Call:
        return self._start("close()", lambda raw: raw.close())

    def _start(self, text: str, call: Callable[[Any], Any]) -> Call:
        text = f"{self.label}.{text}"
        self.trial.event("call", f"{text} begins")
        return Call(self, text, self.raw.start(call))

    # -- the rest ----------------------------------------------------------------------

    def set(self, level: int, name: int, value: int | bytes) -> Any:
        raw = struct.pack("i", _int32(value)) if isinstance(value, int) else value
        shown = value if isinstance(value, int) else value.hex()
        text = f"setsockopt({level}, {name}, {shown})"
        return self._call(text, lambda: self.raw.setsockopt(level, name, raw))

    def get(self, level: int, name: int) -> Any:
        """An int option."""
        call = lambda: self.raw.getsockopt(level, name, 4)  # noqa: E731
        return self._call(
            f"getsockopt({level}, {name})", call, lambda v: int.from_bytes(v, "little", signed=True)
        )

    def get_bytes(self, level: int, name: int, size: int) -> Any:
        return self._call(
            f"getsockopt({level}, {name}, {size})",
            lambda: self.raw.getsockopt(level, name, size),
            bytes.hex,
        )

    def ioctl(self, request: int) -> Any:
        return self._call(f"ioctl({request:#x})", lambda: self.raw.ioctl(request))

    def queues(self) -> tuple[Any, Any, Any]:
        """SIOCOUTQ, SIOCOUTQNSD, SIOCINQ."""
        return self.ioctl(SIOCOUTQ), self.ioctl(SIOCOUTQNSD), self.ioctl(SIOCINQ)

    def poll(self) -> str:
        names = self._call("poll()", self.raw.poll, poll_names)
        assert isinstance(names, str)
        return names

    def mem(self, *only: str) -> dict[str, int]:
        """SO_MEMINFO by name."""

        def show(raw: bytes) -> dict[str, int]:
            named = zip(_MEMINFO, struct.unpack("9I", raw), strict=True)
            return {k: v for k, v in named if k is not None and (not only or k in only)}

        found = self._call("meminfo()", lambda: self.raw.getsockopt(SOL_SOCKET, 55, 36), show)
        assert isinstance(found, dict), found
        return found

    def info(self, *only: str) -> dict[str, int]:
        """These fields of tcp_info."""

        def show(raw: bytes) -> dict[str, int]:
            named = dict(zip(_INFO_NAMES, _INFO.unpack_from(raw), strict=True))
            return {name: named[name] for name in only}

        found = self._call("tcp_info", lambda: self.raw.getsockopt(SOL_TCP, 11, 248), show)
        assert isinstance(found, dict), found
        return found

    def shutdown(self, how: int) -> Any:
        return self._call(f"shutdown({how})", lambda: self.raw.shutdown(how))

    def close(self) -> Any:
        return self._call("close()", self.raw.close)


class Message(str):
    """What a receive call returned: its text for the trace, `data` and `n` for the script."""

    data: bytes
    n: int

    def __new__(cls, text: str, data: bytes = b"", n: int = 0) -> Message:
        made = super().__new__(cls, text)
        made.data, made.n = data, n
        return made

    def __reduce__(self) -> Any:
        return str, (str(self),)


class _Shown(str):
    """A result that is None, as it is to be seen in a trace."""

    def __new__(cls, value: object) -> _Shown:
        return super().__new__(cls, "ok" if value is None else value)

    def __reduce__(self) -> Any:
        return str, (str(self),)


def _own_address(addr: Any) -> str:
    return f"{addr[0]} {'ephemeral' if addr[1] >= EPHEMERAL else addr[1]}"


def _brief(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _int32(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def play(
    body: Callable[..., None],
    backend: str,
    v6: bool,
    settings: dict[str, Any],
    case: Any = None,
    mtu: int = 1500,
    shaper: Shaper | None = None,
) -> Trace:
    """Run a scenario once. `backend` is "kernel", "ustack" or "virtual"."""
    local = LOCAL6 if v6 else LOCAL4
    sut: KernelSut | StackSut
    if backend == "kernel":
        sut = KernelSut(v6, local, PEER6 if v6 else PEER4, settings, mtu, shaper)
    else:
        clock = VirtualClock() if backend == "virtual" else None
        sut = StackSut(v6, local, settings, mtu, clock, shaper)
    sut.align()
    trial = Trial(sut, v6)
    try:
        with Lateness() as lateness:
            body(trial) if case is None else body(trial, case)
    except Exception:
        trial.trace.error = traceback.format_exc()
    finally:
        sut.close()
    trial.trace.late = lateness.ms
    return trial.trace
