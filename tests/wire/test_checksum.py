"""The checksum against the definition in RFC 1071 and against dpkt."""

from __future__ import annotations

import dpkt
from hypothesis import example, given
from hypothesis import strategies as st

from ustack.wire.checksum import checksum, fold, partial_sum, pseudo_sum, sum_buffers, verify


def naive_sum(data: bytes) -> int:
    """16-bit words added with end-around carry, as RFC 1071 section 1 says."""
    total = 0
    for at in range(0, len(data), 2):
        word = data[at : at + 2].ljust(2, b"\0")
        total += word[0] << 8 | word[1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


lengths = st.one_of(st.integers(0, 70), st.integers(700, 740), st.integers(1990, 2100))
buffers = lengths.flatmap(lambda n: st.binary(min_size=n, max_size=n))


@given(buffers)
@example(b"")
@example(b"\0" * 1500)
@example(b"\xff" * 1500)
@example(b"\xff\xff")
@example(b"\xff")
@example(b"\0\1\xff\xfe")
@example(b"\xff\xff" * 723 + b"\xff")
def test_checksum_is_that_of_rfc_1071_and_of_dpkt(data: bytes) -> None:
    assert checksum(data) == 0xFFFF ^ naive_sum(data)
    assert checksum(data) == dpkt.in_cksum(data)
    assert checksum(memoryview(data)) == checksum(data)


@given(st.lists(st.binary(max_size=1500), max_size=6))
@example([b"a", b"b", b"c"])
@example([])
@example([b"\0", b""])
def test_a_list_of_buffers_sums_like_its_concatenation(parts: list[bytes]) -> None:
    whole = naive_sum(b"".join(parts))
    assert sum_buffers(parts) == whole
    assert sum_buffers([memoryview(part) for part in parts]) == whole
    assert fold(partial_sum(*parts)) == whole


@given(st.binary(max_size=100).filter(lambda b: len(b) % 2 == 0), st.binary(max_size=2000))
def test_partial_sums_add(head: bytes, tail: bytes) -> None:
    assert fold(partial_sum(head) + partial_sum(tail)) == naive_sum(head + tail)


def test_the_two_zeros() -> None:
    assert fold(0) == 0
    assert fold(65535) == fold(2 * 65535) == 65535
    assert checksum(bytes(20)) == 0xFFFF
    assert checksum(b"\xff" * 20) == 0


addresses = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


@given(addresses, st.sampled_from([6, 17, 58]), st.integers(0, 200_000))
def test_pseudo_header_sum(pair: tuple[bytes, bytes], proto: int, length: int) -> None:
    src, dst = pair
    assert pseudo_sum(src, dst, proto, length) == naive_sum(
        src + dst + proto.to_bytes(4, "big") + length.to_bytes(4, "big")
    )


@given(addresses, buffers.filter(lambda b: len(b) >= 18), st.integers(0, 7), st.data())
def test_verify_accepts_what_was_completed_and_nothing_else(
    pair: tuple[bytes, bytes], data: bytes, pad: int, draw: st.DataObject
) -> None:
    initial = pseudo_sum(*pair, 6, len(data))
    segment = bytearray(data)
    segment[16:18] = b"\0\0"
    segment[16:18] = (0xFFFF ^ fold(initial + partial_sum(bytes(segment)))).to_bytes(2, "big")
    buf = bytes(pad) + bytes(segment) + b"trailer"
    assert verify(buf, pad, pad + len(data), initial)
    assert verify(memoryview(buf), pad, pad + len(data), initial)
    at = draw.draw(st.integers(pad, pad + len(data) - 1))
    damaged = bytearray(buf)
    damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
    assert not verify(bytes(damaged), pad, pad + len(data), initial)


def test_all_zeros_is_not_intact() -> None:
    assert not verify(bytes(40), 0, 40, 0)
