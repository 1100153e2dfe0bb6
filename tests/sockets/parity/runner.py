"""Runs scenarios side by side: they mostly sleep, so many go at a time.

The selected scenarios are handed to worker processes when the first test asks for its
result, in the order of the tests. A scenario whose traces differ is run again, beside
fewer others. It fails when it has differed three times while the machine was on time
(`lateness`), or each of twelve times: what a busy machine made late is no difference.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest

from tests.sockets.parity.divergences import KNOWN
from tests.sockets.parity.scenario import Job
from tests.sockets.parity.trace import Trace, first_difference, listing, rule_at
from tools.testbed import die_with_parent

BACKENDS = ("kernel", "ustack")
# runs of one scenario at most; of them such in which the machine kept its time
RUNS, TRIES = 12, 3
LATE_MS = 6.0
WORKERS = int(os.environ.get("USTACK_PARITY_WORKERS", "20"))


def _play(job: Job, backend: str) -> Trace:
    return job.run(backend)


class Runner:
    """The traces of every selected scenario."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.jobs = {item.nodeid: _job(item) for item in items if _is_scenario(item)}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.sockets.parity.scenario"])
        self.pool = ProcessPoolExecutor(WORKERS, context, die_with_parent)
        self.again = ProcessPoolExecutor(2, context, die_with_parent)
        self.futures: dict[str, list[Future[Trace]]] = {
            node: [self.pool.submit(_play, job, backend) for backend in BACKENDS]
            for node, job in self.jobs.items()
        }

    def check(self, item: pytest.Item) -> None:
        """Fail unless both traces are there and agree, but for a known divergence."""
        known = KNOWN.get(_scenario_id(item), {})
        futures = self.futures[item.nodeid]
        tries = 0
        for _ in range(RUNS):
            traces = [future.result() for future in futures]
            problem = _compare(*traces)
            tries += all(trace.late < LATE_MS for trace in traces)
            if problem is None or problem.rule in known or tries >= TRIES:
                break
            job = self.jobs[item.nodeid]
            futures = [self.again.submit(_play, job, backend) for backend in BACKENDS]
        if problem is None:
            assert not known, f"no longer diverges: take it out of divergences.py ({known})"
            return
        if problem.rule in known:
            pytest.xfail(f"{problem.rule}: {known[problem.rule]}")
        pytest.fail(problem.text, pytrace=False)

    def close(self) -> None:
        for pool in (self.pool, self.again):
            pool.shutdown(wait=True, cancel_futures=True)


class Problem:
    """A difference, or a script that failed."""

    def __init__(self, rule: str, text: str) -> None:
        self.rule = rule
        self.text = text


def _compare(kernel: Trace, ustack: Trace) -> Problem | None:
    if kernel.error:
        tail = "\n".join(str(event) for event in kernel.events[-30:])
        return Problem("kernel", f"the script failed on the kernel:\n{tail}\n{kernel.error}")
    at = first_difference(kernel, ustack)
    if at is None:
        return Problem("script", ustack.error) if ustack.error else None
    rule = rule_at(kernel, at)
    text = f"the traces differ (rule {rule})\n{listing(kernel, ustack, at)}\n{ustack.error}"
    return Problem(rule, text)


def _is_scenario(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "function", None), "job")


def _job(item: pytest.Item) -> Job:
    made: Any = item
    params = made.callspec.params
    job = made.function.job(params["family"], params.get("case"))
    assert isinstance(job, Job)
    return job


def _scenario_id(item: pytest.Item) -> str:
    """`file::test[parameters]` without the folder, as divergences.py names it."""
    return item.nodeid.rsplit("/", 1)[-1]
