"""The language of the random programs: what shrinking stands on."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.program import draw
from tests.fuzz.run import play_stack
from tests.fuzz.themes import THEMES, themed


def test_the_same_seed_draws_the_same_programs():
    assert draw(50, 3) == draw(50, 3)
    assert draw(50, 3) != draw(50, 4)


@pytest.mark.parametrize("number", range(4))
def test_any_sublist_of_a_program_is_a_program(number: int):
    r = Random(number)
    for program in draw(25, number):
        kept = [step for step in program.steps if r.random() < 0.6]
        result = play_stack(program._replace(steps=tuple(kept)))
        assert not result.trace.error, program


def test_a_plan_can_be_played_again():
    for program in draw(25, 5):
        first = play_stack(program)
        again = play_stack(program, first.plan)
        assert again.plan == first.plan
        assert [(e.kind, e.text, e.value) for e in again.trace.events] == [
            (e.kind, e.text, e.value) for e in first.trace.events
        ]


def test_every_theme_makes_programs():
    for _, theme in THEMES:
        fixed, steps = theme(Random(1))
        assert steps or fixed
    assert len({themed(Random(i)) for i in range(100)}) == 100
