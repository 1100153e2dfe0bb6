"""Ready-made networks in virtual time."""

from __future__ import annotations

from typing import TypeAlias, Unpack

from ustack.link.loopback import Loopback
from ustack.sim.host import SimHost, SimLink, WireSettings, host_seeds
from ustack.sim.loop import Simulator
from ustack.sock.sysctl import Sysctl
from ustack.stack import Stack

Host: TypeAlias = SimHost[Stack]

A_ADDRESSES = ("10.0.0.1/24", "fd00::1/64")
B_ADDRESSES = ("10.0.0.2/24", "fd00::2/64")


def make_host(sim: Simulator, name: str, sysctl: Sysctl | None = None) -> Host:
    """A whole host with nothing but its loopback."""
    stack = Stack(
        seeds=host_seeds(sim, name), loopback=Loopback(), sysctl=sysctl, wall_ns=sim.wall_ns
    )
    return SimHost(sim, name, stack)


def two_hosts(
    sim: Simulator,
    mtu: int = 1500,
    sysctls: tuple[Sysctl | None, Sysctl | None] = (None, None),
    back: WireSettings | None = None,
    **settings: Unpack[WireSettings],
) -> tuple[Host, Host, SimLink]:
    """Hosts "a" (10.0.0.1, fd00::1) and "b" (10.0.0.2, fd00::2) and the link between
    them."""
    a, b = make_host(sim, "a", sysctls[0]), make_host(sim, "b", sysctls[1])
    link = SimLink(sim, a, b, mtu, (A_ADDRESSES, B_ADDRESSES), back, **settings)
    return a, b, link
