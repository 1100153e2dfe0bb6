"""Y5: which segments a stream of writes becomes: Nagle, NODELAY, CORK, MORE, EOR, PSH."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_EOR, MSG_MORE, SOL_SOCKET, SOL_TCP

NODELAY, CORK = socket.TCP_NODELAY, socket.TCP_CORK

# what is done to one connection: ("send", n, flags), ("set", option, value), ("ack",)
PATTERNS = {
    "psh-one": [("send", 10), ("ack",)],
    "psh-burst": [("send", 3000), ("ack",), ("send", 1460), ("ack",), ("send", 2920), ("ack",)],
    "nagle-small": [("send", 10), ("send", 10), ("send", 10), ("ack",), ("send", 5), ("ack",)],
    "minshall": [("send", 1460), ("send", 10), ("send", 10), ("ack",), ("ack",)],
    "minshall-acked": [
        ("send", 10),
        ("ack",),
        ("send", 1460),
        ("send", 10),
        ("send", 10),
        ("ack",),
        ("ack",),
    ],
    "minshall-2930": [("send", 2930), ("send", 2930), ("ack",), ("ack",)],
    "minshall-after-full": [
        ("send", 5),
        ("send", 1460),
        ("send", 1460),
        ("send", 3),
        ("ack",),
        ("ack",),
    ],
    "nodelay": [("set", NODELAY, 1), ("send", 10), ("send", 10), ("send", 1500), ("ack",)],
    "nodelay-late": [
        ("send", 10),
        ("send", 10),
        ("set", NODELAY, 1),
        ("send", 7),
        ("ack",),
        ("set", NODELAY, 0),
        ("send", 3),
        ("send", 3),
        ("ack",),
    ],
    "cork": [("set", CORK, 1), ("send", 100), ("send", 100), ("set", CORK, 0), ("ack",)],
    "cork-3000": [("set", CORK, 1), ("send", 3000), ("ack",), ("set", CORK, 0), ("ack",)],
    "cork-nodelay": [
        ("set", CORK, 1),
        ("send", 100),
        ("set", NODELAY, 1),
        ("send", 50),
        ("set", CORK, 0),
        ("ack",),
    ],
    "nodelay-cork": [
        ("set", NODELAY, 1),
        ("set", CORK, 1),
        ("send", 100),
        ("set", NODELAY, 1),
        ("send", 60),
        ("set", CORK, 0),
        ("ack",),
    ],
    "more": [("send", 10, MSG_MORE), ("send", 10, MSG_MORE), ("send", 10), ("ack",)],
    "more-zero": [("send", 10, MSG_MORE), ("send", 0), ("send", 1), ("ack",)],
    "more-full": [
        ("send", 2000, MSG_MORE),
        ("ack",),
        ("send", 1000, MSG_MORE),
        ("ack",),
        ("send", 1),
        ("ack",),
    ],
    "more-nodelay": [("set", NODELAY, 1), ("send", 10, MSG_MORE), ("send", 10), ("ack",)],
    "more-in-flight": [("send", 1460), ("send", 10, MSG_MORE), ("ack",), ("send", 5), ("ack",)],
    "eor": [("set", CORK, 1), ("send", 100, MSG_EOR), ("send", 100), ("set", CORK, 0), ("ack",)],
    "eor-plain": [
        ("send", 1460),
        ("send", 10, MSG_EOR),
        ("send", 10, MSG_EOR),
        ("send", 10),
        ("ack",),
        ("ack",),
    ],
    "eor-more": [
        ("send", 100, MSG_EOR | MSG_MORE),
        ("send", 100, MSG_MORE),
        ("send", 10),
        ("ack",),
    ],
}


@parity("A-20", "A-22", "A-23", "A-24", "A-25", "A-28", cases=PATTERNS)
def test_patterns(t, case):
    s, f = t.connected()
    t.rule("A-23")
    for verb, *args in PATTERNS[case]:
        if verb == "send":
            s.send(*args)
            t.settle()
            s.mem("wmem_queued")
        elif verb == "set":
            s.set(SOL_TCP, *args)
            s.get(SOL_TCP, args[0])
            t.settle()
        else:
            f.ack()
            t.settle()
    s.queues()


@parity("A-22", "A-25", "A-34", cases=[1, 2, 3, 7])
def test_bursts(t, case):
    """PSH ends every burst of more than one segment; writes of odd sizes."""
    s, f = t.connected(wscale=7)
    t.rule("A-22")
    for size in (case * 1000, case * 1460, case * 1460 + 1, case * 5000):
        s.send(size)
        t.settle()
        while f.seen - 1 < s.sent:
            f.ack()
            t.settle()
        f.ack()
        t.settle()


@parity("A-21", "A-22")
def test_forced_push(t):
    """One huge write: PSH at least every half window, transmission while copying."""
    s, f = t.connected(window=65535)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 2000000)
    t.rule("A-21")
    s.send(1000000)
    t.run()
    for _ in range(20):
        f.ack()
        t.run()
    s.queues()


@parity("A-28", "A-1")
def test_eor_accounting(t):
    """An entry ends at MSG_EOR."""
    s, _ = t.connected()
    t.rule("A-28")
    s.set(SOL_TCP, CORK, 1)
    s.send(100, MSG_EOR)
    s.send(100)
    t.check(s.mem("wmem_queued")["wmem_queued"] == 200 + 2 * 832)
    t.settle()
