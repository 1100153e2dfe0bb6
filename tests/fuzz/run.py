"""One program on one backend: `play(program, sut, plan)` gives a trace and the plan.

The stack runs in virtual time and makes the plan (`timeline`); the kernel is given it. Both
leave a trace as in `tests/sockets/parity/trace.py`: results of calls, segments of the peer,
what the system under test sent in each interval, and after each interval the state of the
socket: poll aside (that has side effects and is an operation), every ioctl, SO_MEMINFO and what
tcp_info says of the state that is no time.

The peer is as stupid as the program: it remembers the highest number that it sent (`top`),
the last ACK that it got (`edge`) and the last that it gave (`acked`), nothing else.
"""

from __future__ import annotations

import socket
import struct
import traceback
from typing import Any

from tests.fuzz.program import GAP, SOL_TCP, Op, Program
from tests.fuzz.slow import SLOW, SlowKernel
from tests.fuzz.timeline import LONGEST, MS, TICK, ExactWheel, Watch, aligned
from tests.fuzz.trial import FuzzClock, FuzzTrial, select
from tests.sockets.parity.kernel import KernelSut
from tests.sockets.parity.peer import Seen, pattern
from tests.sockets.parity.stack import StackSut
from tests.sockets.parity.trace import Trace
from tests.sockets.parity.trial import _INFO as INFO
from tests.sockets.parity.trial import _INFO_NAMES as INFO_NAMES
from tests.sockets.parity.trial import (
    LOCAL4,
    LOCAL6,
    PEER4,
    PEER6,
    PORT,
    SIOCATMARK,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    SOL_SOCKET,
    Call,
    Socket,
)
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CLOSE, LISTEN

SO_TIMESTAMP = 29
_INFO = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "snd_mss",
    "rcv_mss", "unacked", "sacked", "lost", "retrans", "pmtu", "rcv_ssthresh", "snd_ssthresh",
    "snd_cwnd", "advmss", "reordering", "rcv_space", "total_retrans", "bytes_acked",
    "bytes_received", "segs_out", "segs_in", "notsent_bytes", "data_segs_in", "data_segs_out",
    "delivered", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack",
    "snd_wnd", "rcv_wnd",
)  # fmt: skip
# names and units of times in tcp_info
_TIMES = (
    ("last_data_sent", 1), ("last_data_recv", 1), ("last_ack_recv", 1), ("rto", 1000),
    ("ato", 1000), ("busy_time", 1000), ("rwnd_limited", 1000), ("sndbuf_limited", 1000),
)  # fmt: skip
_MEM = ("rmem", "rcvbuf", "sndbuf", "wmem_queued", "drops")
_PORTS = range(20_000, 32_000)
STRETCHES = (1, 2, 4, 7)

# (type, code) for IPv4 and IPv6
ICMP = {
    "net": ((3, 0), (1, 0)), "host": ((3, 1), (1, 3)), "proto": ((3, 2), (4, 1)),
    "port": ((3, 3), (1, 4)), "frag": ((3, 4), (2, 0)), "admin": ((3, 13), (1, 1)),
    "quench": ((4, 0), (1, 2)), "ttl": ((11, 0), (3, 0)), "param": ((12, 0), (4, 0)),
}  # fmt: skip
# control messages of a send: SO_MARK, one that there is not, one for another level
CONTROL = {
    "mark": (SOL_SOCKET, 36, bytes(4)), "bad": (SOL_SOCKET, 99, bytes(4)), "other": (0, 99, b"1"),
}  # fmt: skip


class Ended(Exception):
    """Here the plan ends: no moment for the next step was found within LONGEST, or a timer has
    fired of which the lateness of the kernel's would decide what it does."""


