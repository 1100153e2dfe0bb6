"""`Bench` with a kernel socket in the place of ours: the same scripts, the same peer.

The peer's packets go through a TUN in a private network namespace; time is real. Used to
record what a kernel answers (`python -m tests.tcp.record`); the tests compare with the
recording.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

from tests.tcp.harness import LOCAL4, PEER4, PEER_ISN, T0, Bench, Sent

_PROC = Path("/proc/sys/net")
_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001
_SETTLE_MS = 3


class Device:
    """What `Bench` wants of a device: the list of what was sent."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.bursts: list[Any] = []


class KernelBench(Bench):
    """Calls go to a socket of this namespace; `open_tun` must have been called."""

    tun = -1
    next_port = 40000
    is_kernel = True

    @classmethod
    def open_tun(cls) -> None:
        """Make this (private) namespace the kernel's side."""
        cls.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(cls.tun, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN_NO_PI))
        for command in (
            "ip link set lo up",
            "sysctl -qw net.ipv6.conf.tun0.disable_ipv6=1",
            "ip addr add 10.9.0.2/24 dev tun0",
            "ip link set tun0 mtu 1500 up",
            "sysctl -qw net.ipv4.tcp_congestion_control=reno net.ipv4.tcp_ecn=0",
            "sysctl -qw net.ipv4.tcp_syncookies=0",
        ):
            assert os.system(command) == 0, command

    def __init__(
        self,
        *,
        mss: int | None = 1460,
        window: int = 65535,
        wscale: int | None = None,
        sack: bool = True,
        ts: bool = False,
        rtt: float = 0,
    ) -> None:
        self.start_ns = time.monotonic_ns()
        self.iss: Any = None
        self.peer_iss = PEER_ISN
        self.mss, self.window, self.wscale, self.sack, self.ts = mss, window, wscale, sack, ts
        (_PROC / "ipv4/tcp_timestamps").write_text(str(int(ts)))
        self.rtt = rtt
        self.v6 = False
        self.local, self.peer = LOCAL4, PEER4
        self.dev: Any = Device()
        self.runnable, self.calls, self.checks = [], [], False
        self.ts_ecr = 0
        self.peer_seq = 1
        KernelBench.next_port += 1
        self.peer_port, self.sport = self.next_port, self.next_port - 33000
        self.kernel: socket.socket

    @property
    def now(self) -> int:  # type: ignore[override]
        return T0 + time.monotonic_ns() - self.start_ns

    # -- the wire ------------------------------------------------------------------------

    def pump(self, ms: float = 0) -> None:
        """Collect what the kernel sends, for this long."""
        end = time.monotonic() + ms / 1000
        while True:
            left = end - time.monotonic()
            if select.select([self.tun], [], [], max(left, 0))[0]:
                self._receive(os.read(self.tun, 65536))
            elif left <= 0:
                return

    def _receive(self, packet: bytes) -> None:
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return
        if int.from_bytes(packet[22:24], "big") != self.peer_port:
            return  # of an earlier connection
        if self.iss is None and packet[33] & 2:
            self.iss = int.from_bytes(packet[24:28], "big")
        iss, self.iss = self.iss, self.iss or 0
        self.dev.sent.append(Sent(self, packet))
        self.iss = iss

    def step(self) -> None:
        self.pump(_SETTLE_MS)
        if self.dev.sent and self.dev.sent[-1].options.has_ts:
            self.ts_ecr = self.dev.sent[-1].options.tsval

    def take(self) -> list[Sent]:
        self.pump()
        return super().take()

    def segment(self, flags: str = "A", **fields: Any) -> bytes:
        fields.setdefault("ack", 1)
        iss, self.iss = self.iss, self.iss or 0
        try:
            return super().segment(flags, **fields)
        finally:
            self.iss = iss

    def deliver(self, *packets: bytes, gso_size: int = 0) -> None:
        self.pump()
        for packet in packets:
            os.write(self.tun, packet)
        self.step()

    def run(self, ms: float) -> None:
        self.pump(ms)

    # -- the calls -----------------------------------------------------------------------

    def new_socket(self, nonblocking: bool = True) -> Any:
        self.kernel = socket.socket()
        self.kernel.setblocking(False)
        return self.kernel

    def start_connect(self) -> None:
        self.kernel.bind(("10.9.0.2", self.sport))
        self.kernel.connect_ex(("10.9.0.1", self.peer_port))
        self.step()

    @classmethod
    def listening(cls, *, backlog: int = 8, **settings: Any) -> KernelBench:
        b = cls(**settings)
        b.new_socket()
        b.kernel.bind(("", b.sport))
        b.kernel.listen(backlog)
        return b

    def send(self, data: bytes | int, flags: int = 0) -> int:
        data = b"x" * data if isinstance(data, int) else data
        done = self.kernel.send(data, flags | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self.step()
        return done

    def recv(self, length: int = 1 << 20, flags: int = 0) -> bytes:
        return bytes(self.recvmsg(length, flags)[0])

    def recvmsg(self, length: int, flags: int) -> tuple[Any, list[tuple[int, int, int]], int]:
        data, control, msg_flags, _ = self.kernel.recvmsg(length, 200, flags | socket.MSG_DONTWAIT)
        self.step()
        found = [(level, kind, int.from_bytes(value, "little")) for level, kind, value in control]
        return data, found, msg_flags

    def setopt(self, level: int, name: int, value: int | bytes) -> None:
        self.kernel.setsockopt(level, name, value)
        self.step()

    def getopt(self, level: int, name: int, size: int = 4) -> int:
        return int.from_bytes(self.kernel.getsockopt(level, name, size), "little", signed=True)

    def poll(self) -> int:
        poller = select.poll()
        poller.register(self.kernel, 0x2FFF & ~0x80)
        ready = poller.poll(0)
        return ready[0][1] if ready else 0

    def ioctl(self, request: int) -> int:
        answer = fcntl.ioctl(self.kernel, request, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def shutdown(self, how: int = socket.SHUT_WR) -> None:
        self.kernel.shutdown(how)
        self.step()

    def close(self) -> None:
        self.kernel.close()
        self.step()
