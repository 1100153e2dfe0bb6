"""Programs with a theme: what chance alone brings together too rarely.

A theme is a function that gives what it needs of the setup and steps of its own, in order.
Steps of any kind are strewn between them, so that a theme meets everything else now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.program import (
    DONTWAIT,
    EARLY,
    EOR,
    ERRQUEUE,
    GAP,
    ICMP,
    MORE,
    OOB,
    PEEK,
    SOL_IP,
    SOL_SOCKET,
    SOL_TCP,
    TRUNC,
    WAITALL,
    ZEROCOPY,
    Op,
    Program,
    Step,
    call,
    ending,
    get,
    ints,
    linger,
    option,
    peer,
    setup,
    timeval,
    urgent,
)

Theme = tuple[dict[str, Any], list[Step]]
ALL: Op = ("ack", ("all",), None)
WINDOW_CLAMP, QUICKACK, NOTSENT_LOWAT, USER_TIMEOUT = 10, 12, 25, 18


def ack(win: int | None = None, where: tuple[Any, ...] = ("all",)) -> Op:
    return ("ack", where, win)


def tcp(name: int, value: int) -> Op:
    return ("set", SOL_TCP, name, ints(value))


def sock(name: int, value: int) -> Op:
    return ("set", SOL_SOCKET, name, ints(value))


def data(length: int, offset: int = 0, flags: str = "PA", base: str = "top") -> Op:
    return ("data", base, offset, length, flags, "all")


def now(*ops: Op) -> list[Step]:
    return [(0, op) for op in ops]


def later(*ops: Op) -> list[Step]:
    return [(GAP, op) for op in ops]


# -- sending -------------------------------------------------------------------------------


def full_buffer(r: Random) -> Theme:
    """More is written than the buffer takes; ACKs make room bit by bit."""
    size = r.choice((1, 3000, 5000, 10000, 20000))
    steps = now(*[("send", r.choice((100, 1000, 1460, 5000, 30000)), 0)] * r.randint(2, 12))
    steps += now(("bsend", r.choice((1000, 10000, 30000)), r.choice((0, MORE))), ("poll",))
    for _ in range(r.randint(2, 8)):
        steps += later(ack(where=r.choice((("seg", 1), ("seg", 2), ("byte", 700), ("all",)))))
        steps += now(r.choice((("poll",), ("send", 1, 0), ("select",), ("send", 5000, DONTWAIT))))
    fixed = {"early": (sock(7, size),), "window": r.choice((65535, 65535, 20000, 5000))}
    return fixed, steps


def refused_write(r: Random) -> Theme:
    """A writer waits; then nothing can be written any more."""
    steps = now(sock(7, 1), *[("send", 5000, 0)] * 3, ("bsend", 100000, 0))
    steps += later(*[ack(where=("seg", 1))] * r.choice((0, 0, 1, 2)))
    steps += later(r.choice((("shutdown", 1), ("shutdown", 2), ("rst", 0), ("fin",), ("rst", 0))))
    steps += now(("poll",), ("send", 1, 0), ("send", 1, 0), get(r))
    return {}, steps


def low_water(r: Random) -> Theme:
    """TCP_NOTSENT_LOWAT: what is unsent is little."""
    steps = now(tcp(NOTSENT_LOWAT, r.choice((1, 1000, 5000, 20000))))
    size = r.choice((100, 1000, 2000, 5000))
    flags = r.choice((0, 0, EOR))
    steps += now(*[("send", size, flags)] * r.randint(5, 25), ("poll",))
    for _ in range(r.randint(2, 8)):
        steps += later(ack(where=r.choice((("seg", 2), ("all",), ("all",)))))
        steps += now(r.choice((("poll",), ("send", 100, 0))))
    return {"window": r.choice((65535, 20000, 5000))}, steps


def held_back(r: Random) -> Theme:
    """Cork, MSG_MORE, MSG_EOR, Nagle: what is held, and what lets it go."""
    steps: list[Step] = []
    for _ in range(r.randint(2, 4)):
        small, flags = r.choice((1, 10, 100, 500)), r.choice((0, 0, MORE, EOR, MORE | EOR))
        steps += now(r.choice((tcp(3, 1), tcp(3, 1), tcp(1, 0), ("send", 2000, MORE))))
        steps += [(r.choice((0, 0, GAP)), ("send", small, flags)) for _ in range(r.randint(1, 3))]
        steps.append(r.choice((
            (0, tcp(3, 0)), (0, tcp(1, 1)), (GAP, ALL), *[(300, ("poll",))] * 3,
            (0, ("send", 10, 0)),
            (0, ("shutdown", 1)),
        )))  # fmt: skip
    return {"window": 65535}, steps


def corked_tail(r: Random) -> Theme:
    """Cork over an idle connection: the tail goes after 200 ms, or with what comes."""
    steps = now(tcp(3, 1)) if r.random() < 0.5 else []
    steps += now(("send", r.choice((10, 1000, 3000, 5000)), MORE))
    steps += later(ALL)
    steps += [(r.choice((120, 300, 300, 500)), r.choice((("poll",), ("send", 10, MORE))))]
    return {"window": 65535}, [*steps, (r.choice((GAP, 300)), ALL), *now(("send", 10, 0))]


def bulk_send(r: Random) -> Theme:
    """Large writes to a quick reader; the send buffer follows the window."""
    steps: list[Step] = []
    for _ in range(r.randint(4, 9)):
        steps += now(("send", r.choice((30000, 100000)), r.choice((0, 0, MORE))))
        steps += later(r.choice((ALL, ALL, ack(where=("seg", r.randint(1, 8))))))
        if r.random() < 0.3:
            steps += now(ack(where=("seg", 1)))
    return {"window": 65535, "wscale": r.choice((None, 0, 7)), "mss": r.choice((1460, 536))}, steps


def closed_window(r: Random) -> Theme:
    """The window closes, probes go out, it opens a little, or for good."""
    steps = [*now(("send", r.choice((1, 100, 3000)), 0)), *later(ack(0))]
    steps += now(("send", r.choice((10, 1000, 3000, 10000)), r.choice((0, OOB))))
    steps += [(r.choice((240, 300, 700)), r.choice((ack(0), ack(0), ("poll",))))]
    steps += later(data(10), ack(r.choice((1, 100, 536, 1000))))
    steps += [(r.choice((240, 500)), r.choice((ALL, ack(0), ack(100))))]
    steps += later(ack(r.choice((536, 5000, 65535))), ALL)
    return {"wscale": r.choice((None, 0))}, steps


def shrunk_window(r: Random) -> Theme:
    """The peer takes back what it has offered, and then asks for an ACK."""
    steps = now(("send", r.choice((3000, 10000, 30000)), 0))
    asks: list[Op] = [("data", "top", 0, n, "PA", "old") for n in (10, 1000)]
    steps += later(asks[0], ack(r.choice((1, 100, 1460, 2000)), ("seg", 1)))
    steps += later(*[r.choice((*asks, *asks, data(10, 500), ("keep", 1), ("syn",)))] * 3)
    steps += [(r.choice((GAP, 300, 500)), r.choice((("close",), ALL, ("shutdown", 1))))]
    return {"wscale": r.choice((None, None, 0, 2)), "window": 65535}, steps


def losses(r: Random) -> Theme:
    """Duplicate ACKs and SACK blocks; retransmissions, and what they are cut into."""
    steps = now(("send", r.choice((5000, 10000, 30000)), 0))
    for _ in range(r.randint(2, 5)):
        steps += later(
            r.choice((
                ("dups", r.choice((1, 3, 4))), ("sack", r.randint(0, 4), r.randint(1, 3)),
                ack(where=("seg", 1)), ack(where=("byte", 700)), ("icmp", "host", 0),
            ))
        )  # fmt: skip
    steps += [(r.choice((240, 500)), ("poll",)), *later(ALL, ("send", 3000, 0), ALL)]
    return {"sack": r.random() < 0.7, "window": 65535}, steps


def partial_acks(r: Random) -> Theme:
    """ACKs that end inside a segment, of entries of one and of many."""
    steps = now(("send", r.choice((100, 3000, 10000, 30000)), 0))
    for _ in range(r.randint(2, 6)):
        steps += later(ack(where=("byte", r.choice((1, 50, 700, 1461, 4000)))))
    return {"window": 65535}, [*steps, *later(ALL)]


def urgent_send(r: Random) -> Theme:
    steps = now(("send", r.choice((10, 3000)), 0))
    for _ in range(r.randint(1, 3)):
        steps += now(("send", r.choice((1, 2, 3000)), OOB), ("send", r.choice((10, 2000)), 0))
        steps += later(r.choice((ALL, ack(where=("seg", 1)), ack(where=("byte", 1)))))
    return {}, steps


def odd_sends(r: Random) -> Theme:
    """Flags, addresses and control messages that a stream ignores, or refuses."""
    choices: list[Op] = [
        ("send", 10, 0x4), ("send", 10, 0x800), ("send", 10, 0x10 | 0x20 | 0x100),
        ("sendto", 10, 0), ("sendc", 10, "mark"), ("sendc", 10, "bad"), ("sendc", 10, "other"),
        ("send", 10, ERRQUEUE), ("send", 0, 0), ("send", 0, OOB),
    ]  # fmt: skip
    return {}, [(r.choice((0, GAP)), r.choice(choices)) for _ in range(r.randint(3, 8))]


def zerocopy(r: Random) -> Theme:
    """MSG_ZEROCOPY and its notices."""
    steps = now(sock(60, 1)) if r.random() < 0.85 else []
    for _ in range(r.randint(1, 4)):
        steps += now(("send", r.choice((10, 1000, 5000, 10000)), ZEROCOPY), ("poll",))
        steps += later(r.choice((ALL, ack(where=("seg", 1)))), ("poll",))
        steps += now(("recv", 100, ERRQUEUE), ("poll",))
    return {}, steps


def icmp_errors(r: Random) -> Theme:
    """Routers complain: soft errors, who gets them, and smaller paths."""
    steps = now(("set", SOL_IP, 11, ints(1))) if r.random() < 0.3 else []
    kinds = (*ICMP, *("frag 1400", "frag 1000", "frag 600", "frag 500") * 2)
    for _ in range(r.randint(1, 4)):
        steps += now(("send", r.choice((100, 3000, 10000)), 0))
        steps += later(("icmp", r.choice(kinds), r.choice((0, 0, 1, 3))))
        choices = (
            ("get", SOL_SOCKET, 4),
            ("get", SOL_SOCKET, 4),
            ("poll",),
            ALL,
            ("recv", 10, ERRQUEUE),
            ("send", 10, 0),
        )
        steps += [(r.choice((0, GAP, 300)), r.choice(choices)) for _ in range(2)]
    fixed = {"window": 65535, "during": (("icmp", r.choice(kinds), 0),) if r.random() < 0.1 else ()}
    return fixed, steps


# -- opening and ending --------------------------------------------------------------------


def connecting(r: Random) -> Theme:
    """Calls on a socket that is not connected yet, or a listener."""
    calls: list[Op] = [
        *[("poll",)] * 3, *[("recv", 10, 0)] * 2, ("select",), ("send", 10, 0), ("recv", 10, OOB),
        ("recv", 10, ERRQUEUE), ("get", SOL_SOCKET, 4), ("get", SOL_TCP, 2), ("sendto", 1, 0),
        ("bsend", 100, 0), tcp(1, 1), tcp(WINDOW_CLAMP, 0), ("shutdown", 3), ("send", 0, 0),
    ]  # fmt: skip
    early, during = (tuple(r.choice(calls) for _ in range(n)) for n in (r.randint(1, 4), 6))
    early = tuple(op for op in early if op[0] != "bsend")
    return {"early": early, "during": during, "blocking": r.random() < 0.3}, []


def deferred(r: Random) -> Theme:
    """TCP_DEFER_ACCEPT: accept waits for data; other options that a listener hands down."""
    early = (tcp(9, r.choice((1, 5))), option(r, EARLY))
    return {"passive": r.random() < 0.8, "early": early, "blocking": r.random() < 0.3}, []


def keepalive(r: Random) -> Theme:
    """The peer falls silent, or answers."""
    count = r.choice((1, 1, 1, 2))
    steps = now(sock(9, 1), tcp(4, 1), tcp(5, 1), tcp(6, count))
    if r.random() < 0.2:
        steps += now(tcp(USER_TIMEOUT, 1500))
    steps += [(1100, r.choice((("poll",), ("poll",), ALL)))]
    steps += [(1100, ("poll",))] * r.randint(1, count)
    return {"rtt": GAP}, [*steps, *now(("recv", 10, 0), ("send", 1, 0))]


def user_timeout(r: Random) -> Theme:
    """The peer acknowledges nothing for longer than TCP_USER_TIMEOUT."""
    steps = now(tcp(USER_TIMEOUT, r.choice((100, 300, 500, 800))))
    if r.random() < 0.3:
        steps += [*now(("send", 100, 0)), *later(ack(0))]
    steps += now(("send", r.choice((10, 3000)), 0))
    if r.random() < 0.3:
        steps += now(("brecv", 10, 0))
    if r.random() < 0.2:
        steps += later(("icmp", "host", 0))
    steps += [(r.choice((500, 1000)), ("poll",)), (r.choice((500, 1000)), ("poll",))]
    return {"window": 65535}, [*steps, *now(("send", 1, 0), ("recv", 1, 0), ("send", 1, 0))]


def lingering(r: Random) -> Theme:
    """SO_LINGER in all its forms."""
    value = r.choice((linger(1, 0), linger(1, 0), linger(1, 1), linger(1, 1), b"\1\0\0\0"))
    steps = now(("set", SOL_SOCKET, 13, value), ("send", r.choice((0, 10, 10, 3000)), 0))
    if r.random() < 0.3:
        steps += later(r.choice((ALL, data(10), ("poll",))))
    steps += now(("close",))
    steps += [(r.choice((GAP, 300, 1100)), r.choice((ALL, ("fin",), data(10), ("rst", 0))))]
    return {}, [*steps, *later(ALL, ("fin",))]


def impatient(r: Random) -> Theme:
    """TCP_LINGER2 below 0: nobody waits for the peer's FIN."""
    steps = now(tcp(8, -1), ("send", r.choice((0, 10)), 0))
    if r.random() < 0.5:
        steps += [*now(("shutdown", 1)), *later(ALL)]
    steps += [*now(("close",)), *later(ALL, r.choice((data(10), ("fin",), ALL)))]
    return {"early": (), "window": 65535}, steps


