"""What the demo shows: a line for each piece of work while it runs, and a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any, TextIO

HEAD = ("Work", "", "Sent", "Verified", "Time", "Rate", "Retransmitted", "Note")
_CLEAR = "\r\x1b[K"


@dataclass(slots=True)
class Result:
    """One piece of work. `retrans_*` are segments: by the kernel, by the stack."""

    work: str
    family: int
    verified: bool = False
    sent: str = ""
    bytes: int = 0
    seconds: float = 0.0
    retrans_kernel: int = 0
    retrans_ustack: int = 0
    note: str = "not reached"

    @property
    def title(self) -> str:
        return f"{self.work} IPv{self.family}"

    @property
    def rate(self) -> str:
        return rate_text(self.bytes, self.seconds) if self.bytes else "-"

    def columns(self) -> tuple[str, ...]:
        return (
            self.work,
            f"IPv{self.family}",
            self.sent or "-",
            "yes" if self.verified else "NO",
            f"{self.seconds:.2f} s" if self.seconds else "-",
            self.rate,
            f"{self.retrans_kernel} / {self.retrans_ustack}",
            self.note,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Progress:
    """Lines for what happens: rewritten on a terminal, one a piece of work elsewhere."""

    def __init__(self, out: TextIO | None) -> None:
        self._out = out
        self._tty = out is not None and out.isatty()
        self._spinner = cycle("|/-\\")

    def line(self, text: str) -> None:
        if self._out is not None:
            clear = _CLEAR if self._tty else ""
            self._out.write(f"{clear}{text}\n")
            self._out.flush()

    def moving(self, title: str, nbytes: int = 0, seconds: float = 0.0) -> None:
        """What is going on right now; only a terminal sees it."""
        if self._tty and self._out is not None:
            rate = f"  {seconds:.1f} s  {rate_text(nbytes, seconds)}" if nbytes else ""
            self._out.write(f"{_CLEAR}{next(self._spinner)} {title.ljust(16)}{rate}")
            self._out.flush()

    def ended(self, result: Result) -> None:
        verdict = "ok    " if result.verified else "FAILED"
        words = [result.sent, result.rate if result.bytes else "", result.note]
        text = ", ".join(word for word in words if word)
        self.line(f"{verdict} {result.title.ljust(16)} {text}")


def table(results: Sequence[Result]) -> str:
    """The results; retransmissions are the kernel's / ours."""
    head = [*HEAD[:6], "Retrans (kernel / ustack)", HEAD[7]]
    rows = [head, *(result.columns() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def rate_text(nbytes: int, seconds: float) -> str:
    bits = nbytes * 8 / seconds if seconds > 0 else 0.0
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= size:
            return (
                f"{bits / size:.3g} {unit}" if bits < 1000 * size else f"{bits / size:.0f} {unit}"
            )
    return f"{bits / 1e3:.3g} kbit/s"
