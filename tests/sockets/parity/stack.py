"""ustack as the system under test: a stack driven by a small synchronous loop.

The peer is the stack's device. Time passes only in `pump`: in real time by default, or,
with a `VirtualClock`, as fast as there is something to do.

Timers fire when the kernel's would: the stack rounds them to ticks (`hz`), and the loop
here is late as the kernel's timer wheel is (`Wheel`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from ipaddress import ip_address
from typing import Any

from tests.sockets.parity.shaper import Shaper
from tests.sockets.parity.wheel import HZ, TICK, Wheel, jiffies_offset
from ustack.link.fifo import Fifo
from ustack.link.gso import SoftwareGso
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sock.addr import normalize, present
from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Device
from ustack.sock.errors import error
from ustack.sock.sock import AF_INET6, RecvMsg, Sock
from ustack.sock.sysctl import Sysctl
from ustack.sock.wait import Op, Wait
from ustack.sockets.buffers import fit_control
from ustack.stack import Stack
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CLOSE, SYN_SENT
from ustack.wire.packet import TAKEN, Frame, Packet

_ANCILLARY = 1024
_EBADF, _ENOTCONN, _EINVAL = 9, 107, 22


class RealClock:
    """The machine's clock."""

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep_until(self, at: int) -> None:
        left = at - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)


class VirtualClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self._now = 100_000_000_000

    def now(self) -> int:
        return self._now

    def sleep_until(self, at: int) -> None:
        self._now = max(self._now, at)


class PeerDevice(Device):
    """Hands every packet to the script."""

    def __init__(self, mtu: int) -> None:
        super().__init__("tun0", mtu, 0)
        self.sent: list[bytes] = []

    def xmit(self, packet: Packet) -> int:
        self.sent.append(b"".join((packet.header, *packet.payload)))
        return TAKEN


class StackSut:
    """One stack with one device and the sockets of one scenario."""

    name = "ustack"

    def __init__(
        self,
        v6: bool,
        local: str,
        settings: dict[str, Any],
        mtu: int = 1500,
        clock: RealClock | VirtualClock | None = None,
        shaper: Shaper | None = None,
    ) -> None:
        self.v6 = v6
        self.clock = clock or RealClock()
        self.now = self.clock.now
        sysctl = Sysctl(**{k: v for k, v in settings.items() if "/" not in k}, hz=HZ)
        self.stack = Stack(seeds=Seeds(None), loopback=Loopback(), sysctl=sysctl)
        self.raw = PeerDevice(mtu)
        self.dev: Device = SoftwareGso(self.raw)
        if shaper is not None:
            self.dev = Fifo(
                self.dev,
                self.now,
                self.stack.deadlines,
                self.stack.handle_tx_done,
                shaper.limit,
                shaper.rate,
                shaper.burst,
            )
        self.stack.add_device(self.dev)
        self.add_address(local + ("/64" if v6 else "/24"))
        self.wheel = Wheel(jiffies_offset() if clock is None else 0)
        self.runnable: list[StackCall] = []
        self.calls: list[StackCall] = []

    def align(self) -> None:
        """Start where the kernel's timer wheel does (`jiffies` a multiple of 64)."""
        tick = self.now() // TICK + self.wheel.offset
        self.clock.sleep_until(((tick | 63) + 1 - self.wheel.offset) * TICK)

    def add_address(self, cidr: str) -> None:
        self.stack.add_address(self.dev, cidr)

    def add_route(self, via: str) -> None:
        """A default route."""
        self.stack.add_route("::/0" if self.v6 else "0.0.0.0/0", self.dev, via)

    def inject(self, packet: bytes) -> None:
        now = self.enter()
        self.stack.handle_batch([Frame(packet)], now, self.dev)
        self.settle()

    def enter(self) -> int:
        """Before every event: what is due comes first."""
        now = self.now()
        if self.wheel.next() <= now:
            self.stack.handle_timeout(now)
            self.settle()
        return now

    def settle(self) -> None:
        """After every event: loopback, woken calls."""
        stack = self.stack
        while stack.softirq_pending or self.runnable:
            if stack.softirq_pending:
                stack.run_softirq(self.now())
            while self.runnable:
                self.runnable.pop(0).resume()
        self.wheel.note(stack.deadlines, self.now())

    def pump(self, until: int, out: Callable[[bytes, int], None]) -> None:
        """Let time pass until `until`; `out` gets each packet and when it was read."""
        while True:
            self.enter()
            now = self.now()
            self.runnable += [call for call in self.calls if call.deadline <= now]
            self.settle()
            for packet in self._take():
                out(packet, now)
            if now >= until:
                return
            deadlines = [call.deadline for call in self.calls]
            self.clock.sleep_until(min(until, self.wheel.next(), *deadlines, NEVER))

    def _take(self) -> list[bytes]:
        sent, self.raw.sent = self.raw.sent, []
        return sent

    def counters(self, names: tuple[str, ...]) -> dict[str, int]:
        return {name: self.stack.mib[name] for name in names}

    def socket(self, family: int, type_: int, proto: int = 0) -> StackSocket:
        sk = self.stack.socket(family, type_, proto)
        sk.nonblocking = True
        return StackSocket(self, sk)

    def close(self) -> None:
        """Nothing outlives the process."""


