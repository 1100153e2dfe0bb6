"""Y19: the receive buffer that grows: side effects of SO_RCVLOWAT, prompt and late readers."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_SOCKET, SOL_TCP

WINDOW = ("rcv_ssthresh", "rcv_wnd", "rcv_mss", "rcv_space")


@parity("B-71", cases=[1000, 100000, -1, 300000])
def test_lowat(t, case):
    s, f = t.connected(wscale=7, window=512)
    t.rule("B-71")
    s.set(SOL_SOCKET, socket.SO_RCVLOWAT, case)
    s.get(SOL_SOCKET, socket.SO_RCVLOWAT)
    s.mem("rcvbuf")
    s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
    s.info(*WINDOW)
    for _ in range(4):
        f.send("PA", data=1460)
        t.run(50)
        s.info(*WINDOW)
        s.poll()


def rounds(t, s, f, count, late):
    """Each round doubles what the peer sends in one go; a `late` reader reads afterwards."""
    size = 10
    for _ in range(count):
        for i in range(size):
            f.send("A", data=1460)
            if not late and i % 2:
                s.recv(100000)
        if not late:
            s.recv(100000)
        t.run(60)
        if late:
            s.recv(1000000)
        t.run(30)
        s.mem("rcvbuf")
        s.info(*WINDOW)
        s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
        size = min(size * 2, 40)


@parity("B-70", "B-61", cases=["prompt", "late"])
def test_dynamic_right_sizing(t, case):
    s, f = t.connected(wscale=7, window=512, rtt=30)
    t.rule("B-70")
    rounds(t, s, f, 4, case == "late")


@parity("B-70", cases=["locked", "off"], per_case={"off": {"tcp_moderate_rcvbuf": False}})
def test_no_growth(t, case):
    def prepare(s):
        if case == "locked":
            s.set(SOL_SOCKET, socket.SO_RCVBUF, 131072)

    s, f = t.connected(wscale=7, window=512, rtt=30, prepare=prepare)
    t.rule("B-70")
    rounds(t, s, f, 3, False)
