"""What happened in one run of a scenario, and how two runs are compared.

A trace is a list of events in the order of the script: calls with their normalized
results, segments that the peer injected, and for each interval that the script let pass
the packets that the system under test emitted in it. Since the script is the same, two
traces must have the same events. Times within an interval may differ by max(12 ms, 4 %):
the kernel's timers move in ticks of 4 ms and may be two of them late. What comes late in
a run may also differ by one step of the timer wheel (`stack.Wheel`): 8 ticks for timers
of 63 ticks and more, 64 for those of 504 and more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SLACK_MS, SLACK = 12.0, 0.04
AT_ONCE_MS = 25.0  # what comes sooner waited for no timer of the coarser levels
WHEEL_MS = ((63 * 4, 8 * 4), (504 * 4, 64 * 4))


@dataclass
class Event:
    """One line of a trace. `at` is when, in ms from the start of the run; `since`, in ms
    from the start of the interval, is compared unless it is None."""

    kind: str  # "call", "peer", "wire", "done", "rule", "run"
    text: str
    value: Any = None
    at: float = 0.0
    since: float | None = None

    def same(self, other: Event) -> bool:
        if (self.kind, self.text, self.value) != (other.kind, other.text, other.value):
            return False
        if self.since is None or other.since is None:
            return True
        return abs(self.since - other.since) <= self._slack(max(self.since, other.since))

    def _slack(self, since: float) -> float:
        slack = max(SLACK_MS, SLACK * since)
        if since < AT_ONCE_MS:
            return slack
        return max([slack, *(SLACK_MS + step for least, step in WHEEL_MS if self.at >= least)])

    def __str__(self) -> str:
        sign = {"wire": "<", "peer": ">", "call": " ", "done": "*", "rule": "#", "run": "."}
        result = "" if self.value is None else f" = {self.value}"
        return f"{self.at:8.1f} {sign[self.kind]} {self.text}{result}"


@dataclass
class Trace:
    """One run. `error` is the traceback of a script that failed; `late` by how many ms at
    most the machine did not let it run."""

    backend: str
    events: list[Event] = field(default_factory=list)
    error: str = ""
    late: float = 0.0
    notes: list[tuple[int, str]] = field(default_factory=list)  # (event, rule) of random programs


def first_difference(a: Trace, b: Trace) -> int | None:
    """The index of the first event in which two traces differ; None if they agree."""
    for i, (x, y) in enumerate(zip(a.events, b.events, strict=False)):
        if not x.same(y):
            return i
    if len(a.events) != len(b.events):
        return min(len(a.events), len(b.events))
    return None


def rule_at(trace: Trace, index: int) -> str:
    """The rule that the script was at (`Trial.rule`) when `index` happened."""
    for event in reversed(trace.events[: index + 1]):
        if event.kind == "rule":
            return event.text
    return ""


def listing(a: Trace, b: Trace, around: int, before: int = 25, after: int = 8) -> str:
    """Both traces side by side near the first difference."""
    start = max(0, around - before)
    width = 88
    lines = [f"   {a.backend:<{width}} | {b.backend}"]
    for i in range(start, around + after):
        left = str(a.events[i]) if i < len(a.events) else ""
        right = str(b.events[i]) if i < len(b.events) else ""
        if not left and not right:
            break
        mark = "!! " if i == around else "   "
        lines.append(f"{mark}{left:<{width}} | {right}")
    return "\n".join(lines)
