"""Y36: when it arrived, when it left: SO_TIMESTAMP and its kin, both ways."""

from __future__ import annotations

import struct
import time

from tests.sockets.parity.peer import icmp
from tests.sockets.parity.scenario import parity
from tests.sockets.parity.shaper import Shaper
from tests.sockets.parity.trial import (
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    SOL_IP,
    SOL_IPV6,
    SOL_SOCKET,
    SOL_TCP,
)

TIMESTAMP, NS, TIMESTAMPING, NEW, NS_NEW, TIMESTAMPING_NEW = 29, 35, 37, 63, 64, 65
TX, RX, SOFTWARE, OPT_ID, SCHED, ACK = 1 << 1, 1 << 3, 1 << 4, 1 << 7, 1 << 8, 1 << 9
CMSG, TSONLY, ID_TCP, RX_FILTER = 1 << 10, 1 << 11, 1 << 16, 1 << 17
ALL = TX | SOFTWARE | OPT_ID | SCHED | ACK
TCP_CORK = 3
SLOW = Shaper(rate=20000, burst=1600)


def wall(t):
    """The time of day of this backend, ns."""
    return time.time_ns() if t.sut.name == "kernel" else t.sut.now() + t.sut.stack.wall_ns


class Clock:
    """When the script did what: a time in a control message is shown as the number of the
    step that it falls into."""

    def __init__(self, t):
        self.t = t
        self.steps = []

    def step(self, do):
        start = wall(self.t)
        do()
        self.steps.append((start, wall(self.t)))

    def name(self, level, kind, data):
        if level == SOL_SOCKET and kind in (TIMESTAMP, NS, NEW, NS_NEW):
            seconds, part = struct.unpack("qq", data)
            unit = 1000 if kind in (TIMESTAMP, NEW) else 1
            return f"time {kind} step {self._step(seconds, part * unit, unit)}"
        if level == SOL_SOCKET and kind in (TIMESTAMPING, TIMESTAMPING_NEW):
            seconds, part, *rest = struct.unpack("6q", data)
            return f"time {kind} step {self._step(seconds, part, 1)} {rest}"
        if (level, kind) in ((SOL_IP, 11), (SOL_IPV6, 25)):
            return f"error {struct.unpack_from('=IBBBBII', data)} {data[16:].hex()}"
        if (level, kind) == (SOL_IP, 8):
            return f"pktinfo {data[4:].hex()}"  # the device's number is the host's
        if (level, kind) == (SOL_IPV6, 50):
            return f"pktinfo {data[:16].hex()}"
        return f"{level} {kind} {data.hex()}"

    def _step(self, seconds, part, unit):
        at = seconds * 10**9 + part
        found = [i for i, (a, z) in enumerate(self.steps) if a - unit < at <= z]
        return found[0] if found else at - self.steps[-1][1]

    def recv(self, s, length=4000, flags=0):
        """Receive; whether there was something."""
        t = self.t
        try:
            data, out, control, addr, n = s.raw.recv(length, flags)
        except OSError as why:
            t.event("call", f"recv({length}, {flags:#x})", s.plain(why))
            return False
        words = [self.name(*message) for message in control]
        body = f"{n} of {data.hex() if n < 100 and not flags & MSG_ERRQUEUE else len(data)}"
        t.event("call", f"recv({length}, {flags:#x})", f"{body} flags {out:#x} {addr} {words}")
        return True

    def errors(self, s):
        """Everything in the error queue."""
        s.mem("rmem")
        s.poll()
        while self.recv(s, 4000, MSG_ERRQUEUE):
            pass


# -- arrival -------------------------------------------------------------------------------

