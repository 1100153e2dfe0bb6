"""The pool and the shrinker of `tests.fuzz.campaign` for UDP programs."""

from __future__ import annotations

import os

from tests.fuzz.campaign import Campaign, draw
from tests.fuzz.udp.check import check
from tests.fuzz.udp.program import Program, plainer, programs

_PART, _PARTS = 500, 1_000_000
WORKERS = int(os.environ.get("USTACK_FUZZ_UDP_WORKERS", "2"))


def campaign() -> Campaign:
    """Programs keep a processor busy: a few workers."""
    return Campaign(WORKERS, check=check, plainer=plainer, preload="tests.fuzz.udp.check")


def draw_programs(count: int, seed: int) -> list[Program]:
    """Always the same for one `seed`. In parts: Hypothesis remembers what it has drawn."""
    drawn: list[Program] = []
    while len(drawn) < count:
        part = min(_PART, count - len(drawn))
        drawn += draw(part, seed * _PARTS + len(drawn) // _PART, programs())
    return drawn
