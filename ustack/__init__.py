"""A userspace TCP/IP stack whose socket queues behave like Linux's.

    async with ustack.open_tun("ustack0") as stack:
        sock = stack.socket(socket.AF_INET, socket.SOCK_STREAM)
        await sock.connect(("10.9.0.1", 80))

The names below are for trio programs. They are imported when first used, so that the
core (`ustack.stack` and what is below it) can be used without trio and without a TUN.
`ustack.compiled` says whether the core in use is machine code.
"""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    compiled: bool

    from ustack import socket
    from ustack.io.preflight import PreflightError
    from ustack.seeds import Seeds
    from ustack.sock.sysctl import Sysctl
    from ustack.sockets.open import open_memory_pair, open_tun
    from ustack.sockets.poll import Epoll, poll, select
    from ustack.sockets.resolver import Resolver, SystemResolver
    from ustack.sockets.socket import SocketType
    from ustack.sockets.stack import NetworkStack, SocketFactory, Statistics

__all__ = [
    "Epoll",
    "NetworkStack",
    "PreflightError",
    "Resolver",
    "Seeds",
    "SocketFactory",
    "SocketType",
    "Statistics",
    "Sysctl",
    "SystemResolver",
    "compiled",
    "open_memory_pair",
    "open_tun",
    "poll",
    "select",
    "socket",
]

_HOMES = {
    "Epoll": "ustack.sockets.poll",
    "NetworkStack": "ustack.sockets.stack",
    "PreflightError": "ustack.io.preflight",
    "Resolver": "ustack.sockets.resolver",
    "Seeds": "ustack.seeds",
    "SocketFactory": "ustack.sockets.stack",
    "SocketType": "ustack.sockets.socket",
    "Statistics": "ustack.sockets.stack",
    "Sysctl": "ustack.sock.sysctl",
    "SystemResolver": "ustack.sockets.resolver",
    "open_memory_pair": "ustack.sockets.open",
    "open_tun": "ustack.sockets.open",
    "poll": "ustack.sockets.poll",
    "select": "ustack.sockets.poll",
}


def _is_compiled() -> bool:
    spec = find_spec("ustack.tcp.output")
    return spec is not None and isinstance(spec.loader, ExtensionFileLoader)


def __getattr__(name: str) -> object:
    if name == "socket":
        return import_module("ustack.socket")
    if name == "compiled":
        return _is_compiled()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
