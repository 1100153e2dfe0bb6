"""The heap of deadlines: exact, in order, and no larger than what is alive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ustack.sock.deadlines import NEVER, Deadlines


class Owner:
    def __init__(self, heap: Deadlines) -> None:
        self.heap, self.heap_at, self.timers = heap, NEVER, [NEVER] * 3
        self.ran: list[int] = []

    def arm(self, which: int, at: int) -> None:
        self.timers[which] = at
        if at < self.heap_at:
            self.heap.arm(self, at)

    def next_deadline(self) -> int:
        return min(self.timers)

    def handle_timeout(self, now: int) -> None:
        self.ran.append(now)
        self.timers = [NEVER if at <= now else at for at in self.timers]


def test_superseded_entries_do_not_pile_up():
    heap = Deadlines()
    owner = Owner(heap)
    owner.arm(0, 7_200_000)
    for now in range(0, 100_000, 10):
        owner.arm(1, now + 5)
        heap.run(now + 5)
    assert len(heap) < 140
    assert owner.ran == list(range(5, 100_000, 10))
    assert heap.next_timeout() == 7_200_000


def test_forgotten_owners_are_released():
    heap = Deadlines()
    owners = [Owner(heap) for _ in range(1000)]
    for i, owner in enumerate(owners):
        owner.arm(0, 7_200_000 + i)
    for owner in owners[1:]:
        owner.timers[0] = NEVER
        heap.forget(owner)
        heap.forget(owner)
    assert len(heap) <= 2
    assert heap.next_timeout() == 7_200_000
    heap.forget(owners[0])
    assert len(heap) == 0
    assert heap.next_timeout() == NEVER


def test_an_owner_may_be_forgotten_while_the_heap_runs():
    heap = Deadlines()
    owners = [Owner(heap) for _ in range(8)]

    def forget_all(now: int) -> None:
        for owner in owners:
            owner.timers = [NEVER] * 3
            heap.forget(owner)

    for i, owner in enumerate(owners):
        owner.arm(0, 10 + i)
    owners[0].handle_timeout = forget_all  # type: ignore[method-assign]
    heap.run(100)
    assert len(heap) == 0
    assert not any(owner.ran for owner in owners)


_STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 50), st.integers(0, 4)),
    max_size=80,
)


@given(_STEPS)
def test_every_timer_runs_at_its_time(steps):
    """Against a naive model: nothing early, nothing late, nothing lost."""
    heap = Deadlines()
    owners = [Owner(heap) for _ in range(4)]
    now = 0
    for who, which, delay, action in steps:
        owner = owners[who]
        if action == 0:
            owner.timers[which] = NEVER
        elif action == 1:
            owner.timers = [NEVER] * 3
            heap.forget(owner)
        elif action == 2:
            end = now + delay
            while (at := heap.next_timeout()) <= end:
                expected = min(o.next_deadline() for o in owners)
                assert at == expected
                now = at
                heap.run(now)
                assert all(o.next_deadline() > now for o in owners)
            now = end
        else:
            owner.arm(which, now + 1 + delay)
        assert heap.next_timeout() == min(o.next_deadline() for o in owners)
