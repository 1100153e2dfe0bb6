from tests.link.packets import V6, joined, tcp_packet, udp_packet
from ustack.link.loopback import Loopback
from ustack.wire.packet import F_ALL, TAKEN


def test_loopback_queues_until_drained():
    lo = Loopback()
    assert (lo.name, lo.mtu, lo.loopback, lo.features, lo.pending) == ("lo", 65536, True, F_ALL, 0)
    packets = [tcp_packet([b"x" * 3000], gso_size=1448), udp_packet([b"a", b"b"], V6)]
    assert [lo.xmit(p) for p in packets] == [TAKEN, TAKEN]
    assert lo.pending
    frames = lo.drain()
    assert [(f.buf, f.off, f.gso_size, f.csum_ok) for f in frames] == [
        (joined(packets[0]), 0, 1448, True),
        (joined(packets[1]), 0, 0, True),
    ]
    assert not lo.pending
    assert lo.drain() == []