def orphan(r: Random) -> Theme:
    """The program is gone, the peer is not."""
    steps = now(tcp(8, r.choice((0, 1)))) if r.random() < 0.4 else []
    steps += now(("send", r.choice((0, 10, 3000)), 0))
    steps += later(ALL) if r.random() < 0.5 else []
    if r.random() < 0.5:
        steps += [*now(("shutdown", 1)), *later(ALL)]
    steps += now(("close",))
    first = r.choice((ALL, ALL, data(10), ("fin",)))
    rest = (ALL, data(10), ("fin",), data(10, 0, "FPA"), ("keep", 1))
    steps += later(first, *[r.choice(rest) for _ in range(r.randint(1, 3))])
    return {}, steps


def closing(r: Random) -> Theme:
    """Both ends at once, half-closed, reset."""
    first: list[Op] = [("fin",), *(("shutdown", how) for how in range(3)), ("send", 100, MORE)]
    steps: list[Step] = []
    for _ in range(r.randint(3, 8)):
        ops = (*first, ALL, data(10), ("recv", 100, 0), ("poll",), ("send", 10, 0), ("select",))
        steps.append((r.choice((0, 0, GAP)), r.choice(ops)))
    steps.append((r.choice((0, GAP)), ending(r)))
    tail = (("poll",), ("recv", 10, 0), ("send", 1, 0), ("shutdown", 1), ALL, ("shutdown", 5),
            ("recv", 0, 0), ("select",))  # fmt: skip
    return {}, steps + [(r.choice((0, GAP)), r.choice(tail)) for _ in range(5)]


