"""F-3, F-4, F-12: headers, identification, DF, fragments, charges."""

from errno import EMSGSIZE

import pytest

from tests.ip.world import PEER4, PEER6, US4, US6, FakeDevice, Ip4, Ip6, World, udp
from ustack.sock.sock import (
    PMTUDISC_DO,
    PMTUDISC_DONT,
    PMTUDISC_INTERFACE,
    PMTUDISC_OMIT,
    PMTUDISC_PROBE,
    PMTUDISC_WANT,
)
from ustack.wire.addr import parse_addr
from ustack.wire.checksum import pseudo_sum
from ustack.wire.packet import DROPPED, F_ALL, IPPROTO_TCP, IPPROTO_UDP, QUEUED, TAKEN


def tcp_header(sk, payload_len):
    """20 bytes with the pseudo-header sum where the checksum goes."""
    pseudo = pseudo_sum(sk.saddr, sk.daddr, IPPROTO_TCP, 20 + payload_len)
    return (
        bytes((3, 232, 7, 208))
        + bytes(8)
        + b"\x50\x10\xff\xff"
        + pseudo.to_bytes(2, "big")
        + (bytes(2))
    )


def xmit(w, sk, payload=b"", gso_size=0, charge=0, now=0):
    header = tcp_header(sk, len(payload))
    return w.host.queue_xmit(sk, header, [payload], len(payload), gso_size, charge, now)


def datagram(
    w, sk, payload, disc=None, gso_size=0, charge=0, ttl=-1, tos=0, now=0, daddr=PEER4, csum=True
):
    """Send `payload` as one UDP datagram, from sport 5000 to 6000."""
    if disc is not None:
        sk.pmtudisc = disc
    dst = w.host.route(daddr)
    length = min(8 + (gso_size or len(payload)), 65535)
    pseudo = pseudo_sum(dst.saddr, daddr, IPPROTO_UDP, length) if csum else 0
    header = bytes((0x13, 0x88, 0x17, 0x70)) + length.to_bytes(2, "big") + pseudo.to_bytes(2, "big")
    return w.host.send_datagram(
        sk, IPPROTO_UDP, dst.saddr, daddr, dst, header, [payload], len(payload), gso_size, charge,
        ttl, tos, now,
    )  # fmt: skip


def unconnected(w, daddr=PEER4):
    sk = w.sock(daddr, IPPROTO_UDP)
    sk.daddr = b""
    return sk


def tcp_intact(ip):
    pseudo = pseudo_sum(ip.src, ip.dst, IPPROTO_TCP, len(ip.payload))
    data = ip.payload + bytes(len(ip.payload) & 1)
    return (pseudo + int.from_bytes(data, "big")) % 65535 == 0


# -- connected sockets ---------------------------------------------------------------------


def test_segment_over_ipv4():
    w = World()
    sk = w.sock(PEER4)
    sk.tos = 0x10
    assert xmit(w, sk, b"hello") == TAKEN
    assert xmit(w, sk, b"again") == TAKEN
    first, second = map(Ip4, w.dev.take())
    assert (first.src, first.dst, first.proto, first.ttl) == (US4, PEER4, IPPROTO_TCP, 64)
    assert (first.tos, first.df, first.payload[20:]) == (0x10, True, b"hello")
    assert second.ident == (first.ident + 1) & 0xFFFF
    assert tcp_intact(first)
    assert w.mib["IpOutRequests"] == 2


def test_segment_over_ipv6():
    w = World()
    sk = w.sock(PEER6)
    sk.tos, sk.tclass = 0x20, 0x10
    xmit(w, sk, b"hello")
    (packet,) = map(Ip6, w.dev.take())
    assert (packet.src, packet.dst, packet.proto) == (US6, PEER6, IPPROTO_TCP)
    assert (packet.hops, packet.tclass, packet.payload[20:]) == (64, 0x10, b"hello")
    assert tcp_intact(packet)
    assert w.mib["Ip6OutRequests"] == 1


def test_options_of_the_socket_are_read_anew():
    w = World()
    sk = w.sock(PEER4)
    seen = []
    for name, value in (("tos", 8), ("ttl", 3), ("pmtudisc", PMTUDISC_DONT)):
        setattr(sk, name, value)
        sk.ip_template = None  # as setsockopt does
        xmit(w, sk)
        (packet,) = map(Ip4, w.dev.take())
        seen.append((packet.tos, packet.ttl, packet.df))
    assert seen == [(8, 64, True), (8, 3, True), (8, 3, False)]


