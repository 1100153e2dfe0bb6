"""Y28: datagrams in pieces: MSG_MORE, UDP_CORK, what the first call fixed, flush."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_MORE, SHUT_WR, SOL_IP, SOL_IPV6, SOL_UDP

UDP_CORK = 1

# ("send", size, flags, port or None), ("cork", value), ("close",), ("shutdown",), ("ttl", value)
PATTERNS = {
    "more-plain": [("send", 10, MSG_MORE, 40000), ("send", 20, 0, 40001)],
    "more-bad-port": [("send", 10, MSG_MORE, 40000), ("send", 20, 0, 0)],
    "more-no-address": [("send", 10, MSG_MORE, 40000), ("send", 5, 0, None)],
    "empty-more": [("send", 0, MSG_MORE, 40000), ("send", 3, 0, 40000)],
    "more-empty": [("send", 3, MSG_MORE, 40000), ("send", 0, 0, 40000)],
    "empty": [("send", 0, 0, 40000)],
    "cork": [("cork", 1), ("send", 10, 0, 40000), ("send", 10, 0, 40001), ("cork", 0)],
    "cork-nothing": [("cork", 1), ("cork", 0), ("send", 5, 0, 40000)],
    "cork-more": [("cork", 1), ("send", 10, MSG_MORE, 40000), ("send", 10, 0, 40000),
                  ("cork", 0)],
    "more-then-cork": [("send", 10, MSG_MORE, 40000), ("cork", 1), ("send", 10, 0, 40000),
                       ("cork", 0)],
    "close": [("send", 10, MSG_MORE, 40000), ("close",)],
    "shutdown": [("connect", 40000), ("send", 10, MSG_MORE, None), ("shutdown",),
                 ("send", 5, 0, None)],
    "three-thousands": [("send", 1000, MSG_MORE, 40000), ("send", 1000, MSG_MORE, 40000),
                        ("send", 1000, 0, 40000)],
    "odd-pieces": [("send", 7, MSG_MORE, 40000), ("send", 1465, MSG_MORE, 40000),
                   ("send", 1, MSG_MORE, 40000), ("send", 3001, 0, 40000)],
    "exact": [("send", 1000, MSG_MORE, 40000), ("send", 472, 0, 40000)],
    "overflow": [("send", 40000, MSG_MORE, 40000), ("send", 30000, MSG_MORE, 40000),
                 ("send", 5, 0, 40000)],
    "overflow-plain": [("send", 40000, MSG_MORE, 40000), ("send", 30000, 0, 40000),
                       ("send", 5, 0, 40000)],
    "ttl-later": [("send", 10, MSG_MORE, 40000), ("ttl", 7), ("send", 10, 0, 40000),
                  ("send", 10, 0, 40000)],
    "connected": [("connect", 40000), ("send", 5, MSG_MORE, None), ("connect", 40001),
                  ("send", 5, 0, None), ("send", 5, 0, None)],
}  # fmt: skip


@parity("E-2", "E-3", "E-4", "E-5", "E-6", "E-7", "E-8", "E-9", cases=PATTERNS)
def test_patterns(t, case):
    s = t.socket("udp")
    s.bind(t.local_text, 7000)
    t.rule("E-5")
    for verb, *args in PATTERNS[case]:
        if verb == "send":
            size, flags, port = args
            s.send(size, flags, None if port is None else (None, port))
            s.mem("wmem")
        elif verb == "cork":
            s.set(SOL_UDP, UDP_CORK, args[0])
            s.get(SOL_UDP, UDP_CORK)
        elif verb == "ttl":
            level, name = (SOL_IPV6, 16) if t.v6 else (SOL_IP, 2)
            s.set(level, name, args[0])
        elif verb == "shutdown":
            s.shutdown(SHUT_WR)
        else:
            getattr(s, verb)(*args)
        t.settle()


@parity("E-10", "E-5", "E-3")
def test_charge_of_what_is_pending(t):
    s = t.socket("udp")
    t.rule("E-10")
    for size in (10, 100, 1000, 1500, 3000):
        s.send(size, MSG_MORE, (None, 40000))
        s.mem("wmem", "sndbuf")
        s.poll()
        s.ioctl(0x5411)
    s.send(1, 0, (None, 40000))
    t.settle()
    s.mem("wmem")
