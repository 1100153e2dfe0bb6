"""The demo as root and as an ordinary user, and what it says where it cannot run."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import dpkt
import pytest

from tests.cli.commands import is_one_line, run
from tests.io.children import become_nobody, in_child
from ustack.cli.demo_client import WORKS, size_text
from ustack.cli.demo_report import Progress, Result, rate_text, table
from ustack.io.namespace import enter_private_network, private_tun_node

kernel = pytest.mark.kernel


def import_all() -> None:
    """Before a child gives up the right to read where the modules lie."""
    import encodings.ascii
    import encodings.idna

    import pyroute2

    from ustack.cli import demo_run

    assert pyroute2.IPRoute
    assert demo_run.conduct
    assert encodings.ascii
    assert encodings.idna


def demo(*argv: str, user: bool = False) -> dict[str, Any]:
    """The JSON of a demo in a child, which found everything right."""
    import_all()

    def child() -> object:
        if user:
            private_tun_node()
            become_nobody()
        return run("demo", "--json", "--seconds", "0.2", *argv)

    status, out, err = in_child(child, seconds=60)
    found: dict[str, Any] = json.loads(out)
    wrong = [result for result in found["results"] if not result["verified"]]
    assert wrong == []
    assert (status, err, found["verified"]) == (0, "", True)
    return found


@kernel
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_everything_verifies(user: bool) -> None:
    found = demo(user=user)
    done = [(result["work"], result["family"]) for result in found["results"]]
    assert done == [(work, family) for family in (4, 6) for work in WORKS]
    assert found["seconds"] < 30
    queues = found["queues"]
    assert queues["State"] == {"ustack": "ESTAB", "kernel": "ESTAB"}
    assert queues["mss"]["kernel"] == "1448"


@kernel
def test_without_offload_and_recorded(tmp_path: Path) -> None:
    file = tmp_path / "demo.pcapng"
    demo("--no-offload", "--pcap", str(file))
    with file.open("rb") as opened:
        sizes = [len(data) for _, data in dpkt.pcapng.Reader(opened)]
    assert len(sizes) > 1000
    assert max(sizes) == 1500


@kernel
def test_lines_and_a_table_for_people() -> None:
    import_all()
    status, out, err = in_child(lambda: run("demo", "--seconds", "0.2"), seconds=60)
    assert (status, err) == (0, ""), out
    assert out.count("\nok ") == 12
    assert "the queues on both ends" in out
    assert out.splitlines()[-1].startswith("12 of 12 verified in ")
    assert "\x1b" not in out


@kernel
def test_a_closed_tun_node_is_one_line() -> None:
    import_all()

    def child() -> object:
        private_tun_node()
        os.chmod("/dev/net/tun", 0o600)
        become_nobody()
        return run("demo")

    status, out, err = in_child(child)
    assert (status, out) == (1, "")
    assert is_one_line(err)
    assert "/dev/net/tun is closed to this user: sudo chmod 666 /dev/net/tun" in err


@kernel
def test_forbidden_user_namespaces_are_one_line() -> None:
    """The limit is per user namespace: we set it in one of our own."""
    import_all()

    def child() -> object:
        enter_private_network(user=True)
        Path("/proc/sys/user/max_net_namespaces").write_text("0")
        return run("demo")

    status, out, err = in_child(child)
    assert (status, out) == (1, "")
    assert is_one_line(err)
    assert "network namespace" in err


@kernel
def test_a_client_that_dies_is_no_success() -> None:
    import_all()

    def child() -> object:
        from ustack.cli import demo_client

        def dies(channel: object) -> None:
            raise OSError

        demo_client.main = dies  # type: ignore[assignment]
        return run("demo", "--json")

    status, out, _ = in_child(child)
    found = json.loads(out)
    assert (status, found["verified"]) == (1, False)
    assert [result["note"] for result in found["results"]] == ["not reached"] * 12


# -- what it shows -------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_what_is_going_on() -> None:
    out = Terminal()
    progress = Progress(out)
    progress.moving("bulk in IPv4", 1_250_000_000, 1.0)
    progress.ended(Result("bulk in", 4, True, "1.25 GB", 1_250_000_000, 1.0, note="fine"))
    assert out.getvalue() == (
        "\r\x1b[K| bulk in IPv4      1.0 s  10 Gbit/s"
        "\r\x1b[Kok     bulk in IPv4     1.25 GB, 10 Gbit/s, fine\n"
    )


def test_a_file_sees_lines_only() -> None:
    out = io.StringIO()
    progress = Progress(out)
    progress.moving("ping IPv6")
    progress.ended(Result("ping", 6, note="TimeoutError"))
    assert out.getvalue() == "FAILED ping IPv6        TimeoutError\n"
    Progress(None).line("nobody listens")


def test_the_table_says_what_did_not_verify() -> None:
    lines = table([Result("ping", 4, True, "10"), Result("bulk in", 6)]).splitlines()
    assert lines[0].startswith("Work")
    assert lines[1].split()[:4] == ["ping", "IPv4", "10", "yes"]
    assert lines[2].split()[:5] == ["bulk", "in", "IPv6", "-", "NO"]
    assert lines[2].endswith("not reached")


@pytest.mark.parametrize(
    ("nbytes", "seconds", "text"),
    [(125, 1, "1 kbit/s"), (125_000_000, 1, "1 Gbit/s"), (1, 0, "0 kbit/s")],
)
def test_rates(nbytes: int, seconds: float, text: str) -> None:
    assert rate_text(nbytes, seconds) == text


def test_sizes() -> None:
    assert [size_text(n) for n in (0, 999, 1500, 2_340_000, 1_230_000_000_000)] == [
        *("0 bytes", "999 bytes", "1.5 kB", "2.34 MB", "1230 GB")
    ]