class Player:
    """Plays one program."""

    stretch = 0  # ticks by which every wait is longer than the program says

    def __init__(self, program: Program, trial: FuzzTrial, plan: list[int] | None) -> None:
        self.program = program
        self.trial = trial
        self.setup: dict[str, Any] = dict(program.setup)
        self.given = plan
        self.plan: list[int] = []
        self.nominal = 0
        self.watch: Watch | None = None
        self.socket: Socket | None = None
        self.blocked: dict[str, Call] = {}
        self.packets: list[Seen] = []  # of the system under test
        self.top = self.edge = self.acked = 1
        self.ended = False  # the peer has sent a FIN: top is behind it

    # -- time --------------------------------------------------------------------------

    def wait(self, gap: int) -> None:
        """Let `gap` ms pass, or as many as the plan says, or as the planner finds."""
        if self.given is None and isinstance(self.trial.sut, StackSut):
            gap = self._find(gap, self.trial.sut)
        elif self.given is not None:
            gap = self._planned()
            self.nominal += gap
            self.trial.advance(self.nominal, gap)
        self.plan.append(gap)
        for seen in self.trial.seen_now:
            self.packets.append(seen)
            if "A" in seen.flags:
                self.edge = max(self.edge, seen.ack)

    def _planned(self) -> int:
        assert self.given is not None
        if len(self.plan) == len(self.given):
            raise Ended
        return self.given[len(self.plan)]

    def pause(self) -> None:
        """Between two things at once: unless a timer is about to fire that knows no ticks,
        no time passes."""
        if self.given is None:
            none = self.watch is None or not self.watch.hurried()
        else:
            none = not self._planned()
        if none:
            self.plan.append(0)
        else:
            self.wait(TICK)

    def _find(self, gap: int, sut: StackSut) -> int:
        """Pump the stack tick by tick until `gap` has passed and no timer is near."""
        trial, start = self.trial, self.nominal
        gap += self.stretch * TICK
        trial.begin_interval()
        while True:
            if self.watch is not None:
                self.watch.look(trial.started + self.nominal * MS, sut)
            self.nominal += TICK
            now = trial.started + self.nominal * MS
            sut.pump(now, trial._take)
            if self.watch is not None:
                self.watch.passed(now, sut)
                if self.watch.undecided:
                    raise Ended
            spent = self.nominal - start
            free = self.watch is None or self.watch.clear(now, sut)
            if spent >= gap and free:
                break
            if spent > gap + LONGEST:
                raise Ended
        text = f"{self.nominal - start} ms"
        if self.watch is None:
            trial.finish_interval(text)
        else:
            noise = self.watch.noise
            trial.finish_interval(text, self.watch.early + noise, self.watch.slack + noise)
            self.watch.slack = self.watch.early = 0
            self._note()
        return self.nominal - start

    # -- opening -----------------------------------------------------------------------

    def play(self) -> None:
        self.open()
        self.observe()
        for gap, op in self.program.steps:
            if gap:
                self.wait(gap)
                self.observe()
            else:
                self.pause()
            self.step(op)
        self.wait(GAP)
        self.observe()
        self.wait(300)
        self.observe()

    def open(self) -> None:
        t, s = self.trial, self.setup
        first = t.socket()
        for op in s["early"]:
            self.step(op, first)
        settings = {name: s[name] for name in ("mss", "window", "wscale", "sack", "ts")}
        settings["ts"] &= s["mss"] is not None  # a peer without options has none later
        if s["passive"]:
            first.set(SOL_SOCKET, 2, 1)
            first.bind("", PORT)
            first.listen(8)
            self.flow = t.flow(t.port, sport=PORT, **settings)
            self._accept(first)
        else:
            self.flow = t.flow(t.port, **settings)
            self._connect(first)

    def _accept(self, listener: Socket) -> None:
        waiting = listener.start_accept() if self.setup["blocking"] else None
        self.flow.syn()
        self._handshake(listener)
        self.flow.ack(1)
        self.wait(GAP)
        child = waiting.value if waiting is not None else listener.accept()
        if not isinstance(child, Socket):  # TCP_DEFER_ACCEPT: it waits for data
            self.peer_data("top", 0, 10, "PA", "all")
            self.wait(GAP)
            child = waiting.value if waiting is not None else listener.accept()
        if waiting is None or waiting.done:
            listener.close()
        if isinstance(child, Socket):
            self._adopt(child)

    def _connect(self, s: Socket) -> None:
        self._adopt(s)
        to = s._addr(None, self.trial.port)
        if self.setup["blocking"]:
            self.blocked["connect"] = s._start("connect()", lambda raw: raw.connect(to))
        else:
            s._call("connect()", lambda: s.raw.connect(to))
        self._handshake(s)
        self.flow.syn_ack()
        self.wait(GAP)

    def _handshake(self, s: Socket) -> None:
        """A round trip, and what the program does meanwhile."""
        self.wait(self.setup["rtt"])
        for op in self.setup["during"]:
            self.step(op, s)
        if self.setup["during"]:
            self.wait(GAP)

    def _adopt(self, made: Socket) -> None:
        self.socket = made
        sk = getattr(made.raw, "sk", None)
        if isinstance(sk, TcpSock):
            self.watch = Watch(sk)

    # -- steps -------------------------------------------------------------------------

    def step(self, op: Op, s: Socket | None = None) -> None:
        peer = getattr(self, "peer_" + op[0], None)
        s = s or self.socket
        if peer is not None:
            peer(*op[1:])
        elif s is not None:
            getattr(self, "call_" + op[0])(s, *op[1:])
            self.trial.sut.settle()
        self._note()

    def _note(self) -> None:
        """Which listed rules decide by what both sides cannot know alike."""
        if self.watch is not None:
            trace = self.trial.trace
            trace.notes += [(len(trace.events), rule) for rule in self.watch.doubts()]

    def observe(self) -> None:
        """The whole state as one event."""
        s = self.socket
        if s is None:
            return
        raw = s.raw
        words = struct.unpack("9I", raw.getsockopt(SOL_SOCKET, 55, 36))
        names = ("rmem", "rcvbuf", "wmem", "sndbuf", "", "wmem_queued", "", "", "drops")
        state = {k: v for k, v in zip(names, words, strict=True) if k in _MEM}
        for name, request in (
            ("outq", SIOCOUTQ), ("nsd", SIOCOUTQNSD), ("inq", SIOCINQ), ("mark", SIOCATMARK)
        ):  # fmt: skip
            state[name] = raw.ioctl(request)
        state.update(_info(raw.getsockopt(SOL_TCP, 11, 248)))
        if state["state"] == CLOSE:  # nobody counts what was in flight
            state["lost"] = state["retrans"] = state["sacked"] = 0
        self.trial.event("state", "", state)

    def call_times(self, s: Socket) -> None:
        """What tcp_info says of times (ms), as near as packets are."""
        raw = s.raw.getsockopt(SOL_TCP, 11, 248)
        named = dict(zip(INFO_NAMES, INFO.unpack_from(raw), strict=True))
        late = self.watch.worst if self.watch is not None else 0
        for name, unit in _TIMES if named["state"] not in (CLOSE, LISTEN) else ():
            self.trial.event("call", f"tcp_info {name}", None, named[name] / unit)
            self.trial.trace.events[-1].slack = (late, late)  # type: ignore[attr-defined]

    def call_send(self, s: Socket, n: int, flags: int) -> None:
        s.send(n, flags)

    def call_recv(self, s: Socket, n: int, flags: int) -> None:
        s.recv(n, flags)

    def call_sendto(self, s: Socket, n: int, flags: int) -> None:
        """To the peer's address, which the trace does not show: its port is another each time."""
        to, body = s._addr(None, self.trial.port), pattern(s.sent, n)
        done = s._call(f"send({n}, {flags:#x}, to (peer))", lambda: s.raw.send(body, flags, to))
        s.sent += done if isinstance(done, int) else 0

    def call_sendc(self, s: Socket, n: int, kind: str) -> None:
        s.send(n, 0, control=(CONTROL[kind],))

    def _waits(self, kind: str) -> bool:
        return kind in self.blocked and not self.blocked[kind].done

    def call_bsend(self, s: Socket, n: int, flags: int) -> None:
        if not self._waits("send"):
            self.blocked["send"] = s.start_send(n, flags)

    def call_brecv(self, s: Socket, n: int, flags: int) -> None:
        if not self._waits("recv"):
            self.blocked["recv"] = s.start_recv(n, flags)

    def call_set(self, s: Socket, level: int, name: int, value: bytes) -> None:
        s.set(level, name, value)

    def call_get(self, s: Socket, level: int, name: int) -> None:
        s.get(level, name)

    def call_poll(self, s: Socket) -> None:
        s.poll()

    def call_shutdown(self, s: Socket, how: int) -> None:
        s.shutdown(how)

    def call_select(self, s: Socket) -> None:
        s._call("select()", lambda: select(s.raw))

    def call_close(self, s: Socket) -> None:
        if not any(self._waits(kind) for kind in self.blocked):
            self.blocked["close"] = s.start_close()  # it may linger
            self.socket = None

    # -- the peer ----------------------------------------------------------------------

    def _ack(self, where: tuple[Any, ...]) -> int:
        mss = self.setup["mss"] or 536
        kind, n = where[0], where[1] if len(where) > 1 else 0
        if kind == "all":
            return self.flow.seen
        if kind == "old":
            return self.acked - n
        if kind == "beyond":
            return self.flow.seen + n
        return min(self.flow.seen, self.acked + (n * mss if kind == "seg" else n))

    def _send(self, flags: str, seq: int, ack: int, **fields: Any) -> None:
        if self.watch is not None and self.watch.tree_decides(seq, len(fields.get("data", b""))):
            self.trial.trace.notes.append((len(self.trial.trace.events), "B-31"))
        self.flow.send(flags, seq=seq, ack=ack, **fields)
        if ack <= self.flow.seen:
            self.acked = max(self.acked, ack)

    def peer_ack(self, where: tuple[Any, ...], win: int | None) -> None:
        if win is not None:
            self.flow.window = win
        self._send("A", self.top, self._ack(where))

    def peer_data(self, base: str, offset: int, length: int, flags: str, ack: str) -> None:
        start = max(1, (self.top if base == "top" else self.edge) + offset)
        if self.ended:  # nothing follows a FIN; what went before may come again
            length = min(length, self.top - 1 - start)
            if length <= 0:
                return
        if start + length < self.top - self.ended:
            flags = flags.replace("F", "")
        self._send(flags, start, self._ack((ack, 0)), data=pattern(start, length))
        self._sent(start + length, "F" in flags)

    def _sent(self, end: int, fin: bool) -> None:
        self.top = max(self.top, end + fin)
        self.ended |= fin

    def peer_sack(self, first: int, count: int) -> None:
        """A duplicate ACK with one block: `count` segments, `first` after the head."""
        mss = self.setup["mss"] or 536
        left = self.acked + (first + 1) * mss
        right = min(left + count * mss, self.flow.seen)
        sacks = [(left, right)] if self.setup["sack"] and left < right else []
        self._send("A", self.top, self.acked, sacks=sacks)

    def peer_dups(self, count: int) -> None:
        for _ in range(count):
            self._send("A", self.top, self.acked)
            self.pause()

    def peer_blast(self, count: int, length: int) -> None:
        for _ in range(count):
            self.peer_data("top", 0, length, "A", "all")
            self.pause()

    def peer_keep(self, length: int) -> None:
        """A keepalive: it repeats the last number."""
        seq = self.top - 1 - self.ended
        self._send("A", seq, self.flow.seen, data=pattern(seq, 0 if self.ended else length))

    def peer_icmp(self, kind: str, which: int) -> None:
        """A router complains about a packet, the `which`th from the last with data."""
        name, _, mtu = kind.partition(" ")
        found = [seen for seen in self.packets if seen.len] or self.packets
        if found:
            type_, code = ICMP[name][self.trial.v6]
            quoted = found[max(0, len(found) - 1 - which)]
            rest = int(mtu or 0)
            if name == "frag":  # an error sends with the time of the packet before: of this one
                self.flow.send("", seq=self.top)
            self.trial.icmp_error(type_, code, quoted, rest)

    def peer_fin(self) -> None:
        self._send("FA", self.top - self.ended, self.flow.seen)
        self._sent(self.top - self.ended, True)

    def peer_rst(self, offset: int) -> None:
        self.flow.send("R", seq=self.edge + offset)

    def peer_syn(self) -> None:
        self.flow.send("S", seq=self.edge)

    def peer_urg(self, length: int, ptr: int) -> None:
        if not self.ended:
            self._send("UPA", self.top, self.flow.seen, data=pattern(self.top, length), urg=ptr)
            self._sent(self.top + length, False)


