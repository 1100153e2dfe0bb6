"""Sending above a slow device: EAGAIN, POLLOUT, ENOBUFS (rules E-10 to E-12)."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.udp.both import PEER4, US4, outcome
from tools import testbed
from ustack.link.fifo import Fifo

AF_INET = socket.AF_INET
SOL_SOCKET, SO_SNDBUF, SO_MEMINFO, SIOCOUTQ = 1, 7, 55, 0x5411
POLLOUT = 0x304
TO = (PEER4, 9)
RATE = 8_000  # bytes a second: 100 ms of a test are one packet


def slow(host: Any) -> None:
    """Put a queue of that rate in front of the device."""
    if host.is_kernel:
        host.netns.run(
            [
                *(testbed.need_tool("tc"), "qdisc", "add", "dev", "ustack0", "root", "tbf"),
                *("rate", f"{RATE * 8}bit", "burst", "1600", "limit", "10000000"),
            ]
        )
        return
    stack = host.stack
    fifo = Fifo(host.dev, lambda: 0, stack.deadlines, stack.handle_tx_done, 10_000, RATE, 1600)
    stack.add_device(fifo)
    stack.del_address(US4)
    stack.add_address(fifo, f"{US4}/24")


def socket_of(host: Any, sndbuf: int) -> Any:
    slow(host)
    sock = host.socket(AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_SNDBUF, sndbuf // 2)
    return sock


def wmem(sock: Any) -> int:
    return int(struct.unpack("9I", sock.getsockopt(SOL_SOCKET, SO_MEMINFO, 36))[2])


def fill(sock: Any, size: int) -> tuple[Any, list[int]]:
    """Send until that fails: how, and the charge before each send that POLLOUT did not promise."""
    unpromised = []
    while (done := outcome(sock.sendto, bytes(size), TO)) == size:
        if sock.poll() != POLLOUT:
            unpromised.append(wmem(sock))
    return done, unpromised


@pytest.mark.needs("tc")
@pytest.mark.parametrize(
    ("size", "charge", "full", "half"), [(100, 832, 40_768, 20_800), (1472, 2304, 41_472, 20_736)]
)
def test_room(host: Any, size: int, charge: int, full: int, half: int) -> None:
    sock = socket_of(host, 40_000)
    code, unpromised = fill(sock, size)
    assert code == "EAGAIN"
    assert sock.poll() == 0
    assert wmem(sock) == full
    assert (unpromised[0], unpromised[-1]) == (half, full)
    assert len(unpromised) == (full - half) // charge + 1


@pytest.mark.needs("tc")
def test_fragments_may_take_twice_the_room(host: Any) -> None:
    sock = socket_of(host, 4608)
    assert outcome(sock.sendto, bytes(1472), TO) == 1472  # goes straight through
    assert outcome(sock.sendto, bytes(4000), TO) == 4000
    assert outcome(sock.sendto, bytes(100), TO) == "EAGAIN"
    other = host.socket(AF_INET)
    other.setsockopt(SOL_SOCKET, SO_SNDBUF, 2304)
    assert outcome(other.sendto, bytes(8000), TO) == "ENOBUFS"
    assert wmem(other) == 0
