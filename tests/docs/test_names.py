"""The documents name things that are there.

`tcp/output.py:write_xmit` is a function in a file, from the package's folder or from the root
of the repository, `tcp/sock.py:TcpSock.arm` a method, `sock.wait.Op` a name by its module,
`TcpHost.catch_all` an attribute of a class of the package.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, code_words, documents, title
from ustack.sock.sysctl import Sysctl

PACKAGE = ROOT / "ustack"
_IN_A_FILE = re.compile(r"^([\w/.-]+\.py)(?::([\w.]+))?$")
_DOTTED = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
_FOLDER = re.compile(r"^(ustack|tests|tools|docs|\.ci)/[\w/.-]*$")
_PLACEHOLDER = "path.py"
_PARTS = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions, classes, methods, variables and attributes of a file, qualified."""
    return frozenset(_names(ast.parse(path.read_text()), "", False))


def _names(node: ast.AST, prefix: str, local: bool) -> Iterator[str]:
    """The names in `node`; `local` inside of functions, whose own variables do not count."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield prefix + child.name
            yield from _names(child, f"{prefix}{child.name}.", local)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name
            yield from _names(child, prefix, True)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store) and not local:
            yield prefix + child.id
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
            if isinstance(child.value, ast.Name) and child.value.id == "self":
                yield prefix + child.attr
        else:
            yield from _names(child, prefix, local)


def found(path: Path, name: str) -> bool:
    return path.is_file() and (not name or name in names_in(path))


def module_has(words: list[str]) -> bool:
    """Is `sock.wait.Op` a module, or a name in one?"""
    for n in range(len(words), 0, -1):
        path = PACKAGE.joinpath(*words[:n])
        rest = ".".join(words[n:])
        if not rest and path.is_dir():
            return True
        if found(path.with_suffix(".py"), rest) and (rest or path.with_suffix(".py").is_file()):
            return True
    return False


def class_has(name: str) -> bool:
    return any(name in names_in(path) for path in PACKAGE.rglob("*.py"))


def is_missing(word: str) -> bool:
    """Does `word` look like the name of something here, and is it not?"""
    if match := _IN_A_FILE.match(word):
        if match[1] == _PLACEHOLDER:
            return False
        name = match[2] or ""
        return not any(found(base / match[1], name) for base in (PACKAGE, ROOT))
    if _FOLDER.match(word):
        return not (ROOT / word).exists()
    if not _DOTTED.match(word):
        return False
    words = word.split(".")
    if words[0] == "ustack":
        import ustack

        return words[1] not in dir(ustack) and not module_has(words[1:])
    if words[0] in _PARTS:
        return not module_has(words)
    return words[0][0].isupper() and not class_has(word)


@pytest.mark.parametrize("path", documents(), ids=title)
def test_what_a_document_names_is_there(path: Path) -> None:
    assert [word for word in code_words(path) if is_missing(word)] == []


@pytest.mark.parametrize(
    "word",
    [
        "tcp/output.py:write_nothing", "tcp/nothing.py", "tcp/sock.py:TcpSock.nothing",
        "sock.wait.Nothing", "sock.nothing", "TcpHost.nothing", "tests/nothing/",
        "ustack.nothing", "tools/nothing.py",
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_found(word: str) -> None:
    assert is_missing(word)


@pytest.mark.parametrize(
    "word",
    [
        "tcp/output.py:write_xmit", "tcp/sock.py:TcpSock.arm", "sock.wait.Op", "sock.wait",
        "TcpHost.catch_all", "tests/kernel/", "ustack.open_tun", "tools/testbed.py:Routed.drop",
        "sk.snd_una", "a.b", "tcp_rmem", "10.9.0.2",
    ],
)  # fmt: skip
def test_a_name_that_is_there_passes(word: str) -> None:
    assert not is_missing(word)


def test_the_architecture_has_names_to_check() -> None:
    words = code_words(ROOT / "docs" / "architecture.md")
    assert sum(":" in word and _IN_A_FILE.match(word) is not None for word in words) > 80


def test_every_file_of_the_package_has_its_folder_described() -> None:
    words = set(code_words(ROOT / "docs" / "architecture.md"))
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders - words == set()


def test_settings_that_have_no_effect_are_listed() -> None:
    text = (ROOT / "docs" / "decisions" / "0006-sysctl-defaults.md").read_text()
    listed = re.findall(r"`(\w+)`", text.partition("have no effect today:")[2])
    sources = [path for path in PACKAGE.rglob("*.py") if path.name != "sysctl.py"]
    used = set(re.findall(r"\w+", " ".join(path.read_text() for path in sources)))
    assert sorted(listed) == sorted(set(Sysctl.__slots__) - used)
