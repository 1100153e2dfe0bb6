"""When the steps of a program happen, so that both sides see the same order of events.

The kernel's timers move in ticks and fire late; ours are exact. A step is therefore never
near a timer. The stack in virtual time finds the plan: before each step it looks at what
its sockets have armed, and lets more time pass until no timer fires, or may on the kernel
still be about to fire, close to the step. The same goes for the instants at which a
comparison of two times turns over (`_instants`). The kernel then follows the plan.

All steps stand on a grid of one tick, in the middle of the kernel's ticks (`aligned`), so
differences counted in ticks are the same on both sides whatever a few ms of delay do.

A timer that the kernel's wheel holds for longer than 252 ms is kept in slots of 8 ticks,
beyond 2 s in slots of 64: so much later may it fire.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

from tests.sockets.parity.stack import StackSut
from tests.sockets.parity.wheel import Wheel
from ustack.link.fifo import Fifo
from ustack.sock.deadlines import NEVER
from ustack.tcp.pacing import tso_segs
from ustack.tcp.skb import EVER_RETRANS
from ustack.tcp.sock import (
    PENDING_RETRANS,
    T_COMPRESSED_ACK,
    T_DELACK,
    T_PACING,
    T_RETRANS,
    TCP_ATO_MIN,
    TcpSock,
)
from ustack.tcp.state import CLOSE, LISTEN

MS = 1_000_000
TICK = 4
BEFORE, NEAR = 12, 6  # ms to the next timer; ms to an instant
LATE, LATE_8, LATE_64 = 16, 52, 280
MOST_NOISE = 100  # ms
MOST_BACKOFF = 4
LONGEST = 6000  # ms that one step waits at most
DRIFT = 8  # ms by which a round trip may be longer or shorter on the kernel
_CLOCK_MONOTONIC_COARSE = 6  # moves with the tick
EXACT = (T_PACING, T_COMPRESSED_ACK)  # timers that are no jiffies


def aligned() -> int:
    """A moment in the middle of a tick of the kernel, near now."""
    tick = TICK * MS
    phase = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) % tick
    now = time.monotonic_ns()
    return now + tick - (now - phase) % tick + tick // 2


def late(duration: int) -> int:
    """How many ms late a timer armed for `duration` ns may be."""
    if duration < 252 * MS:
        return LATE
    return LATE_8 if duration < 2016 * MS else LATE_64


class ExactWheel(Wheel):
    """Timers of the stack fire when they are due. So the kernel's can only be later, and by
    how much is a matter of `late`."""

    def expiry(self, at: int, armed: int) -> int:
        return at


class Watch:
    """The timers of one socket, seen every tick."""

    def __init__(self, sk: TcpSock) -> None:
        self.sk = sk
        # timer -> (deadline, how many ms later and earlier the kernel's may fire)
        self.armed: dict[int, tuple[int, int, int]] = {}
        self.busy_until = 0  # the last timer that fired may fire until then on the kernel
        self.slack = 0  # ms by which what timers sent in this interval may come later there
        self.early = 0  # and sooner
        self.worst = 0  # the latest of all timers so far
        self.noise = 0  # ms by which round trips may differ: what a timer has sent, an ACK measures
        self._device_at = NEVER  # when a slow device lets the next packet go
        self._left_at = -NEVER  # when it let the last one go
        self._after = self._before = 0  # what the timer was late or early that has just fired
        self._close_at = NEVER  # the timeout whose lateness decides what it does
        self.undecided = False  # that timeout has come

    def _unsure(self) -> int:
        """How many ms the timers that stand on a round trip may be apart: each back-off
        doubles what `noise` has made of the timeout."""
        return self.noise << min(self.sk.rtt.backoff, MOST_BACKOFF)

    def look(self, now: int, sut: StackSut) -> None:
        """Note what is armed at `now`, before time passes."""
        for which, at in enumerate([*self.sk.timers, *_calls(sut)]):
            if at == NEVER:
                self.armed.pop(which, None)
            elif self.armed.get(which, (0, 0, 0))[0] != at:
                own = TICK if which in EXACT else late(at - now)
                unsure = self._unsure()
                self.armed[which] = at, self._after + own + unsure, self._before + unsure
        at, slack, early = self.armed.get(T_RETRANS, (NEVER, 0, 0))
        if at < NEVER and self._is_close_call(at, slack, early):
            self._close_at = at

    def _is_close_call(self, at: int, slack: int, early: int) -> bool:
        """Does a timeout at `at` decide otherwise than one some ms later or earlier? Is what it
        sends an answer to data, has an entry been sent long enough ago to be lost, has the user
        waited long enough?"""
        sk = self.sk
        first, last = at - (early + NEAR) * MS, at + (slack + NEAR) * MS
        if sk.packets_out and first <= sk.lrcvtime + sk.ato <= last:
            return True
        if sk.pending != PENDING_RETRANS:
            return False
        wait = (sk.rack_rtt_us + _reo_wnd_us(sk)) * 1000
        if sk.sack_ok and any(first <= skb.tx_time + wait <= last for skb in sk.rtx_queue):
            return True
        return bool(sk.user_timeout) and first <= sk.retrans_stamp + sk.user_timeout <= last

    def passed(self, now: int, sut: StackSut) -> None:
        """Time has passed until `now`: what was due has fired. What it armed inherits that
        it was late."""
        if isinstance(sut.dev, Fifo):
            self._device_quiet(now, sut.dev)
        self._after = self._before = 0
        for which, (at, slack, early) in self.armed.items():
            if at <= now:
                if which == T_RETRANS:
                    self.undecided |= at == self._close_at or self._device_at <= at + slack * MS
                    self.noise = min(max(self.noise, slack), MOST_NOISE)
                self._after = max(self._after, slack)
                self._before = max(self._before, early)
                self.early = max(self.early, early)
                self.slack = max(self.slack, slack)
                self.worst = max(self.worst, slack)
                self.busy_until = max(self.busy_until, at + slack * MS)

    def doubts(self) -> list[str]:
        """Rules that have decided something, or may do so now, by a time that the kernel
        measures otherwise by some ms."""
        sk = self.sk
        found = []
        rate, srtt = sk.pacing_rate, sk.rtt.srtt_us
        if srtt and sk.mss_cache:
            apart = 8 * DRIFT * 1000
            rates = rate, rate * srtt // (srtt + apart), rate * srtt // max(srtt - apart, 1)
            bursts = {tso_segs(r, sk.min_rtt.get(), sk.mss_cache) for r in rates}
            found += ["A-31"] * (len(bursts) > 1)
        if sk.rcvq_time and abs(sk.rcvq_time - sk.rcv_rtt_time) < DRIFT * MS:
            found.append("B-70")
        return found

    def tree_decides(self, seq: int, length: int) -> bool:
        """Is there an entry out of order that [seq, seq + length) continues, and another that
        it overlaps, or one that contains another?"""
        sk = self.sk
        seq += sk.irs
        entries = [*sk.ofo_queue]
        below = [e for e in entries if e.seq <= seq]
        nested = any(b.end_seq <= a.end_seq for a, b in pairwise(entries))
        continued = any(e.end_seq == seq for e in below[:-1])
        return bool(length) and (nested or continued)

    def hurried(self) -> bool:
        """Is a timer armed that fires within a step's time?"""
        return any(self.sk.timers[which] < NEVER for which in EXACT)

    def clear(self, now: int, sut: StackSut) -> bool:
        """May a step happen at `now`?"""
        if now < self.busy_until:
            return False
        self.look(now, sut)
        if any(at < now + (BEFORE + early) * MS for at, _, early in self.armed.values()):
            return False
        if isinstance(sut.dev, Fifo) and not self._device_quiet(now, sut.dev):
            return False
        near = (NEAR + self.noise) * MS
        return all(abs(now - at) >= near for at in _instants(self.sk, now))

    def _device_quiet(self, now: int, device: Fifo) -> bool:
        """Does the device let go of no packet near `now`? A step has to go on, too."""
        at = device.next_deadline()
        if at != self._device_at:
            self._left_at = self._device_at if self._device_at < NEVER else -NEVER
            self._device_at = at
        return at > now + NEAR * MS and not now < self._left_at + NEAR * MS


