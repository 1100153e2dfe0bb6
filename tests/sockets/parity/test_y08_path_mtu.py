"""Y8: a router says that packets are too long: TCP and UDP, reasonable and tiny MTUs."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_IP, SOL_IPV6, SOL_TCP


def too_big(t, seen, mtu):
    t.icmp_error(*((2, 0) if t.v6 else (3, 4)), seen, mtu)


def mtu_of(t, s):
    return s.get(SOL_IPV6 if t.v6 else SOL_IP, 24 if t.v6 else 14)


MTUS = [1400, 1280, 1000, 552, 551, 300, 68, 0, 1500, 2000]


@parity("A-42", "F-10", "F-11", "F-12", cases=MTUS)
def test_tcp(t, case):
    """What is in flight and too long is cut and sent again at once, cwnd unchanged."""
    s, f = t.connected()
    t.rule("A-42")
    s.send(4000)
    seen = t.settle()
    too_big(t, seen[0], case)
    t.settle()
    s.get(SOL_TCP, socket.TCP_MAXSEG)
    s.info("pmtu", "snd_mss", "snd_cwnd", "lost", "ca_state")
    s.mem("wmem_queued")
    f.ack()
    t.run()
    mtu_of(t, s)
    t.rule("F-12")
    s.send(3000)
    t.run(3)
    f.ack()
    t.run()
    other, _g = t.connected()
    other.info("pmtu", "snd_mss")
    mtu_of(t, other)


@parity("A-42", "F-11", cases=[1400, 1280, 600])
def test_no_news(t, case):
    """The peer's MSS is below what the router says."""
    s, f = t.connected(mss=500)
    t.rule("A-42")
    s.send(2000)
    seen = t.settle()
    too_big(t, seen[0], case)
    t.settle()
    s.info("pmtu", "snd_mss", "lost")
    mtu_of(t, s)
    f.ack()
    t.settle()


@parity("F-11", "A-42", cases=["old", "other-port", "short"])
def test_tcp_not_believed(t, case):
    """An error must quote what is in flight."""
    s, f = t.connected()
    t.rule("F-11")
    s.send(1460)
    seen = t.settle()
    if case == "old":
        f.ack()
        t.settle()
        too_big(t, seen[0], 1300)
    elif case == "other-port":
        raw = bytearray(seen[0].raw)
        raw[(40 if t.v6 else 20) + 1] ^= 1
        too_big(t, bytes(raw), 1300)
    else:
        too_big(t, seen[0].raw[:44], 1300)
    t.run()
    s.info("pmtu", "snd_mss")


@parity("F-11", "F-12", "E-9", "F-3", cases=MTUS)
def test_udp(t, case):
    s = t.socket("udp")
    s.bind(t.local_text, 7000)
    t.rule("F-12")
    s.connect(40000)
    mtu_of(t, s)
    s.send(b"x" * 1400)
    seen = t.settle()
    too_big(t, seen[0], case)
    t.settle()
    s.poll()
    mtu_of(t, s)
    s.send(b"y" * 1400)
    t.settle()
    s.send(b"y" * 500)
    t.settle()
    mtu_of(t, s)
    other = t.socket("udp")
    other.connect(40001)
    mtu_of(t, other)


@parity("F-11", "E-9", cases=[0, 1, 2, 3, 4, 5])
def test_udp_discovery_modes(t, case):
    """IP_MTU_DISCOVER decides whether the error is heard and what it does."""
    s = t.socket("udp")
    t.rule("F-11")
    level, name = (SOL_IPV6, 23) if t.v6 else (SOL_IP, 10)
    s.set(level, name, case)
    s.get(level, name)
    s.bind(t.local_text, 7000)
    s.connect(40000)
    s.send(b"x" * 1400)
    seen = t.settle()
    too_big(t, seen[0], 1300)
    t.settle()
    s.poll()
    mtu_of(t, s)
    s.send(b"y" * 1400)
    s.send(b"y" * 1400)
    t.settle()