FORMS = {
    "us": [(TIMESTAMP, 1)], "ns": [(NS, 1)], "us-new": [(NEW, 1)], "ns-new": [(NS_NEW, 1)],
    "rx": [(TIMESTAMPING, RX | SOFTWARE)], "rx-new": [(TIMESTAMPING_NEW, RX | SOFTWARE)],
    "off-again": [(NS, 1), (NS, 0)], "last-holds": [(TIMESTAMP, 1), (NS_NEW, 1)],
    "both": [(NS, 1), (TIMESTAMPING, RX | SOFTWARE)],
    "both-new": [(TIMESTAMPING_NEW, RX | SOFTWARE), (NS_NEW, 1)],
    "no-software": [(TIMESTAMPING, RX)],
    "becomes-new": [(NS, 1), (TIMESTAMPING_NEW, RX | SOFTWARE)],
    "becomes-old": [(NEW, 1), (TIMESTAMPING, RX | SOFTWARE)],
    "new-and-off": [(TIMESTAMPING_NEW, RX | SOFTWARE), (TIMESTAMP, 0)],
    "filter": [(NS, 1), (TIMESTAMPING, SOFTWARE | RX_FILTER)],
    "no-filter": [(NS, 1), (TIMESTAMPING, SOFTWARE)],
}  # fmt: skip


def arrivals(t, options):
    """A connection with these options, and the clock."""
    s, f = t.connected()
    for name, value in options:
        s.set(SOL_SOCKET, name, value)
    for name in (TIMESTAMP, NS, NEW, NS_NEW):
        s.get(SOL_SOCKET, name)
    t.run()  # the kernel switches it on in a moment of its own
    return s, f, Clock(t)


@parity("B-15", cases=FORMS)
def test_forms(t, case):
    s, f, clock = arrivals(t, FORMS[case])
    t.rule("B-15")
    for size in (10, 20):
        clock.step(lambda size=size: f.send("PA", data=size))
        t.settle()
        clock.recv(s)
    clock.recv(s)
    s.set(SOL_TCP, 36, 1)
    clock.step(lambda: f.send("FPA", data=3))
    t.settle()
    clock.recv(s)
    clock.recv(s)


@parity("B-15", "B-10", "B-11")
def test_last_segment_touched(t):
    """A read over several segments has the time of the last one; so has a peek."""
    s, f, clock = arrivals(t, FORMS["ns"])
    t.rule("B-15")
    for _ in range(4):
        clock.step(lambda: f.send("PA", data=1000))
        t.settle()
    clock.recv(s, 500, MSG_PEEK)
    clock.recv(s, 1500, MSG_PEEK)
    clock.recv(s, 1000)
    clock.recv(s, 1001)
    clock.recv(s, 0)
    clock.recv(s, 500, MSG_TRUNC)
    clock.recv(s, 4000, MSG_PEEK)
    clock.recv(s)
    clock.recv(s, 0)


@parity("B-15")
def test_merged_segments(t):
    """Small segments are gathered in one buffer, which has the time of the last."""
    s, f, clock = arrivals(t, FORMS["ns"])
    t.rule("B-15")
    for _ in range(4):
        clock.step(lambda: f.send("PA", data=10))
        t.settle()
    clock.recv(s, 5)
    clock.recv(s, 10)
    clock.step(lambda: f.send("PA", data=10))
    t.settle()
    clock.recv(s, 10)
    clock.recv(s)


@parity("B-15", "B-31")
def test_out_of_order(t):
    s, f, clock = arrivals(t, FORMS["ns"])
    t.rule("B-15")
    clock.step(lambda: f.send("PA", seq=1001, data=1000))
    t.settle()
    clock.step(lambda: f.send("PA", seq=1, data=1000))
    t.settle()
    clock.recv(s, 100)
    clock.recv(s, 1000)
    clock.recv(s)


@parity("B-15", "B-20")
def test_urgent(t):
    s, f, clock = arrivals(t, FORMS["ns"])
    t.rule("B-15")
    clock.step(lambda: f.send("PAU", data=10, urg=5))
    t.settle()
    clock.recv(s, 10, MSG_OOB)
    clock.recv(s)
    clock.recv(s)


# -- departure -----------------------------------------------------------------------------

