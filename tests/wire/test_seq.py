"""Unwrapping at every place where 32 bits can go wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.wire.seq import MASK, unwrap

HALF = 1 << 31


@pytest.mark.parametrize("isn", [0, HALF - 1, HALF, (1 << 32) - 1])
@pytest.mark.parametrize("wraps", [-1, 0, 1, 5])
def test_unwrap_around_every_isn(isn: int, wraps: int) -> None:
    ref = isn + (wraps << 32)
    for distance in (0, 1, -1, 1460, -1460, HALF - 1, 1 - HALF, -HALF):
        assert unwrap((ref + distance) & MASK, ref) == ref + distance
    assert unwrap((ref + HALF) & MASK, ref) == ref - HALF
    assert unwrap((ref + HALF + 1) & MASK, ref) == ref - HALF + 1
    assert unwrap((ref - HALF - 1) & MASK, ref) == ref + HALF - 1


@given(st.integers(0, MASK), st.integers(-(1 << 40), 1 << 40))
def test_unwrap_is_the_nearest_congruent_number(x: int, ref: int) -> None:
    value = unwrap(x, ref)
    assert value & MASK == x
    assert -HALF <= value - ref < HALF
