"""One test body, two hosts: a stack of ours and a kernel, each behind a TUN.

Both are 10.9.0.2/24 and fd00:9::2/64 on a device "ustack0" with default routes through it.
The test is the other end: it injects packets and sees those that leave. Sockets are
non-blocking and take the calls of `socket.socket`; what a call causes has happened when it
returns.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytun

from tests.ip.world import FakeDevice
from tools import testbed
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sock.sock import MSG_DONTWAIT, Sock
from ustack.sockets import address, buffers
from ustack.stack import Stack
from ustack.wire import icmp, icmpv6, ipv6
from ustack.wire.packet import Frame

US4, PEER4, US6, PEER6 = "10.9.0.2", "10.9.0.1", "fd00:9::2", "fd00:9::1"
DEVICE, IFINDEX, LO = "ustack0", 2, 1
POLL_ALL = 0x3FFF


def ip4(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET, text)


def ip6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """What the call returns, or the name of the errno that it raises."""
    try:
        return call(*args)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def is_ours(packet: bytes) -> bool:
    """Not what a kernel sends of its own accord: IGMP, MLD, router discovery."""
    if packet[0] >> 4 == 4:
        return packet[9] in (1, 17)
    return packet[6] in (17, 44) or (packet[6] == 58 and packet[40] in (1, 2, 3, 4, 128, 129))


def is_report(packet: bytes) -> bool:
    """IGMP or MLD."""
    if packet[0] >> 4 == 4:
        return packet[9] == 2
    return packet[6] == 0 and packet[48] in (131, 132, 143)


class OurSocket:
    def __init__(self, host: OurHost, sk: Sock) -> None:
        self.host = host
        self.sk = sk
        self.family = socket.AddressFamily(sk.family)

    def _native(self, addr: Any) -> tuple[bytes, int]:
        native = address.parse_numeric(self.family, addr, "test")
        assert native is not None
        return native

    def _done(self, result: Any) -> Any:
        self.host.stack.run_softirq(self.host.now)
        return result

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        raw = struct.pack("i", value) if isinstance(value, int) else value
        self._done(self.sk.prot.setsockopt(self.sk, level, name, raw, self.host.now))

    def getsockopt(self, level: int, name: int, length: int = 0) -> Any:
        value = self.sk.prot.getsockopt(self.sk, level, name, length or 4, 0)
        return value if length else int.from_bytes(value, "little", signed=True)

    def bind(self, addr: Any) -> None:
        self.sk.prot.bind(self.sk, self._native(addr), 0)

    def connect(self, addr: Any) -> None:
        self.sk.prot.connect(self.sk, self._native(addr), 0)

    def send(self, data: bytes, flags: int = 0) -> Any:
        return self._done(self.sk.prot.sendmsg(self.sk, data, flags | MSG_DONTWAIT, 0))

    def sendto(self, data: bytes, *rest: Any) -> Any:
        flags = rest[0] if len(rest) == 2 else 0
        return self.sendmsg([data], (), flags, rest[-1])

    def sendmsg(self, data: list[bytes], control: Any, flags: int, addr: Any) -> Any:
        to = None if addr is None else self._native(addr)
        result = self.sk.prot.sendmsg(
            self.sk, b"".join(data), flags | MSG_DONTWAIT, 0, to, tuple(control)
        )
        return self._done(result)

    def recvmsg(self, length: int, room: int = 0, flags: int = 0) -> Any:
        msg: Any = self.sk.prot.recvmsg(self.sk, length, flags | MSG_DONTWAIT, 0)
        control, cut = buffers.fit_control(msg.control, room)
        peer = None if msg.addr is None else address.to_python(self.family, msg.addr)
        return b"".join(msg.chunks), control, msg.flags | cut, peer

    def recv(self, length: int, flags: int = 0) -> bytes:
        return bytes(self.recvmsg(length, 0, flags)[0])

    def poll(self) -> int:
        return self.sk.prot.poll(self.sk, 0)

    def getsockname(self) -> Any:
        return address.to_python(self.family, (self.sk.rcv_saddr or self.sk.saddr, self.sk.sport))

    def listen(self) -> None:
        self.sk.prot.listen(self.sk, 1, 0)

    def shutdown(self, how: int) -> None:
        self.sk.prot.shutdown(self.sk, how, 0)

    def close(self) -> None:
        self.sk.prot.close(self.sk, self.host.now)


class OurHost:
    is_kernel = False

    def __init__(self) -> None:
        self.stack = Stack(seeds=Seeds(3), loopback=Loopback())
        self.dev = FakeDevice(DEVICE)
        self.stack.add_device(self.dev)
        self.stack.add_address(self.dev, f"{US4}/24")
        self.stack.add_address(self.dev, f"{US6}/64")
        self.stack.add_route("0.0.0.0/0", self.dev)
        self.stack.add_route("::/0", self.dev)
        self.now = 0

    def add_address(self, cidr: str) -> None:
        self.stack.add_address(self.dev, cidr)

    def sysctl(self, name: str, value: int) -> None:
        """A setting of the host or of its device, by its last name."""
        setattr(self.stack.sysctl, name, type(getattr(self.stack.sysctl, name))(value))

    def socket(self, family: int, kind: int = socket.SOCK_DGRAM, proto: int = 0) -> Any:
        return OurSocket(self, self.stack.socket(family, kind | socket.SOCK_NONBLOCK, proto))

    def inject(self, packet: bytes) -> None:
        self.stack.handle_batch([Frame(packet)], self.now, self.dev)
        self.stack.run_softirq(self.now)

    def sent(self) -> list[bytes]:
        return [packet for packet in self.dev.take() if is_ours(packet)]

    def reports(self, seconds: float, enough: int = 1000) -> list[bytes]:
        """What is said about groups in that time, or until `enough` was said."""
        found = [packet for packet in self.dev.take() if is_report(packet)]
        until = self.now + int(seconds * 1e9)
        while len(found) < enough:
            self.now = min(self.stack.next_timeout(), until)
            if self.now == until:
                break
            self.stack.handle_timeout(self.now)
            found += [packet for packet in self.dev.take() if is_report(packet)]
        return found

    def close(self) -> None:
        """Nothing to give back."""


class KernelSocket(socket.socket):
    host: KernelHost

    def sendto(self, *args: Any) -> int:
        sent = super().sendto(*args)
        self.host.settle()
        return sent

    def sendmsg(self, *args: Any) -> int:
        sent = super().sendmsg(*args)
        self.host.settle()
        return sent

    def poll(self) -> int:
        poller = select.poll()
        poller.register(self, POLL_ALL)
        return sum(mask for _, mask in poller.poll(0))

    def listen(self, backlog: int = 1) -> None:
        super().listen(backlog)


class KernelHost:
    """A kernel in a namespace. On a busy machine it may put off what a packet causes
    (ksoftirqd); it does so in order, a processor at a time. So all of it happens on one
    processor, and `settle` waits for a datagram sent behind what was to be done."""

    is_kernel = True

    def __init__(self) -> None:
        self.processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(self.processors)})
        self.netns = testbed.Netns("both")
        with self.netns.entered():
            self.tun = pytun.TunTapDevice(DEVICE, pytun.IFF_TUN | pytun.IFF_NO_PI)
        os.set_blocking(self.tun.fileno(), False)
        # as `io.netlink` does for ours: the kernel sends nothing of its own accord then
        self.netns.sysctl(f"net/ipv6/conf/{DEVICE}/addr_gen_mode", 1)
        self.netns.ip(
            f"link set {DEVICE} mtu 1500 up",
            f"address add {US4}/24 dev {DEVICE}",
            f"address add {US6}/64 dev {DEVICE} nodad",
            f"route add default dev {DEVICE}",
            f"route add ::/0 dev {DEVICE}",
        )
        self._wait_until_in_use(US6)
        self.netns.sysctl("net/ipv4/ping_group_range", "0 2147483647")
        self.made: list[KernelSocket] = []
        with self.netns.entered():
            self.marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.netns.ip("link set lo up")
        self.marker.bind(("127.0.0.1", 0))
        self.marker.connect(self.marker.getsockname())
        self.marker.settimeout(5)

    def _wait_until_in_use(self, address: str) -> None:
        """The kernel takes an IPv6 address into use in a work queue (`addrconf_dad_work`);
        packets to it that come before are lost."""
        deadline = time.monotonic() + 5
        show = ["ip", "-6", "route", "show", "table", "local", "type", "local", address]
        while not self.netns.run(show):
            assert time.monotonic() < deadline, f"{address} is not in use"
            time.sleep(0.002)

    def add_address(self, cidr: str) -> None:
        self.netns.ip(f"address add {cidr} dev {DEVICE} nodad")
        if ":" in cidr:
            self._wait_until_in_use(cidr.partition("/")[0])

    def sysctl(self, name: str, value: int) -> None:
        family = "ipv6" if "mld" in name else "ipv4"
        of_device = "interval" in name or "force" in name
        self.netns.sysctl(f"net/{family}/{f'conf/{DEVICE}/' if of_device else ''}{name}", value)

    def settle(self) -> None:
        self.marker.send(b"")
        self.marker.recv(1)

    def socket(self, family: int, kind: int = socket.SOCK_DGRAM, proto: int = 0) -> Any:
        with self.netns.entered():
            sock = KernelSocket(family, kind, proto)
        sock.setblocking(False)
        sock.host = self
        self.made.append(sock)
        return sock

    def inject(self, packet: bytes) -> None:
        os.write(self.tun.fileno(), packet)
        self.settle()

    def sent(self) -> list[bytes]:
        packets = []
        while True:
            try:
                packets.append(os.read(self.tun.fileno(), 70_000))
            except BlockingIOError:
                return [packet for packet in packets if is_ours(packet)]

    def reports(self, seconds: float, enough: int = 1000) -> list[bytes]:
        """As ours."""
        found: list[bytes] = []
        until = time.monotonic() + seconds
        while len(found) < enough and (left := until - time.monotonic()) > 0:
            if select.select([self.tun], [], [], left)[0]:
                packet = os.read(self.tun.fileno(), 70_000)
                if is_report(packet):
                    found.append(packet)
        return found

    def close(self) -> None:
        for sock in self.made:
            sock.close()
        self.marker.close()
        os.sched_setaffinity(0, self.processors)
        self.tun.close()
        self.netns.close()


# -- packets that the other end sends --------------------------------------------------------


def answer(packet: bytes, kind: int, code: int = 0, rest: int | None = None) -> bytes:
    """An ICMP message in answer to `packet`, an echo request of the host: a reply with its
    data, or with `rest` an error that quotes it."""
    if packet[0] >> 4 == 4:
        start, src, dst = 20, packet[12:16], packet[16:20]
    else:
        start, src, dst = 40, packet[8:24], packet[24:40]
    if rest is None:
        rest, body = int.from_bytes(packet[start + 4 : start + 8], "big"), packet[start + 8 :]
    else:
        body = packet
    if start == 20:
        return _ip4(icmp.build(kind, code, rest, body), dst, src)
    message = icmpv6.build(dst, src, kind, code, rest, body)
    return ipv6.build_header(dst, src, 58, len(message), 61, 0x10, 0) + message


def _ip4(payload: bytes, src: bytes, dst: bytes, proto: int = 1) -> bytes:
    from tests.ip.world import ip4 as build

    return build(payload, src, dst, proto, ttl=61, tos=0x10)


def udp4(dst: str, dport: int, data: bytes, src: str = PEER4, sport: int = 5) -> bytes:
    """A UDP datagram without a checksum."""
    header = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    return _ip4(header + data, ip4(src), ip4(dst), 17)


def udp6(dst: str, dport: int, data: bytes, src: str = PEER6, sport: int = 5) -> bytes:
    from tests.ip.world import udp

    body = udp(ip6(src), ip6(dst), data, sport, dport)
    return ipv6.build_header(ip6(src), ip6(dst), 17, len(body), 61, 0, 0) + body