class StackSocket:
    """The calls of one socket of the stack, as `kernel.KernelSocket`."""

    def __init__(self, sut: StackSut, sk: Sock) -> None:
        self.sut = sut
        self.sk: Sock | None = sk
        self.blocking = False
        self.asked = 0  # the length of the last receive

    def _do(self, name: str, *args: Any, tail: tuple[Any, ...] = ()) -> Any:
        sut = self.sut
        now = sut.enter()
        sk = self._open()
        sk.nonblocking = not self.blocking
        try:
            result = getattr(sk.prot, name)(sk, *args, now, *tail)
            if isinstance(result, Generator):
                assert self.blocking, f"{name} wants to wait"
                raise _Blocks(result)
            return result
        finally:
            sut.settle()

    def _open(self) -> Sock:
        if self.sk is None:
            raise error(_EBADF)
        return self.sk

    def _native(self, addr: Any) -> tuple[bytes, int]:
        return normalize(ip_address(addr[0]).packed) if addr[0] else b"", addr[1]

    def _shown(self, host: bytes, port: int) -> Any:
        v6 = self._open().family == AF_INET6
        text = str(ip_address(present(host, v6)))
        return (text, port, 0, 0) if v6 else (text, port)

    def bind(self, addr: Any) -> None:
        self._do("bind", self._native(addr))

    def connect(self, addr: Any) -> None:
        self._do("connect", self._native(addr))

    def disconnect(self) -> None:
        self._do("connect", None)

    def listen(self, backlog: int) -> None:
        self._do("listen", backlog)

    def accept(self, flags: int = 0) -> tuple[StackSocket, Any]:
        if flags & ~0x80800:
            raise error(_EINVAL)
        return self.accepted(self._do("accept"))

    def accepted(self, child: Sock) -> tuple[StackSocket, Any]:
        return StackSocket(self.sut, child), self._shown(child.daddr, child.dport)

    def send(
        self, data: bytes, flags: int = 0, to: Any = None, control: tuple[Any, ...] = ()
    ) -> int:
        address = self._native(to) if to is not None else None
        return int(self._do("sendmsg", data, flags, tail=(address, tuple(control))))

    def recv(self, length: int, flags: int = 0) -> tuple[bytes, int, Any, Any, int]:
        self.asked = length
        return self.received(self._do("recvmsg", length, flags), length)

    def received(self, msg: RecvMsg, asked: int) -> tuple[bytes, int, Any, Any, int]:
        """What the call returns, as the kernel lays it out."""
        control, cut = fit_control(msg.control, _ANCILLARY)
        data = b"".join(msg.chunks)
        # what the call did not write is as the buffer was
        data += bytes(max(0, min(msg.len, asked) - len(data)))
        addr = self._shown(*msg.addr) if msg.addr is not None else None
        return data, msg.flags | cut, control, addr, msg.len

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        self._do("setsockopt", level, name, value)

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        return bytes(self._do("getsockopt", level, name, size))

    def ioctl(self, request: int) -> int:
        return int(self._do("ioctl", request))

    def poll(self) -> int:
        return int(self._do("poll"))

    def shutdown(self, how: int) -> None:
        self._do("shutdown", how)

    def close(self) -> None:
        self._do("close")
        self.sk = None

    def getsockname(self) -> Any:
        sk = self._open()
        port = sk.sport or (sk.last_port if isinstance(sk, TcpSock) else 0)
        return self._shown(sk.rcv_saddr or sk.saddr, port)

    def getpeername(self) -> Any:
        sk = self._open()
        if not sk.dport or (isinstance(sk, TcpSock) and sk.state in (CLOSE, SYN_SENT)):
            raise error(_ENOTCONN)
        return self._shown(sk.daddr, sk.dport)

    def start(self, call: Callable[[StackSocket], Any]) -> StackCall:
        return StackCall(self, call)


class _Blocks(Exception):
    """A call that waits, on its way to `StackCall`."""

    def __init__(self, op: Op[Any]) -> None:
        super().__init__()
        self.op = op


class StackCall:
    """A blocking call. `outcome` is (finished at, result or exception)."""

    exclusive = False

    def __init__(self, sock: StackSocket, call: Callable[[StackSocket], Any]) -> None:
        self.sock = sock
        self.sut = sock.sut
        self.outcome: tuple[int, Any] | None = None
        self.wait: Wait | None = None
        self.waits_since = 0
        self.asked = 0
        sock.blocking = True
        try:
            self._finish(call(sock))
        except _Blocks as blocks:
            self.op = blocks.op
            self.asked = sock.asked
            self.sut.calls.append(self)
            self._step(lambda: next(self.op))
        except OSError as why:
            self._finish(why)
        finally:
            sock.blocking = False
            self.sut.settle()

    def _finish(self, result: Any) -> None:
        self.outcome = (self.sut.now(), result)
        if self in self.sut.calls:
            self.sut.calls.remove(self)

    def _step(self, advance: Callable[[], Wait]) -> None:
        if self.wait is not None:
            self.wait.queue.remove(self)
            self.wait = None
        try:
            self.wait = advance()
        except StopIteration as stop:
            self._finish(self._shown(stop.value))
        except OSError as why:
            self._finish(why)
        else:
            self.wait.queue.add(self)
            self.waits_since = self.sut.now()

    def _shown(self, value: Any) -> Any:
        if isinstance(value, RecvMsg):
            return self.sock.received(value, self.asked)
        if isinstance(value, Sock):
            return self.sock.accepted(value)
        return value

    def wake(self, mask: int) -> bool:
        if self not in self.sut.runnable:
            self.sut.runnable.append(self)
        return True

    def resume(self) -> None:
        if self.outcome is None:
            self._step(lambda: self.op.send(self.sut.now()))

    @property
    def deadline(self) -> int:
        if self.wait is None or self.wait.deadline is None:
            return NEVER
        return self.sut.wheel.expiry(self.wait.deadline, self.waits_since)
