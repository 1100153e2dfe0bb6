"""Y29: sizes, fragments, IP ids, and what IP_MTU_DISCOVER lets through."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_IP, SOL_IPV6

SIZES = (0, 1, 1451, 1452, 1453, 1471, 1472, 1473, 1480, 2951, 2952, 2953, 10000)


def discover(t, s, value):
    level, name = (SOL_IPV6, 23) if t.v6 else (SOL_IP, 10)
    s.set(level, name, value)
    s.get(level, name)


@parity("E-9", "F-3", "F-4", "E-7", cases=[0, 1, 2, 3, 4, 5])
def test_sizes(t, case):
    s = t.socket("udp")
    s.bind(t.local_text, 7000)
    t.rule("E-9")
    discover(t, s, case)
    for size in SIZES:
        s.send(size, 0, (None, 40000))
        t.settle()
    s.mem("wmem")


@parity("E-9", "F-3", "F-4", cases=[0, 1, 2])
def test_connected(t, case):
    """A connected socket counts its IP ids."""
    s = t.socket("udp")
    s.bind(t.local_text, 7000)
    t.rule("F-4")
    discover(t, s, case)
    s.connect(40000)
    for size in (10, 10, 2000, 10):
        s.send(size)
        t.settle()


@parity("E-9", "E-1")
def test_the_largest(t):
    s = t.socket("udp")
    t.rule("E-9")
    for size in (65507, 65508, 65527, 65528, 65535, 65536, 70000):
        s.send(size, 0, (None, 40000))
        seen = t.settle()
        t.check(t.v6 or size != 65507 or len(seen) == 45, len(seen))
    s.mem("wmem")


@parity("E-9", "E-40", cases=[2, 1])
def test_local_error_is_queued(t, case):
    """With IP_RECVERR EMSGSIZE leaves an entry that tells the MTU."""
    s = t.socket("udp")
    t.rule("E-40")
    s.set(SOL_IPV6 if t.v6 else SOL_IP, 25 if t.v6 else 11, 1)
    discover(t, s, case)
    s.send(5000, 0, (None, 40000))
    s.poll()
    s.recv(100, 0x2000)
    s.recv(100, 0x2000)
    s.poll()
    s.send(66000, 0, (None, 40000))
    s.recv(100, 0x2000)
    t.settle()


@parity("E-9", v4=False)
def test_dontfrag(t):
    s = t.socket("udp")
    t.rule("E-9")
    s.set(SOL_IPV6, 62, 1)
    s.get(SOL_IPV6, 62)
    for size in (1452, 1453, 3000):
        s.send(size, 0, (None, 40000))
        t.settle()
