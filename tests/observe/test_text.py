import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.packets import (
    ACK,
    FIN,
    PSH,
    V4,
    V6,
    ip_header,
    joined,
    tcp_packet,
    udp_packet,
)
from ustack.observe.pcapng import OUTBOUND, PcapngWriter
from ustack.observe.text import format_capture, format_packet, format_timed


def test_data_segment():
    packet = tcp_packet([b"hello"], seq=100, flags=ACK | PSH)
    assert format_packet(joined(packet)) == (
        "IP 10.9.0.2.4321 > 10.9.0.1.80: Flags [P.], seq 100:105, ack 77, win 501, "
        "options [nop,nop,TS val 123456 ecr 654321], length 5"
    )


def test_syn_options():
    options = bytes.fromhex("020405b4 0402 080a00000001 00000000 01 030307".replace(" ", ""))
    assert format_packet(joined(tcp_packet([], V6, 9, 2, options=options))) == (
        "IP6 fd00:9::2.4321 > fd00:9::1.80: Flags [S], seq 9, win 501, "
        "options [mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 7], length 0"
    )


def test_sack_and_fin():
    options = bytes.fromhex("0101050a0000000500000009")
    line = format_packet(joined(tcp_packet([], seq=7, flags=ACK | FIN, options=options)))
    assert "Flags [F.], seq 7, ack 77" in line
    assert "[nop,nop,sack 1 {5:9}]" in line


def test_udp_and_time():
    line = format_timed(1_500_000_001, joined(udp_packet([b"abc"])))
    assert line == "1.500000001 IP 10.9.0.2.53 > 10.9.0.1.5353: UDP, length 3"


def test_capture_file():
    file = io.BytesIO()
    writer = PcapngWriter(file)
    for at in (0, 1_000_250_000):
        writer.packet(at, (joined(udp_packet([b"abc"])),), OUTBOUND)
    line = "IP 10.9.0.2.53 > 10.9.0.1.5353: UDP, length 3"
    assert format_capture(file.getvalue()) == [f"0.000000 {line}", f"1.000250 {line}"]


def test_icmp():
    echo = bytes.fromhex("0800f7ff00000000")
    assert format_packet(ip_header(V4, 1, 8, 1) + echo) == (
        "IP 10.9.0.2 > 10.9.0.1: ICMP echo request, code 0, length 8"
    )
    too_big = b"\x02\x00\x00\x00\x00\x00\x05\x00" + b"x" * 8
    assert format_packet(ip_header(V6, 58, 16, 1) + too_big) == (
        "IP6 fd00:9::2 > fd00:9::1: ICMP6 packet too big, code 0, length 16"
    )


def test_fragment():
    raw = bytearray(ip_header(V4, 17, 16, 9) + bytes(16))
    raw[6:8] = (0x2000 | 185).to_bytes(2, "big")
    assert format_packet(bytes(raw)).endswith("(frag 9:1480+)")


@given(st.binary(max_size=200))
def test_any_bytes_give_one_line(raw):
    assert "\n" not in format_packet(raw)


@pytest.mark.parametrize("addrs", [V4, V6])
@given(data=st.data())
def test_damaged_packets_give_one_line(addrs, data):
    make = data.draw(st.sampled_from([tcp_packet, udp_packet]))
    raw = bytearray(joined(make([b"0123456789" * 3], addrs)))
    for _ in range(5):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    assert "\n" not in format_packet(bytes(raw))
