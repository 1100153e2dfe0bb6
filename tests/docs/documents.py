"""The documents of this repository, and what tests look for in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def documents() -> list[Path]:
    """Every Markdown file, by path."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def examples(path: Path) -> list[str]:
    """The Python blocks of a document."""
    return [block for language, block in _FENCE.findall(path.read_text()) if language == "python"]


def code_words(path: Path) -> list[str]:
    """What stands in backquotes, outside of blocks."""
    return _CODE.findall(_FENCE.sub("", path.read_text()))


def links(path: Path) -> list[str]:
    """The targets of links, outside of code."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", path.read_text())))


def title(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
