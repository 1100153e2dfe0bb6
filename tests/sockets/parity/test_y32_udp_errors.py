"""Y32: ICMP errors about datagrams: who hears of them, when, and the error queue."""

from __future__ import annotations

import socket

from tests.sockets.parity.peer import icmp
from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_IP, SOL_IPV6, SOL_SOCKET

CODES4 = [(3, code) for code in range(17)] + [(11, 0), (11, 1), (12, 0), (4, 0), (5, 0)]
CODES6 = [(1, code) for code in range(8)] + [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1)]


def recverr(t, s, value=1):
    s.set(SOL_IPV6 if t.v6 else SOL_IP, 25 if t.v6 else 11, value)


def sent(t, connected, queue):
    s = t.socket("udp")
    s.bind(t.local_text, 7000)
    if queue:
        recverr(t, s)
    if connected:
        s.connect(40000)
        s.send(b"hello")
    else:
        s.send(b"hello", 0, (None, 40000))
    return s, t.settle()[0]


def look(t, s):
    t.settle()
    s.poll()
    s.send(b"next", 0, (None, 40000))
    t.settle()
    s.recv(10)
    s.poll()
    s.recv(100, 0x2000)
    s.recv(100, 0x2000)
    s.poll()


@parity("E-36", "E-37", v6=False, cases=CODES4)
def test_codes4(t, case):
    t.rule("E-37")
    for connected in (True, False):
        for queue in (False, True):
            s, seen = sent(t, connected, queue)
            t.icmp_error(*case, seen, 1400 if case == (3, 4) else 0)
            look(t, s)
            s.close()


@parity("E-36", "E-37", "E-41", v4=False, cases=CODES6)
def test_codes6(t, case):
    t.rule("E-37")
    for connected in (True, False):
        for queue in (False, True):
            s, seen = sent(t, connected, queue)
            t.icmp_error(*case, seen, 1300 if case == (2, 0) else 0)
            look(t, s)
            s.close()


def unreachable(t, seen, code=None):
    t.icmp_error(*((1, 4) if t.v6 else (3, 3 if code is None else code)), seen)


@parity("E-37", "B-82", cases=["recv", "send", "error", "connect", "data-first"])
def test_who_gets_it(t, case):
    """One pending error, before data; the send that takes it does not send."""
    t.rule("E-37")
    s, seen = sent(t, True, False)
    if case == "data-first":
        t.udp(b"data", 40000, 7000)
    unreachable(t, seen)
    t.settle()
    if case == "send":
        s.send(b"x")
    elif case == "error":
        s.get(SOL_SOCKET, socket.SO_ERROR)
    elif case == "connect":
        s.connect(40001)
    else:
        s.recv(10)
    t.settle()
    s.poll()
    s.recv(10)
    s.send(b"y")
    t.settle()


@parity("E-40", "E-37")
def test_queue_of_several(t):
    """Each read takes one entry; taking it sets the next error."""
    t.rule("E-40")
    s, seen = sent(t, True, True)
    unreachable(t, seen)
    t.icmp_error(*((3, 0) if t.v6 else (11, 0)), seen)
    unreachable(t, seen)
    t.settle()
    s.poll()
    for _ in range(4):
        s.recv(3, 0x2000)
        s.poll()
    unreachable(t, seen)
    recverr(t, s, 0)
    s.poll()
    s.recv(3, 0x2000)
    s.mem("rmem")


@parity("E-40", "E-36", cases=["short", "long"])
def test_quoted_payload(t, case):
    """What the ICMP quoted of the payload comes back."""
    t.rule("E-40")
    s = t.socket("udp")
    s.bind(t.local_text, 7000)
    recverr(t, s)
    s.connect(40000)
    s.send(400)
    raw = t.settle()[0].raw
    kind, code = (1, 4) if t.v6 else (3, 3)
    quote = raw[: (40 if t.v6 else 20) + 8 + (0 if case == "short" else 300)]
    t.ip(icmp(t.peer, t.local, kind, code, 0, quote), "icmp with a quote")
    t.settle()
    s.recv(1000, 0x2000)
    s.recv(10)


@parity("E-37", "E-16", cases=["other-port", "other-peer", "closed"])
def test_not_ours(t, case):
    t.rule("E-37")
    s, seen = sent(t, True, False)
    raw = bytearray(seen.raw)
    at = 40 if t.v6 else 20
    if case == "other-port":
        raw[at + 1] ^= 1
    elif case == "other-peer":
        raw[at + 3] ^= 1
    else:
        s.close()
    unreachable(t, bytes(raw))
    t.settle()
    if case != "closed":
        s.poll()
        s.recv(10)
