"""trio streams and listeners over the sockets of a stack.

trio's own `open_tcp_stream` and `open_tcp_listeners` make their sockets through one
factory for the whole run; these make them on the stack that was asked.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from ustack.sockets.socket import SocketType
    from ustack.sockets.stack import NetworkStack

HAPPY_EYEBALLS_DELAY = 0.25  # s, RFC 8305 section 5
_MAX_BACKLOG = 0xFFFF


async def open_tcp_stream(
    stack: NetworkStack,
    host: str | bytes,
    port: int,
    *,
    delay: float | None = HAPPY_EYEBALLS_DELAY,
    local_address: str | None = None,
) -> trio.SocketStream:
    """Connect to the first address of `host` that answers (RFC 8305).

    The next attempt starts when one has failed, or after `delay` seconds. OSError, with
    the failures as its cause, if none succeeds; `socket.gaierror` for an unknown name.
    ValueError for a host, TypeError for a port, that is none. ClosedResourceError if the
    stack ends.
    """
    targets = await _targets(stack, host, port)
    won: list[SocketType] = []
    failures: list[OSError] = []
    closed: list[trio.ClosedResourceError] = []  # the stack has ended

    async def attempt(target: Any, failed: trio.Event, race: trio.Nursery) -> None:
        try:
            won.append(await _connect(stack, target, local_address))
        except OSError as exc:
            failures.append(exc)
            failed.set()
        except trio.ClosedResourceError as exc:
            closed.append(exc)
            race.cancel_scope.cancel()
        else:
            race.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as race:
            for target in targets:
                failed = trio.Event()
                race.start_soon(attempt, target, failed, race)
                with trio.move_on_after(HAPPY_EYEBALLS_DELAY if delay is None else delay):
                    await failed.wait()
        if closed:
            raise closed[0]
        if not won:
            text = f"all attempts to connect to {host!r} port {port} failed"
            cause = failures[0] if len(failures) == 1 else ExceptionGroup(text, failures)
            raise OSError(failures[-1].errno, text) from cause
        return trio.SocketStream(won.pop(0))
    finally:
        for loser in won:
            loser.close()


async def _targets(stack: NetworkStack, host: str | bytes, port: int) -> list[Any]:
    """What to try, in order."""
    if not isinstance(host, (str, bytes)):
        raise ValueError(f"host must be str or bytes, not {host!r}")
    if not isinstance(port, int):
        raise TypeError(f"port must be int, not {port!r}")
    found = await stack.resolver.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError(f"no address found for {host!r} port {port}")
    return _alternate(found)


async def _connect(stack: NetworkStack, target: Any, local_address: str | None) -> SocketType:
    family, type_, proto, _, address = target
    sock = stack.socket(family, type_, proto)
    try:
        if local_address is not None:
            await sock.bind((local_address, 0))
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _alternate(targets: Iterable[Any]) -> list[Any]:
    """The families in turn, beginning with the preferred one (RFC 8305 section 4)."""
    families: dict[int, list[Any]] = {}
    for target in targets:
        families.setdefault(target[0], []).append(target)
    ranked = [
        (rank, which, target)
        for which, same in enumerate(families.values())
        for rank, target in enumerate(same)
    ]
    return [target for _, _, target in sorted(ranked, key=lambda entry: entry[:2])]


async def open_tcp_listeners(
    stack: NetworkStack, port: int, host: str | bytes | None, backlog: int | None
) -> list[trio.SocketListener]:
    """Listen on `port` of each address of `host`, on all addresses if it is None.

    TypeError for a port or backlog that is no int, OSError as from bind and listen.
    """
    if not isinstance(port, int):
        raise TypeError(f"port must be an int not {port!r}")
    if backlog is not None and not isinstance(backlog, int):
        raise TypeError(f"backlog must be an int or None, not {backlog!r}")
    found = await stack.resolver.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[trio.SocketListener] = []
    try:
        for target in found:
            listeners.append(await _listen(stack, target, backlog))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _listen(stack: NetworkStack, target: Any, backlog: int | None) -> trio.SocketListener:
    family, type_, proto, _, address = target
    sock = stack.socket(family, type_, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind(address)
        sock.listen(_MAX_BACKLOG if backlog is None else min(backlog, _MAX_BACKLOG))
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)
