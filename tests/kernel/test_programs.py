"""Programs and libraries that know nothing of ustack, unchanged, against a kernel's ends.

The stack is put beneath them by `socket_factory` and `hostname_resolver` alone.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest
import trio
import trio_websocket
import trustme
from anyio.abc import SocketAttribute

import ustack
from tests.kernel.ends import UDP, Ends, Near, echo, payload, serve, until
from tools.testbed import Bed

pytestmark = pytest.mark.kernel
NAME = "peer.example"
MEGABYTE = 1 << 20


@pytest.fixture
def near() -> Near:
    return Near("ustack")


@pytest.fixture
async def unchanged(ends: Ends) -> AsyncIterator[Ends]:
    """trio's sockets are the stack's; NAME is the kernel's end."""
    ends.stack.resolver = ustack.Resolver({NAME: ends.peer_host})
    before = (
        trio.socket.set_custom_socket_factory(ends.stack.socket_factory()),
        trio.socket.set_custom_hostname_resolver(ends.stack.hostname_resolver()),
    )
    yield ends
    trio.socket.set_custom_socket_factory(before[0])
    trio.socket.set_custom_hostname_resolver(before[1])


@dataclass
class Tls:
    """Both ends' contexts, from a test CA."""

    client: ssl.SSLContext
    server: ssl.SSLContext
    cert: trustme.LeafCert


@pytest.fixture(scope="module")
def tls() -> Tls:
    ca = trustme.CA()
    cert = ca.issue_cert(NAME, "10.9.0.1", "fd00:9::1", "10.9.0.2", "fd00:9::2")
    client = ssl.create_default_context()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.configure_trust(client)
    cert.configure_cert(server)
    return Tls(client, server, cert)


def at_home(sock: Any) -> bool:
    """Is this one of ours?"""
    return isinstance(sock, ustack.SocketType)


async def kernel_listener(ends: Ends) -> tuple[trio.SocketListener, int]:
    sock = await ends.listen("peer")
    return trio.SocketListener(sock), sock.getsockname()[1]


@asynccontextmanager
async def kernel_serves(
    ends: Ends, handler: Callable[[trio.SocketStream], Awaitable[object]]
) -> AsyncIterator[int]:
    """A kernel-side server; its port."""
    listener, port = await kernel_listener(ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield port
        nursery.cancel_scope.cancel()


async def kernel_connects(ends: Ends, port: int) -> trio.SocketStream:
    sock = ends.peer_socket()
    await sock.connect((ends.stack_host, port))
    return trio.SocketStream(sock)


async def echo_stream(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    else:
        await stream.aclose()


async def there_and_back(stream: trio.abc.Stream, nbytes: int) -> None:
    """Send `nbytes` and see them come back, both at once."""
    data = payload(nbytes)
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        while len(got) < nbytes:
            part = await stream.receive_some()
            assert part, f"the stream ended after {len(got)} of {nbytes} bytes"
            got += part
    assert bytes(got) == data


# -- trio --------------------------------------------------------------------------------------


async def test_open_tcp_stream(unchanged: Ends) -> None:
    async with kernel_serves(unchanged, echo_stream) as port:
        for host in (NAME, unchanged.peer_host):
            stream = await trio.open_tcp_stream(host, port)
            assert at_home(stream.socket)
            await there_and_back(stream, 3 * MEGABYTE)
            await stream.send_eof()
            assert await stream.receive_some() == b""
            await stream.aclose()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(unchanged.peer_host, 1)
        with pytest.raises(socket.gaierror):
            await trio.open_tcp_stream("nobody.example", port)


async def test_open_tcp_stream_from_an_address_of_ours(unchanged: Ends) -> None:
    async with kernel_serves(unchanged, echo_stream) as port:
        ours = unchanged.stack_host
        async with await trio.open_tcp_stream(NAME, port, local_address=ours) as stream:
            assert stream.socket.getsockname()[0] == ours


async def test_serve_tcp(unchanged: Ends) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo_stream, 0)
        assert all(at_home(listener.socket) for listener in listeners)
        ports = {lis.socket.family: lis.socket.getsockname()[1] for lis in listeners}
        for _ in range(3):
            async with await kernel_connects(unchanged, ports[unchanged.family]) as stream:
                await there_and_back(stream, MEGABYTE)
        nursery.cancel_scope.cancel()


async def test_tls_client(unchanged: Ends, tls: Tls) -> None:
    async def serve_tls(stream: trio.SocketStream) -> None:
        await echo_stream(trio.SSLStream(stream, tls.server, server_side=True))

    async with kernel_serves(unchanged, serve_tls) as port:
        stream = await trio.open_ssl_over_tcp_stream(NAME, port, ssl_context=tls.client)
        assert at_home(stream.transport_stream.socket)
        await there_and_back(stream, MEGABYTE)
        assert stream.getpeercert()["subjectAltName"][0] == ("DNS", NAME)
        await stream.aclose()
        bare = await trio.open_ssl_over_tcp_stream(NAME, port)  # a CA that nobody knows
        with pytest.raises(trio.BrokenResourceError) as caught:
            await bare.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_tls_server(unchanged: Ends, tls: Tls) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, echo_stream, 0, tls.server, host=unchanged.stack_host)
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
        raw = await kernel_connects(unchanged, port)
        async with trio.SSLStream(raw, tls.client, server_hostname=unchanged.stack_host) as stream:
            await there_and_back(stream, MEGABYTE)
        nursery.cancel_scope.cancel()


