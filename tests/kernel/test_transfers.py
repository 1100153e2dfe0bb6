"""Many bytes between ustack and a kernel, every one of them checked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.ends import Ends, Near, both_ways, transfer

pytestmark = pytest.mark.kernel
NBYTES = 50_000_000


async def test_50_mb_from_the_kernel(ends: Ends) -> None:
    stack_end, peer_end = await ends.join(active="peer")
    await transfer(peer_end, stack_end, NBYTES)


async def test_50_mb_to_the_kernel(ends: Ends) -> None:
    stack_end, peer_end = await ends.join(active="stack")
    await transfer(stack_end, peer_end, NBYTES)


async def test_50_mb_both_ways_at_once(ends: Ends) -> None:
    await both_ways(*await ends.join(), NBYTES)


@pytest.mark.parametrize("near", [Near("ustack")], ids=["offload"])
@pytest.mark.parametrize("isn", [0, 2**31 - 1, 2**32 - 1], ids=["0", "2^31-1", "2^32-1"])
@pytest.mark.parametrize("active", ["stack", "peer"])
async def test_initial_sequence_numbers(
    ends: Ends, isn: int, active: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that wrap at once, or cross the sign bit at once, are like any others."""
    asked: list[int] = []

    def next_isn(*_: Any) -> int:
        asked.append(isn)
        return isn

    monkeypatch.setattr(ends.stack.sansio.tcp, "next_isn", next_isn)
    await both_ways(*await ends.join(active), 1_000_000)
    assert asked
