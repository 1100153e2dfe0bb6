"""The SACK list against coverage: what the blocks say must be true, and newest first."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ustack.tcp.sack import NUM_SACKS, SackList


class SackMachine(RuleBasedStateMachine):
    """A list of sets of positions, each a range, newest first, none touching another."""

    @initialize(base=st.sampled_from([0, -40, 2**32 - 40]))
    def start(self, base: int) -> None:
        self.base = base
        self.sacks = SackList()
        self.model: list[set[int]] = []
        self.dsack: tuple[int, int] | None = None

    @rule(
        arrivals=st.lists(
            st.tuples(st.integers(0, 100), st.integers(1, 20)), min_size=1, max_size=8
        )
    )
    def new_ofo(self, arrivals: list[tuple[int, int]]) -> None:
        for at, length in arrivals:
            self.arrive(self.base + at, length)

    def arrive(self, at: int, length: int) -> None:
        self.sacks.new_ofo(at, at + length)
        new = set(range(at, at + length))
        near = set(range(at - 1, at + length + 1))
        touching = [block for block in self.model if block & near]
        rest = [block for block in self.model if not block & near]
        self.model = [new.union(*touching), *rest][:NUM_SACKS]

    @rule(at=st.integers(0, 100))
    def remove(self, at: int) -> None:
        self.sacks.remove(self.base + at)
        self.model = [block for block in self.model if min(block) > self.base + at]

    @rule(at=st.integers(0, 30), length=st.integers(1, 10), extend=st.booleans())
    def duplicate(self, at: int, length: int, extend: bool) -> None:
        left, right = self.base + at, self.base + at + length
        if not extend:
            self.sacks.dsack_set(left, right)
            self.dsack = (left, right)
            return
        self.sacks.dsack_extend(left, right)
        if self.dsack is None:
            self.dsack = (left, right)
        elif left <= self.dsack[1] and self.dsack[0] <= right:
            self.dsack = (min(left, self.dsack[0]), max(right, self.dsack[1]))

    @rule(limit=st.integers(0, 5))
    def send(self, limit: int) -> None:
        blocks = self.sacks.blocks(limit)
        assert len(blocks) == min(limit, self.sacks.eff_sacks)
        if limit and self.dsack is not None:
            assert blocks[0] == self.dsack
        self.sacks.dsack_sent()
        self.dsack = None

    @rule()
    def reset(self) -> None:
        self.sacks.reset()
        self.model.clear()
        self.dsack = None

    @invariant()
    def same_as_model(self) -> None:
        self.sacks.check()
        blocks = [(min(block), max(block) + 1) for block in self.model]
        assert self.sacks.num_sacks == len(blocks)
        if self.dsack is not None:
            blocks.insert(0, self.dsack)
        assert list(self.sacks.blocks(9)) == blocks
        assert self.sacks.eff_sacks == len(blocks)


TestSackMachine = SackMachine.TestCase
TestSackMachine.settings = settings(max_examples=100, stateful_step_count=30)


def test_rfc2018_case_2() -> None:
    """The first of eight 500-byte segments is lost: one block that grows."""
    sacks = SackList()
    for seq in range(5500, 9000, 500):
        sacks.new_ofo(seq, seq + 500)
        assert sacks.blocks(4) == ((5500, seq + 500),)


def test_rfc2018_case_3() -> None:
    """Every other segment is lost: the newest block first."""
    sacks = SackList()
    for seq in (5500, 6500, 7500, 8500):
        sacks.new_ofo(seq, seq + 500)
    assert sacks.blocks(3) == ((8500, 9000), (7500, 8000), (6500, 7000))
    sacks.new_ofo(6000, 6500)
    assert sacks.blocks(4) == ((5500, 7000), (8500, 9000), (7500, 8000))
    sacks.remove(7000)
    assert sacks.blocks(4) == ((8500, 9000), (7500, 8000))


def test_a_fifth_block_pushes_out_the_oldest() -> None:
    sacks = SackList()
    for seq in range(0, 50, 10):
        sacks.new_ofo(seq, seq + 1)
    assert sacks.blocks(4) == ((40, 41), (30, 31), (20, 21), (10, 11))
