"""python -m tools.bench: see `--help`, and docs/benchmarks.md for how to read the table."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import ustack
from tools import testbed
from tools.bench import modes, report
from tools.bench.modes import Mode
from tools.bench.runner import Bench, Options, Side

Result = dict[str, Any]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Measure the stack with a kernel peer, and the kernel itself beside it.",
    )
    add = parser.add_argument
    names = ",".join(mode.name for mode in modes.MODES)
    add("--only", metavar="MODE,...", help=f"of {names}")
    add("--sides", default="ustack,kernel", metavar="SIDE,...", help="of ustack,kernel,kernel-trio")
    add("--seconds", type=float, default=2.0, help="length of one run (default 2)")
    add("--runs", type=int, default=3, help="the median of so many (default 3)")
    add("--offload", action="store_true", help="only with offload")
    add("--no-offload", action="store_true", help="only without (default: both for bulk)")
    add("--loss", type=int, default=10, metavar="N", help="packets lost of 1000 (default 10)")
    add("--ipv6", action="store_true", help="over IPv6")
    add("--pin", action="store_true", help="the stack on the first CPU, the peer on the second")
    add("--json", metavar="FILE", help="write everything measured there")
    add(
        "--profile",
        metavar="FILE",
        help="profile the stack: cProfile, or py-spy for FILE.svg and FILE.json (speedscope)",
    )
    return parser.parse_args(argv)


def command(args: argparse.Namespace) -> str:
    """The command that measures the same again; where it writes to is left out."""
    words = []
    for name, default in vars(parse([])).items():
        value = getattr(args, name)
        if value != default and name not in ("json", "profile"):
            flag = "--" + name.replace("_", "-")
            words.append(flag if value is True else f"{flag} {value}")
    make = "make bench" if ustack.compiled else "make bench PURE=1"
    return f'{make} ARGS="{" ".join(words)}"' if words else make


def plan(args: argparse.Namespace) -> list[tuple[Side, list[Mode]]]:
    """Which modes each side runs, in one process each."""
    chosen = modes.select(args.only)
    known = ("ustack", "kernel", "kernel-trio")
    stacks = args.sides.split(",")
    if not set(stacks) <= set(known):
        raise ValueError(f"no such side: {args.sides} (there are: {', '.join(known)})")
    direct = [m for m in chosen if not m.routed and m.work != "idle"]
    routed = [m for m in chosen if m.routed]
    idle = [m for m in chosen if m.work == "idle"]
    steps: list[tuple[Side, list[Mode]]] = []
    for stack in stacks:
        if stack != "ustack":
            steps += [(Side(stack), direct), (Side(stack), routed), (Side(stack), idle)]
            continue
        if not args.no_offload:
            steps += [(Side(stack), direct)]
        if not args.offload:
            plain = direct if args.no_offload else [m for m in direct if m.name in modes.BULK]
            steps += [(Side(stack, offload=False), plain)]
        steps += [(Side(stack, offload=False), routed)]
        steps += [(Side(stack, offload=not args.no_offload), idle)]
    return [step for step in steps if step[1]]


def failed(step: list[Mode], done: set[str], error: str) -> list[tuple[Mode, Result]]:
    """Entries for the modes that a broken server leaves unmeasured."""
    return [(mode, {"errors": [error]}) for mode in step if mode.name not in done]


def measure(bench: Bench, steps: list[tuple[Side, list[Mode]]]) -> list[Result]:
    entries: list[Result] = []
    for side, chosen in steps:
        done: set[str] = set()

        def note(mode: Mode, result: Result, side: Side = side, done: set[str] = done) -> None:
            done.add(mode.name)
            entries.append(report.entry(mode, side.label, side.offload, result))
            text = result.get("value")
            shown = f"{report.number(text)} {mode.unit}" if text is not None else "failed"
            print(f"{mode.name:12} {side.label:20} {shown}", file=sys.stderr, flush=True)

        try:
            for mode, result in bench.measure(side, chosen):
                note(mode, result)
        except testbed.BedError as exc:
            for mode, result in failed(chosen, done, str(exc)):
                note(mode, result)
    order = {mode.name: i for i, mode in enumerate(modes.MODES)}
    return sorted(entries, key=lambda item: order[item["mode"]])


def run(args: argparse.Namespace) -> int:
    options = Options(args.seconds, args.runs, args.loss, ipv6=args.ipv6, pin=args.pin)
    options.profile = args.profile
    if args.profile and ustack.compiled:
        raise ValueError("profilers do not see into a compiled core: make bench PURE=1")
    steps = plan(args)
    problem = testbed.missing()
    if problem is not None:
        raise testbed.BedError(problem)
    about = report.machine()
    bench = Bench(options)
    entries = measure(bench, steps)
    bulk = {mode.name for _, chosen in steps for mode in chosen} & set(modes.BULK)
    rates = bench.iperf3() if bulk and "kernel" in args.sides.split(",") else {}
    for name in sorted(bulk & rates.keys()):
        entries.append(
            {
                "mode": name,
                "side": "kernel iperf3",
                "unit": "Gbit/s",
                "value": rates[name],
                "errors": [],
            }
        )
    report.add_ratios(entries)
    print(report.heading(about))
    print(report.table(entries))
    if args.json:
        found = {"machine": about, "command": command(args), "options": vars(args)}
        text = json.dumps(found | {"results": entries}, indent=1)
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    return 1 if any(item["errors"] for item in entries) else 0


def main() -> int:
    args = parse(sys.argv[1:])
    try:
        if os.geteuid() != 0:
            unshare = testbed.need_tool("unshare")
            again = [sys.executable, "-m", "tools.bench", *sys.argv[1:]]
            os.execv(unshare, [unshare, "--user", "--map-root-user", "--net", *again])
        return run(args)
    except (testbed.BedError, ValueError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, ValueError) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
