"""Check the size gates that ruff has no rule for: lines a function, lines a file.

Exemptions are rows of the tables in `docs/decisions/*.md` whose first cell is
`path.py` or `path.py::Qualified.name` in backquotes and whose second is the number of
lines allowed. Suppressing ruff's own size rules needs such a row as well. A row that
exempts nothing is reported, so that the table stays true.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FUNCTION_LINES = 60
FILE_LINES = 700
FOLDERS = ("ustack", "tools", "tests")

_ROW = re.compile(r"^\|\s*`([^`|]+\.py(?:::[^`|]+)?)`\s*\|\s*(\d+)\s*\|\s*(\S.*?)\s*\|\s*$")
_NOQA = re.compile(r"#\s*noqa:.*\b(C901|PLR0912|PLR0915)\b")


def exemptions(decisions: Path) -> dict[str, int]:
    """The exempted files and functions with the lines allowed to each."""
    found: dict[str, int] = {}
    for document in sorted(decisions.glob("*.md")):
        for line in document.read_text().splitlines():
            if row := _ROW.match(line):
                found[row[1]] = int(row[2])
    return found


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """(qualified name, first line, last line) of every function, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}" if prefix else node.name
            if not isinstance(node, ast.ClassDef):
                yield name, node.lineno, node.end_lineno or node.lineno
        yield from functions(node, name)


class Checker:
    """Collects the problems of one tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.exempt = exemptions(root / "docs" / "decisions")
        self.used: set[str] = set()
        self.problems: list[str] = []

    def check_lines(self, what: str, lines: int, limit: int, where: str) -> None:
        if lines <= limit:
            return
        if what in self.exempt:
            self.used.add(what)
            limit = self.exempt[what]
        if lines > limit:
            self.problems.append(f"{where}: {what} has {lines} lines, at most {limit} allowed")

    def check_file(self, path: Path) -> None:
        name = path.relative_to(self.root).as_posix()
        text = path.read_text()
        lines = text.splitlines()
        self.check_lines(name, len(lines), FILE_LINES, name)
        for qualname, first, last in functions(ast.parse(text, name)):
            what, where = f"{name}::{qualname}", f"{name}:{first}"
            self.check_lines(what, last - first + 1, FUNCTION_LINES, where)
            if rule := _NOQA.search(lines[first - 1]):
                if what in self.exempt:
                    self.used.add(what)
                else:
                    self.problems.append(f"{where}: {rule[1]} is suppressed without an exemption")

    def run(self) -> list[str]:
        for folder in FOLDERS:
            for path in sorted((self.root / folder).rglob("*.py")):
                self.check_file(path)
        for what in sorted(self.exempt.keys() - self.used):
            self.problems.append(f"docs/decisions: the exemption of {what} is not needed")
        return self.problems


def main(argv: list[str]) -> int:
    root = Path(argv[1]) if len(argv) > 1 else Path(__file__).resolve().parent.parent
    problems = Checker(root).run()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
