"""Both backends' traces of one program, where they part, and in short how."""

from __future__ import annotations

import re
from itertools import zip_longest

from tests.fuzz.campaign import Outcome
from tests.fuzz.compare import differing, first_difference, listing
from tests.fuzz.udp.listed import LISTED
from tests.fuzz.udp.play import Place, UdpKernelSut, play_kernel, play_stack
from tests.fuzz.udp.program import Program
from tests.sockets.parity.trace import Event, Trace

TRIES = 3
LISTED_AS = "listed "

_kernels: list[UdpKernelSut] = []  # of a worker
_places: list[Place] = []


def _kernel() -> UdpKernelSut:
    if not _kernels:
        _kernels.append(UdpKernelSut())
        _kernels[0]._entered.__exit__(None, None, None)
    return _kernels[0]


def _place() -> Place:
    """One that no program of this worker has had."""
    _places.append(Place(len(_places)))
    return _places[-1]


def check(program: Program) -> Outcome:
    """In a worker: play a program on both sides and compare."""
    outcome = Outcome(program, "", "", 0)
    for tries in range(1, TRIES + 1):
        place = _place()
        ours = play_stack(program, place)
        theirs = play_kernel(program, place, _kernel())
        outcome = Outcome(program, *judge(theirs, ours), tries)
        if not outcome.kind or outcome.kind.startswith(LISTED_AS):
            break
    return outcome


def judge(kernel: Trace, ustack: Trace) -> tuple[str, str]:
    """(in short how they differ, a listing), two empty texts if they agree."""
    at = first_difference(kernel, ustack)
    if at is None:
        return ("error", kernel.error) if kernel.error else ("", "")
    for rule, applies in LISTED.items():
        if applies(kernel, ustack, at):
            return LISTED_AS + rule, ""
    text = listing(kernel, ustack, at)
    fields = differing(kernel, ustack, at)
    if fields:
        names = sorted({name.partition(".")[2] for name in fields})
        return f"state {' '.join(names)} after {_step_before(kernel, at)}", text
    if ustack.error and at >= len(ustack.events):
        return "error " + ustack.error.strip().splitlines()[-1], text
    pair = [trace.events[at] if at < len(trace.events) else None for trace in (kernel, ustack)]
    return f"{_kind(*pair)} after {_step_before(kernel, at)}", text


def _step_before(trace: Trace, at: int) -> str:
    for event in reversed(trace.events[:at]):
        if event.kind in ("call", "peer"):
            return _verb(event)
    return "nothing"


def _verb(event: Event) -> str:
    if event.kind == "call":
        return event.text.partition(".")[2].partition("(")[0]
    return " ".join(event.text.split()[: 3 if event.text.startswith("icmp") else 1])


def _kind(theirs: Event | None, ours: Event | None) -> str:
    if theirs is None or ours is None:
        return "end"
    if theirs.kind != ours.kind:
        return f"{theirs.kind} on the kernel, {ours.kind} on ustack"
    what, pair = theirs.kind, (str(theirs.text), str(ours.text))
    if theirs.kind == "call":
        what, pair = _verb(theirs), (str(theirs.value), str(ours.value))
    words = zip_longest(*(text.split() for text in pair), fillvalue="-")
    different = [(x, y) for x, y in words if x != y]
    return f"{what}: {' '.join(_short(x) + '/' + _short(y) for x, y in different[:2])}"


def _short(word: str) -> str:
    """A word without its numbers."""
    return re.sub(r"[0-9a-f]{8,}|[0-9]+", "#", word)
