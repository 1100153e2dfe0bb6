"""Planted faults are planted where they say, and the fuzzer finds all of them."""

from __future__ import annotations

import ast
import pickle

import pytest

from tests.fuzz.mutant import diverges
from tests.fuzz.mutations import MUTATIONS, ROOT, Mutation, find_all, record


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_fault_changes_one_place(mutation: Mutation):
    source = (ROOT / "ustack" / mutation.file).read_text()
    changed = mutation.apply(source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


def test_there_are_enough_of_both_halves():
    assert len(MUTATIONS) >= 20
    assert min(sum(m.rule.startswith(half) for m in MUTATIONS) for half in "AB") >= 10


@pytest.mark.kernel
def test_what_is_recorded_agrees_with_the_stack_as_it_is():
    found = pickle.loads(record(8))
    assert found
    assert [diverges(one) for one in found] == [""] * len(found)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.timeout(900)
def test_every_fault_is_found():
    missed = []
    for found in find_all(record()):
        print(found)
        if not found.kind:
            missed.append(str(found.mutation))
    assert not missed, "not found:\n" + "\n".join(missed)
