"""`ustack up`: the daemon in the foreground."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ustack.daemon.config import (
    ADDRESSES,
    MTU,
    OTHER_SERVICES,
    PEERS,
    SERVICES,
    TUN,
    Config,
    choose_addresses,
    parse_rate,
    parse_service,
    parse_sysctls,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Run a stack with its services on a TUN interface until SIGINT or SIGTERM. Needs root
(CAP_NET_ADMIN). Nothing is left behind, however it ends.
"""


def add_parser(commands: Subparsers) -> None:
    names = ", ".join(f"{name} {port}" for name, port in SERVICES.items())
    others = ", ".join(f"{name} {port}" for name, port in OTHER_SERVICES.items())
    parser = commands.add_parser("up", help="run a stack and its services", description=DESCRIPTION)
    parser.set_defaults(run=run)
    option = parser.add_argument
    option("--tun", default=TUN, metavar="NAME", help=f"interface to make (default {TUN})")
    option(
        *("--address", "-a"),
        action="append",
        default=[],
        metavar="CIDR",
        help=f"an address of the stack (default {', '.join(ADDRESSES)}, or beside --peer)",
    )
    option(
        *("--peer", "-p"),
        action="append",
        default=[],
        metavar="CIDR",
        help=f"an address of the kernel's end (default {', '.join(PEERS)}, or beside --address)",
    )
    option("--mtu", type=int, default=MTU, metavar="N", help=f"default {MTU}")
    option("--rate", metavar="RATE", help="let no more leave: bits a second, or 64kbit, 10mbit")
    option(
        "--service",
        action="append",
        default=[],
        metavar="NAME[=PORT]",
        help=f"a service to run (default all of {names}; also {others})",
    )
    add_stack_options(parser)
    option(
        "--sysctl",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the stack, as sysctl(8) names it, for example tcp_sack=0",
    )


def add_stack_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command with a stack has."""
    parser.add_argument(
        "--no-offload",
        dest="offload",
        action="store_false",
        help="exchange packets of the MTU's size with the kernel, not segments of 64 KiB",
    )
    parser.add_argument("--pcap", metavar="FILE", help="record every packet (pcapng)")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="make ISNs, ports and hash secrets repeatable"
    )


def config(args: argparse.Namespace) -> Config:
    """ConfigError for arguments that cannot be."""
    addresses, peers = choose_addresses(args.address, args.peer)
    made = Config(
        tun=args.tun,
        addresses=addresses,
        peers=peers,
        mtu=args.mtu,
        services=dict(map(parse_service, args.service)) or dict(SERVICES),
        offload=args.offload,
        rate=0 if args.rate is None else parse_rate(args.rate),
        pcap=args.pcap,
        seed=args.seed,
        sysctl=parse_sysctls(args.sysctl),
    )
    made.check()
    return made


def run(args: argparse.Namespace, version: str) -> int:
    checked = config(args)

    import trio

    from ustack.daemon import daemon

    trio.run(daemon.run, checked, version, lambda line: print(line, flush=True))
    return 0
