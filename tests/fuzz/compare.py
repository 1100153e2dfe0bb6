"""Two traces of one program: where they part, and how to show it.

A packet may come as much later on the kernel as the timers that fired in its interval allow
(`timeline.Watch.slack`). A program with a listed divergence in it (`listed`) agrees
up to there.
"""

from __future__ import annotations

from typing import Any

from tests.fuzz.timeline import LATE
from tests.sockets.parity.trace import Event, Trace

EARLY = 12  # ms
_SIGN = {"wire": "<", "peer": ">", "call": " ", "done": "*", "run": ".", "state": "="}


def same(kernel: Event, ustack: Event) -> bool:
    if (kernel.kind, kernel.text, kernel.value) != (ustack.kind, ustack.text, ustack.value):
        return False
    if kernel.since is None or ustack.since is None:
        return True
    apart = kernel.since - ustack.since
    early, slack = getattr(ustack, "slack", (0, 0))
    return -max(EARLY, early) <= apart <= max(LATE, slack)


def first_difference(kernel: Trace, ustack: Trace) -> int | None:
    """The index of the first event in which they differ."""
    for i, (x, y) in enumerate(zip(kernel.events, ustack.events, strict=False)):
        if not same(x, y):
            return i
    if len(kernel.events) != len(ustack.events) or kernel.error != ustack.error:
        return min(len(kernel.events), len(ustack.events))
    return None


def differing(kernel: Trace, ustack: Trace, at: int) -> dict[str, tuple[Any, Any]]:
    """Of two states, the fields that differ: (kernel's, ours)."""
    x, y = _event(kernel, at), _event(ustack, at)
    if x is None or y is None or x.kind != "state" or y.kind != "state":
        return {}
    return {k: (v, y.value.get(k)) for k, v in x.value.items() if v != y.value.get(k)}


def _event(trace: Trace, at: int) -> Event | None:
    return trace.events[at] if at < len(trace.events) else None


def lines(trace: Trace) -> list[str]:
    """A trace as text; of a state, what has changed since the one before."""
    out = []
    last: dict[str, Any] = {}
    for event in trace.events:
        value = event.value
        if event.kind == "state":
            value = {k: v for k, v in event.value.items() if last.get(k) != v} if last else "..."
            last = event.value
        shown = "" if value is None else f" = {value}"
        if event.kind == "call" and event.since is not None:
            shown = f" = {event.since:g} ms"
        out.append(f"{event.at:8.1f} {_SIGN[event.kind]} {event.text}{shown}")
    return out


def listing(kernel: Trace, ustack: Trace, at: int, before: int = 40) -> str:
    """Both up to where they part: one column while they agree, then one after the other."""
    ours, theirs = lines(ustack), lines(kernel)
    out = [f"    {line}" for line in ours[max(0, at - before) : at]]
    out += [f" K  {line}" for line in theirs[at : at + 4]]
    out += [f" U  {line}" for line in ours[at : at + 4]]
    fields = differing(kernel, ustack, at)
    if fields:
        out.append(f" !! kernel and ustack: {fields}")
    out += [f" K! {kernel.error}"] * bool(kernel.error) + [f" U! {ustack.error}"] * bool(
        ustack.error
    )
    return "\n".join(out)