def _info(raw: bytes) -> dict[str, int]:
    named = dict(zip(INFO_NAMES, INFO.unpack_from(raw), strict=True))
    return {name: named[name] for name in _INFO}


# -- one run -------------------------------------------------------------------------------


class Result:
    """A trace, the plan it followed, how late (ms) its latest step was, and whether the plan
    goes to the end of the program."""

    def __init__(
        self, trace: Trace, plan: list[int], lateness: float, complete: bool = True
    ) -> None:
        self.trace, self.plan, self.lateness, self.complete = trace, plan, lateness, complete


def play(
    program: Program,
    sut: KernelSut | StackSut,
    port: int,
    plan: list[int] | None = None,
    stretch: int = 0,
) -> Result:
    """Run `program`; without a plan in virtual time, making it."""
    trial = FuzzTrial(sut, dict(program.setup)["v6"], port)
    if isinstance(sut, KernelSut):
        trial.started = aligned()
        sut.pump(trial.started, lambda raw, at: None)
    player = Player(program, trial, plan)
    player.stretch = stretch
    complete = True
    try:
        player.play()
    except Ended:
        complete = False
    except Exception:
        trial.trace.error = traceback.format_exc()
    return Result(trial.trace, player.plan, trial.lateness / MS, complete)


def play_stack(program: Program, plan: list[int] | None = None) -> Result:
    """In virtual time. A plan that ends before the program does is made anew with longer
    waits; if that does not help either, the longest one it is."""
    best = _play_stack(program, plan, 0)
    for stretch in STRETCHES if plan is None else ():
        if best.complete:
            break
        result = _play_stack(program, None, stretch)
        if result.complete or len(result.plan) > len(best.plan):
            best = result
    return best


