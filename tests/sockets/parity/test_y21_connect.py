"""Y21: connect in every state, and everything that may answer a SYN."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP

CODES4 = [(3, code) for code in range(17)] + [(11, 0), (11, 1), (12, 0), (4, 0), (5, 0)]
CODES6 = [(1, code) for code in range(8)] + [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]


def dial(t, **settings):
    s = t.socket()
    s.bind("", 7000)
    f = t.flow(**settings)
    s.connect()
    seen = t.settle()
    return s, f, seen[0]


def after_failure(t, s):
    s.poll()
    s.name()
    s.peername()
    s.info("state")
    s.connect()
    s.connect()
    s.poll()
    t.settle()


@parity("C-12", "B-80", "B-82")
def test_success(t):
    t.rule("C-12")
    s, f, _ = dial(t)
    t.check(s.connect() == "EALREADY")
    s.poll()
    s.name()
    s.peername()
    f.syn_ack()
    t.settle()
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)
    t.check(s.connect() is None)
    t.check(s.connect() == "EISCONN")
    s.peername()


@parity("C-12", "C-51")
def test_bad_addresses(t):
    t.rule("C-12")
    hosts4 = ("255.255.255.255", "224.0.0.1", "10.9.0.255", "8.8.8.8", "0.0.0.0", "240.0.0.1")
    hosts6 = ("ff02::1", "2001:db8::1", "::")
    for host in hosts6 if t.v6 else hosts4:
        s = t.socket()
        s.connect(9, host)
        s.poll()
        s.connect(9, host)
    s, _ = t.connected()
    s.connect(40009)
    listener = t.listener()
    listener.connect(40009)


@parity("C-15", "C-12", cases=["ra", "ra-bad", "r", "sa-bad", "a", "ra-data", "f", "sa-rst"])
def test_answers(t, case):
    """Segments in SYN_SENT."""
    t.rule("C-15")
    s, f, _ = dial(t)
    options = f.syn_options()
    answer = {
        "ra": ("RA", {"ack": 1}),
        "ra-bad": ("RA", {"ack": 2}),
        "r": ("R", {}),
        "sa-bad": ("SA", {"ack": 5, "options": options}),
        "a": ("A", {"ack": 1}),
        "ra-data": ("RA", {"ack": 1, "data": b"x"}),
        "f": ("FA", {"ack": 1}),
        "sa-rst": ("SRA", {"ack": 1, "options": options}),
    }[case]
    f.send(answer[0], seq=0, **answer[1])
    t.run()
    after_failure(t, s)


@parity("C-15", "B-80")
def test_syn_ack_with_data(t):
    t.rule("C-15")
    s, f, _ = dial(t)
    f.syn_ack(data=b"early")
    t.run(60)
    s.recv(10)
    f.send("PA", data=b"more", seq=1)
    t.run(60)
    s.recv(10)


@parity("C-15", cases=["quick", "writer", "defer", "nodelay"])
def test_the_third_segment(t, case):
    """The ACK of the SYN-ACK goes at once, or waits for data that is about to be sent."""
    t.rule("C-15")
    s, f, _ = dial(t)
    if case == "writer":
        s.start_send(10)
    elif case == "defer":
        s.set(SOL_TCP, 9, 1)
    elif case == "nodelay":
        s.set(SOL_TCP, 12, 0)
    f.syn_ack()
    t.run(260)
    s.send(5)
    t.run()


@parity("C-16", cases=["syn-ack", "ack", "data"])
def test_simultaneous_open(t, case):
    t.rule("C-16")
    s, f, _ = dial(t, sack=True, wscale=7)
    f.syn()
    t.run()
    s.poll()
    t.check(s.connect() == "EALREADY")
    s.info("state")
    if case == "syn-ack":
        f.syn_ack()
    elif case == "ack":
        f.ack(1, seq=1)
    else:
        f.send("PA", data=b"hi", ack=1)
    t.run(60)
    s.poll()
    s.connect()
    s.info("state", "wscale", "options")
    s.recv(10)
    s.send(10)
    t.run()


@parity("C-17", "E-36", "C-12", v6=False, cases=CODES4, v4=True)
def test_icmp4(t, case):
    """Every ICMP code while connecting, and what is left in the error queue."""
    t.rule("C-17")
    s, _, syn = dial(t)
    t.icmp_error(*case, syn, 1400 if case == (3, 4) else 0)
    t.run()
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.poll()
    s.recv(4, 0x2000)  # the ports; an ISN follows
    s.poll()
    s.connect()
    s.connect()


@parity("C-17", "E-36", "C-12", v4=False, cases=CODES6)
def test_icmp6(t, case):
    t.rule("C-17")
    s, _, syn = dial(t)
    t.icmp_error(*case, syn, 1300 if case == (2, 0) else 0)
    t.run()
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.poll()
    s.recv(4, 0x2000)  # the ports; an ISN follows
    s.poll()
    s.connect()
    s.connect()


@parity("C-17", "E-38", "E-40", cases=["connect", "old-seq", "established", "recverr", "frag"])
def test_icmp_and_the_sequence(t, case):
    """Only an error about something in flight counts; on a connection it is soft."""
    t.rule("E-38")
    s, f, syn = dial(t)
    host = (1, 3) if t.v6 else (3, 1)
    if case == "connect":
        raw = bytearray(syn.raw)
        at = 44 if t.v6 else 24
        raw[at : at + 4] = (int.from_bytes(raw[at : at + 4], "big") + 1).to_bytes(4, "big")
        t.icmp_error(*host, bytes(raw))
        t.run()
        s.poll()
        t.icmp_error(*host, syn)
        t.run()
        s.poll()
        return
    f.syn_ack()
    t.settle()
    if case == "recverr":
        s.set(SOL_IPV6 if t.v6 else SOL_IP, 25 if t.v6 else 11, 1)
    s.send(100)
    data = t.settle()[0]
    if case == "frag":
        t.icmp_error(*((2, 0) if t.v6 else (3, 4)), data, 1300)
    elif case == "old-seq":
        f.ack()
        t.settle()
        t.icmp_error(*host, data)
    else:
        t.icmp_error(*host, data)
    t.run()
    s.poll()
    s.get(SOL_SOCKET, socket.SO_ERROR)
    s.recv(10)
    s.recv(10, 0x2000)
    s.poll()
    s.info("state")


@parity("C-18", cases=["fresh", "syn_sent", "established", "close_wait", "fin_wait1", "fin_wait2",
                       "closing", "last_ack", "listen", "unread", "unsent"])  # fmt: skip
def test_disconnect(t, case):
    t.rule("C-18")
    if case == "fresh":
        s, f = t.socket(), None
    elif case == "listen":
        s, f = t.listener(), None
    elif case == "syn_sent":
        s, f, _ = dial(t)
    else:
        s, f = t.connected(window=2000 if case == "unsent" else 65535)
        into(t, s, f, case)
    s.disconnect()
    t.run()
    s.poll()
    s.name()
    s.peername()
    s.recv(10)
    s.recv(10)
    s.poll()
    s.send(1)
    s.connect(40033)
    t.run()
    s.poll()


def into(t, s, f, state):
    """Bring a connection into `state`."""
    if state in ("close_wait", "last_ack"):
        f.send("FA")
        t.run(60)
    if state in ("fin_wait1", "fin_wait2", "closing", "last_ack"):
        s.shutdown(socket.SHUT_WR)
        t.settle()
    if state == "fin_wait2":
        f.ack(2)
    elif state == "closing":
        f.send("FA", ack=1)
    elif state == "unread":
        f.send("PA", data=b"unread")
    elif state == "unsent":
        s.send(10000)
    t.run()


@parity("C-12", "C-54")
def test_self_connect(t):
    """A socket that connects to its own port."""
    t.rule("C-16")
    s = t.socket()
    s.bind(t.local_text, 7000)
    s.connect(7000, t.local_text)
    t.run()
    s.poll()
    s.connect(7000, t.local_text)
    s.send(b"hello")
    t.run()
    s.recv(10)
    s.peername()


@parity("C-12", cases=["accept", "refuse"])
def test_blocking(t, case):
    t.rule("C-12")
    s = t.socket()
    f = t.flow()
    call = s.start_connect()
    t.run()
    t.check(not call.done)
    f.syn_ack() if case == "accept" else f.send("RA", seq=0, ack=1)
    t.run()
    t.check(call.done)
    s.connect()
    s.poll()


KEPT = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "snd_mss",
    "rcv_mss", "unacked", "sacked", "lost", "retrans", "pmtu", "rcv_ssthresh", "snd_ssthresh",
    "snd_cwnd", "advmss", "reordering", "rcv_space", "total_retrans", "bytes_acked",
    "bytes_received", "segs_out", "segs_in", "notsent_bytes", "data_segs_in", "data_segs_out",
    "delivered", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack",
    "snd_wnd", "rcv_wnd",
)  # fmt: skip


@parity("C-18", cases=["new", "refused", "used", "aborted"])
def test_what_is_kept(t, case):
    """What tcp_info shows of a socket whose connection is over and dissolved."""
    t.rule("C-18")
    s, f, _ = dial(t, mss=1000, wscale=3, ts=True, sack=True)
    s.info(*KEPT)
    if case == "new":
        s.disconnect()
    elif case == "refused":
        f.send("RA", ack=1)
        t.settle()
        s.connect()
    else:
        f.syn_ack()
        t.settle()
        s.send(3000)
        t.settle()
        f.ack(3001)
        f.send("PA", seq=1, data=1000)
        f.send("PA", seq=1001, data=1000)
        f.send("PA", seq=5001, data=500)
        t.settle()
        s.recv(1000)
        if case == "used":
            f.send("FA", seq=2001)
            s.shutdown(1)
        t.settle()
        s.info(*KEPT)
        s.disconnect()
    t.settle()
    s.info(*KEPT)
    s.poll()
