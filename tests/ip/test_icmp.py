"""F-20 to F-23 and E-36: echo, errors out and their limits, errors in."""

from errno import EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ENETUNREACH, EPROTO

import pytest

from tests.ip.world import PEER4, PEER6, SECOND, US4, US6, Ip4, Ip6, World, ip4, ip6, udp
from ustack.sock.icmp import icmp_err_convert
from ustack.wire import icmp, icmpv6
from ustack.wire.addr import parse_addr
from ustack.wire.checksum import pseudo_sum, verify
from ustack.wire.packet import IPPROTO_ICMP, IPPROTO_ICMPV6

ANYONE4, ANYONE6 = parse_addr("10.99.1.1"), parse_addr("2001:db8::1")


def ping4(data=b"ping", dst=US4, **kwargs):
    return ip4(icmp.echo(7, 9, data), dst=dst, proto=IPPROTO_ICMP, **kwargs)


def ping6(data=b"ping", dst=US6, **kwargs):
    return ip6(icmpv6.echo(PEER6, dst, 7, 9, data), dst=dst, proto=IPPROTO_ICMPV6, **kwargs)


def answers4(w):
    """The ICMP messages sent, checksums asserted."""
    packets = [Ip4(data) for data in w.dev.take()]
    for packet in packets:
        assert verify(packet.payload, 0, len(packet.payload), 0)
    return packets


def answers6(w):
    packets = [Ip6(data) for data in w.dev.take()]
    for packet in packets:
        n = len(packet.payload)
        assert verify(packet.payload, 0, n, pseudo_sum(packet.src, packet.dst, 58, n))
    return packets


# -- echo ----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"odd", b"\xff" * 56, bytes(1400)])
def test_echo(data):
    w = World()
    w.inject(ping4(data, tos=0x1C, ttl=3), ping6(data, tclass=0x1C))
    (four,), (six,) = answers4_and_6(w)
    assert (four.src, four.dst, four.ttl, four.tos, four.df) == (US4, PEER4, 64, 0x1C, False)
    assert four.payload[:2] + four.payload[4:] == b"\0\0\0\x07\0\x09" + data
    assert (six.src, six.dst, six.hops, six.tclass) == (US6, PEER6, 64, 0x1C)
    assert six.payload[:2] + six.payload[4:] == b"\x81\0\0\x07\0\x09" + data
    assert w.mib["IcmpOutEchoReps"] == w.mib["Icmp6OutEchoReplies"] == 1


def answers4_and_6(w):
    """The messages of each family among what was sent."""
    sent = w.dev.take()
    w.dev.take = lambda: [data for data in sent if data[0] >> 4 == 4]
    four = answers4(w)
    w.dev.take = lambda: [data for data in sent if data[0] >> 4 == 6]
    return four, answers6(w)


def test_echo_larger_than_the_mtu():
    w, peer = World(), World()
    peer.host.del_address("10.9.0.2")
    peer.host.add_address(peer.dev, "10.9.0.1/24")
    replies = []
    peer.host.ping = type("Ping", (), {"rcv": lambda self, rx: replies.append(rx)})()
    request = ip4(icmp.echo(1, 1, bytes(5000)), proto=IPPROTO_ICMP)
    for offset in range(0, 5008, 1480):
        more = 0x2000 if offset + 1480 < 5008 else 0
        piece = request[20 + offset : 20 + offset + 1480]
        w.inject(ip4(piece, proto=IPPROTO_ICMP, frag=offset // 8 | more))
    peer.inject(*w.dev.take())
    (rx,) = replies
    assert rx.buf[rx.l4 + 8 : rx.end] == bytes(5000)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (ip4(b"\x08\x00\x00\x00\x00\x00\x00\x00", proto=1), "ICMP_CSUM"),
        (ip4(b"\x08\x00\xf7\xff", proto=1), "PKT_TOO_SMALL"),
        (ip4(icmp.build(19, 0, 0), proto=1), "UNHANDLED_PROTO"),
        (ip4(icmp.build(0, 0, 0), proto=1), "NO_SOCKET"),
        (ping4(dst=parse_addr("10.9.0.255")), "IP_INVALID_DEST"),
        (ip6(b"\x80\x00\x00\x00\x00\x00\x00\x00", proto=58), "ICMP_CSUM"),
        (ip6(b"\x80\x00\x00", proto=58), "PKT_TOO_SMALL"),
    ],
)
def test_messages_that_are_dropped(packet, reason):
    w = World()
    w.inject(packet)
    assert w.drops() == {reason: 1}
    assert not w.dev.take()


