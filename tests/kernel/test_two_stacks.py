"""Two stacks in one process, the kernel as the router between their TUNs."""

from __future__ import annotations

import socket

import pytest

import ustack
from tests.kernel.ends import receive_exactly
from tools import testbed

pytestmark = pytest.mark.kernel
LEFT4, LEFT6, RIGHT4, RIGHT6 = "10.9.0.2", "fd00:9::2", "10.10.0.2", "fd00:10::2"


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
async def test_echo_between_two_stacks_in_one_task(family: int, offload: bool) -> None:
    """No call of one stack needs the other to run: one task can hold both ends."""
    host = RIGHT4 if family == socket.AF_INET else RIGHT6
    with testbed.Routed(1) as bed, bed.near.entered():
        async with (
            ustack.open_tun(
                "left", addresses=[f"{LEFT4}/24", f"{LEFT6}/64"], offload=offload
            ) as left,
            ustack.open_tun(
                "right",
                addresses=[f"{RIGHT4}/24", f"{RIGHT6}/64"],
                peers=["10.10.0.1/24", "fd00:10::1/64"],
                offload=offload,
            ) as right,
        ):
            listener, client = right.socket(family), left.socket(family)
            await listener.bind((host, 7))
            listener.listen(1)
            await client.connect((host, 7))
            server, peer = await listener.accept()
            assert peer[:2] == client.getsockname()[:2]
            for size in (1, 1_000, 10_000):
                message = bytes(size)
                await client.send(message)
                await server.send(await receive_exactly(server, size))
                assert await receive_exactly(client, size) == message
            client.close()
            assert await server.recv(1) == b""
            server.close()
            listener.close()
