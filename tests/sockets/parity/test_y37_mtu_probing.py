"""Y37: a connection that finds the path MTU by trying (RFC 4821)."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_TCP

STATE = ("pmtu", "snd_mss", "snd_cwnd", "snd_ssthresh", "ca_state", "unacked", "lost", "retrans")


def look(t, s):
    s.info(*STATE)
    s.get(SOL_TCP, socket.TCP_MAXSEG)


def grow(t, s, f, rounds=12):
    """Send and acknowledge, one flight at a time, until the window is open."""
    for _ in range(rounds):
        s.send(40000)
        t.settle()
        f.ack()
        t.settle()
        f.ack()
        t.settle()
        look(t, s)


def lose_probe(t, s, f, base):
    """Everything arrives but the longest segment, which then goes again in pieces."""
    s.send(60000)
    for _ in range(20):
        sent = [seen for seen in t.settle() if seen.len]
        long = [seen for seen in sent if seen.len > base]
        if long:
            return long[0], sent
        f.ack()
    return None, []


@parity(
    "A-43",
    cases=["plain", "ts", "small-clamp", "jumbo-clamp"],
    tcp_mtu_probing=2,
    tcp_early_retrans=0,
)
def test_probes_succeed(t, case):
    """From tcp_base_mss up, by halves; each success takes its share of the window."""
    offer = {"small-clamp": 1200, "jumbo-clamp": 8960}.get(case, 1460)
    t.rule("A-43")
    s, f = t.connected(mss=offer, ts=case == "ts", sack=True, wscale=7, window=60000)
    look(t, s)
    grow(t, s, f)


@parity("A-43", tcp_mtu_probing=2, tcp_early_retrans=0)
def test_passive_open(t):
    t.rule("A-43")
    s, f = t.accepted(sack=True, wscale=7, window=60000)
    look(t, s)
    grow(t, s, f)


@parity("A-43", "D-16", cases=["sack", "reno", "rto"], tcp_mtu_probing=2, tcp_early_retrans=0)
def test_a_probe_is_lost(t, case):
    """It alone is lost: no reduction, and the range ends below it."""
    t.rule("A-43")
    s, f = t.connected(sack=case == "sack", wscale=7, window=60000)
    probe, sent = lose_probe(t, s, f, 1036)
    t.check(probe is not None)
    look(t, s)
    after = [seen for seen in sent if seen.seq > probe.seq]
    f.ack(probe.seq)
    more = t.settle()
    after += [seen for seen in more if seen.len and seen.seq > probe.seq]
    if case == "rto":
        t.run(300)
    else:
        reported = after[:4] if case == "reno" else after[3:4]  # at once: no timer decides
        for seen in reported:
            sacks = [(after[0].seq, seen.seq + seen.len)] if case == "sack" else ()
            f.ack(probe.seq, sacks=sacks)
            t.settle()
        t.run(40)
    look(t, s)
    for _ in range(4):
        f.ack()
        t.settle()
    look(t, s)
    grow(t, s, f, 4)


@parity(
    "A-43",
    cases=["small-writes", "eor", "short", "fin", "rwnd"],
    tcp_mtu_probing=2,
    tcp_early_retrans=0,
)
def test_what_a_probe_needs(t, case):
    """Enough data behind it, room in the windows, entries that may be merged."""
    t.rule("A-43")
    s, f = t.connected(sack=True, wscale=7, window=60000)
    grow(t, s, f, 1)
    s.set(SOL_TCP, socket.TCP_CORK, 1)
    if case == "small-writes":
        for _ in range(100):
            s.send(100)
    elif case == "eor":
        for _ in range(20):
            s.send(500, 0x80)
    elif case == "short":
        s.send(4000)
    elif case == "fin":
        s.send(6000)
    else:
        f.ack(win=40)
        t.settle()
        s.send(20000)
    if case == "fin":
        s.shutdown(1)
    s.set(SOL_TCP, socket.TCP_CORK, 0)
    t.settle()
    look(t, s)
    for _ in range(4):
        f.ack()
        t.settle()
        look(t, s)


@parity(
    "A-43",
    cases=[1, 2],
    tcp_retries1=2,
    tcp_early_retrans=0,
    per_case={1: {"tcp_mtu_probing": 1}, 2: {"tcp_mtu_probing": 2}},
)
def test_black_hole(t, case):
    """After tcp_retries1 timeouts the MSS falls, by halves."""
    t.rule("A-43")
    s, f = t.connected(sack=True)
    s.send(3000)
    for wait in (150, 300, 600, 1000, 1900, 3600, 7000):
        t.run(wait, quietly=wait >= 3600)
        look(t, s)
    f.ack()
    t.run(30)
    look(t, s)
    s.send(5000)
    t.settle()


@parity("A-43", tcp_mtu_probing=2, tcp_early_retrans=0, tcp_base_mss=600, tcp_probe_threshold=200)
def test_threshold(t):
    t.rule("A-43")
    s, f = t.connected(sack=True, wscale=7, window=60000)
    look(t, s)
    grow(t, s, f)


@parity("A-43", tcp_mtu_probing=2, tcp_early_retrans=0, tcp_probe_interval=1)
def test_probing_again(t):
    """After the interval the range is opened again."""
    t.rule("A-43")
    s, f = t.connected(sack=True, wscale=7, window=60000)
    grow(t, s, f, 3)
    t.run(1100)
    grow(t, s, f, 3)


@parity("A-43", "A-42", tcp_mtu_probing=2, tcp_early_retrans=0)
def test_too_big(t):
    """What a router says bounds the range."""
    t.rule("A-43")
    s, f = t.connected(sack=True, wscale=7, window=60000)
    probe, _ = lose_probe(t, s, f, 1036)
    t.icmp_error(*((2, 0) if t.v6 else (3, 4)), probe, 1280)
    t.settle()
    look(t, s)
    f.ack()
    t.settle()
    grow(t, s, f, 4)
