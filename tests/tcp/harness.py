"""One TCP socket between a scripted peer and an explicit clock.

A `Bench` is a whole stack on a device that only records. The test plays the peer: it
injects segments and reads what comes out. Sequence numbers are relative, ours to our ISN
and the peer's to its own, so the first byte of data is 1; both ISNs lie just below 2**32.
Times are ms since the bench was made. After every step `check_counters` recomputes what
the socket keeps count of.

    b = Bench.connected(mss=1000, cc="reno")
    b.send(b"x" * 3000)
    assert b.lens() == [1000, 1000, 1000]
    b.inject(ack=1001)
    b.run(300)
    b.expect("PA", seq=2001, len=1000, at=...)
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from typing import Any

import pytest

from ustack.link.gso import finish_bytes
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Device
from ustack.sock.sock import AF_INET, AF_INET6, MSG_DONTWAIT, SHUT_WR, SOCK_STREAM
from ustack.sock.sysctl import Sysctl
from ustack.sock.truesize import TX_OVERHEAD
from ustack.sock.wait import Interrupted, Wait
from ustack.stack import Stack
from ustack.tcp import rack
from ustack.tcp.skb import LOST, SACKED_ACKED, SACKED_RETRANS
from ustack.tcp.sock import (
    PENDING_LOSS_PROBE,
    PENDING_NONE,
    PENDING_PROBE0,
    PENDING_REO,
    PENDING_RETRANS,
    T_RETRANS,
    TcpSock,
)
from ustack.tcp.state import CLOSE, LISTEN, SYN_RECV, SYN_SENT, TIME_WAIT
from ustack.wire.checksum import fold, partial_sum, pseudo_sum
from ustack.wire.packet import DROPPED, F_ALL, IPPROTO_TCP, QUEUED, TAKEN, Frame, Packet
from ustack.wire.tcp import build, data_options, parse_options, syn_options

MS = 1_000_000
T0 = 100_000 * MS
ISN, PEER_ISN = 2**32 - 2000, 2**32 - 3000
LOCAL4, PEER4 = bytes([10, 9, 0, 2]), bytes([10, 9, 0, 1])
LOCAL6, PEER6 = b"\xfd" + bytes(14) + b"\x02", b"\xfd" + bytes(14) + b"\x01"
PORT, PEER_PORT = 7000, 40000

_LETTERS = (("F", 1), ("S", 2), ("R", 4), ("P", 8), ("A", 16), ("U", 32), ("E", 64), ("C", 128))
SOL_TCP, SOL_SOCKET = 6, 1


def flag_bits(letters: str) -> int:
    return sum(bit for letter, bit in _LETTERS if letter in letters)


def flag_letters(bits: int) -> str:
    return "".join(letter for letter, bit in _LETTERS if bits & bit)


def signed(x: int) -> int:
    """A 32-bit difference."""
    return (x + 2**31) % 2**32 - 2**31


class Sent:
    """One segment that left, numbers relative. `ack` counts only with A in `flags`."""

    def __init__(self, bench: Bench, data: bytes) -> None:
        l4 = 20 if data[0] >> 4 == 4 else 40
        raw = data[l4:]
        doff = (raw[12] >> 4) * 4
        self.raw = data
        self.at = (bench.now - T0) / MS
        self.sport, self.dport = int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:4], "big")
        self.raw_seq = int.from_bytes(raw[4:8], "big")
        self.raw_ack = int.from_bytes(raw[8:12], "big")
        self.seq = signed(self.raw_seq - bench.iss)
        self.ack = signed(self.raw_ack - bench.peer_iss)
        self.flags = flag_letters(raw[13])
        self.win = int.from_bytes(raw[14:16], "big")
        self.urg = int.from_bytes(raw[18:20], "big")
        self.options = parse_options(raw, 20, doff, bool(raw[13] & 2))
        self.raw_options = raw[20:doff]
        self.sacks = [tuple(signed(x - bench.peer_iss) for x in s) for s in self.options.sacks]
        self.data = raw[doff:]
        self.len = len(self.data)
        src, dst = (data[12:16], data[16:20]) if l4 == 20 else (data[8:24], data[24:40])
        assert fold(partial_sum(raw) + pseudo_sum(src, dst, IPPROTO_TCP, len(raw))) in (0, 0xFFFF)

    def __repr__(self) -> str:
        sacks = f" sack {self.sacks}" if self.sacks else ""
        return (
            f"{self.flags} {self.seq}:{self.seq + self.len} ack {self.ack}"
            f" win {self.win}{sacks} @{self.at:g}"
        )


class RecordingDevice(Device):
    """Keeps what is sent. `verdict` QUEUED holds the charges until `Bench.drain`."""

    def __init__(self, bench: Bench, mtu: int, features: int) -> None:
        super().__init__("tun0", mtu, features)
        self.bench = bench
        self.verdict = TAKEN
        self.sent: list[Sent] = []
        self.bursts: list[Packet] = []  # as handed down, before they are cut
        self.held: list[tuple[object, int]] = []

    def xmit(self, packet: Packet) -> int:
        if self.verdict == DROPPED:
            return DROPPED
        self.bursts.append(packet)
        self.sent += [Sent(self.bench, data) for data in finish_bytes(packet)]
        if self.verdict == QUEUED:
            self.held.append((packet.owner, packet.charge))
        return self.verdict


class Call:
    """A blocking call under way: resumed whenever it is woken or its time has come."""

    exclusive = False

    def __init__(self, bench: Bench, op: Generator[Wait, int, Any]) -> None:
        self.bench = bench
        self.op = op
        self.done = False
        self.result: Any = None
        self.error: OSError | None = None
        self.woken = 0
        self.wait: Wait | None = None
        self._step(lambda: next(op))

    def _step(self, advance: Callable[[], Wait]) -> None:
        if self.wait is not None:
            self.wait.queue.remove(self)
            self.wait = None
        try:
            self.wait = advance()
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except OSError as why:
            self.done, self.error = True, why
        except Interrupted:
            self.done = True
        else:
            self.wait.queue.add(self)

    def wake(self, mask: int) -> bool:
        self.woken += 1
        self.bench.runnable.append(self)
        return True

    def resume(self) -> None:
        if not self.done:
            self._step(lambda: self.op.send(self.bench.now))

    def cancel(self) -> None:
        self._step(lambda: self.op.throw(Interrupted()))

    @property
    def deadline(self) -> int:
        if self.wait is None or self.wait.deadline is None:
            return NEVER
        return self.wait.deadline


class Bench:
    """A stack, its device, one socket `sk` under test, and the peer's state."""

    sk: TcpSock

    def __init__(
        self,
        *,
        mss: int | None = 1460,
        window: int = 65535,
        wscale: int | None = None,
        sack: bool = True,
        ts: bool = False,
        mtu: int = 1500,
        v6: bool = False,
        features: int = F_ALL,
        cc: str = "reno",
        isn: int = ISN,
        peer_isn: int = PEER_ISN,
        rtt: float = 0,
        **sysctls: Any,
    ) -> None:
        self.now = T0
        self.iss, self.peer_iss = isn, peer_isn
        self.mss, self.window, self.wscale, self.sack, self.ts = mss, window, wscale, sack, ts
        self.rtt = rtt
        self.v6 = v6
        self.local, self.peer = (LOCAL6, PEER6) if v6 else (LOCAL4, PEER4)
        sysctl = Sysctl(tcp_congestion_control=cc, **sysctls)
        self.stack = Stack(seeds=Seeds(1), loopback=Loopback(), sysctl=sysctl)
        self.dev = RecordingDevice(self, mtu, features)
        self.stack.add_device(self.dev)
        self.stack.add_address(self.dev, "fd00::2/64" if v6 else "10.9.0.2/24")
        self.stack.tcp.next_isn = lambda owner, now: isn
        self.runnable: list[Call] = []
        self.calls: list[Call] = []
        self.ts_ecr = 0  # our last TSval, for the peer to echo
        self.peer_seq = 1  # the peer's next sequence number
        self.sport, self.peer_port = PORT, PEER_PORT
        self.checks = True

    # -- ready-made states ---------------------------------------------------------------

    @classmethod
    def syn_sent(cls, **settings: Any) -> Bench:
        """connect() called, the SYN still in `b.sent()`."""
        b = cls(**settings)
        b.new_socket()
        b.start_connect()
        return b

    def new_socket(self, nonblocking: bool = True) -> TcpSock:
        """A fresh socket as `self.sk`."""
        sk = self.stack.socket(AF_INET6 if self.v6 else AF_INET, SOCK_STREAM)
        assert isinstance(sk, TcpSock)
        sk.nonblocking = nonblocking
        self.sk = sk
        return sk

    def start_connect(self) -> None:
        self.sk.nonblocking = True
        if not self.sk.sport:
            self.sk.prot.bind(self.sk, (self.local, PORT), self.now)
        self.raises(errno.EINPROGRESS, self.sk.prot.connect, (self.peer, PEER_PORT), self.now)
        self.step()

    @classmethod
    def connected(cls, *, prepare: Callable[[Bench], None] | None = None, **settings: Any) -> Bench:
        """Active open completed `rtt` ms after the SYN; nothing left in `sent`.
        `prepare(bench)` may set options on the fresh socket."""
        b = cls(**settings)
        b.new_socket()
        if prepare is not None:
            prepare(b)
        b.start_connect()
        b.take()
        b.run(b.rtt)
        b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
        b.take()
        return b

    @classmethod
    def listening(cls, *, backlog: int = 8, **settings: Any) -> Bench:
        """`sk` is a listener on PORT."""
        b = cls(**settings)
        b.new_socket()
        b.sk.prot.bind(b.sk, (b"", PORT), b.now)
        b.sk.prot.listen(b.sk, backlog, b.now)
        b.listener = b.sk  # type: ignore[attr-defined]
        return b

    @classmethod
    def accepted(cls, *, prepare: Callable[[Bench], None] | None = None, **settings: Any) -> Bench:
        """Passive open completed and accepted; nothing left in `sent`."""
        b = cls.listening(**settings)
        if prepare is not None:
            prepare(b)
        b.inject("S", seq=0, options=b.peer_syn_options())
        b.take()
        b.run(b.rtt)
        b.inject("A", ack=1)
        b.accept()
        b.take()
        return b

    def accept(self) -> TcpSock:
        sk = self.sk.prot.accept(self.sk, self.now)
        assert isinstance(sk, TcpSock)
        sk.nonblocking = True
        self.sk = sk
        return sk

    @classmethod
    def close_wait(cls, **settings: Any) -> Bench:
        b = cls.connected(**settings)
        b.inject("FA")
        b.take()
        return b

    @classmethod
    def fin_wait1(cls, **settings: Any) -> Bench:
        b = cls.connected(**settings)
        b.shutdown()
        b.take()
        return b

    @classmethod
    def fin_wait2(cls, **settings: Any) -> Bench:
        b = cls.fin_wait1(**settings)
        b.inject(ack=2)
        b.take()
        return b

    @classmethod
    def closing(cls, **settings: Any) -> Bench:
        b = cls.fin_wait1(**settings)
        b.inject("FA", ack=1)
        b.take()
        return b

    @classmethod
    def last_ack(cls, **settings: Any) -> Bench:
        b = cls.close_wait(**settings)
        b.shutdown()
        b.take()
        return b

    # -- the peer ------------------------------------------------------------------------

    def peer_syn_options(self) -> bytes:
        ts = (self.peer_ts(), self.ts_ecr) if self.ts else None
        if self.mss is None:
            return b""
        return syn_options(self.mss, self.wscale, self.sack, ts)

    def peer_ts(self) -> int:
        return (self.now // MS + 7) % 2**32

    def segment(
        self,
        flags: str = "A",
        *,
        seq: int | None = None,
        ack: int | None = None,
        win: int | None = None,
        data: bytes = b"",
        sacks: list[tuple[int, int]] | tuple[()] = (),
        urg: int = 0,
        options: bytes | None = None,
        tsval: int | None = None,
        tsecr: int | None = None,
        sport: int | None = None,
        dport: int | None = None,
        bad_csum: bool = False,
    ) -> bytes:
        """An IP packet from the peer. Numbers relative; by default what a peer that has
        everything would send next. `win` is the field as on the wire."""
        seq = self.peer_seq if seq is None else seq
        if ack is None:
            ack = self.sk.snd_nxt - self.sk.iss if hasattr(self, "sk") else 0
        if options is None:
            ts = None
            if self.ts:
                val = self.peer_ts() if tsval is None else tsval
                ts = (val, self.ts_ecr if tsecr is None else tsecr)
            blocks = [((a + self.iss) % 2**32, (z + self.iss) % 2**32) for a, z in sacks]
            options = data_options(ts, blocks)
        bits = flag_bits(flags)
        header = build(
            self.peer_port if sport is None else sport,
            self.sport if dport is None else dport,
            self.peer_iss + seq,
            (self.iss + ack) if bits & 16 else 0,
            bits,
            self.window if win is None else win,
            options,
            urg,
        )
        return self.ip(header, data, bad_csum)

    def ip(self, header: bytes, data: bytes = b"", bad_csum: bool = False) -> bytes:
        """Complete a TCP header of the peer to a packet."""
        size = len(header) + len(data)
        total = partial_sum(header + data) + pseudo_sum(self.peer, self.local, IPPROTO_TCP, size)
        csum = 0xFFFF ^ fold(total) ^ (0x5555 if bad_csum else 0)
        tcp = header[:16] + csum.to_bytes(2, "big") + header[18:] + data
        if self.v6:
            head = b"\x60\0\0\0" + size.to_bytes(2, "big") + b"\x06\x40"
            return head + self.peer + self.local + tcp
        head = b"\x45\0" + (size + 20).to_bytes(2, "big") + b"\0\0\x40\0\x40\x06"
        addrs = self.peer + self.local
        csum = 0xFFFF ^ fold(partial_sum(head + b"\0\0" + addrs))
        return head + csum.to_bytes(2, "big") + addrs + tcp

    def inject(self, flags: str = "A", **fields: Any) -> None:
        """The peer sends one segment (see `segment`); its sequence number moves on."""
        explicit = fields.get("seq")
        packet = self.segment(flags, **fields)
        length = len(fields.get("data", b"")) + ("S" in flags) + ("F" in flags)
        if explicit is None:
            self.peer_seq += length
        elif flags.startswith("S"):
            self.peer_seq = explicit + 1
        self.deliver(packet)

    def deliver(self, *packets: bytes, gso_size: int = 0) -> None:
        """Packets arrive in one batch; with `gso_size`, merged frames of such segments."""
        frames = [Frame(p, 0, gso_size, bool(gso_size)) for p in packets]
        self.stack.handle_batch(frames, self.now, self.dev)
        self.step()

    # -- the application -----------------------------------------------------------------

    def send(self, data: bytes | int, flags: int = 0) -> int:
        """A non-blocking send; an int stands for that many bytes."""
        data = b"x" * data if isinstance(data, int) else data
        n = self.sk.prot.sendmsg(self.sk, data, flags | MSG_DONTWAIT, self.now)
        self.step()
        assert isinstance(n, int)
        return n

    def start(self, name: str, *args: Any) -> Call | Any:
        """A blocking call of the socket (`sendmsg`, `recvmsg`...): its result, or a Call."""
        self.sk.nonblocking = False
        try:
            result = getattr(self.sk.prot, name)(self.sk, *args, self.now)
        finally:
            self.sk.nonblocking = True
        if isinstance(result, Generator):
            call = Call(self, result)
            self.calls.append(call)
            self.step()
            return call
        self.step()
        return result

    def start_send(self, data: bytes | int, flags: int = 0) -> Call | Any:
        data = b"x" * data if isinstance(data, int) else data
        return self.start("sendmsg", data, flags)

    def recv(self, length: int = 1 << 20, flags: int = 0) -> bytes:
        """A non-blocking receive."""
        msg: Any = self.sk.prot.recvmsg(self.sk, length, flags | MSG_DONTWAIT, self.now)
        self.step()
        return b"".join(msg.chunks)

    def setopt(self, level: int, name: int, value: int | bytes) -> None:
        raw = value.to_bytes(4, "little", signed=True) if isinstance(value, int) else value
        self.sk.prot.setsockopt(self.sk, level, name, raw, self.now)
        self.step()

    def getopt(self, level: int, name: int, size: int = 4) -> int:
        raw = self.sk.prot.getsockopt(self.sk, level, name, size, self.now)
        return int.from_bytes(raw, "little", signed=True)

    def poll(self) -> int:
        return self.sk.prot.poll(self.sk, self.now)

    def ioctl(self, request: int) -> int:
        return self.sk.prot.ioctl(self.sk, request, self.now)

    def shutdown(self, how: int = SHUT_WR) -> None:
        self.sk.prot.shutdown(self.sk, how, self.now)
        self.step()

    def close(self) -> Any:
        result = self.sk.prot.close(self.sk, self.now)
        if isinstance(result, Generator):
            result = Call(self, result)
            self.calls.append(result)
        self.step()
        return result

    def raises(self, number: int, call: Callable[..., Any], *args: Any) -> None:
        """Assert that a call of `sk.prot`, or of the bench, fails with this errno."""
        owner = getattr(call, "__self__", None)
        with pytest.raises(OSError) as why:
            call(*args) if owner is self else call(self.sk, *args)
        assert why.value.errno == number, errno.errorcode.get(number)

    # -- time ----------------------------------------------------------------------------

    @property
    def ms(self) -> float:
        """Time since the bench was made."""
        return (self.now - T0) / MS

    def run(self, ms: float) -> None:
        """Let time pass, running every timer at its exact moment."""
        self.run_until(self.ms + ms)

    def run_until(self, ms: float) -> None:
        end = T0 + round(ms * MS)
        while True:
            at = min([self.stack.next_timeout()] + [c.deadline for c in self.calls if not c.done])
            if at > end:
                break
            self.now = max(self.now, at)
            self.stack.handle_timeout(self.now)
            self.runnable += [c for c in self.calls if not c.done and c.deadline <= self.now]
            self.step()
        self.now = end

    def step(self) -> None:
        """After each event: run woken calls, check the books."""
        while self.runnable:
            self.runnable.pop(0).resume()
        if self.dev.sent and self.dev.sent[-1].options.has_ts:
            self.ts_ecr = self.dev.sent[-1].options.tsval
        if self.checks and hasattr(self, "sk"):
            check_counters(self.sk)

    def drain(self, count: int = 1 << 30) -> None:
        """The device lets go of the oldest packets that it holds (verdict QUEUED)."""
        held, self.dev.held = self.dev.held[:count], self.dev.held[count:]
        for owner, charge in held:
            self.stack.handle_tx_done(owner, charge, self.now)
        self.step()

    # -- what came out -------------------------------------------------------------------

    @property
    def sent(self) -> list[Sent]:
        """What has been sent and not yet taken."""
        return self.dev.sent

    def take(self) -> list[Sent]:
        """Everything sent since the last take."""
        sent, self.dev.sent = self.dev.sent, []
        self.dev.bursts = []
        return sent

    def lens(self) -> list[int]:
        """Take; the payload lengths."""
        return [s.len for s in self.take()]

    def flags(self) -> list[str]:
        """Take; the flags."""
        return [s.flags for s in self.take()]

    def brief(self) -> list[tuple[str, int, int]]:
        """Take; (flags, relative seq, length) of each."""
        return [(s.flags, s.seq, s.len) for s in self.take()]

    def expect(self, flags: str | None = None, **fields: Any) -> Sent:
        """The next segment has these flags and fields (`Sent` attributes)."""
        assert self.dev.sent, f"nothing was sent; expected {flags} {fields}"
        first = self.dev.sent.pop(0)
        if flags is not None:
            assert first.flags == flag_letters(flag_bits(flags)), first
        for name, value in fields.items():
            assert getattr(first, name) == value, (name, value, first)
        return first

    def expect_nothing(self) -> None:
        assert not self.dev.sent, self.dev.sent

    def wq(self) -> int:
        return self.sk.wmem_queued

    def rel(self, seq: int) -> int:
        """One of our absolute sequence numbers, relative."""
        return seq - self.sk.iss

    def ca_state(self) -> int:
        return self.sk.ca_state


# -- the books -----------------------------------------------------------------------------


def check_counters(sk: TcpSock) -> None:
    """Recompute from the queues everything that the sender keeps count of."""
    if sk.state == LISTEN:
        return
    sk.rtx_queue.check()
    rack.check(sk)
    _check_counts(sk)
    _check_sequence(sk)
    entries = [*sk.rtx_queue, *sk.write_queue]
    payload = sum(skb.len for skb in entries)
    assert sk.wmem_queued == payload + TX_OVERHEAD * len(entries), "wmem_queued"
    _check_timers(sk)
    sk.cc.check()
    sk.min_rtt.check()
    _check_receiver(sk)


def _check_counts(sk: TcpSock) -> None:
    queue = list(sk.rtx_queue)

    def count(bit: int) -> int:
        return sum(skb.pcount for skb in queue if skb.sacked & bit)

    assert sk.packets_out == sum(skb.pcount for skb in queue), "packets_out"
    assert sk.lost_out == count(LOST), "lost_out"
    twice = sk.retrans_out - count(SACKED_RETRANS)
    mib = sk.net.mib.values
    undone = mib["TcpExtTCPLossUndo"] + mib["TcpExtTCPPartialUndo"]  # see `ustack.tcp.undo`
    assert twice == 0 or (twice > 0 and undone), "retrans_out"
    if sk.sack_ok or sk.state in (SYN_SENT, SYN_RECV):
        assert sk.sacked_out == count(SACKED_ACKED), "sacked_out"
    else:
        assert not count(SACKED_ACKED)
        assert 0 <= sk.sacked_out <= sk.packets_out, "sacked_out"
    assert sk.sacked_out + sk.lost_out <= sk.packets_out, "left_out"
    assert sk.in_flight >= 0
    for skb in queue:
        assert not (skb.sacked & SACKED_ACKED and skb.sacked & LOST), "SACKED and LOST"


def _check_sequence(sk: TcpSock) -> None:
    """The queues hold [snd_una, write_seq) without a gap; what is sent ends at snd_nxt."""
    if sk.state in (CLOSE, TIME_WAIT):
        return
    head = sk.rtx_queue.head()
    if head is not None:
        assert head.seq <= sk.snd_una < head.end_seq, "rtx head"
        tail = sk.rtx_queue.tail()
        assert tail is not None
        assert tail.end_seq == sk.snd_nxt, "snd_nxt"
    else:
        assert sk.snd_una == sk.snd_nxt, "nothing in flight"
    at = sk.snd_nxt
    for skb in sk.write_queue:
        skb.check()
        assert skb.seq == at, "write queue"
        assert skb.end_seq > skb.seq
        at = skb.end_seq
    assert at == sk.write_seq, "write_seq"


def _check_timers(sk: TcpSock) -> None:
    """The shared timer is armed exactly when it has a purpose, and data never waits
    without one."""
    armed = sk.timers[T_RETRANS] != NEVER
    assert armed == (sk.pending != PENDING_NONE), ("timer", armed, sk.pending)
    assert sk.heap_at <= sk.next_deadline(), "deadline not in the heap"
    if sk.packets_out:
        assert sk.pending in (PENDING_RETRANS, PENDING_LOSS_PROBE, PENDING_REO), sk.pending
    else:
        assert sk.pending in (PENDING_NONE, PENDING_PROBE0), sk.pending
        if sk.write_queue and sk.state not in (CLOSE, SYN_SENT, SYN_RECV) and not sk.wmem_alloc:
            assert sk.pending == PENDING_PROBE0, "unsent data, nothing in flight, no probe"


def _check_receiver(sk: TcpSock) -> None:
    if sk.state in (CLOSE, SYN_SENT):
        return
    assert sk.rmem_alloc >= 0
    assert sk.copied_seq <= sk.rcv_nxt
    assert sk.rcv_wup <= sk.rcv_nxt
    if not sk.receive_queue and not len(sk.ofo_queue):
        assert sk.rmem_alloc == 0, "rmem_alloc of empty queues"
