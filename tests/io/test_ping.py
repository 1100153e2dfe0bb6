"""The whole way: kernel, TUN, driver, a stack's IP layer, and back."""

from __future__ import annotations

import socket

import pytest
import trio

from tools.testbed import NEAR4, NEAR6, NEAR_DEV, PEER4, PEER6, Direct
from ustack.io.driver import Driver
from ustack.io.netlink import configure_link
from ustack.io.tun import open_tun_device
from ustack.ip.host import IpHost
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds

pytestmark = pytest.mark.kernel

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO6_REQUEST, _ECHO6_REPLY = 128, 129


async def ping(sock: trio.socket.SocketType, address: str, kind: int, size: int) -> bytes:
    """Send one echo request from a raw kernel socket; what comes back after its header."""
    body = b"\x12\x34\x00\x01" + bytes(i % 251 for i in range(size))
    total = int.from_bytes(bytes([kind, 0, 0, 0]) + body + bytes(size % 2), "big") % 65535
    request = bytes([kind, 0]) + (65535 - total).to_bytes(2, "big") + body
    await sock.sendto(request, (address, 0))
    with trio.fail_after(5):
        while True:
            data = await sock.recv(70000)
            reply = data[20:] if kind == _ECHO_REQUEST else data
            if reply[0] in (_ECHO_REPLY, _ECHO6_REPLY):
                assert reply[4:] == body
                return reply


@pytest.mark.parametrize("offload", [True, False])
async def test_the_kernel_pings_the_stack_and_then_all_is_quiet(offload: bool) -> None:
    with Direct() as bed, bed.near.entered():
        raw, top = open_tun_device(NEAR_DEV, 1500, offload)
        configure_link(NEAR_DEV, 1500, [f"{PEER4}/24", f"{PEER6}/64"])
        sock4 = trio.socket.from_stdlib_socket(
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        )
        sock6 = trio.socket.from_stdlib_socket(
            socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        )
    stack = IpHost(seeds=Seeds(1), loopback=Loopback())
    stack.add_device(top)
    stack.add_address(top, f"{NEAR4}/24")
    stack.add_address(top, f"{NEAR6}/64")
    driver = Driver(stack)
    driver.add_device(raw, top)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        for size in (0, 56, 1401, 8000):
            assert (await ping(sock4, NEAR4, _ECHO_REQUEST, size))[0] == _ECHO_REPLY
            assert (await ping(sock6, NEAR6, _ECHO6_REQUEST, size))[0] == _ECHO6_REPLY
        await trio.testing.wait_all_tasks_blocked(0.05)
        turns = driver.turns
        await trio.sleep(1)  # real time: what is measured is that nothing happens in it
        assert driver.turns - turns <= 1
        nursery.cancel_scope.cancel()
    assert stack.mib["IcmpInEchos"] == 4
    assert stack.mib["Icmp6InEchos"] == 4
    driver.close()
    raw.close()
    sock4.close()
    sock6.close()
