"""Where ustack is known to differ from the kernel: each entry is one rule and says when.

An entry is a predicate over the program, both traces and the index of the first event in
which they differ, and its docstring the reason. It is as narrow as the rule; what comes after
such a divergence is not compared. `Trace.notes` of our trace says where a rule stood on the
edge (`timeline.Watch.doubts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from tests.fuzz.compare import differing
from tests.fuzz.program import OOB, ZEROCOPY, Program
from tests.sockets.parity.trace import Event, Trace

Predicate: TypeAlias = Callable[[Program, Trace, Trace, int], bool]
_ONE_BYTE = re.compile(r"""b['"](.|\\.|\\x..)['"] flags 0x1""")
_OVERHEAD = 832
_OUT_OF_ORDER = {"rmem", "drops", "rcv_ssthresh", "rcvbuf"}
_SACK = re.compile(r",nop,nop,sack [^,>]*|nop,nop,sack [^,>]*")
_WRITTEN = {"wmem_queued", "outq", "nsd", "notsent_bytes"}
_AT_ONCE = 1.0  # ms
_ROUND_TRIPS = {"rcv_space", "rcvbuf", "rcv_ssthresh", "rcv_wnd"}


def zerocopy(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """A-67: with SO_ZEROCOPY the kernel charges the pages of the program's memory that a send
    touches, as many as its address makes them; ustack keeps the bytes and charges these."""
    before = kernel.events[:at]
    if not any(f", {ZEROCOPY:#x}" in e.text and _took(e) for e in kernel.events[: at + 1]):
        return False
    if not any("setsockopt(1, 60, 01000000)" in e.text for e in before):
        return False
    fields = differing(kernel, ustack, at)
    if fields:
        more, less = fields.get("wmem_queued", (0, 0))
        return more > less and len(fields) == 1
    theirs, ours = kernel.events[at], ustack.events[at]
    return theirs.kind == ours.kind == "call" and _less_room(theirs, ours)


def _took(event: Event) -> bool:
    return isinstance(event.value, int) and event.value > 0


def _less_room(less: Event, more: Event) -> bool:
    """The same poll or send, which found less room on one side than on the other."""
    call = less.text.partition(".")[2].partition("(")[0]
    if call == "poll":
        gone = {"OUT", "WRNORM", "0"}
        return set(less.value.split("|")) - gone == set(more.value.split("|")) - gone
    if call != "send" or not isinstance(more.value, int):
        return False
    return less.value == "EAGAIN" or (isinstance(less.value, int) and less.value < more.value)


def tree(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """B-31: a segment that continues one entry out of order and overlaps another goes where
    the shape of the kernel's search tree leads it; here to the entry that starts later."""
    if not any(rule == "B-31" and index <= at for index, rule in ustack.notes):
        return False
    fields = differing(kernel, ustack, at)
    if fields:
        return fields.keys() <= _OUT_OF_ORDER
    theirs, ours = (_SACK.sub("", trace.events[at].text) for trace in (kernel, ustack))
    return ustack.events[at].kind == "wire" and theirs == ours


def burst(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """A-31: how many segments go in one burst follows from the round trip. The kernel measures
    some ms more or less, and that can be a segment; PSH shows where bursts end, what is charged
    into how many entries they have cut the data."""
    if not _noted("A-31", ustack, at):
        return False
    fields = differing(kernel, ustack, at)
    if fields:
        more, less = fields.get("wmem_queued", (0, 1))
        return len(fields) == 1 and (more - less) % _OVERHEAD == 0
    theirs, ours = kernel.events[at], ustack.events[at]
    if theirs.kind != "wire" or ours.kind != "wire":
        return False
    return theirs.text.split()[0].strip("P") == ours.text.split()[0].strip("P") and (
        theirs.text.split()[1:] == ours.text.split()[1:]
    )


def round_trip(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """B-70: without timestamps the receiver's round trip is the time that a window took. If it
    began with the interval over which reading is measured, both end at once, and whether one
    is shorter is a matter of microseconds."""
    fields = differing(kernel, ustack, at)
    return "rcv_space" in fields and fields.keys() <= _ROUND_TRIPS and _noted("B-70", ustack, at)


def header_byte(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """B-20: behind an announced byte that has not come, a byte of the header is read; one of a
    timestamp is random."""
    if not dict(program.setup)["ts"]:
        return False
    theirs, ours = kernel.events[at], ustack.events[at]
    oob = re.search(r"recv\(\d+, (0x[0-9a-f]+)\)", ours.text)
    return (
        theirs.text == ours.text
        and oob is not None
        and bool(int(oob[1], 16) & OOB)
        and all(_ONE_BYTE.fullmatch(str(event.value)) for event in (theirs, ours))
    )


def pressure(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """A-6: a call pushes before it sleeps for room. If that has made room, the kernel thinks
    that memory was short and sleeps for a random time of up to 208 ms; here the call goes on."""
    begun = sum("send(" in e.text and e.text.endswith("begins") for e in kernel.events[:at])
    done = sum("send(" in e.text and e.kind == "done" for e in kernel.events[:at])
    if begun == done:
        return False
    theirs, ours = kernel.events[at], ustack.events[at]
    if theirs.kind == ours.kind == "call":  # a call that comes between
        return _less_room(ours, theirs)
    fields = differing(kernel, ustack, at)
    if "wmem_queued" not in fields or not fields.keys() <= _WRITTEN:
        return False
    return theirs.value["wmem_queued"] < theirs.value["sndbuf"] <= ours.value["wmem_queued"]


def cloned(program: Program, kernel: Trace, ustack: Trace, at: int) -> bool:
    """D-18: a retransmission takes a small entry behind it along, but not while a device still
    has that one's packet. A TUN has it until it is read, here nothing stays with a device."""
    theirs, ours = kernel.events[at], ustack.events[at]
    if theirs.kind != "wire" or ours.kind != "wire":
        return False
    (start, end), (same, further) = _range(theirs), _range(ours)
    at_once = [e for e in ustack.events[:at] if e.kind == "wire" and ours.at - e.at < _AT_ONCE]
    return start == same and end < further and (end, further) in map(_range, at_once)


def _range(event: Event) -> tuple[int, int]:
    found = re.search(r" (-?\d+):(-?\d+)\(", event.text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _noted(wanted: str, ustack: Trace, at: int) -> bool:
    """Was there a doubt about this rule since the wait before the last?"""
    for index, rule in ustack.notes:
        if rule == wanted and index <= at + 1:
            waits = sum(event.kind == "run" for event in ustack.events[index : at + 1])
            if waits <= 1:
                return True
    return False


LISTED: dict[str, Predicate] = {
    "A-67": zerocopy, "B-31": tree, "A-31": burst, "B-70": round_trip,
    "B-20": header_byte, "A-6": pressure, "D-18": cloned,
}  # fmt: skip


def listed(program: Program, kernel: Trace, ustack: Trace, at: int) -> str:
    """The rule by which the traces part at `at`, "" if it is none of these."""
    if min(len(kernel.events), len(ustack.events)) <= at:
        return ""
    for rule, applies in LISTED.items():
        if applies(program, kernel, ustack, at):
            return rule
    return ""
