"""UDP between ustack and a kernel, up to the largest datagram, in fragments."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

from tests.kernel.ends import UDP, Ends, payload

pytestmark = pytest.mark.kernel
# The largest payload: 65,535 less the headers that the IP length field counts.
LARGEST = {socket.AF_INET: 65_507, socket.AF_INET6: 65_527}
FRAGMENTS = {socket.AF_INET: 45, socket.AF_INET6: 46}  # of 65,507 bytes at MTU 1500
SIZES = [0, 1, 1_452, 1_453, 1_472, 1_473, 8_000, 40_000, 65_507]


@pytest.mark.parametrize("side", ["stack", "peer"])
async def test_every_size_comes_back(ends: Ends, side: str) -> None:
    """Sizes around the largest that fits one packet, and the largest there is."""
    server, client = ends.peer_socket(UDP), ends.stack_socket(UDP)
    if side == "peer":
        server, client = client, server
    with server, client:
        await server.bind((ends.host("peer" if side == "stack" else "stack"), 0))
        await client.connect(server.getsockname()[:2])
        for size in {*SIZES, LARGEST[ends.family]}:
            message = payload(size, seed=size)
            with trio.fail_after(5):
                await client.send(message)
                data, sender = await server.recvfrom(70_000)
                assert data == message
                assert sender[:2] == client.getsockname()[:2]
                await server.sendto(data, sender)
                assert await client.recv(70_000) == message


async def test_large_datagrams_are_fragments_on_the_wire(ends: Ends) -> None:
    """What the peer's kernel reassembles had been cut by the stack, and the other way."""
    prefix = "Ip" if ends.family == socket.AF_INET else "Ip6"
    with ends.peer_socket(UDP) as peer, ends.stack_socket(UDP) as mine:
        await peer.bind((ends.peer_host, 0))
        await mine.connect(peer.getsockname()[:2])
        with trio.fail_after(5):
            await mine.send(payload(65_507))
            data, sender = await peer.recvfrom(70_000)
            await peer.sendto(data, sender)
            assert await mine.recv(70_000) == payload(65_507)
    for counters in (ends.bed.far.counters(), ends.stack_counters()):
        assert counters[f"{prefix}ReasmOKs"] == 1
        assert counters[f"{prefix}ReasmReqds"] == FRAGMENTS[ends.family]
        assert counters[f"{prefix}FragCreates"] == FRAGMENTS[ends.family]


async def test_one_byte_too_many(ends: Ends) -> None:
    with ends.stack_socket(UDP) as sock:
        await sock.connect((ends.peer_host, 4000))
        with pytest.raises(OSError) as caught:
            await sock.send(bytes(LARGEST[ends.family] + 1))
        assert caught.value.errno == errno.EMSGSIZE
