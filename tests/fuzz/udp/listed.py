"""Where ustack is known to differ from the kernel: each entry is one rule and says when.

An entry is a predicate over both traces and the index of the first event in which they
differ. It is as narrow as the rule; what comes after such a divergence is not compared.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sockets.parity.trace import Trace

LISTED: dict[str, Callable[[Trace, Trace, int], bool]] = {}
