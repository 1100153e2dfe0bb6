"""Y11: close in every situation, and what an orphan answers."""

from __future__ import annotations

import socket
import struct

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_MORE, SHUT_RD, SHUT_WR, SOL_SOCKET, SOL_TCP

TCP_LINGER2 = 8


def linger(s, onoff, seconds):
    return s.set(SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", onoff, seconds))


def cork(s, f):
    s.set(SOL_TCP, socket.TCP_CORK, 1)
    s.send(100)


def unread_rest(s, f):
    f.send("PA", data=5)
    s.recv(3)


def abortive(s, f):
    linger(s, 1, 0)
    s.send(100)


def closed_window(s, f):
    f.ack(win=0)
    s.send(100)


def fin_read(s, f):
    f.send("FA")
    s.trial.run(60)
    s.recv(10)


# what came before the close
CASES = {
    "clean": [],
    "unread": [lambda s, f: f.send("PA", data=5)],
    "unread-after-read": [unread_rest],
    "linger0": [abortive],
    "linger0-unread": [abortive, lambda s, f: f.send("PA", data=5)],
    "linger0-shut": [abortive, lambda s, f: s.shutdown(SHUT_WR)],
    "corked": [cork],
    "more": [lambda s, f: s.send(100, MSG_MORE)],
    "nagle-held": [lambda s, f: s.send(10), lambda s, f: s.send(10)],
    "window-blocked": [lambda s, f: s.send(4000)],
    "in-flight": [lambda s, f: s.send(4000)],
    "zero-window": [closed_window],
    "close-wait": [lambda s, f: f.send("FA")],
    "close-wait-unread": [lambda s, f: f.send("FPA", data=5)],
    "close-wait-unsent": [lambda s, f: f.send("FA"), closed_window],
    "fin-read": [fin_read],
    "shut-wr": [lambda s, f: s.send(10), lambda s, f: s.shutdown(SHUT_WR)],
    "shut-rd": [lambda s, f: s.shutdown(SHUT_RD)],
}


@parity("A-70", "A-75", "C-28", cases=CASES)
def test_close(t, case):
    t.rule("A-70")
    s, f = t.connected(window=1460 if case == "window-blocked" else 65535)
    for step in CASES[case]:
        step(s, f)
    t.run()
    s.close()
    t.run()
    for _ in range(4):
        f.ack(win=65535)
        t.run()
    f.send("FA")
    t.run()
    f.ack()
    t.run()


@parity("A-70", "C-22", cases=["fin_wait1", "fin_wait2", "closing", "old", "pure-ack"])
def test_data_for_an_orphan(t, case):
    """Beyond what was received: RST; anything older: an ACK."""
    t.rule("A-76")
    s, f = t.connected()
    s.close()
    t.settle()
    if case in ("fin_wait2", "old", "pure-ack"):
        f.ack(2)
        t.settle()
    elif case == "closing":
        f.send("FA", ack=1)
        t.settle()
    if case == "old":
        f.send("PA", seq=0, data=1)
    elif case == "pure-ack":
        f.ack(2)
    else:
        f.send("PA", data=b"hello", ack=2 if case == "fin_wait2" else 1)
    t.run()
    f.send("FA", ack=2)
    t.run()


@parity("C-29", "A-74", cases=["open", "shut-rd", "close-wait"])
def test_data_after_our_fin(t, case):
    """FIN_WAIT with the receive side open takes data; with it shut it resets."""
    t.rule("C-29")
    s, f = t.connected()
    if case == "shut-rd":
        s.shutdown(SHUT_RD)
    if case == "close-wait":
        f.send("FA")
        t.run(60)
        f.send("PA", data=b"late")
        t.run(60)
        s.recv(10)
        return
    s.shutdown(SHUT_WR)
    t.settle()
    f.send("PA", data=b"one", ack=1)
    t.run(60)
    s.poll()
    s.recv(10)
    f.ack(2)
    t.run()
    f.send("PA", data=b"two")
    t.run(60)
    s.poll()
    s.recv(10)
    s.send(1)
    f.send("FA")
    t.run(60)
    s.recv(10)
    s.poll()


@parity("A-72", cases=[-1, 0, 1])
def test_linger2(t, case):
    """TCP_LINGER2 of -1: the orphan is gone with the ACK of its FIN."""
    t.rule("A-72")
    s, f = t.connected()
    s.set(SOL_TCP, TCP_LINGER2, case)
    s.get(SOL_TCP, TCP_LINGER2)
    s.close()
    t.settle()
    f.ack(2)
    t.run()
    f.send("PA", data=b"x")
    t.run()
    if case == 1:
        t.run(1100)
    f.send("FA")
    t.run()


@parity("A-72")
def test_linger2_values(t):
    t.rule("A-72")
    s = t.socket()
    for value in (5, 120, 121, 100000, -5, 0):
        s.set(SOL_TCP, TCP_LINGER2, value)
        s.get(SOL_TCP, TCP_LINGER2)


@parity("A-70", "A-77", cases=["acked", "timeout"])
def test_lingering_close(t, case):
    """SO_LINGER with a time: close waits for the ACK of the FIN, or for the time."""
    t.rule("A-77")
    s, f = t.connected()
    linger(s, 1, 1)
    s.send(100)
    t.settle()
    call = s.start_close()
    t.run(100)
    t.check(not call.done)
    if case == "acked":
        f.ack(102)
        t.run(60)
        t.check(call.done)
    else:
        t.run(1100)
        t.check(call.done)
