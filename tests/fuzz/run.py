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

import struct
import traceback
from typing import Any

from tests.fuzz.program import GAP, Op, Program
from tests.fuzz.timeline import LONGEST, MS, TICK, Watch, aligned
from tests.sockets.parity.kernel import KernelSut
from tests.sockets.parity.peer import Seen, pattern
from tests.sockets.parity.stack import StackSut, VirtualClock
from tests.sockets.parity.trace import Event, Trace
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
    SOL_TCP,
    Call,
    Failed,
    Socket,
    Trial,
)
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CLOSE

_INFO = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "snd_mss",
    "rcv_mss", "unacked", "sacked", "lost", "retrans", "pmtu", "rcv_ssthresh", "snd_ssthresh",
    "snd_cwnd", "advmss", "reordering", "rcv_space", "total_retrans", "bytes_acked",
    "bytes_received", "segs_out", "segs_in", "notsent_bytes", "data_segs_in", "data_segs_out",
    "delivered", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack",
    "snd_wnd", "rcv_wnd",
)  # fmt: skip
_MEM = ("rmem", "rcvbuf", "sndbuf", "wmem_queued", "drops")
_PORTS = range(20_000, 32_000)


class FuzzClock(VirtualClock):
    """Virtual time in which, as in real time, nothing happens at the same instant."""

    def __init__(self) -> None:
        super().__init__()
        self._now += TICK * MS // 2  # between two ticks

    def now(self) -> int:
        self._now += 1000
        return self._now


class FuzzTrial(Trial):
    """A trial that hears only its own connection: others have used the namespace."""

    def __init__(self, sut: KernelSut | StackSut, v6: bool, port: int) -> None:
        super().__init__(sut, v6)
        self.port = port
        self.lateness = 0  # ns, the worst of any step

    def _take(self, raw: bytes, at: int) -> None:
        seen = Seen(self, raw, (at - self._window) / MS)
        if seen.proto != 6 or seen.dport != self.port:
            return
        if not seen.id and seen.text.endswith(" id 0") and self.flows[0].last_id == 0xFFFF:
            seen.text = seen.text.removesuffix(" id 0")  # counting on
            self.flows[0].last_id = 0
        if seen.flags in ("R", "RA") and self._raw_seq(raw) == 0:
            seen.text = seen.text.replace(f"{seen.seq}:{seen.seq}", "0:0")  # not our number
        self._seen.append(seen)

    @staticmethod
    def _raw_seq(raw: bytes) -> int:
        at = 24 if raw[0] >> 4 == 4 else 44
        return int.from_bytes(raw[at : at + 4], "big")

    def advance(self, nominal: int, gap: int) -> None:
        """Let time pass until `nominal` ms after the start."""
        self.run_until(self.started + nominal * MS, f"{gap} ms")
        self.lateness = max(self.lateness, self.sut.now() - self.started - nominal * MS)

    def run_until(self, until: int, text: str) -> None:
        self.begin_interval()
        self.sut.pump(until, self._take)
        self.finish_interval(text)

    def begin_interval(self) -> None:
        self._window = self.sut.now()
        self._seen = []

    def finish_interval(self, text: str, early: int = 0, slack: int = 0) -> None:
        """Note what came. It may come `early` ms earlier on the kernel or `slack` later."""
        events = self.trace.events
        first = len(events)
        self.event("run", text)
        for seen in self._seen:
            at = (self._window - self.started) / MS + seen.at
            events.append(Event("wire", seen.text, None, at, seen.at))
        for call in [*self.calls]:
            call.look()
        for event in events[first:]:
            event.slack = (early, slack)  # type: ignore[attr-defined]

    @property
    def seen_now(self) -> list[Seen]:
        return self._seen