def half_closed(r: Random) -> Theme:
    """The peer has sent its FIN, and the program reads it, or does not, and goes."""
    steps = now(("send", r.choice((0, 10, 3000)), 0))
    steps += later(data(10)) if r.random() < 0.3 else []
    steps += later(r.choice((("fin",), ("fin",), data(10, 0, "FPA"))))
    steps += now(("recv", r.choice((0, 1, 100)), 0)) if r.random() < 0.5 else []
    steps += [(r.choice((0, GAP)), r.choice((("close",), ("close",), ("shutdown", 1))))]
    return {}, [*steps, *later(r.choice((ALL, ("fin",), ("rst", 0))), ALL), *now(("close",))]


def after_reset(r: Random) -> Theme:
    """Who gets the error, and what is left of the data."""
    steps = later(data(r.choice((1, 100)))) if r.random() < 0.5 else []
    steps += now(r.choice((("brecv", 100, WAITALL), ("send", 10, 0), ("poll",))))
    steps += later(r.choice((("fin",), ALL)), ("rst", 0))
    tail = (("poll",), ("select",), ("recv", 10, 0), ("send", 1, 0), *[("get", SOL_SOCKET, 4)] * 2,
            ("shutdown", 1), ("recv", 10, OOB), ("recv", 0, 0))  # fmt: skip
    return {}, steps + now(*[r.choice(tail) for _ in range(6)])


