"""The benchmark's answer: a table for people, JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.bench.modes import STANDSTILL_CEILING_MS, Mode

Result = dict[str, Any]
HEADER = ("work", "side", "result", "runs", "must reach", "of kernel", "p50/p99 us", "CPU", "notes")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],  # figures taken beside other work are worth less
    }


def entry(mode: Mode, label: str, offload: bool, result: Result) -> Result:
    """One line of the JSON: a result with its mode and what it had to reach."""
    ours = label.startswith("ustack")
    floor = mode.floor_for(offload) if ours else None
    return {"mode": mode.name, "side": label, "unit": mode.unit, "floor": floor, **result} | (
        {"less_is_better": True} if mode.less_is_better else {}
    )


def add_ratios(entries: list[Result]) -> None:
    """Put next to each of our figures its share of the kernel's in the same run."""
    kernel = {e["mode"]: e["value"] for e in entries if e["side"] == "kernel" and e.get("value")}
    for item in entries:
        if item["side"] != "kernel" and item.get("value") and item["mode"] in kernel:
            item["of_kernel"] = item["value"] / kernel[item["mode"]]


def number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def table(entries: Iterable[Result]) -> str:
    rows = [HEADER, *(_row(item) for item in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _row(item: Result) -> tuple[str, ...]:
    if item.get("value") is None:
        error = "; ".join(item["errors"]) or "no result"
        return (item["mode"], item["side"], "failed", "", "", "", "", "", error)
    runs = [value for value in item.get("runs", ()) if value is not None]
    spread = f"{number(min(runs))}-{number(max(runs))}" if len(runs) > 1 else ""
    ratio = f"{item['of_kernel']:.2f}" if "of_kernel" in item else ""
    delay = f"{item['p50_us']:.0f}/{item['p99_us']:.0f}" if "p50_us" in item else ""
    result = f"{number(item['value'])} {item['unit']}"
    return (
        *(item["mode"], item["side"], result, spread, _floor(item), ratio, delay),
        *(_cpu(item), _notes(item)),
    )


def _floor(item: Result) -> str:
    floor = item.get("floor")
    if floor is None:
        return ""
    good = item["value"] <= floor if item.get("less_is_better") else item["value"] >= floor
    sign = "<=" if item.get("less_is_better") else ">="
    return f"{sign}{floor:,g} {'yes' if good else 'NO'}"


def _cpu(item: Result) -> str:
    if "cpu_percent" in item:
        return f"{item['cpu_percent']:.2f} %"
    if "cpu_s_per_gib" in item:
        return f"{item['cpu_s_per_gib']:.2f} s/GiB"
    if "cpu_s" in item and item.get("seconds"):
        share = item["cpu_s"] / item["seconds"] * 100
        return f"{share:.0f} %, {item['cpu_s'] / item['count'] * 1e6:.0f} us each"
    return ""


def _notes(item: Result) -> str:
    notes = []
    if "standstill_ms" in item:
        late = " (too long)" if item["standstill_ms"] > STANDSTILL_CEILING_MS else ""
        notes.append(f"standstill {item['standstill_ms']:.0f} ms{late}")
    if "dropped_to_stack" in item:
        notes.append(f"dropped {item['dropped_to_stack']}+{item['dropped_to_peer']}")
        sender = "peer_retrans" if "peer_retrans" in item else "stack_retrans"
        notes.append(f"RetransSegs {item[sender]}")
    if "wakeups_per_s" in item:
        notes.append(f"{item['wakeups_per_s']:.1f} wake-ups/s")
    for name in ("lost", "failures"):
        if item.get(name):
            notes.append(f"{item[name]} {name}")
    if item.get("ports_used_up"):
        notes.append("ran out of ports")
    notes.extend(item["errors"])
    return ", ".join(notes)
