"""What a machine can run, and how loudly it says what it cannot.

Tests marked `kernel` or `needs(...)` skip where the machine lacks something, and fail
instead when USTACK_REQUIRE_KERNEL=1, as CI sets: a green run there has skipped nothing
for lack of a capability. Every such skip is listed at the end of the run.

With USTACK_REQUIRE_COMPILED=1, as `make test-fast` sets, a run of the source code fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

from tools.compiled import compiled_modules

MISSING = "missing capability: "

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=2000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def not_compiled() -> list[str]:
    """The modules of the core that would be, or have been, imported from source."""
    specs = {name: find_spec(name) for name in compiled_modules()}
    return [
        name
        for name, spec in specs.items()
        if spec is None or not isinstance(spec.loader, ExtensionFileLoader)
    ]


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("USTACK_REQUIRE_COMPILED") == "1" and (wrong := not_compiled()):
        raise pytest.UsageError(f"not compiled: {' '.join(wrong)}")


@cache
def missing_for_kernel() -> str | None:
    """What keeps this machine from running tests marked `kernel`, None if nothing."""
    if os.geteuid() != 0:
        return "root (run as root)"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun (modprobe tun; mknod /dev/net/tun c 10 200)"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as why:
        return f"/dev/net/tun ({why.strerror})"
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare and ip (apt install util-linux iproute2)"
    script = "ip tuntap add dev probe mode tun && ip link set probe up"
    probe = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        return f"a TUN in a new network namespace ({probe.stderr.strip()})"
    return None


def missing_for(item: pytest.Item) -> str | None:
    """What keeps this machine from running `item`, None if nothing."""
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if shutil.which(program) is None:
                return f"the program {program}"
    if item.get_closest_marker("kernel") is not None:
        return missing_for_kernel()
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = missing_for(item)
    if missing is None:
        return
    if os.environ.get("USTACK_REQUIRE_KERNEL") == "1":
        pytest.fail(MISSING + missing, pytrace=False)
    pytest.skip(MISSING + missing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every test that did not run because this machine lacks something."""
    lines = []
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if MISSING in reason:
            lines.append(f"  {report.nodeid}: {reason.split(MISSING, 1)[1]}")
    if lines:
        terminalreporter.section("NOT TESTED ON THIS MACHINE", sep="!", red=True, bold=True)
        terminalreporter.write_line("\n".join(lines))
        terminalreporter.write_line(
            f"{len(lines)} tests were skipped because this machine lacks something; "
            "USTACK_REQUIRE_KERNEL=1 makes them fail instead."
        )
