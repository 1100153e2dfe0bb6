"""`parity`: a scenario as a test that runs on the kernel and on ustack and compares."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.sockets.parity.shaper import Shaper
from tests.sockets.parity.trace import Trace
from tests.sockets.parity.trial import play

# How many segments one burst may have follows from the pacing rate, and whether it waits for
# the next ACK from when that is due: so from a round-trip time that no two runs share. It
# shows in PSH and in where entries are split. Both are put out of the way.
ALIKE = {"tcp_min_tso_segs": 40, "tcp_tso_win_divisor": 255}


class Job:
    """What a worker needs to know of one scenario, one family, one case."""

    def __init__(
        self,
        module: str,
        function: str,
        v6: bool,
        case: Any,
        settings: dict[str, Any],
        mtu: int,
        shaper: Shaper | None,
    ) -> None:
        self.module, self.function, self.v6, self.case = module, function, v6, case
        self.settings, self.mtu, self.shaper = settings, mtu, shaper

    def run(self, backend: str) -> Trace:
        """In a worker: play it on one backend."""
        body = getattr(importlib.import_module(self.module), self.function).body
        return play(body, backend, self.v6, self.settings, self.case, self.mtu, self.shaper)


def parity(
    *rules: str,
    v6: bool = True,
    v4: bool = True,
    cases: Sequence[Any] = (),
    mtu: int = 1500,
    shaper: Shaper | None = None,
    per_case: dict[Any, dict[str, Any]] | None = None,
    **settings: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a scenario (a function of a `Trial`, and of a case where there are `cases`) a
    test over both families. `settings` are sysctls, `per_case` more of them for a case;
    names with a slash are of the kernel's side alone."""
    per_case = per_case or {}
    families = ["ipv4"] * v4 + ["ipv6"] * v6

    def wrap(body: Callable[..., None]) -> Callable[..., None]:
        def job(family: str, case: Any) -> Job:
            name = body.__name__
            alike = {**ALIKE, **settings, **per_case.get(case, {})}
            return Job(body.__module__, name, family == "ipv6", case, alike, mtu, shaper)

        def test(request: pytest.FixtureRequest, family: str, runner: Any) -> None:
            runner.check(request.node)

        def test_case(request: pytest.FixtureRequest, family: str, case: Any, runner: Any) -> None:
            runner.check(request.node)

        made: Any = test
        if cases:
            made = pytest.mark.parametrize("case", cases, ids=str)(test_case)
        made = pytest.mark.parametrize("family", families)(made)
        made = pytest.mark.kernel(made)
        made.__name__ = body.__name__
        made.__doc__ = body.__doc__
        made.__module__ = body.__module__
        made.body, made.job, made.rules, made.cases = body, job, rules, tuple(cases)
        return made  # type: ignore[no-any-return]

    return wrap
