"""Packets to feed to devices, and an independent reader of what comes out (dpkt)."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dpkt

from ustack.wire.packet import Buffer, Frame, Packet

V4 = (ip_address("10.9.0.2").packed, ip_address("10.9.0.1").packed)
V6 = (ip_address("fd00:9::2").packed, ip_address("fd00:9::1").packed)
ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80
TS_OPTIONS = bytes.fromhex("0101080a0001e2400009fbf1")


def ones_sum(data: bytes) -> int:
    """RFC 1071, the slow way."""
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ip_header(addrs: tuple[bytes, bytes], proto: int, length: int, ident: int) -> bytes:
    if len(addrs[0]) == 16:
        return struct.pack(">IHBB", 6 << 28, length, proto, 64) + addrs[0] + addrs[1]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, ident & 0xFFFF, 0x4000, 64, proto, 0)
    head += addrs[0] + addrs[1]
    return head[:10] + struct.pack(">H", 0xFFFF - ones_sum(head)) + head[12:]


def pseudo(addrs: tuple[bytes, bytes], proto: int, length: int) -> int:
    return ones_sum(addrs[0] + addrs[1] + struct.pack(">II", length, proto))


def tcp_packet(
    payload: list[Buffer],
    addrs: tuple[bytes, bytes] = V4,
    seq: int = 0xFFFFFF00,
    flags: int = ACK,
    gso_size: int = 0,
    ident: int = 0xFFFE,
    options: bytes = TS_OPTIONS,
) -> Packet:
    n = sum(len(p) for p in payload)
    hlen = 20 + len(options)
    ip = ip_header(addrs, 6, hlen + n, ident)
    word = (hlen // 4) << 12 | flags
    csum = pseudo(addrs, 6, hlen + n)
    tcp = struct.pack(">HHIIHHHH", 4321, 80, seq, 77, word, 501, csum, 0) + options
    return Packet(ip + tcp, payload, n, gso_size, len(ip), 16)


def udp_packet(
    payload: list[Buffer],
    addrs: tuple[bytes, bytes] = V4,
    gso_size: int = 0,
    ports: tuple[int, int] = (53, 5353),
) -> Packet:
    n = sum(len(p) for p in payload)
    ip = ip_header(addrs, 17, 8 + n, 7)
    udp = struct.pack(">HHHH", *ports, 8 + n, pseudo(addrs, 17, 8 + n))
    return Packet(ip + udp, payload, n, gso_size, len(ip), 6)


def joined(packet: Packet) -> bytes:
    return b"".join((packet.header, *packet.payload))


def frame(packet: Packet, csum_ok: bool = True) -> Frame:
    return Frame(joined(packet), 0, packet.gso_size, csum_ok)


def parse(data: bytes) -> dpkt.ip.IP | dpkt.ip6.IP6:
    """dpkt's reading, after checking every length and checksum by hand."""
    if data[0] >> 4 == 6:
        ip = dpkt.ip6.IP6(data)
        assert ip.plen == len(data) - 40
        body, addrs, proto = data[40:], (ip.src, ip.dst), ip.nxt
    else:
        ip = dpkt.ip.IP(data)
        assert ip.len == len(data)
        assert ones_sum(data[: ip.hl * 4]) == 0xFFFF
        body, addrs, proto = data[ip.hl * 4 :], (ip.src, ip.dst), ip.p
    assert ones_sum(struct.pack(">HH", pseudo(addrs, proto, len(body)), 0) + body) == 0xFFFF
    return ip
