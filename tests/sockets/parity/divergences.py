"""Where ustack is known to differ from the kernel, strictly.

Scenario (`file.py::test[parameters]`) -> rule in force where the traces part (`Trial.rule`)
-> why. A scenario listed here must diverge, first at that rule; when it no longer does its
test fails until the entry is taken out.
"""

from __future__ import annotations

_FAST_PATH = "the kernel's fast path does not count a pure ACK that is too old as a drop"


KNOWN: dict[str, dict[str, str]] = {
    "test_y22_validation.py::test_ack_field[ancient-ipv4]": {"C-27": _FAST_PATH},
    "test_y22_validation.py::test_ack_field[ancient-ipv6]": {"C-27": _FAST_PATH},
}
