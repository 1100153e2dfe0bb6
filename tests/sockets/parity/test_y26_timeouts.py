"""Y26: timeouts as a program may set them: thin streams, bounds of the RTO, delayed ACKs."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_TCP

THIN_LTO, THIN_DUPACK, RTO_MAX_MS, RTO_MIN_US, DELACK_MAX_US = 16, 17, 44, 45, 46
TIMERS = ("ca_state", "retransmits", "backoff", "rto", "snd_cwnd", "snd_ssthresh")
BOUNDS = {
    THIN_LTO: (-1, 0, 1, 2, 1 << 30),
    THIN_DUPACK: (-1, 0, 1, 2, 1 << 30),
    RTO_MAX_MS: (-1, 0, 1, 999, 1000, 1001, 1003, 5000, 119999, 120000, 120001, 1 << 30),
    RTO_MIN_US: (-1, 0, 1, 4000, 4001, 8000, 8001, 100000, 199999, 200000, 200001, 1 << 30),
    DELACK_MAX_US: (-1, 0, 1, 4000, 4001, 8000, 8001, 100000, 200000, 200001, 1 << 30),
}


@parity("D-1", "D-10", "G.8", cases=sorted(BOUNDS))
def test_values(t, case):
    s = t.socket()
    t.rule(f"G.8 option {case}")
    s.get(SOL_TCP, case)
    for value in BOUNDS[case]:
        s.set(SOL_TCP, case, value)
        s.get(SOL_TCP, case)
    s.set(SOL_TCP, case, b"\1\0\0")
    for size in (0, 1, 3, 8):
        s.get_bytes(SOL_TCP, case, size)
    t.socket("udp").get(SOL_TCP, case)


@parity("D-1", "D-10", "C-6", tcp_rto_max_ms=50000, tcp_rto_min_us=100000)
def test_defaults_and_inheritance(t):
    """New sockets have what the sysctls say, accepted ones what the listener has."""
    listener = t.listener()
    t.rule("D-1")
    for name in BOUNDS:
        listener.get(SOL_TCP, name)
    for name, value in ((THIN_LTO, 1), (RTO_MAX_MS, 2000), (RTO_MIN_US, 40000)):
        listener.set(SOL_TCP, name, value)
    listener.set(SOL_TCP, DELACK_MAX_US, 60000)
    s, _f = t.accepted(listener, rtt=30)
    for name in BOUNDS:
        s.get(SOL_TCP, name)


@parity(
    "D-10",
    cases=["option", "sysctl", "neither", "four"],
    per_case={"sysctl": {"tcp_thin_linear_timeouts": True}},
)
def test_thin_streams(t, case):
    """Six timeouts without back-off, of a stream with less than four packets out."""
    s, f = t.connected(rtt=30, sack=True)
    t.rule("D-10")
    s.set(SOL_TCP, THIN_LTO, int(case in ("option", "four")))
    s.set(SOL_TCP, socket.TCP_NODELAY, 1)
    for _ in range(4 if case == "four" else 2):
        s.send(100)
    for _ in range(12):
        t.run(250, quietly=True)
    s.info(*TIMERS)
    f.ack()
    t.settle()
    s.send(100)
    t.run(1000)
    s.info(*TIMERS)


@parity("D-10", "D-5")
def test_a_thin_stream_backs_off_in_the_end(t):
    s, _f = t.connected(rtt=30)
    t.rule("D-10")
    s.set(SOL_TCP, THIN_LTO, 1)
    s.send(100)
    t.run(4200)
    s.info(*TIMERS)


@parity(
    "D-1", "D-5", cases=["option", "sysctl", "late"], per_case={"sysctl": {"tcp_rto_max_ms": 1000}}
)
def test_longest_timeout(t, case):
    s, _f = t.connected(rtt=30)
    t.rule("D-1")
    if case == "option":
        s.set(SOL_TCP, RTO_MAX_MS, 1000)
    s.send(3000)
    if case == "late":  # the back-off has gone further already
        t.run(2600)
        s.set(SOL_TCP, RTO_MAX_MS, 1000)
    t.run(4500)
    s.info(*TIMERS)


@parity("D-9", "D-1", tcp_retries2=4)
def test_giving_up_counts_with_the_bounds(t):
    s, _f = t.connected(rtt=30)
    t.rule("D-9")
    s.set(SOL_TCP, RTO_MAX_MS, 1000)
    s.set(SOL_TCP, RTO_MIN_US, 20000)
    s.send(3000)
    t.run(2000)
    s.poll()
    t.run(3000)
    s.poll()
    s.recv()


@parity("A-50", "D-1", cases=["max", "min"])
def test_window_probes(t, case):
    s, f = t.connected(rtt=30, window=1000)
    t.rule("A-50")
    if case == "max":
        s.set(SOL_TCP, RTO_MAX_MS, 1000)
    else:
        s.set(SOL_TCP, RTO_MIN_US, 8000)
    s.send(1000)
    t.settle()
    f.ack(win=0)
    s.send(100)
    t.run(3500)


@parity("C-4", "D-1", cases=["option", "sysctl"], per_case={"sysctl": {"tcp_rto_max_ms": 1000}})
def test_longest_timeout_of_a_listener(t, case):
    listener = t.listener()
    t.rule("C-4")
    if case == "option":
        listener.set(SOL_TCP, RTO_MAX_MS, 1000)
    f = t.flow(sport=7000)
    f.syn()
    t.run(5200)


@parity("C-13", "D-1", tcp_syn_linear_timeouts=1, tcp_rto_max_ms=2000)
def test_longest_timeout_of_a_syn(t):
    s = t.socket()
    t.rule("C-13")
    f = t.flow()
    s.connect(f.port)
    t.run(8500)


@parity(
    "D-1", "D-20", "D-5", cases=["option", "sysctl"], per_case={"sysctl": {"tcp_rto_min_us": 20000}}
)
def test_shortest_timeout(t, case):
    """Of one packet, whose probe waits for a delayed ACK, and of several."""
    s, f = t.connected(
        rtt=30, sack=True, prepare=lambda x: case == "option" and x.set(SOL_TCP, RTO_MIN_US, 20000)
    )
    t.rule("D-1")
    s.send(100)
    t.run(300)
    s.info("backoff", "retransmits", "ca_state")
    f.ack()
    t.run(100)
    s.send(5000)
    t.run(300)
    s.info("backoff", "retransmits", "ca_state")


@parity("B-53", "D-1", cases=["delack", "rto", "both", "sysctl"], per_case={
    "sysctl": {"tcp_rto_min_us": 24000}
})  # fmt: skip
def test_longest_delay_of_an_ack(t, case):
    """The delay that is set, and always less than the shortest RTO."""
    s, f = t.connected(rtt=30)
    t.rule("B-53")
    if case in ("delack", "both"):
        s.set(SOL_TCP, DELACK_MAX_US, 20000)
    if case in ("rto", "both"):
        s.set(SOL_TCP, RTO_MIN_US, 12000)
    s.set(SOL_TCP, socket.TCP_QUICKACK, 0)
    for _ in range(3):
        f.send("PA", data=100)
        t.run(120)
        s.info("ato")
