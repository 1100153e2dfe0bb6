"""The table of probes is complete and true, and the random programs reach every one."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.probes import EXCEPT, PROBES
from tests.fuzz.program import GAP, SOL_TCP, Program, draw, ints, setup
from tests.fuzz.reach import LEAST, Probe, line_numbers, reached, shortfalls
from tools.check_parity import rows

ROOT = Path(__file__).parents[2]


def test_every_rule_of_a_and_b_has_a_probe_or_a_reason():
    rules = (ROOT / "docs/kernel-rules.txt").read_text().split()
    wanted = {rule for rule in rules if rule[0] in "AB"}
    probed = {probe.rule for probe in PROBES}
    assert probed | set(EXCEPT) == wanted
    assert not probed & set(EXCEPT)
    parity = dict(rows((ROOT / "docs/kernel-parity.md").read_text()))
    out = {rule for rule in wanted if any(cell.startswith("out:") for cell in parity[rule])}
    assert out <= set(EXCEPT)


@pytest.mark.parametrize("probe", [p for p in PROBES if p.seen is None], ids=str)
def test_a_probe_names_one_line(probe: Probe):
    assert len(line_numbers(probe)) == 1
    if probe.when:
        compile(probe.when, "<probe>", "eval")


def test_what_is_counted():
    plain = dict(setup(Random(1))) | {"v6": False, "passive": False, "early": (), "during": ()}
    cork = ("set", SOL_TCP, 3, ints(1))
    program = Program(tuple(plain.items()), ((0, cork), (GAP, ("send", 10, 0))))
    rules = [PROBES[i].rule for i in reached(program, PROBES)]
    assert "A-25" in rules
    assert "A-60" not in rules


@pytest.mark.slow
def test_every_rule_is_reached():
    short = shortfalls(draw(2000, 1))
    assert not short, f"reached by fewer than {LEAST} of 2,000:\n" + "\n".join(short)
