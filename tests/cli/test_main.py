from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.commands import ROOT, is_one_line, run


def test_version_and_help() -> None:
    status, out, err = run("--version")
    assert (status, err) == (0, "")
    assert out.startswith("ustack ")
    assert "core)" in out
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert "up" in out
    assert "demo" in out


@pytest.mark.parametrize("command", ["up", "demo"])
def test_every_option_is_explained(command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "--no-offload" in out
    assert "--pcap" in out


def test_help_does_not_load_the_stack() -> None:
    """It would cost half a second."""
    script = (
        "import sys; from ustack.cli import parser; parser().format_help();"
        "print('trio' in sys.modules, 'pyroute2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "down",
        "up --bogus",
        "up --mtu",
        "up --mtu abc",
        "up --mtu 67",
        "up --mtu 1279",
        "up --mtu 65536",
        "up --address 10.9.0.2",
        "up --address 10.9.0.300/24",
        "up --address 10.9.0.2/33",
        "up --address 10.9.0.2/32",
        "up --address 10.9.0.1/24 --peer 10.9.0.1/24",
        "up --peer nonsense",
        "up --tun a/b",
        "up --tun name-of-16-bytes",
        "up --service ssh",
        "up --service echo=0",
        "up --service echo=9 --service discard=9",
        "up --sysctl tcp_sack",
        "up --sysctl no_such_thing=1",
        "up --seed x",
        "demo --seconds 0",
        "demo --seconds nan",
        "demo --seconds x",
        "demo up",
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(line: str) -> None:
    status, out, err = run(*line.split())
    assert (status, out) == (2, "")
    assert is_one_line(err), err
