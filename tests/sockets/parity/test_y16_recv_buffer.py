"""Y16: the receive buffer fills, the window closes, reading opens it again."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SIOCINQ, SOL_SOCKET, SOL_TCP

WINDOW = ("rcv_ssthresh", "rcv_wnd", "rcv_mss")


def locked(size):
    return lambda s: s.set(SOL_SOCKET, socket.SO_RCVBUF, size)


def look(s):
    s.mem("rmem", "rcvbuf", "drops")
    s.ioctl(SIOCINQ)


def fill(t, s, f, size=1460, most=60):
    """Full segments until the window closes."""
    for _ in range(most):
        f.send("PA", data=size)
        seen = t.run(50)
        look(s)
        if seen and not seen[-1].win:
            return


@parity("B-33", "B-61", "B-35", "B-50", cases=[20000, 40000])
def test_fill_to_zero_and_drain(t, case):
    """Window updates while reading come when the window has doubled."""
    s, f = t.connected(prepare=locked(case // 2))
    t.rule("B-61")
    fill(t, s, f)
    s.info(*WINDOW)
    s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
    t.rule("B-35")
    f.send("PA", data=100, seq=f.seq)
    t.run(60)
    f.send("PA", data=1, seq=f.seq)
    t.run(60)
    f.send("A", seq=f.seq - 1)
    t.run(60)
    f.send("A", seq=f.seq - 1)
    t.run(560)
    t.rule("B-50")
    for _ in range(30):
        got = s.recv(1000)
        t.settle()
        look(s)
        if got == "EAGAIN":
            break
    f.send("PA", data=1000)
    t.run(60)
    look(s)


@parity("B-33", "B-34")
def test_charges(t):
    """rmem is the sum of truesizes, released entry by entry."""
    s, f = t.connected()
    t.rule("B-33")
    for size in (1, 100, 190, 191, 200, 600, 700, 1000, 1400, 1460):
        f.send("PA", data=size)
        t.settle()
        look(s)
    for size in (1, 99, 1, 500, 1000, 3000):
        s.recv(size)
        look(s)
    t.run(60)


@parity("B-34", cases=["one-byte", "odd"])
def test_small_segments_are_collapsed(t, case):
    """Hundreds of tiny segments fit into a small buffer."""
    s, f = t.connected(prepare=locked(10000))
    t.rule("B-34")
    for i in range(200):
        f.send("A", data=1 if case == "one-byte" else 1 + i % 7)
        if i % 20 == 19:
            t.run(60)
            look(s)
    s.recv(100000)
    look(s)
    t.run(60)


@parity("B-34", "B-58")
def test_out_of_order_is_dropped_first(t):
    s, f = t.connected(prepare=locked(10000), sack=True)
    t.rule("B-34")
    for i in range(1, 8):
        f.send("A", seq=1 + 2000 * i, data=700)
        t.settle()
        look(s)
    for i in range(8):
        f.send("A", seq=1 + 700 * i, data=700)
        t.run(60)
        look(s)
        s.info(*WINDOW)


@parity("B-63", "B-62", "B-61", cases=["ws", "plain", "ts"])
def test_window_growth(t, case):
    """The offered window over the first segments."""
    s, f = t.connected(
        wscale=None if case == "plain" else 7, ts=case == "ts", window=65535 if case == "plain"
        else 512,
    )  # fmt: skip
    t.rule("B-63")
    for size in (10, 100, 128, 536, 536, 1000, 1448, 1448, 1448, 1448, 1448, 1448):
        f.send("PA", data=size)
        t.run(50)
        s.info(*WINDOW)
        s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
    for _ in range(6):
        f.send("A", data=1448)
        f.send("A", data=1448)
        t.run(50)
        s.info(*WINDOW)
        s.recv(100000)
        s.mem("rcvbuf", "rmem")


@parity("B-30", cases=["edge", "edge-data-queued", "beyond", "fin-at-zero"])
def test_over_the_edge(t, case):
    """A segment that crosses the right edge is taken only into an empty queue."""
    s, f = t.connected(prepare=locked(5000))
    t.rule("B-30")
    win = s.info("rcv_wnd")["rcv_wnd"]
    if case == "edge":
        f.send("PA", seq=1, data=win - 10)
        t.run(60)
        s.recv(100000)
        f.seq = win - 9
        edge = s.info("rcv_wnd")["rcv_wnd"]
        f.send("PA", data=edge + 5)
    elif case == "edge-data-queued":
        f.send("PA", data=100)
        t.run(60)
        f.send("PA", data=1400)
        f.send("PA", data=1400)
        f.send("PA", data=1400)
        t.run(60)
        f.send("PA", data=1400)
    elif case == "beyond":
        f.send("PA", seq=1 + win, data=10)
        t.run(60)
        f.send("PA", seq=1 + win + 100, data=10)
    else:
        fill(t, s, f, 1400, 20)
        f.send("FA")
    t.run(60)
    look(s)
    s.poll()


@parity("B-64", "B-61")
def test_clamp_while_open(t):
    s, f = t.connected()
    t.rule("B-64")
    for value in (0, 1, 1152, 5000, 100000, 3000):
        s.set(SOL_TCP, socket.TCP_WINDOW_CLAMP, value)
        s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
        s.info("rcv_ssthresh")
    f.send("PA", data=500)
    t.run(60)
    f.send("PA", data=1460)
    t.run(60)
    s.info(*WINDOW)


@parity("B-33")
def test_rcvbuf_values(t):
    t.rule("B-33")
    s = t.socket()
    s.get(SOL_SOCKET, socket.SO_RCVBUF)
    for value in (0, 1, 1152, 2304, 10**6, 10**8, -1):
        s.set(SOL_SOCKET, socket.SO_RCVBUF, value)
        s.get(SOL_SOCKET, socket.SO_RCVBUF)
