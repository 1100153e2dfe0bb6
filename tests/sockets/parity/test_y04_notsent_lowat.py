"""Y4: TCP_NOTSENT_LOWAT bounds what waits unsent, and wakes at half of it."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SIOCOUTQNSD, SOL_TCP

TCP_NOTSENT_LOWAT = 25


@parity("A-11", "A-3", "A-4", cases=[10000, 1, 50000])
def test_fill_and_release(t, case):
    s, f = t.connected(wscale=7, rtt=10)
    s.set(1, 7, 2000000)
    t.rule("A-11")
    s.set(SOL_TCP, TCP_NOTSENT_LOWAT, case)
    s.get(SOL_TCP, TCP_NOTSENT_LOWAT)
    for _ in range(200):
        if s.send(2000) == "EAGAIN":
            break
    s.mem("wmem_queued")
    t.settle()
    s.ioctl(SIOCOUTQNSD)
    before = None
    for _ in range(60):
        f.ack(f.seen)
        t.settle()
        unsent = s.ioctl(SIOCOUTQNSD)
        if "OUT" in s.poll():
            break
        before = unsent
    t.check(2 * unsent < case, unsent)
    t.check(before is None or 2 * before >= case, before)


@parity("A-11", "A-12")
def test_setting_it(t):
    """It takes effect at once; 0 is the sysctl's; a large write overshoots."""
    s, f = t.connected(window=5000)
    t.rule("A-11")
    s.send(20000)
    s.poll()
    s.set(SOL_TCP, TCP_NOTSENT_LOWAT, 1000)
    t.check("OUT" not in s.poll())
    t.check(s.send(10) in ("EAGAIN", 10))
    s.set(SOL_TCP, TCP_NOTSENT_LOWAT, 1000000)
    t.check("OUT" in s.poll())
    s.set(SOL_TCP, TCP_NOTSENT_LOWAT, 0)
    s.get(SOL_TCP, TCP_NOTSENT_LOWAT)
    s.poll()
    t.settle()
    s.set(SOL_TCP, TCP_NOTSENT_LOWAT, 2000)
    f.ack()
    t.settle()
    s.send(60000)
    s.queues()
    s.poll()


@parity("A-11", "A-7", tcp_notsent_lowat=4000)
def test_blocked_writer(t):
    """A sleeping writer is woken at half the mark; the sysctl serves all sockets."""
    s, f = t.connected(window=3000)
    t.rule("A-11")
    s.get(SOL_TCP, TCP_NOTSENT_LOWAT)
    s.send(3000)
    s.send(3000)
    s.send(3000)
    call = s.start_send(30000)
    t.run()
    for _ in range(40):
        f.ack()
        t.settle()
        s.ioctl(SIOCOUTQNSD)
        if call.done:
            break
    t.check(call.done)
