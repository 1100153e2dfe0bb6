"""The pool and the shrinker of `tests.fuzz.campaign` for UDP programs."""

from __future__ import annotations

import os

from tests.fuzz.campaign import Campaign
from tests.fuzz.udp.check import check
from tests.fuzz.udp.program import plainer

WORKERS = int(os.environ.get("USTACK_FUZZ_UDP_WORKERS", "2"))


def campaign() -> Campaign:
    """Programs keep a processor busy: a few workers."""
    return Campaign(WORKERS, check=check, plainer=plainer, preload="tests.fuzz.udp.check")
