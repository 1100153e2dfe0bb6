"""The work items of the benchmark, by the names that --only takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """One row of the table.

    `floor` is what must be reached with offload, `floor_plain` without it (None where
    that is not asked for); for memory they are ceilings.
    """

    name: str
    work: str  # what tools.bench.peer calls it
    unit: str
    floor: float | None = None
    floor_plain: float | None = None
    count: int = 1
    routed: bool = False  # through a router that loses packets, never with offload
    less_is_better: bool = False

    def floor_for(self, offload: bool) -> float | None:
        return self.floor if offload else self.floor_plain


MODES = (
    Mode("bulk-in", "bulk-in", "Gbit/s", 10, 0.45),
    Mode("bulk-out", "bulk-out", "Gbit/s", 12, 0.40),
    Mode("pingpong-1", "pingpong", "/s", 8_000),
    Mode("pingpong-50", "pingpong", "/s", 25_000, count=50),
    Mode("connect-1", "connect", "/s", 1_200),
    Mode("connect-50", "connect", "/s", 2_500, count=50),
    Mode("udp-echo-1", "udp-echo", "/s"),
    Mode("udp-echo-32", "udp-echo", "/s", 30_000, count=32),
    Mode("loss-in", "upload", "Mbit/s", floor_plain=250, routed=True),
    Mode("loss-out", "download", "Mbit/s", floor_plain=250, routed=True),
    Mode("idle-1000", "idle", "kB each", 16, count=1000, less_is_better=True),
)
STANDSTILL_CEILING_MS = 250
BULK = ("bulk-in", "bulk-out")


def select(names: str | None) -> list[Mode]:
    """The modes of a comma-separated list of names; all of them for None."""
    if names is None:
        return list(MODES)
    by_name = {mode.name: mode for mode in MODES}
    unknown = [name for name in names.split(",") if name not in by_name]
    if unknown:
        raise ValueError(f"no such mode: {', '.join(unknown)} (there are: {', '.join(by_name)})")
    return [by_name[name] for name in names.split(",")]