def _play_stack(program: Program, plan: list[int] | None, stretch: int) -> Result:
    setup = dict(program.setup)
    local = LOCAL6 if setup["v6"] else LOCAL4
    shaper = SLOW if setup["slow"] else None
    sut = StackSut(setup["v6"], local, {}, setup["mtu"], FuzzClock(), shaper)
    sut.wheel = ExactWheel(0)
    return play(program, sut, _PORTS[0], plan, stretch)


class KernelHost:
    """A namespace in which many programs run one after another. A socket that nobody uses
    keeps the kernel stamping every packet, as a stack does; otherwise it begins with the
    first socket of the machine that asks."""

    def __init__(self, v6: bool, mtu: int = 1500, slow: bool = False) -> None:
        self.stamping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stamping.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        self.v6, self.mtu, self.slow = v6, mtu, slow
        self.played = 0
        self.sut = self._new()

    def _new(self) -> KernelSut:
        ends = (LOCAL6, PEER6) if self.v6 else (LOCAL4, PEER4)
        if self.slow:
            return SlowKernel(self.v6, *ends, {}, self.mtu, SLOW)
        return KernelSut(self.v6, *ends, {}, self.mtu)

    def play(self, program: Program, plan: list[int]) -> Result:
        port = _PORTS[self.played % len(_PORTS)]
        self.played += 1
        try:
            with self.sut.netns.entered():
                return play(program, self.sut, port, plan)
        finally:
            for sock in [*self.sut.sockets]:
                sock.abandon()
            self.sut.sockets.clear()
            if self.slow or _leaves_something(program):
                self.sut.close()
                self.sut = self._new()


def _leaves_something(program: Program) -> bool:
    """Does a program change what the kernel knows of the path?"""
    ops = [*dict(program.setup)["during"], *(op for _, op in program.steps)]
    return any(op[0] == "icmp" and op[1].startswith("frag") for op in ops)
