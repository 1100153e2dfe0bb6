"""Random TCP programs give the same results and the same packets on the kernel and on ustack.

What fails is printed as the smallest program that still shows it, with both listings;
`python -m tests.fuzz --seed N --count N` plays the same programs.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz.campaign import Campaign, Outcome, draw, is_listed

SEED, SEED_LONG = 20, 21
SHRUNK = 3  # kinds that are shrunk: each takes some seconds


def _agree(count: int, seed: int) -> None:
    programs = draw(count, seed)
    with Campaign() as campaign:
        outcomes = campaign.run(programs)
        assert len(outcomes) == len(set(programs)) == count
        print(f"{count} programs, seed {seed}:", dict(Counter(o.kind for o in outcomes if o.kind)))
        differ = [outcome for outcome in outcomes if outcome.kind and not is_listed(outcome.kind)]
        shown = _shrunk(campaign, differ)
    assert not differ, f"{len(differ)} of {count} programs (seed {seed}) differ\n\n{shown}"


def _shrunk(campaign: Campaign, differ: list[Outcome]) -> str:
    first = {outcome.kind: outcome for outcome in reversed(differ)}
    small = [campaign.shrink(outcome) for outcome in list(first.values())[:SHRUNK]]
    return "\n\n".join(f"== {one.kind}\n{one.program}\n{one.text}" for one in small)


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_random_programs() -> None:
    _agree(200, SEED)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.timeout(900)
def test_many_random_programs() -> None:
    _agree(2000, SEED_LONG)
