"""Protection against wrapped sequence numbers: is this timestamp from the past?
(RFC 7323 section 5; rule C-26, Linux `tcp_paws_check`, `tcp_paws_reject`.)"""

from __future__ import annotations

SEC = 1_000_000_000

# The peer's clock may have wrapped since (at 1 MHz, the fastest clock allowed).
PAWS_WRAP = 2147 * SEC
# A RST is believed this long after the last segment, whatever its timestamp.
PAWS_MSL = 60 * SEC


def ts_diff(a: int, b: int) -> int:
    """a - b as signed 32-bit timestamps."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def ts_between(x: int, low: int, high: int) -> bool:
    """low <= x <= high, as 32-bit timestamps."""
    return (x - low) & 0xFFFFFFFF <= (high - low) & 0xFFFFFFFF


def paws_ok(ts_recent: int, stamp: int, tsval: int, window: int, now: int) -> bool:
    """Is `tsval` no more than `window` older than `ts_recent`, which was stored at `stamp`?
    A stored value of 0, or one too old to compare with, says nothing."""
    return ts_diff(ts_recent, tsval) <= window or now - stamp >= PAWS_WRAP or not ts_recent


def paws_reject(ts_recent: int, stamp: int, tsval: int, rst: bool, now: int) -> bool:
    """The strict test, for segments that meet no full socket."""
    if paws_ok(ts_recent, stamp, tsval, 0, now):
        return False
    return not (rst and now - stamp >= PAWS_MSL)
