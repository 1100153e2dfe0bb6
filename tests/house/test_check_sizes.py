"""The size gate finds what it must, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_sizes import Checker, main


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "ustack").mkdir()
    (tmp_path / "docs" / "decisions").mkdir(parents=True)
    return tmp_path


def function(name: str, lines: int, indent: str = "", note: str = "") -> str:
    body = "".join(f"{indent}    x = {n}\n" for n in range(lines - 1))
    return f"{indent}def {name}():{note}\n{body}"


def exempt(tree: Path, what: str, limit: int) -> None:
    table = f"# x\n\n| What | Limit | Reason |\n|---|---|---|\n| `{what}` | {limit} | a table |\n"
    (tree / "docs" / "decisions" / "0001-x.md").write_text(table)


def test_limits_are_inclusive(tree: Path) -> None:
    source = function("f", 60) + "\n" * 640
    (tree / "ustack" / "a.py").write_text(source)
    assert Checker(tree).run() == []
    (tree / "ustack" / "a.py").write_text(function("f", 61) + "\n" * 640)
    assert Checker(tree).run() == [
        "ustack/a.py: ustack/a.py has 701 lines, at most 700 allowed",
        "ustack/a.py:1: ustack/a.py::f has 61 lines, at most 60 allowed",
    ]
    assert main(["check_sizes", str(tree)]) == 1


def test_methods_and_nested_functions_are_found(tree: Path) -> None:
    source = "class C:\n    if True:\n" + function("m", 61, "        ")
    (tree / "ustack" / "a.py").write_text(source)
    assert Checker(tree).run() == [
        "ustack/a.py:3: ustack/a.py::C.m has 61 lines, at most 60 allowed"
    ]


def test_an_exemption_raises_the_limit_to_its_own(tree: Path) -> None:
    (tree / "ustack" / "a.py").write_text(function("f", 70))
    exempt(tree, "ustack/a.py::f", 70)
    assert Checker(tree).run() == []
    exempt(tree, "ustack/a.py::f", 69)
    assert Checker(tree).run() == ["ustack/a.py:1: ustack/a.py::f has 70 lines, at most 69 allowed"]


def test_an_exemption_that_is_not_needed_is_an_error(tree: Path) -> None:
    (tree / "ustack" / "a.py").write_text(function("f", 5))
    exempt(tree, "ustack/a.py::f", 70)
    assert Checker(tree).run() == ["docs/decisions: the exemption of ustack/a.py::f is not needed"]


def test_suppressing_a_size_rule_needs_an_exemption(tree: Path) -> None:
    (tree / "ustack" / "a.py").write_text(function("f", 5, note="  # noqa: PLR0915"))
    assert Checker(tree).run() == ["ustack/a.py:1: PLR0915 is suppressed without an exemption"]
    exempt(tree, "ustack/a.py::f", 60)
    assert Checker(tree).run() == []
    assert main(["check_sizes", str(tree)]) == 0
