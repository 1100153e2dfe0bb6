"""Check `docs/kernel-parity.md`: every rule has a row, and what the rows name is there.

The rules are those of `docs/kernel-rules.txt`, one a line. A row says what in the kernel
and what here does it, which tests show it, and what is known to differ. A test is
`path::name`, `parity/` standing for `tests/sockets/parity/`; in its place there may be
"out: reason" for what does not apply here, or "not yet: reason", which is counted and
printed. A rule at which a scenario of `tests/sockets/parity/divergences.py` is known to
part from the kernel must say so in its last column.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

_ROW = re.compile(r"^\|\s*([A-G]-\d+)\s*\|(.*)\|\s*$")
_TEST = re.compile(r"`([\w/.-]+\.py)::([\w.]+)`")
_RULE = re.compile(r"^[A-G]-\d+$")
_INSTEAD = re.compile(r"^(out|not yet): \S")
PARITY = "tests/sockets/parity/"


def rows(document: str) -> list[tuple[str, list[str]]]:
    """(rule, the other cells) of each row, in order."""
    found = []
    for line in document.splitlines():
        if match := _ROW.match(line):
            found.append((match[1], [cell.strip() for cell in match[2].split("|")]))
    return found


@cache
def tests_in(path: Path) -> frozenset[str]:
    """The tests of a file: functions, and methods as `Class.name`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(names)


def divergent(path: Path) -> set[str]:
    """The rules that the table of known divergences names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _RULE.match(node.value):
                found.add(node.value)
    return found


def row_problems(root: Path, rule: str, cells: list[str]) -> list[str]:
    """What is wrong with one row."""
    if len(cells) != 4:
        return [f"{rule}: {len(cells) + 1} cells instead of 5"]
    tests = cells[2]
    if _INSTEAD.match(tests):
        return []
    problems = []
    named = _TEST.findall(tests)
    if not named:
        problems.append(f"{rule}: names no test, and no reason why")
    for where, name in named:
        path = root / re.sub(r"^parity/", PARITY, where)
        if not path.is_file() or name not in tests_in(path):
            problems.append(f"{rule}: no test {where}::{name}")
    return problems


def check(root: Path) -> tuple[list[str], list[str]]:
    """(problems, rows that say "not yet")."""
    wanted = (root / "docs/kernel-rules.txt").read_text().split()
    table = rows((root / "docs/kernel-parity.md").read_text())
    known = divergent(root / PARITY / "divergences.py")
    have = [rule for rule, _ in table]
    problems = [f"{rule}: has no row" for rule in wanted if rule not in have]
    problems += [f"{rule}: is no rule" for rule in have if rule not in wanted]
    problems += [f"{rule}: has two rows" for rule in set(have) if have.count(rule) > 1]
    waiting = []
    for rule, cells in table:
        problems += row_problems(root, rule, cells)
        if len(cells) == 4 and cells[2].startswith("not yet:"):
            waiting.append(f"{rule}: {cells[2]}")
        if rule in known and not cells[-1]:
            problems.append(f"{rule}: diverges, and its row does not say how")
    return problems, waiting


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    problems, waiting = check(root)
    for line in waiting:
        print(line)
    print(f"{len(waiting)} rules are not yet covered")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
