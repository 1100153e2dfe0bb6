"""One process with a fault in the stack (`mutations`): `python -m tests.fuzz.mutant FILE`.

The fault comes pickled on stdin, the recordings are in FILE; the answer goes to stdout. The
module with the fault must not have been imported before, so imports wait for the hook.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.fuzz.mutations import Mutation

if TYPE_CHECKING:
    from tests.fuzz.program import Program
    from tests.sockets.parity.trace import Event, Trace

TRIES = 3


class Recording(NamedTuple):
    """A program, its plan, what the kernel did, and how early or late each event may be."""

    program: Program
    plan: list[int]
    kernel: Trace
    slack: list[tuple[int, int]]


def recording(program: Program) -> Recording | None:
    """In a worker of a campaign: None if the stack as it is does not agree, at once or when
    it plays the plan again."""
    from tests.fuzz.campaign import host_for
    from tests.fuzz.compare import first_difference
    from tests.fuzz.run import play_stack

    ours = play_stack(program)
    for _ in range(TRIES):
        theirs = host_for(program).play(program, ours.plan)
        if first_difference(theirs.trace, ours.trace) is None:
            slack = [getattr(event, "slack", (0, 0)) for event in ours.trace.events]
            made = Recording(program, ours.plan, theirs.trace, slack)
            return None if diverges(made) else made
    return None


def diverges(made: Recording) -> str:
    """How the stack, with this plan, parts from the recording; "" if it does not."""
    from tests.fuzz.campaign import is_listed, judge
    from tests.fuzz.run import Result, play_stack

    ours = play_stack(made.program, made.plan)
    for event, slack in zip(ours.trace.events, made.slack, strict=False):
        _allow(event, slack)
    kind = judge(made.program, Result(made.kernel, made.plan, 0.0), ours)[0]
    return "" if is_listed(kind) else kind


def _allow(event: Event, slack: tuple[int, int]) -> None:
    event.slack = slack  # type: ignore[attr-defined]


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the source with the fault in it."""

    mutation: Mutation

    def get_code(self, fullname: str) -> CodeType:
        source = self.mutation.apply(Path(self.path).read_text())
        return compile(source, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self.mutation = mutation

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.mutation.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = _Loader(name, spec.origin)
        loader.mutation = self.mutation
        spec.loader = loader
        return spec


def main() -> None:
    mutation = Mutation(*pickle.loads(sys.stdin.buffer.read()))
    assert not any(name.startswith("ustack") for name in sys.modules), "too late for a hook"
    sys.meta_path.insert(0, _Finder(mutation))
    recordings: list[Any] = pickle.loads(Path(sys.argv[1]).read_bytes())
    answer = "", "", len(recordings)
    for played, made in enumerate(recordings, 1):
        kind = diverges(made)
        if kind:
            answer = str(made.program), kind, played
            break
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
