"""The scripted peer: packets built and taken apart by hand.

A `Flow` is one TCP connection as the peer plays it. Numbers are relative, the system under
test's to its ISN and the peer's to its own, so the first byte of data is 1. What the
system emits becomes a `Seen`: its fields for the script, its `text` for the trace.
Whatever a host chooses at random (ISN, TSval, ephemeral ports, the first IP id) does not
appear in the text; everything else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from ustack.wire.checksum import checksum, fold, partial_sum, pseudo_sum
from ustack.wire.tcp import build, data_options, parse_options, syn_options

if TYPE_CHECKING:
    from tests.sockets.parity.trial import Trial

PEER_ISN = 2**32 - 3000
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
EPHEMERAL = 32768
_LETTERS = (("F", 1), ("S", 2), ("R", 4), ("P", 8), ("A", 16), ("U", 32), ("E", 64), ("C", 128))
_PATTERN = bytes(i * 7 % 251 for i in range(251)) * 600


def flag_bits(letters: str) -> int:
    return sum(bit for letter, bit in _LETTERS if letter in letters)


def flag_letters(bits: int) -> str:
    return "".join(letter for letter, bit in _LETTERS if bits & bit)


def pattern(start: int, length: int) -> bytes:
    """Bytes that say where in a stream they belong."""
    start %= 251
    return (_PATTERN * (1 + (start + length) // len(_PATTERN)))[start : start + length]


def signed(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31


def brief(data: bytes) -> str:
    """Bytes for a trace: themselves if few, else a digest."""
    if len(data) <= 12:
        return repr(data)
    return f"{len(data)}:{crc32(data):08x}"


def ip_packet(
    src: bytes, dst: bytes, proto: int, body: bytes, *, ttl: int = 64, tos: int = 0,
    ident: int = 0, frag: int = 0x4000, options: bytes = b"", **header: Any,
) -> bytes:  # fmt: skip
    """An IP packet. `frag` is the IPv4 flags and offset field; `header` may plant wrong
    `version`, `ihl`, `total`, `csum` (IPv4) or `length` (IPv6)."""
    if len(src) == 16:
        length = header.get("length", len(body))
        first = (header.get("version", 6) << 28) | tos << 20
        return (
            first.to_bytes(4, "big") + length.to_bytes(2, "big") + bytes((proto, ttl))
            + src + dst + body
        )  # fmt: skip
    size = 20 + len(options)
    first = header.get("version", 4) << 4 | header.get("ihl", size // 4)
    total = header.get("total", size + len(body))
    head = bytes((first, tos)) + total.to_bytes(2, "big") + ident.to_bytes(2, "big")
    head += frag.to_bytes(2, "big") + bytes((ttl, proto))
    tail = src + dst + options
    csum = checksum(head + b"\0\0" + tail) ^ header.get("csum", 0)
    return head + csum.to_bytes(2, "big") + tail + body


def udp(src: bytes, dst: bytes, sport: int, dport: int, data: bytes, **plant: Any) -> bytes:
    """A UDP packet; `plant` may hold a wrong `length` or `csum`, the rest is `ip_packet`'s."""
    length = plant.pop("length", 8 + len(data))
    csum = plant.pop("csum", None)
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + length.to_bytes(2, "big")
    if csum is None:
        total = partial_sum(head + b"\0\0" + data) + pseudo_sum(src, dst, UDP, len(data) + 8)
        csum = 0xFFFF ^ fold(total) or 0xFFFF
    return ip_packet(src, dst, UDP, head + csum.to_bytes(2, "big") + data, **plant)


def icmp(
    src: bytes, dst: bytes, kind: int, code: int, rest: int = 0, data: bytes = b"", **ip: Any
) -> bytes:
    """An ICMP or ICMPv6 packet, whichever the addresses say."""
    proto = ICMP if len(src) == 4 else ICMPV6
    bad = ip.pop("bad", 0)
    body = bytes((kind, code)) + b"\0\0" + rest.to_bytes(4, "big") + data
    total = partial_sum(body)
    if proto == ICMPV6:
        total += pseudo_sum(src, dst, proto, len(body))
    csum = 0xFFFF ^ fold(total) ^ bad
    return ip_packet(src, dst, proto, body[:2] + csum.to_bytes(2, "big") + body[4:], **ip)


