"""The kernel's half of the demo: ordinary programs on ordinary sockets.

It runs in a child process, so that the two ends of a transfer do not share an interpreter,
and tells its parent what happens as lines of JSON:

    {"event": "begin", "work": ..., "family": 4}
    {"event": "progress", "bytes": ..., "seconds": ..., "local": [host, port]}
    {"event": "end", "verified": true, "sent": ..., "bytes": ..., "seconds": ...,
     "retrans": ..., "note": ...}

Each piece of work has its time limit, and whatever goes wrong in one is its result.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import random
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ustack.daemon import pattern
from ustack.daemon.config import OTHER_SERVICES, SERVICES

WORKS = ("ping", "UDP echo", "TCP echo", "HTTP page", "bulk in", "bulk out")
PATIENCE = 6.0  # s without progress
PINGS, PINGS_LOST = 10, 4
PING_PATIENCE = 0.5
ECHO_BYTES = 8_000_000
HTTP_BYTES = 4_000_000
PROGRESS = 0.1  # s between reports
DATAGRAMS = 200


@dataclass(slots=True)
class Done:
    """What one piece of work has come to."""

    verified: bool
    sent: str
    bytes: int = 0
    note: str = ""


class Channel:
    """The way to the parent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._last = 0.0
        self.began = 0.0

    def orders(self) -> dict[str, Any]:
        """The parent's only message; it comes when the stack is up."""
        with self._sock.makefile("r", encoding="ascii") as file:
            orders: dict[str, Any] = json.loads(file.readline())
            return orders

    def tell(self, **event: object) -> None:
        self._sock.sendall(json.dumps(event).encode("ascii") + b"\n")

    def progress(self, sock: socket.socket, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= PROGRESS:
            self._last = now
            local = sock.getsockname()[:2]
            self.tell(event="progress", bytes=total, seconds=now - self.began, local=local)


class Client:
    """All the work against one address of the stack."""

    def __init__(self, channel: Channel, host: str, seconds: float) -> None:
        self.channel = channel
        self.host = host
        self.seconds = seconds
        self.ipv6 = ":" in host
        self.family = socket.AF_INET6 if self.ipv6 else socket.AF_INET

    def run_all(self) -> None:
        works = self.ping, self.udp_echo, self.tcp_echo, self.http, self.bulk_in, self.bulk_out
        for name, function in zip(WORKS, works, strict=True):
            self.run(name, function)

    def run(self, work: str, function: Callable[[], Done]) -> None:
        """Do one piece of work and tell how it went."""
        channel = self.channel
        channel.tell(event="begin", work=work, family=6 if self.ipv6 else 4)
        before = retransmitted()
        channel.began = time.monotonic()
        try:
            done = function()
        except (OSError, EOFError, http.client.HTTPException, subprocess.SubprocessError) as exc:
            done = Done(False, "", 0, f"{type(exc).__name__}: {exc}")
        channel.tell(
            event="end",
            verified=done.verified,
            sent=done.sent,
            bytes=done.bytes,
            seconds=time.monotonic() - channel.began,
            retrans=retransmitted() - before,
            note=done.note,
        )

    def connect(self, service: str) -> socket.socket:
        port = (SERVICES | OTHER_SERVICES)[service]
        return socket.create_connection((self.host, port), timeout=PATIENCE)

    def ping(self) -> Done:
        """Echo requests through a ping socket, which needs no privilege.

        A lost one is no failure: the queue into the stack may still be full of the last
        transfer's ACKs.
        """
        trips: list[float] = []
        protocol = socket.IPPROTO_ICMPV6 if self.ipv6 else socket.IPPROTO_ICMP
        with socket.socket(self.family, socket.SOCK_DGRAM, protocol) as sock:
            sock.settimeout(PING_PATIENCE)
            sock.connect((self.host, 0))
            seq = 0
            while len(trips) < PINGS and seq < PINGS + PINGS_LOST:
                seq += 1
                with suppress(TimeoutError):
                    trips.append(self._ping(sock, seq))
        if len(trips) < PINGS:
            return Done(False, f"{seq} of 64 bytes", note=f"{seq - len(trips)} not answered")
        best, mean = min(trips) * 1000, sum(trips) / len(trips) * 1000
        lost = f", {seq - PINGS} lost" if seq > PINGS else ""
        note = f"{best:.2f} ms at best, {mean:.2f} mean{lost}"
        return Done(True, f"{seq} of 64 bytes", note=note)

    def _ping(self, sock: socket.socket, seq: int) -> float:
        """One round trip, s. OSError EBADMSG if the answer is a wrong one."""
        kind, answer = (128, 129) if self.ipv6 else (8, 0)
        payload, number = bytes(pattern.at(seq, 56)), seq.to_bytes(2, "big")
        began = time.perf_counter()
        sock.send(struct.pack("!BBHH2s", kind, 0, 0, 0, number) + payload)
        reply = sock.recv(2048)
        while reply[6:8] < number:  # an answer that we no longer waited for
            reply = sock.recv(2048)
        if reply[:1] + reply[6:] != bytes((answer,)) + number + payload:
            raise OSError(errno.EBADMSG, "the answer is not the question")
        return time.perf_counter() - began

    def udp_echo(self) -> Done:
        """Datagrams of all sizes, up to the largest that there is."""
        rng = random.Random(7)
        largest = 65527 if self.ipv6 else 65507
        sizes = [rng.randint(0, 1400) for _ in range(DATAGRAMS)] + [1473, 9000, largest]
        ours, theirs, total = hashlib.sha256(), hashlib.sha256(), 0
        with socket.socket(self.family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2.0)
            sock.connect((self.host, SERVICES["echo"]))
            for size in sizes:
                data = bytes(pattern.at(total, size))
                sock.send(data)
                ours.update(data)
                theirs.update(sock.recv(65536))
                total += size
        same = ours.digest() == theirs.digest()
        return Done(same, f"{len(sizes)} of 0-{largest} bytes", total, digest_note(ours))

    def tcp_echo(self) -> Done:
        """Send and receive at once, whatever the connection is ready for."""
        theirs, got, offset = hashlib.sha256(), 0, 0
        with self.connect("echo") as sock:
            sock.setblocking(False)
            while got < ECHO_BYTES:
                wanted = [sock] if offset < ECHO_BYTES else []
                readable, writable, _ = select.select([sock], wanted, [], PATIENCE)
                if not readable and not writable:
                    raise TimeoutError(f"no progress after {got} bytes")
                if writable:
                    left = min(pattern.CHUNK, ECHO_BYTES - offset)
                    offset += sock.send(pattern.at(offset, left))
                if readable:
                    data = receive(sock)
                    theirs.update(data)
                    got += len(data)
                    self.channel.progress(sock, got)
            sock.settimeout(PATIENCE)
            sock.shutdown(socket.SHUT_WR)
            ended = sock.recv(1) == b""
        ours = pattern_digest(ECHO_BYTES)
        same = ended and ours.digest() == theirs.digest()
        return Done(same, size_text(ECHO_BYTES), ECHO_BYTES, digest_note(ours))

    def http(self) -> Done:
        """A page by curl, or by Python's own client."""
        curl = shutil.which("curl")
        path = f"/bytes/{HTTP_BYTES}"
        body = self._curl(curl, path) if curl else self._python(path)
        ours = pattern_digest(HTTP_BYTES)
        same = hashlib.sha256(body).digest() == ours.digest()
        by = "by curl" if curl else "by Python"
        return Done(same, f"GET {path}", len(body), f"{by}, {digest_note(ours)}")

    def _curl(self, curl: str, path: str) -> bytes:
        host = f"[{self.host}]" if self.ipv6 else self.host
        options = ["-gqsSf", "--noproxy", "*", "--max-time", str(PATIENCE)]
        done = subprocess.run(
            [curl, *options, f"http://{host}{path}"], capture_output=True, check=False
        )
        if done.returncode:
            raise OSError(done.stderr.decode(errors="replace").strip() or "curl failed")
        return done.stdout

    def _python(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.host, SERVICES["http"], timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def bulk_in(self) -> Done:
        """Kernel to stack, at full speed for a while; the stack compares every byte."""
        total, until = 0, time.monotonic() + self.seconds
        with self.connect("sink") as sock:
            while time.monotonic() < until:
                total += sock.send(pattern.at(total, pattern.CHUNK))
                self.channel.progress(sock, total)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while not answer.endswith(b"\n"):
                answer += receive(sock)
        same = answer == f"good {total}\n".encode("ascii")
        return Done(same and total > 0, size_text(total), total, "compared by the stack")

    def bulk_out(self) -> Done:
        """Stack to kernel; we compare every byte."""
        checker = pattern.TailedChecker()
        with self.connect("source") as sock:
            sock.sendall(f"seconds {self.seconds}\n".encode("ascii"))
            while data := sock.recv(pattern.CHUNK):
                checker.feed(data)
                self.channel.progress(sock, checker.total)
        total = checker.total
        good = checker.end() and total > pattern.TAIL.size
        return Done(good, size_text(total), total, "compared by the kernel's client")


def receive(sock: socket.socket) -> bytes:
    """Some bytes; EOFError at the end of the stream."""
    data = sock.recv(pattern.CHUNK)
    if not data:
        raise EOFError("the stream ended early")
    return data


def pattern_digest(total: int) -> hashlib._Hash:
    hasher = hashlib.sha256()
    for chunk in pattern.chunks(total):
        hasher.update(chunk)
    return hasher


def digest_note(digest: hashlib._Hash) -> str:
    return f"SHA-256 {digest.hexdigest()[:8]}..."


def size_text(total: int) -> str:
    """1.5 MB, 2.25 GB: as packets count, in powers of ten."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if total >= size:
            return (
                f"{total / size:.3g} {unit}" if total < 1000 * size else f"{total // size} {unit}"
            )
    return f"{total} bytes"


def retransmitted() -> int:
    """TCP segments that the kernel of this namespace has sent again (TcpRetransSegs)."""
    with open("/proc/self/net/snmp", encoding="ascii") as file:
        names, values = (line.split() for line in file if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def main(sock: socket.socket) -> None:
    """Do everything that the parent orders."""
    channel = Channel(sock)
    orders = channel.orders()
    for host in orders["hosts"]:
        Client(channel, host, orders["seconds"]).run_all()
    channel.tell(event="done")
