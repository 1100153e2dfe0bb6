"""The kernel's side of the TUN: addresses, MTU, link, routes, by netlink.

Every request is one message that the kernel answers at once. IPv6 addresses are added
without duplicate address detection; even so the kernel accepts packets for one only after
a work item of its own has run (Linux: `addrconf_dad_work`), a moment after the link has
come up. That is waited for, with a bound, so that when `configure_link` returns the
addresses can be used. pyroute2 takes 0.1 s to import, hence inside the functions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from errno import EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EEXIST, EINVAL, EOPNOTSUPP, EPERM
from ipaddress import ip_interface, ip_network
from typing import Any

from ustack.io.preflight import PreflightError

_IFA_F_NODAD = 0x02
_ADDR_GEN_MODE_NONE = "1"
_RTN_LOCAL = 2
_AF_INET6 = 10
_WAIT, _STEP = 2.0, 0.001  # s


# Packets that the kernel holds for a stack that is not looking; more are dropped. The
# default of 500 lasts 3 ms of single segments at 2 Gbit/s, less than one turn of another
# process on a busy processor.
TX_QUEUE_LEN = 2000


def configure_link(name: str, mtu: int, peers: Sequence[str], routes: Sequence[str] = ()) -> None:
    """Give interface `name` the addresses `peers` (CIDR) and its MTU, and set it up.

    `routes`: further prefixes that the kernel reaches through the interface. Addresses
    and routes that are there already are left alone.
    """
    from pyroute2 import IPRoute

    _no_link_local(name)
    with IPRoute() as ipr:
        index = _index(ipr, name)
        _try(
            f"cannot set MTU {mtu} on {name}",
            ipr.link,
            "set",
            index=index,
            mtu=mtu,
            txqlen=TX_QUEUE_LEN,
        )
        for peer in peers:
            _add_address(ipr, name, index, peer)
        _try(f"cannot set {name} up", ipr.link, "set", index=index, state="up")
        for peer in peers:
            _await_address(ipr, peer)
        for route in routes:
            what = f"cannot route {route} through {name}"
            _try(what, ipr.route, "add", dst=str(_network(route)), oif=index)


def _index(ipr: Any, name: str) -> int:
    found = ipr.link_lookup(ifname=name)
    if not found:
        raise PreflightError(f"interface {name} does not exist", "open its TUN first")
    return int(found[0])


def _network(cidr: str) -> str:
    try:
        return str(ip_network(cidr))
    except ValueError as exc:
        raise PreflightError(f"{cidr!r} is no prefix", str(exc)) from None


def _add_address(ipr: Any, name: str, index: int, cidr: str) -> None:
    try:
        interface = ip_interface(cidr)
    except ValueError:
        raise PreflightError(
            f"{cidr!r} is no address", "write it as 10.9.0.1/24 or fd00:9::1/64"
        ) from None
    extra = {"flags": _IFA_F_NODAD} if interface.version == 6 else {}
    _try(
        f"cannot give {cidr} to {name}",
        ipr.addr,
        "add",
        index=index,
        address=str(interface.ip),
        prefixlen=interface.network.prefixlen,
        **extra,
    )


def _await_address(ipr: Any, cidr: str) -> None:
    """Until the kernel accepts packets for the address; IPv4 ones are ready at once."""
    interface = ip_interface(cidr)
    if interface.version == 4:
        return
    give_up = time.monotonic() + _WAIT
    while not _is_local(ipr, str(interface.ip)):
        if time.monotonic() > give_up:
            raise PreflightError(f"the kernel does not take {cidr} into use", "try again")
        time.sleep(_STEP)


def _is_local(ipr: Any, address: str) -> bool:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        found = ipr.route("get", dst=address, family=_AF_INET6)
    except NetlinkError:
        return False
    return any(route["type"] == _RTN_LOCAL for route in found)


def _try(what: str, request: Any, *args: Any, **kwargs: Any) -> None:
    """Send one request; what the kernel says against it becomes a PreflightError."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        request(*args, **kwargs)
    except NetlinkError as exc:
        if exc.code != EEXIST:
            raise PreflightError(what, _remedy(exc.code, str(exc))) from None


def _remedy(code: int, text: str) -> str:
    if code == EPERM:
        return "run it as root (CAP_NET_ADMIN)"
    if code in (EACCES, EOPNOTSUPP, EAFNOSUPPORT):
        return "IPv6 is off: sudo sysctl net.ipv6.conf.all.disable_ipv6=0, or use IPv4 only"
    if code == EINVAL:
        return "the kernel refuses the value (MTU: 68 to 65535, IPv6 from 1280)"
    if code == EADDRNOTAVAIL:
        return "choose another address"
    return text


def _no_link_local(name: str) -> None:
    """No fe80:: address on this link: it would bring router solicitations and multicast
    reports that nobody answers. Best effort: /proc may be read-only."""
    try:
        with open(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode", "w") as file:
            file.write(_ADDR_GEN_MODE_NONE)
    except OSError:
        pass
