"""F-1: what IPv4 input takes, what it refuses and under which name."""

import pytest

from tests.ip.world import PEER4, US4, World, ip4, udp
from ustack.wire.addr import parse_addr
from ustack.wire.packet import IPPROTO_TCP, Frame


def corrupt(packet, at, value):
    return packet[:at] + bytes((value,)) + packet[at + 1 :]


@pytest.mark.parametrize("times", [1, 2], ids=["first packet of a pair", "known pair"])
def test_delivers_to_the_transport(times):
    w = World()
    for _ in range(times):
        w.inject(ip4(b"payload", tos=0x5C, ttl=9) + b"padding", now=17)
    rx = w.udp.received[-1]
    assert (rx.src, rx.dst, rx.proto, rx.tos, rx.ttl) == (PEER4, US4, 17, 0x5C, 9)
    assert rx.buf[rx.l4 : rx.end] == b"payload"
    assert (rx.now, rx.iif, rx.csum_ok, rx.gso_size) == (17, w.dev.ifindex, False, 0)
    assert w.mib["IpInReceives"] == w.mib["IpInDelivers"] == times
    assert not w.drops()


def test_frame_offset_and_offload_marks():
    w = World()
    for _ in range(2):
        frame = Frame(b"xxxxxxxxxx" + ip4(b"data", proto=IPPROTO_TCP), 10, 2, True)
        w.host.handle_batch([frame], 0, w.dev)
    for rx in w.tcp.received:
        assert (rx.l3, rx.l4, rx.gso_size, rx.csum_ok) == (10, 30, 2, True)
    assert len(w.tcp.received) == 2


def test_addresses_of_a_pair_are_shared():
    w = World()
    w.inject(*[ip4(b"1"), ip4(b"2"), ip4(b"3")])
    assert w.udp.received[1].src is w.udp.received[2].src


GOOD = ip4(b"12345678")


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "PKT_TOO_SMALL"),
        (GOOD[:19], "PKT_TOO_SMALL"),
        (b"\x00" * 40, "UNHANDLED_PROTO"),
        (corrupt(GOOD, 0, 0x44), "IP_INHDR"),
        (corrupt(GOOD, 0, 0x4F), "IP_INHDR"),
        (corrupt(GOOD, 9, 18), "IP_CSUM"),
        (GOOD[:-1], "PKT_TOO_SMALL"),
        (ip4(b"x", src=parse_addr("127.0.0.1")), "IP_LOCAL_SOURCE"),
        (ip4(b"x", src=US4), "IP_LOCAL_SOURCE"),
        (ip4(b"x", src=parse_addr("224.0.0.1")), "IP_INVALID_SOURCE"),
        (ip4(b"x", src=parse_addr("255.255.255.255")), "IP_INVALID_SOURCE"),
        (ip4(b"x", src=parse_addr("0.0.0.0")), "IP_INVALID_SOURCE"),
        (ip4(b"x", dst=parse_addr("127.0.0.1")), "IP_LOCALNET"),
        (ip4(b"x", dst=parse_addr("10.9.0.3")), "IP_INADDRERRORS"),
        (ip4(b"x", dst=parse_addr("224.0.0.9")), "IP_INVALID_DEST"),
        (ip4(b"x", dst=parse_addr("10.9.0.255"), proto=6), "IP_INVALID_DEST"),
        (ip4(b"x", options=b"\x83\x03\x04\x00"), "IP_SOURCE_ROUTED"),
    ],
)
def test_refuses(packet, reason):
    w = World()
    w.inject(ip4(b"a pair is known"))
    w.inject(packet)
    assert w.drops() == {reason: 1}
    assert len(w.udp.received) == 1
    assert not w.tcp.received
    assert not w.dev.take()


@pytest.mark.parametrize("options", [b"\x07\x00\x00\x00", b"\x01\x07\x09\x04"])
def test_bad_options_are_answered(options):
    w = World()
    packet = ip4(b"x", options=options)
    w.inject(packet)
    assert w.drops() == {"IP_INHDR": 1}
    (answer,) = w.dev.take()
    assert (answer[20], answer[21], answer[28:]) == (12, 0, packet)
    assert answer[24] == 20 + options.index(7)
    assert not w.udp.received


def test_total_length_below_the_header():
    w = World()
    packet = bytearray(ip4(b"x"))
    packet[2:4] = (19).to_bytes(2, "big")
    packet[10:12] = bytes(2)
    csum = 0xFFFF - int.from_bytes(packet[:20], "big") % 65535
    packet[10:12] = csum.to_bytes(2, "big")
    w.inject(bytes(packet))
    assert w.drops() == {"IP_INHDR": 1}


@pytest.mark.parametrize(
    "packet",
    [
        ip4(b"x", ttl=0),
        ip4(b"x", frag=0x8000),
        ip4(b"x", frag=0x4000),
        ip4(b"x", options=b"\x01\x01\x01\x00"),
        ip4(b"x", options=b"\x94\x04\x00\x00"),
        ip4(b"x", dst=parse_addr("10.9.0.255")),
        ip4(b"x", dst=parse_addr("255.255.255.255")),
    ],
    ids=["ttl 0", "reserved flag", "DF", "NOPs", "router alert", "subnet", "limited"],
)
def test_takes(packet):
    w = World()
    w.inject(packet)
    rx = w.udp.received[0]
    assert rx.buf[rx.l4 : rx.end] == b"x"


def test_anyip_prefix():
    w = World()
    anyone = parse_addr("10.99.3.4")
    w.inject(ip4(b"x", dst=anyone))
    assert w.drops() == {"IP_INADDRERRORS": 1}
    w.host.add_local_prefix("10.99.0.0/16")
    w.inject(ip4(b"x", dst=anyone))
    assert w.udp.received[0].dst == anyone
    w.host.del_local_prefix("10.99.0.0/16")
    w.inject(ip4(b"x", dst=anyone))
    assert len(w.udp.received) == 1


def test_an_address_taken_away_is_forgotten():
    w = World()
    w.inject(ip4(b"x"), ip4(b"x"))
    w.host.del_address("10.9.0.2")
    w.inject(ip4(b"x"))
    assert len(w.udp.received) == 2


def test_memory_of_pairs_is_bounded():
    w = World()
    for i in range(9000):
        w.inject(ip4(b"x", src=bytes((11, 0, i >> 8, i & 255))))
    assert len(w.udp.received) == 9000
    assert len(w.host.routes.pairs) <= 8192


def test_unknown_protocol_is_answered():
    w = World()
    w.inject(ip4(b"12345678", proto=200))
    assert w.drops() == {"IP_NOPROTO": 1}
    (answer,) = w.dev.take()
    assert answer[20:22] == b"\x03\x02"
    assert answer[28:] == ip4(b"12345678", proto=200)


def test_loopback_takes_what_the_wire_may_not_bring():
    w = World()
    here = parse_addr("127.0.0.1")
    packet = ip4(udp(here, here), src=here, dst=here)
    w.inject(packet, packet, dev=w.host.loopback, csum_ok=True)
    assert len(w.udp.received) == 2
    assert w.udp.received[1].iif == 1
    w.inject(packet)
    assert w.drops() == {"IP_LOCAL_SOURCE": 1}
