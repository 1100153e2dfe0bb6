"""What a program under mypy --strict sees of `ustack` (`make lint` looks, nothing runs)."""

from __future__ import annotations

from typing import Any, assert_type

import trio

import ustack
from ustack import socket


async def sockets(sock: socket.SocketType) -> None:
    kernels: trio.socket.SocketType = sock
    trio.SocketStream(sock)
    trio.SocketListener(kernels)
    conn, (host, port) = await sock.accept()
    with conn as same:
        assert_type(same, socket.SocketType)
    data, (host, port, *_) = await sock.recvfrom(10)
    data, ancillary, flags, peer = await sock.recvmsg(10, socket.CMSG_SPACE(4))
    assert_type(data, bytes)
    assert_type(ancillary, list[tuple[int, int, bytes]])
    assert_type(await sock.sendto(data, socket.MSG_DONTWAIT, (host, port)), int)
    assert_type(await sock.sendto(data, peer), int)
    assert_type(await sock.recv_into(memoryview(bytearray(4))), int)
    assert_type(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), int)
    assert_type(sock.getsockopt(socket.SOL_SOCKET, socket.SO_MEMINFO, 36), bytes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    assert_type(await sock.sendmmsg([([b"x"], [], 0, (host, port))]), list[int])
    assert_type(flags, int)


async def readiness(sock: socket.SocketType) -> None:
    ready = await ustack.poll([(sock, socket.POLLIN)], timeout=1)
    assert_type(ready, list[tuple[socket.SocketType, int]])
    readable, _, _ = await ustack.select([sock], [], [])
    assert_type(readable, list[socket.SocketType])
    with ustack.Epoll() as epoll:
        epoll.register(sock, socket.EPOLLIN | socket.EPOLLET)
        for found, mask in await epoll.poll(maxevents=3):
            await found.accept4(socket.SOCK_NONBLOCK)
            assert_type(mask, int)


async def stacks() -> None:
    async with ustack.open_memory_pair() as (left, right):
        assert_type(left, ustack.NetworkStack)
        with socket.use_stack(right):
            made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            assert_type(made, ustack.SocketType)
            assert_type(made.getsockname(), Any)
        trio.socket.set_custom_socket_factory(left.socket_factory())
        trio.socket.set_custom_hostname_resolver(left.hostname_resolver())
        assert_type(await left.open_tcp_stream("10.9.0.1", 7), trio.SocketStream)
        assert_type(left.statistics(), ustack.Statistics)
    resolver = ustack.Resolver({"server": "10.9.0.1"}, delegate=ustack.SystemResolver())
    async with ustack.open_tun("ustack0", resolver=resolver) as stack:
        assert_type(stack, ustack.NetworkStack)
