"""Puts one side under test and the kernel peer into a test bed and measures work items.

The side under test is a process of its own, started once for each topology and left
running; the peer is one process a measurement. What the side under test used is read
from /proc around it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import testbed
from tools.bench.modes import Mode
from tools.bench.process import Usage

Result = dict[str, Any]
GIB = 1 << 30
SERVE_S = 20  # a server that has not started or answered by then is broken
SETTLE_S = 1.5  # delayed ACKs and the like are over before idleness is measured


@dataclass
class Options:
    seconds: float = 2.0
    runs: int = 3
    loss_permille: int = 10
    nbytes: int = 20_000_000
    ipv6: bool = False
    pin: bool = False
    profile: str | None = None


@dataclass(frozen=True)
class Side:
    """What is measured: `ustack`, `kernel` (epoll), `kernel-trio` (the program of ustack)."""

    stack: str
    offload: bool = True

    @property
    def label(self) -> str:
        return self.stack if self.offload else f"{self.stack} --no-offload"

    def argv(self) -> list[str]:
        if self.stack == "kernel":
            return [sys.executable, "-m", "tools.bench.kernel_server"]
        stack = "kernel" if self.stack == "kernel-trio" else "ustack"
        argv = [sys.executable, "-m", "tools.bench.server", "--stack", stack]
        return argv if self.offload else [*argv, "--no-offload"]

    def bed(self, routed: bool) -> testbed.Bed:
        if routed:
            return testbed.Routed(near_kernel=self.stack != "ustack")
        return testbed.Direct() if self.stack == "ustack" else testbed.Veth()


@dataclass
class Running:
    """A side under test, serving."""

    bed: testbed.Bed
    server: subprocess.Popen[str]
    usage: Usage = field(init=False)

    def __post_init__(self) -> None:
        self.usage = Usage(self.server.pid)

    def counters(self) -> dict[str, int]:
        assert self.server.stdin is not None
        self.server.stdin.write("counters\n")
        self.server.stdin.flush()
        counters: dict[str, int] = json.loads(read_line(self.server, SERVE_S))
        return counters


def read_line(child: subprocess.Popen[str], seconds: float) -> str:
    """The next line that a child prints, or BedError when none comes."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], seconds)[0]:
        raise testbed.BedError(f"{child.args!r} has said nothing for {seconds:.0f} s")
    line = child.stdout.readline()
    if not line:
        raise testbed.BedError(f"the process ended with status {child.wait()}")
    return line


