"""The benchmark's answer: a table for people, JSON for programs, and the docs' table.

    python -m tools.bench.report FILE.json [--into DOCUMENT.md]

prints a file that `make bench ARGS="--json FILE.json"` has written as a Markdown table, or
puts it into a document, between the two lines that mark the place.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ustack
from tools.bench.modes import MODES, STANDSTILL_CEILING_MS, Mode

Result = dict[str, Any]
BEGIN = "<!-- figures: python -m tools.bench.report -->"
END = "<!-- end of figures -->"
HEADER = ("work", "side", "result", "runs", "must reach", "of kernel", "p50/p99 us", "CPU", "notes")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],  # figures taken beside other work are worth less
        "core": "compiled" if ustack.compiled else "interpreted",
    }


def heading(about: dict[str, Any]) -> str:
    """`machine()` in a line."""
    words = [f"{key} {value}" for key, value in about.items() if key != "core"]
    return ", ".join([f"{about['core']} core", *words])


def entry(mode: Mode, label: str, offload: bool, result: Result) -> Result:
    """One line of the JSON: a result with its mode and what it had to reach."""
    ours = label.startswith("ustack")
    floor = mode.floor_for(offload) if ours else None
    return {"mode": mode.name, "side": label, "unit": mode.unit, "floor": floor, **result} | (
        {"less_is_better": True} if mode.less_is_better else {}
    )


def add_ratios(entries: list[Result]) -> None:
    """Put next to each of our rates its share of the kernel's in the same run. Memory has
    none: a kernel socket's is the kernel's own, and not seen in the process."""
    kernel = {e["mode"]: e["value"] for e in entries if e["side"] == "kernel" and e.get("value")}
    for item in entries:
        if item["side"] == "kernel" or item.get("less_is_better"):
            continue
        if item.get("value") and item["mode"] in kernel:
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


# -- the table of the docs -----------------------------------------------------------------


def markdown(run: Result) -> str:
    """A run as the JSON file has it: what was measured on what, and one row a work item."""
    found: dict[str, dict[str, Result]] = {}
    for item in run["results"]:
        found.setdefault(item["mode"], {})[item["side"]] = item
    columns = ("work", "ustack", "ustack `--no-offload`", "kernel", "of kernel", "notes")
    rows = [columns, ("---",) * len(columns)]
    rows += [_markdown_row(mode.name, found[mode.name]) for mode in MODES if mode.name in found]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([_conditions(run), "", *lines])


def _conditions(run: Result) -> str:
    about, options = run["machine"], run["options"]
    family = "IPv6" if options["ipv6"] else "IPv4"
    return (
        f"Measured on {about['date']}: Linux {about['kernel']}, {about['python']}, "
        f"{about['cpu']}, {about['cpus']} CPUs, load {about['load']:.2f} at the start; "
        f"{about['core']} core; "
        f"`{run['command']}`. Medians of {options['runs']} runs of {options['seconds']:g} s, "
        f"{family}, MTU 1500. In brackets: what must be reached."
    )


def _markdown_row(name: str, sides: dict[str, Result]) -> tuple[str, ...]:
    ours = [sides[side] for side in ("ustack", "ustack --no-offload") if side in sides]
    kernel = _cell(sides.get("kernel"))
    if "kernel iperf3" in sides:
        kernel += f"; iperf3 {_cell(sides['kernel iperf3'])}"
    ratio = next((f"{item['of_kernel']:.2f}" for item in ours if "of_kernel" in item), "")
    notes = next((_markdown_notes(item) for item in ours if item.get("value") is not None), "")
    plain = _cell(sides.get("ustack --no-offload"))
    return (f"`{name}`", _cell(sides.get("ustack")), plain, kernel, ratio, notes)


def _cell(item: Result | None) -> str:
    if item is None:
        return ""
    if item.get("value") is None:
        return "failed"
    text = f"{number(item['value'])} {item['unit']}"
    sign, _, verdict = _floor(item).partition(" ")
    if verdict:
        text += f" ({sign}{'' if verdict == 'yes' else ', **missed**'})"
    return text


def _markdown_notes(item: Result) -> str:
    delay = f"p50/p99 {item['p50_us']:.0f}/{item['p99_us']:.0f} us" if "p50_us" in item else ""
    idle = _cpu(item) + " CPU" if "cpu_percent" in item else ""
    return ", ".join(part for part in (delay, idle, _notes(item)) if part)


def replaced(document: str, figures: str) -> str:
    """`document` with `figures` between its marks. ValueError if it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in it")
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.report",
        description="Print a benchmark's JSON as a Markdown table.",
    )
    parser.add_argument("file", type=Path, help="what `make bench ARGS='--json FILE'` has written")
    parser.add_argument("--into", type=Path, metavar="DOCUMENT", help="replace the table there")
    args = parser.parse_args(argv)
    try:
        figures = markdown(json.loads(args.file.read_text(encoding="utf-8")))
        if args.into is None:
            print(figures)
        else:
            document = replaced(args.into.read_text(encoding="utf-8"), figures)
            args.into.write_text(document, encoding="utf-8")
    except (OSError, ValueError, KeyError) as exc:
        print(f"report: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
