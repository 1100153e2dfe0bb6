"""Y22: RST, SYN, ACK numbers, old and future segments, PAWS, and their rate limits."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import PORT, SHUT_WR

TABLE = ("S", "A", "FA", "SA", "PA", "P", "R", "RA", "SF", "F", "U")


@parity("C-22", cases=TABLE)
def test_closed_port(t, case):
    t.rule("C-22")
    flow = t.flow(sport=PORT)
    flow.send(case, seq=100, ack=4242, data=b"xyz" if "P" in case else b"")
    t.run()
    flow.send(case, seq=100, ack=4242, bad=0x1234)
    t.run()


RESETS = {
    "exact": {"seq": 1},
    "below": {"seq": 0},
    "inside": {"seq": 100},
    "edge": {"seq": 60000},
    "beyond": {"seq": 70000},
    "old": {"seq": -100},
}


@parity("C-21", "C-20", "C-24", cases=RESETS)
def test_resets(t, case):
    s, f = t.connected()
    t.rule("C-21")
    f.send("R", **RESETS[case])
    t.run()
    s.poll()
    s.mem("drops")
    f.send("R", **RESETS[case])
    t.run()
    s.poll()
    s.recv(1)


@parity("C-21")
def test_reset_at_the_sack_edge(t):
    s, f = t.connected(sack=True)
    t.rule("C-21")
    f.send("A", seq=11, data=10)
    f.send("A", seq=31, data=10)
    t.run(60)
    f.send("R", seq=21)
    t.run()
    s.poll()
    f.send("R", seq=41)
    t.run()
    s.poll()
    s.recv(1)


@parity("C-21", cases=["close_wait", "last_ack", "fin_wait1", "fin_wait2", "closing"])
def test_reset_one_below(t, case):
    s, f = t.connected()
    t.rule("C-21")
    if case in ("close_wait", "last_ack"):
        f.send("FA")
        t.run(60)
    if case != "close_wait":
        s.shutdown(SHUT_WR)
        t.settle()
    if case == "fin_wait2":
        f.ack(2)
    elif case == "closing":
        f.send("FA", ack=1)
    t.run()
    f.send("R", seq=f.seq - 1)
    t.run()
    s.poll()
    s.info("state")
    f.send("R")
    t.run()
    s.poll()


@parity("C-23", "C-24", cases=["in", "old", "beyond", "sa", "data"])
def test_syn_into_a_connection(t, case):
    """A challenge, at most one in 500 ms; the connection goes on."""
    s, f = t.connected()
    t.rule("C-23")
    seq = {"in": 1, "old": -500, "beyond": 100000, "sa": 0, "data": 1}[case]
    flags = "SA" if case == "sa" else "S"
    data = b"x" if case == "data" else b""
    for wait in (30, 30, 520):
        f.send(flags, seq=seq, data=data, options=f.syn_options())
        t.run(wait)
    f.send(flags, seq=seq, options=f.syn_options())
    t.run()
    s.mem("drops")
    f.send("PA", seq=1, data=b"ok")
    t.run(60)
    s.recv(10)


OUTSIDE = {
    "old-ack": [("A", {"seq": 0})] * 3,
    "old-data": [("PA", {"seq": -9, "data": b"0123456789"})] * 3,
    "old-mixed": [("A", {"seq": 0}), ("PA", {"seq": -9, "data": b"0123456789"}),
                  ("A", {"seq": 0})],
    "beyond-ack": [("A", {"seq": 80000})] * 3,
    "beyond-data": [("PA", {"seq": 80000, "data": b"x"})] * 3,
    "beyond-then-challenge": [("A", {"seq": 80000}), ("S", {"seq": 1}), ("R", {"seq": 50})],
    "edge": [("PA", {"seq": 64241, "data": b"x"}), ("A", {"seq": 64241})],
}  # fmt: skip


@parity("C-20", "C-24", cases=OUTSIDE)
def test_outside_the_window(t, case):
    s, f = t.connected(sack=True)
    t.rule("C-20")
    for flags, fields in OUTSIDE[case]:
        f.send(flags, **fields)
        t.run()
    t.run(500)
    flags, fields = OUTSIDE[case][0]
    f.send(flags, **fields)
    t.run()
    s.mem("drops")


@parity("C-20", cases=["none", "P", "F", "U", "bad-sum"])
def test_flags(t, case):
    """A segment without ACK, RST or SYN is dropped; a bad checksum too."""
    s, f = t.connected()
    t.rule("C-20")
    if case == "bad-sum":
        f.send("PA", seq=1, data=b"x", bad=0x1234)
    else:
        f.send("" if case == "none" else case, seq=1, data=b"x")
    t.run(60)
    s.recv(10)
    s.mem("drops")
    s.poll()


@parity("C-27", cases=["future", "old", "ancient", "future-data", "syn_recv"])
def test_ack_field(t, case):
    t.rule("C-27")
    if case == "syn_recv":
        listener = t.listener()
        flow = t.flow(sport=PORT)
        flow.syn()
        t.settle()
        for ack in (0, 2, 100):
            flow.send("A", ack=ack)
            t.run()
        listener.accept()
        return
    s, f = t.connected()
    s.send(3000)
    t.settle()
    f.ack(3001)
    t.run()
    ack = {"future": 5000, "old": 1, "ancient": -100000, "future-data": 5000}[case]
    data = b"x" if case == "future-data" else b""
    f.send("A", seq=1, ack=ack, data=data)
    t.run(60)
    f.send("PA", seq=1, ack=ack, data=b"y")
    t.run(60)
    s.recv(10)
    s.mem("drops")


PAWS = {
    "older": {"tsval": 900},
    "one-older": {"tsval": -1},
    "same": {"tsval": 0},
    "none": {"options": b""},
    "rst": {"tsval": 900, "rst": True},
    "pure-ack": {"tsval": 900, "pure": True},
    "syn": {"tsval": 900, "syn": True},
}


@parity("C-26", "C-24", cases=PAWS)
def test_paws(t, case):
    """Timestamps from before ts_recent."""
    s, f = t.connected(ts=True)
    t.rule("C-26")
    f.send("PA", data=b"first")
    t.run(60)
    fields = dict(PAWS[case])
    last = f.clock - 10
    if fields.get("tsval", 900) <= 0:
        fields["tsval"] += last
    flags = "R" if fields.pop("rst", 0) else "S" if fields.pop("syn", 0) else "PA"
    data = b"" if fields.pop("pure", 0) or flags != "PA" else b"second"
    for _ in range(3):
        f.send("A" if not data and flags == "PA" else flags, seq=f.seq, data=data, **fields)
        t.run()
    t.run(60)
    s.recv(100)
    s.poll()
    s.mem("drops")


@parity("C-26", "A-35")
def test_timestamps_are_echoed(t):
    """ts_recent follows what starts at or before the last ACK sent."""
    s, f = t.connected(ts=True, sack=True)
    t.rule("C-26")
    f.send("A", seq=11, data=10)
    t.run()
    f.send("A", seq=1, data=10)
    t.run()
    f.send("PA", seq=21, data=10)
    t.run(60)
    s.send(5)
    t.run()
