"""Paths that lose packets and paths that grow narrower, with routers between the ends.

Every hop is without offload, and packets are dropped in the forward hook of a router
(tools/testbed.py says why).
"""

from __future__ import annotations

import socket

import pytest

from tests.kernel.ends import Ends, both_ways, tcp_info, transfer
from tools import testbed

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("permille", "nbytes"), [(10, 8_000_000), (50, 3_000_000)], ids=["1%", "5%"]
)
async def test_random_loss_both_ways(lossy: Ends, permille: int, nbytes: int) -> None:
    bed = lossy.bed
    assert isinstance(bed, testbed.Routed)
    bed.drop(permille)
    await both_ways(*await lossy.join(), nbytes)
    to_stack, to_peer = bed.dropped()
    assert to_stack > 0
    assert to_peer > 0
    assert bed.far.counters()["TcpRetransSegs"] > 0
    assert lossy.stack_counters()["TcpRetransSegs"] > 0


@pytest.mark.parametrize("sender", ["stack", "peer"])
async def test_path_mtu_lowered_in_mid_transfer(narrow: Ends, sender: str) -> None:
    """The router's packet too big reaches the sender, and the stream goes on in smaller
    segments."""
    bed, mtu, nbytes = narrow.bed, 1300, 20_000_000
    assert isinstance(bed, testbed.Routed)
    stack_end, peer_end = await narrow.join()
    source, sink = (stack_end, peer_end) if sender == "stack" else (peer_end, stack_end)
    assert tcp_info(source)["tcpi_pmtu"] == 1500
    lowered = False

    def halfway(received: int) -> None:
        nonlocal lowered
        if received > nbytes // 4 and not lowered:
            lowered = True
            bed.set_middle_mtu(mtu)

    await transfer(source, sink, nbytes, at=halfway)
    assert lowered
    assert tcp_info(source)["tcpi_pmtu"] == mtu
    router = bed.routers[0 if sender == "stack" else 1].counters()
    ipv4 = narrow.family == socket.AF_INET
    assert router["IcmpOutDestUnreachs" if ipv4 else "Icmp6OutPktTooBigs"] > 0