# -- httpx -------------------------------------------------------------------------------------

CONFIG = """
daemon off; master_process off; user root;
pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log {dir}/access.log; root {dir}/files; sendfile on; keepalive_requests 1000;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{
    listen 80 default_server; listen [::]:80 default_server;
    listen 443 ssl; listen [::]:443 ssl;
    ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/cert.pem;
    location /moved {{ return 302 /big; }}
  }}
}}
"""


@dataclass
class Nginx:
    log: Path
    size: int
    sha256: str


@pytest.fixture
def nginx(bed: Bed, tmp_path: Path, tls: Tls) -> Iterator[Nginx]:
    """Debian's nginx in the kernel's namespace, over HTTP and HTTPS."""
    files = tmp_path / "files"
    files.mkdir()
    data = payload(5 * MEGABYTE)
    (files / "big").write_bytes(data)
    for i in range(20):
        (files / f"small{i}").write_text(f"file {i}\n")
    tls.cert.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    (tmp_path / "nginx.conf").write_text(CONFIG.format(dir=tmp_path))
    program = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    child = bed.far.start([*program, "-e", str(tmp_path / "error.log")])
    yield Nginx(tmp_path / "access.log", len(data), hashlib.sha256(data).hexdigest())
    child.terminate()


async def until_served(ends: Ends) -> None:
    """nginx says nothing when it is ready."""

    def listens() -> bool:
        with ends.bed.far.entered(), socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", 443)) == 0

    await until(listens, "nginx listens")


