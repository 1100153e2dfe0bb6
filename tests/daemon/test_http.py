from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from trio.socket import SocketType

from tests.daemon.ends import read_all, served
from ustack.daemon import pattern
from ustack.daemon.http import IDLE, MAX_BYTES, MAX_HEAD, STALL, HttpConnection, http_service


class Client:
    """An HTTP/1.1 client by h11 on one connection."""

    def __init__(self, sock: SocketType) -> None:
        self.sock = sock
        self.h11 = h11.Connection(h11.CLIENT)

    async def event(self) -> object:
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(await self.sock.recv(65536))
        return event

    async def ask(
        self, target: str, method: str = "GET", body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body)."""
        headers = [("Host", "stack")]
        if body:
            headers.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=headers)
        await self.sock.send(self.h11.send(request) or b"")
        if body:
            await self.sock.send(self.h11.send(h11.Data(data=body)) or b"")
        self.h11.send(h11.EndOfMessage())
        response = await self.event()
        assert isinstance(response, h11.Response)
        parts = []
        while isinstance(event := await self.event(), h11.Data):
            parts.append(bytes(event.data))
        assert isinstance(event, h11.EndOfMessage)
        found = {name.decode(): value.decode() for name, value in response.headers}
        return response.status_code, found, b"".join(parts)

    async def next(self) -> None:
        self.h11.start_next_cycle()


@asynccontextmanager
async def client() -> AsyncIterator[Client]:
    service = http_service(lambda: "the page\n", "1.2")
    async with served(service.tcp) as sock:
        yield Client(sock)


async def test_the_page() -> None:
    async with client() as one:
        status, headers, body = await one.ask("/?whatever")
    assert (status, body) == (200, b"the page\n")
    assert headers["server"] == "ustack/1.2"
    assert headers["content-type"].startswith("text/plain")
    assert "connection" not in headers


@pytest.mark.parametrize("total", [0, 1, pattern.CHUNK, 1_000_000])
async def test_generated_bytes_come_with_their_digest(total: int) -> None:
    async with client() as one:
        status, headers, body = await one.ask(f"/bytes/{total}")
        await one.next()
        _, _, text = await one.ask(f"/bytes/{total}/sha256")
    digest = hashlib.sha256(body)
    assert (status, len(body)) == (200, total)
    assert headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert text.decode() == f"{digest.hexdigest()}  -\n"


async def test_head_has_headers_only() -> None:
    async with client() as one:
        status, headers, body = await one.ask("/bytes/1000", "HEAD")
        assert (status, headers["content-length"], body) == (200, "1000", b"")
        await one.next()
        assert (await one.ask("/nothing", "HEAD"))[0::2] == (404, b"")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/bytes", 404),
        ("GET", "/bytes/1/md5", 404),
        ("GET", "/bytes/1/sha256/x", 404),
        ("POST", "/", 405),
        ("DELETE", "/bytes/10", 405),
        ("GET", "/bytes/", 404),
        ("GET", "/bytes/ten", 400),
        ("GET", "/bytes/-1", 400),
        ("GET", f"/bytes/{MAX_BYTES + 1}", 400),
        ("GET", "/bytes/" + "9" * 5000, 400),
    ],
)
async def test_refusals_keep_the_connection(method: str, target: str, status: int) -> None:
    async with client() as one:
        found, headers, body = await one.ask(target, method)
        assert found == status
        assert body.startswith(str(status).encode())
        assert (headers.get("allow") == "GET, HEAD") == (status == 405)
        await one.next()
        assert (await one.ask("/"))[0] == 200


async def test_requests_in_a_pipeline() -> None:
    async with client() as one:
        await one.sock.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        one.sock.shutdown(socket.SHUT_WR)
        text = await read_all(one.sock)
    assert text.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert text.count(b"the page\n") == 3


async def test_a_request_with_a_body_is_answered_and_is_the_last() -> None:
    async with client() as one:
        status, headers, _ = await one.ask("/", "POST", b"data")
        assert (status, headers["connection"]) == (405, "close")
        one.sock.shutdown(socket.SHUT_WR)
        assert await read_all(one.sock) == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"\x16\x03\x01\x02\x00" * 10 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"x" * (MAX_HEAD + 1), b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_http_ends_the_connection(request_: bytes, status: bytes) -> None:
    async with client() as one:
        await one.sock.send(request_)
        one.sock.shutdown(socket.SHUT_WR)
        text = await read_all(one.sock)
    assert text.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in text


async def test_an_http_1_0_client_is_answered_once() -> None:
    async with client() as one:
        await one.sock.send(b"GET / HTTP/1.0\r\n\r\n")
        text = await read_all(one.sock)
    assert text.endswith(b"the page\n")


async def test_an_idle_connection_is_closed(autojump_clock: object) -> None:
    async with client() as one:
        began = trio.current_time()
        await one.sock.send(b"GET / HTTP/1.1\r\nHost:")  # and never more
        assert await one.sock.recv(100) == b""
        assert IDLE <= trio.current_time() - began < IDLE + 1


async def test_a_client_that_takes_nothing_is_given_up(autojump_clock: object) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        await ours.send(b"GET /bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        began = trio.current_time()
        with pytest.raises(TimeoutError):
            await HttpConnection(theirs, str, "x").run()
        assert trio.current_time() - began >= STALL