@pytest.mark.parametrize(
    ("disc", "df"),
    [
        (PMTUDISC_DONT, False), (PMTUDISC_WANT, True), (PMTUDISC_DO, True),
        (PMTUDISC_PROBE, False), (PMTUDISC_INTERFACE, False), (PMTUDISC_OMIT, False),
    ],
)  # fmt: skip
def test_df_of_segments(disc, df):
    w = World()
    sk = w.sock(PEER4)
    sk.pmtudisc = disc
    xmit(w, sk)
    assert Ip4(w.dev.take()[0]).df is df


def test_locked_path_clears_df_until_it_expires():
    w = World()
    sk = w.sock(PEER4)
    w.host.update_pmtu(PEER4, 300, 0)
    xmit(w, sk)
    assert not Ip4(w.dev.take()[0]).df
    sk.dst.mtu(10**12)
    xmit(w, sk, now=10**12)
    assert Ip4(w.dev.take()[0]).df


def test_super_segment_takes_as_many_ids_as_segments():
    w = World()
    w.dev.features = F_ALL
    sk = w.sock(PEER4)
    xmit(w, sk, bytes(4000), gso_size=1460)
    (packet,) = w.dev.packets
    assert (packet.gso_size, packet.csum_start, packet.csum_offset) == (1460, 20, 16)
    xmit(w, sk)
    idents = [Ip4(data).ident for data in w.dev.take()]
    assert idents == [(idents[0] + i) & 0xFFFF for i in range(4)]


def test_ident_wraps():
    w = World()
    sk = w.sock(PEER4)
    sk.ip_id = 65535
    xmit(w, sk)
    xmit(w, sk)
    xmit(w, sk)
    assert [Ip4(data).ident for data in w.dev.take()] == [65535, 0, 1]


def test_charge_is_put_on_the_socket_when_queued():
    w = World()
    sk = w.sock(PEER4)
    for verdict, wmem in ((TAKEN, 0), (DROPPED, 0), (QUEUED, 2304)):
        w.dev.verdict = verdict
        assert xmit(w, sk, b"x", charge=2304) == verdict
        assert sk.wmem_alloc == wmem
    packet = w.dev.packets[-1]
    assert (packet.owner, packet.charge) == (sk, 2304)


def test_segment_over_the_mtu():
    w = World()
    sk = w.sock(PEER4)
    assert xmit(w, sk, bytes(1461)) == DROPPED
    assert xmit(w, sk, bytes(3000), gso_size=1461) == DROPPED
    assert w.mib["IpFragFails"] == 2
    sk.pmtudisc, sk.ip_template = PMTUDISC_DONT, None
    assert xmit(w, sk, b"z" * 1461) == TAKEN
    first, last = map(Ip4, w.dev.take())
    assert (first.more, last.more, last.offset, first.ident) == (True, False, 1480, last.ident)
    whole = first.payload + last.payload
    assert whole[20:] == b"z" * 1461
    first.payload = whole
    assert tcp_intact(first)


def test_ipv6_segment_over_the_mtu_is_cut():
    w = World()
    sk = w.sock(PEER6)
    assert xmit(w, sk, bytes(2000)) == TAKEN
    assert [len(data) for data in w.dev.take()] == [48 + 1448, 48 + 572]


def test_route_that_has_changed():
    w = World()
    sk = w.sock(PEER4)
    xmit(w, sk)
    other = FakeDevice("tun1")
    w.host.add_device(other)
    w.host.add_route("10.9.0.1/32", other)
    xmit(w, sk)
    assert (len(w.dev.packets), len(other.packets)) == (1, 1)
    w.host.del_address("10.9.0.2")
    w.host.del_route("10.9.0.1/32")
    assert xmit(w, sk) == DROPPED
    assert w.mib["IpOutNoRoutes"] == 1


def test_own_addresses_go_over_loopback():
    w = World()
    sk = w.sock(US4)
    xmit(w, sk, b"to myself")
    assert not w.dev.packets
    assert w.host.softirq_pending
    w.host.run_softirq(3)
    (rx,) = w.tcp.received
    assert (rx.src, rx.dst, rx.csum_ok, rx.iif, rx.now) == (US4, US4, True, 1, 3)
    assert not w.host.softirq_pending


