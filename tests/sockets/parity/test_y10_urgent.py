"""Y10: urgent data, sent and received."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import MSG_OOB, MSG_PEEK, SHUT_RD, SIOCATMARK, SIOCINQ, SOL_SOCKET


@parity("A-60", cases=["pair", "long", "twice", "after", "window"])
def test_send(t, case):
    s, f = t.connected(window=3000 if case == "window" else 65535)
    t.rule("A-60")
    if case == "pair":
        s.send(b"ab")
        s.send(b"cd", MSG_OOB)
        t.settle()
        s.send(b"ef")
        t.settle()
        f.ack()
        t.settle()
        s.send(b"gh")
    elif case == "long":
        s.send(3000, MSG_OOB)
    elif case == "twice":
        s.send(10, MSG_OOB)
        s.send(10, MSG_OOB)
        t.settle()
        f.ack(11)
    elif case == "after":
        s.send(5000)
        s.send(1, MSG_OOB)
    else:
        s.send(4000)
        s.send(10, MSG_OOB)
    t.settle()
    s.mem("wmem_queued")
    s.queues()
    f.ack()
    t.settle()
    f.ack()
    t.settle()


def look(s):
    s.poll()
    s.ioctl(SIOCINQ)
    s.ioctl(SIOCATMARK)


@parity("B-20", "B-21", "B-22", "B-80")
def test_receive(t):
    s, f = t.connected()
    t.rule("B-20")
    t.check(s.recv(1, MSG_OOB) == "EINVAL")
    f.send("PAU", data=b"abc", urg=3)
    f.send("PA", data=b"de")
    t.run(60)
    look(s)
    t.check(s.recv(100) == "b'ab'")
    look(s)
    t.check(s.recv(1, MSG_OOB | MSG_PEEK).data == b"c")
    t.check(s.recv(1, MSG_OOB).data == b"c")
    t.check(s.recv(1, MSG_OOB) == "EINVAL")
    look(s)
    t.check(s.recv(100) == "b'de'")
    look(s)
    s.recv(100)


@parity("B-20", "B-21", "B-22")
def test_inline(t):
    s, f = t.connected()
    s.set(SOL_SOCKET, socket.SO_OOBINLINE, 1)
    t.rule("B-21")
    f.send("PAU", data=b"abc", urg=3)
    f.send("PA", data=b"de")
    t.run(60)
    look(s)
    t.check(s.recv(1, MSG_OOB) == "EINVAL")
    t.check(s.recv(100) == "b'ab'")
    look(s)
    t.check(s.recv(100) == "b'cde'")
    look(s)


# what the peer sends (data, urgent pointer), what is read between: lengths, "oob", "look"
POINTERS = {
    "skip": [(b"abcdef", 3), 2, 100, "oob"],
    "announced": [(b"", 10), "look", "oob", (b"0123456789", 0), "look", 100, "oob", 100],
    "replaced": [(b"abc", 3), (b"def", 2), "look", 100, "oob", 100],
    "older": [(b"abcdef", 5), (b"ghi", 1), "look", 100, "old", "look", "oob"],
    "first": [(b"xyz", 1), "look", 100, "look", "oob"],
    "eof": [(b"", 5), "fin", "look", "oob", 10],
    "zero": [(b"ab", 2), "oob0", "oob5"],
}


@parity("B-21", "B-20", cases=POINTERS)
def test_pointers(t, case):
    """What the pointer says before, at and after the byte itself."""
    s, f = t.connected()
    t.rule("B-21")
    for step in POINTERS[case]:
        if isinstance(step, int):
            s.recv(step)
        elif isinstance(step, tuple):
            data, urg = step
            f.send("P" * bool(data) + "A" + "U" * bool(urg), data=data, urg=urg)
            t.run(60)
        elif step.startswith("oob"):
            s.recv(int(step[3:] or 1), MSG_OOB)
        elif step == "look":
            look(s)
        else:
            f.send("FA") if step == "fin" else f.send("AU", seq=1, urg=2)
            t.run(60)


@parity("B-20", cases=["fresh", "shut", "blocked"])
def test_states(t, case):
    t.rule("B-20")
    if case == "fresh":
        s = t.socket()
        s.recv(1, MSG_OOB)
        listener = t.listener()
        listener.recv(1, MSG_OOB)
    elif case == "shut":
        s, f = t.connected()
        f.send("AU", urg=5)
        t.run(60)
        s.recv(1, MSG_OOB)
        s.shutdown(SHUT_RD)
        s.recv(1, MSG_OOB)
    else:
        s, f = t.connected()
        call = s.start_recv(100, 0)
        f.send("PAU", data=b"a", urg=1)
        t.run(60)
        t.check(not call.done)
        look(s)
        f.send("PA", data=b"bc")
        t.run(60)
        t.check(call.done)
        s.recv(1, MSG_OOB)
