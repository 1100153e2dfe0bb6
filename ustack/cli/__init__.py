"""The `ustack` command. One file a subcommand; each is imported only when it is used.

Exit status: 0 done, 1 the machine or its user's rights do not allow it (or a demo that did
not verify), 2 wrong arguments, 130 interrupted. Whatever a user can cause is one line on
stderr, which names the cause and what mends it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

import ustack
import ustack.cli.demo as demo
import ustack.cli.up as up
from ustack.daemon.config import ConfigError
from ustack.io.preflight import PreflightError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}: see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, by default the process's; the exit status."""
    args = parser().parse_args(argv)
    name = f"ustack {args.command}"
    try:
        status: int = args.run(args, version())
        return status
    except ConfigError as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return USAGE
    except PreflightError as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="ustack", description="A userspace TCP/IP stack on a TUN interface.")
    top.add_argument("--version", action="version", version=_build())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (up, demo):
        module.add_parser(commands)
    return top


def _build() -> str:
    return f"ustack {version()} ({'compiled' if ustack.compiled else 'interpreted'} core)"


def version() -> str:
    try:
        return metadata.version("ustack")
    except metadata.PackageNotFoundError:
        return "(not installed)"
