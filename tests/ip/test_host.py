"""The entries of a driver: order, re-entry, bounds; and any bytes at all."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ip.test_reassembly import cut4, cut6
from tests.ip.world import PEER4, PEER6, SECOND, US4, US6, World, ip4, ip6, udp
from tests.udp.reports import query4, query6
from ustack.ip.host import SOFTIRQ_TURNS
from ustack.sock.deadlines import NEVER
from ustack.wire import icmp, icmpv6
from ustack.wire.addr import parse_addr
from ustack.wire.packet import Frame, Packet


def test_batch_is_in_order_and_then_done():
    w = World()
    log = []
    w.host.register(17, lambda rx: log.append(rx.buf[rx.l4 : rx.end]), None)
    w.host.batch_done = log.append
    w.inject(ip4(b"a"), ip4(b"b"), b"garbage", ip4(b"c"), now=42)
    assert log == [b"a", b"b", b"c", 42]
    assert (w.dev.rx_packets, w.dev.rx_bytes) == (4, 70)


@pytest.mark.parametrize("entry", ["handle_batch", "handle_timeout", "run_softirq"])
def test_reentry_is_loud(entry):
    w = World()

    def reenter(rx):
        if entry == "handle_batch":
            w.host.handle_batch([], 0, w.dev)
        elif entry == "handle_timeout":
            w.host.handle_timeout(0)
        else:
            w.host.loopback.xmit(Packet(b""))
            w.host.run_softirq(0)

    w.host.register(17, reenter, None)
    with pytest.raises(RuntimeError, match="from within another entry"):
        w.inject(ip4(b"x"))
    w.inject(b"")  # and the guard is open again


def test_tx_done_may_come_from_a_timer():
    w = World()
    sk = w.sock(PEER4)
    sk.wmem_alloc = 100

    class Owner:
        heap_at = NEVER
        due = 5

        def next_deadline(self):
            return self.due

        def handle_timeout(self, now):
            self.due = NEVER
            w.host.handle_tx_done(sk, 60, now)
            w.host.handle_tx_done(None, 0, now)

    w.host.deadlines.arm(Owner(), 5)
    assert w.host.next_timeout() == 5
    w.host.handle_timeout(5)
    assert sk.wmem_alloc == 40
    assert w.host.next_timeout() == NEVER


def test_endless_local_traffic_is_bounded_per_call():
    w = World()
    turns = []

    def echo(rx):
        turns.append(rx.now)
        w.host.loopback.xmit(Packet(rx.buf[rx.l3 : rx.end]))

    w.host.register(17, echo, None)
    w.host.loopback.xmit(Packet(ip4(b"x", src=US4, dst=US4)))
    w.host.run_softirq(1)
    assert len(turns) == SOFTIRQ_TURNS
    assert w.host.softirq_pending


def test_two_hosts_ping_each_other():
    a, b = World(), World()
    b.host.del_address("10.9.0.2")
    b.host.add_address(b.dev, "10.9.0.1/24")
    a.host.send_control(1, US4, PEER4, (icmp.echo(1, 1, b"data"),), 0, 0)
    b.inject(*a.dev.take())
    a.inject(*b.dev.take())
    assert a.mib["IcmpInEchoReps"] == 1
    assert a.host.devices == [a.host.loopback, a.dev]


SEEDS = [
    ip4(udp(PEER4, US4, b"data")),
    ip4(b"x" * 20, options=b"\x07\x07\x04" + bytes(4) + b"\x01", proto=6),
    ip4(icmp.echo(1, 2, b"ping"), proto=1),
    ip4(icmp.build(3, 4, 1400, ip4(bytes(20), src=US4, dst=PEER4, proto=6)), proto=1),
    ip4(b"12345678", proto=99),
    *cut4(bytes(40), 16),
    ip6(udp(PEER6, US6, b"data")),
    ip6(bytes((60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 5, 2, 0, 0, 1, 0)) + bytes(8), proto=0),
    ip6(bytes((17, 1, 4, 0)) + bytes(12), proto=43),
    ip6(icmpv6.echo(PEER6, US6, 1, 2, b"ping"), proto=58),
    ip6(icmpv6.build(PEER6, US6, 2, 0, 1400, ip6(bytes(20), src=US6, dst=PEER6)), proto=58),
    *cut6(bytes(40), 16),
    query4(code=200, qrv=3, qqic=200),
    query4("239.1.2.3", ("10.8.0.1",)),
    query6(code=0x9000, qrv=3, qqic=200),
    query6("ff05::1:3", ("fd00:8::1",)),
]


def with_checksum(packet):
    """The packet with its IPv4 header checksum made good, so that more of it is read."""
    header = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < 20 or packet[0] >> 4 != 4 or not 20 <= header <= len(packet):
        return packet
    bare = packet[:10] + bytes(2) + packet[12:]
    csum = 0xFFFF - (int.from_bytes(bare[:header], "big") % 65535 or 65535)
    return bare[:10] + csum.to_bytes(2, "big") + bare[12:]


@st.composite
def mutated(draw):
    packet = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(packet)))
    packet = bytes(packet[: cut if draw(st.booleans()) else len(packet)])
    return with_checksum(packet) if draw(st.booleans()) else packet


@given(
    st.lists(st.one_of(mutated(), mutated(), st.binary(max_size=200)), min_size=1, max_size=12),
    st.integers(0, 30),
    st.booleans(),
)
@example([ip4(b"", frag=0x1FFF), ip4(b"x" * 100, frag=0x1FFF)], 0, False)
def test_any_bytes_at_all(packets, offset, vouched):
    """Never an exception; each packet is delivered, answered or counted."""
    w = World()
    w.host.add_local_prefix("10.99.0.0/16")
    w.host.batch_done = lambda now: None
    for group in ("239.1.2.3", "ff05::1:3"):
        w.host.join_group(parse_addr(group), w.dev.ifindex, 0, 0)
    for dev in (w.dev, w.host.loopback):
        frames = [Frame(bytes(offset) + packet, offset, 0, vouched) for packet in packets]
        w.host.handle_batch(frames, SECOND, dev)
        w.host.run_softirq(SECOND)
    for rx in (*w.udp.received, *w.tcp.received):
        assert 0 <= rx.l3 < rx.l4 <= rx.end <= len(rx.buf)
        assert rx.proto in (6, 17)
        assert w.host.routes.local_kind(rx.dst)
        w.host.icmp_port_unreach(rx)
    for e in (*w.udp.errors, *w.tcp.errors):
        assert len(e.quoted) >= 8
        assert w.host.is_local(e.src)
        w.host.update_pmtu(e.dst, e.info, SECOND)
    for reassembly in (w.host._input4._reassembly, w.host._input6._reassembly):
        reassembly.check()
    while (at := w.host.next_timeout()) < NEVER:
        w.host.handle_timeout(at)
    for reassembly in (w.host._input4._reassembly, w.host._input6._reassembly):
        assert reassembly.mem == 0
