"""Y23: TIME_WAIT, and FIN_WAIT2 of an orphan: what may arrive, and a new SYN."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import PORT, SOL_SOCKET

INPUTS = {
    "ack": [("A", {})],
    "fin": [("FA", {"seq": 1})] * 2,
    "fin-later": [("FA", {"seq": 1}), 520, ("FA", {"seq": 1})],
    "data": [("PA", {"data": b"x"})],
    "old-data": [("PA", {"seq": 0, "data": b"x"})],
    "beyond": [("A", {"seq": 90000})] * 2,
    "rst": [("R", {}), ("A", {})],
    "rst-inexact": [("R", {"seq": 50}), ("A", {"seq": 50})],
    "syn-old": [("S", {"seq": 0})],
    "syn-new": [("S", {"seq": 5})],
    "syn-ack": [("SA", {"seq": 5})],
    "no-ack": [("P", {"data": b"x"})],
}


def into_time_wait(t, **settings):
    s, f = t.connected(**settings)
    s.close()
    t.settle()
    f.ack(2)
    t.settle()
    f.send("FA", ack=2)
    t.settle()
    return f


def feed(t, f, steps):
    for step in steps:
        if isinstance(step, int):
            t.run(step)
        else:
            f.send(step[0], **{"seq": f.seq, "ack": 2, **step[1]})
            t.run()


@parity("C-30", "C-31", "C-33", cases=INPUTS)
def test_time_wait_input(t, case):
    t.rule("C-31")
    feed(t, into_time_wait(t), INPUTS[case])


@parity("C-31", "C-26", cases=["fin", "ack", "beyond", "old-ts"])
def test_with_timestamps(t, case):
    t.rule("C-31")
    f = into_time_wait(t, ts=True)
    if case == "old-ts":
        feed(t, f, [("A", {"tsval": 500})] * 2)
    else:
        feed(t, f, INPUTS[case])


@parity("C-30", "C-31", "A-76", cases=["fin", "data", "ack", "rst", "fin-data", "old-data"])
def test_orphan_in_fin_wait2(t, case):
    t.rule("C-31")
    s, f = t.connected()
    s.close()
    t.settle()
    f.ack(2)
    t.settle()
    steps = {
        "fin": [("FA", {}), ("FA", {})],
        "data": [("PA", {"data": b"x"}), ("A", {})],
        "ack": [("A", {}), ("FA", {})],
        "rst": [("R", {}), ("A", {})],
        "fin-data": [("FPA", {"data": b"bye"})],
        "old-data": [("PA", {"seq": 0, "data": b"x"}), ("FA", {})],
    }[case]
    feed(t, f, steps)


@parity("C-30", "C-33", "C-3", cases=["newer", "same", "older", "ts-newer", "ts-older"])
def test_syn_with_a_listener(t, case):
    """A pair in TIME_WAIT makes room for a new connection that is clearly newer."""
    t.rule("C-33")
    listener = t.listener()
    s, f = t.accepted(listener, ts=case.startswith("ts"))
    s.close()
    t.settle()
    f.ack(2)
    t.settle()
    f.send("FA", ack=2)
    t.settle()
    seq = {"newer": 10, "same": 2, "older": 0, "ts-newer": 0, "ts-older": 0}[case]
    if case == "ts-older":
        f.clock = 500
    elif case == "ts-newer":
        f.clock += 5000
    f.send("S", seq=seq, options=f.syn_options())
    seen = t.run()
    if seen and "S" in seen[-1].flags:
        f.send("A", seq=seq + 1, ack=1)
        t.run()
        listener.accept()


@parity("C-30")
def test_the_socket_is_closed_at_once(t):
    """An owner in TIME_WAIT sees a closed socket."""
    t.rule("C-30")
    s, f = t.connected()
    s.shutdown(socket.SHUT_WR)
    t.settle()
    f.ack(2)
    t.settle()
    s.info("state")
    f.send("FA", ack=2)
    t.run()
    s.info("state")
    s.poll()
    s.peername()
    s.name()
    s.recv(10)
    s.send(10)
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.queues()
    s.shutdown(socket.SHUT_WR)
    s.close()
    t.run()


@parity("C-30", "C-51", cases=["plain", "reuse", "both"])
def test_binding_beside_time_wait(t, case):
    t.rule("C-51")
    s = t.socket()
    if case != "plain":
        s.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(t.local_text, PORT)
    f = t.flow()
    s.connect()
    t.settle()
    f.syn_ack()
    t.settle()
    s.close()
    t.settle()
    f.ack(2)
    t.settle()
    f.send("FA", ack=2)
    t.settle()
    other = t.socket()
    if case == "both":
        other.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(t.local_text, PORT)
    other.bind("", PORT)
    other.listen(1)


REUSE = {
    "default": {}, "never": {"tcp_tw_reuse": 0}, "always": {"tcp_tw_reuse": 1},
    "soon": {"tcp_tw_reuse": 1, "tcp_tw_reuse_delay": 100},
    "no-ts": {"tcp_tw_reuse": 1, "tcp_tw_reuse_delay": 100},
    "refreshed": {"tcp_tw_reuse": 1, "tcp_tw_reuse_delay": 300},
    "fin-wait2": {"tcp_tw_reuse": 1, "tcp_tw_reuse_delay": 100},
    "became-time-wait": {"tcp_tw_reuse": 1, "tcp_tw_reuse_delay": 300},
    "kept-open": {"tcp_tw_reuse": 1, "tcp_tw_reuse_delay": 300},
    "bound": {"tcp_tw_reuse": 0}, "bound-no-ts": {"tcp_tw_reuse": 0},
    "bound-fin-wait2": {"tcp_tw_reuse": 0},
}  # fmt: skip


def fresh(t, case):
    s = t.socket()
    if "bound" in case:
        s.set(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind("", 7001)
    return s


def enter_for_reuse(t, f, case):
    """A connection from its opening to TIME_WAIT, or to FIN_WAIT2."""
    s = fresh(t, case)
    s.connect()
    t.settle()
    f.syn_ack()
    t.settle()
    s.send(1000)
    t.settle()
    f.ack()
    t.run(400 if case == "kept-open" else 4)
    s.close()
    t.settle()
    f.ack(1002)
    t.settle()
    if "fin-wait2" not in case:
        if case == "became-time-wait":
            t.run(400)
        f.send("FA", ack=1002)
        t.settle()


def isn_step(t, f, before):
    """How far the new connection's first number is from the old one's."""
    t.event("call", "the new ISN", f"+{(f.iss - before) % 2**32}")


@parity("C-34", "C-14", cases=REUSE, per_case=REUSE, ip_local_port_range=(33333, 33333))
def test_connect_to_a_pair_in_time_wait(t, case):
    t.rule("C-34")

    f = t.flow(ts="no-ts" not in case)
    enter_for_reuse(t, f, case)
    before = f.iss
    for wait in (30, 200, 200, 700):
        if case == "refreshed":
            f.send("FA", seq=1, ack=1002)
        t.run(wait)
        s = fresh(t, case)
        went = s.connect()
        t.settle()
        if went == "EINPROGRESS":
            break
        s.close()
    isn_step(t, f, before)
    if f.iss != before:
        f.syn_ack()
        t.settle()
        s.send(10)
        t.settle()
        s.info("state", "options")


@parity("C-34", "C-18", cases=["disconnected", "refused", "elsewhere"])
def test_isn_of_the_next_connection(t, case):
    """A socket that connects again goes on behind its last connection."""
    t.rule("C-18")
    s = t.socket()
    f = t.flow(window=5000)
    s.connect()
    t.settle()
    if case == "refused":
        f.send("RA", seq=0, ack=1)
        t.settle()
        s.connect()
    else:
        f.syn_ack()
        t.settle()
        s.send(100)
        t.settle()
        s.disconnect()
        t.settle()
    g = t.flow(40077, window=5000)
    s.connect(40077)
    t.settle()
    isn_step(t, g, f.iss)


@parity(
    "C-34",
    cases=["default", "never", "always"],
    ip_local_port_range=(33333, 33334),
    per_case={"default": {}, "never": {"tcp_tw_reuse": 0}, "always": {"tcp_tw_reuse": 1}},
)
def test_on_loopback(t, case):
    """Both ends are here: by default only such pairs are taken over."""
    t.rule("C-34")
    host = "::1" if t.v6 else "127.0.0.1"
    listener = t.socket()
    listener.bind(host, PORT)
    listener.listen(8)
    for wait in (30, 1200, 30):
        s = t.socket()
        s.connect(PORT, host)
        t.settle()
        s.poll()
        child = listener.accept()
        s.close()
        t.settle()
        if not isinstance(child, str):
            child.recv(10)
            child.close()
        t.run(wait)
