"""The text of the status page: what this is, its sockets, its counters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ustack.daemon.server import Server, counters

if TYPE_CHECKING:
    from ustack.sockets.stack import NetworkStack, Statistics

MAX_ROWS = 200  # sockets shown; with thousands the page would say less, not more


def page(stack: NetworkStack, server: Server, version: str, started: float) -> str:
    """The page; `started` is the monotonic time of the start."""
    statistics = stack.statistics()
    lines = str(stack.ss()).splitlines()
    shown = 1 + 2 * MAX_ROWS
    if len(lines) > shown:
        lines[shown:] = [f"... and {(len(lines) - shown) // 2} more"]
    return "\n\n".join(
        (
            f"ustack {version}: a TCP/IP stack in a Python process, on {_names(statistics)}.\n"
            f"Addresses {', '.join(server.addresses)}; up {time.monotonic() - started:.0f} s.",
            "Services\n\n" + counters(server.stats),
            "Sockets\n\n" + "\n".join(lines),
            "Devices\n\n" + _devices(statistics),
            "Counters\n\n" + _numbers(statistics.mib),
            "Drops, by reason\n\n" + _numbers(statistics.drops),
        )
    )


def _names(statistics: Statistics) -> str:
    return ", ".join(one.name for one in statistics.devices)


def _devices(statistics: Statistics) -> str:
    return "\n".join(
        f"{one.name} mtu {one.mtu}: received {one.rx_packets} packets, {one.rx_bytes} bytes; "
        f"sent {one.tx_packets} packets, {one.tx_bytes} bytes, {one.tx_dropped} dropped"
        for one in statistics.devices
    )


def _numbers(numbers: dict[str, int]) -> str:
    if not numbers:
        return "none\n"
    width = max(map(len, numbers))
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in numbers.items())
