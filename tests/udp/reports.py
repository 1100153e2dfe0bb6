"""What hosts and routers say about groups, written and read by another hand than ours."""

from __future__ import annotations

import struct
from typing import Any

from tests.ip.world import ip4 as packet4
from tests.udp.both import PEER4, ip4, ip6
from ustack.wire.addr import format_addr
from ustack.wire.checksum import checksum, fold, partial_sum, pseudo_sum

KINDS = {1: "is in", 2: "is ex", 3: "to in", 4: "to ex", 5: "allow", 6: "block"}
MESSAGES = {
    0x12: "v1 report", 0x16: "v2 report", 0x17: "leave", 131: "report", 132: "done",
}  # fmt: skip
ROUTER, ALL_HOSTS, ALL_NODES = "fe80::1", "224.0.0.1", "ff02::1"
ALERT = bytes.fromhex("3a00050200000100")


def read(packet: bytes) -> Any:
    """A report as [(kind, group, sources), ...], an old message as its name and its group. The
    headers, which are always the same, are asserted."""
    body = _body4(packet) if packet[0] >> 4 == 4 else _body6(packet)
    size = 4 if packet[0] >> 4 == 4 else 16
    if body[0] not in (0x22, 143):
        assert (body[1], len(body)) == (0, 4 + size if size == 4 else 8 + size)
        name, group = MESSAGES[body[0]], format_addr(body[-size:])
        to = {"leave": "224.0.0.2", "done": "ff02::2"}.get(name, group)
        assert format_addr(_daddr(packet)) == to
        return name, group
    assert format_addr(_daddr(packet)) == ("224.0.0.22" if size == 4 else "ff02::16")
    assert body[1] == 0
    assert body[4:6] == b"\0\0"
    return _records(body, size)


def _records(body: bytes, size: int) -> list[tuple[str, str, list[str]]]:
    records = []
    at = 8
    for _ in range(int.from_bytes(body[6:8], "big")):
        kind, aux, count = struct.unpack_from("!BBH", body, at)
        assert not aux
        addrs = [body[i : i + size] for i in range(at + 4, at + 4 + size * (count + 1), size)]
        group, *sources = map(format_addr, addrs)
        records.append((KINDS[kind], group, sources))
        at += 4 + size * (count + 1)
    assert at == len(body)
    return records


def _daddr(packet: bytes) -> bytes:
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def _body4(packet: bytes) -> bytes:
    assert packet[:2] == b"\x46\xc0"
    assert int.from_bytes(packet[2:4], "big") == len(packet)
    assert packet[4:10] == bytes.fromhex("000040000102")  # id 0, DF, TTL 1
    assert packet[20:24] == b"\x94\4\0\0"  # Router Alert
    assert checksum(packet[:24]) == 0
    assert checksum(packet[24:]) == 0
    return packet[24:]


def _body6(packet: bytes) -> bytes:
    length = len(packet) - 40
    assert packet[:8] == b"\x60\0\0\0" + length.to_bytes(2, "big") + b"\0\1"
    assert packet[40:48] == ALERT
    pseudo = pseudo_sum(packet[8:24], packet[24:40], 58, length - 8)
    assert fold(pseudo + partial_sum(packet[48:])) == 0xFFFF
    return packet[48:]


# -- queries -----------------------------------------------------------------------------------


def igmp(kind: int, code: int, group: str, rest: bytes = b"") -> bytes:
    head = struct.pack("!BBH4s", kind, code, 0, ip4(group)) + rest
    return head[:2] + checksum(head).to_bytes(2, "big") + head[4:]


def query4(
    group: str = "0.0.0.0", sources: tuple[str, ...] = (), code: int = 1, qrv: int = 0,
    qqic: int = 0, count: int = -1, dst: str = "",
) -> bytes:  # fmt: skip
    """A query of version 3, to be answered in `code` tenths of a second."""
    count = len(sources) if count < 0 else count
    rest = struct.pack("!BBH", qrv, qqic, count) + b"".join(map(ip4, sources))
    dst = dst or (ALL_HOSTS if group == "0.0.0.0" else group)
    return sent4(igmp(0x11, code, group, rest), dst)


def old_query4(code: int, group: str = "0.0.0.0") -> bytes:
    """A query of version 2, or 1 if `code` is 0."""
    return sent4(igmp(0x11, code, group), ALL_HOSTS if group == "0.0.0.0" else group)


def sent4(message: bytes, dst: str) -> bytes:
    return packet4(message, ip4(PEER4), ip4(dst), 2, ttl=1)


def mld(
    kind: int, code: int, group: str, rest: bytes = b"", src: str = ROUTER, dst: str = "",
    hops: int = 1, alert: bytes = ALERT,
) -> bytes:  # fmt: skip
    saddr, daddr = ip6(src), ip6(dst or (ALL_NODES if group == "::" else group))
    body = struct.pack("!BBHHH16s", kind, 0, 0, code, 0, ip6(group)) + rest
    csum = 0xFFFF ^ fold(pseudo_sum(saddr, daddr, 58, len(body)) + partial_sum(body))
    body = body[:2] + csum.to_bytes(2, "big") + body[4:]
    length, following = len(alert) + len(body), 0 if alert else 58
    return struct.pack("!IHBB", 6 << 28, length, following, hops) + saddr + daddr + alert + body


def query6(
    group: str = "::", sources: tuple[str, ...] = (), code: int = 100, qrv: int = 0,
    qqic: int = 0, count: int = -1, **how: Any,
) -> bytes:  # fmt: skip
    """A query of version 2, to be answered in `code` ms."""
    count = len(sources) if count < 0 else count
    rest = struct.pack("!BBH", qrv, qqic, count) + b"".join(map(ip6, sources))
    return mld(130, code, group, rest, **how)


def old_query6(code: int, group: str = "::") -> bytes:
    return mld(130, code, group)
