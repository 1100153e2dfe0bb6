"""TIME_WAIT: what remembers a connection that is over (RFC 9293 section 3.6).

Both ends have closed; one of them must stay for a while, to acknowledge a repeated FIN
and to keep stray segments out of a new connection between the same ports. That takes a
handful of numbers, not a socket. The same object stands in for a connection in FIN_WAIT2
that has no owner any more and only waits for the peer's FIN (`substate`).

Sources: RFC 1337, RFC 6191, Linux `tcp_timewait_state_process`; rules C-30 to C-35.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ustack.sock.deadlines import NEVER
from ustack.tcp.paws import paws_reject, ts_diff
from ustack.tcp.segment import Segment
from ustack.tcp.state import FIN_WAIT2, TIME_WAIT
from ustack.wire.addr import is_loopback
from ustack.wire.seq import MASK
from ustack.wire.tcp import ACK, FIN, RST, SYN, build, data_options

if TYPE_CHECKING:
    from ustack.tcp.host import TcpHost
    from ustack.tcp.sock import TcpSock

MS = 1_000_000
SEC = 1_000_000_000
TIMEWAIT_LEN = 60 * SEC
ISN_STEP = 65535 + 2  # a reopened pair continues beyond what the old one could have sent
_LOOPBACK_ONLY = 2
_LOOPBACK_IFINDEX = 1

# what `process` says
TW_SUCCESS, TW_RST, TW_ACK, TW_SYN = 0, 1, 2, 3


class TimeWait:
    """One 4-tuple in TIME_WAIT, or in FIN_WAIT2 without an owner."""

    __slots__ = (
        "bindtodevice", "csum_base", "daddr", "deadline", "dport", "entered", "family", "heap_at",
        "host", "key", "last_oow_ack_time", "rcv_nxt", "rcv_saddr", "rcv_wnd", "rcv_wscale",
        "reuse", "reuseport", "saddr", "snd_nxt", "sport", "state", "substate", "tos", "ts_recent",
        "ts_recent_stamp", "tsoffset", "tstamp_ok", "v6only",
    )  # fmt: skip

    listening = False

    def __init__(self, sk: TcpSock, substate: int, now: int) -> None:
        self.host: TcpHost = sk.host
        self.key = sk.key
        self.family = sk.family
        self.state = TIME_WAIT
        self.substate = substate
        self.entered = now
        self.saddr, self.daddr = sk.saddr, sk.daddr
        self.rcv_saddr = sk.rcv_saddr
        self.sport, self.dport = sk.sport, sk.dport
        self.reuse, self.reuseport = sk.reuse, sk.reuseport
        self.bindtodevice, self.v6only = sk.bindtodevice, sk.v6only
        self.csum_base = sk.csum_base
        self.tos = sk.tclass if len(sk.daddr) == 16 else sk.tos
        self.snd_nxt = sk.snd_nxt
        self.rcv_nxt = sk.rcv_nxt
        self.rcv_wnd = sk.cur_win
        self.rcv_wscale = sk.rcv_wscale
        self.tstamp_ok = sk.tstamp_ok
        self.ts_recent = sk.ts_recent
        self.ts_recent_stamp = sk.ts_recent_stamp
        self.tsoffset = sk.tsoffset
        self.last_oow_ack_time = 0
        self.deadline = NEVER
        self.heap_at = NEVER

    # -- timer -----------------------------------------------------------------------

    def schedule(self, timeo: int, now: int) -> None:
        """(Re)start the time to live."""
        self.deadline = now + timeo
        self.host.net.deadlines.arm(self, self.deadline)

    def next_deadline(self) -> int:
        return self.deadline

    def handle_timeout(self, now: int) -> None:
        self.kill()

    def kill(self) -> None:
        """Forget the pair."""
        self.deadline = NEVER
        self.host.net.deadlines.forget(self)
        self.host.remove_timewait(self)

    # -- reuse -----------------------------------------------------------------------

    def may_be_reused(self, now: int, port_chosen: bool) -> bool:
        """May a connect take this pair over? Its timestamps keep old segments out. A program
        that has bound the port knows what it does; where the host has chosen it
        (`port_chosen`) the settings are asked (rule C-34, `tcp_twsk_unique`)."""
        if not self.ts_recent_stamp:
            return False
        if not port_chosen:
            return True
        sysctl = self.host.net.sysctl
        if not sysctl.tcp_tw_reuse or self.substate == FIN_WAIT2:
            return False
        if sysctl.tcp_tw_reuse == _LOOPBACK_ONLY and not self._on_loopback():
            return False
        return now - self.entered > sysctl.tcp_tw_reuse_delay * MS

    def _on_loopback(self) -> bool:
        if any(is_loopback(addr) for addr in (self.daddr, self.rcv_saddr)):
            return True
        return self.bindtodevice == _LOOPBACK_IFINDEX

    def hand_over(self, sk: TcpSock) -> None:
        """A new connection goes on where this one ended."""
        sk.write_seq = (self.snd_nxt + ISN_STEP) & MASK or 1
        sk.ts_recent, sk.ts_recent_stamp = self.ts_recent, self.ts_recent_stamp
        self.kill()
        self.host.net.mib.inc("TcpExtTWRecycled")

    # -- input -----------------------------------------------------------------------

    def process(self, seg: Segment) -> int:
        """What to do with a segment (rules C-31, C-33)."""
        seg.place(self.rcv_nxt, self.snd_nxt)
        past = self._is_past(seg)
        if self.substate == FIN_WAIT2:
            return self._fin_wait2(seg, past)
        if not past and self._is_expected(seg):
            return self._in_window(seg)
        if (
            seg.flags & (SYN | RST | ACK) == SYN
            and not past
            and (seg.seq > self.rcv_nxt or self._newer_timestamp(seg))
        ):
            return TW_SYN
        if past:
            self.host.net.mib.inc("TcpExtPAWSTimewait")
        if seg.flags & RST:
            return TW_SUCCESS
        if past or seg.flags & ACK:
            self.schedule(TIMEWAIT_LEN, seg.now)
        return self._out_of_window(seg, "TcpExtTCPACKSkippedTimeWait")

    def _is_expected(self, seg: Segment) -> bool:
        """A bare ACK or a RST, exactly at rcv_nxt."""
        return seg.seq == self.rcv_nxt and (seg.seq == seg.end_seq or seg.flags & RST != 0)

    def _out_of_window(self, seg: Segment, counter: str) -> int:
        return TW_SUCCESS if self._rate_limited(seg, counter) else TW_ACK

    def _in_window(self, seg: Segment) -> int:
        """Nothing new, at the expected place: a repeated last ACK, or a RST."""
        if seg.flags & RST:
            if not self.host.net.sysctl.tcp_rfc1337:
                self.kill()
                return TW_SUCCESS
        else:
            self.schedule(TIMEWAIT_LEN, seg.now)
        self._note_timestamp(seg)
        return TW_SUCCESS

    def _fin_wait2(self, seg: Segment, past: bool) -> int:
        """Waiting for the peer's FIN; data is refused, nobody will read it. TW_RST ends the
        wait."""
        if past or not seg.in_window(self.rcv_nxt, self.rcv_nxt + self.rcv_wnd):
            return self._out_of_window(seg, "TcpExtTCPACKSkippedFinWait2")
        if seg.flags & RST:
            self.kill()
            return TW_SUCCESS
        if seg.flags & SYN and not seg.seq < self.rcv_nxt:
            return TW_RST
        if not seg.flags & ACK or seg.end_seq <= self.rcv_nxt or seg.end_seq == seg.seq:
            return TW_SUCCESS
        if not seg.flags & FIN or seg.end_seq != self.rcv_nxt + 1:
            return TW_RST
        self.substate = TIME_WAIT
        self.entered = seg.now
        self.rcv_nxt = seg.end_seq
        self._note_timestamp(seg)
        self.schedule(TIMEWAIT_LEN, seg.now)
        return TW_ACK

    def _note_timestamp(self, seg: Segment) -> None:
        if seg.options.has_ts and self.ts_recent_stamp:
            self.ts_recent = seg.options.tsval
            self.ts_recent_stamp = seg.now

    def _is_past(self, seg: Segment) -> bool:
        options = seg.options
        if not options.has_ts or not self.ts_recent_stamp:
            return False
        rst = seg.flags & RST != 0
        return paws_reject(self.ts_recent, self.ts_recent_stamp, options.tsval, rst, seg.now)

    def _newer_timestamp(self, seg: Segment) -> bool:
        options = seg.options
        return (
            self.ts_recent_stamp != 0
            and options.has_ts
            and ts_diff(self.ts_recent, options.tsval) < 0
        )

    def _rate_limited(self, seg: Segment, counter: str) -> bool:
        if seg.seq != seg.end_seq and not seg.flags & SYN:
            return False
        limit = self.host.net.sysctl.tcp_invalid_ratelimit * MS
        if self.last_oow_ack_time and seg.now - self.last_oow_ack_time < limit:
            self.host.net.mib.inc(counter)
            return True
        self.last_oow_ack_time = seg.now
        return False

    def send_ack(self, now: int) -> None:
        """Repeat our last ACK."""
        ts = (now // MS + self.tsoffset, self.ts_recent) if self.tstamp_ok else None
        options = data_options(ts, ())
        csum = (self.csum_base + 20 + len(options)) % 65535
        window = self.rcv_wnd >> self.rcv_wscale & 0xFFFF  # not the nearest, as elsewhere
        header = build(
            self.sport, self.dport, self.snd_nxt, self.rcv_nxt, ACK, window, options, csum=csum
        )
        self.host.net.send_reply(6, self.saddr, self.daddr, header, self.tos, now)