def test_echo_can_be_turned_off():
    w = World(icmp_echo_ignore_all=True)
    w.inject(ping4(), ping6())
    assert not w.dev.take()


@pytest.mark.parametrize("family", [4, 6])
def test_echo_to_any_address_is_decided_elsewhere(family):
    w = World()
    w.host.add_local_prefix("10.99.0.0/16")
    w.host.add_local_prefix("2001:db8::/32")
    asked = []
    w.host.on_echo = asked.append
    own, other = (ping4(), ping4(dst=ANYONE4)) if family == 4 else (ping6(), ping6(dst=ANYONE6))
    answers = answers4 if family == 4 else answers6
    w.inject(own, other, other)
    assert len(answers(w)) == 1
    first, second = asked
    assert first.data == b"ping"
    first.reply(SECOND)
    (reply,) = answers(w)
    assert (reply.src, reply.payload[8:]) == (ANYONE4 if family == 4 else ANYONE6, b"ping")
    second.unreachable(1, 2 * SECOND)
    (refusal,) = answers(w)
    assert refusal.payload[:2] == (b"\x03\x01" if family == 4 else b"\x01\x01")


def test_echo_to_any_address_without_a_decider():
    w = World()
    w.host.add_local_prefix("10.99.0.0/16")
    w.inject(ping4(dst=ANYONE4))
    assert answers4(w)[0].src == ANYONE4


# -- errors out ----------------------------------------------------------------------------


def port_unreach(w, packet, now=0):
    """What a UDP without sockets does."""
    before = len(w.udp.received)
    w.inject(packet, now=now)
    for rx in w.udp.received[before:]:
        w.host.icmp_port_unreach(rx)


def test_port_unreachable():
    w = World()
    packet = ip4(udp(PEER4, US4, bytes(1000)), tos=0x2B)
    port_unreach(w, packet)
    (answer,) = answers4(w)
    assert (answer.src, answer.dst, answer.tos, answer.length) == (US4, PEER4, 0xCA, 576)
    assert answer.payload[:8] == b"\x03\x03" + answer.payload[2:4] + bytes(4)
    assert answer.payload[8:] == packet[:548]
    packet = ip6(udp(PEER6, US6, bytes(1400)))
    port_unreach(w, packet)
    (answer,) = answers6(w)
    assert answer.payload[:2] == b"\x01\x04"
    assert answer.payload[8:] == packet[:1232]
    assert w.mib["IcmpOutDestUnreachs"] == w.mib["Icmp6OutDestUnreachs"] == 1


def test_short_packets_are_quoted_whole():
    w = World()
    packet = ip4(udp(PEER4, US4, b"x")) + b"padding"
    port_unreach(w, packet)
    assert answers4(w)[0].payload[8:] == packet[:-7]


@pytest.mark.parametrize(
    "packet",
    [
        ip4(b"12345678", dst=parse_addr("10.9.0.255")),
        ip4(b"12345678", dst=parse_addr("255.255.255.255")),
    ],
)
def test_no_errors_about(packet):
    w = World()
    port_unreach(w, packet)
    assert w.udp.received
    assert not w.dev.take()


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12, 50])
def test_no_errors_about_errors(kind):
    w = World()
    w.inject(ip4(icmp.build(kind, 0, 0, ip4(b"12345678", src=US4, dst=PEER4)), proto=IPPROTO_ICMP))
    w.inject(ip4(b"x"))
    rx = w.udp.received[0]
    rx.buf = ip4(icmp.build(kind, 0, 0, b""), proto=IPPROTO_ICMP)
    rx.proto = IPPROTO_ICMP
    w.host.icmp_send(rx, 3, 2)
    assert not w.dev.take()


def test_no_errors_about_icmpv6_errors():
    w = World()
    body = bytes((58, 0, 0x41, 4, 0, 0, 0, 0)) + icmpv6.build(PEER6, US6, 1, 0, 0, b"")
    bad_option = bytes((58, 0, 0x81, 4, 0, 0, 0, 0))
    w.inject(ip6(bad_option + body[8:], proto=60))
    assert not w.dev.take()
    w.inject(ip6(bad_option + icmpv6.echo(PEER6, US6, 1, 1, b""), proto=60))
    assert len(answers6(w)) == 1


def test_rate_limit_of_a_destination():
    w = World()
    for i in range(30):
        port_unreach(w, ip4(b"12345678"), now=10 * SECOND + i)
    assert len(w.dev.take()) == 6
    assert w.mib["IcmpOutRateLimitHost"] == 24
    port_unreach(w, ip4(b"12345678"), now=11 * SECOND - 1)
    assert not w.dev.take()
    port_unreach(w, ip4(b"12345678"), now=11 * SECOND)
    port_unreach(w, ip4(b"12345678"), now=11 * SECOND)
    assert len(w.dev.take()) == 1
    port_unreach(w, ip4(b"12345678", src=parse_addr("10.9.0.7")), now=11 * SECOND)
    assert len(w.dev.take()) == 1


