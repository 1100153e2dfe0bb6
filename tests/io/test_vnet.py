from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.io.vnet import HDR_LEN, NO_OFFLOAD, decode, encode
from ustack.wire.packet import Packet

V4_TCP = b"\x45" + bytes(39)
V6_TCP = b"\x60" + bytes(59)
V4_UDP = b"\x45" + bytes(27)


def header(flags: int, gso_type: int, gso_size: int, hdr_len: int = 0) -> bytes:
    return struct.pack("=BBHHHH", flags, gso_type, hdr_len, gso_size, 0, 0)


@pytest.mark.parametrize(("flags", "vouched"), [(0, False), (1, True), (2, True), (4, False)])
def test_a_checksum_is_vouched_for_when_partial_or_valid(flags: int, vouched: bool) -> None:
    frame = decode(header(flags, 0, 0) + V4_TCP)
    assert frame is not None
    assert frame.csum_ok is vouched
    assert frame.buf[frame.off :] == V4_TCP
    assert frame.gso_size == 0


@pytest.mark.parametrize("gso_type", [1, 4, 5, 0x81, 0x84])
def test_a_merged_frame_says_its_segment_size(gso_type: int) -> None:
    frame = decode(header(1, gso_type, 1448, 40) + V4_TCP)
    assert frame is not None
    assert (frame.gso_size, frame.off, frame.csum_ok) == (1448, HDR_LEN, True)


@pytest.mark.parametrize(
    "buf",
    [
        b"",
        NO_OFFLOAD,
        NO_OFFLOAD + bytes(19),  # shorter than any IP header
        header(1, 1, 0) + V4_TCP,  # merged, but from segments of no size
        header(1, 3, 1448) + V4_TCP,  # UDP fragmentation offload: never negotiated
        header(1, 0x80, 1448) + V4_TCP,
        header(1, 0xFF, 1448) + V4_TCP,
    ],
)
def test_a_bad_header_is_refused(buf: bytes) -> None:
    assert decode(buf) is None


@given(st.binary(max_size=80))
def test_any_bytes_give_a_frame_or_none(buf: bytes) -> None:
    frame = decode(buf)
    assert frame is None or frame.buf is buf


def test_a_finished_packet_asks_for_nothing() -> None:
    assert encode(Packet(V4_TCP)) is NO_OFFLOAD


def test_a_checksum_to_complete() -> None:
    packet = Packet(V4_TCP, [b"x"], 1, csum_start=20, csum_offset=16)
    assert struct.unpack("=BBHHHH", encode(packet)) == (1, 0, 0, 0, 20, 16)


@pytest.mark.parametrize(
    ("head", "start", "offset", "gso_type"),
    [(V4_TCP, 20, 16, 1), (V6_TCP, 40, 16, 4), (V4_UDP, 20, 6, 5)],
)
def test_segments_to_cut(head: bytes, start: int, offset: int, gso_type: int) -> None:
    packet = Packet(head, [bytes(3000)], 3000, 1448, start, offset)
    expected = (1, gso_type, len(head), 1448, start, offset)
    assert struct.unpack("=BBHHHH", encode(packet)) == expected


def test_one_segment_is_not_cut() -> None:
    packet = Packet(V4_TCP, [bytes(1448)], 1448, 1448, 20, 16)
    assert struct.unpack("=BBHHHH", encode(packet)) == (1, 0, 0, 0, 20, 16)
