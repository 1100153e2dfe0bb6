"""Y35: the errno tables, call by call and state by state."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.peer import icmp
from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import (
    PORT,
    SHUT_RDWR,
    SHUT_WR,
    SIOCATMARK,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    SOL_IP,
    SOL_IPV6,
    SOL_SOCKET,
    SOL_TCP,
    SOL_UDP,
)


@parity("G.1", v6=False)
def test_socket(t):
    t.rule("G.1")
    for family in (2, 10, 999):
        for type_ in (1, 2, 3, 4, 5, 6, 10, 11, 99, 0, 0x801, 0x80001, 0x11, 0x401):
            if type_ not in (3, 10):  # raw and packet sockets are out of scope
                t.make(family, type_)
        for proto in (6, 17, 1, 255, 256, 300, -2, 132):
            t.make(family, 1, proto)
            if proto not in (1, 255):
                t.make(family, 2, proto)


def fresh(t):
    return t.socket()


def bound(t):
    s = t.socket()
    s.bind("", PORT)
    return s


def listening(t):
    return t.listener()


def connecting(t):
    s = t.socket()
    t.flow()
    s.connect()
    t.settle()
    return s


def connected(t):
    return t.connected()[0]


def peer_closed(t):
    s, f = t.connected()
    f.send("FA")
    t.run(60)
    return s


def half_closed(t):
    s, _ = t.connected()
    s.shutdown(SHUT_WR)
    t.settle()
    return s


def both_closed(t):
    s, f = t.connected()
    f.send("FA")
    t.run(60)
    s.shutdown(SHUT_RDWR)
    t.settle()
    return s


def reset(t):
    s, f = t.connected()
    f.send("R")
    t.settle()
    return s


def refused(t):
    s = t.socket()
    f = t.flow()
    s.connect()
    t.settle()
    f.send("RA", seq=0, ack=1)
    t.settle()
    return s


def udp(t):
    return t.socket("udp")


def udp_bound(t):
    s = t.socket("udp")
    s.bind("", PORT)
    return s


def udp_connected(t):
    s = t.socket("udp")
    s.connect(40000)
    return s


STATES = {
    f.__name__: f
    for f in (
        fresh, bound, listening, connecting, connected, peer_closed, half_closed, both_closed,
        reset, refused, udp, udp_bound, udp_connected,
    )
}  # fmt: skip

CALLS = {
    "bind": lambda t, s: s.bind(t.local_text, 7070),
    "listen": lambda t, s: s.listen(1),
    "accept": lambda t, s: s.accept(),
    "connect": lambda t, s: s.connect(40044),
    "disconnect": lambda t, s: s.disconnect(),
    "send": lambda t, s: s.send(b"x"),
    "sendto": lambda t, s: s.send(b"x", 0, (None, 40000)),
    "send-empty": lambda t, s: s.send(b""),
    "send-oob": lambda t, s: s.send(b"x", 1),
    "recv": lambda t, s: s.recv(10),
    "recv-oob": lambda t, s: s.recv(1, 1),
    "recv-errqueue": lambda t, s: s.recv(1, 0x2000),
    "recv-peek": lambda t, s: s.recv(1, 2),
    "shutdown": lambda t, s: s.shutdown(SHUT_WR),
    "shutdown-rd": lambda t, s: s.shutdown(0),
    "shutdown-bad": lambda t, s: s.shutdown(3),
    "names": lambda t, s: (s.name(), s.peername()),
    "ioctl": lambda t, s: [s.ioctl(r) for r in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK)],
    "ioctl-unknown": lambda t, s: s.ioctl(0x1234),
    "error": lambda t, s: s.get(SOL_SOCKET, socket.SO_ERROR),
    "poll": lambda t, s: s.poll(),
    "meminfo": lambda t, s: s.mem(),
}


@parity("G.2", "G.3", "G.4", "G.5", "G.6", "G.7", "G.8", "A-10", "C-12", "B-5", cases=STATES)
def test_every_call(t, case):
    """Each call on a fresh socket in this state, then the mask."""
    for name, call in CALLS.items():
        t.rule(f"G {name}")
        s = STATES[case](t)
        call(t, s)
        s.poll()
        s.recv(1)
        s.send(b"y")
        t.settle()
        s.set(SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave no timers behind
        s.close()
        t.settle()


OPTIONS = {
    "socket": [
        (SOL_SOCKET, name)
        for name in (*range(1, 24), 29, 30, 32, 33, 35, 36, 38, 39, 40, 42, 62, 99, 9999, 47)
    ],
    "tcp": [(SOL_TCP, name) for name in (*range(1, 10), 10, 12, 18, 25, 36, 99)],
    "ip": [(SOL_IP, name) for name in (1, 2, 8, 10, 11, 12, 13, 14, 15, 20, 21, 63)],
    "ipv6": [(SOL_IPV6, name) for name in (16, 23, 24, 25, 26, 49, 51, 62, 66, 67, 73, 74, 99)],
    "udp": [(SOL_UDP, name) for name in (1, 99, 101, 102, 103, 104)],
    "level": [(level, 1) for level in (-1, 7, 255, 263, 999)],
}  # fmt: skip
# what other options mean is not a number, or is the business of another scenario, or not ours:
# SO_DEBUG, PASSCRED, PEERCRED, RCVLOWAT, ATTACH_FILTER, TIMESTAMPING, and what Linux adds
SKIPPED = {(SOL_SOCKET, name) for name in (1, 14, 16, 17, 22, 23, 33, 32, 37)}
VALUES = (0, 1, -1, 2, 5, 255, 256, 70000)
PAIRS = [f"{table}-{kind}" for table in OPTIONS for kind in ("tcp", "udp")]


@parity("G.8", "A-2", "A-41", "A-73", "C-13", "B-14", "B-64", "D-41", cases=PAIRS)
def test_options(t, case):
    """Every number to every option, with what is then read back."""
    table, kind = case.split("-")
    for level, name in OPTIONS[table]:
        if (level, name) in SKIPPED:
            continue
        t.rule(f"G.8 option {level} {name}")
        s = t.socket(kind)
        s.get(level, name)
        for value in VALUES:
            s.set(level, name, value)
            s.get(level, name)
        s.close()


@parity("G.8", "A-77", "B-10")
def test_option_lengths(t):
    t.rule("G.8")
    s = t.socket()
    for level, name in ((SOL_SOCKET, 7), (SOL_SOCKET, 9), (SOL_TCP, 1), (SOL_TCP, 4)):
        for value in (b"", b"\1", b"\1\0\0", b"\1\0\0\0", b"\1\0\0\0\0\0\0\0"):
            s.set(level, name, value)
        for size in (0, 1, 3, 4, 8):
            s.get_bytes(level, name, size)
        s.get_bytes(level, name, -1)
    for value in (b"", bytes(4), bytes(7), bytes(8), struct.pack("ii", 1, 5)):
        s.set(SOL_SOCKET, socket.SO_LINGER, value)
        s.get_bytes(SOL_SOCKET, socket.SO_LINGER, 8)
    for value in (bytes(8), bytes(15), struct.pack("qq", 1, 2), struct.pack("qq", 1, 10**6)):
        s.set(SOL_SOCKET, socket.SO_RCVTIMEO, value)
        s.get_bytes(SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    s.get_bytes(SOL_SOCKET, 55, 36)
    s.get_bytes(SOL_SOCKET, 55, 10)
    s.set(SOL_SOCKET, 55, 1)


@parity("D-41", "G.8")
def test_congestion_control(t):
    t.rule("D-41")
    s = t.socket(cc=None)
    for name in (b"reno", b"cubic", b"reno\0junk", b"nonesuch", b"", b"x" * 20, b"RENO"):
        s.set(SOL_TCP, socket.TCP_CONGESTION, name)
        if name != b"x" * 20:
            s.get_bytes(SOL_TCP, socket.TCP_CONGESTION, 16)
    s.get_bytes(SOL_TCP, socket.TCP_CONGESTION, 3)


FLAGS = (0x2, 0x10, 0x20, 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x10000, 0x40000)


@parity("A-65", "A-67", "G.9", "A-66", cases=["tcp", "udp"])
def test_send_flags(t, case):
    """Flag bits that mean nothing on sending are ignored."""
    t.rule("G.9")
    if case == "tcp":
        s, f = t.connected()
    else:
        s = udp_connected(t)
    for flags in (*FLAGS, 0x4, 0x4000000):
        s.send(b"abc", flags)
        t.settle()
        if case == "tcp":
            f.ack()
            t.settle()


@parity("A-65", "E-1", cases=["tcp", "udp"])
def test_dontroute_off_link(t, case):
    t.rule("A-65")
    t.sut.add_route(t.peer_text)
    far = "2001:db8::1" if t.v6 else "8.8.8.8"
    if case == "tcp":
        s = t.socket()
        s.set(SOL_SOCKET, socket.SO_DONTROUTE, 1)
        s.connect(40000, far)
        s.poll()
    else:
        s = t.socket("udp")
        s.send(b"x", 4, (far, 40000))
        s.send(b"x", 0, (far, 40000))
    t.settle()


GROUPS = {
    "unbound": lambda s, t: None,
    "bound": lambda s, t: s.bind(t.local_text, PORT),
    "any": lambda s, t: s.bind("", PORT),
    "multicast-if": lambda s, t: s.set(SOL_IP, 32, t.local),
    "device": lambda s, t: s.set(SOL_SOCKET, 25, b"tun0"),
    "connected": lambda s, t: s.connect(40000, "8.8.8.8"),
}


@parity(
    "A-65", "E-1", v6=False, cases=[f"{how}-{kind}" for how in GROUPS for kind in ("udp", "ping")]
)
def test_dontroute_to_a_group(t, case):
    """A group that is reached over a gateway alone."""
    how, kind = case.rsplit("-", 1)
    t.rule("A-65")
    t.sut.add_route(t.peer_text)
    for host in ("239.1.1.1", "224.0.0.77"):
        for flags in (4, 0):
            if kind == "udp":
                s = t.socket("udp")
            else:
                s = t.wrap(t.sut.socket(t.af, 2, 1))
            GROUPS[how](s, t)
            data = icmp(t.peer, t.local, 8, 0, 1, b"abcdefgh")[20:]
            s.send(b"x" if kind == "udp" else data, flags, (host, 40000))
            sent = t.run(4, quietly=True)
            t.event("call", "sent", [(seen.src.hex(), seen.dst.hex(), seen.ttl) for seen in sent])
            s.set(SOL_SOCKET, socket.SO_DONTROUTE, 1)
            s.connect(40000, host)
            s.close()


@parity("G.9", "B-1", cases=["tcp", "udp"])
def test_recv_flags(t, case):
    t.rule("G.9")
    if case == "tcp":
        s, f = t.connected()
        f.send("PA", data=b"0123456789abcdef0123456789")
    else:
        s = udp_bound(t)
        for i in range(20):
            t.udp(bytes([i]) * 3)
    t.run(60)
    for flags in (0x4, 0x8, 0x10, 0x80, 0x200, 0x400, 0x800, 0x1000, 0x4000, 0x8000, 0x10000):
        s.recv(1, flags)
    s.recv(1, 0x2000)
