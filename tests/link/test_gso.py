import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.packets import (
    ACK,
    CWR,
    FIN,
    PSH,
    V4,
    V6,
    frame,
    joined,
    parse,
    tcp_packet,
    udp_packet,
)
from ustack.link.gso import SoftwareGso, finish, finish_bytes, split_frame, split_frames
from ustack.sock.dst import Device
from ustack.wire.packet import (
    DROPPED,
    F_ALL,
    F_CSUM,
    F_TSO4,
    QUEUED,
    TAKEN,
    Frame,
    Packet,
)


class Recorder(Device):
    """Takes what the script says, remembers everything."""

    def __init__(self, features=0, verdicts=()):
        super().__init__("rec", 1500, features)
        self.packets = []
        self.verdicts = list(verdicts)

    def xmit(self, packet):
        self.packets.append(packet)
        return self.verdicts.pop(0) if self.verdicts else TAKEN


def data(n):
    return bytes(i * 7 % 251 for i in range(n))


@pytest.mark.parametrize("addrs", [V4, V6])
def test_tcp_segments_carry_on_where_the_last_ended(addrs):
    body = data(5000)
    packet = tcp_packet([body], addrs, flags=ACK | PSH | FIN | CWR, gso_size=1448)
    wire = finish_bytes(packet)
    assert [len(p) for p in wire] == [len(packet.header) + n for n in (1448, 1448, 1448, 656)]
    ips = [parse(p) for p in wire]
    assert b"".join(bytes(ip.data.data) for ip in ips) == body
    assert [ip.data.seq for ip in ips] == [(0xFFFFFF00 + i * 1448) % 2**32 for i in range(4)]
    assert [ip.data.flags for ip in ips] == [ACK | CWR, ACK, ACK, ACK | PSH | FIN]
    assert {(ip.data.ack, ip.data.win, bytes(ip.data.opts)) for ip in ips} == {
        (77, 501, packet.header[-12:])
    }
    if addrs is V4:
        assert [ip.id for ip in ips] == [0xFFFE, 0xFFFF, 0, 1]
        assert all(ip.df for ip in ips)


@pytest.mark.parametrize("addrs", [V4, V6])
def test_udp_segments_are_whole_datagrams(addrs):
    body = data(2501)
    ips = [parse(p) for p in finish_bytes(udp_packet([body], addrs, gso_size=1001))]
    assert [ip.data.ulen for ip in ips] == [1009, 1009, 507]
    assert b"".join(bytes(ip.data.data) for ip in ips) == body


