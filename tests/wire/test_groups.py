"""IGMP and MLD: dpkt as a second reader, and any bytes as queries."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.udp import reports
from ustack.wire import igmp, ipv6, mld
from ustack.wire.checksum import checksum, pseudo_sum, verify

US4, GROUP4 = b"\x0a\x09\0\2", b"\xef\1\2\3"
US6, GROUP6 = b"\xfe\x80" + bytes(13) + b"\2", b"\xff\5" + bytes(13) + b"\3"
addr4, addr6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize("kind", [igmp.V1_REPORT, igmp.V2_REPORT, igmp.LEAVE])
def test_old_messages(kind: int) -> None:
    message = igmp.build(kind, GROUP4)
    got = dpkt.igmp.IGMP(message)
    assert (got.type, got.maxresp, got.group) == (kind, 0, GROUP4)
    assert checksum(message) == 0
    packet = igmp.header(US4, GROUP4, len(message)) + message
    ip = dpkt.ip.IP(packet)
    assert (ip.hl, ip.tos, ip.len, ip.id, ip.df, ip.ttl, ip.p) == (6, 0xC0, 32, 0, 1, 1, 2)
    assert (ip.src, ip.dst, ip.opts) == (US4, GROUP4, bytes.fromhex("94040000"))
    assert checksum(packet[:24]) == 0


@given(st.lists(st.tuples(st.integers(1, 6), st.lists(addr4, max_size=5)), max_size=5))
def test_reports(content: list[tuple[int, list[bytes]]]) -> None:
    for build, header, group in (
        (igmp.build_report, igmp.header(US4, igmp.V3_ROUTERS, 0), GROUP4),
        (lambda r: mld.build_report(US6, mld.V2_ROUTERS, r), None, GROUP6),
    ):
        size = len(group)
        records = []
        for kind, sources in content:
            record = igmp.Record(kind, group)
            record.sources = [source.ljust(size, b"\1") for source in sources]
            records.append(record)
        message = build(records)
        if header is not None:
            packet = igmp.header(US4, igmp.V3_ROUTERS, len(message)) + message
        else:
            packet = mld.header(US6, mld.V2_ROUTERS, len(message)) + message
        read = reports.read(packet)
        assert [kind for kind, _, _ in read] == [reports.KINDS[kind] for kind, _ in content]
        assert [len(sources) for _, _, sources in read] == [len(s) for _, s in content]


def test_messages_of_mld_version_1() -> None:
    message = mld.build(US6, GROUP6, mld.V1_REPORT, GROUP6)
    assert verify(message, 0, len(message), pseudo_sum(US6, GROUP6, 58, len(message)))
    assert (message[0], message[4:]) == (131, bytes(4) + GROUP6)
    packet = mld.header(US6, GROUP6, len(message)) + message
    ip = dpkt.ip6.IP6(packet)
    assert (ip.nxt, ip.hlim, ip.plen, ip.fc, ip.flow) == (0, 1, 32, 0, 0)
    at = ipv6.walk(packet, 0, len(packet))
    assert (at.proto, at.l4, at.problem, at.drop) == (58, 48, None, None)
    assert mld.has_router_alert(packet, 0, len(packet))


@given(st.binary(min_size=8, max_size=60), st.integers(0, 3))
def test_any_igmp_query(data: bytes, at: int) -> None:
    query = igmp.parse_query(bytes(at) + data + b"x" * at, at, at + len(data))
    if query is not None:
        assert query.group == data[4:8]
        assert (query.version == 3) == (len(data) >= 12)
        assert b"".join(query.sources) == data[12 : 12 + 4 * len(query.sources)]


@given(st.binary(max_size=80), st.integers(0, 3))
def test_any_mld_query(data: bytes, at: int) -> None:
    query = mld.parse_query(bytes(at) + data + b"x" * at, at, at + len(data))
    if query is not None:
        assert query.group == data[8:24]
        assert (query.version == 2) == (len(data) >= 28)
        assert b"".join(query.sources) == data[28 : 28 + 16 * len(query.sources)]


@given(st.binary(max_size=24))
def test_any_options(data: bytes) -> None:
    packet = bytes(6) + b"\0" + bytes(33) + data.ljust(8, b"\0")
    assert mld.has_router_alert(packet, 0, len(packet)) in (False, True)


@pytest.mark.parametrize(
    ("code", "value"), [(0, 0), (127, 127), (128, 128), (143, 248), (144, 256), (255, 31744)]
)
def test_times(code: int, value: int) -> None:
    assert igmp.decode_time(code) == value


@pytest.mark.parametrize(
    ("code", "value"), [(0, 0), (0x7FFF, 0x7FFF), (0x8000, 0x8000), (0xFFFF, 0x1FFF << 10)]
)
def test_delays(code: int, value: int) -> None:
    assert mld.decode_delay(code) == value
