"""One seed, many independent random streams.

Each user of randomness asks for a stream by name, so that adding a consumer (a fault,
a second host) does not shift the numbers that another one draws. The core is handed
streams; it never makes them.
"""

from __future__ import annotations

import hashlib
import random


class Seeds:
    """Named sub-streams of one seed. `Seeds(None)` takes the seed from the system."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = random.SystemRandom().getrandbits(64) if seed is None else seed

    def stream(self, name: str) -> random.Random:
        """The stream called `name`; equal seeds and names give equal streams."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return random.Random(int.from_bytes(digest, "big"))
