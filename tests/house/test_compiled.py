"""What is compiled, when it is compiled again, and what is said where it cannot be.

That the result works is what `make test-fast` shows.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import ustack
from tools import compiled

ROOT = compiled.ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small package that looks like ours."""
    for name in (*compiled.CORE, "sockets"):
        path = tmp_path / "ustack" / name
        if path.suffix:
            path.write_text("")
        else:
            path.mkdir(parents=True)
            (path / "__init__.py").write_text("")
            (path / "a.py").write_text("A = 1\n")
    return tmp_path


def test_the_core_is_compiled_and_nothing_else() -> None:
    modules = compiled.compiled_modules()
    assert {"ustack.stack", "ustack.tcp.output", "ustack.tcp.congestion.cubic"} <= set(modules)
    there = {name.split(".")[1] for name in modules}
    assert there == {"wire", "sock", "tcp", "udp", "ping", "ip", "link", "stack"}
    assert "ustack.tcp" not in modules
    assert all(find_spec(name) is not None for name in modules)


def test_no_extension_module_is_in_the_source_tree() -> None:
    assert list((ROOT / "ustack").rglob("*.so")) == []


def test_compiled_is_what_the_import_system_says() -> None:
    spec = find_spec("ustack.tcp.output")
    assert spec is not None
    assert spec.origin is not None
    assert ustack.compiled == spec.origin.endswith(".so")


def test_a_source_that_changes_changes_the_stamp(tree: Path) -> None:
    seen = {compiled.stamp(tree)}
    assert compiled.stamp(tree) in seen
    for name in ("tcp/a.py", "sockets/a.py", "stack.py", "tcp/__init__.py"):
        (tree / "ustack" / name).write_text("B = 2\n")
        seen.add(compiled.stamp(tree))
    (tree / "ustack/udp/a.py").rename(tree / "ustack/udp/b.py")
    seen.add(compiled.stamp(tree))
    assert len(seen) == 6


def test_a_stamp_is_the_same_in_another_place(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "ustack", tmp_path / "elsewhere" / "ustack")
    (tmp_path / "elsewhere" / "ustack" / "__pycache__").mkdir()
    (tmp_path / "elsewhere" / "ustack" / "__pycache__" / "x.pyc").write_text("")
    assert compiled.stamp(tmp_path / "elsewhere") == compiled.stamp(tree)


def test_a_directory_that_is_up_to_date_is_left_alone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "missing", lambda: None)
    monkeypatch.setattr(compiled, "compile_core", compile_nothing)
    fast = tmp_path / "build" / "fast"
    assert compiled.build(fast, tree)
    assert not compiled.build(fast, tree)
    (tree / "ustack/sockets/a.py").write_text("B = 2\n")
    (tree / "ustack/sockets/b.py").write_text("B = 3\n")
    assert compiled.build(fast, tree)
    (tree / "ustack/sockets/b.py").unlink()
    assert compiled.build(fast, tree)
    assert (fast / "ustack/sockets/a.py").read_text() == "B = 2\n"
    assert (fast / "ustack/tcp/a.so").read_text() == "machine code"
    assert not (fast / "ustack/sockets/b.py").exists()


def compile_nothing(root: Path, work: Path) -> dict[str, Path]:
    work.mkdir(exist_ok=True)
    (work / "a.so").write_text("machine code")
    return {"ustack/tcp/a.so": work / "a.so"}


def test_no_compiler_and_no_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: str(tmp_path))
    said = (
        "ustack: compiling needs a C compiler and Python's headers: apt install gcc python3-dev\n"
    )
    for argv in (["--check"], [str(tmp_path / "fast")]):
        assert compiled.main(argv) == 1
        assert capsys.readouterr().err == said
    assert not (tmp_path / "fast").exists()


def test_a_compiler_that_fails(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "missing", lambda: None)
    monkeypatch.setattr(compiled, "compile_core", lambda root, work: compiled._run(["false"], work))
    assert compiled.main([str(tmp_path / "fast")]) == 1
    assert capsys.readouterr().err == "ustack: the C compiler failed with status 1\n"
    assert not (tmp_path / "fast").exists()
