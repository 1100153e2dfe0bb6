"""Which rules a program reaches: probes in the stack, watched while a program is played.

A probe names a place where a rule decides: a function of the stack and the text of one line
in it, and, where passing there is not yet the decision, an expression over the function's
variables. A rule that is a property of results is a predicate over the trace instead. A rule
counts as reached as often as the rarest of its probes. The table is in `probes`.

The stack is watched by a trace function (`sys.settrace`) that looks at no code but that of
the probes; it sees nothing of a compiled core.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple

from tests.fuzz.program import Program
from tests.fuzz.run import play_stack
from tests.sockets.parity.trace import Trace

LEAST = 20  # of 2,000 programs, each probe


class Probe(NamedTuple):
    """`line` of `where` ("tcp.sendmsg:copy_in") is about to run, and `when` holds there; or
    `seen` is true of a trace."""

    rule: str
    where: str = ""
    line: str = ""
    when: str = ""
    seen: Callable[[Trace], bool] | None = None

    def __str__(self) -> str:
        if self.seen is not None:
            return (self.seen.__doc__ or "").split("\n")[0].rstrip(".")
        condition = f" [{self.when}]" if self.when else ""
        return f"{self.where}: {self.line}{condition}"


def function_of(probe: Probe) -> Any:
    """The function that a probe looks into."""
    module, _, path = probe.where.partition(":")
    found: Any = importlib.import_module("ustack." + module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    return found.fget if isinstance(found, property) else found


def line_numbers(probe: Probe) -> list[int]:
    """Where the probe's line stands in the file: exactly one place, or the probe is wrong.
    A comment after it does not matter."""
    lines, first = inspect.getsourcelines(function_of(probe))
    return [first + i for i, text in enumerate(lines) if text.split("  #")[0].strip() == probe.line]


Places = dict[CodeType, dict[int, list[tuple[Probe, CodeType | None]]]]


@cache
def _places(probes: tuple[Probe, ...]) -> Places:
    """The probes of each line of each function."""
    found: Places = {}
    for probe in probes:
        if probe.seen is None:
            when = compile(probe.when, "<probe>", "eval") if probe.when else None
            lines = found.setdefault(function_of(probe).__code__, {})
            places = line_numbers(probe)
            if len(places) != 1:
                raise ValueError(f"not one line, but {len(places)}: {probe}")
            lines.setdefault(places[0], []).append((probe, when))
    return found


class Recorder:
    """Which probes are reached while the block runs."""

    def __init__(self, probes: tuple[Probe, ...]) -> None:
        self.hits: set[Probe] = set()
        self._before: Any = None
        self._places = _places(probes)

    def __enter__(self) -> Recorder:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *why: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code in self._places else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            for probe, when in self._places[frame.f_code].get(frame.f_lineno, ()):
                if probe not in self.hits and (
                    when is None or eval(when, frame.f_globals, frame.f_locals)
                ):
                    self.hits.add(probe)
        return self._line


def reached(program: Program, probes: tuple[Probe, ...]) -> list[int]:
    """The indices of the probes that `program` reaches in virtual time."""
    with Recorder(probes) as recorder:
        trace = play_stack(program).trace
    return [
        i
        for i, probe in enumerate(probes)
        if (probe.seen(trace) if probe.seen is not None else probe in recorder.hits)
    ]


def _reached_all(programs: list[Program]) -> Counter[int]:
    from tests.fuzz.probes import PROBES

    total: Counter[int] = Counter()
    for program in programs:
        total.update(reached(program, PROBES))
    return total


def count(programs: list[Program], workers: int = 2) -> Counter[int]:
    """How many of `programs` reach each of `probes.PROBES`."""
    total: Counter[int] = Counter()
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, context) as pool:
        for part in pool.map(_reached_all, [programs[i::workers] for i in range(workers)]):
            total.update(part)
    return total


def table(programs: list[Program]) -> list[tuple[int, Probe]]:
    """How many of `programs` reach each probe."""
    from tests.fuzz.probes import PROBES

    counts = count(programs)
    return [(counts[i], probe) for i, probe in enumerate(PROBES)]


def shortfalls(programs: list[Program]) -> list[str]:
    """The probes that too few of `programs` reach."""
    least = LEAST * len(programs) / 2000
    return [f"{n:5} {probe.rule} {probe}" for n, probe in table(programs) if n < least]
