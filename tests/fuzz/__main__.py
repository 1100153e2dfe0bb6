"""python -m tests.fuzz [--count 200] [--seed 1] [--show 5]: fuzz the stack against the kernel.

--reach: how many of 2,000 programs reach each rule of A and B. --mutations: which programs
find the faults that are planted in the stack.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.campaign import Campaign, draw, is_listed
from tests.fuzz.mutations import find_all, record
from tests.fuzz.reach import LEAST, table


def reach(seed: int) -> int:
    """Print the table; 1 if a rule is reached too rarely."""
    counts = table(draw(2000, seed))
    for n, probe in counts:
        print(f"{n:5}{' ' if n >= LEAST else '!'} {probe.rule:5} {probe}")
    return int(any(n < LEAST for n, _ in counts))


def mutations() -> int:
    """Print who finds which fault; 1 if one is not found."""
    missed = False
    for found in find_all(record()):
        print(found, flush=True)
        missed |= not found.kind
    return int(missed)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=3, help="how many divergences to shrink")
    parser.add_argument("--reach", action="store_true")
    parser.add_argument("--mutations", action="store_true")
    args = parser.parse_args()
    if args.reach or args.mutations:
        sys.exit(reach(args.seed) if args.reach else mutations())
    began = time.monotonic()
    with Campaign() as campaign:
        outcomes = campaign.run(draw(args.count, args.seed))
        again = sum(outcome.tries > 1 for outcome in outcomes)
        kinds = Counter(outcome.kind for outcome in outcomes if outcome.kind)
        print(f"{len(outcomes)} programs in {time.monotonic() - began:.0f} s, {again} played again")
        for kind, count in kinds.most_common():
            print(f"{count:5} {kind}")
        new = [kind for kind, _ in kinds.most_common() if not is_listed(kind)]
        for kind in new[: args.show]:
            first = next(outcome for outcome in outcomes if outcome.kind == kind)
            small = campaign.shrink(first)
            print(f"\n== {kind}\n{small.program}\n{small.text}")
    sys.exit(bool(new))


if __name__ == "__main__":
    main()
