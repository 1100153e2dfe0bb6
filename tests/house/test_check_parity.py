"""The table of rules is checked against rules, tests and known divergences."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_parity import check

HEAD = "| rule | kernel | ustack | test | known difference |\n|---|---|---|---|---|\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    folder = tmp_path / "tests/sockets/parity"
    folder.mkdir(parents=True)
    (folder / "test_a.py").write_text(
        "def test_one(): ...\nclass TestC:\n    def test_two(): ...\n"
    )
    (folder / "divergences.py").write_text('KNOWN = {"x": {"B-2": "why"}}\n')
    (tmp_path / "docs/kernel-rules.txt").write_text("A-1\nB-2\n")
    return tmp_path


def table(tree: Path, *lines: str) -> tuple[list[str], list[str]]:
    (tree / "docs/kernel-parity.md").write_text(HEAD + "\n".join(lines) + "\n")
    return check(tree)


GOOD_A = "| A-1 | `f` | `g` | `parity/test_a.py::test_one` |  |"
GOOD_B = "| B-2 | `f` | `g` | `tests/sockets/parity/test_a.py::TestC.test_two` | it differs |"


def test_a_good_table(tree: Path) -> None:
    assert table(tree, GOOD_A, GOOD_B) == ([], [])


def test_not_yet_is_counted_and_out_is_not(tree: Path) -> None:
    waiting = "| A-1 | `f` | `g` | not yet: later |  |"
    assert table(tree, waiting, GOOD_B) == ([], ["A-1: not yet: later"])
    assert table(tree, waiting.replace("not yet", "out"), GOOD_B) == ([], [])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((GOOD_A,), "B-2: has no row"),
        ((GOOD_A, GOOD_B, GOOD_A), "A-1: has two rows"),
        ((GOOD_A, GOOD_B, "| C-9 | | | out: x |  |"), "C-9: is no rule"),
        ((GOOD_A.replace("test_one", "test_x"), GOOD_B), "A-1: no test parity/test_a.py::test_x"),
        ((GOOD_A.replace("test_a", "test_b"), GOOD_B), "A-1: no test parity/test_b.py::test_one"),
        ((GOOD_A.replace("`parity/test_a.py::test_one`", ""), GOOD_B),
         "A-1: names no test, and no reason why"),
        ((GOOD_A.replace("|  |", "|"), GOOD_B), "A-1: 4 cells instead of 5"),
        ((GOOD_A, GOOD_B.replace("it differs", "")), "B-2: diverges, and its row does not say how"),
    ],
)  # fmt: skip
def test_a_bad_table(tree: Path, lines: tuple[str, ...], problem: str) -> None:
    problems, _ = table(tree, *lines)
    assert problem in problems


def test_the_table_of_this_repository() -> None:
    problems, _ = check(Path(__file__).resolve().parents[2])
    assert problems == []
