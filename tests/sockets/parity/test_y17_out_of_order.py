"""Y17: segments out of order, overlapping, repeated; SACK and DSACK; FIN among them."""

from __future__ import annotations

from tests.sockets.parity.scenario import parity
from tests.sockets.parity.trial import SIOCINQ

# (offset from 1, bytes) of each segment; "fin" is a FIN behind the last one
OVERLAPS = {
    "gap-then-fill": [(4, b"CCCC"), (2, b"bbXX"), (0, b"aa")],
    "covered": [(4, b"BBBB"), (0, b"xxxxyyyyZZ")],
    "duplicate": [(0, b"aaaa"), (0, b"aaaa"), (2, b"aa")],
    "old-part": [(0, b"aaaa"), (2, b"xxbb")],
    "three-holes": [(2, b"c"), (6, b"g"), (10, b"k"), (14, b"o"), (18, b"s"), (0, b"ab"),
                    (3, b"def"), (7, b"hij"), (11, b"lmn"), (15, b"pqr")],
    "same-twice": [(5, b"xyz"), (5, b"xyz"), (5, b"xy"), (6, b"yz")],
    "left-overlap": [(5, b"ffff"), (3, b"ddXX"), (0, b"aaa")],
    "right-overlap": [(5, b"ffff"), (7, b"YYhh"), (0, b"aaaaa")],
    "swallow": [(5, b"f"), (8, b"i"), (3, b"ddddddddd"), (0, b"aaa")],
    "adjacent": [(4, b"ee"), (6, b"gg"), (2, b"cc"), (0, b"aa")],
    "reverse": [(8, b"i"), (6, b"gg"), (4, b"ee"), (2, b"cc"), (0, b"aa")],
}  # fmt: skip


@parity("B-30", "B-31", "B-58", cases=OVERLAPS)
def test_overlaps(t, case):
    s, f = t.connected(sack=True)
    t.rule("B-31")
    for offset, data in OVERLAPS[case]:
        f.send("A", seq=1 + offset, data=data)
        t.run(60)
        s.mem("rmem")
        s.ioctl(SIOCINQ)
    s.recv(100)
    s.mem("rmem")
    s.info("rcv_ooopack")


@parity("B-30", "B-31", "B-54", cases=["gap-then-fill", "three-holes", "swallow"])
def test_without_sack(t, case):
    s, f = t.connected()
    t.rule("B-31")
    for offset, data in OVERLAPS[case]:
        f.send("A", seq=1 + offset, data=data)
        t.run(60)
    s.recv(100)


@parity("B-58", "B-30", "A-35", cases=["plain", "ts"])
def test_dsack_then_blocks(t, case):
    """DSACK first, then up to three blocks, the newest first."""
    s, f = t.connected(sack=True, ts=case == "ts")
    t.rule("B-58")
    for offset in (10, 30, 50, 70, 90, 30, 10):
        f.send("A", seq=1 + offset, data=b"0123456789")
        t.run(60)
    f.send("A", seq=1, data=b"0123456789")
    t.run(60)
    f.send("A", seq=1, data=b"0123456789")
    t.run(60)
    s.send(10)
    t.run()
    s.recv(100)


@parity("C-25", "B-30", cases=["behind-hole", "with-data", "twice", "data-beyond", "bare-first"])
def test_fin(t, case):
    """A FIN counts when everything before it is there."""
    s, f = t.connected(sack=True)
    t.rule("C-25")
    if case == "behind-hole":
        f.send("FA", seq=6, data=b"fgh")
        t.run(60)
        s.poll()
        f.send("A", seq=1, data=b"abcde")
    elif case == "with-data":
        f.send("FPA", seq=1, data=b"abc")
    elif case == "twice":
        f.send("FA", seq=1)
        t.run(60)
        f.send("FA", seq=1)
    elif case == "data-beyond":
        f.send("A", seq=10, data=b"beyond")
        f.send("FA", seq=4)
        f.send("A", seq=1, data=b"abc")
    else:
        f.send("FA", seq=4)
        t.run(60)
        f.send("A", seq=1, data=b"abc")
    t.run(60)
    s.poll()
    s.ioctl(SIOCINQ)
    s.recv(100)
    s.recv(100)
    s.info("state")
    s.mem("rmem")


@parity("B-54", "B-52")
def test_every_segment_out_of_order_is_answered(t):
    s, f = t.connected(sack=True)
    t.rule("B-54")
    for i in range(1, 4):
        f.send("A", seq=1 + i * 100, data=100)
    t.run(60)
    f.send("A", seq=1, data=100)
    t.run(60)
    s.recv(1000)