class Bench:
    """Measures sides and modes as the options say."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @contextlib.contextmanager
    def running(self, side: Side, routed: bool) -> Iterator[Running]:
        argv = side.argv()
        profile = self.options.profile if side.stack == "ustack" else None
        sampled = profile is not None and Path(profile).suffix in (".svg", ".json")
        if profile is not None and not sampled:
            argv += ["--profile", profile]
        with side.bed(routed) as bed:
            server = bed.near.start(argv)
            self._pin(server.pid, 0)
            read_line(server, SERVE_S)
            with py_spy(server.pid, profile) if sampled else contextlib.nullcontext():
                yield Running(bed, server)

    def measure(self, side: Side, modes: list[Mode]) -> Iterator[tuple[Mode, Result]]:
        """Each of the modes, which share a topology, in one server process."""
        if not modes:
            return
        with self.running(side, modes[0].routed) as running:
            for mode in modes:
                yield mode, self._median(running, mode)

    def _median(self, running: Running, mode: Mode) -> Result:
        runs: list[Result] = []
        for _ in range(1 if mode.work == "idle" else self.options.runs):
            try:
                runs.append(self._once(running, mode))
            except (testbed.BedError, OSError, subprocess.TimeoutExpired) as exc:
                runs.append({"error": str(exc)})
        errors = [run["error"] for run in runs if "error" in run]
        good = sorted((run for run in runs if "error" not in run), key=lambda run: run["value"])
        result: Result = {"runs": [run.get("value") for run in runs], "errors": errors}
        if good:
            result |= good[statistics.median_low(range(len(good)))]
        if "standstill_ms" in result:
            result["standstill_ms"] = max(run["standstill_ms"] for run in good)
        return result

    def _once(self, running: Running, mode: Mode) -> Result:
        if mode.work == "idle":
            return self._idle(running, mode)
        routed = running.bed if isinstance(running.bed, testbed.Routed) else None
        if routed is not None:
            routed.drop(self.options.loss_permille)
        before = running.counters()
        cpu = running.usage.cpu_seconds()
        result = self._peer(running.bed, mode)
        if "error" in result:
            return result
        cpu = running.usage.cpu_seconds() - cpu
        after = running.counters()
        if routed is not None:
            result["dropped_to_stack"], result["dropped_to_peer"] = routed.dropped()
            retrans = after.get("TcpRetransSegs", 0) - before.get("TcpRetransSegs", 0)
            result["stack_retrans"] = retrans
        result["cpu_s"] = cpu
        if "bytes" in result:
            bits = result["bytes"] * 8 / result["seconds"]
            result["cpu_s_per_gib"] = cpu * GIB / result["bytes"]
            result["value"] = bits / (1e9 if mode.unit == "Gbit/s" else 1e6)
        else:
            result["value"] = result["count"] / result["seconds"]
        return result

    def _start_peer(self, bed: testbed.Bed, mode: Mode, count: int) -> subprocess.Popen[str]:
        address = testbed.NEAR6 if self.options.ipv6 else testbed.NEAR4
        argv = [sys.executable, "-m", "tools.bench.peer", mode.work, address]
        argv += ["--seconds", str(self.options.seconds), "--count", str(count)]
        child = bed.far.start([*argv, "--bytes", str(self.options.nbytes)])
        self._pin(child.pid, 1)
        return child

    def _peer(self, bed: testbed.Bed, mode: Mode) -> Result:
        # Short connections leave their ports in TIME_WAIT: many ports, and soon used again.
        bed.far.sysctl("net/ipv4/ip_local_port_range", "2100 65535")
        bed.far.sysctl("net/ipv4/tcp_tw_reuse", 1)
        child = self._start_peer(bed, mode, mode.count)
        result: Result = json.loads(read_line(child, self.options.seconds + 120))
        child.wait(5)
        return result

    def _idle(self, running: Running, mode: Mode) -> Result:
        """Memory of `count` idle connections, and what the process does while they idle."""
        usage, options = running.usage, self.options
        self._idle_peer(running.bed, mode, 1, lambda: None)
        time.sleep(SETTLE_S)
        empty = usage.rss_bytes()
        result: Result = {}

        def observe() -> None:
            time.sleep(SETTLE_S)
            result["value"] = (usage.rss_bytes() - empty) / 1000 / mode.count
            cpu, wakeups = usage.cpu_seconds(), usage.wakeups()
            time.sleep(options.seconds)
            result["cpu_percent"] = (usage.cpu_seconds() - cpu) / options.seconds * 100
            result["wakeups_per_s"] = (usage.wakeups() - wakeups) / options.seconds

        self._idle_peer(running.bed, mode, mode.count, observe)
        return result | {"rss_empty_mb": empty / 1e6}

    def _idle_peer(self, bed: testbed.Bed, mode: Mode, count: int, observe: Any) -> None:
        child = self._start_peer(bed, mode, count)
        line = read_line(child, 60)
        if line != "idle\n":
            raise testbed.BedError(json.loads(line)["error"])
        observe()
        testbed.stop(child)

    def _pin(self, pid: int, cpu: int) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        if self.options.pin and len(cpus) > 1:
            os.sched_setaffinity(pid, {cpus[cpu]})

    def iperf3(self) -> dict[str, float]:
        """Gbit/s of iperf3 over veth by mode name; empty without iperf3."""
        program = testbed.find_tool("iperf3")
        rates: dict[str, float] = {}
        if program is None:
            return rates
        with testbed.Veth() as bed:
            bed.near.start([program, "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.3)
            for mode, flags in (("bulk-in", []), ("bulk-out", ["-R"])):
                seconds = str(max(1, round(self.options.seconds)))
                argv = ["iperf3", "-c", testbed.NEAR4, "-t", seconds, "-J", *flags]
                report = json.loads(bed.far.run(argv))
                rates[mode] = report["end"]["sum_received"]["bits_per_second"] / 1e9
        return rates


@contextlib.contextmanager
def py_spy(pid: int, output: str | None) -> Iterator[None]:
    """Sample a process while the block runs: a flame graph (.svg) or speedscope (.json)."""
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None or output is None:
        raise testbed.BedError("py-spy is missing: pip install py-spy, or name a .pstats file")
    form = "flamegraph" if output.endswith(".svg") else "speedscope"
    argv = [program, "record", "-o", output, "-f", form, "-r", "500", "-p", str(pid)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as sampler:
        try:
            yield
        finally:
            sampler.send_signal(signal.SIGINT)
