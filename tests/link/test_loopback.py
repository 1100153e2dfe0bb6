from tests.link.packets import V4, V6, joined, parse, tcp_packet, udp_packet
from ustack.link.loopback import Loopback
from ustack.link.pair import connect_pair
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


def test_pair_hands_super_segments_across():
    a, b = connect_pair()
    woken = []
    b.on_pending = lambda: woken.append(1)
    packet = tcp_packet([b"x" * 3000], V4, gso_size=1448)
    a.xmit(packet)
    a.xmit(packet)
    assert woken == [1]
    assert not a.pending
    assert [f.gso_size for f in b.drain()] == [1448, 1448]
    b.xmit(packet)
    assert a.pending
    assert len(a.drain()) == 1


def test_pair_without_features_carries_finished_packets():
    a, b = connect_pair(features=0)
    a.xmit(tcp_packet([b"x" * 3000], gso_size=1448))
    frames = b.drain()
    assert [len(f.buf) for f in frames] == [1500, 1500, 156]
    assert not any(f.csum_ok or f.gso_size for f in frames)
    for f in frames:
        parse(f.buf)
    assert (a.tx_packets, a.tx_bytes) == (3, 3156)
