"""`ustack.socket` beside `trio.socket`, and what it asks of a stack."""

from __future__ import annotations

import errno
import inspect
import re
import select
import socket
import subprocess
import sys

import pytest
import trio

import ustack
from tests.docs.documents import ROOT, examples
from tests.sockets.pair import RIGHT, refused, stacks
from ustack import socket as ours
from ustack.sock import options
from ustack.sock import sock as core
from ustack.sock.cmsg import UDP_GRO, UDP_SEGMENT
from ustack.tcp import options as tcp_options
from ustack.udp import proto as udp_proto

DOCUMENT = ROOT / "docs" / "sockets.md"
# What `from __future__ import annotations` leaves in a namespace.
NOT_A_NAME = {"annotations"}


def public(module: object) -> set[str]:
    return {name for name in dir(module) if not name.startswith("_")} - NOT_A_NAME


def documented_as_missing() -> set[str]:
    text = DOCUMENT.read_text()
    section = text.split("## Names of `trio.socket` that are not here")[1].split("\n\n")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.M)
    assert all(len(why) > 10 for _, why in rows)
    return {name for name, _ in rows}


def test_every_name_of_trios_is_here_or_documented() -> None:
    missing = public(trio.socket) - public(ours)
    assert missing <= documented_as_missing()
    assert not documented_as_missing() & public(ours)


def test_functions_are_async_where_trios_are_and_take_the_same() -> None:
    for name in public(trio.socket) & public(ours):
        theirs, mine = getattr(trio.socket, name), getattr(ours, name)
        if inspect.isfunction(theirs):
            assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(theirs), name
            want = [p.name for p in inspect.signature(theirs).parameters.values()]
            assert [p.name for p in inspect.signature(mine).parameters.values()] == want, name


def test_constants_have_the_kernels_values() -> None:
    """Those that a Python has too, and those that the core goes by."""
    compared = 0
    for module in (socket, select, core, options, tcp_options, udp_proto):
        for name in public(module) & public(ours):
            if name.isupper() and isinstance(getattr(module, name), int):
                assert getattr(ours, name) == getattr(module, name), (module, name)
                compared += 1
    assert compared > 300
    assert (ours.UDP_SEGMENT, ours.UDP_GRO) == (UDP_SEGMENT, UDP_GRO)
    assert (ours.MSG_ZEROCOPY, ours.TCP_INQ, ours.SO_PEEK_OFF) == (0x4000000, 36, 42)
    assert (ours.SO_MEMINFO, ours.SIOCOUTQNSD) == (55, 0x894B)
    assert ours.EPOLLET == select.EPOLLET & 0xFFFFFFFF


def test_the_names_of_the_package() -> None:
    assert ustack.socket is ours
    assert ours.SocketType is ustack.SocketType
    assert (ours.poll, ours.select, ours.Epoll) == (ustack.poll, ustack.select, ustack.Epoll)
    assert "socket" in dir(ustack)
    assert ours.gaierror is socket.gaierror
    script = "import socket, ustack.socket, ustack.sockets.socket as s; print(s.socket is socket)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "True\n"


async def test_sockets_are_made_on_the_chosen_stack() -> None:
    with pytest.raises(RuntimeError, match="no stack"):
        ours.socket()
    async with stacks() as (left, right):
        with ours.use_stack(left) as chosen:
            assert chosen is left is ours.current_stack()
            sock = ours.socket(ours.AF_INET6, ours.SOCK_DGRAM)
            assert (sock.family, sock.type) == (ours.AF_INET6, ours.SOCK_DGRAM)
            assert left.statistics().sockets == 1
            async with trio.open_nursery() as nursery:

                async def child() -> None:
                    assert ours.current_stack() is left
                    with ours.use_stack(right):
                        assert ours.socket()._stack is right

                nursery.start_soon(child)
            assert ours.current_stack() is left
        before = trio.socket.set_custom_socket_factory(right.socket_factory())
        assert ours.socket()._stack is right
        with ours.use_stack(left):
            assert ours.socket()._stack is left
        ours.set_custom_socket_factory(before)
        with pytest.raises(RuntimeError, match="no stack"):
            ours.socket()
        with ours.use_stack(left), refused(errno.EAFNOSUPPORT):
            ours.socket(ours.AF_UNIX)


async def test_what_the_kernel_has_is_refused() -> None:
    async with stacks() as (left, _):
        with socket.socket() as kernels, ours.use_stack(left):
            for call in (
                lambda: ours.from_stdlib_socket(kernels),
                lambda: ours.fromfd(kernels.fileno(), ours.AF_INET, ours.SOCK_STREAM),
                lambda: ours.socket(fileno=kernels.fileno()),
            ):
                with refused(errno.EOPNOTSUPP):
                    call()
        assert left.statistics().sockets == 0


class Everyone(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        assert isinstance(host, bytes)
        return [(ours.AF_INET, type, proto, "", (RIGHT, port))]

    async def getnameinfo(self, sockaddr, flags):
        return "somebody", "something"


async def test_names_are_asked_of_the_stack() -> None:
    async with stacks() as (left, _):
        found: list[object] = []
        with ours.use_stack(left):
            for host in ("127.0.0.1", "localhost", b"localhost"):
                found = await ours.getaddrinfo(host, 80, ours.AF_INET, ours.SOCK_STREAM)
                assert found == [(ours.AF_INET, ours.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
            with pytest.raises(ours.gaierror):
                await ours.getaddrinfo("nobody.example", 80)
            assert await ours.getnameinfo(("127.0.0.1", 80), ours.NI_NUMERICSERV) == (
                "localhost",
                "80",
            )
        before = ours.set_custom_hostname_resolver(Everyone())
        assert (await ours.getaddrinfo("bücher.example", 80))[0][-1] == (RIGHT, 80)
        found = await ours.getaddrinfo("192.0.2.7", 80, 0, ours.SOCK_STREAM)
        assert found == [(ours.AF_INET, ours.SOCK_STREAM, 6, "", ("192.0.2.7", 80))]
        with pytest.raises(ours.gaierror) as caught:
            await ours.getaddrinfo("192.0.2.7", 80, ours.AF_INET6)
        assert caught.value.errno == ours.EAI_ADDRFAMILY
        assert await ours.getnameinfo((RIGHT, 80), 0) == ("somebody", "something")
        with ours.use_stack(left), pytest.raises(ours.gaierror):
            await ours.getaddrinfo("nobody.example", 80)
        ours.set_custom_hostname_resolver(before)


async def test_interfaces_are_the_stacks() -> None:
    async with stacks() as (left, _):
        with ours.use_stack(left):
            listed = ours.if_nameindex()
            assert listed[0] == (1, "lo")
            assert len(listed) == 2
            for index, name in listed:
                assert ours.if_nametoindex(name) == index
                assert ours.if_indextoname(index) == name
            with refused(errno.ENODEV):
                ours.if_nametoindex("eth99")
            with refused(errno.ENXIO):
                ours.if_indextoname(99)


def test_the_documents_example() -> None:
    done = subprocess.run(
        [sys.executable, "-c", examples(DOCUMENT)[0]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("True (b'hello', ('10.9.0.2', ")
