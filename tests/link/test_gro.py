import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.packets import ACK, FIN, PSH, V4, V6, joined, ones_sum, tcp_packet, udp_packet
from ustack.link.gro import merge
from ustack.link.gso import finish_bytes, split_frame
from ustack.wire.packet import Frame

SYN, RST, URG = 0x02, 0x04, 0x20


def wire(packet):
    return [Frame(raw) for raw in finish_bytes(packet)]


def segment(seq, n, addrs=V4, flags=ACK, **fields):
    return wire(tcp_packet([bytes([seq % 251]) * n], addrs, seq, flags, ident=seq, **fields))[0]


def sizes(frames):
    return [(len(f.buf) - f.off, f.gso_size) for f in frames]


@pytest.mark.parametrize("addrs", [V4, V6])
def test_merging_undoes_segmentation(addrs):
    packet = tcp_packet([bytes(range(256)) * 40], addrs, flags=ACK | PSH | FIN, gso_size=1428)
    (merged,) = merge(wire(packet))
    whole = bytearray(joined(packet))
    at = packet.csum_start + 16
    got = bytearray(merged.buf)
    whole[at : at + 2] = got[at : at + 2] = b"\0\0"
    assert got == whole
    assert (merged.off, merged.gso_size, merged.csum_ok) == (0, 1428, True)
    assert [f.buf for f in split_frame(merged, 1500)] == [f.buf for f in wire(packet)]


def test_frames_with_an_offset_and_a_trailer():
    frames = [
        Frame(b"1234" + f.buf + b"tail", 4) for f in wire(tcp_packet([b"x" * 30], gso_size=10))
    ]
    (merged,) = merge(frames)
    assert len(merged.buf) == 52 + 30
    assert merged.buf[52:] == b"x" * 30


@pytest.mark.parametrize(
    "second",
    [
        segment(1100, 100, options=b""),
        segment(1101, 100),
        segment(1099, 100),
        segment(1100, 101),
        segment(1100, 0),
        segment(1100, 100, flags=ACK | URG),
        segment(1100, 100, flags=ACK | RST),
        segment(1100, 100, flags=ACK | SYN),
        segment(1100, 100, flags=0),
        segment(1100, 100, flags=ACK | 0x80),
        segment(1100, 100, flags=ACK | 0x100),
        segment(1100, 100, options=bytes.fromhex("0101080a0001e2410009fbf1")),
        segment(1100, 100, V6),
    ],
)
def test_what_differs_is_not_merged(second):
    first, third = segment(1000, 100), segment(1200, 100)
    got = merge([first, second, third])
    assert [f.buf for f in got] == [first.buf, second.buf, third.buf]


@pytest.mark.parametrize(("at", "value"), [(1, 0x02), (8, 63), (6, 0), (6, 0x20), (35, 1), (31, 9)])
def test_changed_header_fields_are_not_merged(at, value):
    """TOS, TTL, DF, more fragments, window, ack: with checksums that hold."""
    first = segment(1000, 100)
    raw = bytearray(segment(1100, 100).buf)
    raw[at] = value
    raw[10:12] = b"\0\0"
    raw[10:12] = struct.pack(">H", 0xFFFF - ones_sum(bytes(raw[:20])))
    raw[36:38] = b"\0\0"
    pseudo = bytes(raw[12:20]) + struct.pack(">HH", 6, len(raw) - 20)
    raw[36:38] = struct.pack(">H", 0xFFFF - ones_sum(pseudo + bytes(raw[20:])))
    assert len(merge([first, Frame(bytes(raw))])) == 2
    assert len(merge([first, segment(1100, 100)])) == 1


@pytest.mark.parametrize("at", [4, 37, 60])
def test_wrong_checksum_passes_as_it_came(at):
    frames = [segment(1000 + i * 100, 100) for i in range(4)]
    raw = bytearray(frames[2].buf)
    raw[at] ^= 1
    frames[2] = Frame(bytes(raw))
    got = merge(frames)
    assert sizes(got)[1:] == [(152, 0), (152, 0)]
    assert got[0].gso_size == 100
    assert got[1] is frames[2]
    assert not got[1].csum_ok
    assert got[2].csum_ok


def test_short_or_pushed_segment_ends_the_merge():
    frames = [segment(0, 100), segment(100, 50), segment(150, 50)]
    frames += [segment(200, 50, flags=ACK | PSH), segment(250, 50)]
    assert sizes(merge(frames)) == [(202, 100), (152, 50), (102, 0)]


def test_flows_keep_their_place_and_their_order():
    a = [segment(i * 100, 100) for i in range(4)]
    b = [segment(i * 100, 100, V6) for i in range(2)]
    udp = wire(udp_packet([b"q"]))[0]
    pure_ack = segment(400, 0)
    got = merge([a[0], b[0], a[1], udp, pure_ack, a[2], b[1], a[3]])
    assert sizes(got) == [(252, 100), (272, 100), (29, 0), (52, 0), (252, 100)]


def test_whole_stays_within_an_ip_packet():
    frames = [segment(i * 1448, 1448) for i in range(50)]
    got = merge(frames)
    assert sizes(got) == [(52 + 45 * 1448, 1448), (52 + 5 * 1448, 1448)]


def test_frames_of_a_device_that_merges_are_left_alone():
    whole = Frame(joined(tcp_packet([b"x" * 300], gso_size=100)), 0, 100, True)
    got = merge([segment(1000, 100), whole])
    assert got[1] is whole


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([0, 30, 100]), st.booleans(), st.booleans()),
        max_size=30,
    )
)
def test_splitting_the_merged_gives_the_same_data_in_order(steps):
    seqs = {V4: 0xFFFFFF80, V6: 0}
    frames = []
    for gap, n, v6, push in steps:
        addrs = V6 if v6 else V4
        seqs[addrs] = (seqs[addrs] + (gap == 5)) % 2**32
        frames.append(segment(seqs[addrs], n, addrs, ACK | (PSH if push else 0)))
        seqs[addrs] = (seqs[addrs] + n) % 2**32

    def flow(frames, version):
        return [
            (f.buf[20:36], f.buf[38:]) if version == 4 else f.buf
            for f in frames
            if f.buf[0] >> 4 == version
        ]

    back = [part for f in merge(frames) for part in split_frame(f, 1500)]
    assert flow(back, 4) == flow(frames, 4)
    assert flow(back, 6) == flow(frames, 6)


@given(st.lists(st.tuples(st.binary(max_size=90), st.integers(0, 9), st.booleans()), max_size=6))
def test_garbage_passes(raws):
    frames = [Frame(b"\0" * off + raw, off, 0, ok) for raw, off, ok in raws]
    assert [f.buf for f in merge(frames)] == [f.buf for f in frames]


@given(st.data(), st.sampled_from([V4, V6]))
def test_damage_never_raises(draw, addrs):
    frames = []
    for i in range(3):
        raw = bytearray(segment(i * 100, 100, addrs).buf)
        for _ in range(draw.draw(st.integers(0, 3))):
            raw[draw.draw(st.integers(0, 70))] = draw.draw(st.integers(0, 255))
        del raw[draw.draw(st.integers(0, 250)) :]
        frames.append(Frame(bytes(raw), 0, 0, draw.draw(st.booleans())))
    assert 1 <= len(merge(frames)) <= 3
