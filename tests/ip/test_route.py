"""Addresses, routes, sources, path MTUs."""

from errno import EADDRNOTAVAIL, EINVAL, ENETUNREACH

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.world import PEER4, PEER6, SECOND, US4, US6, FakeDevice, World
from ustack.ip.route import MAX_DSTS, MAX_PMTUS
from ustack.wire.addr import parse_addr


def fails(errno, call, *args):
    with pytest.raises(OSError) as caught:
        call(*args)
    assert caught.value.errno == errno


def test_connected_route_and_source():
    w = World()
    dst = w.host.route(PEER4)
    assert (dst.dev, dst.saddr, dst.version, dst.local, dst.daddr) == (w.dev, US4, 4, False, PEER4)
    assert w.host.route(PEER4) is dst
    assert w.host.route(PEER6).saddr == US6


def test_no_route():
    w = World()
    fails(ENETUNREACH, w.host.route, parse_addr("192.0.2.1"))
    fails(ENETUNREACH, w.host.route, parse_addr("2001:db8::1"))
    fails(ENETUNREACH, w.host.route, parse_addr("240.0.0.1"))


def test_source_that_is_not_ours():
    w = World()
    w.host.add_local_prefix("10.99.0.0/16")
    assert w.host.route(PEER4, US4) is w.host.route(PEER4)
    assert w.host.route(PEER4, parse_addr("10.99.1.1")) is w.host.route(PEER4)
    fails(ENETUNREACH, w.host.route, PEER4, parse_addr("10.98.1.1"))
    for nobody in ("255.255.255.255", "239.1.2.3", "0.1.2.3"):
        fails(EINVAL, w.host.route, PEER4, parse_addr(nobody))


@pytest.mark.parametrize(
    ("daddr", "saddr"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.9.9.9", "127.0.0.1"), ("10.9.0.2", "10.9.0.2"),
        ("::1", "::1"), ("fd00:9::2", "fd00:9::2"), ("10.99.7.7", "10.99.7.7"),
    ],
)  # fmt: skip
def test_local_destinations_go_over_loopback(daddr, saddr):
    w = World()
    w.host.add_local_prefix("10.99.0.0/16")
    dst = w.host.route(parse_addr(daddr))
    assert (dst.local, dst.dev, dst.saddr) == (True, w.host.loopback, parse_addr(saddr))
    assert dst.mtu(0) == 65536
    assert w.host.is_local(parse_addr(daddr))


def test_wildcard_is_this_host():
    w = World()
    for wildcard, daddr in ((bytes(4), "127.0.0.1"), (bytes(16), "::1")):
        dst = w.host.route(wildcard)
        assert (dst.local, dst.daddr) == (True, parse_addr(daddr))
    assert w.host.route(bytes(4), US4).daddr == US4


def test_broadcast():
    w = World()
    limited = parse_addr("255.255.255.255")
    with pytest.raises(OSError) as why:
        w.host.route(limited)
    assert why.value.errno == ENETUNREACH
    w.host.add_route("0.0.0.0/0", w.dev)
    for addr in ("255.255.255.255", "10.9.0.255"):
        dst = w.host.route(parse_addr(addr))
        assert (dst.broadcast, dst.dev, dst.saddr) == (True, w.dev, US4)
        assert not w.host.is_local(parse_addr(addr))
    assert not w.host.route(PEER4).broadcast


def test_longest_prefix_wins():
    w = World()
    other = FakeDevice("tun1")
    w.host.add_device(other)
    w.host.add_route("0.0.0.0/0", w.dev, via="10.9.0.1")
    w.host.add_route("192.0.2.0/24", other)
    w.host.add_route("192.0.2.128/25", w.dev, via="10.9.0.7")
    assert w.host.route(parse_addr("8.8.8.8")).gateway == PEER4
    assert w.host.route(parse_addr("192.0.2.1")).dev is other
    assert w.host.route(parse_addr("192.0.2.200")).gateway == parse_addr("10.9.0.7")
    w.host.del_route("192.0.2.128/25")
    assert w.host.route(parse_addr("192.0.2.200")).dev is other


def test_bound_to_a_device():
    w = World()
    other = FakeDevice("tun1")
    index = w.host.add_device(other)
    w.host.add_address(other, "10.10.0.2/24")
    assert w.host.route(PEER4, oif=w.dev.ifindex).dev is w.dev
    on_link = w.host.route(PEER4, oif=index)
    assert (on_link.dev, on_link.saddr) == (other, parse_addr("10.10.0.2"))
    fails(ENETUNREACH, w.host.route, PEER4, None, 99)


def test_changes_make_what_sockets_hold_obsolete():
    w = World()
    dst = w.host.route(PEER4)
    w.host.add_route("192.0.2.0/24", w.dev)
    assert dst.obsolete
    assert not w.host.route(PEER4).obsolete
    w.host.del_address("10.9.0.2")
    fails(ENETUNREACH, w.host.route, PEER4)
    assert w.host.route(PEER6).saddr == US6


