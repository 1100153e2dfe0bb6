"""Services for measuring: `sink` takes the known stream, `source` sends it.

Not started by default; `ustack demo` runs them, and `ustack up --service sink` may. Both
check or make the bytes of `daemon.pattern`, so that a transfer at full speed is verified
byte for byte.

sink: reads to the end of the stream, answers one line, `good N` or `bad N` (bytes read).
source: reads one line, `bytes N` or `seconds S`, then sends that many bytes, or for that
long, and at last their number in 8 bytes (network order), so that a stream that is cut
short is not taken for a whole one. Any other line is answered by nothing.
"""

from __future__ import annotations

import trio
from trio.socket import SocketType

from ustack.daemon import pattern
from ustack.daemon.services import Service, finish, send_all

MAX_LINE = 64
MAX_SECONDS = 3600.0


async def sink(conn: SocketType) -> None:
    checker = pattern.Checker()
    while data := await conn.recv(pattern.CHUNK):
        checker.feed(data)
    verdict = "good" if checker.good else "bad"
    await send_all(conn, f"{verdict} {checker.total}\n".encode("ascii"))


async def source(conn: SocketType) -> None:
    unit, amount = parse_order(await _read_line(conn))
    if unit:
        total = await (_send_bytes if unit == "bytes" else _send_for)(conn, amount)
        await send_all(conn, pattern.TAIL.pack(total))
    await finish(conn)


async def _send_bytes(conn: SocketType, total: float) -> int:
    for chunk in pattern.chunks(int(total)):
        await send_all(conn, chunk)
    return int(total)


async def _send_for(conn: SocketType, seconds: float) -> int:
    until = trio.current_time() + seconds
    offset = 0
    while trio.current_time() < until:
        await send_all(conn, pattern.at(offset, pattern.CHUNK))
        offset += pattern.CHUNK
    return offset


async def _read_line(conn: SocketType) -> bytes:
    line = b""
    while b"\n" not in line and len(line) < MAX_LINE:
        data = await conn.recv(MAX_LINE)
        if not data:
            break
        line += data
    return line


def parse_order(line: bytes) -> tuple[str, float]:
    """("bytes", n) or ("seconds", s); ("", 0) for any other line."""
    words = line.partition(b"\n")[0].decode("ascii", "replace").split()
    if len(words) == 2:
        unit, amount = words
        if unit == "bytes" and amount.isdecimal():
            return unit, int(amount)
        if unit == "seconds" and amount.replace(".", "", 1).isdecimal():
            return unit, min(float(amount), MAX_SECONDS)
    return "", 0.0


def bulk_services() -> dict[str, Service]:
    """The services of this module by name."""
    services = (Service("sink", 5009, sink), Service("source", 5019, source))
    return {service.name: service for service in services}
