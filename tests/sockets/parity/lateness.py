"""How late this process is: what a busy machine does to a run, and not the stack."""

from __future__ import annotations

import threading
import time
from typing import Self

STEP_S = 0.01


class Lateness:
    """Measures, while entered, by how much a short sleep is longer at most (`ms`)."""

    def __init__(self) -> None:
        self.ms = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            time.sleep(STEP_S)
            self.ms = max(self.ms, (time.monotonic() - began - STEP_S) * 1000)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