FLAGS = {
    "all": ALL, "tsonly": ALL | TSONLY, "no-id": ALL & ~OPT_ID, "no-software": ALL & ~SOFTWARE,
    "id-tcp": ALL | ID_TCP | TSONLY, "cmsg": ALL | CMSG, "cmsg-tsonly": ALL | CMSG | TSONLY,
    "snd": TX | SOFTWARE | OPT_ID | TSONLY, "sched": SCHED | SOFTWARE | OPT_ID | TSONLY,
    "ack": ACK | SOFTWARE | OPT_ID | TSONLY, "nothing": SOFTWARE | OPT_ID,
}  # fmt: skip
ABOUT = [(SOL_IP, 8), (SOL_IP, 12), (SOL_IP, 13), (SOL_IPV6, 49), (SOL_IPV6, 51), (SOL_IPV6, 66)]


def departures(t, flags, **settings):
    s, f = t.connected(**settings)
    clock = Clock(t)
    s.set(SOL_SOCKET, TIMESTAMPING, flags)
    return s, f, clock


def send(t, clock, s, size, flags=0, control=()):
    clock.step(lambda: s.send(size, flags, control=control))
    t.settle()
    clock.errors(s)


def acked(t, clock, s, f, ack=None, **fields):
    clock.step(lambda: f.ack(ack, **fields))
    t.settle()
    clock.errors(s)


@parity("B-15", cases=FLAGS)
def test_sent(t, case):
    """Queued, left, acknowledged, numbered by the last byte."""
    s, f = t.connected()
    clock = Clock(t)
    t.rule("B-15")
    s.send(77)
    t.settle()
    f.ack(40)
    s.set(SOL_SOCKET, TIMESTAMPING, FLAGS[case])
    s.get_bytes(SOL_SOCKET, TIMESTAMPING, 8)
    f.ack()
    t.settle()
    send(t, clock, s, 100)
    acked(t, clock, s, f)
    for level, name in ABOUT:
        s.set(level, name, 1)
    send(t, clock, s, 1200)
    acked(t, clock, s, f, 1378 - 50)
    acked(t, clock, s, f)


@parity("B-15")
def test_sent_again(t):
    """A retransmission is queued and leaves again."""
    s, f, clock = departures(t, ALL | TSONLY)
    t.rule("B-15")
    s.send(100)
    clock.steps = [(0, 1 << 62)]
    t.run(300)
    clock.errors(s)
    f.ack()
    t.settle()
    clock.errors(s)


@parity("B-15", cases=["cork", "more", "nagle", "window", "burst", "last-unstamped", "oob"])
def test_entries(t, case):
    """One entry of the queue has one stamp, that of the last call in it."""
    s, f, clock = departures(t, ALL | TSONLY, window=3000 if case == "window" else 65535)
    t.rule("B-15")
    if case == "cork":
        s.set(SOL_TCP, TCP_CORK, 1)
        send(t, clock, s, 100)
        send(t, clock, s, 50)
        clock.step(lambda: s.set(SOL_TCP, TCP_CORK, 0))
        t.settle()
        clock.errors(s)
        acked(t, clock, s, f, 51)
    elif case == "more":
        send(t, clock, s, 5000, MSG_MORE)
        send(t, clock, s, 10)
    elif case == "nagle":
        send(t, clock, s, 100)
        send(t, clock, s, 100)
        send(t, clock, s, 100)
        acked(t, clock, s, f)
    elif case == "window":
        send(t, clock, s, 5000)
        acked(t, clock, s, f, win=3000)
    elif case == "burst":
        send(t, clock, s, 14000)
        acked(t, clock, s, f, 1461)
        acked(t, clock, s, f, 14000)
    elif case == "oob":
        send(t, clock, s, 10, MSG_OOB)
    else:
        s.set(SOL_TCP, TCP_CORK, 1)
        send(t, clock, s, 100)
        s.set(SOL_SOCKET, TIMESTAMPING, SOFTWARE | OPT_ID | TSONLY)
        send(t, clock, s, 50)
        clock.step(lambda: s.set(SOL_TCP, TCP_CORK, 0))
        t.settle()
        clock.errors(s)
    acked(t, clock, s, f)


