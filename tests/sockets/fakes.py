"""A stand-in for the core: datagram and stream sockets that are joined by hand.

It keeps the contracts (`sock.proto`, `sock.wait`, `io.driver.Host`) and nothing else:
what a socket sends appears in its peer's inbox at once, a stream's inbox holds CAPACITY
bytes, and a writer waits while it is full.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import trio

from ustack.io.driver import Driver
from ustack.io.timebase import TrioTime
from ustack.seeds import Seeds
from ustack.sock.deadlines import Deadlines
from ustack.sock.errors import error
from ustack.sock.mib import Mib
from ustack.sock.net import Net
from ustack.sock.sock import MSG_DONTWAIT, SOCK_STREAM, RecvMsg, Sock
from ustack.sock.sysctl import Sysctl
from ustack.sock.wait import POLLIN, POLLOUT, Interrupted, Wait
from ustack.sockets.stack import NetworkStack

CAPACITY = 1000


class FakeSock(Sock):
    def __init__(self, net: Net, family: int, type_: int, protocol: int) -> None:
        super().__init__(net, family, type_, protocol)
        self.peer: FakeSock | None = None
        self.inbox: deque[tuple[bytes, tuple[bytes, int] | None]] = deque()
        self.eof = False
        self.backlog: deque[FakeSock] = deque()
        self.options: dict[tuple[int, int], bytes] = {}
        self.closed = False
        self.calls: list[tuple] = []

    def room(self) -> int:
        assert self.peer is not None
        return CAPACITY - sum(len(data) for data, _ in self.peer.inbox)


class FakeProto:
    name = "fake"

    def bind(self, sk, addr, now):
        if sk.sport or addr[0] == b"\1\1\1\1":
            raise error(errno.EINVAL)
        sk.rcv_saddr, sk.sport = addr[0], addr[1] or 40000

    def listen(self, sk, backlog, now):
        sk.calls.append(("listen", backlog))

    def accept(self, sk, now):
        return sk.backlog.popleft() if sk.backlog else self._accept(sk)

    def _accept(self, sk):
        while not sk.backlog:
            yield Wait(sk.wait_queue, None, exclusive=True)
        return sk.backlog.popleft()

    def connect(self, sk, addr, now):
        if addr is None:
            sk.daddr, sk.dport = b"", 0
            return None
        sk.daddr, sk.dport = addr
        answer = sk.net.answers.get(addr[0])
        if isinstance(answer, int):
            raise error(answer)
        if answer is not None:
            sk.peer = answer
        return self._connect(sk) if sk.type == SOCK_STREAM and sk.peer is None else None

    def _connect(self, sk):
        while sk.peer is None:
            yield Wait(sk.wait_queue, None)

    def sendmsg(self, sk, data, flags, now, addr=None, control=()):
        sk.calls.append(("sendmsg", data, flags, addr, control))
        if sk.err:
            sk.raise_pending()
        if sk.peer is None:
            raise error(errno.EPIPE if sk.type == SOCK_STREAM else errno.EDESTADDRREQ)
        if sk.type != SOCK_STREAM or sk.room() >= len(data):
            self._deliver(sk, bytes(data))
            return len(data)
        budget = sk.wait_budget(sk.sndtimeo, flags)
        if not budget:
            n = sk.room()
            if not n:
                raise error(errno.EAGAIN)
            self._deliver(sk, bytes(data[:n]))
            return n
        return self._send(sk, data)

    def _send(self, sk, data):
        sent = 0
        try:
            while sent < len(data):
                n = min(sk.room(), len(data) - sent)
                if n:
                    self._deliver(sk, bytes(data[sent : sent + n]))
                    sent += n
                else:
                    yield Wait(sk.wait_queue, None)
        except Interrupted:
            if not sent:
                raise
        return sent

    def _deliver(self, sk, data):
        sk.peer.inbox.append((data, (sk.rcv_saddr, sk.sport) if sk.type != SOCK_STREAM else None))
        sk.peer.data_ready()

    def recvmsg(self, sk, length, flags, now):
        sk.raise_pending()
        if sk.inbox or sk.eof:
            return self._take(sk, length)
        if not sk.wait_budget(sk.rcvtimeo, flags):
            raise error(errno.EAGAIN)
        return self._receive(sk, length)

    def _receive(self, sk, length) -> Generator:
        while not sk.inbox and not sk.eof:
            yield Wait(sk.wait_queue, None, exclusive=sk.type != SOCK_STREAM)
            sk.raise_pending()
        return self._take(sk, length)

    def _take(self, sk, length):
        msg = RecvMsg()
        if not sk.inbox:
            return msg
        data, msg.addr = sk.inbox.popleft()
        if sk.type == SOCK_STREAM and len(data) > length:
            sk.inbox.appendleft((data[length:], None))
        msg.chunks = [memoryview(data)[:length]]
        msg.len = min(length, len(data))
        msg.control = [(0, 8, b"\x01\0\0\0")] if sk.type != SOCK_STREAM else []
        if sk.peer is not None:
            sk.peer.wake_writers()
        return msg

    def shutdown(self, sk, how, now):
        if how not in (0, 1, 2):
            raise error(errno.EINVAL)
        if how and sk.peer is not None:
            sk.peer.eof = True
            sk.peer.data_ready()

    def close(self, sk, now):
        sk.closed = True
        if sk.peer is not None:
            sk.peer.eof = True
            sk.peer.data_ready()
        return self._linger(sk, now) if sk.linger else None

    def _linger(self, sk, now):
        end = now + sk.linger_time
        while now < end:
            now = yield Wait(sk.wait_queue, end)
        sk.calls.append(("lingered",))

    def setsockopt(self, sk, level, name, value, now):
        if len(value) < 4:
            raise error(errno.EINVAL)
        sk.options[level, name] = value

    def getsockopt(self, sk, level, name, optlen, now):
        if (level, name) == (1, 30):
            return b"\x01\0\0\0"[:optlen]
        if (level, name) not in sk.options:
            raise error(errno.ENOPROTOOPT)
        return sk.options[level, name][:optlen]

    def ioctl(self, sk, request, now):
        return len(sk.inbox)

    def poll(self, sk, now):
        writable = sk.peer is not None and sk.room() > 0
        return (POLLIN if sk.inbox or sk.eof or sk.backlog else 0) | (POLLOUT if writable else 0)


class FakeStack(Net):
    """As much of `ustack.stack.Stack` as the sockets use."""

    def __init__(self) -> None:
        self.sysctl = Sysctl()
        self.seeds = Seeds(1)
        self.mib = Mib()
        self.deadlines = Deadlines()
        self.softirq_pending = False
        self.tcp = self.udp = SimpleNamespace(sockets=list, timewaits=list)
        self.routes = SimpleNamespace(devices=[])
        self.made: list[FakeSock] = []
        self.prot = FakeProto()
        self.answers: dict[bytes, int | FakeSock] = {}  # to connects; silence if not there

    def socket(self, family, type_, protocol):
        sk = FakeSock(self, family, type_ & 0xF, protocol)
        sk.nonblocking = bool(type_ & 0x800)
        sk.prot = self.prot
        self.made.append(sk)
        return sk

    def handle_batch(self, frames, now, dev): ...

    def handle_timeout(self, now):
        self.deadlines.run(now)

    def run_softirq(self, now): ...


# The fake is no host: what transports ask of one is never called.
FakeStack.__abstractmethods__ = frozenset()


@asynccontextmanager
async def fake_stack() -> AsyncIterator[NetworkStack]:
    core = FakeStack()
    driver = Driver(core, TrioTime())
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        stack = NetworkStack(core, driver, nursery)
        yield stack
        stack.close_sockets()
        nursery.cancel_scope.cancel()


def join(a, b) -> None:
    """Make two sockets each other's peer."""
    a.sk.peer, b.sk.peer = b.sk, a.sk
    for sk in (a.sk, b.sk):
        sk.state_change()


def stream_pair(stack):
    a, b = stack.socket(), stack.socket()
    join(a, b)
    return a, b


def datagram_pair(stack):
    a, b = stack.socket(type=2), stack.socket(type=2)
    join(a, b)
    return a, b


__all__ = ["CAPACITY", "MSG_DONTWAIT", "datagram_pair", "fake_stack", "join", "stream_pair"]
