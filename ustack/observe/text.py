"""One packet, one line, in the manner of tcpdump: for dumps and for failing tests.

Decoding is dpkt's, not the stack's own, so that a line does not repeat the stack's own
mistakes. Any bytes give a line.
"""

from __future__ import annotations

from io import BytesIO
from ipaddress import ip_address
from typing import Any

import dpkt

_TCP_FLAGS = ((0x01, "F"), (0x02, "S"), (0x04, "R"), (0x08, "P"), (0x10, "."), (0x20, "U"),
              (0x40, "E"), (0x80, "W"))  # fmt: skip
_ICMP4 = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_ICMP6 = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request",
          129: "echo reply"}  # fmt: skip


def format_packet(data: bytes | memoryview) -> str:
    """The line for one packet that starts at its IP header."""
    data = bytes(data)
    try:
        return _ip(data)
    except Exception as error:  # whatever dpkt makes of bad bytes
        return f"?? {len(data)} bytes, {type(error).__name__}: {data[:64].hex()}"


def format_timed(now: int, data: bytes | memoryview) -> str:
    """The same after its time in seconds (`now` is ns)."""
    return f"{now // 1_000_000_000}.{now % 1_000_000_000:09d} {format_packet(data)}"


def format_capture(file: bytes) -> list[str]:
    """The packets of a pcapng file, a line each."""
    reader = dpkt.pcapng.Reader(BytesIO(file))
    return [f"{at:.6f} {format_packet(data)}" for at, data in reader]


def _ip(data: bytes) -> str:
    version = data[0] >> 4
    if version == 6:
        ip: Any = dpkt.ip6.IP6(data)
        return f"IP6 {_body(ip, ip.p, _fragment6(ip))}"
    if version != 4:
        raise ValueError("not IP")
    ip = dpkt.ip.IP(data)
    return f"IP {_body(ip, ip.p, _fragment4(ip))}"


def _fragment4(ip: Any) -> str:
    return f" (frag {ip.id}:{ip.offset * 8}{'+' if ip.mf else ''})" if ip.mf or ip.offset else ""


def _fragment6(ip: Any) -> str:
    for header in ip.all_extension_headers:
        if isinstance(header, dpkt.ip6.IP6FragmentHeader):
            more = "+" if header.m_flag else ""
            return f" (frag {header.id:#x}:{header.frag_off * 8}{more})"
    return ""


def _body(ip: Any, proto: int, fragment: str) -> str:
    src, dst = ip_address(ip.src), ip_address(ip.dst)
    inner = ip.data
    if isinstance(inner, dpkt.tcp.TCP):
        return f"{src}.{inner.sport} > {dst}.{inner.dport}: {_tcp(inner)}{fragment}"
    if isinstance(inner, dpkt.udp.UDP):
        length = len(inner.data)
        return f"{src}.{inner.sport} > {dst}.{inner.dport}: UDP, length {length}{fragment}"
    if isinstance(inner, dpkt.icmp.ICMP):
        return f"{src} > {dst}: ICMP {_icmp(inner, _ICMP4)}{fragment}"
    if isinstance(inner, dpkt.icmp6.ICMP6):
        return f"{src} > {dst}: ICMP6 {_icmp(inner, _ICMP6)}{fragment}"
    return f"{src} > {dst}: ip-proto-{proto} {len(bytes(inner))}{fragment}"


def _icmp(icmp: Any, names: dict[int, str]) -> str:
    name = names.get(icmp.type, f"type {icmp.type}")
    return f"{name}, code {icmp.code}, length {len(icmp)}"


def _tcp(tcp: Any) -> str:
    length = len(tcp.data)
    flags = "".join(letter for bit, letter in _TCP_FLAGS if tcp.flags & bit) or "none"
    words = [f"Flags [{flags}]"]
    if length or tcp.flags & 0x07:
        words.append(f"seq {tcp.seq}:{(tcp.seq + length) & 0xFFFFFFFF}" if length else
                     f"seq {tcp.seq}")  # fmt: skip
    if tcp.flags & 0x10:
        words.append(f"ack {tcp.ack}")
    words.append(f"win {tcp.win}")
    if tcp.flags & 0x20:
        words.append(f"urg {tcp.urp}")
    if tcp.opts:
        words.append(f"options [{','.join(_options(tcp.opts))}]")
    words.append(f"length {length}")
    return ", ".join(words)


def _options(raw: bytes) -> list[str]:
    out = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind < 2:
            out.append(("eol", "nop")[kind])
            if not kind:
                break
            at += 1
            continue
        length = raw[at + 1] if at + 1 < len(raw) else 0
        if length < 2 or at + length > len(raw):
            out.append("bad opt")
            break
        out.append(_option(kind, raw[at + 2 : at + length]))
        at += length
    return out


def _numbers(value: bytes) -> list[int]:
    return [int.from_bytes(value[i : i + 4], "big") for i in range(0, len(value), 4)]


def _option(kind: int, value: bytes) -> str:
    if kind == 2 and len(value) == 2:
        return f"mss {int.from_bytes(value, 'big')}"
    if kind == 3 and len(value) == 1:
        return f"wscale {value[0]}"
    if kind == 4 and not value:
        return "sackOK"
    if kind == 5 and value and len(value) % 8 == 0:
        edges = _numbers(value)
        blocks = "".join(f"{{{a}:{b}}}" for a, b in zip(edges[::2], edges[1::2], strict=True))
        return f"sack {len(edges) // 2} {blocks}"
    if kind == 8 and len(value) == 8:
        val, ecr = _numbers(value)
        return f"TS val {val} ecr {ecr}"
    return f"opt-{kind}:{value.hex()}"
