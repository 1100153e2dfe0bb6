"""httpcore, and so httpx, on a stack: a network backend that needs no socket factory.

    pool = httpcore.AsyncConnectionPool(network_backend=NetworkBackend(stack))
    transport = httpx.AsyncHTTPTransport()
    transport._pool = pool

httpcore (the extra `ustack[httpcore]`) is imported by this module only. With
`trio.socket.set_custom_socket_factory(stack.socket_factory())`, httpx on trio needs none
of this.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpcore
import trio

from ustack.sock.errors import error

if TYPE_CHECKING:
    import ssl

    from ustack.sockets.stack import NetworkStack

    SocketOption = (
        tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
    )


@contextmanager
def _within(
    timeout: float | None, late: type[Exception], failed: type[Exception]
) -> Iterator[None]:
    """A time limit, and httpcore's exceptions for ours."""
    try:
        with trio.fail_after(math.inf if timeout is None else timeout):
            yield
    except trio.TooSlowError as why:
        raise late(str(why)) from why
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as why:
        raise failed(str(why)) from why


class NetworkStream(httpcore.AsyncNetworkStream):
    """A TCP connection, or TLS over one, as httpcore wants it."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[Any]) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _within(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            return bytes(await self._stream.receive_some(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        with _within(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> NetworkStream:
        stream = trio.SSLStream(
            self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        try:
            with _within(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(self._stream)
            raise
        return NetworkStream(stream)

    def get_extra_info(self, info: str) -> Any:
        stream = self._stream
        if info == "ssl_object":
            return stream._ssl_object if isinstance(stream, trio.SSLStream) else None
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        sock = stream.socket
        ask = {
            "socket": lambda: sock,
            "client_addr": sock.getsockname,
            "server_addr": sock.getpeername,
            "is_readable": sock.is_readable,
        }
        return ask[info]() if info in ask else None


class NetworkBackend(httpcore.AsyncNetworkBackend):
    """Opens httpcore's connections on one stack."""

    def __init__(self, stack: NetworkStack) -> None:
        self._stack = stack

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> NetworkStream:
        with _within(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            stream = await self._stack.open_tcp_stream(host, port, local_address=local_address)
            try:
                for option in socket_options or ():
                    stream.socket.setsockopt(*option)
            except BaseException:
                stream.socket.close()
                raise
        return NetworkStream(stream)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> NetworkStream:
        """ConnectError: a stack has no such sockets."""
        with _within(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            raise error(errno.EAFNOSUPPORT)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
