"""Sequence numbers, unwrapped.

Inside the core a sequence number is an ordinary integer that never wraps: `unwrap` makes
it from the 32 bits of a header and a reference near it (RCV.NXT for sequence numbers,
SND.UNA for acknowledgments), and packing masks it again. So plain `<` is right, also
across 2**32; unwrapped numbers may be negative.
"""

from __future__ import annotations

MASK = 0xFFFFFFFF


def unwrap(x: int, ref: int) -> int:
    """The number nearest to `ref` that is `x` modulo 2**32.

    Of two equally near, 2**31 away, it is the lower one: such a segment is old, as it is
    for Linux's signed comparison.
    """
    return ref + ((x - ref + 0x80000000) & MASK) - 0x80000000
