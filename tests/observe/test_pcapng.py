import io
import subprocess

import dpkt
import pytest

from tests.link.packets import V6, frame, joined, parse, tcp_packet, udp_packet
from ustack.link.gso import finish_bytes
from ustack.link.loopback import Loopback
from ustack.observe.pcapng import INBOUND, OUTBOUND, CaptureDevice, PcapngWriter, Tap
from ustack.wire.packet import TAKEN, Frame

WALL = 1_700_000_000_123_456_789


def read(file):
    """[(seconds, bytes)] by dpkt, and the reader."""
    reader = dpkt.pcapng.Reader(io.BytesIO(file.getvalue()))
    return [(at, bytes(data)) for at, data in reader], reader


def directions(raw):
    """epb_flags of every enhanced packet block, by dpkt's block parser."""
    found = []
    while raw:
        kind, length = (int.from_bytes(raw[i : i + 4], "little") for i in (0, 4))
        assert raw[length - 4 : length] == raw[4:8]
        assert length % 4 == 0
        if kind == 6:
            block = dpkt.pcapng.EnhancedPacketBlockLE(raw[:length])
            (flags,) = (o for o in block.opts if o.code == 2)
            found.append((block.iface_id, int.from_bytes(flags.data, "little")))
        raw = raw[length:]
    return found


def test_written_packets_are_read_back():
    file = io.BytesIO()
    writer = PcapngWriter(file, "tun7")
    packets = [joined(tcp_packet([b"x" * n])) for n in range(5)]
    for i, data in enumerate(packets):
        writer.packet(WALL + i, (data[:7], memoryview(data)[7:]), INBOUND + i % 2)
    got, reader = read(file)
    assert [data for _, data in got] == packets
    assert [round((at - 1_700_000_000) * 1e6) for at, _ in got] == [123457] * 5
    assert reader.datalink() == 101
    assert writer.packets == 5
    assert directions(file.getvalue()) == [(0, 1 + i % 2) for i in range(5)]


def test_timestamps_keep_nanoseconds():
    file = io.BytesIO()
    PcapngWriter(file).packet(WALL, (b"E" * 20,), OUTBOUND)
    raw = file.getvalue()
    at = raw.index(b"E" * 20) - 16
    high, low = (int.from_bytes(raw[i : i + 4], "little") for i in (at, at + 4))
    assert high << 32 | low == WALL
    assert b"\x09\x00\x01\x00\x09\x00\x00\x00" in raw  # if_tsresol: 10**-9


def test_snaplen_keeps_the_real_length():
    file = io.BytesIO()
    PcapngWriter(file, snaplen=21).packet(WALL, (b"a" * 100,), OUTBOUND)
    (got,), _ = read(file)
    assert got[1] == b"a" * 21
    assert (100).to_bytes(4, "little") + b"a" * 21 in file.getvalue()


def test_taps_record_what_the_wire_carries():
    file = io.BytesIO()
    writer = PcapngWriter(file, "out")
    second = writer.add_interface("in")
    lo = Loopback()
    dev = CaptureDevice(lo, Tap(writer, lambda: WALL, 1500))
    big = tcp_packet([b"x" * 3000], gso_size=1448)
    assert dev.xmit(big) == TAKEN
    assert (dev.features, dev.mtu, dev.loopback) == (lo.features, 65536, True)
    assert [f.gso_size for f in lo.drain()] == [1448]  # the device still gets it whole
    Tap(writer, lambda: WALL, 1500, second).inbound(
        [frame(big), Frame(b"????" + joined(udp_packet([b"q"], V6)), 4, 0, True), Frame(b"E", 1)]
    )
    got, _ = read(file)
    wire = finish_bytes(big)
    assert [data for _, data in got] == [*wire, *wire, *finish_bytes(udp_packet([b"q"], V6)), b""]
    for _, data in got[:-1]:
        parse(data)
    assert directions(file.getvalue()) == [(0, OUTBOUND)] * 3 + [(1, INBOUND)] * 5


@pytest.mark.needs("tcpdump")
def test_tcpdump_reads_it(tmp_path):
    path = tmp_path / "x.pcapng"
    with path.open("wb") as file:
        writer = PcapngWriter(file)
        for data in finish_bytes(tcp_packet([b"x" * 3000], gso_size=1448)):
            writer.packet(WALL, (data,), OUTBOUND)
    out = subprocess.run(
        ["tcpdump", "-nvvr", path], capture_output=True, text=True, check=True
    ).stdout
    assert out.count("10.9.0.2.4321 > 10.9.0.1.80") == 3
    assert out.count("(correct)") == 3
    assert "incorrect" not in out
