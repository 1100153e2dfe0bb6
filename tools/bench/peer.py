"""The kernel's side of each work item: a client as light as Python allows.

    python -m tools.bench.peer WORK ADDRESS [--seconds N] [--count N] [--bytes N]

Prints its measurement as one line of JSON. Blocking sockets with kernel timeouts (a
Python timeout would poll before each call), one big buffer, MSG_TRUNC where bytes only
have to be counted; epoll where many connections are at work at once.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from tools.bench import service
from tools.testbed import read_counters

Result = dict[str, Any]
STALLED_S = 20  # a peer that is silent for so long is reported as an error
LOST_US = 200_000  # a datagram that has not come back by then is lost
BUFFER = 256 * 1024  # larger ones fall out of the CPU caches
_clock = time.perf_counter_ns


class Work:
    """Where to, how long, how many."""

    def __init__(self, address: str, seconds: float, count: int, nbytes: int) -> None:
        self.address = address
        self.seconds = seconds
        self.count = count
        self.nbytes = nbytes

    def deadline(self) -> int:
        return _clock() + int(self.seconds * 1e9)

    def connect(self, port: int) -> socket.socket:
        sock = socket.socket(service.family(self.address), socket.SOCK_STREAM)
        set_timeout(sock, STALLED_S * 1_000_000)
        service.prepare(sock)
        sock.connect((self.address, port))
        return sock


def set_timeout(sock: socket.socket, microseconds: int) -> None:
    """Blocking calls end with EAGAIN after that long, without a poll before each."""
    value = struct.pack("ll", *divmod(microseconds, 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def latency(samples: list[int]) -> Result:
    samples.sort()
    return {
        "p50_us": samples[len(samples) // 2] / 1e3,
        "p99_us": samples[len(samples) * 99 // 100] / 1e3,
    }


def bulk_in(work: Work) -> Result:
    """The kernel sends and the stack discards; over when the stack has counted it all."""
    sock = work.connect(service.DISCARD)
    data, sent = memoryview(bytes(BUFFER)), 0
    start, deadline = _clock(), work.deadline()
    while _clock() < deadline:
        sent += sock.send(data)
    sock.shutdown(socket.SHUT_WR)
    counted = service.LENGTH.unpack(read_all(sock))[0]
    elapsed = _clock() - start
    if counted != sent:
        raise RuntimeError(f"sent {sent} bytes, {counted} arrived")
    return {"bytes": sent, "seconds": elapsed / 1e9}


def bulk_out(work: Work) -> Result:
    """The stack sends zeros and the kernel drops them unread."""
    sock = work.connect(service.SOURCE)
    buffer, received = bytearray(BUFFER), 0
    start, deadline = _clock(), work.deadline()
    while _clock() < deadline:
        nbytes = sock.recv_into(buffer, BUFFER, socket.MSG_TRUNC)
        if not nbytes:
            raise RuntimeError("the source ended")
        received += nbytes
    return {"bytes": received, "seconds": (_clock() - start) / 1e9}


def pingpong(work: Work) -> Result:
    """One byte to and fro on `count` connections, each waiting for its own echo."""
    if work.count == 1:
        return _pingpong_one(work)
    epoll = select.epoll()
    socks = {s.fileno(): s for s in (work.connect(service.ECHO) for _ in range(work.count))}
    sent_at, samples = {}, []
    start, deadline = _clock(), work.deadline()
    for fd, sock in socks.items():
        sock.setblocking(False)
        epoll.register(fd, select.EPOLLIN)
        sent_at[fd] = _clock()
        sock.send(b"x")
    now = start
    while now < deadline:
        events = epoll.poll(STALLED_S)
        if not events:
            raise TimeoutError(errno.ETIMEDOUT, "no echo")
        for fd, _ in events:
            sock = socks[fd]
            if sock.recv(16) != b"x":
                raise RuntimeError("a wrong echo")
            now = _clock()
            samples.append(now - sent_at[fd])
            sent_at[fd] = now
            sock.send(b"x")
    return {"count": len(samples), "seconds": (now - start) / 1e9, **latency(samples)}


def _pingpong_one(work: Work) -> Result:
    sock = work.connect(service.ECHO)
    samples: list[int] = []
    start, deadline = _clock(), work.deadline()
    before = now = start
    while now < deadline:
        sock.send(b"x")
        if sock.recv(16) != b"x":
            raise RuntimeError("a wrong echo")
        now = _clock()
        samples.append(now - before)
        before = now
    return {"count": len(samples), "seconds": (now - start) / 1e9, **latency(samples)}


def connect(work: Work) -> Result:
    """Connect, one byte echoed, close; `count` at a time.

    The client closes first, so that TIME_WAIT collects on the kernel's side. Out of
    ports, it stops early: the rate is over the time it had.
    """
    calls = Connector(work.address)
    start, deadline = _clock(), work.deadline()
    for _ in range(work.count):
        calls.begin()
    while calls.open and _clock() < deadline:
        calls.step()
    seconds = (_clock() - start) / 1e9
    if not calls.samples:
        raise RuntimeError(f"no connection came about: {calls.failures}")
    result = {"count": len(calls.samples), "seconds": seconds, **latency(calls.samples)}
    return result | {"failures": calls.failures, "ports_used_up": calls.ports_used_up}


class Connector:
    """Short connections, each in one of two states: connecting, waiting for its echo."""

    def __init__(self, address: str) -> None:
        self.family = service.family(address)
        self.to = (address, service.ECHO)
        self.epoll = select.epoll()
        self.open: dict[int, tuple[socket.socket, int]] = {}
        self.samples: list[int] = []
        self.failures = 0
        self.ports_used_up = False

    def begin(self) -> None:
        sock = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        started = _clock()
        err = sock.connect_ex(self.to)
        if err == errno.EADDRNOTAVAIL:
            self.ports_used_up = True
            return
        fd = sock.fileno()
        self.open[fd] = (sock, started)
        self.epoll.register(fd, select.EPOLLOUT)

    def step(self) -> None:
        events = self.epoll.poll(STALLED_S)
        if not events:
            raise TimeoutError(errno.ETIMEDOUT, "no connection makes progress")
        for fd, event in events:
            sock, started = self.open[fd]
            try:
                if event == select.EPOLLOUT:
                    sock.send(b"x")
                    self.epoll.modify(fd, select.EPOLLIN)
                    continue
                if sock.recv(16) != b"x":
                    raise ConnectionResetError
                self.samples.append(_clock() - started)
            except OSError:
                self.failures += 1
            del self.open[fd]
            sock.close()
            self.begin()


def udp_echo(work: Work) -> Result:
    """64 bytes to and fro, `count` of them on the way at any time."""
    sock = socket.socket(service.family(work.address), socket.SOCK_DGRAM)
    set_timeout(sock, LOST_US)
    sock.connect((work.address, service.ECHO))
    message, done, lost = bytes(range(64)), 0, 0
    samples: list[int] = []
    send, recv, count = sock.send, sock.recv, work.count
    start, deadline = _clock(), work.deadline()
    for _ in range(count):
        send(message)
    before = now = start
    while now < deadline:
        try:
            answer = recv(2048)
        except BlockingIOError:
            lost += count  # the whole window is gone
            for _ in range(count):
                send(message)
            before = now = _clock()
            continue
        now = _clock()
        samples.append(now - before)
        before = now
        if answer != message:
            raise RuntimeError("a wrong echo")
        done += 1
        send(answer)
    result = {"count": done, "seconds": (now - start) / 1e9, "lost": lost}
    return result | (latency(samples) if count == 1 and samples else {})


def upload(work: Work) -> Result:
    """`nbytes` to the stack, which says when they came and with which hash."""
    data = service.payload(work.nbytes)
    sock = work.connect(service.UPLOAD)
    retrans = read_counters()["TcpRetransSegs"]
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    result: Result = json.loads(read_all(sock))
    return _checked(result, data) | {"peer_retrans": read_counters()["TcpRetransSegs"] - retrans}


def download(work: Work) -> Result:
    """`nbytes` from the stack, timed and hashed here."""
    data = service.payload(work.nbytes)
    sock = work.connect(service.DOWNLOAD)
    receipt = service.Receipt(work.nbytes + 1)
    sock.sendall(service.LENGTH.pack(work.nbytes))
    while nbytes := sock.recv_into(receipt.room()):
        receipt.got(nbytes)
    return _checked(receipt.result(), data)


def _checked(result: Result, data: bytes) -> Result:
    if result.pop("sha256") != hashlib.sha256(data).hexdigest():
        raise RuntimeError(f"the stream was damaged: {result['bytes']} of {len(data)} bytes")
    return result


def idle(work: Work) -> Result:
    """Open `count` connections, prove each by an echo, say so, and wait for a line."""
    socks = [work.connect(service.ECHO) for _ in range(work.count)]
    for sock in socks:
        sock.send(b"x")
    for sock in socks:
        if sock.recv(16) != b"x":
            raise RuntimeError("a wrong echo")
    print("idle", flush=True)
    sys.stdin.readline()
    return {"count": len(socks)}


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


WORK: dict[str, Callable[[Work], Result]] = {
    "bulk-in": bulk_in,
    "bulk-out": bulk_out,
    "pingpong": pingpong,
    "connect": connect,
    "udp-echo": udp_echo,
    "upload": upload,
    "download": download,
    "idle": idle,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.peer", description=__doc__)
    parser.add_argument("work", choices=sorted(WORK))
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=20_000_000)
    args = parser.parse_args()
    service.raise_file_limit()
    work = Work(args.address, args.seconds, args.count, args.bytes)
    try:
        result = WORK[args.work](work)
    except BlockingIOError:
        result = {"error": f"nothing moved for {STALLED_S} s"}
    except (OSError, RuntimeError, struct.error) as exc:
        result = {"error": str(exc) or type(exc).__name__}
    print(json.dumps(result), flush=True)
    return "error" in result


if __name__ == "__main__":
    sys.exit(main())