class Player:
    """Plays one program."""

    def __init__(self, program: Program, trial: FuzzTrial, plan: list[int] | None) -> None:
        self.program = program
        self.trial = trial
        self.setup: dict[str, Any] = dict(program.setup)
        self.given = plan
        self.plan: list[int] = []
        self.nominal = 0
        self.watch: Watch | None = None
        self.socket: Socket | None = None
        self.call: Call | None = None
        self.top = self.edge = self.acked = 1
        self.ended = False  # the peer has sent a FIN: top is behind it

    # -- time --------------------------------------------------------------------------

    def wait(self, gap: int) -> None:
        """Let `gap` ms pass, or as many as the plan says, or as the planner finds."""
        if self.given is None and isinstance(self.trial.sut, StackSut):
            gap = self._find(gap, self.trial.sut)
        elif self.given is not None:
            gap = self.given[len(self.plan)]
            self.nominal += gap
            self.trial.advance(self.nominal, gap)
        self.plan.append(gap)
        for seen in self.trial.seen_now:
            if "A" in seen.flags:
                self.edge = max(self.edge, seen.ack)

    def _find(self, gap: int, sut: StackSut) -> int:
        """Pump the stack tick by tick until `gap` has passed and no timer is near."""
        trial, start = self.trial, self.nominal
        trial.begin_interval()
        while True:
            if self.watch is not None:
                self.watch.look(trial.started + self.nominal * MS, sut)
            self.nominal += TICK
            now = trial.started + self.nominal * MS
            sut.pump(now, trial._take)
            if self.watch is not None:
                self.watch.passed(now)
            spent = self.nominal - start
            free = self.watch is None or self.watch.clear(now, sut)
            if spent >= gap and (free or spent > gap + LONGEST):
                break
        text = f"{self.nominal - start} ms"
        if self.watch is None:
            trial.finish_interval(text)
        else:
            trial.finish_interval(text, self.watch.noise, self.watch.slack + self.watch.noise)
            self.watch.slack = 0
        return self.nominal - start

    # -- opening -----------------------------------------------------------------------

    def play(self) -> None:
        self.open()
        self.observe()
        for gap, op in self.program.steps:
            if gap:
                self.wait(gap)
                self.observe()
            self.step(op)
        self.wait(GAP)
        self.observe()
        self.wait(300)
        self.observe()

    def open(self) -> None:
        t, s = self.trial, self.setup
        first = t.socket()
        for op in s["early"]:
            first.set(*op[1:])
        settings = {name: s[name] for name in ("mss", "window", "wscale", "sack", "ts")}
        settings["ts"] &= s["mss"] is not None  # a peer without options has none later
        if s["passive"]:
            first.set(SOL_SOCKET, 2, 1)
            first.bind("", PORT)
            first.listen(8)
            self.flow = t.flow(t.port, sport=PORT, **settings)
            self.flow.syn()
            self.wait(s["rtt"])
            self.flow.ack(1)
            self.wait(GAP)
            child = first.accept()
            first.close()
            self._adopt(child)
        else:
            self.flow = t.flow(t.port, **settings)
            self._adopt(first)
            to = first._addr(None, t.port)
            first._call("connect()", lambda: first.raw.connect(to))
            self.wait(s["rtt"])
            self.flow.syn_ack()
            self.wait(GAP)

    def _adopt(self, made: Any) -> None:
        if not isinstance(made, Socket):
            raise Failed(f"{self.trial.sut.name}: no connection: {made}")
        self.socket = made
        sk = getattr(made.raw, "sk", None)
        if isinstance(sk, TcpSock):
            self.watch = Watch(sk)

    # -- steps -------------------------------------------------------------------------

    def step(self, op: Op) -> None:
        peer = getattr(self, "peer_" + op[0], None)
        if peer is not None:
            peer(*op[1:])
        elif self.socket is not None:
            getattr(self, "call_" + op[0])(self.socket, *op[1:])

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

    def call_send(self, s: Socket, n: int, flags: int) -> None:
        s.send(n, flags)

    def call_recv(self, s: Socket, n: int, flags: int) -> None:
        s.recv(n, flags)

    def call_bsend(self, s: Socket, n: int, flags: int) -> None:
        if self.call is None or self.call.done:
            self.call = s.start_send(n, flags)

    def call_brecv(self, s: Socket, n: int, flags: int) -> None:
        if self.call is None or self.call.done:
            self.call = s.start_recv(n, flags)

    def call_set(self, s: Socket, level: int, name: int, value: bytes) -> None:
        s.set(level, name, value)

    def call_get(self, s: Socket, level: int, name: int) -> None:
        s.get(level, name)

    def call_poll(self, s: Socket) -> None:
        s.poll()

    def call_shutdown(self, s: Socket, how: int) -> None:
        s.shutdown(how)

    def call_close(self, s: Socket) -> None:
        if self.call is None or self.call.done:
            s.close()
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
    """A trace, the plan it followed, and how late (ms) its latest step was."""

    def __init__(self, trace: Trace, plan: list[int], lateness: float) -> None:
        self.trace, self.plan, self.lateness = trace, plan, lateness


def play(
    program: Program, sut: KernelSut | StackSut, port: int, plan: list[int] | None = None
) -> Result:
    """Run `program`; without a plan in virtual time, making it."""
    trial = FuzzTrial(sut, dict(program.setup)["v6"], port)
    if isinstance(sut, KernelSut):
        trial.started = aligned()
        sut.pump(trial.started, lambda raw, at: None)
    player = Player(program, trial, plan)
    try:
        player.play()
    except Exception:
        trial.trace.error = traceback.format_exc()
    return Result(trial.trace, player.plan, trial.lateness / MS)


def play_stack(program: Program, plan: list[int] | None = None) -> Result:
    v6 = dict(program.setup)["v6"]
    sut = StackSut(v6, LOCAL6 if v6 else LOCAL4, {}, clock=FuzzClock())
    return play(program, sut, _PORTS[0], plan)


class KernelHost:
    """A namespace in which many programs run one after another."""

    def __init__(self, v6: bool) -> None:
        self.v6 = v6
        ends = (LOCAL6, PEER6) if v6 else (LOCAL4, PEER4)
        self.sut = KernelSut(v6, *ends, {})
        self.played = 0

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