# -- receiving -----------------------------------------------------------------------------


def sleeping_reader(r: Random) -> Theme:
    """A blocked read against SO_RCVLOWAT, MSG_WAITALL."""
    steps = now(sock(18, r.choice((1, 10, 100, 2000)))) if r.random() < 0.5 else []
    for _ in range(r.randint(1, 3)):
        flags = r.choice((0, WAITALL, WAITALL, PEEK, PEEK | WAITALL, TRUNC, WAITALL | TRUNC))
        steps += now(("brecv", r.choice((0, 1, 10, 200, 3000)), flags))
        steps += later(*[data(r.choice((1, 60, 100, 1000)))] * r.randint(1, 3))
        if r.random() < 0.5:
            steps += now(("recv", r.choice((1, 30, 1000)), r.choice((0, 0, PEEK))))
        steps += [(r.choice((GAP, GAP, 120)), r.choice((data(10), ("poll",), urgent(r))))]
    return {}, [*steps, *later(r.choice((("fin",), ("rst", 0), ("shutdown", 0), data(3000))))]


def time_is_up(r: Random) -> Theme:
    """SO_RCVTIMEO and SO_SNDTIMEO end what waits."""
    steps = now(*[("set", SOL_SOCKET, which, timeval(r.choice((100, 300)))) for which in (20, 21)])
    steps += now(("brecv", r.choice((100, 3000)), r.choice((0, WAITALL, WAITALL | PEEK))))
    steps += later(data(r.choice((1, 60)))) if r.random() < 0.6 else []
    if r.random() < 0.5:
        steps += now(sock(7, 1), ("bsend", 100000, r.choice((0, MORE))))
    return {}, [*steps, (r.choice((360, 480)), ("poll",)), *later(ALL, data(100))]


