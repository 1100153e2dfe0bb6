"""Y24: bind and reuse, by pairs; ephemeral ports until there are none."""

from __future__ import annotations

import itertools
import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import PORT, SOL_SOCKET

OPTIONS = {"none": None, "addr": socket.SO_REUSEADDR, "port": socket.SO_REUSEPORT}
PAIRS = [f"{a}-{b}" for a, b in itertools.product(OPTIONS, OPTIONS)]


def make(t, kind, option):
    s = t.socket(kind)
    if OPTIONS[option] is not None:
        s.set(SOL_SOCKET, OPTIONS[option], 1)
    return s


@parity("C-51", cases=PAIRS)
def test_pairs(t, case):
    """Two sockets on one port: bound or listening, the same address, the wildcard, another."""
    t.rule("C-51")
    first, second = case.split("-")
    other = "fd00:9::3" if t.v6 else "10.9.0.3"
    t.sut.add_address(other + ("/64" if t.v6 else "/24"))
    port = PORT
    for kind in ("tcp", "udp"):
        for listening in (False, True) if kind == "tcp" else (False,):
            for a, b in (
                (t.local_text, t.local_text), ("", t.local_text), (t.local_text, ""), ("", ""),
                (t.local_text, other),
            ):  # fmt: skip
                port += 1
                one, two = make(t, kind, first), make(t, kind, second)
                one.bind(a, port)
                if listening:
                    one.listen(1)
                two.bind(b, port)
                if kind == "tcp":
                    two.listen(1)


@parity("C-51", "C-52", cases=["addr-later", "port-later", "addr-off"])
def test_options_changed_after_binding(t, case):
    t.rule("C-51")
    one, two = t.socket(), t.socket()
    option = socket.SO_REUSEPORT if case == "port-later" else socket.SO_REUSEADDR
    if case == "addr-off":
        one.set(SOL_SOCKET, option, 1)
    one.bind("", PORT)
    one.set(SOL_SOCKET, option, 0 if case == "addr-off" else 1)
    two.set(SOL_SOCKET, option, 1)
    two.bind("", PORT)
    one.listen(1)


@parity("C-51", "C-54")
def test_errors(t):
    t.rule("C-51")
    s = t.socket()
    foreign = ["fd00:9::99", "ff02::1"] if t.v6 else ["10.9.0.99", "224.0.0.1", "10.9.0.255",
                                                      "255.255.255.255"]  # fmt: skip
    for kind in ("tcp", "udp"):
        for host in foreign:
            t.socket(kind).bind(host, PORT)
    s.name()
    s.bind(t.local_text, PORT)
    s.name()
    s.bind(t.local_text, PORT)
    s.bind("", PORT + 1)
    c, _ = t.connected()
    c.bind("", PORT + 2)
    listener = t.socket()
    listener.listen(1)
    listener.bind("", PORT + 3)
    low = t.socket()
    low.bind("", 80)
    low.name()


RANGE = (33000, 33003)


@parity("C-50", ip_local_port_range=RANGE, cases=["bind", "listen", "connect", "udp-bind",
                                                   "udp-send", "udp-connect", "reuse"])  # fmt: skip
def test_exhaustion(t, case):
    """A range of four ports."""
    t.rule("C-50")
    kind = "udp" if case.startswith("udp") else "tcp"
    for _ in range(6):
        s = t.socket(kind)
        if case == "reuse":
            s.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if case in ("bind", "reuse", "udp-bind"):
            s.bind(t.local_text, 0)
        elif case == "listen":
            s.listen(1)
        elif case == "udp-send":
            s.send(b"x", 0, to=(None, 40000))
        else:
            s.connect(40000)
        s.name()
    if case == "connect":
        s = t.socket()
        s.connect(40001)
        s.name()
    t.run(10, quietly=True)


@parity("C-50", "C-54", ip_local_port_range=(33000, 33100))
def test_parity_of_ports(t):
    """connect takes ports of the parity of the low end, bind(0) the other."""
    t.rule("C-50")
    for _ in range(5):
        s = t.socket()
        s.bind(t.local_text, 0)
        port = s.raw.getsockname()[1]
        t.check(port % 2 == 1 and 33000 <= port <= 33100, port)
        c = t.socket()
        c.connect(40000)
        port = c.raw.getsockname()[1]
        t.check(port % 2 == 0, port)
    t.run(10, quietly=True)
