"""`ustack demo`: the kernel of a private network namespace talks to a stack."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from ustack.cli.up import add_stack_options
from ustack.daemon.config import OTHER_SERVICES, SERVICES, Config, ConfigError

if TYPE_CHECKING:
    from ustack.cli.demo_report import Progress
    from ustack.cli.demo_run import Outcome

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

SECONDS, SECONDS_RECORDED, MAX_SECONDS = 2.0, 0.2, 600.0
DESCRIPTION = """\
In a network namespace of its own (no root needed), run a stack on a TUN interface and let
the real kernel talk to it: ping, UDP and TCP echo, an HTTP page, bulk transfers both ways,
over IPv4 and IPv6. Everything is verified; exit status 0 only if everything was right.
"""


def add_parser(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "demo",
        help="let the kernel of a private namespace talk to a stack",
        description=DESCRIPTION,
    )
    parser.set_defaults(run=run)
    option = parser.add_argument
    option(
        "--seconds",
        type=float,
        metavar="S",
        help=f"for each bulk transfer (default {SECONDS:g}; {SECONDS_RECORDED:g} with --pcap)",
    )
    add_stack_options(parser)
    option("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace, version: str) -> int:
    seconds = args.seconds
    if seconds is None:
        seconds = SECONDS_RECORDED if args.pcap else SECONDS
    if not 0 < seconds <= MAX_SECONDS:
        raise ConfigError(f"{seconds:g} s is no length of a transfer", f"give 0.1 to {MAX_SECONDS}")
    config = Config(
        services=SERVICES | OTHER_SERVICES, offload=args.offload, pcap=args.pcap, seed=args.seed
    )
    config.check()

    from ustack.cli.demo_report import Progress

    began = time.monotonic()
    enter_namespace()
    out = Progress(sys.stdout if not args.json else sys.stderr if sys.stderr.isatty() else None)
    outcome = perform(config, version, seconds, out)
    show(outcome, time.monotonic() - began, args.json, version)
    return 0 if outcome.verified else 1


def enter_namespace() -> None:
    """A private network in which ping sockets are allowed and IPv6 is on."""
    from ustack.io.namespace import enter_private_network
    from ustack.io.preflight import PreflightError

    if not os.path.exists("/proc/sys/net/ipv6"):
        raise PreflightError("this kernel has no IPv6", "boot it without ipv6.disable=1")
    enter_private_network()
    settings = {
        "net/ipv4/ping_group_range": f"{os.getegid()} {os.getegid()}",
        "net/ipv6/conf/all/disable_ipv6": "0",
        "net/ipv6/conf/default/disable_ipv6": "0",
    }
    for path, value in settings.items():
        try:
            with open(f"/proc/sys/{path}", "w", encoding="ascii") as file:
                file.write(value)
        except OSError:
            continue  # what stands there may do; what does not shows in the results


def perform(config: Config, version: str, seconds: float, out: Progress) -> Outcome:
    """Start the kernel's half in a child process, be the stack's half."""
    import trio

    from ustack.cli.demo_run import conduct

    ours, theirs = socket.socketpair()
    pid = fork_client(ours, theirs)
    theirs.close()
    try:
        return trio.run(conduct, config, version, ours, seconds, out)
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            raise KeyboardInterrupt from None
        raise
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def fork_client(ours: socket.socket, theirs: socket.socket) -> int:
    """The child's process id. It is in the same namespaces, and dies with us."""
    from ustack.cli import demo_client
    from ustack.io.libc import die_with_parent

    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent()
        ours.close()
        demo_client.main(theirs)
        status = 0
    except OSError:
        pass  # the parent has gone
    finally:
        os._exit(status)


def show(outcome: Outcome, seconds: float, as_json: bool, version: str) -> None:
    from ustack.cli.demo_report import table

    if as_json:
        queues = outcome.queues
        found = {
            "version": version,
            "verified": outcome.verified,
            "seconds": round(seconds, 3),
            "results": [result.as_json() for result in outcome.results],
            "queues": None if queues is None else queues.as_json(),
        }
        print(json.dumps(found, indent=2))
        return
    good = sum(result.verified for result in outcome.results)
    print(f"\n{table(outcome.results)}\n")
    print(f"{good} of {len(outcome.results)} verified in {seconds:.1f} s.")
