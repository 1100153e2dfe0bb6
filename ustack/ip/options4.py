"""The options of received IPv4 packets, and what of them our answers carry (rule F-1).

Problem. Options are instructions to those that handle a packet: note your address, note
the time, go this way. A host carries them out in the header of what it receives, before
anybody sees the packet, and what answers the packet without a socket (ICMP) has the same
options, going on where the request's stopped.

`compile_options` walks the options of one header and carries out record route and
timestamp in a copy. It ends at the first option that makes no sense: the sender is told
its offset by a parameter problem. A source route is refused without a word, as Linux does
with accept_source_route off; security labels are refused since no domain of them is known.
`echo_options` makes the options of the answer: record route, then timestamp, each with
the next slot filled, padded to words. A parameter problem echoes the options before the
offending one.

Left out: options on what sockets send and receive (IP_OPTIONS, IP_RECVOPTS, IP_RETOPTS),
and on TCP's answers; errors that would go back along a source route are not sent.

Sources: RFC 791 section 3.1, RFC 1122 3.2.2.6, 3.2.2.8; Linux `__ip_options_compile`,
`__ip_options_echo`, `ip_options_build`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ustack.wire.ipv4 import HEADER_LEN

EOL, NOP, RR, TIMESTAMP, CIPSO, LSRR, SSRR, ROUTER_ALERT = 0, 1, 7, 68, 134, 131, 137, 148
_TIME_ONLY, _TIME_AND_ADDR, _PRESPECIFIED = 0, 1, 3
_ONCE = {LSRR: 1, SSRR: 1, RR: 2, TIMESTAMP: 4}

# Is a packet to this address for this host, or for many? (not Linux's RTN_UNICAST)
IsOurs: TypeAlias = Callable[[bytes], bool]


class Compiled:
    """The header after its options were carried out. `bad` is the offset in it of what makes
    no sense, 0 if all does."""

    __slots__ = ("bad", "header", "source_routed")

    def __init__(self, header: bytearray) -> None:
        self.header = header
        self.bad = 0
        self.source_routed = False


def compile_options(header: bytearray, addr: bytes, now_ms: int, is_ours: IsOurs) -> Compiled:
    """Walk and carry out the options of `header`, which was sent to our `addr`; `now_ms` is
    the time of day."""
    found = Compiled(header)
    at, end, seen = HEADER_LEN, len(header), 0
    while at < end:
        kind = header[at]
        if kind == EOL:
            header[at:end] = bytes(end - at)
            break
        if kind == NOP:
            at += 1
            continue
        length = header[at + 1] if at + 1 < end else 0
        once = _ONCE.get(kind, 0)
        if length < 2 or at + length > end:
            found.bad = at
            return found
        bad = _refused(header, at, length, kind, seen & once != 0)
        if not bad:
            if kind == RR:
                _record(header, at, length, addr)
            elif kind == TIMESTAMP:
                bad = _stamp(header, at, length, addr, now_ms, is_ours)
        if bad:
            found.bad = bad
            return found
        seen |= once
        at += length
    found.source_routed = seen & 1 != 0
    return found


def _refused(header: bytearray, at: int, length: int, kind: int, again: bool) -> int:
    """The offset of what is wrong with the frame of one option, 0 if nothing is."""
    if kind in (LSRR, SSRR):
        return at + 1 if length < 3 else at + 2 if header[at + 2] < 4 else at if again else 0
    if kind == RR:
        if again:
            return at
        return at + 1 if length < 3 else at + 2 if not _slot_ok(header, at, length, 4, 4) else 0
    if kind == TIMESTAMP:
        if again:
            return at
        return at + 1 if length < 4 else at + 2 if not _slot_ok(header, at, length, 5, 4) else 0
    if kind == ROUTER_ALERT:
        return at + 1 if length < 4 else 0
    if kind == CIPSO:
        return at + 1 if length < 8 else at + 2
    return 0


def _slot_ok(header: bytearray, at: int, length: int, low: int, size: int) -> bool:
    """A pointer (counted from 1) past the end means full; else `size` bytes must be free."""
    pointer = header[at + 2]
    return pointer >= low and (pointer > length or pointer + size - 1 <= length)


def _put(header: bytearray, at: int, value: bytes) -> None:
    """Fill the slot that the option at `at` points to, and point behind it."""
    slot = at + header[at + 2] - 1
    header[slot : slot + len(value)] = value
    header[at + 2] += len(value)


def _record(header: bytearray, at: int, length: int, addr: bytes) -> None:
    if header[at + 2] <= length:
        _put(header, at, addr)


def _stamp(
    header: bytearray, at: int, length: int, addr: bytes, now_ms: int, is_ours: IsOurs
) -> int:
    """A timestamp option: the next slot is filled, or it is counted that there was none. The
    offset of what is wrong, 0 if nothing is."""
    pointer, flag = header[at + 2], header[at + 3] & 15
    if pointer > length:
        if flag != _PRESPECIFIED:
            if header[at + 3] >> 4 == 15:
                return at + 3
            header[at + 3] += 16
        return 0
    if flag in (_TIME_AND_ADDR, _PRESPECIFIED) and not _slot_ok(header, at, length, 5, 8):
        return at + 2
    _fill(header, at, addr, now_ms, is_ours)
    return 0


def _fill(header: bytearray, at: int, addr: bytes, now_ms: int, is_ours: IsOurs) -> None:
    """The slot of a timestamp option that has one: the time, an address and the time, or the
    time if the address that is there is ours."""
    time = now_ms.to_bytes(4, "big")
    flag = header[at + 3] & 15
    slot = at + header[at + 2] - 1
    there = bytes(header[slot : slot + 4])
    if flag == _TIME_ONLY:
        _put(header, at, time)
    elif flag == _TIME_AND_ADDR:
        _put(header, at, addr + time)
    elif flag == _PRESPECIFIED and is_ours(there):
        _put(header, at, there + time)


def echo_options(
    header: bytes, src: bytes, end: int, addr: bytes, now_ms: int, is_ours: IsOurs
) -> bytes | None:
    """The options of an answer from `addr` to a packet from `src` with this compiled header,
    of which the options before offset `end` count; None if there can be no answer."""
    made = bytearray()
    options = _before(header, end)
    record, stamp = options.get(RR), options.get(TIMESTAMP)
    if record is not None:
        if record[2] <= len(record):
            if record[2] + 3 > len(record):
                return None
            _put(record, 0, addr)
        made += record
    if stamp is not None:
        if not _echo_stamp(stamp, addr, now_ms, is_ours):
            return None
        made += stamp
    route = options.get(LSRR) or options.get(SSRR)
    if route is not None and _has_way_back(route, src):
        return None
    made += options.get(CIPSO, b"")
    return bytes(made) + bytes(-len(made) & 3)


def _before(header: bytes, end: int) -> dict[int, bytearray]:
    """The options that end before `end`; a security label counts once it has begun."""
    options: dict[int, bytearray] = {}
    at = HEADER_LEN
    while at < end and header[at] != EOL:
        kind = header[at]
        if kind == NOP:
            at += 1
            continue
        length = header[at + 1]
        if at + length <= end or kind == CIPSO:
            options[kind] = bytearray(header[at : at + length])
        at += length
    return options


def _echo_stamp(option: bytearray, addr: bytes, now_ms: int, is_ours: IsOurs) -> bool:
    """Fill the next slot of a timestamp option; false if there is half of one."""
    pointer, length, flag = option[2], len(option), option[3] & 15
    if pointer <= length:
        whole = pointer + (3 if flag == _TIME_ONLY else 7) <= length
        if flag in (_TIME_ONLY, _TIME_AND_ADDR) and not whole:
            return False
        if whole:
            _fill(option, 0, addr, now_ms, is_ours)
    return True


def _has_way_back(route: bytearray, src: bytes) -> bool:
    """Has the packet come over a router of its source route, besides its source?"""
    routers, rest = divmod(min(route[2], len(route) + 1) - 4, 4)
    if routers and route[rest + 3 : rest + 7] == src:
        routers -= 1
    return routers > 0
