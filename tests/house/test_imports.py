"""The import contracts hold, and a planted violation breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run lint-imports on the package in `tree`."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package and its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "ustack", tmp_path / "ustack", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def test_every_sans_io_module_is_under_contract() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = config["tool"]["importlinter"]["contracts"][1]
    core = ("wire", "sock", "tcp", "udp", "ping", "ip", "stack", "link", "sim")
    there = {
        f"ustack.{name}"
        for name in core
        if (ROOT / "ustack" / name).is_dir() or (ROOT / "ustack" / f"{name}.py").is_file()
    }
    assert set(contract["source_modules"]) == there


def test_the_contracts_hold(tree: Path) -> None:
    result = lint(tree)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        (
            "wire/planted.py",
            "import ustack.sock.errors",
            "ustack.wire.planted -> ustack.sock.errors",
        ),
        ("tcp/planted.py", "import ustack.udp", "ustack.tcp.planted -> ustack.udp"),
        ("udp/planted.py", "import ustack.tcp", "ustack.udp.planted -> ustack.tcp"),
        ("ip/planted.py", "import time", "ustack.ip.planted -> time"),
        ("tcp/planted.py", "def f():\n    import random", "ustack.tcp.planted -> random"),
        ("sim/planted.py", "from trio import sleep", "ustack.sim.planted -> trio"),
        ("sock/planted.py", "import ustack.seeds", "ustack.seeds -> random"),
        ("upstart.py", "", "upstart"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, module: str, line: str, words: str) -> None:
    (tree / "ustack" / module).write_text(line + "\n")
    result = lint(tree)
    assert result.returncode == 1
    assert words in result.stdout
