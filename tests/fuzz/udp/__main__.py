"""python -m tests.fuzz.udp [--count 1000] [--seed 1] [--show 3]: fuzz UDP against the kernel.

With --reach, how many of so many programs reach each rule of E instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.udp.campaign import campaign
from tests.fuzz.udp.check import LISTED_AS
from tests.fuzz.udp.draw import draw_programs
from tests.fuzz.udp.probes import least, table


def reach(count: int, seed: int) -> int:
    """Print the table; 1 if a probe is reached too seldom."""
    found = table(draw_programs(count, seed))
    for times, probe in found:
        print(f"{times:6} {probe.rule:5} {probe}")
    return int(min(times for times, _ in found) < least(count))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.udp", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=3, help="how many divergences to shrink")
    parser.add_argument("--reach", action="store_true")
    args = parser.parse_args()
    if args.reach:
        sys.exit(reach(args.count, args.seed))
    began = time.monotonic()
    programs = draw_programs(args.count, args.seed)
    drawn = time.monotonic()
    with campaign() as workers:
        outcomes = workers.run(programs)
        again = sum(outcome.tries > 1 and not outcome.kind for outcome in outcomes)
        kinds = Counter(outcome.kind for outcome in outcomes if outcome.kind)
        took = f"{drawn - began:.0f} + {time.monotonic() - drawn:.0f} s"
        print(f"{len(outcomes)} programs in {took}, {again} agreed when played again")
        for kind, count in kinds.most_common():
            print(f"{count:5} {kind}")
        new = [kind for kind, _ in kinds.most_common() if not kind.startswith(LISTED_AS)]
        for kind in new[: args.show]:
            first = next(outcome for outcome in outcomes if outcome.kind == kind)
            small = workers.shrink(first)
            print(f"\n== {kind}\n{small.program}\n{small.text}")


if __name__ == "__main__":
    main()
