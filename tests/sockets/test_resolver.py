"""Names: numeric, from the table, from a delegate; never from anywhere else."""

from __future__ import annotations

import socket

import pytest
import trio

from ustack.sockets.resolver import Resolver, SystemResolver

STREAM = socket.SOCK_STREAM


class Delegate(trio.abc.HostnameResolver):
    def __init__(self) -> None:
        self.asked: list[object] = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        self.asked.append(host)
        return socket.getaddrinfo("192.0.2.1", port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr, flags):
        self.asked.append(sockaddr)
        return "delegate.example", "0"


async def test_numeric_and_table() -> None:
    resolver = Resolver({"Server.Test": "10.9.0.2", "both": ["fd00:9::2", "10.9.0.2"]})
    found = await resolver.getaddrinfo("10.1.1.1", 80, type=STREAM)
    assert found == [(socket.AF_INET, STREAM, 6, "", ("10.1.1.1", 80))]
    for name in ("server.test", "SERVER.TEST.", b"server.test"):
        found = await resolver.getaddrinfo(name, 80, type=STREAM)
        assert found[0][4] == ("10.9.0.2", 80)
    found = await resolver.getaddrinfo("both", "http", type=STREAM)
    assert [entry[4][:2] for entry in found] == [("fd00:9::2", 80), ("10.9.0.2", 80)]
    only = await resolver.getaddrinfo("both", 1, family=socket.AF_INET, type=STREAM)
    assert [entry[4] for entry in only] == [("10.9.0.2", 1)]
    wildcard = await resolver.getaddrinfo(None, 1, type=STREAM, flags=socket.AI_PASSIVE)
    assert {entry[4][0] for entry in wildcard} == {"0.0.0.0", "::"}


async def test_names_beyond_ascii_are_those_of_idna_2008() -> None:
    resolver = Resolver({"straße.test": "10.9.0.2", "Bücher.test": "10.9.0.3", "a_b": "10.9.0.4"})
    for name, address in (
        (b"xn--strae-oqa.test", "10.9.0.2"),
        ("BÜCHER.test", "10.9.0.3"),
        ("a_b", "10.9.0.4"),
    ):
        assert (await resolver.getaddrinfo(name, 1))[0][4] == (address, 1)
    with pytest.raises(socket.gaierror):
        await resolver.getaddrinfo("strasse.test", 1)
    with pytest.raises(socket.gaierror):
        await resolver.getaddrinfo("a" * 300, 1)


async def test_refusals() -> None:
    resolver = Resolver({"four": "10.9.0.2"})
    for host, options in (
        ("unknown", {}),
        ("four", {"flags": socket.AI_NUMERICHOST}),
        ("unknown", {"flags": socket.AI_NUMERICHOST}),
        ("four", {"family": socket.AF_INET6}),
    ):
        with pytest.raises(socket.gaierror):
            await resolver.getaddrinfo(host, 1, **options)


async def test_a_delegate_is_asked_for_names_only() -> None:
    delegate = Delegate()
    resolver = Resolver(delegate=delegate)
    assert (await resolver.getaddrinfo("10.1.1.1", 1))[0][4] == ("10.1.1.1", 1)
    assert (await resolver.getaddrinfo("some.where", 1))[0][4] == ("192.0.2.1", 1)
    with pytest.raises(socket.gaierror):
        await resolver.getaddrinfo("some.where", 1, flags=socket.AI_NUMERICHOST)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await resolver.getnameinfo(("10.1.1.1", 1), flags) == ("10.1.1.1", "1")
    assert await resolver.getnameinfo(("10.1.1.1", 1), 0) == ("delegate.example", "0")
    assert delegate.asked == [b"some.where", ("10.1.1.1", 1)]


async def test_names_of_addresses() -> None:
    resolver = Resolver({"server": "10.9.0.2"})
    numeric = socket.NI_NUMERICSERV
    assert await resolver.getnameinfo(("10.9.0.2", 80), numeric) == ("server", "80")
    assert await resolver.getnameinfo(("10.9.0.2", 80), numeric | socket.NI_NUMERICHOST) == (
        "10.9.0.2",
        "80",
    )
    assert await resolver.getnameinfo(("10.9.0.3", 80), numeric) == ("10.9.0.3", "80")
    with pytest.raises(socket.gaierror):
        await resolver.getnameinfo(("10.9.0.3", 80), socket.NI_NAMEREQD)


async def test_the_system_resolver_asks_the_machine() -> None:
    resolver = Resolver(delegate=SystemResolver())
    assert (await resolver.getaddrinfo("127.1", 1, type=STREAM))[0][4] == ("127.0.0.1", 1)
    found = await SystemResolver().getaddrinfo("127.0.0.1", 9, type=STREAM)
    assert found[0][4] == ("127.0.0.1", 9)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await SystemResolver().getnameinfo(("127.0.0.1", 9), flags) == ("127.0.0.1", "9")


async def test_through_trio() -> None:
    """trio hands names over encoded, and looks numeric addresses up itself."""
    trio.socket.set_custom_hostname_resolver(Resolver({"server.test": "10.9.0.2"}))
    found = await trio.socket.getaddrinfo("server.test", 80, type=STREAM)
    assert found[0][4] == ("10.9.0.2", 80)
    found = await trio.socket.getaddrinfo("10.9.0.9", 80, type=STREAM)
    assert found[0][4] == ("10.9.0.9", 80)
    assert (await trio.socket.getnameinfo(("10.9.0.2", 80), socket.NI_NUMERICSERV))[0] == (
        "server.test"
    )