def test_bad_configuration():
    w = World()
    add = w.host.add_address
    for cidr in ("10.9.0.2/24", "0.0.0.0/8", "127.0.0.2/8", "224.0.0.1/4", "::1/128", "::/0"):
        fails(EINVAL, add, w.dev, cidr)
    fails(EADDRNOTAVAIL, w.host.del_address, "10.9.0.3")
    fails(EINVAL, w.host.add_route, "10.0.0.1/8", w.dev)
    fails(EINVAL, w.host.del_route, "10.0.0.0/8")
    fails(EINVAL, w.host.del_local_prefix, "10.0.0.0/8")


@pytest.mark.parametrize(
    ("daddr", "saddr"),
    [
        ("2001:db8:1::9", "2001:db8:1::1"),
        ("2001:db8:2::9", "2001:db8:2::1"),
        ("fe80::9", "fe80::1"),
        ("2a00::1", "2001:db8:1::1"),
    ],
)
def test_ipv6_source_selection(daddr, saddr):
    w = World()
    w.host.del_address("fd00:9::2")
    for cidr in ("fe80::1/64", "2001:db8:1::1/64", "2001:db8:2::1/64"):
        w.host.add_address(w.dev, cidr)
    w.host.add_route("::/0", w.dev)
    assert w.host.route(parse_addr(daddr)).saddr == parse_addr(saddr)


def test_gateway_chooses_the_ipv4_source():
    w = World()
    w.host.add_address(w.dev, "10.20.0.2/24")
    w.host.add_route("0.0.0.0/0", w.dev, via="10.20.0.1")
    assert w.host.route(parse_addr("8.8.8.8")).saddr == parse_addr("10.20.0.2")


def test_no_source():
    w = World()
    w.host.del_address("fd00:9::2")
    w.host.add_route("::/0", w.dev)
    fails(EADDRNOTAVAIL, w.host.route, PEER6)


def test_cache_is_bounded():
    w = World()
    w.host.add_route("0.0.0.0/0", w.dev)
    first = w.host.route(PEER4)
    for i in range(MAX_DSTS):
        w.host.route(bytes((11, 0, i >> 8, i & 255)))
    assert first.obsolete
    assert len(w.host.routes._cache) == MAX_DSTS


# -- path MTU ------------------------------------------------------------------------------


def test_pmtu_is_learned_shared_and_forgotten():
    w = World()
    dst = w.host.route(PEER4)
    w.host.update_pmtu(PEER4, 1400, 5)
    assert dst.mtu(6) == 1400
    w.host.update_pmtu(PEER4, 1450, 6)
    assert dst.mtu(6) == 1400
    w.host.add_route("192.0.2.0/24", w.dev)
    assert w.host.route(PEER4).mtu(6) == 1400
    assert w.host.route(PEER4, oif=w.dev.ifindex).mtu(6) == 1400
    assert w.host.route(PEER4).mtu(5 + 600 * SECOND - 1) == 1400
    assert w.host.route(PEER4).mtu(5 + 600 * SECOND) == 1500


@pytest.mark.parametrize("mtu", [300, 0, 551])
def test_pmtu_below_the_minimum_is_locked(mtu):
    w = World()
    w.host.update_pmtu(PEER4, mtu, 0)
    dst = w.host.route(PEER4)
    assert (dst.mtu(1), dst.pmtu_locked) == (552, True)
    w.host.update_pmtu(PEER4, 552, 1)
    assert dst.pmtu_locked
    assert dst.mtu(600 * SECOND) == 1500
    assert not dst.pmtu_locked


def test_ipv6_pmtu():
    w = World()
    w.host.update_pmtu(PEER6, 1279, 0)
    assert w.host.route(PEER6).mtu(1) == 1500
    w.host.update_pmtu(PEER6, 1280, 0)
    assert w.host.route(PEER6).mtu(1) == 1280


def test_pmtu_of_unreachable_and_local_destinations_is_ignored():
    w = World()
    w.host.update_pmtu(parse_addr("192.0.2.1"), 1400, 0)
    w.host.update_pmtu(US4, 1400, 0)
    assert w.host.route(US4).mtu(1) == 65536


def test_pmtu_table_is_bounded():
    w = World()
    w.host.add_route("0.0.0.0/0", w.dev)
    for i in range(MAX_PMTUS + 10):
        w.host.update_pmtu(bytes((11, 0, i >> 8, i & 255)), 1400, 0)
    assert len(w.host.routes._pmtus) == MAX_PMTUS


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=12),
    st.integers(1 << 24, 126 << 24),
)
def test_lookup_against_a_naive_model(prefixes, number):
    w = World()
    table = w.host.routes
    table.routes4.clear()
    best = None
    for serial, (base, plen) in enumerate(prefixes):
        base = base >> (32 - plen) << (32 - plen)
        table.add_route(base.to_bytes(4, "big"), plen, w.dev, gateway=bytes((1, 1, 1, serial)))
        if base >> (32 - plen) == number >> (32 - plen) and (best is None or plen > best[0]):
            best = plen, serial
    found = table.lookup(number.to_bytes(4, "big"))
    assert (found and (found.plen, found.gateway[3])) == best
