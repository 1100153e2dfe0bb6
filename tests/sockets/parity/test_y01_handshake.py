"""Y1: the options of both handshakes, byte by byte."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_SOCKET, SOL_TCP

OFFERS = {
    "all": {"mss": 1460, "wscale": 7, "sack": True, "ts": True},
    "mss": {"mss": 1460},
    "none": {"mss": None},
    "ws": {"wscale": 3},
    "ws15": {"wscale": 15},
    "ts": {"ts": True},
    "sack": {"sack": True},
    "ts-sack": {"ts": True, "sack": True},
}
FACTS = ("options", "wscale", "snd_mss", "advmss", "rcv_mss", "pmtu", "rcv_ssthresh", "snd_cwnd")


@parity("B-60", "C-14", "A-35", "A-41", cases=OFFERS)
def test_active(t, case):
    t.rule("C-14")
    s, f = t.connected(**OFFERS[case])
    t.rule("B-60")
    s.info(*FACTS)
    s.get(SOL_SOCKET, socket.SO_SNDBUF)
    s.get(SOL_SOCKET, socket.SO_RCVBUF)
    s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
    s.send(100)
    t.run()
    f.ack(101)
    f.send("PA", data=10)
    t.run(60)
    s.info(*FACTS)


@parity("B-60", "C-4", "A-35", cases=OFFERS)
def test_passive(t, case):
    t.rule("C-4")
    s, f = t.accepted(**OFFERS[case])
    t.rule("B-60")
    s.info(*FACTS)
    s.get(SOL_SOCKET, socket.SO_SNDBUF)
    s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
    s.send(100)
    t.run()
    f.ack(101)
    f.send("PA", data=10)
    t.run(60)
    s.info(*FACTS)


@parity("B-60", "B-33", "A-41", "B-64", cases=["rcvbuf", "maxseg", "clamp", "big"])
def test_options_before(t, case):
    """What is set before the handshake shows in the SYN and in the SYN-ACK."""

    def prepare(s):
        if case == "rcvbuf":
            s.set(SOL_SOCKET, socket.SO_RCVBUF, 20000)
        elif case == "big":
            s.set(SOL_SOCKET, socket.SO_RCVBUF, 3000000)
        elif case == "maxseg":
            s.set(SOL_TCP, socket.TCP_MAXSEG, 87)
            s.set(SOL_TCP, socket.TCP_MAXSEG, 32768)
            s.set(SOL_TCP, socket.TCP_MAXSEG, 500)
            s.get(SOL_TCP, socket.TCP_MAXSEG)
        else:
            s.set(SOL_TCP, socket.TCP_WINDOW_CLAMP, 5000)
            s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)

    t.rule("B-60")
    s, _ = t.connected(prepare=prepare, wscale=7)
    s.info(*FACTS)
    s.get(SOL_TCP, socket.TCP_MAXSEG)
    s.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)
    p, _ = t.accepted(prepare=prepare, wscale=7)
    p.info(*FACTS)
    p.get(SOL_TCP, socket.TCP_MAXSEG)
    p.get(SOL_TCP, socket.TCP_WINDOW_CLAMP)


_SWITCHES = {
    "ts": {"tcp_timestamps": 0},
    "sack": {"tcp_sack": False},
    "ws": {"tcp_window_scaling": False},
    "bare": {"tcp_timestamps": 0, "tcp_sack": False, "tcp_window_scaling": False},
}


@parity("C-14", "B-60", cases=_SWITCHES, per_case=_SWITCHES)
def test_switched_off(t, case):
    """Options that the sysctls forbid."""
    s, _f = t.connected(mss=1460, wscale=7, sack=True, ts=True)
    s.info(*FACTS)
    p, _ = t.accepted(mss=1460, wscale=7, sack=True, ts=True)
    p.info(*FACTS)
