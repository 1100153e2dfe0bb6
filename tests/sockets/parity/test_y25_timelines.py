"""Y25: what a silent peer sees over time."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import PORT, SHUT_WR, SOL_SOCKET, SOL_TCP

SYNCNT, USER_TIMEOUT, KEEPIDLE, KEEPINTVL, KEEPCNT = 7, 18, 4, 5, 6


@parity("C-13", "C-14", cases=[1, 2])
def test_syn_retries(t, case):
    s = t.socket()
    t.flow()
    t.rule("C-13")
    s.set(SOL_TCP, SYNCNT, case)
    s.connect()
    t.run(3600 if case == 1 else 7600)
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.info("state")


@parity("C-13")
def test_syncnt_values(t):
    t.rule("C-13")
    s = t.socket()
    for value in (0, 1, 127, 128, -1):
        s.set(SOL_TCP, SYNCNT, value)
        s.get(SOL_TCP, SYNCNT)


@parity("A-71", "C-13", cases=[500, 2500])
def test_syn_with_user_timeout(t, case):
    s = t.socket()
    t.flow()
    t.rule("A-71")
    s.set(SOL_TCP, USER_TIMEOUT, -1)
    s.set(SOL_TCP, USER_TIMEOUT, case)
    s.get(SOL_TCP, USER_TIMEOUT)
    s.connect()
    t.run(case + 700)
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)


@parity("C-4", "C-2")
def test_syn_ack_retries(t):
    listener = t.listener()
    flow = t.flow(sport=PORT)
    t.rule("C-4")
    flow.syn()
    t.run(3300)
    flow.ack(1)
    t.run()
    s = listener.accept()
    s.send(10)
    t.run(3300)
    s.info("total_retrans", "snd_cwnd")


@parity("D-5", "D-4", "D-20", cases=["one", "three", "ten", "nosack"])
def test_data(t, case):
    """Loss probe, then retransmissions that back off."""
    s, f = t.connected(sack=case != "nosack")
    t.rule("D-5")
    if case == "three":
        s.set(SOL_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):
            s.send(100)
    else:
        s.send(14600 if case == "ten" else 100)
    t.run(1800)
    s.info("backoff", "retransmits", "ca_state", "snd_cwnd", "lost", "unacked", "total_retrans")
    f.ack()
    t.run()
    s.info("backoff", "retransmits", "ca_state")


@parity("D-9", "A-71", cases=["data", "fin", "window"])
def test_user_timeout(t, case):
    s, f = t.connected(sack=True)
    t.rule("A-71")
    s.set(SOL_TCP, USER_TIMEOUT, 1500)
    if case == "window":
        f.ack(win=0)
    if case == "fin":
        s.shutdown(SHUT_WR)
    else:
        s.send(100)
    t.run(3300)
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.recv(10)
    s.info("state")


@parity("E-38", "D-9")
def test_soft_error(t):
    """An ICMP error meanwhile becomes the errno of the timeout."""
    s, _ = t.connected()
    t.rule("E-38")
    s.set(SOL_TCP, USER_TIMEOUT, 1000)
    s.send(100)
    seen = t.settle()
    t.icmp_error(*((1, 3) if t.v6 else (3, 1)), seen[0])
    t.run(2600)
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)


@parity("A-73", cases=["silent", "answered", "in-flight", "late"])
def test_keepalive(t, case):
    s, f = t.connected()
    t.rule("A-73")
    for name, value in ((KEEPIDLE, 1), (KEEPINTVL, 1), (KEEPCNT, 2)):
        s.set(SOL_TCP, name, value)
    s.set(SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if case == "in-flight":
        s.send(10)
        t.run(1500)
        f.ack()
        t.run(1300)
    elif case == "answered":
        t.run(1200)
        f.ack()
        t.run(1300)
    elif case == "late":
        t.run(600)
        f.send("PA", data=5)
        t.run(1300)
    else:
        t.run(3400)
    s.poll()
    s.recv(10)
    s.recv(10)
    s.info("state")


@parity("A-73")
def test_keepalive_values(t):
    t.rule("A-73")
    s = t.socket()
    for name, values in (
        (KEEPIDLE, (0, 1, 32767, 32768)), (KEEPINTVL, (0, 1, 32767, 32768)),
        (KEEPCNT, (0, 1, 127, 128)),
    ):  # fmt: skip
        s.get(SOL_TCP, name)
        for value in values:
            s.set(SOL_TCP, name, value)
            s.get(SOL_TCP, name)


@parity("D-9", "A-76", tcp_orphan_retries=1)
def test_orphan_gives_up(t):
    s, f = t.connected()
    t.rule("D-9")
    s.send(100)
    s.close()
    t.run(1400)
    f.ack(102)
    t.run()
