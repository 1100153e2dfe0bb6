"""What the two ends of a benchmark agree on: the services of the side under test.

    ECHO      TCP and UDP: everything comes back
    DISCARD   TCP: read to the end, then answer with the number of bytes (8 bytes)
    SOURCE    TCP: zeros until the peer goes away
    UPLOAD    TCP: read to the end, then answer with a `Receipt` as a line of JSON
    DOWNLOAD  TCP: read a length (8 bytes), send that much of `payload`, shut down

Both server programs (server.py on trio, kernel_server.py on epoll) print a line when they
serve, answer each line on stdin with their SNMP counters as a line of JSON, and end with
stdin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import resource
import socket
import struct
import time
from typing import Any

ECHO, DISCARD, SOURCE, UPLOAD, DOWNLOAD = 7, 9, 19, 2001, 2002
TCP_PORTS = (ECHO, DISCARD, SOURCE, UPLOAD, DOWNLOAD)
LENGTH = struct.Struct("!Q")
CHUNK = 256 * 1024


def payload(nbytes: int) -> bytes:
    """The same pseudo-random bytes in every process."""
    return random.Random(1).randbytes(nbytes)


class Receipt:
    """What one receiver saw of one stream, and how long it stood still at worst.

    Times run from the first byte to the last: the handshake is not part of it.
    """

    def __init__(self, capacity: int) -> None:
        self.buffer = memoryview(bytearray(capacity))
        self.received = 0
        self.first_ns = 0
        self.last_ns = 0
        self.standstill_ns = 0

    def room(self) -> memoryview:
        """Where the next bytes go; never empty, so that a surplus byte shows."""
        return self.buffer[self.received : self.received + CHUNK]

    def got(self, nbytes: int) -> None:
        """`nbytes` have been read into `room()`."""
        now = time.monotonic_ns()
        if self.received:
            self.standstill_ns = max(self.standstill_ns, now - self.last_ns)
        else:
            self.first_ns = now
        self.last_ns = now
        self.received += nbytes

    def result(self) -> dict[str, Any]:
        return {
            "bytes": self.received,
            "sha256": hashlib.sha256(self.buffer[: self.received]).hexdigest(),
            "seconds": (self.last_ns - self.first_ns) / 1e9,
            "standstill_ms": self.standstill_ns / 1e6,
        }

    def line(self) -> bytes:
        return json.dumps(self.result()).encode() + b"\n"


def prepare(sock: socket.socket) -> None:
    """Options of a kernel TCP socket on either end: no Nagle, and the congestion control
    that nearly every machine has, whatever this one prefers (a namespace inherits it)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def raise_file_limit() -> None:
    """As many descriptors as this process may have: 1,000 connections need them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
