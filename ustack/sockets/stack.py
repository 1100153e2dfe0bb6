"""A stack as a trio program holds it: sockets, streams, names, and what is going on inside.

`NetworkStack` joins the core (`ustack.stack.Stack`, sans-IO) to its driver. It is made by
`open_tun` and `open_memory_pair` (sockets.open), which also start the driver and, at the
end, close what is still open.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from ustack.io.driver import Driver
from ustack.io.ops import drive
from ustack.observe import ss
from ustack.sock.errors import error
from ustack.sock.sock import Sock
from ustack.sock.wait import Op
from ustack.sockets import streams
from ustack.sockets.base import BaseSocket
from ustack.sockets.resolver import Resolver
from ustack.sockets.socket import SocketType
from ustack.tcp.state import CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, LAST_ACK

if TYPE_CHECKING:
    from ustack.sockets.httpcore import NetworkBackend
    from ustack.stack import Stack

FIRST_FILENO = 1 << 30
_CLOSE_POLL = 0.01  # s between looks at the connections that are still closing
_CLOSING = frozenset((ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, CLOSING, LAST_ACK))
CHECKPOINT_EVERY = 32


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """What has gone through one device; packets and bytes of IP."""

    name: str
    mtu: int
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of a stack.

    `mib`: the SNMP counters that have moved, by nstat's names. `drops`: refused packets
    by the kernel's drop reason. `sockets`: how many the program has open. `turns`: how
    often the driver has run.
    """

    mib: dict[str, int]
    drops: dict[str, int]
    devices: tuple[DeviceStatistics, ...]
    sockets: int
    turns: int


