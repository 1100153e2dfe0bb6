"""A slow device: what both backends put below the socket for scenarios about waiting there."""

from __future__ import annotations

from typing import NamedTuple


class Shaper(NamedTuple):
    """A token bucket in front of the device: bytes a second, bytes at once after a pause,
    packets that may wait."""

    rate: int
    burst: int
    limit: int = 10000
