"""Y30: a slow device: EAGAIN, POLLOUT, ENOBUFS and what is charged meanwhile."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.shaper import Shaper
from tests.sockets.parity.trial import SIOCOUTQ, SOL_IP, SOL_IPV6, SOL_SOCKET

STUCK = Shaper(rate=200, burst=1600)  # one packet passes, the rest waits for seconds
SLOW = Shaper(rate=20000, burst=1600)
SHORT = Shaper(rate=200, burst=1600, limit=5)


@parity("E-10", "E-11", shaper=STUCK, cases=[100, 1400, 4000])
def test_fill(t, case):
    s = t.socket("udp")
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 20000)
    s.send(1400, 0, (None, 40000))  # takes the tokens
    t.rule("E-10")
    for _ in range(100):
        n = s.send(case, 0, (None, 40000))
        s.mem("wmem", "sndbuf")
        s.poll()
        s.ioctl(SIOCOUTQ)
        if not isinstance(n, int):
            break
    t.check(n == "EAGAIN", n)
    call = s.start_send(case)
    t.run()
    t.check(call.value == "EDESTADDRREQ", call.value)


@parity("E-10", shaper=STUCK, cases=[3000, 8000, 20000, 60000])
def test_one_large_datagram(t, case):
    """Its fragments may take twice the buffer, no more."""
    s = t.socket("udp")
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 2304)
    t.rule("E-10")
    s.send(case, 0, (None, 40000))
    s.mem("wmem", "sndbuf")
    s.send(10, 0, (None, 40000))
    s.mem("wmem")


@parity("E-11", "E-10", "E-12", shaper=SLOW)
def test_drain(t):
    """OUT comes back at half of the buffer, a sleeping sender when there is any room."""
    s = t.socket("udp")
    s.connect(40000)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 10000)
    t.rule("E-11")
    while isinstance(s.send(1000), int):
        pass
    s.mem("wmem")
    call = s.start_send(1000)
    t.check(not call.done)
    t.run(1500)
    t.check(call.done)
    s.mem("wmem")
    s.poll()


@parity("E-10", "B-10", shaper=STUCK)
def test_timeout(t):
    s = t.socket("udp")
    s.connect(40000)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 2304)
    s.set(SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 0, 100000))
    t.rule("E-10")
    while isinstance(s.send(1000), int):
        pass
    call = s.start_send(1000)
    t.run(160)
    t.check(call.value == "EAGAIN", call.value)


@parity("E-12", "E-13", shaper=SHORT, cases=["silent", "recverr"])
def test_full_queue(t, case):
    """What the queue refuses counts as sent, unless IP_RECVERR is on."""
    s = t.socket("udp")
    s.connect(40000)
    t.rule("E-13")
    if case == "recverr":
        s.set(SOL_IPV6 if t.v6 else SOL_IP, 25 if t.v6 else 11, 1)
    for _ in range(9):
        s.send(1000)
        s.mem("wmem")
    s.poll()
    s.recv(10, 0x2000)


@parity("A-33", "A-27", "E-12", shaper=Shaper(rate=50000, burst=1600))
def test_tcp_over_a_slow_device(t):
    """TCP small queues, autocorking: what waits below is charged to wmem."""
    s, f = t.connected(rtt=40)
    t.rule("A-33")
    s.send(1000)
    s.mem("wmem", "wmem_queued")
    s.send(100)
    s.send(100)
    s.mem("wmem", "wmem_queued")
    s.queues()
    t.run(100)
    s.mem("wmem", "wmem_queued")
    f.ack()
    t.run(60)