@given(
    st.lists(st.binary(max_size=700), max_size=12),
    st.integers(1, 900),
    st.booleans(),
    st.booleans(),
)
def test_any_cut_of_any_buffers_reassembles(parts, size, v6, tcp):
    make = tcp_packet if tcp else udp_packet
    packet = make([memoryview(p) for p in parts], V6 if v6 else V4, gso_size=size)
    wire = finish(packet)
    body = b"".join(parts)
    assert [p.payload_len for p in wire[:-1]] == [size] * (len(wire) - 1)
    assert len(wire) == max(1, -(-len(body) // size))
    assert b"".join(bytes(parse(joined(p)).data.data) for p in wire) == body
    assert all(p.csum_start == 0 and p.gso_size == 0 for p in wire)


def test_payload_is_not_copied():
    body = data(3000)
    views = [p.payload[0] for p in finish(tcp_packet([body], gso_size=1000))]
    assert all(isinstance(v, memoryview) and v.obj is body for v in views)


def test_udp_checksum_zero_goes_out_as_all_ones():
    wanted = next(
        raw
        for i in itertools.count()
        if parse(raw := finish_bytes(udp_packet([i.to_bytes(2, "big")]))[0]).data.sum == 0xFFFF
    )
    assert wanted[26:28] == b"\xff\xff"


def test_tcp_checksum_zero_stays_zero():
    sums = {
        parse(finish_bytes(tcp_packet([i.to_bytes(2, "big")]))[0]).data.sum for i in range(0x10000)
    }
    assert 0 in sums
    assert 0xFFFF not in sums


def test_complete_packet_passes_without_its_owner():
    packet = Packet(b"E" * 28, (b"x",), 1, owner=object(), charge=5)
    (done,) = finish(packet)
    assert joined(done) == joined(packet)
    assert (done.owner, done.charge) == (None, 0)


# -- inbound


@pytest.mark.parametrize("make", [tcp_packet, udp_packet])
@pytest.mark.parametrize("addrs", [V4, V6])
def test_split_frame_gives_what_the_sender_would_have_sent(make, addrs):
    packet = make([data(4000)], addrs, gso_size=1400)
    got = split_frame(Frame(b"\0" * 10 + joined(packet), 10, 1400, True), 1500)
    assert [(f.buf, f.off, f.gso_size, f.csum_ok) for f in got] == [
        (raw, 0, 0, True) for raw in finish_bytes(packet)
    ]


def test_split_frame_ignores_bytes_after_the_packet():
    packet = tcp_packet([data(100)])
    got = split_frame(Frame(joined(packet) + b"junk", 0, 0, True), 1500)
    assert [f.buf for f in got] == finish_bytes(packet)


def test_split_frame_cuts_tcp_at_a_smaller_mtu():
    got = split_frame(frame(tcp_packet([data(4000)], gso_size=1448)), 576)
    assert max(len(f.buf) for f in got) == 576
    assert b"".join(bytes(parse(f.buf).data.data) for f in got) == data(4000)


@pytest.mark.parametrize("addrs", [V4, V6])
def test_split_frame_completes_a_vouched_checksum(addrs):
    (got,) = split_frames([frame(tcp_packet([b"abc"], addrs))], 1500)
    parse(got.buf)


def test_split_frame_leaves_a_complete_checksum_alone():
    (raw,) = finish_bytes(udp_packet([b"abc"]))
    (got,) = split_frame(Frame(raw, 0, 0, True), 1500)
    assert got.buf == raw


def test_split_frame_does_not_mend_what_nobody_vouches_for():
    bad = frame(tcp_packet([b"abc"]), csum_ok=False)
    assert split_frame(bad, 1500) == [bad]


def test_split_frame_leaves_checksumless_udp_alone():
    raw = bytearray(joined(udp_packet([b"abc"])))
    raw[26:28] = b"\0\0"
    plain = Frame(bytes(raw), 0, 0, True)
    assert split_frame(plain, 1500) == [plain]


def test_split_frame_steps_over_ipv6_options():
    packet = tcp_packet([data(3000)], V6, gso_size=1400)
    raw = joined(packet)
    hop = bytes([6, 0, 1, 4, 0, 0, 0, 0])
    raw = raw[:4] + (len(raw) - 32).to_bytes(2, "big") + b"\0" + raw[7:40] + hop + raw[40:]
    got = split_frame(Frame(raw, 0, 1400, True), 1500)
    assert [len(f.buf) - 80 for f in got] == [1400, 1400, 200]
    assert got[2].buf[40:48] == hop
    assert got[2].buf[4:6] == (len(got[2].buf) - 40).to_bytes(2, "big")


@given(st.binary(max_size=120), st.integers(0, 70), st.integers(0, 65535), st.booleans())
def test_garbage_is_handed_on(raw, off, gso_size, csum_ok):
    assert split_frame(Frame(raw, min(off, len(raw)), gso_size, csum_ok), 1500)


@given(st.data(), st.sampled_from([V4, V6]), st.booleans())
def test_damaged_packets_are_handed_on(draw, addrs, tcp):
    make = tcp_packet if tcp else udp_packet
    raw = bytearray(joined(make([data(100)], addrs)))
    for _ in range(4):
        raw[draw.draw(st.integers(0, len(raw) - 1))] = draw.draw(st.integers(0, 255))
    del raw[draw.draw(st.integers(0, len(raw))) :]
    assert split_frame(Frame(bytes(raw), 0, draw.draw(st.integers(0, 60)), True), 1500)


# -- the device


def test_device_without_features_gets_finished_packets():
    inner = Recorder()
    dev = SoftwareGso(inner)
    assert dev.features == F_ALL
    assert dev.xmit(tcp_packet([data(3000)], gso_size=1448)) == TAKEN
    assert [p.payload_len for p in inner.packets] == [1448, 1448, 104]
    assert (dev.tx_packets, dev.tx_bytes) == (3, 3000 + 3 * 52)


def test_device_gets_what_it_can_do_itself():
    inner = Recorder(F_CSUM | F_TSO4)
    dev = SoftwareGso(inner)
    four = tcp_packet([data(3000)], gso_size=1448)
    open_csum = udp_packet([b"abc"])
    for packet in (four, open_csum):
        dev.xmit(packet)
        assert inner.packets.pop() is packet
    dev.xmit(tcp_packet([data(3000)], V6, gso_size=1448))
    dev.xmit(udp_packet([data(3000)], gso_size=1448))
    assert len(inner.packets) == 6


def test_charge_stays_on_the_last_segment_queued():
    inner = Recorder(verdicts=[QUEUED, QUEUED, DROPPED])
    dev = SoftwareGso(inner)
    packet = tcp_packet([data(3000)], gso_size=1448)
    packet.owner, packet.charge = "me", 4096
    assert dev.xmit(packet) == QUEUED
    assert [(p.owner, p.charge) for p in inner.packets] == [(None, 0), ("me", 4096), (None, 0)]
    assert dev.tx_dropped == 1


def test_dropped_only_if_nothing_got_through():
    packet = tcp_packet([data(2000)], gso_size=1448)
    assert SoftwareGso(Recorder(verdicts=[DROPPED, DROPPED])).xmit(packet) == DROPPED
    assert SoftwareGso(Recorder(verdicts=[TAKEN, DROPPED])).xmit(packet) == TAKEN
