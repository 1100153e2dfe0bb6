"""Many programs at once, and the smallest program that still shows a divergence.

All programs are drawn before the first is run: the same seed draws the same programs. They
are played in worker processes, each with a namespace of its own for each
family; a program mostly sleeps. One whose traces differ is played again: what a busy
machine has made late is not late three times. What remains is shrunk by leaving out steps,
many candidates at a time, then by making the setup plain.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import zip_longest
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.compare import differing, first_difference, listing
from tests.fuzz.listed import listed
from tests.fuzz.program import GAP, Program
from tests.fuzz.program import draw as draw_tcp
from tests.fuzz.run import KernelHost, Result, play_stack
from tests.sockets.parity.trace import Event
from tools.testbed import die_with_parent

WORKERS = int(os.environ.get("USTACK_FUZZ_WORKERS", "24"))
TRIES = 3
LATEST = 8.0  # ms; a run with a later step proves nothing
LISTED_AS = "listed "

_hosts: dict[tuple[Any, ...], KernelHost] = {}  # of a worker


class Outcome(NamedTuple):
    """Of one program. `kind` is "" if the traces agree, else where they part, in short; it
    begins with LISTED_AS if that is known."""

    program: Program
    kind: str
    text: str
    tries: int
    late: bool = False  # no run was in time, so this proves nothing


def draw(count: int, number: int, strategy: st.SearchStrategy[Any] | None = None) -> list[Any]:
    """`count` programs, always the same for one `number`."""
    if strategy is None:
        return draw_tcp(count, number)
    drawn: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(program: Any) -> None:
        drawn.append(program)

    collect()
    return drawn[:count]


def host_for(program: Program) -> KernelHost:
    """The namespace for programs like this one."""
    setup = dict(program.setup)
    key = setup["v6"], setup["mtu"], setup["slow"]
    if key not in _hosts:
        _hosts[key] = KernelHost(*key)
    return _hosts[key]


def check(program: Program) -> Outcome:
    """In a worker: play a program on both sides and compare."""
    ours = play_stack(program)
    host = host_for(program)
    outcome = Outcome(program, "", "", 0)
    late = 0
    while outcome.tries - late < TRIES and late < 3 * TRIES:
        theirs = host.play(program, ours.plan)
        kind, text = judge(program, theirs, ours)
        outcome = Outcome(program, kind, text, outcome.tries + 1)
        if not kind or is_listed(kind):
            break
        late += theirs.lateness > LATEST
    return outcome._replace(late=late == outcome.tries)


def is_listed(kind: str) -> bool:
    return kind.startswith(LISTED_AS)


def judge(program: Program, theirs: Result, ours: Result) -> tuple[str, str]:
    """(in short how they differ, a listing), two empty texts if they agree."""
    kernel, ustack = theirs.trace, ours.trace
    at = first_difference(kernel, ustack)
    if at is None:
        return ("error", kernel.error) if kernel.error else ("", "")
    rule = listed(program, kernel, ustack, at)
    if rule:
        return LISTED_AS + rule, ""
    text = f"{listing(kernel, ustack, at)}\n(latest step: {theirs.lateness:.1f} ms)"
    fields = differing(kernel, ustack, at)
    if fields:
        return "state " + " ".join(sorted(fields)), text
    if ustack.error and at >= len(ustack.events):
        return "error " + ustack.error.strip().splitlines()[-1], text
    pair = [trace.events[at] if at < len(trace.events) else None for trace in (kernel, ustack)]
    return _kind(*pair), text


def _kind(theirs: Event | None, ours: Event | None) -> str:
    """In short how two events differ."""
    if theirs is None or ours is None:
        return "end"
    if theirs.kind != ours.kind:
        return f"{theirs.kind} on the kernel, {ours.kind} on ustack"
    if theirs.kind != "wire":
        return f"{theirs.kind} {ours.text.split('(')[0]}"
    if theirs.text == ours.text:
        return "wire: when"
    words = zip_longest(theirs.text.split(), ours.text.split(), fillvalue="-")
    names = ("flags", "range", "", "ack", "", "win")
    parts = []
    for i, (x, y) in enumerate(words):
        if x != y:
            parts.append(names[i] if i < len(names) else f"{_short(x)}/{_short(y)}")
    return "wire: " + " ".join(parts[:2])


def _short(word: str) -> str:
    """A word without its numbers."""
    return re.sub(r"[0-9a-f]{8}|[0-9]+", "#", word)


class Campaign:
    """A pool of workers. `check` plays a program of any kind that has a setup and steps, and
    `plainer` gives it with less of a setup."""

    def __init__(
        self,
        workers: int = WORKERS,
        check: Callable[[Any], Outcome] = check,
        plainer: Callable[[Any], Iterable[Any]] | None = None,
        preload: str = "tests.fuzz.run",
    ) -> None:
        self._check = check
        self._plainer = plainer or _plainer
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
        self.pool = ProcessPoolExecutor(workers, context, die_with_parent)

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *why: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def run(self, batch: Iterable[Program]) -> list[Outcome]:
        """Play them all; those of which no run was in time once more."""
        outcomes: list[Outcome] = self.once(batch)
        late = [i for i, outcome in enumerate(outcomes) if outcome.late]
        for i, outcome in zip(late, self.once(outcomes[i].program for i in late), strict=True):
            outcomes[i] = outcome
        return outcomes

    def once(self, batch: Iterable[Program]) -> list[Any]:
        """What `check` says of each."""
        futures: list[Future[Any]] = [self.pool.submit(self._check, p) for p in batch]
        return [future.result() for future in futures]

    def shrink(self, found: Outcome) -> Outcome:
        """The smallest program that diverges in the same way."""
        best = found
        size = max(1, len(best.program.steps) // 2)
        while True:
            better = self._first(best, _without(best.program, size))
            if better is not None:
                best = better
                size = min(size, max(1, len(best.program.steps) // 2))
            elif size > 1:
                size //= 2
            else:
                break
        while (better := self._first(best, self._plainer(best.program))) is not None:
            best = better
        return best

    def _first(self, best: Outcome, candidates: Iterable[Any]) -> Outcome | None:
        for outcome in self.run(list(candidates)):
            if outcome.kind == best.kind:
                return outcome
        return None


def _without(program: Program, size: int) -> Iterator[Program]:
    """`program` without `size` consecutive steps, the last ones first."""
    steps = program.steps
    for start in range(len(steps) - size, -1, -size):
        yield program._replace(steps=steps[:start] + steps[start + size :])


_PLAIN = {
    "v6": False, "passive": False, "mss": 1460, "window": 65535, "wscale": None, "sack": False,
    "ts": False, "rtt": GAP, "early": (), "during": (), "blocking": False, "mtu": 1500,
    "slow": False,
}  # fmt: skip


def _plainer(program: Program) -> Iterator[Program]:
    """`program` with one thing of its setup as usual, or one gap."""
    for name, value in program.setup:
        if value != _PLAIN[name]:
            changed = tuple((n, _PLAIN[n] if n == name else v) for n, v in program.setup)
            yield program._replace(setup=changed)
    for i, (gap, op) in enumerate(program.steps):
        if gap not in (GAP, 0):
            steps = (*program.steps[:i], (GAP, op), *program.steps[i + 1 :])
            yield program._replace(steps=steps)