@parity("B-15", "D-18", cases=["cut", "sacked", "collapsed"])
def test_recovery(t, case):
    """A stamp stays with its byte when entries are cut and merged."""
    s, f, clock = departures(t, ALL | TSONLY, sack=True)
    clock.steps = [(0, 1 << 62)]
    t.rule("B-15")
    if case == "collapsed":
        s.set(SOL_TCP, 1, 1)
        for _ in range(5):
            s.send(100)
            t.settle()
        clock.errors(s)
        t.run(400)
        clock.errors(s)
        f.ack()
        t.settle()
        clock.errors(s)
        return
    s.send(1460 * 8)
    t.settle()
    clock.errors(s)
    sacks = [(1 + 1460 * 4, 1 + 1460 * 8)] if case == "cut" else [(1 + 1460 * 2, 1 + 1460 * 6)]
    for _ in range(3):
        f.ack(1, sacks=sacks)
        t.settle()
    t.run()
    clock.errors(s)
    f.ack(1 + 1460 * 4)
    t.settle()
    clock.errors(s)
    f.ack()
    t.settle()
    clock.errors(s)


@parity("B-15", "A-33", shaper=SLOW)
def test_slow_device(t):
    """SCHED when it is queued below, SND when it has left."""
    s, f, clock = departures(t, ALL | TSONLY)
    clock.steps = [(0, 1 << 62)]
    t.rule("B-15")
    s.send(1400)
    s.send(1460)
    t.settle()
    clock.errors(s)
    t.run(150)
    clock.errors(s)
    f.ack()
    t.settle()
    clock.errors(s)
    u = t.socket("udp")
    u.connect(40009)
    u.set(SOL_SOCKET, TIMESTAMPING, ALL | TSONLY)
    u.send(1400)
    u.send(1400)
    t.settle()
    clock.errors(u)
    t.run(150)
    clock.errors(u)


CONTROL = {
    "snd": (TIMESTAMPING, struct.pack("I", TX)), "sched": (TIMESTAMPING, struct.pack("I", SCHED)),
    "ack": (TIMESTAMPING, struct.pack("I", ACK)), "none": (TIMESTAMPING, bytes(4)),
    "completion": (TIMESTAMPING, struct.pack("I", 1 << 18)),
    "new": (TIMESTAMPING_NEW, struct.pack("I", TX)), "bad": (TIMESTAMPING, struct.pack("I", 16)),
    "short": (TIMESTAMPING, b"ab"), "mark": (36, bytes(4)), "mark-short": (36, b"a"),
    "priority": (12, struct.pack("I", 3)), "opt-id": (81, struct.pack("I", 1000)),
    "opt-id-short": (81, b"a"), "rights": (1, b"ab"), "credentials": (2, b"ab"),
    "txtime": (61, bytes(8)), "unknown": (99, bytes(4)),
}  # fmt: skip


@parity("B-15", "A-67", cases=CONTROL)
def test_control(t, case):
    """A control message asks for this call's stamps."""
    s, f, clock = departures(t, SOFTWARE | OPT_ID | TSONLY | SCHED)
    t.rule("B-15")
    kind, value = CONTROL[case]
    send(t, clock, s, 100, control=[(SOL_SOCKET, kind, value)])
    acked(t, clock, s, f)
    send(t, clock, s, 100)
    acked(t, clock, s, f)
    u = t.socket("udp")
    u.connect(40009)
    u.set(SOL_SOCKET, TIMESTAMPING, SOFTWARE | OPT_ID | TSONLY | TX)
    send(t, clock, u, b"abc", control=[(SOL_SOCKET, kind, value)])
    send(t, clock, u, b"def")
    u.set(SOL_SOCKET, TIMESTAMPING, SOFTWARE)
    send(t, clock, u, b"abc", control=[(SOL_SOCKET, kind, value)])


