"""The command as a user runs it, in a network namespace that is gone with the test.

`run` calls it in this process (for a child made by `tests.io.children`), `Up` starts the
daemon as a program of its own.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Self

from ustack.cli import main

ROOT = Path(__file__).parents[2]


def run(*argv: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as exc:
            status = int(exc.code or 0)
    return status, out.getvalue(), err.getvalue()


def is_one_line(text: str) -> bool:
    """What is wrong, a colon, what mends it; no traceback."""
    return re.fullmatch(r"ustack[^\n:]*: [^\n]+: [^\n]+\n", text) is not None


class Up:
    """`ustack up`, running; it is up when the object has been made."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ustack.cli", "up", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        # the last service of the defaults
        self.lines = []
        while not self.lines or "http" not in self.lines[-1]:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self, signum: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        """(exit status, what it has said since it was up, stderr), after a signal."""
        if signum is not None:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err
