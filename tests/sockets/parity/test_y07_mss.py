"""Y7: the segment size from the peer's MSS, from tiny windows, and the size of an entry."""

from __future__ import annotations

import socket

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SOL_SOCKET, SOL_TCP

PEER_MSS = (None, 1, 40, 88, 100, 536, 1460, 9000)
WINDOWS = (1, 100, 536, 537, 1000, 3000, 65535)


@parity("A-40", cases=["active", "passive"])
def test_peer_mss(t, case):
    t.rule("A-40")
    expected = (536, 48, 48, 88, 100, 536, 1460, 1460)
    listener = t.listener(32) if case == "passive" else None
    for mss, wanted in zip(PEER_MSS, expected, strict=True):
        s, f = t.accepted(listener, mss=mss) if listener else t.connected(mss=mss)
        found = s.get(SOL_TCP, socket.TCP_MAXSEG)
        t.check(t.v6 or found == wanted, (mss, found))
        s.info("snd_mss", "rcv_mss", "advmss")
        s.send(3000)
        t.settle()
        s.queues()
        f.ack()
        t.settle()


@parity("A-40", "A-30")
def test_peer_window(t):
    t.rule("A-40")
    for window in WINDOWS:
        s, f = t.connected(window=window)
        s.get(SOL_TCP, socket.TCP_MAXSEG)
        s.send(4000)
        t.settle()
        s.mem("wmem_queued")
        f.ack(win=65535)
        t.settle()
        s.get(SOL_TCP, socket.TCP_MAXSEG)
        s.mem("wmem_queued")


@parity("A-40", cases=["ts", "sack"])
def test_room_for_options(t, case):
    """Options on every segment make it shorter."""
    t.rule("A-40")
    s, f = t.connected(ts=case == "ts", sack=True)
    s.get(SOL_TCP, socket.TCP_MAXSEG)
    if case == "sack":
        f.send("A", seq=11, data=10)
        t.run()
    s.send(4000)
    t.settle()


@parity("A-41", "A-40", cases=[88, 500, 1460])
def test_user_mss(t, case):
    t.rule("A-41")
    s, _ = t.connected(prepare=lambda s: s.set(SOL_TCP, socket.TCP_MAXSEG, case))
    s.get(SOL_TCP, socket.TCP_MAXSEG)
    s.info("snd_mss", "advmss", "rcv_mss")
    s.send(2000)
    t.settle()
    s.set(SOL_TCP, socket.TCP_MAXSEG, 0)
    s.get(SOL_TCP, socket.TCP_MAXSEG)


@parity("A-30", "A-1", cases=[65535, 20000, 5000])
def test_entry_size(t, case):
    """How long the entries of one large write are (SO_MEMINFO tells their number)."""
    s, _ = t.connected(window=case)
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 300000)
    t.rule("A-30")
    for size in (1, 10000, 32120, 32121, 100000):
        s.send(size)
        s.mem("wmem_queued")
    t.settle()
    s.mem("wmem_queued")


@parity("A-44", mtu=65535, tcp_min_tso_segs=2)
def test_huge_mtu(t):
    """The first window of a device with a 64 KiB MTU, and the mss that follows from it."""
    t.rule("A-44")
    s, _f = t.connected(mss=65495 - 20 * t.v6, window=65483, wscale=10, ts=True, sack=True)
    s.get(SOL_TCP, socket.TCP_MAXSEG)
    s.info("snd_mss", "advmss", "rcv_mss")
    s.set(SOL_SOCKET, socket.SO_SNDBUF, 1000000)
    s.send(300000)
    seen = t.settle()
    t.check(t.v6 or sum(packet.len for packet in seen) == 65482, seen)
