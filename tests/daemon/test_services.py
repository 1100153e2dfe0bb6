from __future__ import annotations

import random
import re
import socket

import pytest
import trio

from tests.daemon.ends import read_all, read_exactly, served
from ustack.daemon import pattern
from ustack.daemon.bulk import bulk_services, parse_order, sink, source
from ustack.daemon.services import chargen_cycle, finish, small_services

SERVICES = small_services(random.Random(1))


def test_the_ports_are_those_of_the_rfcs() -> None:
    ports = {name: service.port for name, service in SERVICES.items()}
    assert ports == {"echo": 7, "discard": 9, "daytime": 13, "chargen": 19}


async def test_echo_returns_what_comes_and_ends_when_it_ends() -> None:
    data = bytes(pattern.at(0, 200_000))
    async with served(SERVICES["echo"].tcp) as conn, trio.open_nursery() as nursery:
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await read_all(conn))

        nursery.start_soon(receive)
        view = memoryview(data)
        while view:
            view = view[await conn.send(view) :]
        conn.shutdown(socket.SHUT_WR)
    assert received == [data]


async def test_discard_says_nothing() -> None:
    async with served(SERVICES["discard"].tcp) as conn:
        await conn.send(b"x" * 10_000)
        conn.shutdown(socket.SHUT_WR)
        assert await read_all(conn) == b""


DAYTIME = rb"[A-Z][a-z]+day, [A-Z][a-z]+ \d\d, \d{4} \d\d:\d\d:\d\d-UTC\r\n"


async def test_daytime_is_one_line() -> None:
    async with served(SERVICES["daytime"].tcp) as conn:
        await conn.send(b"ignored")
        text = await read_all(conn)
    assert re.fullmatch(DAYTIME, text)


async def test_chargen_sends_for_ever_and_ignores_input() -> None:
    async with served(SERVICES["chargen"].tcp) as conn:
        await conn.send(b"ignored")
        text = await read_exactly(conn, 500_000)
    lines = text.split(b"\r\n")[:-1]
    assert {len(line) for line in lines[:-1]} == {72}
    assert lines[0] == bytes(range(0x20, 0x20 + 72))
    assert lines[1] == lines[0][1:] + bytes([0x20 + 72])
    assert lines[95] == lines[0]


async def test_chargen_ends_when_the_peer_does() -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
    with theirs:
        ours.close()
        with pytest.raises(OSError):
            await SERVICES["chargen"].tcp(theirs)


def test_a_cycle_of_chargen() -> None:
    cycle = chargen_cycle()
    assert len(cycle) == 95 * 74
    assert set(cycle) == set(range(0x20, 0x7F)) | {0x0D, 0x0A}


def test_the_datagram_services() -> None:
    replies = {name: service.udp for name, service in SERVICES.items()}
    assert all(replies.values())
    assert replies["echo"](b"abc") == b"abc"  # type: ignore[misc]
    assert replies["discard"](b"abc") is None  # type: ignore[misc]
    assert re.fullmatch(DAYTIME, replies["daytime"](b""))  # type: ignore[misc,arg-type]


def test_chargen_datagrams_have_random_lengths_that_a_seed_repeats() -> None:
    reply, again = (small_services(random.Random(5))["chargen"].udp for _ in range(2))
    assert reply is not None
    assert again is not None
    sizes = [len(reply(b"") or b"") for _ in range(100)]
    assert sizes == [len(again(b"") or b"") for _ in range(100)]
    assert 0 <= min(sizes) < 50
    assert 450 < max(sizes) <= 512


async def test_finish_waits_for_the_peer_a_bounded_time(autojump_clock: object) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        began = trio.current_time()
        await finish(theirs)
        assert trio.current_time() - began == pytest.approx(2.0)
        assert await ours.recv(1) == b""


# -- the services for measuring ----------------------------------------------------------


async def test_sink_tells_good_from_bad() -> None:
    async with served(sink) as conn:
        await conn.send(pattern.at(0, 1000))
        conn.shutdown(socket.SHUT_WR)
        assert await read_all(conn) == b"good 1000\n"
    async with served(sink) as conn:
        await conn.send(pattern.at(1, 1000))
        conn.shutdown(socket.SHUT_WR)
        assert await read_all(conn) == b"bad 1000\n"


@pytest.mark.parametrize("total", [0, 1, 600_000])
async def test_source_sends_so_many_bytes(total: int) -> None:
    async with served(source) as conn:
        await conn.send(f"bytes {total}\n".encode())
        data = await read_all(conn)
    assert data == b"".join(pattern.chunks(total)) + pattern.TAIL.pack(total)


async def test_source_sends_for_so_long(autojump_clock: object) -> None:
    checker = pattern.TailedChecker()
    async with served(source) as conn:
        await conn.send(b"seconds 0.5\n")
        began = trio.current_time()
        while trio.current_time() < began + 1 and (data := await conn.recv(65536)):
            await trio.sleep(0.01)
            checker.feed(data)
    assert checker.end()


@pytest.mark.parametrize("line", [b"bytes -1\n", b"hello\n", b"x" * 100, b"seconds 1e9\n", b"\n"])
async def test_source_answers_nothing_to_nonsense(line: bytes) -> None:
    assert parse_order(line) == ("", 0.0)
    async with served(source) as conn:
        await conn.send(line)
        conn.shutdown(socket.SHUT_WR)
        assert await read_all(conn) == b""


def test_orders() -> None:
    assert parse_order(b"bytes 12\n") == ("bytes", 12)
    assert parse_order(b"seconds 1.5\n") == ("seconds", 1.5)
    assert parse_order(b"seconds 99999999\n") == ("seconds", 3600.0)
    assert set(bulk_services()) == {"sink", "source"}
