"""The TCP header (RFC 9293 section 3.1) and its options.

Parsing reads what a receiver needs and stops quietly at the first byte that makes no
sense, as Linux `tcp_parse_options` does: what was understood before it stands. Building
lays the options out byte for byte as Linux `tcp_options_write` does, because peers have
fast paths for that layout. Values are masked to 32 bits here and nowhere else.

Sources: RFC 9293, RFC 7323 (window scale, timestamps), RFC 2018 (SACK), RFC 7413 (Fast
Open). Left out: MD5, AO, MPTCP, the experimental Fast Open kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from ustack.wire.packet import Buffer
from ustack.wire.seq import MASK

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80

# source and destination port, seq, ack, data offset, flags, window, checksum, urgent
HEADER = Struct("!HHLLBBHHH")
HEADER_LEN = 20
CSUM_OFFSET = 16

OPT_EOL, OPT_NOP, OPT_MSS, OPT_WINDOW, OPT_SACK_PERM = 0, 1, 2, 3, 4
OPT_SACK, OPT_TIMESTAMP, OPT_FASTOPEN = 5, 8, 34
MAX_WSCALE = 14
MAX_OPTIONS_LEN = 40

_TS_ALIGNED = Struct("!LLL")
_TS_WORD = 0x0101080A  # NOP, NOP, timestamp, 10
_TS_SACK_PERM_WORD = 0x0402080A  # SACK permitted, 2, timestamp, 10
_PAIR = Struct("!LL")
_SACKS = tuple(Struct(f"!{2 * n}L") for n in range(5))


class TcpOptions:
    """The options of one received segment.

    `mss` 0, `wscale` -1 and `tfo_cookie` None mean absent; an empty cookie is a request
    for one. `sacks` holds (left, right) as on the wire. Instances are shared: never
    write to one.
    """

    __slots__ = ("has_ts", "mss", "sack_perm", "sacks", "tfo_cookie", "tsecr", "tsval", "wscale")

    def __init__(self, has_ts: bool = False, tsval: int = 0, tsecr: int = 0) -> None:
        self.mss = 0
        self.wscale = -1
        self.sack_perm = False
        self.has_ts = has_ts
        self.tsval = tsval
        self.tsecr = tsecr
        self.sacks: tuple[tuple[int, int], ...] = ()
        self.tfo_cookie: bytes | None = None


EMPTY = TcpOptions()


def parse_options(buf: Buffer, off: int, end: int, syn: bool) -> TcpOptions:
    """The options in `buf[off:end]`, which lies within the buffer."""
    if off == end:
        return EMPTY
    if end - off == 12:
        word, tsval, tsecr = _TS_ALIGNED.unpack_from(buf, off)
        if word == _TS_WORD:
            return TcpOptions(True, tsval, tsecr)
    return _parse_options(buf, off, end, syn)


def _parse_options(buf: Buffer, off: int, end: int, syn: bool) -> TcpOptions:
    options = TcpOptions()
    while off < end:
        kind = buf[off]
        if kind == OPT_EOL:
            break
        if kind == OPT_NOP:
            off += 1
            continue
        size = buf[off + 1] if off + 1 < end else 0
        if size < 2 or off + size > end:
            break
        if kind == OPT_TIMESTAMP:
            if size == 10:
                options.has_ts = True
                options.tsval, options.tsecr = _PAIR.unpack_from(buf, off + 2)
        elif kind == OPT_SACK:
            if size >= 10 and size & 7 == 2:
                options.sacks = tuple(_PAIR.iter_unpack(buf[off + 2 : off + size]))
        elif syn:
            _parse_syn_option(options, kind, buf[off + 2 : off + size])
        off += size
    return options


def _parse_syn_option(options: TcpOptions, kind: int, value: Buffer) -> None:
    """An option that counts only in a SYN; one of a wrong length does not."""
    size = len(value)
    if kind == OPT_MSS and size == 2:
        options.mss = value[0] << 8 | value[1] or options.mss
    elif kind == OPT_WINDOW and size == 1:
        options.wscale = min(value[0], MAX_WSCALE)
    elif kind == OPT_SACK_PERM and size == 0:
        options.sack_perm = True
    elif kind == OPT_FASTOPEN and size & 1 == 0 and (size == 0 or 4 <= size <= 16):
        options.tfo_cookie = bytes(value)


def syn_options(
    mss: int,
    wscale: int | None,
    sack_perm: bool,
    ts: tuple[int, int] | None,
    tfo_cookie: bytes | None = None,
) -> bytes:
    """The options of a SYN or SYN-ACK; `ts` is (tsval, tsecr)."""
    parts = [bytes((OPT_MSS, 4, mss >> 8, mss & 0xFF))]
    if ts is not None:
        word = _TS_SACK_PERM_WORD if sack_perm else _TS_WORD
        parts.append(_TS_ALIGNED.pack(word, ts[0] & MASK, ts[1] & MASK))
    elif sack_perm:
        parts.append(bytes((OPT_NOP, OPT_NOP, OPT_SACK_PERM, 2)))
    if wscale is not None:
        parts.append(bytes((OPT_NOP, OPT_WINDOW, 3, wscale)))
    if tfo_cookie is not None:
        size = 2 + len(tfo_cookie)
        parts.append(bytes((OPT_FASTOPEN, size)) + tfo_cookie + b"\1" * (-size & 3))
    return b"".join(parts)


def data_options(ts: tuple[int, int] | None, sacks: Sequence[tuple[int, int]]) -> bytes:
    """The options of any other segment; `sacks` are at most 3 blocks with `ts`, else 4."""
    out = b""
    if ts is not None:
        out = _TS_ALIGNED.pack(_TS_WORD, ts[0] & MASK, ts[1] & MASK)
    if sacks:
        edges = [edge & MASK for block in sacks for edge in block]
        count = len(sacks)
        out += bytes((OPT_NOP, OPT_NOP, OPT_SACK, 2 + 8 * count)) + _SACKS[count].pack(*edges)
    return out


def build(
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
    urg: int = 0,
    csum: int = 0,
) -> bytes:
    """A header; `options` is padded to 4 bytes, `csum` the value of the checksum field."""
    doff = HEADER_LEN + len(options) << 2
    return (
        HEADER.pack(sport, dport, seq & MASK, ack & MASK, doff, flags, window, csum, urg) + options
    )