def test_rate_limit_of_the_host():
    w = World()
    for i in range(250):
        port_unreach(w, ip4(b"12345678", src=bytes((10, 9, 0, i + 3))))
    sent = len(w.dev.take())
    assert 25 <= sent <= 75
    assert w.mib["IcmpOutRateLimitGlobal"] == 250 - sent
    port_unreach(w, ip4(b"12345678"), now=SECOND)
    assert len(w.dev.take()) == 1


def test_ipv6_limit_is_more_lenient_for_unspecific_routes():
    w = World()
    for i in range(10):  # /64: one each 250 ms
        port_unreach(w, ip6(b"12345678"), now=SECOND + i)
    assert len(w.dev.take()) == 6
    port_unreach(w, ip6(b"12345678"), now=SECOND + 250_000_000)
    assert len(w.dev.take()) == 1


def test_ipv6_packet_too_big_is_not_limited():
    w = World()
    w.inject(ip6(b"12345678"))
    for _ in range(20):
        w.host.icmp_send(w.udp.received[0], icmpv6.PACKET_TOO_BIG, 0, 1400)
    assert len(answers6(w)) == 20


def test_loopback_is_not_limited():
    w = World()
    here = parse_addr("127.0.0.1")
    for _ in range(100):
        w.inject(ip4(b"12345678", src=here, dst=here, proto=99), dev=w.host.loopback)
    assert w.mib["IcmpOutDestUnreachs"] == 100


def test_echo_and_frag_needed_are_not_limited():
    w = World()
    w.inject(*[ping4()] * 100)
    assert len(w.dev.take()) == 100
    w.inject(ip4(b"12345678"))
    for _ in range(100):
        w.host.icmp_send(w.udp.received[0], 3, 4, 1400)
    assert len(w.dev.take()) == 100


# -- errors in -----------------------------------------------------------------------------

OURS4 = ip4(b"\x13\x88\x17\x70\x00\x0c\x00\x00data", src=US4, dst=PEER4)
OURS6 = ip6(b"\x13\x88\x17\x70\x00\x0c\x00\x00data", src=US6, dst=PEER6)
ROUTER4, ROUTER6 = parse_addr("192.0.2.9"), parse_addr("2001:db8::9")


def error4(kind, code, rest=0, quote=OURS4):
    return ip4(icmp.build(kind, code, rest, quote), src=ROUTER4, proto=IPPROTO_ICMP)


def error6(kind, code, rest=0, quote=OURS6):
    message = icmpv6.build(ROUTER6, US6, kind, code, rest, quote)
    return ip6(message, src=ROUTER6, proto=IPPROTO_ICMPV6)


@pytest.mark.parametrize(
    ("kind", "code", "rest", "info"),
    [(3, 3, 0, 0), (3, 4, 1400, 1400), (3, 15, 0, 0), (11, 0, 0, 0), (12, 0, 5 << 24, 5)],
)
def test_error_reaches_the_transport(kind, code, rest, info):
    w = World()
    w.inject(error4(kind, code, rest), now=4)
    (e,) = w.udp.errors
    assert (e.version, e.type, e.code, e.info, e.offender) == (4, kind, code, info, ROUTER4)
    assert (e.src, e.dst, e.proto, e.now) == (US4, PEER4, 17, 4)
    assert e.quoted == OURS4[20:]
    assert w.host.route(PEER4).mtu(4) == 1500


@pytest.mark.parametrize(
    ("kind", "code", "rest", "info"),
    [(1, 4, 0, 0), (2, 0, 1400, 1400), (3, 0, 0, 0), (3, 1, 0, 0), (4, 1, 40, 40), (100, 0, 9, 9)],
)
def test_icmpv6_error_reaches_the_transport(kind, code, rest, info):
    w = World()
    w.inject(error6(kind, code, rest))
    (e,) = w.udp.errors
    assert (e.version, e.type, e.code, e.info, e.offender) == (6, kind, code, info, ROUTER6)
    assert (e.src, e.dst, e.proto, e.quoted) == (US6, PEER6, 17, OURS6[40:])


def test_error_about_a_tcp_segment():
    w = World()
    w.inject(error4(3, 3, quote=ip4(bytes(8), src=US4, dst=PEER4, proto=6)))
    assert len(w.tcp.errors) == 1