# -- datagrams -----------------------------------------------------------------------------


def test_datagram():
    w = World()
    sk = w.sock(PEER4, IPPROTO_UDP)
    assert datagram(w, sk, b"hello", ttl=7, tos=4) == TAKEN
    (packet,) = map(Ip4, w.dev.take())
    assert (packet.ttl, packet.tos, packet.df) == (7, 4, True)
    assert packet.payload == udp(US4, PEER4, b"hello")


def test_ipv6_datagram():
    w = World()
    datagram(w, unconnected(w, PEER6), b"hello", ttl=7, tos=4, daddr=PEER6)
    (packet,) = map(Ip6, w.dev.take())
    assert (packet.hops, packet.tclass, packet.src, packet.dst) == (7, 4, US6, PEER6)
    assert packet.payload == udp(US6, PEER6, b"hello")


def test_datagram_waits_at_its_senders_expense():
    w = World()
    w.dev.verdict = QUEUED
    sk = unconnected(w)
    assert datagram(w, sk, b"hello", charge=832) == QUEUED
    assert sk.wmem_alloc == 832


def test_datagram_without_checksum():
    w = World()
    datagram(w, w.sock(PEER4, IPPROTO_UDP), b"hello", csum=False)
    datagram(w, w.sock(PEER4, IPPROTO_UDP), bytes(1473), csum=False)
    whole, first, _ = map(Ip4, w.dev.take())
    assert whole.payload[6:8] == first.payload[6:8] == bytes(2)


def test_ids_of_datagrams():
    w = World()
    connected, loose = w.sock(PEER4, IPPROTO_UDP), unconnected(w)
    for sk in (connected, connected, loose, loose):
        datagram(w, sk, b"x")
    a, b, c, d = (Ip4(data).ident for data in w.dev.take())
    assert b == (a + 1) & 0xFFFF
    assert d == (c + 1) & 0xFFFF
    datagram(w, loose, b"x", PMTUDISC_DONT)
    datagram(w, loose, b"x", PMTUDISC_DO)
    a, b = map(Ip4, w.dev.take())
    assert (a.ident, a.df) == ((d + 1) & 0xFFFF, False)
    assert (b.ident, b.df) == (0, True)


@pytest.mark.parametrize(
    ("disc", "fits", "large"),
    [
        (PMTUDISC_DONT, False, False), (PMTUDISC_WANT, True, False), (PMTUDISC_DO, True, None),
        (PMTUDISC_PROBE, True, None), (PMTUDISC_INTERFACE, False, None),
        (PMTUDISC_OMIT, False, False),
    ],
)  # fmt: skip
def test_df_and_emsgsize_of_datagrams(disc, fits, large):
    w = World()
    sk = unconnected(w)
    datagram(w, sk, bytes(1472), disc)
    assert Ip4(w.dev.take()[0]).df is fits
    if large is None:
        with pytest.raises(OSError) as caught:
            datagram(w, sk, bytes(1473), disc)
        assert caught.value.errno == EMSGSIZE
        assert not w.dev.take()
    else:
        datagram(w, sk, bytes(1473), disc)
        assert [Ip4(data).df for data in w.dev.take()] == [large, large]


@pytest.mark.parametrize("disc", [PMTUDISC_PROBE, PMTUDISC_INTERFACE, PMTUDISC_OMIT])
def test_some_sockets_do_not_believe_in_path_mtus(disc):
    w = World()
    w.host.update_pmtu(PEER4, 1000, 0)
    datagram(w, unconnected(w), bytes(1472), disc)
    assert len(w.dev.take()) == 1


def test_fragments_are_as_large_as_fits():
    w = World()
    datagram(w, unconnected(w), b"q" * 3000)
    parts = [Ip4(data) for data in w.dev.take()]
    assert [part.length for part in parts] == [1500, 1500, 68]
    assert [part.offset for part in parts] == [0, 1480, 2960]
    assert len({part.ident for part in parts}) == 1
    assert b"".join(part.payload for part in parts) == udp(US4, PEER4, b"q" * 3000)
    assert (w.mib["IpFragOKs"], w.mib["IpFragCreates"], w.mib["IpOutRequests"]) == (1, 3, 1)


