"""The programs in docs/examples run, and what they claim holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT

FOLDER = ROOT / "docs" / "examples"
IN_MEMORY = ("poll_demo", "queues", "select_echo", "udp_eagain", "udp_receivers")
ON_A_TUN = ("cork", "echo_integrity")
COMPILED = ("echo_integrity_c",)


def run(name: str) -> str:
    """Its output; the test fails if the program says that its claim does not hold."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(": holds")
    return done.stdout


@pytest.mark.parametrize("name", IN_MEMORY)
def test_programs_in_memory(name: str) -> None:
    run(name)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ON_A_TUN)
def test_programs_with_a_kernel_at_the_other_end(name: str) -> None:
    run(name)


@pytest.mark.kernel
@pytest.mark.needs("cc")
@pytest.mark.parametrize("name", COMPILED)
def test_programs_in_c(name: str) -> None:
    output = run(name)
    assert len(re.findall("(?m)^round .*: wrong$", output)) >= 1
    assert output.count(": right") >= 20


def test_no_compiler_is_said_aloud(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "echo_integrity_c.py")],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shutil.which("cc", path=str(tmp_path)) is None
    assert done.returncode == 77
    assert "no C compiler" in done.stdout


@pytest.mark.kernel
def test_a_claim_that_does_not_hold_is_a_failure(tmp_path: Path) -> None:
    """`cork` counts packets: let it forget a flag."""
    text = (FOLDER / "cork.py").read_text()
    spoilt = tmp_path / "cork.py"
    spoilt.write_text(text.replace("sock.send(message, socket.MSG_MORE)", "sock.send(message)"))
    assert spoilt.read_text() != text
    done = subprocess.run(
        [sys.executable, str(spoilt)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(": DOES NOT HOLD")


def test_every_program_is_run_here_and_described() -> None:
    programs = {path.stem for path in FOLDER.glob("*.py")}
    assert programs == {*IN_MEMORY, *ON_A_TUN, *COMPILED}
    described = (FOLDER / "README.md").read_text()
    assert {name for name in programs if f"({name}.py)" not in described} == set()


def test_the_table_of_queues_md_is_what_the_program_prints() -> None:
    assert run("queues").rstrip() in (ROOT / "docs" / "queues.md").read_text()