def peeking(r: Random) -> Theme:
    """MSG_PEEK, SO_PEEK_OFF, MSG_TRUNC; one reads while another peeks."""
    steps = now(sock(42, r.choice((0, 0, 3, 700)))) if r.random() < 0.7 else []
    if r.random() < 0.4:
        steps += later(data(100))
        steps += now(("brecv", 3000, PEEK | WAITALL), ("recv", r.choice((1, 30)), 0))
    for _ in range(r.randint(2, 5)):
        steps += later(data(r.choice((3, 10, 100, 1000))))
        for _ in range(r.randint(1, 3)):
            flags = r.choice((PEEK, PEEK, PEEK, 0, TRUNC, PEEK | TRUNC))
            steps += now(("recv", r.choice((1, 2, 50, 1000)), flags))
        steps += now(("get", SOL_SOCKET, 42)) if r.random() < 0.3 else []
    return {}, steps


def told_with_data(r: Random) -> Theme:
    """Control messages: TCP_INQ, timestamps."""
    steps = now(r.choice((sock(29, 1), sock(35, 1), tcp(36, 2))), tcp(36, r.choice((0, 1, 1, 1))))
    for _ in range(r.randint(2, 5)):
        steps += later(data(r.choice((10, 1000))))
        flags = r.choice((0, PEEK, TRUNC, OOB))
        steps += now(("recv", r.choice((1, 100, 10000)), flags))
    return {}, [*steps, *later(("fin",)), *now(("recv", 100000, 0), ("recv", 10000, 0))]


