"""A stack on a TUN, from opening to the end; the kernel is the peer."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest
import trio

import ustack
from tools.testbed import NEAR4, NEAR6, NEAR_DEV, Direct

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with Direct() as bed, bed.near.entered():
        yield


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


async def echo_once(stack: ustack.NetworkStack, family: int, host: str, data: bytes) -> None:
    """The kernel sends a datagram to the stack, which sends it back."""
    server = stack.socket(family, socket.SOCK_DGRAM)
    await server.bind((host, 7))
    with trio.fail_after(10), trio.socket.socket(family, socket.SOCK_DGRAM) as client:
        await client.connect((host, 7))
        await client.send(data)
        got, peer = await server.recvfrom(70000)
        await server.sendto(got, peer)
        assert await client.recv(70000) == data
    server.close()


@pytest.mark.parametrize("offload", [True, False])
async def test_the_kernel_talks_to_it_and_it_goes_away(offload: bool) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with ustack.open_tun(NEAR_DEV, offload=offload) as stack:
        assert NEAR_DEV in interfaces()
        for family, host in ((socket.AF_INET, NEAR4), (socket.AF_INET6, NEAR6)):
            for size in (0, 1, 1400, 20_000):
                await echo_once(stack, family, host, bytes(size))
        device = stack.statistics().devices[1]
        assert (device.name, device.mtu) == (NEAR_DEV, 1500)
        assert device.rx_packets >= 8
        assert device.rx_packets == device.tx_packets
        assert device.rx_bytes == device.tx_bytes
    assert NEAR_DEV not in interfaces()
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    async with ustack.open_tun(NEAR_DEV, pcap=path) as stack:
        await echo_once(stack, socket.AF_INET, NEAR4, bytes(20_000))
    with path.open("rb") as file:
        packets = [packet for _, packet in dpkt.pcapng.Reader(file)]
    assert len(packets) == 28  # 14 fragments each way
    assert max(map(len, packets)) <= 1500
    assert {dpkt.ip.IP(packet).p for packet in packets} == {17}


async def test_it_can_be_opened_again_at_once() -> None:
    for _ in range(3):
        async with ustack.open_tun(NEAR_DEV) as stack:
            await echo_once(stack, socket.AF_INET, NEAR4, b"again")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a name that is too long"},
        {"mtu": 10},
        {"peers": ["nonsense"]},
        {"routes": ["nonsense"]},
    ],
)
async def test_what_the_machine_cannot_do_is_one_line(options: dict) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ustack.PreflightError) as caught:
        await open_and_leave(**{"name": NEAR_DEV, **options})
    assert "\n" not in str(caught.value)
    assert NEAR_DEV not in interfaces()
    assert set(os.listdir("/proc/self/fd")) == before


async def test_an_address_that_is_none() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        await open_and_leave(name=NEAR_DEV, addresses=["nonsense"])
    assert NEAR_DEV not in interfaces()


async def open_and_leave(**options: object) -> None:
    async with ustack.open_tun(**options):
        pass


async def test_an_interface_that_is_deleted_is_an_error() -> None:
    async def use() -> None:
        async with ustack.open_tun(NEAR_DEV) as stack:
            from pyroute2 import IPRoute

            with IPRoute() as ipr:
                ipr.link("del", index=ipr.link_lookup(ifname=NEAR_DEV)[0])
            sock = stack.socket(type=socket.SOCK_DGRAM)
            await sock.bind(("", 7))
            await sock.recv(1)

    with trio.fail_after(10), pytest.raises(OSError, match=f"{NEAR_DEV} has been removed"):
        await use()


async def test_a_slow_link_makes_senders_wait() -> None:
    """800 kbit/s: a datagram of 1000 bytes takes 10 ms, and its charge is held as long."""
    async with ustack.open_tun(NEAR_DEV, rate=800_000, txqueuelen=1000) as stack:
        peer = trio.socket.socket(type=socket.SOCK_DGRAM)
        await peer.bind(("10.9.0.1", 0))
        sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        await sock.connect(peer.getsockname())
        for _ in range(5):  # one goes at once, four make the buffer full
            await sock.send(bytes(972), socket.MSG_DONTWAIT)
        with pytest.raises(BlockingIOError):
            await sock.send(bytes(972), socket.MSG_DONTWAIT)
        started = trio.current_time()
        with trio.fail_after(10):
            for _ in range(20):
                await sock.send(bytes(972))
            assert trio.current_time() - started >= 0.19
            await sock.wait_writable()
        assert stack.statistics().devices[-1].tx_dropped == 0
        sock.close()
        peer.close()