class Flow:
    """One TCP connection from the peer's side."""

    def __init__(
        self,
        trial: Trial,
        port: int,
        *,
        sport: int | None = None,
        mss: int | None = 1460,
        window: int = 65535,
        wscale: int | None = None,
        sack: bool = False,
        ts: bool = False,
        isn: int = PEER_ISN,
    ) -> None:
        self.trial = trial
        self.port = port
        self.sport = sport  # the port of the system under test, known from its first packet
        self.mss, self.window, self.wscale, self.sack, self.ts = mss, window, wscale, sack, ts
        self.isn = isn
        self.iss: int | None = None  # the system's ISN
        self.seq = 1  # the peer's next number
        self.seen = 1  # end of what the system has sent
        self.ecr = 0
        self.clock = 1000  # the peer's TSval: moves by 10 with every segment
        self.last_id: int | None = None

    def syn_options(self) -> bytes:
        """What the peer offers; nothing at all if `mss` is None."""
        if self.mss is None:
            return b""
        ts = (self.clock, self.ecr) if self.ts else None
        return syn_options(self.mss, self.wscale, self.sack, ts)

    def segment(
        self,
        flags: str = "A",
        *,
        seq: int | None = None,
        ack: int | None = None,
        win: int | None = None,
        data: bytes = b"",
        sacks: list[tuple[int, int]] | tuple[()] = (),
        urg: int = 0,
        options: bytes | None = None,
        tsval: int | None = None,
        tsecr: int | None = None,
        **ip: Any,
    ) -> bytes:
        """A packet from the peer; by default what one that has everything would send."""
        iss = self.iss or 0
        if options is None:
            ts = None
            if self.ts:
                ts = (self.clock if tsval is None else tsval, self.ecr if tsecr is None else tsecr)
            options = data_options(ts, [((a + iss) % 2**32, (z + iss) % 2**32) for a, z in sacks])
        bits = flag_bits(flags)
        number = self.isn + (self.seq if seq is None else seq)
        ack = iss + (self.seen if ack is None else ack) if bits & 16 else 0
        window = self.window if win is None else win
        assert self.sport is not None
        head = build(self.port, self.sport, number, ack, bits, window, options, urg)
        t = self.trial
        pseudo = pseudo_sum(t.peer, t.local, TCP, len(head) + len(data))
        csum = 0xFFFF ^ fold(partial_sum(head + data) + pseudo) ^ ip.pop("bad", 0)
        body = head[:16] + csum.to_bytes(2, "big") + head[18:] + data
        return ip_packet(t.peer, t.local, TCP, body, **ip)

    def send(self, flags: str = "A", **fields: Any) -> None:
        """Inject one segment (fields as `segment`; `data` may be a number of bytes)."""
        data = fields.get("data", b"")
        if isinstance(data, int):
            start = self.seq if fields.get("seq") is None else fields["seq"]
            fields["data"] = data = pattern(start, data)
        packet = self.segment(flags, **fields)
        length = len(data) + ("S" in flags) + ("F" in flags)
        if fields.get("seq") is None:
            self.seq += length
        elif "S" in flags:
            self.seq = fields["seq"] + 1
        self.clock += 10
        if "A" in flags and fields.get("ack") is None:
            fields["ack"] = self.seen
        words = [f"{k} {_show(v)}" for k, v in fields.items() if k not in ("options", "tsecr")]
        self.trial.inject(packet, f"{flags} {' '.join(words)}".rstrip())

    def ack(self, ack: int | None = None, **fields: Any) -> None:
        """A pure ACK."""
        self.send("A", ack=ack, **fields)

    def syn(self, **fields: Any) -> None:
        """The peer's SYN."""
        self.send("S", seq=0, options=self.syn_options(), **fields)

    def syn_ack(self, **fields: Any) -> None:
        """The peer's answer to a SYN."""
        self.send("SA", **{"seq": 0, "ack": 1, "options": self.syn_options(), **fields})

    def note(self, seen: Seen) -> None:
        """A packet of this flow has come."""
        if seen.options.has_ts:
            self.ecr = seen.options.tsval
        if "R" not in seen.flags:
            length = seen.len + ("S" in seen.flags) + ("F" in seen.flags)
            self.seen = max(self.seen, seen.seq + length)


def _show(value: Any) -> str:
    return brief(value) if isinstance(value, bytes) else str(value)


