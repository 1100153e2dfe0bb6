"""Y9: a window that is closed, small, reopened, shrunk: probes and what is believed."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity


@parity("A-50", "D-9")
def test_zero_window_probes(t):
    """Empty segments one below SND.UNA, backing off; then the window opens."""
    s, f = t.connected(window=2000)
    t.rule("A-50")
    s.send(3000)
    t.settle()
    f.ack(2001, win=0)
    t.settle()
    s.queues()
    seen = t.run(1700)
    t.check([p.len for p in seen] == [0] * len(seen) and len(seen) >= 3, seen)
    s.info("probes", "backoff")
    s.send(100)
    f.ack(3001, win=0)
    t.run(700)
    s.info("probes", "backoff")
    f.ack(3001, win=5000)
    t.run()
    s.queues()
    s.info("probes", "backoff")


@parity("A-50")
def test_answered_probes(t):
    """A peer that answers keeps the connection; the interval goes on growing."""
    s, f = t.connected()
    t.rule("A-50")
    f.ack(1, win=0)
    s.send(500)
    for wait in (230, 450, 870):
        t.run(wait)
        f.ack(1, win=0)
        t.settle()
        s.info("probes", "backoff")
    f.ack(1, win=65535)
    t.run()


@parity("A-50", cases=[1, 128, 499])
def test_probe_with_data(t, case):
    """A window that admits part of the entry: the probe carries that part, with PSH."""
    s, f = t.connected()
    t.rule("A-50")
    f.ack(1, win=case)
    s.send(500)
    seen = t.run(260)
    t.check([p.len for p in seen] == [case], seen)
    f.ack(1 + case, win=0)
    t.run(240)
    f.ack(1 + case, win=65535)
    t.run()
    s.queues()


@parity("A-51", "D-13")
def test_window_updates(t):
    """Which segments may change the window."""
    s, f = t.connected(window=3000)
    t.rule("A-51")
    s.send(20000)
    t.settle()
    s.info("snd_wnd")
    for fields in (
        {"ack": 1, "win": 2000},  # smaller, nothing new: ignored
        {"ack": 1, "win": 4000},  # larger: taken
        {"ack": 1, "win": 0},  # zero: taken
        {"ack": 1, "win": 5000, "seq": 0},  # from below the window
        {"ack": 1001, "win": 1500},  # new data acknowledged: taken
        {"ack": 1001, "win": 6000},
    ):
        f.ack(**fields)
        t.settle()
        s.info("snd_wnd", "unacked", "sacked")
    f.send("PA", ack=1001, win=7000, data=10)
    t.settle()
    s.info("snd_wnd")
    f.ack(1001, win=3000, seq=1)
    t.settle()
    s.info("snd_wnd")


@parity("A-34", "A-50", cases=[1459, 1461, 2920, 4000])
def test_sender_avoids_silly_windows(t, case):
    """A segment that does not fit whole is not sent, except by the probe."""
    s, f = t.connected()
    t.rule("A-34")
    s.send(1460)
    t.settle()
    f.ack(1461, win=case)
    s.send(10000)
    t.run()
    s.queues()
    for _ in range(3):
        f.ack(win=case)
        t.run()
    s.queues()
    t.run(250)


@parity("A-52", "A-50", cases=["zero", "small"])
def test_shrunk_window(t, case):
    """The peer takes back what it offered: retransmissions stay inside."""
    s, f = t.connected(window=10000)
    t.rule("A-52")
    s.send(8000)
    t.settle()
    f.ack(1461, win=0 if case == "zero" else 1460)
    t.run(700)
    s.info("snd_wnd", "retransmits", "unacked")
    f.send("PA", ack=1461, win=0, data=5)
    t.run(60)
    s.recv(10)
    f.ack(8001, win=10000)
    t.run()


@parity("A-52", "C-22")
def test_reset_below_a_shrunk_edge(t):
    """A RST goes to the window's end if SND.NXT lies beyond it."""
    s, f = t.connected(window=10000)
    t.rule("A-52")
    s.send(8000)
    f.send("PA", data=5)
    t.run()
    f.ack(1461, win=0)
    t.settle()
    s.set(1, 13, b"\x01\0\0\0\0\0\0\0")
    s.close()
    t.run()
