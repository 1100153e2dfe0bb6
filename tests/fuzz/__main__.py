"""python -m tests.fuzz [--count 200] [--seed 1] [--show 5]: fuzz the stack against the kernel."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from tests.fuzz.campaign import Campaign, draw


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=3, help="how many divergences to shrink")
    args = parser.parse_args()
    began = time.monotonic()
    with Campaign() as campaign:
        outcomes = campaign.run(draw(args.count, args.seed))
        again = sum(outcome.tries > 1 for outcome in outcomes)
        kinds = Counter(outcome.kind for outcome in outcomes if outcome.kind)
        print(f"{len(outcomes)} programs in {time.monotonic() - began:.0f} s, {again} played again")
        for kind, count in kinds.most_common():
            print(f"{count:5} {kind}")
        for kind, _ in kinds.most_common(args.show):
            first = next(outcome for outcome in outcomes if outcome.kind == kind)
            small = campaign.shrink(first)
            print(f"\n== {kind}\n{small.program}\n{small.text}")


if __name__ == "__main__":
    main()
