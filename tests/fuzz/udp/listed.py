"""Where ustack is known to differ from the kernel: each entry is one rule and says when.

An entry is a predicate over both traces and the index of the first event in which they
differ. It is as narrow as the rule; what comes after such a divergence is not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fuzz.compare import differing
from tests.sockets.parity.trace import Trace

CHECKSUM_BREAK = 76  # bytes of UDP that a kernel verifies at once


def unverified(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-30: the kernel verifies a long datagram when it comes to be read, and until then
    charges one whose checksum is wrong if it is behind another; ustack verifies at arrival."""
    fields = differing(kernel, ustack, at)
    if not fields or not any(_is_bad(event) for event in kernel.events[:at]):
        return False
    signs = {"rmem": 1, "drops": -1}  # what is more there is still to be dropped
    return all(
        (theirs - ours) * signs.get(name.partition(".")[2], 0) > 0
        for name, (theirs, ours) in fields.items()
    )


def _is_bad(event: Any) -> bool:
    words = event.text.split()
    if event.kind != "peer" or words[0] != "dgram" or int(words[1]) + 8 <= CHECKSUM_BREAK:
        return False
    return "('csum', 4660)" in event.text or "('length'" in event.text


def redirected(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-5: connect redirects the pending datagram, which still takes the route of its first
    call. On the kernel a packet carries its route over loopback, and is delivered by it
    whatever its address."""
    pending: set[str] = set()
    moved: set[str] = set()
    caller = ""
    for event in kernel.events[:at]:
        if event.kind == "call":
            caller, _, call = event.text.partition(".")
            if call.startswith("connect(") and caller in pending:
                moved.add(caller)
        elif event.kind == "state":
            pending = {name[:2] for name, n in event.value.items() if name[2:] == ".wmem" and n}
            if caller in moved and caller not in pending:
                moved.discard(caller)
    return caller in moved


LISTED: dict[str, Callable[[Trace, Trace, int], bool]] = {"E-30": unverified, "E-5": redirected}
