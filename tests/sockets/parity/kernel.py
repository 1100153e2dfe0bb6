"""The kernel as the system under test: sockets in a namespace behind a TUN.

The script is the other end of the TUN: what it writes there arrives, what the kernel
sends it reads. No virtio header and no offload, so packets are as on a wire. A blocking
call runs in a helper thread; while that enters the kernel the descriptor is made blocking
for a moment.

What is written to a TUN is received by a soft interrupt, which a busy machine may put off.
So behind every packet the script sends a ping, and goes on when it is answered: what came
before has then been received. The thread stays on one processor, whose queue is in order.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from tests.sockets.parity.peer import icmp
from tests.sockets.parity.shaper import Shaper
from tests.sockets.parity.wheel import TICK, jiffies_offset
from tools.testbed import Netns
from ustack.sock.sysctl import Sysctl

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_POLL_ALL = 0x2FFF & ~0x1000
_ANCILLARY = 1024
_PING, _PING_LIMIT = 0xBEEF, 2_000_000_000
_TAIL = _PING.to_bytes(2, "big") + b"\0\0"
_libc = ctypes.CDLL(None, use_errno=True)


class KernelSut:
    """One namespace with one TUN and the sockets of one scenario."""

    name = "kernel"

    def __init__(
        self,
        v6: bool,
        local: str,
        peer: str,
        settings: dict[str, Any],
        mtu: int = 1500,
        shaper: Shaper | None = None,
    ) -> None:
        self.v6 = v6
        processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {sorted(processors)[os.getpid() % len(processors)]})
        family = socket.AF_INET6 if v6 else socket.AF_INET
        ends = socket.inet_pton(family, peer), socket.inet_pton(family, local)
        self._ping = icmp(*ends, 128 if v6 else 8, 0, _PING << 16)
        self._unread: list[tuple[bytes, int]] = []
        self.waiting: list[KernelCall] = []
        self.netns = Netns("parity")
        self.sockets: list[KernelSocket] = []
        self._entered = self.netns.entered()
        self._entered.__enter__()
        self._sysctls(settings)
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        self._per_device(v6)
        suffix = "/64 nodad" if v6 else "/24"
        self.netns.ip(
            f"address add {local}{suffix} dev tun0",
            f"link set tun0 mtu {mtu} txqueuelen 10000 up",
        )
        if shaper is not None:
            self._shape(*shaper)

    def _shape(self, rate: int, burst: int, limit: int) -> None:
        add = ["tc", "qdisc", "add", "dev", "tun0"]
        bucket = ["rate", f"{rate * 8}bit", "burst", str(burst), "limit", "100000000"]
        self.netns.run([*add, "root", "handle", "1:", "tbf", *bucket])
        self.netns.run([*add, "parent", "1:1", "pfifo", "limit", str(limit)])

    def _sysctls(self, settings: dict[str, Any]) -> None:
        """Every setting that a stack has, as a stack has it."""
        wanted = Sysctl(**{k: v for k, v in settings.items() if "/" not in k})
        for item in fields(Sysctl):
            value: Any = getattr(wanted, item.name)
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(int(value)) \
                if not isinstance(value, str) else value  # fmt: skip
            for folder in ("core", "ipv4"):
                path = f"/proc/sys/net/{folder}/{item.name}"
                if os.path.exists(path) and item.name not in _NOT_ALIKE:
                    _make_alike(path, text)
        for path, value in settings.items():
            if "/" in path:
                _write(f"/proc/sys/net/{path}", str(value))

    def _per_device(self, v6: bool) -> None:
        conf = "/proc/sys/net/ipv6/conf/tun0"
        for name, value in (
            ("disable_ipv6", 0 if v6 else 1),
            ("addr_gen_mode", 1),
            ("accept_ra", 0),
            ("router_solicitations", 0),
            ("accept_dad", 0),
        ):
            _write(f"{conf}/{name}", str(value))

    def now(self) -> int:
        return time.monotonic_ns()

    def align(self) -> None:
        """Start where the timer wheel does, as `stack.StackSut.align`."""
        offset = jiffies_offset()
        tick = self.now() // TICK + offset
        time.sleep((((tick | 63) + 1 - offset) * TICK - self.now()) / 1e9)

    def add_address(self, cidr: str) -> None:
        self.netns.ip(f"address add {cidr} dev tun0" + (" nodad" if ":" in cidr else ""))

    def add_route(self, via: str) -> None:
        """A default route."""
        self.netns.ip(f"route add default via {via} dev tun0")

    def inject(self, packet: bytes) -> None:
        os.write(self.tun, packet)
        os.write(self.tun, self._ping)
        poller = select.poll()
        poller.register(self.tun, select.POLLIN)
        deadline = time.monotonic_ns() + _PING_LIMIT
        while time.monotonic_ns() < deadline:
            if self._read(lambda data, at: self._unread.append((data, at))):
                return
            poller.poll(10)
        raise RuntimeError("the kernel does not answer a ping")

    def settle(self) -> None:
        """Until every call that waits has done what it was woken for."""
        for call in [*self.waiting]:
            if call.settle():
                self.waiting.remove(call)

    def pump(self, until: int, out: Callable[[bytes, int], None]) -> None:
        """Let time pass until `until`; `out` gets each packet and when it was read."""
        poller = select.poll()
        poller.register(self.tun, select.POLLIN)
        while self._unread:
            out(*self._unread.pop(0))
        while True:
            self._read(out)
            left = until - time.monotonic_ns()
            if left <= 0:
                return
            poller.poll(left / 1_000_000)

    def _read(self, out: Callable[[bytes, int], None]) -> bool:
        """Read what there is; whether the answer to our ping was in it."""
        answered = False
        at = 40 if self.v6 else 20
        kind = 129 if self.v6 else 0
        try:
            while True:
                data = os.read(self.tun, 70000)
                if len(data) == len(self._ping) and data[at] == kind and data[at + 4 :] == _TAIL:
                    answered = True
                else:
                    out(data, time.monotonic_ns())
        except BlockingIOError:
            return answered

    def counters(self, names: tuple[str, ...]) -> dict[str, int]:
        """From this namespace's /proc/net, where a line of names stands above one of values."""
        values: dict[str, int] = {}
        for file in ("snmp", "netstat"):
            with open(f"/proc/thread-self/net/{file}", encoding="ascii") as lines:
                rows = [line.split() for line in lines]
            for keys, numbers in zip(rows[::2], rows[1::2], strict=True):
                group = keys[0].rstrip(":")
                pairs = zip(keys[1:], numbers[1:], strict=True)
                values.update({group + key: int(number) for key, number in pairs})
        return {name: values[name] for name in names}

    def socket(self, family: int, type_: int, proto: int = 0) -> KernelSocket:
        sock = socket.socket(family, type_, proto)
        sock.settimeout(None)
        os.set_blocking(sock.fileno(), False)
        return self.adopt(sock)

    def adopt(self, sock: socket.socket) -> KernelSocket:
        made = KernelSocket(self, sock)
        self.sockets.append(made)
        return made

    def close(self) -> None:
        """End everything, calls that still wait included."""
        for made in self.sockets:
            made.abandon()
        os.close(self.tun)
        self._entered.__exit__(None, None, None)
        self.netns.close()


