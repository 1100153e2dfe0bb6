"""The daemon: one stack on one TUN, with its services, until it is told to stop.

SIGINT and SIGTERM end it: it accepts nothing more, closes its connections, waits GRACE
seconds at most until the peers have what was sent and know that it is over, and removes
the TUN. SIGKILL leaves nothing either: the interface, its addresses and its routes belong
to the process and go with it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_interface
from typing import Any

import trio

from ustack.daemon import status
from ustack.daemon.bulk import bulk_services
from ustack.daemon.config import Config
from ustack.daemon.http import http_service
from ustack.daemon.server import Server
from ustack.daemon.services import Service, small_services
from ustack.io.preflight import PreflightError
from ustack.seeds import Seeds
from ustack.sockets.open import open_tun
from ustack.sockets.stack import NetworkStack

GRACE = 2.0

Say = Callable[[str], None]


async def run(config: Config, version: str, say: Say) -> None:
    """Serve until SIGINT or SIGTERM; `say` gets a line for each thing that is up.

    PreflightError if the machine, or its user's rights, do not allow it.
    """
    check_addresses_are_free(config)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with serving(config, version) as (stack, server):
            describe(config, stack, server, say)
            async for signum in signals:
                say(f"{signal.Signals(signum).name}: closing")
                break
    say("closed")


@asynccontextmanager
async def serving(config: Config, version: str) -> AsyncIterator[tuple[NetworkStack, Server]]:
    """A stack with the services of `config` on it, inside the block."""
    with _one_line_for_what_users_do(config):
        async with (
            open_tun(
                config.tun,
                addresses=config.addresses,
                peers=config.peers,
                mtu=config.mtu,
                offload=config.offload,
                rate=config.rate,
                seed=config.seed,
                sysctl=config.sysctl,
                pcap=config.pcap,
                grace=GRACE,
            ) as stack,
            trio.open_nursery() as nursery,
        ):
            server = Server(stack, config.hosts, nursery)
            started = time.monotonic()
            services = all_services(
                config, lambda: status.page(stack, server, version, started), version
            )
            for name, port in config.services.items():
                await server.start(services[name], port)
            yield stack, server
            nursery.cancel_scope.cancel()


def all_services(config: Config, page: Callable[[], str], version: str) -> dict[str, Service]:
    """Every service there is, by name."""
    http = http_service(page, version)
    small = small_services(Seeds(config.seed).stream("services"))
    return {**small, **bulk_services(), http.name: http}


def describe(config: Config, stack: NetworkStack, server: Server, say: Say) -> None:
    device = stack.statistics().devices[-1]
    peers = ", ".join(str(ip_interface(peer).ip) for peer in config.peers)
    say(f"{config.tun} is up, mtu {device.mtu}: stack {', '.join(config.hosts)}; kernel {peers}")
    for name, port in config.services.items():
        kinds = "tcp, udp" if server.has_udp(port) else "tcp"
        say(f"  {name.ljust(8)} port {port} ({kinds})")


def check_addresses_are_free(config: Config) -> None:
    """PreflightError if an interface of this machine has one of the addresses.

    The kernel would keep packets to such an address for itself, or answer for the peer on
    the wrong link.
    """
    taken = _kernel_addresses()
    for option, cidrs in (("--address", config.addresses), ("--peer", config.peers)):
        for cidr in cidrs:
            ip = str(ip_interface(cidr).ip)
            if taken.get(ip, config.tun) != config.tun:
                raise PreflightError(
                    f"address {ip} is in use on {taken[ip]}", f"choose another {option}"
                )


def _kernel_addresses() -> dict[str, str]:
    """The addresses of this network namespace, with the interface of each."""
    from pyroute2 import IPRoute  # 0.1 s

    with IPRoute() as ipr:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ipr.get_links()}
        found: dict[str, str] = {}
        for entry in ipr.get_addr():
            attrs: dict[str, Any] = dict(entry["attrs"])
            ip = attrs.get("IFA_LOCAL") or attrs["IFA_ADDRESS"]
            found[str(ip_interface(ip).ip)] = names.get(entry["index"], "an interface")
        return found


@contextmanager
def _one_line_for_what_users_do(config: Config) -> Iterator[None]:
    """Errors whose cause lies outside, as PreflightError: never a traceback for those."""
    try:
        yield
    except (OSError, BaseExceptionGroup) as exc:
        causes = list(_leaves(exc))
        for cause in causes:
            if not isinstance(cause, (OSError, PreflightError)):
                raise
        raise _preflight(config, causes[0]) from None


def _preflight(config: Config, exc: BaseException) -> PreflightError:
    if isinstance(exc, PreflightError):
        return exc
    assert isinstance(exc, OSError)
    if exc.filename is not None:
        return PreflightError(f"cannot open {exc.filename} ({exc.strerror})", "choose another file")
    return PreflightError(f"{config.tun} has stopped ({exc.strerror or exc})", "start it again")


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group of groups, or the one."""
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            yield from _leaves(part)
    else:
        yield exc