@parity("B-15")
def test_option_changes(t):
    """What is told follows the options of the moment at which it is read."""
    s, f, clock = departures(t, ALL | TSONLY)
    clock.steps = [(0, 1 << 62)]
    t.rule("B-15")
    for flags in (0, OPT_ID, SOFTWARE, ALL | TSONLY):
        s.send(10)
        t.settle()
        s.set(SOL_SOCKET, TIMESTAMPING, flags)
        f.ack()
        t.settle()
        s.set(SOL_SOCKET, NS, flags == SOFTWARE)
        clock.errors(s)
    s.set(SOL_SOCKET, 8, 2304)
    for _ in range(3):
        s.send(10)
        t.settle()
        f.ack()
        t.settle()
    clock.errors(s)


@parity("B-15", cases=["reset", "shutdown", "close"])
def test_end(t, case):
    s, f, clock = departures(t, ALL | TSONLY)
    clock.steps = [(0, 1 << 62)]
    t.rule("B-15")
    s.send(10)
    if case == "reset":
        f.send("R")
    elif case == "shutdown":
        s.shutdown(1)
        t.settle()
        f.ack()
    else:
        s.close()
        t.settle()
        return
    t.settle()
    clock.errors(s)
    s.get(SOL_SOCKET, 4)


@parity("B-15")
def test_the_option(t):
    t.rule("B-15")
    s = t.socket()
    for flags in (
        OPT_ID,
        ALL & ~OPT_ID,
        ID_TCP,
        1 << 19,
        1 << 15,
        1 << 12,
        1 << 12 | TSONLY,
        RX_FILTER,
    ):
        s.set(SOL_SOCKET, TIMESTAMPING, flags)
    s.set(SOL_SOCKET, TIMESTAMPING, struct.pack("ii", 2, 1))
    for size in (4, 8, 12):
        s.get_bytes(SOL_SOCKET, TIMESTAMPING, size)
    s.set(SOL_SOCKET, TIMESTAMPING_NEW, 1)
    s.get_bytes(SOL_SOCKET, TIMESTAMPING_NEW, 8)
    s.get_bytes(SOL_SOCKET, TIMESTAMPING, 8)
    listener = t.listener()
    listener.set(SOL_SOCKET, TIMESTAMPING, OPT_ID)
    listener.set(SOL_SOCKET, TIMESTAMPING, ALL & ~OPT_ID | TSONLY)
    c, f = t.accepted(listener)
    c.get_bytes(SOL_SOCKET, TIMESTAMPING, 8)
    clock = Clock(t)
    clock.steps = [(0, 1 << 62)]
    c.send(10)
    t.settle()
    f.ack()
    t.settle()
    clock.errors(c)


@parity("B-15", "E-45", cases=[0, CMSG, TSONLY | CMSG])
def test_datagrams(t, case):
    """The same of UDP and ping sockets, with what is told of the packet."""
    clock = Clock(t)
    t.rule("B-15")
    u = t.socket("udp")
    u.bind("", 7000)
    p = t.wrap(t.sut.socket(t.af, 2, 58 if t.v6 else 1))
    p.bind("", 77)
    p.connect(40009)
    p.set(SOL_SOCKET, 11, 1)
    for s in (u, p):
        for level, name in ABOUT:
            s.set(level, name, 1)
        s.set(SOL_SOCKET, TIMESTAMPING, TX | SOFTWARE | OPT_ID | SCHED | case)
        if s is u:
            for size in (5, 1300):
                clock.step(lambda s=s, size=size: s.send(b"x" * size, 0, (None, 40000)))
                t.settle()
                clock.errors(s)
        else:
            request = icmp(t.peer, t.local, 128 if t.v6 else 8, 0, 1, b"abcdefgh")
            clock.step(lambda s=s, request=request: s.send(request[40 if t.v6 else 20 :]))
            t.settle()
            clock.errors(s)