@pytest.mark.parametrize(
    "packet",
    [
        error4(3, 3, quote=OURS4[:27]),
        error4(3, 3, quote=b""),
        error4(3, 3, quote=b"\x44" + OURS4[1:]),
        error4(3, 3, quote=b"\x4f" + OURS4[1:]),
        error4(3, 3, quote=ip4(bytes(8), src=PEER4, dst=US4)),
        error4(3, 3, quote=ip4(bytes(8), src=US4, dst=PEER4, frag=9)),
        error4(3, 3, quote=ip4(bytes(8), src=US4, dst=PEER4, proto=99)),
        error4(3, 16),
        error4(11, 1),
        error4(4, 0),
        error4(5, 0),
        error6(1, 4, quote=OURS6[:47]),
        error6(1, 4, quote=ip6(bytes(8), src=PEER6, dst=US6)),
        ip6(icmpv6.build(PEER6, US6, 136, 0, 0, bytes(16)), proto=IPPROTO_ICMPV6),
    ],
)
def test_errors_that_are_ignored(packet):
    w = World()
    w.inject(packet)
    assert not w.udp.errors
    assert not w.tcp.errors
    assert not w.dev.take()


def test_ping_seam():
    w = World()
    seen = []

    class Ping:
        def rcv(self, rx):
            seen.append(("reply", rx.buf[rx.l4 + 8 : rx.end]))

        def icmp_err(self, e):
            seen.append(("error", e.code))

    w.host.ping = Ping()
    w.inject(ip4(icmp.echo_reply(0x00070009, b"pong"), proto=IPPROTO_ICMP))
    w.inject(error4(3, 1, quote=ip4(icmp.echo(7, 9, b""), src=US4, dst=PEER4, proto=1)))
    assert seen == [("reply", b"pong"), ("error", 1)]


@pytest.mark.parametrize(
    ("version", "kind", "code", "errno", "fatal"),
    [
        (4, 3, 0, ENETUNREACH, False), (4, 3, 1, EHOSTUNREACH, False),
        (4, 3, 3, ECONNREFUSED, True), (4, 3, 4, EMSGSIZE, True), (4, 3, 13, EHOSTUNREACH, True),
        (4, 4, 0, 0, False), (4, 11, 0, EHOSTUNREACH, False), (4, 12, 0, EPROTO, True),
        (6, 1, 0, ENETUNREACH, False), (6, 1, 1, EACCES, True), (6, 1, 4, ECONNREFUSED, True),
        (6, 1, 9, EPROTO, True), (6, 2, 0, EMSGSIZE, False), (6, 3, 0, EHOSTUNREACH, False),
        (6, 4, 1, EPROTO, True), (6, 99, 0, EPROTO, False),
    ],
)  # fmt: skip
def test_errno_table(version, kind, code, errno, fatal):
    assert icmp_err_convert(version, kind, code) == (errno, fatal)


def test_time_of_day():
    """F-22: a timestamp request is answered with ms since midnight, twice."""
    w = World()
    w.host.wall_ns = 2 * 86_400 * SECOND
    ask = icmp.build(icmp.TIMESTAMP, 0, 7 << 16 | 9, b"orig" + bytes(8))
    w.inject(ip4(ask, proto=IPPROTO_ICMP), now=5 * SECOND)
    w.inject(ip4(icmp.build(icmp.TIMESTAMP, 0, 0, b"now"), proto=IPPROTO_ICMP), now=5 * SECOND)
    (answer,) = answers4(w)
    assert answer.payload[:2] + answer.payload[4:] == (
        b"\x0e\0\0\x07\0\x09orig" + 2 * (5000).to_bytes(4, "big")
    )
    assert w.mib["IcmpInTimestamps"] == 2
    assert w.mib["IcmpOutTimestampReps"] == w.mib["IcmpInErrors"] == 1


def test_quotes_fit_the_path():
    """F-20: an error is never so long that it would be cut."""
    w = World()
    w.host.update_pmtu(PEER4, 552, 0)
    w.inject(ip4(udp(PEER4, US4, bytes(1000)), proto=99))
    (error,) = answers4(w)
    assert len(error.payload) == 552 - 20


def test_no_route_over_ipv6():
    """F-20: what is neither ours nor on any route is answered, what could be forwarded is not."""
    w = World()
    for dst in (ANYONE6, parse_addr("fd00:9::77"), parse_addr("ff15::1")):
        w.inject(ip6(udp(PEER6, dst, b"x"), dst=dst))
    (error,) = answers6(w)
    assert (error.src, error.payload[:2]) == (US6, b"\x01\0")
    assert w.mib["Ip6InNoRoutes"] == 1
