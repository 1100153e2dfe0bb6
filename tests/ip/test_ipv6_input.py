"""F-2, F-6: what IPv6 input takes, what it refuses and under which name."""

import pytest

from tests.ip.world import PEER6, US6, World, ip6
from ustack.wire.addr import parse_addr

HOP, DEST, ROUTING, FRAGMENT, NONE = 0, 60, 43, 44, 59


def ext(next_header, body=b"\x01\x04" + bytes(4)):
    return bytes((next_header, (len(body) + 2) // 8 - 1)) + body


@pytest.mark.parametrize("times", [1, 2], ids=["first packet of a pair", "known pair"])
def test_delivers_to_the_transport(times):
    w = World()
    for _ in range(times):
        w.inject(ip6(b"payload", tclass=0x5C, hops=0) + b"padding", now=17)
    rx = w.udp.received[-1]
    assert (rx.src, rx.dst, rx.proto, rx.tos, rx.ttl) == (PEER6, US6, 17, 0x5C, 0)
    assert rx.buf[rx.l4 : rx.end] == b"payload"
    assert w.mib["Ip6InReceives"] == w.mib["Ip6InDelivers"] == times
    assert not w.drops()


@pytest.mark.parametrize(
    ("chain", "proto"),
    [
        (ext(17), HOP),
        (ext(17), DEST),
        (ext(DEST) + ext(17), HOP),
        (ext(17, bytes((0, 0)) + bytes(4)), ROUTING),
        (ext(ROUTING) + ext(DEST, bytes(6)) + ext(17), DEST),
        (bytes((17, 0, 0, 0)) + b"abcd", FRAGMENT),
    ],
    ids=["hop", "dest", "hop dest", "used up routing", "three", "atomic fragment"],
)
def test_walks_extension_headers(chain, proto):
    w = World()
    w.inject(ip6(chain + b"payload", proto=proto))
    (rx,) = w.udp.received
    assert rx.buf[rx.l4 : rx.end] == b"payload"
    assert (rx.proto, rx.l3) == (17, 0)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (ip6(b"")[:39], "IP_INHDR"),
        (ip6(b"12")[:-1], "PKT_TOO_SMALL"),
        (ip6(b"x", src=parse_addr("::1")), "IP_LOCAL_SOURCE"),
        (ip6(b"x", dst=parse_addr("::1")), "IP_LOCALNET"),
        (ip6(b"x", src=parse_addr("ff02::1")), "IP_INVALID_SOURCE"),
        (ip6(b"x", src=parse_addr("::ffff:10.9.0.1")), "IP_INVALID_SOURCE"),
        (ip6(b"x", dst=parse_addr("ff02::9")), "IP_INVALID_DEST"),
        (ip6(b"x", dst=parse_addr("fd00:9::3")), "IP_INADDRERRORS"),
        (ip6(b"x", proto=HOP), "IP_INHDR"),
        (ip6(b"", proto=NONE), "IP_NOPROTO"),
        (ip6(ext(17, b"\x41\x04" + bytes(4)), proto=DEST), "IP_INHDR"),
        (ip6(b"".join(ext(DEST) for _ in range(20)), proto=DEST), "IPV6_BAD_EXTHDR"),
    ],
)
def test_refuses_in_silence(packet, reason):
    w = World()
    w.inject(packet)
    assert w.drops() == {reason: 1}
    assert not w.udp.received
    assert not w.dev.take()


@pytest.mark.parametrize(
    ("packet", "code", "pointer"),
    [
        (ip6(b"12345678", proto=200), 1, 6),
        (ip6(ext(200) + b"12345678", proto=DEST), 1, 40),
        (ip6(ext(HOP) + ext(17), proto=HOP), 1, 40),
        (ip6(ext(17, b"\x81\x04" + bytes(4)), proto=DEST), 2, 42),
        (ip6(ext(17, b"\x05\x01" + bytes(4)), proto=ROUTING), 0, 42),
        (ip6(bytes((17, 0, 0, 1)) + bytes(4) + b"1234567", proto=FRAGMENT), 3, 0),
        (ip6(bytes((17, 0, 0, 1)) + bytes(4) + b"123456789", proto=FRAGMENT), 0, 4),
        (ip6(bytes((17, 0, 0xFF, 0xF8)) + bytes(4) + b"1" * 9, proto=FRAGMENT), 0, 42),
    ],
    ids=[
        "next header", "after dest", "late hop-by-hop", "option", "routing",
        "cut header", "not 8n", "beyond 65535",
    ],
)  # fmt: skip
def test_parameter_problems(packet, code, pointer):
    w = World()
    w.inject(packet)
    (answer,) = w.dev.take()
    assert answer[6] == 58
    assert answer[8:40] == US6 + PEER6
    assert answer[40:42] == bytes((4, code))
    assert int.from_bytes(answer[44:48], "big") == pointer
    assert answer[48:] == packet
    assert not w.udp.received


def test_anyip_prefix():
    w = World()
    w.host.add_local_prefix("2001:db8::/32")
    w.inject(ip6(b"x", dst=parse_addr("2001:db8::77")))
    assert w.udp.received[0].dst == parse_addr("2001:db8::77")