def _reo_wnd_us(sk: TcpSock) -> int:
    return min(sk.reo_wnd_steps * (sk.min_rtt.get() >> 2), sk.rtt.srtt_us >> 3)


def _calls(sut: StackSut) -> list[int]:
    """When calls that wait give up; there is at most one."""
    return [call.deadline for call in sut.calls] or [NEVER]


def _instants(sk: TcpSock, now: int) -> Iterator[int]:
    """When a rule that compares times begins to say something else."""
    if sk.state in (CLOSE, LISTEN):
        return
    rto = sk.rtt.rto_us * 1000
    if sk.lrcvtime and sk.timers[T_DELACK] < NEVER:
        # data now may find that the pending ACK is due soon anyway (rule B-53)
        gap = now - sk.lrcvtime
        ato = min((sk.ato >> 1) + max(gap, TCP_ATO_MIN // 2), rto) if gap < sk.ato else sk.ato
        srtt = max((sk.rtt.srtt_us >> 3) * 1000, TCP_ATO_MIN)
        yield from (sk.timers[T_DELACK] - (min(ato, most) >> 2) for most in (ato, srtt))
    if sk.lrcvtime:
        yield from (sk.lrcvtime + sk.ato, sk.lrcvtime + sk.ato // 2, sk.lrcvtime + rto)
    if sk.lsndtime:
        idle = now - sk.lsndtime
        yield sk.lsndtime + rto
        yield now - idle % rto if idle > rto else 0  # the window halves once per RTO
    if sk.last_oow_ack_time:
        yield sk.last_oow_ack_time + sk.net.sysctl.tcp_invalid_ratelimit * MS
    if sk.snd_cwnd_stamp:
        yield sk.snd_cwnd_stamp + rto
    if sk.rcvq_time and sk.rcv_rtt_us:
        yield sk.rcvq_time + (sk.rcv_rtt_us >> 3) * 1000
    head = sk.rtx_queue.first
    if head is not None:  # an ACK that is about to come is worth waiting for (rule A-32)
        yield head.tx_time + sk.rtt.srtt_us * 125
    if sk.packets_out and sk.rack_rtt_us:
        min_rtt = sk.min_rtt.get()
        reo = _reo_wnd_us(sk)
        for skb in sk.rtx_queue:
            yield skb.tx_time + sk.rack_rtt_us * 1000
            yield skb.tx_time + (sk.rack_rtt_us + reo) * 1000
            if skb.sacked & EVER_RETRANS:
                yield skb.tx_time + min_rtt * 1000
