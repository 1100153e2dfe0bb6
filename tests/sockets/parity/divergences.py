"""Where ustack is known to differ from the kernel, strictly.

Scenario (`file.py::test[parameters]`) -> rule in force where the traces part (`Trial.rule`)
-> why. A scenario listed here must diverge, first at that rule; when it no longer does its
test fails until the entry is taken out.
"""

from __future__ import annotations

_FAST_PATH = "the kernel's fast path does not count a pure ACK that is too old as a drop"

_PACING = "SO_MAX_PACING_RATE is kept but not enforced: that comes with BBR"
_NO_RATE = "a SO_MAX_PACING_RATE of 0 means none: that comes with BBR"

KNOWN: dict[str, dict[str, str]] = {
    "test_y26_recovery.py::test_pacing_rate[ipv4]": {"D-50": _PACING},
    "test_y26_recovery.py::test_pacing_rate[ipv6]": {"D-50": _PACING},
    **{
        f"test_y35_errnos.py::test_options[socket-{kind}-{family}]": {"G.8 option 1 47": _NO_RATE}
        for kind in ("tcp", "udp")
        for family in ("ipv4", "ipv6")
    },
    "test_y22_validation.py::test_ack_field[ancient-ipv4]": {"C-27": _FAST_PATH},
    "test_y22_validation.py::test_ack_field[ancient-ipv6]": {"C-27": _FAST_PATH},
}