def test_locked_path():
    w = World()
    w.host.update_pmtu(PEER4, 300, 0)
    datagram(w, unconnected(w), bytes(1472))
    parts = [Ip4(data) for data in w.dev.take()]
    assert [(part.length, part.df) for part in parts] == [(548, False), (548, False), (444, False)]


def test_largest_datagrams():
    w = World()
    sk = w.sock(PEER4, IPPROTO_UDP)
    datagram(w, sk, bytes(65507))
    assert len(w.dev.take()) == 45
    with pytest.raises(OSError) as caught:
        datagram(w, sk, bytes(65508))
    assert caught.value.errno == EMSGSIZE
    sk6 = w.sock(PEER6, IPPROTO_UDP)
    datagram(w, sk6, bytes(65527), daddr=PEER6)
    assert len(w.dev.take()) == 46
    with pytest.raises(OSError):
        datagram(w, sk6, bytes(65528), daddr=PEER6)


def test_ipv6_fragments_come_back_together():
    w = World()
    peer = World()
    peer.host.del_address("fd00:9::2")
    peer.host.add_address(peer.dev, "fd00:9::1/64")
    datagram(w, w.sock(PEER6, IPPROTO_UDP), b"m" * 5000, daddr=PEER6)
    peer.inject(*w.dev.take())
    (rx,) = peer.udp.received
    assert rx.buf[rx.l4 : rx.end] == udp(US6, PEER6, b"m" * 5000)


def test_charge_is_shared_by_the_fragments():
    w = World()
    w.dev.verdict = QUEUED
    sk = unconnected(w)
    assert datagram(w, sk, bytes(3000), charge=5441) == QUEUED
    assert sk.wmem_alloc == 5441
    for packet in w.dev.packets:
        w.host.handle_tx_done(packet.owner, packet.charge, 0)
    assert sk.wmem_alloc == 0
    w.dev.verdict = DROPPED
    assert datagram(w, sk, bytes(3000), charge=5441) == DROPPED
    assert sk.wmem_alloc == 0


def test_segmented_datagrams():
    w = World()
    sk = w.sock(PEER4, IPPROTO_UDP)
    datagram(w, sk, bytes(1500), gso_size=600)
    assert [Ip4(data).length for data in w.dev.take()] == [628, 628, 328]
    with pytest.raises(OSError) as caught:
        datagram(w, sk, bytes(3000), gso_size=1473)
    assert caught.value.errno == EMSGSIZE


def test_multicasts_go_one_hop():
    w = World()
    w.host.add_route("224.0.0.0/4", w.dev)
    datagram(w, unconnected(w), b"x", daddr=parse_addr("239.1.1.1"))
    datagram(w, unconnected(w), b"x", daddr=parse_addr("239.1.1.1"), ttl=9)
    assert [Ip4(data).ttl for data in w.dev.take()] == [1, 9]


def test_device_too_small_for_fragments():
    w = World(mtu=27)
    with pytest.raises(OSError) as caught:
        datagram(w, unconnected(w), bytes(100))
    assert caught.value.errno == EMSGSIZE


# -- packets without a socket --------------------------------------------------------------


def test_reply_without_a_socket():
    w = World()
    header = tcp_header(w.sock(PEER4), 0)
    w.host.send_reply(IPPROTO_TCP, US4, PEER4, header, 0x20, 0)
    (packet,) = map(Ip4, w.dev.take())
    assert (packet.df, packet.ident, packet.ttl, packet.tos) == (True, 0, 64, 0x20)
    assert tcp_intact(packet)
    w.host.send_reply(IPPROTO_TCP, US6, PEER6, tcp_header(w.sock(PEER6), 0), 0, 0)
    assert tcp_intact(Ip6(w.dev.take()[0]))


def test_reply_without_a_route():
    w = World()
    w.host.send_reply(IPPROTO_TCP, US4, parse_addr("192.0.2.1"), bytes(20), 0, 0)
    assert w.mib["IpOutNoRoutes"] == 1
    assert w.drops() == {"IP_OUTNOROUTES": 1}


def test_same_seed_same_bytes():
    def run():
        w = World()
        for daddr in (PEER4, PEER6):
            xmit(w, w.sock(daddr), b"x")
            datagram(w, unconnected(w, daddr), bytes(3000), daddr=daddr)
        return w.dev.take()

    assert run() == run()