class Seen:
    """One packet that the system under test emitted."""

    flags = ""
    seq = ack = len = win = urg = sport = dport = 0
    kind = code = 0
    data = b""

    def __init__(self, trial: Trial, raw: bytes, at: float) -> None:
        self.trial = trial
        self.raw = raw
        self.at = at  # ms in its interval
        self.v6 = raw[0] >> 4 == 6
        notes: list[str] = []
        if self.v6:
            body = self._ip6(raw, notes)
        else:
            body = self._ip4(raw, notes)
        if self.offset:
            words = [f"fragment {self.offset}+{len(body)}"]
        elif self.proto == TCP:
            words = self._tcp(body)
        elif self.proto == UDP:
            words = self._udp(body)
        elif self.proto in (ICMP, ICMPV6):
            words = self._icmp(body)
        else:
            words = [f"proto {self.proto} len {len(body)}"]
        self.text = " ".join(words + notes)

    # -- IP ----------------------------------------------------------------------------

    def _ip4(self, raw: bytes, notes: list[str]) -> bytes:
        ihl = (raw[0] & 15) * 4
        self.tos, self.ttl, self.proto = raw[1], raw[8], raw[9]
        self.id = int.from_bytes(raw[4:6], "big")
        field = int.from_bytes(raw[6:8], "big")
        self.df, self.mf = bool(field & 0x4000), bool(field & 0x2000)
        self.offset = (field & 0x1FFF) * 8
        self.src, self.dst = raw[12:16], raw[16:20]
        if checksum(raw[:ihl]):
            notes.append("bad IP checksum")
        if int.from_bytes(raw[2:4], "big") != len(raw):
            notes.append("bad total length")
        notes.extend(self._common())
        if ihl > 20:
            notes.append(f"options {ip_options(raw[20:ihl])}")
        if not self.df:
            notes.append("no DF")
        return raw[ihl:]

    def _ip6(self, raw: bytes, notes: list[str]) -> bytes:
        self.tos = int.from_bytes(raw[:2], "big") >> 4 & 0xFF
        self.proto, self.ttl = raw[6], raw[7]
        self.src, self.dst = raw[8:24], raw[24:40]
        self.id, self.df, self.mf, self.offset = 0, True, False, 0
        if int.from_bytes(raw[4:6], "big") != len(raw) - 40:
            notes.append("bad payload length")
        label = int.from_bytes(raw[1:4], "big") & 0xFFFFF
        if label:
            notes.append("label")
        body = raw[40:]
        if self.proto == 44:
            self.proto = body[0]
            field = int.from_bytes(body[2:4], "big")
            self.offset, self.mf = field & 0xFFF8, bool(field & 1)
            self.id = int.from_bytes(body[4:8], "big")
            body = body[8:]
            notes.append("frag header")
        notes.extend(self._common())
        return body

    def _common(self) -> list[str]:
        notes = [] if self.ttl == 64 else [f"ttl {self.ttl}"]
        if self.tos:
            notes.append(f"tos {self.tos:#x}")
        if self.mf:
            notes.append("MF")
        if (self.src, self.dst) != (self.trial.local, self.trial.peer):
            notes.append(f"{self.src.hex()} > {self.dst.hex()}")
        return notes

    def _ident(self, flow: Flow) -> list[str]:
        """The IP id against that of the packet before in this flow."""
        if self.v6:
            return []
        if not self.id:
            return ["id 0"]
        last, flow.last_id = flow.last_id, self.id
        step = 1 if last is None else (self.id - last) % 65536
        return [] if step == 1 else [f"id +{step}"]

    # -- transports --------------------------------------------------------------------

    def _tcp(self, body: bytes) -> list[str]:
        self.sport, self.dport = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        doff = (body[12] >> 4) * 4
        self.flags = flag_letters(body[13])
        self.win = int.from_bytes(body[14:16], "big")
        self.urg = int.from_bytes(body[18:20], "big")
        self.data = body[doff:]
        self.len = len(self.data)
        self.options = parse_options(body, 20, doff, bool(body[13] & 2))
        raw_seq, raw_ack = int.from_bytes(body[4:8], "big"), int.from_bytes(body[8:12], "big")
        flow = self.flow = self.trial.find_flow(self.sport, self.dport, "S" in self.flags)
        if flow is not None and "S" in self.flags and flow.iss != raw_seq:
            flow.iss, flow.seen, flow.last_id = raw_seq, 1, None  # a new connection
        known = flow is not None and flow.iss is not None
        self.seq = signed(raw_seq - flow.iss) if known else raw_seq  # type: ignore[union-attr]
        self.ack = signed(raw_ack - flow.isn) if flow is not None else raw_ack
        words = [self.flags, f"{self.seq}:{self.seq + self.len}({self.len})"]
        words.append(f"ack {self.ack}" if "A" in self.flags else f"ack field {raw_ack}")
        words.append(f"win {self.win}")
        if self.urg:
            words.append(f"urg {self.urg}")
        if doff > 20:
            words.append(f"<{','.join(_options(body[20:doff], flow.isn if flow else 0))}>")
        if self.len:
            words.append(f"{crc32(self.data):08x}")
        pseudo = pseudo_sum(self.src, self.dst, TCP, len(body))
        if fold(partial_sum(body) + pseudo) not in (0, 0xFFFF):
            words.append("bad checksum")
        if flow is None:
            return [_ports(self.sport, self.dport), *words, *(["id 0"] * (not self.id))]
        words += self._ident(flow)
        flow.note(self)
        if len(self.trial.flows) > 1:
            words.insert(0, _ports(self.sport, self.dport))
        return words

    def _udp(self, body: bytes) -> list[str]:
        self.sport, self.dport = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        length, csum = int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
        self.data = body[8:]
        self.len = len(self.data)
        words = [f"udp {_ports(self.sport, self.dport)} len {length} {brief(self.data)}"]
        if not csum:
            words.append("no checksum")
        elif not self.mf:
            pseudo = pseudo_sum(self.src, self.dst, UDP, len(body))
            if fold(partial_sum(body) + pseudo) not in (0, 0xFFFF):
                words.append("bad checksum")
        if not self.v6:
            words.append("id 0" if not self.id else "id")
        return words

    def _icmp(self, body: bytes) -> list[str]:
        self.kind, self.code = body[0], body[1]
        self.data = body[8:]
        total = partial_sum(body)
        if self.proto == ICMPV6:
            total += pseudo_sum(self.src, self.dst, ICMPV6, len(body))
        good = [] if fold(total) in (0, 0xFFFF) else ["bad checksum"]
        echo = self.kind in (0, 8, 128, 129)
        data = brief(self.data) if echo else f"quotes {len(self.data)}"
        return [f"icmp {self.kind}/{self.code} rest {body[4:8].hex()} {data}", *good]

    @property
    def noise(self) -> bool:
        """Neighbour and router discovery, multicast reports: no business of a socket."""
        return (self.proto == ICMPV6 and 130 <= self.kind <= 143) or self.proto == 0

    def __repr__(self) -> str:
        return f"{self.text} @{self.at:.1f}"


