"""Where ustack is known to differ from the kernel, strictly.

Scenario (`file.py::test[parameters]`) -> rule in force where the traces part (`Trial.rule`)
-> why. A scenario listed here must diverge, first at that rule; when it no longer does its
test fails until the entry is taken out.
"""

from __future__ import annotations

KNOWN: dict[str, dict[str, str]] = {}
