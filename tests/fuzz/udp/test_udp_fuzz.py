"""Random UDP programs on the kernel and on ustack; what reaches which rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.reach import Probe, line_numbers
from tests.fuzz.udp.campaign import campaign
from tests.fuzz.udp.check import LISTED_AS
from tests.fuzz.udp.draw import draw_programs
from tests.fuzz.udp.play import Place, play_stack
from tests.fuzz.udp.probes import EXCEPT, PROBES, least, table

RULES = Path(__file__).parents[3] / "docs/kernel-rules.txt"
SEED, SHOWN = 6, 3


def compare(count: int, seed: int) -> None:
    """No divergence but the listed ones; else the first of each kind, shrunk."""
    with campaign() as workers:
        outcomes = workers.run(draw_programs(count, seed))
        new = [o for o in outcomes if o.kind and not o.kind.startswith(LISTED_AS)]
        print(Counter(o.kind for o in outcomes if o.kind.startswith(LISTED_AS)))
        found = {o.kind: o for o in reversed(new)}
        small = [workers.shrink(o) for o in list(found.values())[:SHOWN]]
    texts = [f"\n== {o.kind}\n{o.program}\n{o.text}" for o in small]
    assert not new, f"{len(new)} of {count} programs of seed {seed} diverge" + "".join(texts)


@pytest.mark.kernel
def test_programs():
    compare(300, SEED)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.timeout(600)
def test_many_programs():
    compare(5000, SEED + 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_programs_reach_every_rule():
    programs = draw_programs(2000, SEED)
    seldom = [f"{n:5} {probe.rule} {probe}" for n, probe in table(programs) if n < least(2000)]
    assert not seldom, "\n" + "\n".join(seldom)


def test_every_rule_of_e_has_a_probe_or_a_reason():
    rules = {rule for rule in RULES.read_text().split() if rule.startswith("E-")}
    probed = {probe.rule for probe in PROBES}
    assert probed | set(EXCEPT) == rules
    assert not probed & set(EXCEPT)


@pytest.mark.parametrize("probe", PROBES, ids=str)
def test_a_probe_names_one_line(probe: Probe):
    assert len(line_numbers(probe)) == 1


def test_the_same_seed_is_the_same_trace():
    for program in draw_programs(5, SEED):
        first, second = (play_stack(program, Place(1)) for _ in range(2))
        assert not first.error
        assert [(e.kind, e.text, e.value) for e in first.events] == [
            (e.kind, e.text, e.value) for e in second.events
        ]
    assert draw_programs(20, SEED) == draw_programs(20, SEED)
    assert draw_programs(20, SEED) != draw_programs(20, SEED + 1)
