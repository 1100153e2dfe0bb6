"""Does a change cost CPU time? python -m tools.bench.compare BEFORE AFTER [--runs 9]

BEFORE and AFTER are directories that `ustack` is imported from: a checkout, or the
`build/fast` of one. The work is done by the benchmark that stands beside this file, so
nothing but the stack differs. Runs alternate and change places, so that a slow minute of the
machine meets both. A run's figure is CPU time over work done; what is printed of each pair of
runs is after/before - 1, its median, and an interval that holds the true median with 95 %
or more whatever the distribution: the sorted values at the ranks that the binomial
distribution gives (nine pairs: the second and the eighth, 96 %).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Bounds of the median of what `values` are drawn from. Fewer than six values are
    too few for 95 %: then the lowest and the highest."""
    n = len(values)
    ordered = sorted(values)
    below = 0.0  # chance that fewer than `rank` values lie below the median
    rank = 0
    while rank < n // 2 and below + math.comb(n, rank) / 2**n <= (1 - level) / 2:
        below += math.comb(n, rank) / 2**n
        rank += 1
    first = max(rank - 1, 0)
    return ordered[first], ordered[n - 1 - first]


def measure(where: Path, args: argparse.Namespace) -> dict[str, float]:
    """Work -> its cost, of one run with the `ustack` in `where`."""
    environ = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"{where}:{ROOT}"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "run.json")
        subprocess.run(
            [sys.executable, "-m", "tools.bench", "--sides", "ustack", "--runs", "1",
             "--only", args.only, "--seconds", str(args.seconds), "--json", str(out)],
            env=environ, check=True, stdout=subprocess.DEVNULL, cwd=scratch,
        )  # fmt: skip
        results = json.loads(out.read_text())["results"]
    found = {}
    for result in results:
        work = f"{result['mode']} {result['side']}"
        if "cpu_s_per_gib" in result:
            found[work + ", s/GiB"] = result["cpu_s_per_gib"]
        elif result.get("count"):
            found[work + ", us each"] = result["cpu_s"] / result["count"] * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench.compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--runs", type=int, default=9, help="of each (%(default)s)")
    parser.add_argument("--only", default="bulk-in,bulk-out", metavar="MODE,...")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each mode of each run")
    args = parser.parse_args()
    sides = [args.before.resolve(), args.after.resolve()]
    for side in sides:
        if not (side / "ustack" / "__init__.py").exists():
            parser.error(f"{side} has no ustack/: give a checkout or its build/fast")
    runs: tuple[list[dict[str, float]], ...] = ([], [])
    for turn in range(args.runs):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            runs[which].append(measure(sides[which], args))
    print(f"{'work':36} {'before':>9} {'after':>9} {'change':>8}   95 %")
    for work in runs[0][0]:
        before, after = ([run[work] for run in side] for side in runs)
        changes = [y / x - 1 for x, y in zip(before, after, strict=True)]
        low, high = interval(changes)
        print(f"{work:36} {median(before):9.3f} {median(after):9.3f} {median(changes):+8.1%}"
              f"   {low:+.1%} to {high:+.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
