"""What the daemon is told, checked before anything is opened.

Every check that needs no kernel is here, so that a mistake in the arguments is one line
and nothing has happened yet. What only the kernel can refuse (a name or an address that
is taken, a right that is missing) is a PreflightError of `io`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from ustack.sock.sysctl import Sysctl

Interface = IPv4Interface | IPv6Interface

TUN = "ustack0"
ADDRESSES = ("10.9.0.2/24", "fd00:9::2/64")
PEERS = ("10.9.0.1/24", "fd00:9::1/64")
MTU = 1500
SERVICES = {"echo": 7, "discard": 9, "daytime": 13, "chargen": 19, "http": 80}
OTHER_SERVICES = {"sink": 5009, "source": 5019}
MIN_MTU, MIN_MTU_IPV6, MAX_MTU = 68, 1280, 65535
_MAX_NAME = 15
_RATE_UNITS = {"": 1, "bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


class ConfigError(Exception):
    """An argument that cannot be: the cause, and what mends it."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}: {remedy}")


@dataclass(slots=True)
class Config:
    """How to run a stack. Addresses are CIDR: ours, and the kernel's end of the link. `rate`
    is how many bits a second leave, 0 for no limit."""

    tun: str = TUN
    addresses: Sequence[str] = ADDRESSES
    peers: Sequence[str] = PEERS
    mtu: int = MTU
    services: dict[str, int] = field(default_factory=lambda: dict(SERVICES))
    offload: bool = True
    rate: int = 0
    pcap: str | None = None
    seed: int | None = None
    sysctl: Sysctl = field(default_factory=Sysctl)

    @property
    def hosts(self) -> list[str]:
        """Our addresses without their prefix lengths."""
        return [str(ip_interface(address).ip) for address in self.addresses]

    def check(self) -> None:
        """ConfigError for the first thing that cannot be."""
        _check_name(self.tun)
        ours = [parse_address(text) for text in self.addresses]
        peers = [parse_address(text) for text in self.peers]
        _check_mtu(self.mtu, any(one.version == 6 for one in ours + peers))
        same = {one.ip for one in ours} & {one.ip for one in peers}
        if same:
            raise ConfigError(
                f"{min(map(str, same))} cannot be both the stack's address and the kernel's",
                "give --address and --peer different addresses of one network",
            )
        _check_ports(self.services)


def choose_addresses(
    addresses: Sequence[str], peers: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """(addresses, peers), each derived from the other where it was not given."""
    if not addresses and not peers:
        return ADDRESSES, PEERS
    if not peers:
        return addresses, [neighbour(text, "--peer") for text in addresses]
    if not addresses:
        return [neighbour(text, "--address") for text in peers], peers
    return addresses, peers


def neighbour(cidr: str, option: str) -> str:
    """The lowest other host address in the network of `cidr`."""
    own = parse_address(cidr)
    network = own.network
    for offset in (1, 2):
        if offset < network.num_addresses and network[offset] != own.ip:
            return f"{network[offset]}/{network.prefixlen}"
    raise ConfigError(
        f"{cidr} leaves no room for the other end of the link",
        f"give {option} too, or a shorter prefix such as {own.ip}/{own.max_prefixlen - 8}",
    )


def parse_address(text: str) -> Interface:
    """ConfigError unless `text` is a usable host address with a prefix length."""
    remedy = "write it as 10.9.0.2/24 or fd00:9::2/64"
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no address with a prefix length", remedy) from None
    if "/" not in text:
        raise ConfigError(f"{text} lacks its prefix length", remedy)
    ip = interface.ip
    unusable = ip.is_multicast or ip.is_unspecified or ip.is_loopback or "%" in text
    if unusable or str(ip) == "255.255.255.255":
        raise ConfigError(f"{ip} cannot be the address of a host on a link", remedy)
    return interface


def parse_service(text: str) -> tuple[str, int]:
    """NAME or NAME=PORT as (name, port)."""
    name, given, port = text.partition("=")
    known = SERVICES | OTHER_SERVICES
    if name not in known:
        raise ConfigError(f"there is no service {name!r}", f"choose from {', '.join(known)}")
    if not given:
        return name, known[name]
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ConfigError(f"{port!r} is no port", "choose one from 1 to 65535")
    return name, int(port)


def parse_rate(text: str) -> int:
    """Bits a second: a number, with kbit, mbit or gbit behind it as tc(8) takes them."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(|bit|kbit|mbit|gbit)", text.lower())
    rate = int(float(match[1]) * _RATE_UNITS[match[2]]) if match else 0
    if rate < 8:
        raise ConfigError(f"{text!r} is no rate", "write it in bits a second, as 64000 or 10mbit")
    return rate


def parse_sysctls(settings: Iterable[str]) -> Sysctl:
    """NAME=VALUE settings; NAME as the kernel's, with or without its `net.ipv4.`."""
    sysctl = Sysctl()
    names = [one.name for one in dataclasses.fields(Sysctl)]
    for setting in settings:
        path, given, value = setting.partition("=")
        name = path.rpartition(".")[2]
        if not given:
            raise ConfigError(f"{setting!r} sets nothing", "write it as NAME=VALUE")
        if name not in names:
            close = difflib.get_close_matches(name, names, 1) or ["tcp_rmem"]
            raise ConfigError(f"there is no setting {name!r}", f"did you mean {close[0]}?")
        setattr(sysctl, name, _setting(name, getattr(sysctl, name), value))
    return sysctl


def _setting(name: str, default: object, value: str) -> object:
    """`value` as the type of `default`."""
    if isinstance(default, str):
        return value
    try:
        numbers = tuple(int(word, 0) for word in value.replace(",", " ").split())
    except ValueError:
        numbers = ()
    wanted = len(default) if isinstance(default, tuple) else 1
    if len(numbers) != wanted or any(number < 0 for number in numbers):
        form = "a number" if wanted == 1 else f"{wanted} numbers"
        raise ConfigError(f"{value!r} cannot be {name}", f"give {form}")
    if isinstance(default, bool):
        return bool(numbers[0])
    return numbers if isinstance(default, tuple) else numbers[0]


def _check_name(name: str) -> None:
    bad = not name or len(name.encode()) > _MAX_NAME or name in (".", "..")
    if bad or any(char.isspace() or char in "/:%" for char in name):
        raise ConfigError(
            f"{name!r} is no interface name",
            f"choose one of 1 to {_MAX_NAME} bytes without spaces, slashes, colons and %",
        )


def _check_mtu(mtu: int, ipv6: bool) -> None:
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise ConfigError(
            f"MTU {mtu} is out of range",
            f"choose one from {MIN_MTU} ({MIN_MTU_IPV6} with IPv6) to {MAX_MTU}",
        )
    if ipv6 and mtu < MIN_MTU_IPV6:
        raise ConfigError(
            f"MTU {mtu} is too small for IPv6",
            f"choose {MIN_MTU_IPV6} or more, or give IPv4 addresses only",
        )


def _check_ports(services: dict[str, int]) -> None:
    by_port: dict[int, str] = {}
    for name, port in services.items():
        other = by_port.setdefault(port, name)
        if other != name:
            raise ConfigError(
                f"{other} and {name} cannot both have port {port}",
                f"give one another port: --service {name}={port + 1 if port < 65535 else 1024}",
            )
