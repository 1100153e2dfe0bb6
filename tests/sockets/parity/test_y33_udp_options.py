"""Y33: control messages both ways, segmentation, who of several sockets gets a datagram."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_UDP

UDP_SEGMENT, UDP_GRO = 103, 104


def bound(t, host="", port=7000):
    s = t.socket("udp")
    s.bind(host, port)
    return s


@parity("E-45", v6=False, cases=[(8,), (12,), (13,), (20,), (8, 12, 13, 20)])
def test_received4(t, case):
    s = bound(t)
    t.rule("E-45")
    for name in case:
        s.set(SOL_IP, name, 1)
        s.get(SOL_IP, name)
    t.udp(b"abc", ttl=9, tos=0x28)
    s.recv(100)
    for name in case:
        s.set(SOL_IP, name, 0)
    t.udp(b"abc", ttl=9, tos=0x28)
    s.recv(100)


@parity("E-46", "E-45", v4=False, cases=[(49,), (51,), (66,), (74,), (49, 51, 66, 74)])
def test_received6(t, case):
    s = bound(t)
    t.rule("E-46")
    for name in case:
        s.set(SOL_IPV6, name, 1)
        s.get(SOL_IPV6, name)
    t.udp(b"abc", ttl=9, tos=0x28)
    s.recv(100)


CONTROL4 = {
    "ttl": (2, struct.pack("i", 5)), "ttl-0": (2, struct.pack("i", 0)),
    "ttl-256": (2, struct.pack("i", 256)), "ttl-byte": (2, b"\x05"),
    "tos": (1, struct.pack("i", 0x28)), "tos-byte": (1, b"\x28"),
    "tos-big": (1, struct.pack("i", 300)),
    "pktinfo": (8, struct.pack("i4s4s", 0, socket.inet_aton("10.9.0.2"), bytes(4))),
    "pktinfo-foreign": (8, struct.pack("i4s4s", 0, socket.inet_aton("10.9.0.77"), bytes(4))),
    "pktinfo-short": (8, bytes(8)), "unknown": (99, bytes(4)),
}  # fmt: skip


@parity("E-45", v6=False, cases=CONTROL4)
def test_sent4(t, case):
    s = bound(t)
    t.rule("E-45")
    name, value = CONTROL4[case]
    s.send(b"abc", 0, (None, 40000), [(SOL_IP, name, value)])
    t.settle()
    s.send(b"abc", 0, (None, 40000))
    t.settle()


CONTROL6 = {
    "hoplimit": (52, struct.pack("i", 5)), "hoplimit-256": (52, struct.pack("i", 256)),
    "hoplimit-minus": (52, struct.pack("i", -1)), "tclass": (67, struct.pack("i", 0x28)),
    "tclass-big": (67, struct.pack("i", 300)), "dontfrag": (62, struct.pack("i", 1)),
    "pktinfo": (50, socket.inet_pton(socket.AF_INET6, "fd00:9::2") + bytes(4)),
    "pktinfo-foreign": (50, socket.inet_pton(socket.AF_INET6, "fd00:9::77") + bytes(4)),
    "pktinfo-short": (50, bytes(8)), "unknown": (99, bytes(4)),
}  # fmt: skip


@parity("E-46", v4=False, cases=CONTROL6)
def test_sent6(t, case):
    s = bound(t)
    t.rule("E-46")
    name, value = CONTROL6[case]
    s.send(b"abc", 0, (None, 40000), [(SOL_IPV6, name, value)])
    t.settle()


@parity("E-45", "F-3", cases=[-1, 0, 1, 64, 255, 256])
def test_ttl_and_tos(t, case):
    s = bound(t)
    t.rule("E-45")
    ttl, tos = ((SOL_IPV6, 16), (SOL_IPV6, 67)) if t.v6 else ((SOL_IP, 2), (SOL_IP, 1))
    for level, name in (ttl, tos):
        s.get(level, name)
        s.set(level, name, case)
        s.get(level, name)
    s.send(b"abc", 0, (None, 40000))
    t.settle()
    c, _f = t.connected()
    for level, name in (ttl, tos):
        c.set(level, name, case)
        c.get(level, name)
    c.send(10)
    t.settle()


@parity("E-15", "E-14", cases=["option", "cmsg", "cmsg-over", "too-many", "too-big", "no-check",
                               "bad-values", "exact", "one"])  # fmt: skip
def test_segmentation(t, case):
    s = bound(t)
    t.rule("E-15")
    if case == "bad-values":
        for value in (-1, 65536, 65535, 0):
            s.set(SOL_UDP, UDP_SEGMENT, value)
            s.get(SOL_UDP, UDP_SEGMENT)
        return
    if case not in ("cmsg",):
        s.set(SOL_UDP, UDP_SEGMENT, {"too-big": 1473, "too-many": 10, "one": 1400}.get(case, 500))
    if case == "no-check":
        s.set(SOL_SOCKET, 11, 1)
        s.set(SOL_UDP, 101, 1)
    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", 400))] if "cmsg" in case else ()
    size = {"too-many": 1300, "exact": 1500, "one": 1000, "too-big": 3000}.get(case, 1600)
    s.send(size, 0, (None, 40000), control)
    t.settle()
    s.mem("wmem")
    s.send(size * 10, 0, (None, 40000), control)
    t.settle()


@parity("C-53", "E-16", "C-52")
def test_lookup(t):
    """Connected beats specific beats wildcard; of equals the last one bound."""
    t.rule("C-53")

    def reusing(host):
        s = t.socket("udp")
        s.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(host, 7000)
        return s

    wild, exact, conn, last = reusing(""), reusing(t.local_text), reusing(""), reusing("")
    conn.connect(40005)
    t.udp(b"a", 40005)
    t.udp(b"b", 40006)
    for s in (wild, exact, conn, last):
        s.recv(10)
    exact.close()
    t.udp(b"c", 40006)
    for s in (wild, conn, last):
        s.recv(10)
    t.settle()


@parity("C-52")
def test_reuseport_shares(t):
    """Many senders, both members get some, and each sender always the same one."""
    t.rule("C-52")
    members = []
    for _ in range(2):
        s = t.socket("udp")
        s.set(SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind("", 7000)
        members.append(s)
    for i in range(40):
        t.udp(bytes([i]), 40000 + i)
    counts = [0, 0]
    for i, s in enumerate(members):
        while not isinstance(s.raw_recv(), str):
            counts[i] += 1
    t.check(sum(counts) == 40 and min(counts) >= 8, counts)


@parity("E-16", "C-54", "E-1")
def test_connect_and_dissolve(t):
    t.rule("E-16")
    s = t.socket("udp")
    s.name()
    s.peername()
    s.send(b"x")
    s.connect(40000)
    s.name()
    s.peername()
    s.send(b"x")
    s.send(b"y", 0, (None, 40001))
    t.settle()
    s.connect(40002)
    s.peername()
    s.disconnect()
    s.name()
    s.peername()
    s.send(b"x")
    b = bound(t, t.local_text)
    b.connect(40000)
    t.udp(b"stranger", 40077)
    t.settle()
    t.udp(b"peer", 40000)
    b.recv(20)
    b.recv(20)
    b.disconnect()
    b.name()


@parity("E-1", "E-16", cases=["bcast", "limited", "bcast-allowed", "off", "zero", "port0", "oob",
                              "class-e", "probe", "dontroute"])  # fmt: skip
def test_send_errors(t, case):
    s = bound(t)
    t.rule("E-1")
    hosts = {"bcast": "10.9.0.255", "limited": "255.255.255.255", "bcast-allowed": "10.9.0.255",
             "off": "8.8.8.8", "zero": "0.0.0.0", "class-e": "240.0.0.1"}  # fmt: skip
    hosts6 = {"off": "2001:db8::1", "zero": "::"}
    host = (hosts6 if t.v6 else hosts).get(case)
    if case == "bcast-allowed":
        s.set(SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.get(SOL_SOCKET, socket.SO_BROADCAST)
    flags = {"oob": 1, "probe": 0x10, "dontroute": 4}.get(case, 0)
    s.send(b"x", flags, (host, 0 if case == "port0" else 40000))
    t.settle()
    if host is not None:
        s.connect(40000, host)
        s.name()