# what a namespace of the machine must not or cannot share with a stack
_NOT_ALIKE = {"tcp_congestion_control", "ip_unprivileged_port_start", "min_pmtu"}


def _make_alike(path: str, text: str) -> None:
    try:
        _write(path, text)
    except PermissionError:  # one for the whole machine
        with open(path, encoding="ascii") as file:
            if file.read().split() != text.split():
                raise


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


class KernelSocket:
    """The calls of one kernel socket; each raises OSError or returns plain values."""

    def __init__(self, sut: KernelSut, sock: socket.socket) -> None:
        self.sut = sut
        self.sock = sock
        self.fd = sock.fileno()

    def bind(self, addr: Any) -> None:
        self.sock.bind(addr)

    def bind_raw(self, raw: bytes) -> None:
        if _libc.bind(self.fd, raw, len(raw)):
            raise OSError(ctypes.get_errno(), "bind")

    def connect_raw(self, raw: bytes) -> None:
        if _libc.connect(self.fd, raw, len(raw)):
            raise OSError(ctypes.get_errno(), "connect")

    def connect(self, addr: Any) -> None:
        self.sock.connect(addr)

    def disconnect(self) -> None:
        self.connect_raw(bytes(16))

    def listen(self, backlog: int) -> None:
        if _libc.listen(self.fd, ctypes.c_int(backlog)):
            raise OSError(ctypes.get_errno(), "listen")

    def accept(self, flags: int = 0) -> tuple[KernelSocket, Any]:
        if flags:
            fd = _libc.accept4(self.fd, None, None, flags)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "accept4")
            sock = socket.socket(fileno=fd)
            return self._child(sock), sock.getpeername()
        sock, peer = self.sock.accept()
        return self._child(sock), peer

    def _child(self, sock: socket.socket) -> KernelSocket:
        sock.settimeout(None)
        os.set_blocking(sock.fileno(), False)
        return self.sut.adopt(sock)

    def send(
        self, data: bytes, flags: int = 0, to: Any = None, control: tuple[Any, ...] = ()
    ) -> int:
        return self.sock.sendmsg([data], list(control), flags | socket.MSG_NOSIGNAL, to)

    def recv(self, length: int, flags: int = 0) -> tuple[bytes, int, Any, Any, int]:
        """(data, result, flags, control, address)."""
        buf = bytearray(length)
        n, control, out, addr = self.sock.recvmsg_into([buf], _ANCILLARY, flags)
        return bytes(buf[:n]), out & ~socket.MSG_CMSG_CLOEXEC, control, addr, n

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        if _libc.setsockopt(self.fd, level, name, value, len(value)):
            raise OSError(ctypes.get_errno(), "setsockopt")

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        buf = ctypes.create_string_buffer(max(size, 1))
        length = ctypes.c_int(size)
        if _libc.getsockopt(self.fd, level, name, buf, ctypes.byref(length)):
            raise OSError(ctypes.get_errno(), "getsockopt")
        return buf.raw[: length.value]

    def ioctl(self, request: int) -> int:
        buf = bytearray(4)
        fcntl.ioctl(self.fd, request, buf)
        return int(struct.unpack("i", buf)[0])

    def poll(self) -> int:
        poller = select.poll()
        poller.register(self.fd, _POLL_ALL)
        found = poller.poll(0)
        return found[0][1] if found else 0

    def shutdown(self, how: int) -> None:
        if _libc.shutdown(self.fd, how):
            raise OSError(ctypes.get_errno(), "shutdown")

    def close(self) -> None:
        self.sut.sockets.remove(self)
        self.sock.close()

    def getsockname(self) -> Any:
        return self.sock.getsockname()

    def getpeername(self) -> Any:
        return self.sock.getpeername()

    def start(self, call: Callable[[KernelSocket], Any]) -> KernelCall:
        os.set_blocking(self.fd, True)
        try:
            return KernelCall(self, call)
        finally:
            if self.sock.fileno() >= 0:
                os.set_blocking(self.fd, False)

    def abandon(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class KernelCall:
    """A call in a helper thread. `outcome` is (finished at, result or exception)."""

    def __init__(self, sock: KernelSocket, call: Callable[[KernelSocket], Any]) -> None:
        self.outcome: tuple[int, Any] | None = None
        self.tid = 0
        self._thread = threading.Thread(target=self._run, args=(sock, call), daemon=True)
        self._thread.start()
        if not self.settle():
            sock.sut.waiting.append(self)

    def settle(self) -> bool:
        """Until it sleeps, or is done; whether it is done."""
        deadline = time.monotonic() + 5
        while self.outcome is None and time.monotonic() < deadline and not self._asleep():
            time.sleep(0.0005)
        return self.outcome is not None

    def _run(self, sock: KernelSocket, call: Callable[[KernelSocket], Any]) -> None:
        self.tid = threading.get_native_id()
        result: Any
        try:
            result = call(sock)
        except OSError as why:
            result = why
        self.outcome = (time.monotonic_ns(), result)

    def _asleep(self) -> bool:
        """Does it sleep inside a socket's call?"""
        if not self.tid:
            return False
        try:
            with open(f"/proc/self/task/{self.tid}/syscall", encoding="ascii") as file:
                number = file.read().split()[0]
        except (OSError, IndexError):
            return False
        return number in _SOCKET_CALLS


# x86-64 and arm64 numbers of connect, accept, accept4, sendto, sendmsg, recvfrom, recvmsg, close
_SOCKET_CALLS = {
    *("42", "43", "288", "44", "45", "46", "47", "3"),
    *("203", "202", "242", "206", "207", "211", "212", "57"),
}
