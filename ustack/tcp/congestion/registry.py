"""The algorithms that TCP_CONGESTION knows by name."""

from __future__ import annotations

from ustack.tcp.congestion.base import CongestionControl
from ustack.tcp.congestion.cubic import Cubic
from ustack.tcp.congestion.reno import Reno


def registry() -> dict[str, type[CongestionControl]]:
    """A fresh table, name to class; its owner may add classes of its own."""
    return {cls.name: cls for cls in (Reno, Cubic)}
