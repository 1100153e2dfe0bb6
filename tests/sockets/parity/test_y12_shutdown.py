"""Y12: shutdown in every state, with the poll mask after each step."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SHUT_RD, SHUT_RDWR, SHUT_WR


@parity("A-74", "B-80", cases=["fresh", "bound", "listen", "syn_sent", "listen-wr"])
def test_not_connected(t, case):
    t.rule("A-74")
    if case.startswith("listen"):
        s = t.listener()
        f = t.flow(sport=7000)
        f.syn()
        t.settle()
        f.ack(1)
        t.settle()
        s.poll()
        s.shutdown(SHUT_WR if case == "listen-wr" else SHUT_RD)
        t.run()
        s.poll()
        s.accept()
        s.shutdown(SHUT_RD)
        s.listen(5)
        s.poll()
        return
    s = t.socket()
    s.poll()
    if case == "bound":
        s.bind("", 7000)
    if case == "syn_sent":
        f = t.flow()
        s.connect()
        t.settle()
        s.poll()
        t.check(s.shutdown(SHUT_WR) is None)
        t.run()
        s.poll()
        s.connect()
        s.poll()
        t.run()
        return
    for how in (-1, 3, SHUT_RD, SHUT_WR, SHUT_RDWR):
        s.shutdown(how)
        s.poll()
    s.recv(1)
    s.send(1)
    s.connect()
    t.run()
    s.poll()


@parity("A-74", "B-80", "B-5", cases=["rd", "wr", "rdwr", "wr-rd", "rd-wr"])
def test_established(t, case):
    s, f = t.connected()
    t.rule("A-74")
    s.poll()
    how = {"rd": [SHUT_RD], "wr": [SHUT_WR], "rdwr": [SHUT_RDWR], "wr-rd": [SHUT_WR, SHUT_RD],
           "rd-wr": [SHUT_RD, SHUT_WR]}[case]  # fmt: skip
    f.send("PA", data=b"abc")
    t.run(60)
    for step in how:
        s.shutdown(step)
        t.run()
        s.poll()
        s.queues()
    s.shutdown(how[0])
    s.recv(2)
    s.recv(10)
    s.recv(10)
    s.send(5)
    t.run()
    f.send("PA", data=b"def")
    t.run(60)
    s.poll()
    s.recv(10)
    s.recv(10)
    f.ack()
    t.run()
    s.poll()
    f.send("FA")
    t.run(60)
    s.poll()
    s.recv(10)
    s.name()
    s.peername()


@parity("B-80", "C-25", "C-30")
def test_masks_to_the_end(t):
    """The mask in each state on the way to TIME_WAIT, and from CLOSE_WAIT."""
    t.rule("B-80")
    s, f = t.connected()
    s.poll()
    f.send("FA")
    t.run(60)
    s.poll()
    s.info("state")
    s.shutdown(SHUT_WR)
    t.run()
    s.poll()
    s.info("state")
    f.ack()
    t.run()
    s.poll()
    s.info("state")
    s.peername()
    s.recv(1)
    a, g = t.connected()
    a.shutdown(SHUT_WR)
    t.run()
    g.ack()
    t.run()
    a.poll()
    a.info("state")
    g.send("FA")
    t.run()
    a.poll()
    a.info("state")
    a.peername()
    a.recv(1)
    a.send(1)


@parity("B-80", "C-25", cases=["fin_wait1", "fin_wait2", "closing", "close_wait", "last_ack"])
def test_reset_in_state(t, case):
    """A RST in each state: the mask, then the error."""
    t.rule("B-80")
    s, f = t.connected()
    if case in ("close_wait", "last_ack"):
        f.send("FA")
        t.run(60)
    if case != "close_wait":
        s.shutdown(SHUT_WR)
        t.run()
    if case == "fin_wait2":
        f.ack()
    elif case == "closing":
        f.send("FA", ack=1)
    t.run()
    s.info("state")
    f.send("R")
    t.run()
    s.poll()
    s.recv(5)
    s.poll()
    s.recv(5)
    s.send(5)
