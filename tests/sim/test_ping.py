"""The network layer in virtual time: an echo request over a link is answered."""

import pytest

from tests.link.packets import ip_header, ones_sum
from ustack.ip.host import IpHost
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sim.capture import Capture
from ustack.sim.host import SimHost, SimLink, host_seeds
from ustack.sim.loop import Simulator
from ustack.wire.packet import Packet

MS = 1_000_000
A = (bytes([10, 0, 0, 1]), bytes([0xFD] + [0] * 14 + [1]))
B = (bytes([10, 0, 0, 2]), bytes([0xFD] + [0] * 14 + [2]))


def echo_request(v6):
    body = bytes([128 if v6 else 8]) + bytes(7) + b"ping" * 10
    addrs = (A[v6], B[v6])
    pseudo = b"".join(addrs) + bytes([0, 0, 0, len(body), 0, 0, 0, 58]) if v6 else b""
    csum = 0xFFFF - ones_sum(pseudo + body)
    body = body[:2] + csum.to_bytes(2, "big") + body[4:]
    return Packet(ip_header(addrs, 58 if v6 else 1, len(body), 1) + body)


@pytest.mark.parametrize("v6", [0, 1])
def test_ping(v6):
    sim = Simulator(Seeds(1))
    hosts = [SimHost(sim, n, IpHost(seeds=host_seeds(sim, n), loopback=Loopback())) for n in "ab"]
    link = SimLink(
        sim, *hosts, 1500, (("10.0.0.1/24", "fd00::1/64"), ("10.0.0.2/24", "fd00::2/64")),
        delay=5 * MS,
    )  # fmt: skip
    capture = Capture(sim, link.devices[0])
    link.devices[0].xmit(echo_request(v6))
    sim.run_until_idle()
    assert sim.now == 10 * MS
    assert capture.packets == 2
    a, b = (host.stack.mib for host in hosts)
    assert (b["Icmp6InMsgs" if v6 else "IcmpInEchos"], b.drops) == (1, {})
    assert a["Icmp6InEchoReplies" if v6 else "IcmpInEchoReps"] == 1