def _ports(sport: int, dport: int) -> str:
    """From the system under test, whose ephemeral ports are its own, to the peer."""
    return f"{'*' if sport >= EPHEMERAL else sport}>{dport}"


def ip_options(raw: bytes) -> str:
    """The options of an IPv4 header in hex, times of day as `t`."""
    words = [f"{byte:02x}" for byte in raw]
    at = 0
    while at < len(raw) and raw[at]:
        size = 1 if raw[at] == 1 else max([1, *raw[at + 1 : at + 2]])
        if raw[at] == 0x44 and size > 4 and at + 3 < len(raw):
            skip, step = (4, 8) if raw[at + 3] & 15 else (0, 4)
            for slot in range(at + 4 + skip, at + size - 3, step):
                if any(raw[slot : slot + 4]):
                    words[slot : slot + 4] = ["t", "", "", ""]
        at += size
    return "".join(words)


def _options(raw: bytes, isn: int) -> list[str]:
    """The options one by one, padding included."""
    out: list[str] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind <= 1:
            out.append("eol" if not kind else "nop")
            at += 1
            continue
        size = raw[at + 1]
        value = raw[at + 2 : at + size]
        words = [int.from_bytes(value[i : i + 4], "big") for i in range(0, len(value), 4)]
        if kind == 2:
            out.append(f"mss {words[0]}")
        elif kind == 3:
            out.append(f"ws {words[0]}")
        elif kind == 4:
            out.append("sackOK")
        elif kind == 5:
            edges = [signed(word - isn) for word in words]
            pairs = zip(edges[::2], edges[1::2], strict=True)
            out.append("sack " + " ".join(f"{a}-{z}" for a, z in pairs))
        elif kind == 8:
            out.append(f"ts ecr {words[1]}")
        else:
            out.append(f"{kind}:{value.hex()}")
        at += size
    return out