class NetworkStack:
    """One host of its own inside this process.

    `sansio` is the core, `driver` what drives it, `resolver` whom its sockets ask for
    names. `checkpoint_every`: a call that need not wait lets other tasks run once in so
    many calls; 1 is trio's own rule, at some 4 us a call.
    """

    def __init__(
        self, sansio: Stack, driver: Driver, nursery: trio.Nursery, resolver: Resolver | None = None
    ) -> None:
        self.sansio = sansio
        self.driver = driver
        self.resolver = resolver or Resolver()
        self.checkpoint_every = CHECKPOINT_EVERY
        self._nursery = nursery
        self._sockets: dict[int, SocketType] = {}
        self._next_fileno = FIRST_FILENO
        self._lingering: dict[BaseSocket, Sock] = {}  # closed by a task that waits for the end
        self._closed = False

    def __getstate__(self) -> NoReturn:
        raise TypeError("cannot pickle 'NetworkStack' object")

    # -- sockets -------------------------------------------------------------------------

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> SocketType:
        """A new socket: AF_INET or AF_INET6, SOCK_STREAM or SOCK_DGRAM.

        SOCK_NONBLOCK may be added to `type`. OSError EAFNOSUPPORT, ESOCKTNOSUPPORT,
        EPROTONOSUPPORT, EINVAL, EMFILE as socket(2). ClosedResourceError once the stack's block
        has ended.
        """
        if self._closed:
            raise trio.ClosedResourceError("this stack has ended")
        if len(self._sockets) >= self.sansio.sysctl.max_sockets:
            raise error(errno.EMFILE)
        return self.adopt(self.sansio.socket(family, type, proto), proto)

    def adopt(self, sk: Sock, proto: int = 0) -> SocketType:
        """The program's handle for a core socket that has none yet."""
        fileno = self._next_fileno
        self._next_fileno += 1
        made = self._sockets[fileno] = SocketType(self, sk, proto, fileno)
        return made

    def forget(self, fileno: int) -> None:
        """The socket with that number is being closed."""
        self._sockets.pop(fileno, None)

    def socket_factory(self) -> trio.abc.SocketFactory:
        """For `trio.socket.set_custom_socket_factory`: trio's sockets become this stack's."""
        return SocketFactory(self)

    def hostname_resolver(self) -> trio.abc.HostnameResolver:
        """For `trio.socket.set_custom_hostname_resolver`."""
        return self.resolver

    def httpcore_backend(self) -> NetworkBackend:
        """For httpcore's connection pools; needs the extra `ustack[httpcore]`."""
        from ustack.sockets.httpcore import NetworkBackend

        return NetworkBackend(self)

    # -- streams -------------------------------------------------------------------------

    async def open_tcp_stream(
        self,
        host: str | bytes,
        port: int,
        *,
        happy_eyeballs_delay: float | None = streams.HAPPY_EYEBALLS_DELAY,
        local_address: str | None = None,
    ) -> trio.SocketStream:
        """As `trio.open_tcp_stream`, on this stack. OSError if no address answers."""
        return await streams.open_tcp_stream(
            self, host, port, delay=happy_eyeballs_delay, local_address=local_address
        )

    async def open_tcp_listeners(
        self, port: int, *, host: str | bytes | None = None, backlog: int | None = None
    ) -> list[trio.SocketListener]:
        """As `trio.open_tcp_listeners`: one for each address of `host`, all if None."""
        return await streams.open_tcp_listeners(self, port, host, backlog)

    async def serve_tcp(
        self,
        handler: Callable[[trio.SocketStream], Awaitable[object]],
        port: int,
        *,
        host: str | bytes | None = None,
        backlog: int | None = None,
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """As `trio.serve_tcp`: runs `handler(stream)` for each connection, for ever."""
        listeners = await self.open_tcp_listeners(port, host=host, backlog=backlog)
        await trio.serve_listeners(
            handler, listeners, handler_nursery=handler_nursery, task_status=task_status
        )

    # -- what is going on ----------------------------------------------------------------

    def ss(self) -> ss.SsTable:
        """All sockets, those that the program has closed included, as ss(8) shows them, and
        ping sockets."""
        core = self.sansio
        socks = [*core.tcp.sockets(), *core.udp.sockets(), *core.ping_host.sockets()]
        return ss.table(socks, self.driver.now(), core.tcp.timewaits())

    def statistics(self) -> Statistics:
        mib = self.sansio.mib
        return Statistics(
            mib.nonzero(),
            dict(mib.drops),
            tuple(
                DeviceStatistics(
                    dev.name,
                    dev.mtu,
                    dev.rx_packets,
                    dev.rx_bytes,
                    dev.tx_packets,
                    dev.tx_bytes,
                    dev.tx_dropped,
                )
                for dev in self.sansio.routes.devices
            ),
            len(self._sockets),
            self.driver.turns,
        )

    # -- for the sockets -----------------------------------------------------------------

    async def give_way(self) -> None:
        """After a call that did not wait: let other tasks run, once in a while."""
        driver = self.driver
        driver.calls += 1
        if driver.calls % self.checkpoint_every == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def drive_in_background(self, op: Op[Any]) -> None:
        """Finish a lingering close that nobody waits for."""
        self._nursery.start_soon(drive, self.driver, op)

    def lingering(self, sock: BaseSocket, sk: Sock | None) -> None:
        """A task waits for the close of `sock` to end; None: no more."""
        if sk is not None:
            self._lingering[sock] = sk
        else:
            self._lingering.pop(sock, None)

    def close_sockets(self) -> None:
        """Close all sockets, as their programs would: streams still deliver what they hold.
        There will be no new ones."""
        self._closed = True
        for sock in list(self._sockets.values()):
            sock.close()

    def abandon(self) -> None:
        """There is no driver any more: wake everybody who would wait for it, as `close` does.
        The core is not asked; if there are sockets left, its state is not known."""
        self._closed = True
        for sock in list(self._sockets.values()):
            sock.abandon()
        for closing, sk in list(self._lingering.items()):
            closing.end_blocked(sk)

    async def wait_closed(self) -> None:
        """Wait until the peers of all closed connections have what was sent, and the FIN."""
        while any(sk.state in _CLOSING for sk in self.sansio.tcp.sockets()):
            await trio.sleep(_CLOSE_POLL)


class SocketFactory(trio.abc.SocketFactory):
    """Makes trio's sockets on one stack."""

    def __init__(self, stack: NetworkStack) -> None:
        self.stack = stack

    def socket(self, family: int, type: int, proto: int) -> SocketType:  # type: ignore[override]
        return self.stack.socket(family, type, proto)