def urgent_receive(r: Random) -> Theme:
    """Urgent data: the mark, the byte, in line and beside."""
    steps = now(sock(10, 1)) if r.random() < 0.25 else []
    for _ in range(r.randint(1, 4)):
        length = r.choice((1, 3, 3, 100))
        steps += later(("urg", length, r.choice((1, length, (length + 1) // 2, 50, 200))))
        for _ in range(r.randint(1, 5)):
            steps += now(r.choice((
                ("recv", r.choice((1, 100)), 0), ("recv", 1, OOB), ("recv", 1, OOB | PEEK),
                ("recv", 0, OOB), ("poll",), ("recv", 100, PEEK), ("select",),
            )))  # fmt: skip
        if r.random() < 0.5:
            steps += later(data(r.choice((1, 10, 300))))
    return {}, steps


def out_of_order(r: Random) -> Theme:
    """Holes, overlaps and duplicates, in every combination; in the end the hole is filled."""
    steps: list[Step] = []
    unit = r.choice((10, 100, 1000))
    if r.random() < 0.5:  # more holes than an ACK tells of
        places = r.sample(range(1, 8), r.randint(5, 7))
        steps += [(r.choice((0, GAP)), data(unit, 2 * n * unit, "PA", "edge")) for n in places]
    for _ in range(r.randint(3, 12)):
        place = r.choice((1, 1, 2, 3, 4, 5, 6, 8, 10, 12)) * unit + r.choice((0, 0, 0, unit // 2))
        length = r.choice((1, 1, 2, 3)) * unit // r.choice((1, 1, 2))
        steps.append((r.choice((0, 0, GAP)), data(length, place, "PA", "edge")))
    if r.random() < 0.7:
        steps += later(data(min(1448, r.choice((1, 2, 13)) * unit), 0, "PA", "edge"))
    if r.random() < 0.5:
        steps += now(("recv", 100000, 0))
    return {"sack": r.random() < 0.8}, steps


def duplicates(r: Random) -> Theme:
    """What has been received before, whole and in part."""
    steps = later(data(1000), data(500))
    for _ in range(r.randint(2, 6)):
        steps.append((
            r.choice((0, GAP)),
            r.choice((data(500, -500), data(1000, -500), data(10, -1500), data(1448, -1000),
                      data(500, 1000), data(100, 0), ("recv", 500, 0))),
        ))  # fmt: skip
    return {"sack": r.random() < 0.8}, steps


def overflow(r: Random) -> Theme:
    """More comes than fits, or the buffer shrinks; the reader makes room bit by bit."""
    size = r.choice((1, 3000, 5000, 10000, 20000))
    steps: list[Step] = []
    fixed: dict[str, Any] = {"early": (sock(8, size),), "sack": r.random() < 0.6}
    if r.random() < 0.5:
        fixed["early"] = ()
        steps += later(("blast", r.choice((2, 10)), r.choice((200, 1000))), sock(8, size))
    for _ in range(r.randint(2, 5)):
        length = r.choice((1, 10, 200, 200, 1000, 1448))
        steps += later(("blast", r.choice((5, 10, 20)), length))
        steps += now(data(length)) * r.choice((0, 1))
    steps += later(("keep", r.choice((0, 1))), data(100), data(1000))
    for _ in range(r.randint(2, 8)):
        steps += later(("recv", r.choice((500, 1000, 2000, 5000)), 0))
    if r.random() < 0.2:
        fixed["early"] = (tcp(WINDOW_CLAMP, r.choice((1000, 5000))),)
    return fixed, steps


def slow_reader(r: Random) -> Theme:
    """A buffer of some size is filled to the last, and emptied bit by bit."""
    length = r.choice((300, 600, 1000, 1448))
    steps = later(("blast", 20, length)) * r.randint(1, 3)
    bite = r.choice((300, 500, 1000, 1448))
    for _ in range(r.randint(6, 14)):
        steps += later(("recv", bite, 0))
        steps += now(data(length)) if r.random() < 0.2 else []
    return {"early": (sock(8, r.choice((5000, 10000, 20000))),)}, steps


def pruned(r: Random) -> Theme:
    """Data out of order in a buffer that becomes too small for it."""
    places = range(2, r.randint(4, 10))
    steps = later(*[data(r.choice((100, 200, 1000)), n * 1100, "PA", "edge") for n in places])
    steps += now(sock(8, r.choice((1, 3000, 5000))))
    for _ in range(r.randint(2, 6)):
        steps += later(data(r.choice((10, 100, 1000)), r.choice((0, 0, 1100, 3300)), "PA", "edge"))
        steps += now(("recv", 1000, 0)) if r.random() < 0.4 else []
    return {"sack": r.random() < 0.7, "early": ()}, steps


def bulk_receive(r: Random) -> Theme:
    """A quick reader: the window and the buffer grow."""
    steps: list[Step] = []
    length = r.choice((1448, 1448, 1000, 500))
    for _ in range(r.randint(4, 9)):
        steps += later(("blast", r.choice((5, 10, 15, 20)), length))
        if r.random() < 0.9:
            steps += now(("recv", 100000, 0))
        steps += now(("send", 10, 0)) if r.random() < 0.6 else []
        steps += later(ALL)
    return {"mss": 1460, "ts": r.random() < 0.8}, steps


def acknowledging(r: Random) -> Theme:
    """When data is acknowledged: sizes, gaps, replies, readers, TCP_QUICKACK."""
    steps: list[Step] = []
    if r.random() < 0.6:  # past the quick ACKs of the start
        steps += later(("blast", 20, r.choice((100, 1000))))
        steps += now(("recv", 100000, 0))
    size = r.choice((1, 100, 600, 1000, 1448))
    for _ in range(r.randint(4, 10)):
        gap = r.choice((0, GAP, GAP, 36, 60, 120))
        steps.append((gap, data(r.choice((size, size, 100)), 0, r.choice(("PA", "PA", "A")))))
        if r.random() < 0.5:
            steps += now(r.choice((
                ("recv", 100000, 0), ("recv", 500, 0), ("send", 10, 0),
                tcp(QUICKACK, r.choice((0, 1, 1, 2))), tcp(QUICKACK, 1),
            )))  # fmt: skip
    return {}, steps


def thresholds(r: Random) -> Theme:
    """Buffers and marks that change while data is there."""
    steps: list[Step] = later(("blast", r.choice((2, 5, 10)), r.choice((500, 1448))))
    if r.random() < 0.5:
        steps += now(sock(8, r.choice((3000, 40000))), sock(18, r.choice((100000, -1))))
    for _ in range(r.randint(3, 7)):
        key = r.choice([*((SOL_SOCKET, name) for name in (7, 8, 18)), (SOL_TCP, WINDOW_CLAMP)])
        steps += now(option(r, [key]), r.choice((("poll",), ("recv", 500, 0), get(r))))
        steps += later(("blast", 2, r.choice((500, 1448))))
    return {}, steps


# -- devices -------------------------------------------------------------------------------


def huge_mtu(r: Random) -> Theme:
    """The MTU of a loopback: half a window is a segment."""
    steps = [*now(("send", r.choice((1000, 30000, 60000)), 0)), *later(ALL)]
    return {
        "mtu": 65535,
        "mss": r.choice((65495, 65495, 65495, 30000)),
        "window": 65483,
        "v6": False,
    }, steps


def slow_device(r: Random) -> Theme:
    """Packets wait below the socket: small queues, autocorking."""
    steps: list[Step] = []
    for _ in range(r.randint(1, 3)):
        steps += now(("send", r.choice((1460, 3000, 6000, 9000)), r.choice((0, 0, MORE))))
        small = ("send", r.choice((10, 100, 500)), r.choice((0, 0, 0, EOR)))
        steps += [(r.choice((0, 0, GAP)), small) for _ in range(r.randint(1, 4))]
        steps.append((r.choice((GAP, 60, 120)), r.choice((ALL, ("poll",), data(100), ack(5000)))))
    return {"slow": True, "v6": False, "window": 65535, "rtt": 60}, [*steps, (300, ALL)]


THEMES: tuple[tuple[float, Callable[[Random], Theme]], ...] = (
    (2, full_buffer), (2, refused_write), (1.6, low_water), (3, held_back), (1.2, corked_tail),
    (1.5, bulk_send), (2.4, closed_window), (3, shrunk_window), (1, losses), (0.7, partial_acks),
    (1, urgent_send), (2.4, odd_sends), (2.2, zerocopy), (3.4, icmp_errors), (5.5, connecting),
    (0.7, deferred), (3.3, keepalive), (2, user_timeout), (6.5, lingering), (4.5, impatient),
    (2.5, orphan), (1.5, closing), (1.8, half_closed), (2.6, after_reset),
    (1.5, sleeping_reader), (1.8, time_is_up), (3, peeking), (2.2, told_with_data),
    (3, urgent_receive), (2, out_of_order), (1, duplicates), (2, overflow), (1.7, pruned),
    (1.7, slow_reader), (2.2, bulk_receive), (2.8, acknowledging), (1.5, thresholds),
    (2, huge_mtu), (2.6, slow_device),
)  # fmt: skip


_LAST = (refused_write, user_timeout, keepalive, lingering, impatient, orphan, closing, after_reset)


def themed(r: Random) -> Program:
    """A program with a theme or two, mixed with a little of everything."""
    weights = [weight for weight, _ in THEMES]
    chosen = r.choices([theme for _, theme in THEMES], weights, k=r.choice((1, 2, 2)))
    fixed: dict[str, Any] = {}
    steps: list[Step] = []
    for theme in sorted(chosen, key=_LAST.__contains__):
        asks, own = theme(r)
        early = (*fixed.get("early", ()), *asks.get("early", ()))
        fixed = asks | fixed | ({"early": early} if early else {})
        steps += own
    for _ in range(r.choice((0, 0, 1, 2, 4))):
        extra = r.choice((call, peer))(r)
        steps.insert(r.randint(0, len(steps)), (r.choice((0, GAP)), extra))
    if fixed.get("slow"):
        fixed["mtu"] = 1500  # a packet must fit into the bucket
    return Program(setup(r, **fixed), tuple(steps))
