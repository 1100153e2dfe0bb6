"""Y3: what the send buffer accepts, when poll says OUT, when a sleeping writer resumes."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_DONTWAIT, MSG_MORE, SOL_SOCKET

SO_SNDBUFFORCE = 32
MSS = {False: 1460, True: 1440}


def timeval(ms):
    return struct.pack("qq", ms // 1000, ms % 1000 * 1000)


def locked(size):
    return lambda s: s.set(SOL_SOCKET, socket.SO_SNDBUF, size)


@parity("A-2")
def test_sndbuf_values(t):
    t.rule("A-2")
    s = t.socket()
    t.check(s.get(SOL_SOCKET, socket.SO_SNDBUF) == 16384)
    wanted = (4608, 4608, 4608, 9216, 2000000, 8388608, 8388608)
    for value, size in zip((0, 1, 2304, 4608, 10**6, 10**8, -1), wanted, strict=True):
        s.set(SOL_SOCKET, socket.SO_SNDBUF, value)
        t.check(s.get(SOL_SOCKET, socket.SO_SNDBUF) == size, (value, size))
    for value in (10**8, 0, -1, 5000):
        s.set(SOL_SOCKET, SO_SNDBUFFORCE, value)
        s.get(SOL_SOCKET, socket.SO_SNDBUF)


@parity("A-2", "A-12")
def test_raising_it_makes_writable(t):
    t.rule("A-2")
    s, f = t.connected(prepare=locked(5000))
    while isinstance(s.send(1000), int):
        pass
    t.settle()
    t.check("OUT" not in s.poll())
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 100000)
    t.check("OUT" in s.poll())
    f.ack()
    t.settle()


@parity("A-3", "A-4", "A-5", "A-7", "A-12", cases=[30000, 6000, 100000])
def test_fill_and_drain(t, case):
    """POLLOUT comes back with one third free, not with the first freed byte."""
    s, f = t.connected(prepare=locked(case))
    mss = MSS[t.v6]
    t.rule("A-5")
    for _ in range(400):
        if s.send(1000) == "EAGAIN":
            break
    t.settle()
    s.queues()
    s.mem("wmem_queued", "sndbuf")
    t.rule("A-4")
    last = None
    ack = 1
    while ack < s.sent:
        ack += mss
        f.ack(min(ack, f.seen))
        t.settle()
        queued = s.mem("wmem_queued")["wmem_queued"]
        if "OUT" in s.poll():
            break
        last = queued
    sndbuf = 2 * case
    t.check(queued * 3 <= sndbuf * 2, (queued, sndbuf))
    t.check(last is None or last * 3 > sndbuf * 2 - 3, (last, sndbuf))


@parity("A-5", "A-3")
def test_small_writes_overshoot(t):
    """A small write goes into a tail with room whatever the buffer says."""
    s, _ = t.connected(prepare=locked(3000))
    t.rule("A-5")
    total = 0
    while isinstance(n := s.send(100), int):
        total += n
    s.mem("wmem_queued", "sndbuf")
    t.check(t.v6 or total == 7400, total)
    s.queues()
    t.settle()
    s.send(1)


@parity("A-3")
def test_exactly_full(t):
    """With wq == sndbuf and a full tail not one byte more."""
    s, f = t.connected(window=1000, prepare=locked(3000))
    t.rule("A-3")
    for size in (1, 500, 1000, 3000, 1, 1, 700, 1):
        s.send(size)
        s.mem("wmem_queued")
        t.settle()
    s.queues()
    f.ack()
    t.settle()
    s.mem("wmem_queued")
    s.send(1)
    t.settle()


@parity("A-7", "A-8", "A-6")
def test_blocked_writer(t):
    """A writer that sleeps resumes at two thirds."""
    s, f = t.connected(prepare=locked(20000))
    mss = MSS[t.v6]
    t.rule("A-7")
    call = s.start_send(100000)
    t.run()
    t.check(not call.done)
    f.ack(1 + mss)
    t.run()
    s.mem("wmem_queued")
    t.check(not call.done, "one MSS is not enough")
    for _ in range(30):
        f.ack()
        t.settle()
        s.mem("wmem_queued")
        if call.done:
            break
    t.check(call.done and call.value == 100000, call.value)


@parity("A-6", "A-25")
def test_blocked_corked_writer(t):
    """A full buffer pushes what MSG_MORE would hold."""
    s, f = t.connected(prepare=locked(10000))
    t.rule("A-6")
    call = s.start_send(60000, MSG_MORE)
    t.run()
    for _ in range(30):
        f.ack()
        t.settle()
        if call.done:
            break
    t.check(call.done, "accepted")
    t.settle()
    s.queues()


@parity("A-8", "A-7")
def test_send_timeout(t):
    """SO_SNDTIMEO: what went in so far, or EAGAIN."""
    t.rule("A-8")
    s, _ = t.connected(prepare=locked(10000))
    s.set(SOL_SOCKET, socket.SO_SNDTIMEO, timeval(100))
    call = s.start_send(100000)
    t.run(150)
    t.check(call.done and 20000 < call.value < 60000, call.value)
    call = s.start_send(5000)
    t.run(150)
    t.check(call.value == "EAGAIN", call.value)


@parity("A-8", "A-7")
def test_nonblocking_partial(t):
    t.rule("A-8")
    s, f = t.connected(prepare=locked(10000))
    n = s.send(200000)
    t.check(isinstance(n, int) and 0 < n < 60000, n)
    t.check(s.send(1000, MSG_DONTWAIT) == "EAGAIN")
    t.run()
    s.queues()
    f.ack()
    t.run()
    s.queues()
    s.send(50000)
    t.run()


@parity("A-10", "A-9", "A-66", cases=["fresh", "listen", "syn_sent", "zero", "blocked"])
def test_state_gate(t, case):
    t.rule("A-10")
    if case == "fresh":
        s = t.socket()
        t.check(s.send(10) == "EPIPE")
        t.check(s.send(0) == "EPIPE")
        s.send(5, 0, to=(None, 40000))
    elif case == "listen":
        t.check(t.listener().send(10) == "EPIPE")
    elif case == "syn_sent":
        s = t.socket()
        f = t.flow()
        s.connect()
        t.settle()
        t.check(s.send(10) == "EAGAIN")
        f.syn_ack()
        t.settle()
        s.send(10)
        t.settle()
    elif case == "zero":
        s, f = t.connected()
        t.check(s.send(0) == 0)
        t.run()
        s.send(7, 0, to=("10.99.0.1" if not t.v6 else "fd01::1", 1))
        t.run()
    else:
        s = t.socket()
        f = t.flow()
        s.connect()
        t.settle()
        call = s.start_send(10)
        t.run()
        t.check(not call.done)
        f.syn_ack()
        t.run()
        t.check(call.value == 10, call.value)