async def browse(client: httpx.AsyncClient, base: str, nginx: Nginx) -> None:
    """What a program does with a web server."""
    answer = await client.get(f"{base}/big")
    assert (answer.status_code, len(answer.content)) == (200, nginx.size)
    assert hashlib.sha256(answer.content).hexdigest() == nginx.sha256
    assert answer.headers["server"].startswith("nginx")
    assert (await client.get(f"{base}/nothing")).status_code == 404
    assert (await client.head(f"{base}/big")).headers["content-length"] == str(nginx.size)
    part = await client.get(f"{base}/big", headers={"range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, answer.content[1000:2000])
    moved = await client.get(f"{base}/moved", follow_redirects=True)
    assert moved.content == answer.content
    sha = hashlib.sha256()
    async with client.stream("GET", f"{base}/big") as stream:
        assert stream.extensions["network_stream"].get_extra_info("server_addr")[1] in (80, 443)
        async for chunk in stream.aiter_raw():
            sha.update(chunk)
    assert sha.hexdigest() == nginx.sha256
    answers: dict[int, str] = {}

    async def fetch(i: int) -> None:
        answers[i] = (await client.get(f"{base}/small{i}")).text

    async with trio.open_nursery() as nursery:
        for i in range(20):
            nursery.start_soon(fetch, i)
    assert answers == {i: f"file {i}\n" for i in range(20)}


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_httpx(unchanged: Ends, nginx: Nginx, tls: Tls, scheme: str) -> None:
    await until_served(unchanged)
    before = unchanged.stack_counters().get("TcpActiveOpens", 0)
    async with httpx.AsyncClient(verify=tls.client, trust_env=False) as client:
        await browse(client, f"{scheme}://{NAME}", nginx)
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{scheme}://{NAME}:1/")
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{scheme}://nobody.example/")
    assert unchanged.stack_counters()["TcpActiveOpens"] > before
    assert f"{unchanged.stack_host} - - " in nginx.log.read_text()


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_backend_for_httpcore(ends: Ends, nginx: Nginx, tls: Tls, scheme: str) -> None:
    """httpx without the factory: trio's own sockets stay the kernel's."""
    ends.stack.resolver = ustack.Resolver({NAME: ends.peer_host})
    await until_served(ends)
    transport = httpx.AsyncHTTPTransport()
    backend = ends.stack.httpcore_backend()
    transport._pool = httpcore.AsyncConnectionPool(
        tls.client,
        network_backend=backend,
        socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
        retries=1,
    )
    async with httpx.AsyncClient(transport=transport) as client:
        await browse(client, f"{scheme}://{NAME}", nginx)
        async with client.stream("GET", f"{scheme}://{NAME}/big") as stream:
            network = stream.extensions["network_stream"]
            assert at_home(network.get_extra_info("socket"))
            assert network.get_extra_info("client_addr")[0] == ends.stack_host
            assert network.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_KEEPALIVE
            )
            assert (network.get_extra_info("ssl_object") is not None) == (scheme == "https")
            assert network.get_extra_info("nonsense") is None
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{scheme}://{NAME}:1/")
    with pytest.raises(httpcore.ConnectError):
        await backend.connect_unix_socket("/nowhere")


async def test_the_backends_errors(ends: Ends, tls: Tls) -> None:
    backend = ends.stack.httpcore_backend()

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def ends_at_once(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.aclose()

    async with kernel_serves(ends, silent) as port:
        stream = await backend.connect_tcp(ends.peer_host, port, timeout=10)
        assert not stream.get_extra_info("is_readable")
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(10, timeout=0.01)
        with pytest.raises(httpcore.WriteTimeout):
            await stream.write(bytes(100 * MEGABYTE), timeout=0.1)
        await stream.aclose()
        with pytest.raises(httpcore.ReadError):
            await stream.read(10)
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"x")
        stream = await backend.connect_tcp(ends.peer_host, port)
        with pytest.raises(httpcore.ConnectTimeout):
            await stream.start_tls(tls.client, NAME, timeout=0.01)
        assert stream.get_extra_info("socket").fileno() == -1
    async with kernel_serves(ends, ends_at_once) as port:
        stream = await backend.connect_tcp(ends.peer_host, port)
        with pytest.raises(httpcore.ConnectError):
            await stream.start_tls(tls.client, NAME)
    unreachable = "192.0.2.1" if ends.family == socket.AF_INET else "2001:db8::1"
    with pytest.raises((httpcore.ConnectTimeout, httpcore.ConnectError)):
        await backend.connect_tcp(unreachable, 80, timeout=0.05)


# -- anyio -------------------------------------------------------------------------------------


async def test_anyio_tcp(unchanged: Ends, tls: Tls) -> None:
    async with kernel_serves(unchanged, echo_stream) as port:
        async with await anyio.connect_tcp(NAME, port) as stream:
            sock = stream.extra(SocketAttribute.raw_socket)
            assert at_home(sock)
            assert stream.extra(SocketAttribute.family) == unchanged.family
            assert stream.extra(SocketAttribute.local_address)[0] == unchanged.stack_host
            assert stream.extra(SocketAttribute.remote_address) == (unchanged.peer_host, port)
            assert stream.extra(SocketAttribute.local_port) == sock.getsockname()[1]
            assert stream.extra(SocketAttribute.remote_port) == port
            await stream.send(b"hello")
            assert await stream.receive(3) == b"hel"
            assert await stream.receive() == b"lo"
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        with pytest.raises(OSError):
            await anyio.connect_tcp(unchanged.peer_host, 1)

    async def serve_tls(stream: trio.SocketStream) -> None:
        await echo_stream(trio.SSLStream(stream, tls.server, server_side=True))

    async with (
        kernel_serves(unchanged, serve_tls) as port,
        await anyio.connect_tcp(NAME, port, ssl_context=tls.client) as stream,
    ):
        await stream.send(b"secret")
        assert await stream.receive() == b"secret"
        assert at_home(stream.extra(SocketAttribute.raw_socket))


async def test_anyio_udp(unchanged: Ends) -> None:
    peer = unchanged.peer_socket(UDP)
    await peer.bind((unchanged.peer_host, 0))
    port = peer.getsockname()[1]
    async with await anyio.create_udp_socket(
        family=unchanged.family, local_host=unchanged.stack_host
    ) as udp:
        assert at_home(udp.extra(SocketAttribute.raw_socket))
        ours = udp.extra(SocketAttribute.local_address)
        assert ours[0] == unchanged.stack_host
        await udp.sendto(b"ping", unchanged.peer_host, port)
        data, source = await peer.recvfrom(100)
        assert (data, source[:2]) == (b"ping", ours)
        await peer.sendto(b"pong", source)
        assert await udp.receive() == (b"pong", (unchanged.peer_host, port))
    async with await anyio.create_connected_udp_socket(
        unchanged.peer_host, port, family=unchanged.family
    ) as connected:
        assert connected.extra(SocketAttribute.remote_address) == (unchanged.peer_host, port)
        await connected.send(b"ping")
        data, source = await peer.recvfrom(100)
        await peer.sendto(data + b"!", source)
        assert await connected.receive() == b"ping!"
        with anyio.move_on_after(0.01) as scope:
            await connected.receive()
        assert scope.cancelled_caught


# -- trio-websocket ----------------------------------------------------------------------------


async def echo_messages(request: Any) -> None:
    connection = await request.accept()
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except trio_websocket.ConnectionClosed:
        pass


async def chat(connection: trio_websocket.WebSocketConnection) -> None:
    for message in ("hello", b"\x00\xff", "x" * 200_000, payload(300_000)):
        await connection.send_message(message)
        assert await connection.get_message() == message
    await connection.ping(b"still there?")
    await connection.aclose()
    with pytest.raises(trio_websocket.ConnectionClosed):
        await connection.send_message("too late")


async def test_websocket_client(unchanged: Ends) -> None:
    async def serve_one(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            await echo_messages(request)

    async with (
        kernel_serves(unchanged, serve_one) as port,
        trio_websocket.open_websocket_url(f"ws://{NAME}:{port}/chat") as connection,
    ):
        await chat(connection)


async def test_websocket_server(unchanged: Ends) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            trio_websocket.serve_websocket, echo_messages, unchanged.stack_host, 0, None
        )
        stream = await kernel_connects(unchanged, server.port)
        connection = await trio_websocket.wrap_client_stream(nursery, stream, "stack", "/chat")
        await chat(connection)
        nursery.cancel_scope.cancel()


# -- a program that spins ------------------------------------------------------------------------


async def test_a_spinning_program_on_a_tun(ends: Ends) -> None:
    """Non-blocking calls and polls that never wait, an echo of a megabyte all the same."""
    async with trio.open_nursery() as nursery:
        listener = await ends.listen("peer")
        nursery.start_soon(serve, listener, echo)
        sock = ends.stack_socket()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            await sock.connect(listener.getsockname()[:2])
        data, sent, got, events = payload(MEGABYTE), 0, bytearray(), 0
        while len(got) < len(data):
            want = ustack.socket.POLLIN | (ustack.socket.POLLOUT if sent < len(data) else 0)
            for _, events in await ustack.poll([(sock, want)], 0):
                if events & ustack.socket.POLLOUT:
                    sent += await sock.send(data[sent : sent + 50_000])
            try:
                got += await sock.recv(50_000)
            except BlockingIOError:
                pass
        assert bytes(got) == data
        nursery.cancel_scope.cancel()
