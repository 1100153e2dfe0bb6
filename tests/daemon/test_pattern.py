from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ustack.daemon import pattern

SIZES = st.integers(0, pattern.CHUNK)


def stream(total: int) -> bytes:
    return b"".join(pattern.chunks(total))


def test_the_stream_is_a_period_over_and_over() -> None:
    data = stream(2 * pattern.PERIOD + 10)
    period = data[: pattern.PERIOD]
    assert data == period + period + period[:10]
    assert len(set(period)) == 256
    assert pattern.at(pattern.PERIOD + 5, 100) == period[5:105]


@given(st.lists(st.integers(1, 2 * pattern.CHUNK), max_size=5))
def test_any_cut_of_the_stream_is_good(sizes: list[int]) -> None:
    checker = pattern.Checker()
    for size in sizes:
        checker.feed(bytes(pattern.at(checker.total, size)))
    assert checker.good
    assert checker.total == sum(sizes)


@given(st.integers(1, 300_000), st.data())
def test_one_changed_byte_is_seen(size: int, data: st.DataObject) -> None:
    changed = bytearray(pattern.at(0, size))
    changed[data.draw(st.integers(0, size - 1))] ^= 1
    checker = pattern.Checker()
    checker.feed(bytes(changed))
    assert not checker.good


@given(st.integers(0, 400_000), st.lists(st.integers(1, 100_000), max_size=8))
def test_a_tailed_stream_however_it_is_cut(total: int, cuts: list[int]) -> None:
    data = stream(total) + pattern.TAIL.pack(total)
    checker = pattern.TailedChecker()
    for size in [*cuts, *[1] * 12]:
        if data:
            checker.feed(data[:size])
            data = data[size:]
    for start in range(0, len(data), pattern.CHUNK):
        checker.feed(data[start : start + pattern.CHUNK])
    assert checker.end()
    assert checker.total == total + pattern.TAIL.size


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_stream_cut_short_is_not_whole(total: int, missing: int) -> None:
    data = (stream(total) + pattern.TAIL.pack(total))[:-missing]
    checker = pattern.TailedChecker()
    if data:
        checker.feed(data)
    assert not checker.end()


def test_a_stream_in_single_bytes() -> None:
    checker = pattern.TailedChecker()
    data = stream(1000) + pattern.TAIL.pack(1000)
    for i in range(len(data)):
        checker.feed(data[i : i + 1])
    assert checker.end()
