"""The Internet checksum (RFC 1071) as one division of a big integer.

The ones' complement sum of 16-bit words equals the whole buffer, read as one big-endian
number, modulo 65535, because 2**16 is 1 modulo 65535. `int.from_bytes` and `%` run in C.
Two details: the sum of a buffer that is not all zeros is never 0 (0 and 0xFFFF are both
zero; addition only yields the latter), and a buffer of odd length counts as if a zero
byte followed.

A *partial* sum is any integer that is congruent to the sum and is 0 only if everything
summed was; partial sums of parts that start at even offsets may be added. `fold` brings
one to 16 bits; a header carries the complement of that.
"""

from __future__ import annotations

from collections.abc import Sequence

from ustack.wire.packet import Buffer


def fold(total: int) -> int:
    """A partial sum in 16 bits, not complemented."""
    return total % 65535 or (total and 65535)


def partial_sum(*buffers: Buffer) -> int:
    """The partial sum of the buffers laid end to end, whatever their lengths."""
    return sum_buffers(buffers)


def sum_buffers(buffers: Sequence[Buffer]) -> int:
    """The folded sum of the buffers laid end to end, whatever their lengths."""
    data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
    value = int.from_bytes(data, "big")
    total = value % 65535 or (value and 65535)
    if len(data) & 1:
        return total * 256 % 65535 or (total and 65535)
    return total


def checksum(data: Buffer) -> int:
    """What the checksum field over `data` must hold (the field itself being 0 in it)."""
    value = int.from_bytes(data, "big")
    total = value % 65535
    if len(data) & 1:
        total = total * 256 % 65535
    return 0xFFFF ^ (total or (value and 65535))


def pseudo_sum(src: bytes, dst: bytes, proto: int, length: int) -> int:
    """The folded sum of the pseudo header of TCP, UDP or ICMPv6, IPv4 or IPv6."""
    return (int.from_bytes(src + dst, "big") + proto + length) % 65535 or 65535


def verify(buf: Buffer, start: int, end: int, initial: int) -> bool:
    """True if `buf[start:end]`, checksum field included, is intact.

    `initial` is the sum of the pseudo header, 0 where there is none.
    """
    total = int.from_bytes(buf[start:end], "big")
    if (end - start) & 1:
        total <<= 8
    total += initial
    return total % 65535 == 0 and total != 0
