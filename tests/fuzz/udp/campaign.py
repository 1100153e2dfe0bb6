"""The pool and the shrinker of `tests.fuzz.campaign` for UDP programs."""

from __future__ import annotations

import os

from tests.fuzz.campaign import Campaign, draw
from tests.fuzz.udp.check import check
from tests.fuzz.udp.program import Program, plainer, programs

WORKERS = int(os.environ.get("USTACK_FUZZ_UDP_WORKERS", "2"))


def campaign() -> Campaign:
    """Programs keep a processor busy: a few workers."""
    return Campaign(WORKERS, check=check, plainer=plainer, preload="tests.fuzz.udp.check")


def draw_programs(count: int, seed: int) -> list[Program]:
    """Always the same for one `seed`."""
    return draw(count, seed, programs())
