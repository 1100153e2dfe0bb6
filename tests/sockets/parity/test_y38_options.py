"""Y38: every option by its number: what it takes, what it answers, on every kind of socket."""

from __future__ import annotations

import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP, SOL_UDP

KINDS = {"tcp": (1, 6, 6), "udp": (2, 17, 17), "ping": (2, 1, 58)}
VALUES = [
    b"", b"\1", b"\1\0", *(struct.pack("i", n) for n in (0, 1, 2, -1, 255, 70000)),
    b"\1\0\0\0\0\0\0\0", b"\xff" * 8, bytes(16), b"\1" + bytes(15), b"\1" * 40,
]  # fmt: skip
SIZES = (4, 1, 0, 8, -1, 64)
NAMES = {
    SOL_SOCKET: range(1, 91), SOL_IP: range(1, 54), SOL_TCP: range(1, 51), SOL_UDP: range(99, 108),
    SOL_IPV6: range(1, 83),
}  # fmt: skip
# What has no place in a trace: numbers that are the kernel's own, times, descriptors, what
# was in memory; and SO_MAX_PACING_RATE, of which 0 means something else (D-50).
UNLIKE = {
    *((SOL_SOCKET, name) for name in (13, 47, 50, 52, 57, 71)),
    *((SOL_TCP, name) for name in (11, 13, 24, 26)),
}  # fmt: skip
# What a stack refuses although a kernel takes it: docs/sockets.md lists it
REFUSED = {
    *((SOL_SOCKET, name) for name in (28, 80)),
    *((SOL_IP, name) for name in (4, 6, 7, 9, 16, 17, 19, 23, 25, 50)),
    *((SOL_TCP, name) for name in (19, 33, 35, 37)),
    (SOL_UDP, 100),
    *((SOL_IPV6, name) for name in (
        1, 2, 3, 4, 5, 6, 8, 11, 27, 28, 32, 34, 35, 50, 53, 54, 55, 56, 57, 58, 59, 60, 61, 64, 65,
        68, 69, 70, 72, 75, 76, 77, 80,
    )),
}  # fmt: skip

# Which of two errors comes first
ORDER = {("ping", SOL_SOCKET, 42), ("tcp", SOL_IPV6, 17), ("tcp", SOL_IPV6, 18)}


def make(t, kind):
    type_, v4, v6 = KINDS[kind]
    return t.wrap(t.sut.socket(t.af, type_, v6 if t.v6 else v4))


@parity("G.8", cases=[f"{level}-{kind}" for level in NAMES for kind in KINDS])
def test_every_number(t, case):
    level, kind = case.split("-")
    for name in NAMES[int(level)]:
        key = (int(level), name)
        if key in UNLIKE | REFUSED or (kind, *key) in ORDER:
            continue
        t.rule(f"G.8 option {level} {name}")
        s = make(t, kind)
        for size in SIZES:
            if size >= 0 or int(level) != SOL_IPV6:
                s.get_bytes(*key, size)
        s.close()
        for value in VALUES:
            s = make(t, kind)
            s.set(*key, value)
            s.get_bytes(*key, 4 if len(value) < 8 else len(value))
            s.close()


@parity("G.8", cases=["0", "1", "2", "cork"])
def test_saved_syn(t, case):
    """TCP_SAVE_SYN: the accepted socket has the headers that asked for it, once."""
    t.rule("G.8")
    listener = t.listener()
    listener.set(SOL_TCP, 27, 1 if case == "cork" else int(case))
    listener.get_bytes(SOL_TCP, 28, 100)
    s, f = t.accepted(listener, sack=True, ts=True, wscale=5)
    s.get(SOL_TCP, 27)
    if case == "cork":
        s.get_bytes(SOL_TCP, 28, 30)
    s.get_bytes(SOL_TCP, 28, 200)
    s.get_bytes(SOL_TCP, 28, 200)
    f.ack()
    t.settle()


@parity("G.8", "C-50", cases=["tcp", "udp"])
def test_bind_without_a_port(t, case):
    """IP_BIND_ADDRESS_NO_PORT: connect chooses the port."""
    t.rule("G.8")
    for value in (1, 0):
        s = make(t, case)
        s.set(SOL_IP, 24, value)
        s.bind(t.local_text, 0)
        s.name()
        s.bind(t.local_text, 0)
        s.connect(40000)
        t.settle()
        s.name()
        s.set(SOL_SOCKET, 13, struct.pack("ii", 1, 0))
        s.close()
        t.settle()
    s = make(t, case)
    s.set(SOL_IP, 24, 1)
    s.bind(t.local_text, 7007)
    s.name()


@parity("G.8", "A-13", "B-70")
def test_buffer_locks(t):
    """SO_BUF_LOCK shows and changes what setting a buffer has fixed."""
    t.rule("G.8")
    s = t.socket()
    s.get(SOL_SOCKET, 72)
    s.set(SOL_SOCKET, 7, 30000)
    s.get(SOL_SOCKET, 72)
    s.set(SOL_SOCKET, 8, 30000)
    s.get(SOL_SOCKET, 72)
    s.set(SOL_SOCKET, 72, 0)
    s.get(SOL_SOCKET, 72)
    s.get(SOL_SOCKET, 7)
    f = t.flow()
    s.connect()
    t.settle()
    f.syn_ack()
    t.settle()
    s.mem("rcvbuf", "sndbuf")


@parity("G.8", "C-6")
def test_inherited(t):
    """An accepted socket answers as its listener did."""
    t.rule("G.8")
    listener = t.listener()
    options = [(SOL_SOCKET, n) for n in (1, 41, 46, 69, 74, 75, 82)]
    options += [(SOL_IP, 18), (SOL_IP, 26), (SOL_TCP, 23), (SOL_TCP, 34)]
    for level, name in options:
        listener.set(level, name, 0 if name == 74 else 1)
    s, _f = t.accepted(listener)
    for level, name in options:
        s.get(level, name)


@parity("G.8", cases=["fresh", "listening", "connected"])
def test_by_state(t, case):
    """Options that go by the state of a connection."""
    t.rule("G.8")
    s = {"fresh": t.socket, "listening": t.listener}.get(case, lambda: t.connected()[0])()
    for name in (19, 20, 21, 22, 29):
        if name != 19:
            s.get(SOL_TCP, name)
    for name in (23, 30, 34):
        for value in (0, 1, 2, -1, 5000):
            s.set(SOL_TCP, name, value)
            s.get(SOL_TCP, name)
    s.set(SOL_TCP, 31, b"")
    s.set(SOL_TCP, 31, b"nonesuch")
    s.info("limited")
