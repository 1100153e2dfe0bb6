"""The benchmark's own bookkeeping, and a short run of it between kernels. Nothing is timed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ustack
from tools.bench import __main__ as bench
from tools.bench import compare, modes, report, service

BULK_IN = modes.MODES[0]


def result(value: float | None, **more: Any) -> dict[str, Any]:
    return {"value": value, "runs": [value], "errors": [], **more}


def test_modes_are_selected_by_name() -> None:
    assert [mode.name for mode in modes.select("idle-1000,bulk-in")] == ["idle-1000", "bulk-in"]
    assert modes.select(None) == list(modes.MODES)
    with pytest.raises(ValueError, match="no such mode: bulk"):
        modes.select("bulk")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [("ustack", ["bulk-in", "idle-1000"]), ("ustack --no-offload", ["bulk-in"])]),
        (["--offload"], [("ustack", ["bulk-in", "idle-1000"])]),
        (["--no-offload"], [("ustack --no-offload", ["bulk-in", "idle-1000"])]),
    ],
)
def test_offload_is_one_mode_or_both(flags: list[str], expected: list[Any]) -> None:
    steps = bench.plan(bench.parse(["--only", "bulk-in,idle-1000", "--sides", "ustack", *flags]))
    planned: dict[str, list[str]] = {}
    for side, chosen in steps:
        planned.setdefault(side.label, []).extend(mode.name for mode in chosen)
    assert {label: sorted(names) for label, names in planned.items()} == dict(expected)


def test_routed_modes_run_without_offload_only() -> None:
    steps = bench.plan(bench.parse(["--only", "loss-in", "--sides", "ustack,kernel"]))
    assert [side.label for side, _ in steps] == ["ustack --no-offload", "kernel"]


def test_ratios_are_against_the_kernel_of_the_same_run() -> None:
    entries = [
        report.entry(BULK_IN, "ustack", True, result(12.0)),
        report.entry(BULK_IN, "ustack --no-offload", False, result(0.4)),
        report.entry(BULK_IN, "kernel", True, result(48.0)),
    ]
    report.add_ratios(entries)
    assert entries[0]["of_kernel"] == 0.25
    assert "of_kernel" not in entries[2]
    assert [entry["floor"] for entry in entries] == [10, 0.45, None]
    lines = report.table(entries).splitlines()
    assert ">=10 yes" in lines[2]
    assert ">=0.45 NO" in lines[3]


def test_memory_is_better_when_it_is_less() -> None:
    idle = modes.select("idle-1000")[0]
    lines = report.table([report.entry(idle, "ustack", True, result(15.0))]).splitlines()
    assert "<=16 yes" in lines[2]


def test_a_failed_mode_is_a_line_with_its_reason() -> None:
    entry = report.entry(BULK_IN, "ustack", True, {"errors": ["no TUN"]})
    assert "failed" in report.table([entry])
    assert "no TUN" in report.table([entry])


def test_a_receipt_measures_from_the_first_byte_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([5_000_000_000, 5_100_000_000, 5_450_000_000])
    monkeypatch.setattr(service.time, "monotonic_ns", lambda: next(clock))
    receipt = service.Receipt(7)
    for part in (b"abc", b"de", b"fg"):
        receipt.room()[: len(part)] = part
        receipt.got(len(part))
    seen = receipt.result()
    assert seen["sha256"] == hashlib.sha256(b"abcdefg").hexdigest()
    assert (seen["bytes"], seen["seconds"], seen["standstill_ms"]) == (7, 0.45, 350.0)


@pytest.mark.kernel
@pytest.mark.needs("nft", "ethtool")
@pytest.mark.parametrize(
    ("sides", "names"),
    [
        pytest.param("kernel", ["pingpong-1", "loss-in"], id="two-modes"),
        pytest.param(
            "kernel,kernel-trio",
            [mode.name for mode in modes.MODES],
            id="all",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_modes_run_between_kernels(sides: str, names: list[str], tmp_path: Path) -> None:
    """The epoll reference, and the trio server on kernel sockets, for a tenth of a second."""
    output = tmp_path / "bench.json"
    argv = ["--sides", sides, "--seconds", "0.1", "--runs", "1", "--only", ",".join(names)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", *argv, "--json", str(output)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["results"]
    for name in names:
        values = {e["side"]: e["value"] for e in found if e["mode"] == name}
        assert set(sides.split(",")) <= values.keys()
        assert name == "idle-1000" or all(value > 0 for value in values.values())
        assert name in done.stdout
    loss = [entry for entry in found if entry["mode"].startswith("loss")]
    assert all(entry["dropped_to_stack"] + entry["dropped_to_peer"] > 0 for entry in loss)


MACHINE = {
    "date": "2026-01-02",
    "kernel": "6.18.0",
    "python": "CPython 3.11.7",
    "cpu": "Fast",
    "cpus": 2,
    "load": 0.25,
    "core": "compiled",
}


def a_run() -> dict[str, Any]:
    """A run of two modes as the JSON file has it."""
    args = bench.parse(["--only", "bulk-in,loss-out", "--runs", "1", "--json", "there"])
    loss = modes.select("loss-out")[0]
    entries = [
        report.entry(BULK_IN, "ustack", True, result(12.0)),
        report.entry(BULK_IN, "ustack --no-offload", False, result(0.4)),
        report.entry(BULK_IN, "kernel", True, result(48.0)),
        report.entry(BULK_IN, "kernel iperf3", True, result(44.0)),
        report.entry(
            loss, "ustack --no-offload", False,
            result(300.0, standstill_ms=40.0, dropped_to_stack=3, dropped_to_peer=4,
                   stack_retrans=5),
        ),
    ]  # fmt: skip
    report.add_ratios(entries)
    options = {**vars(args)}
    made = {"machine": MACHINE, "command": bench.command(args), "options": options}
    return made | {"results": entries}


def test_the_heading_says_which_core() -> None:
    assert report.heading(MACHINE).startswith("compiled core, date 2026-01-02, kernel 6.18.0")
    assert report.machine()["core"] == ("compiled" if ustack.compiled else "interpreted")


def test_a_compiled_core_is_not_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ustack, "compiled", True, raising=False)
    with pytest.raises(ValueError, match="make bench PURE=1"):
        bench.run(bench.parse(["--profile", "x.pstats"]))


def test_the_table_of_the_docs() -> None:
    lines = report.markdown(a_run()).splitlines()
    assert lines[0].startswith("Measured on 2026-01-02: Linux 6.18.0, CPython 3.11.7, Fast, 2 CPUs")
    pure = "" if ustack.compiled else " PURE=1"
    assert f'compiled core; `make bench{pure} ARGS="--only bulk-in' in lines[0]
    assert lines[4:] == [
        "| `bulk-in` | 12.0 Gbit/s (>=10) | 0.4 Gbit/s (>=0.45, **missed**) |"
        " 48.0 Gbit/s; iperf3 44.0 Gbit/s | 0.25 |  |",
        "| `loss-out` |  | 300.0 Mbit/s (>=250) |  |  |"
        " standstill 40 ms, dropped 3+4, RetransSegs 5 |",
    ]


def test_the_table_replaces_the_one_in_a_document(tmp_path: Path) -> None:
    run, document = tmp_path / "run.json", tmp_path / "x.md"
    run.write_text(json.dumps(a_run()))
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        assert report.main([str(run), "--into", str(document)]) == 0
        text = document.read_text()
        assert text.startswith(f"before\n{report.BEGIN}\n\nMeasured on")
        assert text.endswith(f" |\n\n{report.END}\nafter\n")
        assert "old" not in text


def test_a_document_without_a_place_for_the_table(tmp_path: Path, capsys: Any) -> None:
    run, document = tmp_path / "run.json", tmp_path / "x.md"
    run.write_text(json.dumps(a_run()))
    document.write_text("nothing here")
    assert report.main([str(run), "--into", str(document)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert document.read_text() == "nothing here"


def test_interval_of_a_median() -> None:
    """Ranks from the tables for the sign test: nine values 2 and 8, twelve values 3 and 10."""
    assert compare.interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)
    assert compare.interval([float(i) for i in range(1, 13)]) == (3, 10)
    assert compare.interval([2.0, 1.0, 3.0]) == (1, 3)  # too few for 95 %


@pytest.mark.kernel
def test_comparing_a_tree_with_itself() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.compare", ".", ".", "--runs", "1", "--seconds", "0.2",
         "--only", "bulk-in,pingpong-1"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[:4] == ["work", "before", "after", "change"]
    assert {row.split(",")[0] for row in rows} == {
        "bulk-in ustack", "bulk-in ustack --no-offload", "pingpong-1 ustack",
    }  # fmt: skip
    for row in rows:
        before, after, change = row.split()[-6:-3]
        assert float(before) > 0
        assert float(after) > 0
        percent = 100 * (float(after) / float(before) - 1)
        assert float(change.rstrip("%")) == pytest.approx(percent, abs=1)


def test_what_is_no_tree(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.compare", str(tmp_path), "."],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "give a checkout or its build/fast" in done.stderr
