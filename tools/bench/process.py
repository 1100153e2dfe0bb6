"""One process under measurement, read from /proc from outside: asking costs it nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


class Usage:
    """CPU time, memory and wake-ups of a process and all its threads."""

    def __init__(self, pid: int) -> None:
        self.root = Path(f"/proc/{pid}")

    def cpu_seconds(self) -> float:
        """Time on a CPU: by the scheduler's clock, by ticks where that is not compiled in."""
        try:
            return sum(int(text.split()[0]) for text in self._tasks("schedstat")) / 1e9
        except FileNotFoundError:
            fields = (self.root / "stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        return int((self.root / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def wakeups(self) -> int:
        """How often it has gone to sleep, and so been woken."""
        lines = (line for text in self._tasks("status") for line in text.splitlines())
        return sum(int(li.split()[1]) for li in lines if li.startswith("voluntary_ctxt_switches"))

    def _tasks(self, name: str) -> Iterator[str]:
        for task in (self.root / "task").iterdir():
            yield (task / name).read_text()
