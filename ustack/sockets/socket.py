"""A socket of a stack, as programs see it: `trio.socket.SocketType`, name by name.

Problem: present the core's system calls (`sk.prot`, sock.proto) as trio's, and add as
little as can be to what they cost: a `recv` or `send` that need not wait is one call
into the core, one copy of the received bytes, and a light checkpoint.

Every call has the same shape. Arguments are checked first. Then comes a cancellation
point, then the call into the core with the time, then the driver's `after_call`
(packets that the call has queued for this process are delivered there, and the timer is
set). A result is returned; an operation in progress (`sock.wait.Op`) is driven by the
adapter in `io.ops`. A call that did not wait gives way to other tasks only every
`checkpoint_every` calls of the stack (`NetworkStack`): a full checkpoint costs as much
as the call itself.

Rules, as trio's where trio has one:
* cancelling loses nothing. A call that has transferred n > 0 bytes returns n; one that
  has transferred none raises Cancelled and has done nothing. A cancelled `connect`
  closes the socket.
* `close` wakes the tasks that are blocked in calls on the socket with
  ClosedResourceError. Later calls raise OSError EBADF.
* two tasks that receive from one stream socket at a time, or send to one, would tear
  the stream apart: the second gets BusyResourceError. Datagram receivers, and tasks in
  `accept`, share: each wakes one.
* one deliberate difference: a call with MSG_DONTWAIT, or on a socket made with
  SOCK_NONBLOCK or `setblocking(False)`, raises BlockingIOError at once, as the kernel
  does. trio's own sockets wait there.
* Control-C never stops the core half-way: what calls it is protected from KeyboardInterrupt,
  which trio then raises at a checkpoint of the main task.
* `fileno` is a number from 1 << 30 that no other socket of the stack has had: handed to
  a real system call by mistake, it is EBADF there.

There is no `__del__`: a socket lives until it is closed, or its stack is.
"""

from __future__ import annotations

import errno
import math
import operator
import socket
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from ustack.sock import mmsg
from ustack.sock.errors import error
from ustack.sock.sock import MSG_ERRQUEUE, RecvMsg, Sock
from ustack.sock.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, Op, Wait
from ustack.sockets import address as addresses
from ustack.sockets import buffers
from ustack.sockets.address import Native, RetAddress
from ustack.sockets.base import BaseSocket

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

AncData = list[tuple[int, int, bytes]]

_READABLE = POLLIN | POLLERR | POLLHUP
_WRITABLE = POLLOUT | POLLERR | POLLHUP
_ACCEPT_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_DEFAULT_BACKLOG = min(socket.SOMAXCONN, 128)
_SSIZE_MAX = sys.maxsize


def _until_ready(sk: Sock, mask: int, now: int) -> Op[None]:
    """Wait for a poll bit of `mask`: level-triggered, as poll(2)."""
    while not sk.prot.poll(sk, now) & mask:
        now = yield Wait(sk.wait_queue, None)


class SocketType(BaseSocket):
    """A TCP or UDP socket of a `NetworkStack`, made by `NetworkStack.socket`.

    The methods are those of `trio.socket.SocketType`; all raise OSError with the
    kernel's errno, TypeError and ValueError as `socket.socket` does.
    """

    __slots__ = ()

    # -- addresses and connections -----------------------------------------------------------

    async def bind(self, address: object) -> None:
        """Bind to `(host, port)` or `(host, port, flowinfo, scope_id)`; port 0 picks one."""
        native = await self._resolve(address, "bind", local=True)
        await trio.lowlevel.checkpoint()
        self._ask(self._prot.bind, native)

    def listen(self, backlog: int = _DEFAULT_BACKLOG) -> None:
        """Accept connections; at most `backlog` wait for `accept` (bounded by somaxconn)."""
        self._ask(self._prot.listen, max(buffers.c_int(backlog), 0))

    async def accept(self) -> tuple[SocketType, RetAddress]:
        """The next connection and its peer's address. Several tasks may wait at once."""
        return await self.accept4()

    async def accept4(self, flags: int = 0) -> tuple[SocketType, RetAddress]:
        """`accept`, with SOCK_NONBLOCK or SOCK_CLOEXEC for the new socket. EINVAL else."""
        if buffers.c_int(flags) & ~_ACCEPT_FLAGS:
            raise error(errno.EINVAL)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._sk is None:
            await self._closed()
        try:
            result = self._ask(self._prot.accept)
        except OSError:
            await self._refused()
            raise
        if not isinstance(result, Sock):
            result = await self._drive(result)
        else:
            await self._stack.give_way()
        result.nonblocking = bool(flags & socket.SOCK_NONBLOCK)
        peer = addresses.to_python(self._family, (result.daddr, result.dport))
        return self._stack.adopt(result, self._proto), peer

    async def connect(self, address: object) -> None:
        """Connect to `address`. If this is cancelled the socket is closed, as in trio."""
        try:
            native = await self._resolve(address, "connect", local=False)
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._sk is None:
                await self._closed()
            try:
                result = self._ask(self._prot.connect, native)
            except OSError:
                await self._refused()
                raise
            if result is not None:
                await self._drive(result)
            else:
                await self._stack.give_way()
        except trio.Cancelled:
            self.close()
            raise

    def disconnect(self) -> None:
        """Dissolve the association, as connect(2) to AF_UNSPEC."""
        self._ask(self._prot.connect, None)

    def shutdown(self, flag: int) -> None:
        """SHUT_RD, SHUT_WR or SHUT_RDWR. OSError ENOTCONN when not connected."""
        self._ask(self._prot.shutdown, buffers.c_int(flag))
        if flag in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._wr_shutdown = True

    async def _resolve(self, address: object, call: str, local: bool) -> Native:
        """`address` in the core's form. Names go to the stack's resolver (gaierror)."""
        native = addresses.parse_numeric(self._family, address, call)
        if native is None:
            host, port, *_ = addresses.check_form(self._family, address, call)
            native = await self._look_up(host, port, call, local)
        return native

    async def _look_up(self, host: object, port: object, call: str, local: bool) -> Native:
        flags = socket.AI_PASSIVE if local else 0
        if self._family == socket.AF_INET6 and not self._open().v6only:
            flags |= socket.AI_V4MAPPED
        found = await self._stack.resolver.getaddrinfo(
            (bytes(host) if isinstance(host, bytearray) else host) or None,  # type: ignore[arg-type]
            port,  # type: ignore[arg-type]
            self._family,
            self._type,
            self._proto,
            flags,
        )
        native = addresses.parse_numeric(self._family, found[0][-1], call)
        if native is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return native

    # -- readiness ---------------------------------------------------------------------------

    def is_readable(self) -> bool:
        """True if a receive or an accept would not wait (poll's IN, ERR or HUP)."""
        sk = self._open()
        return bool(self._prot.poll(sk, self._driver.now()) & _READABLE)

    async def wait_readable(self) -> None:
        """Wait until `is_readable`."""
        await self._wait_for(_READABLE)

    async def wait_writable(self) -> None:
        """Wait until a send would take something, by poll's rule for OUT."""
        await self._wait_for(_WRITABLE)

    @trio.lowlevel.enable_ki_protection
    async def _wait_for(self, mask: int) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        sk = self._sk or await self._closed()
        now = self._driver.now()
        if self._prot.poll(sk, now) & mask:
            await self._stack.give_way()
        else:
            await self._drive(_until_ready(sk, mask, now))

    # -- receiving -----------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _receive(self, length: int, flags: int) -> RecvMsg:
        if flags:
            flags = buffers.c_int(flags)
        await trio.lowlevel.checkpoint_if_cancelled()
        sk = self._sk
        if sk is None:
            await self._closed()
        if self._receiving and not flags & MSG_ERRQUEUE:
            await self._busy("receiving from")
        driver = self._driver
        now = driver.now()
        try:
            result = self._prot.recvmsg(sk, length, flags, now)
        except OSError:
            await self._refused()
            raise
        if isinstance(result, RecvMsg):
            driver.after_call(now)
            driver.calls += 1
            if driver.calls % self._stack.checkpoint_every == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return result
        if self._type != socket.SOCK_STREAM:
            return await self._drive(result)
        self._receiving = True
        try:
            return await self._drive(result)
        finally:
            self._receiving = False

    async def _nothing(self, empty: T) -> T:
        """`recv` and `recv_into` without room for a byte: as in `socket`, nobody is asked."""
        await trio.lowlevel.checkpoint()
        self._open()
        return empty

    def _peer(self, msg: RecvMsg) -> RetAddress:
        """Where `msg` came from; None on a stream."""
        native = msg.addr
        if native is None:
            return None
        known, last = self._last_peer
        if native != last or known is None:
            known = addresses.to_python(self._family, native)
            self._last_peer = (known, native)
        return known

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """At most `buflen` bytes; b"" at the end of the stream."""
        length = _length(buflen, "recv")
        if not length:
            return await self._nothing(b"")
        chunks = (await self._receive(length, flags)).chunks
        return bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)

    async def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into `buffer` (its first `nbytes`, all of it if 0); the number of bytes."""
        view = buffers.writable(buffer, operator.index(nbytes), "recv_into")
        if not view:
            return await self._nothing(0)
        msg = await self._receive(len(view), flags)
        buffers.scatter(msg.chunks, (view,))
        return msg.len

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, RetAddress]:
        """The bytes and the sender's address (None on a stream)."""
        msg = await self._receive(_length(bufsize, "recvfrom"), flags)
        return buffers.join(msg.chunks), self._peer(msg)

    async def recvfrom_into(
        self, buffer: Buffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, RetAddress]:
        """As `recv_into`, with the sender's address (None on a stream)."""
        view = buffers.writable(buffer, operator.index(nbytes), "recvfrom_into")
        msg = await self._receive(len(view), flags)
        buffers.scatter(msg.chunks, (view,))
        return msg.len, self._peer(msg)

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, AncData, int, RetAddress]:
        """(data, ancillary data, message flags, sender's address)."""
        room = buffers.room(ancbufsize)
        if flags != 0:
            flags = buffers.message_flags(flags)
        return self._message(await self._receive(_length(bufsize, "recvmsg"), flags), room)

    async def recvmsg_into(
        self, buffers_: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, AncData, int, RetAddress]:
        """As `recvmsg`, into the buffers, each filled before the next."""
        room = buffers.room(ancbufsize)
        if flags != 0:
            flags = buffers.message_flags(flags)
        views = [buffers.writable(buffer, 0, "recvmsg_into") for buffer in buffers_]
        if len(views) > buffers.IOV_MAX:
            raise error(errno.EMSGSIZE)
        msg = await self._receive(sum(map(len, views)), flags)
        buffers.scatter(msg.chunks, views)
        control, cut = buffers.fit_control(msg.control, room)
        return msg.len, control, msg.flags | cut, self._peer(msg)

    async def recvmmsg(
        self,
        vlen: int,
        bufsize: int,
        ancbufsize: int = 0,
        flags: int = 0,
        timeout: float | None = None,
        /,
    ) -> list[tuple[bytes, AncData, int, RetAddress]]:
        """Up to `vlen` messages, each as `recvmsg` returns it (recvmmsg(2)).

        MSG_WAITFORONE waits for the first only. `timeout`, in seconds, is looked at after
        each message, as the kernel does: it ends no wait. An error after the first message
        is kept for the next call. OSError EINVAL for a negative timeout.
        """
        room = buffers.room(ancbufsize)
        length, flags = _length(bufsize, "recvmmsg"), buffers.message_flags(flags)
        count = _length(vlen, "recvmmsg", "negative number of messages")
        if timeout is not None and timeout < 0:
            raise error(errno.EINVAL)
        limit = None if timeout is None or timeout == math.inf else math.ceil(timeout * 1e9)
        await trio.lowlevel.checkpoint_if_cancelled()
        sk = self._sk or await self._closed()
        if self._receiving and not flags & MSG_ERRQUEUE:
            await self._busy("receiving from")
        driver = self._driver
        op = mmsg.recvmmsg(sk, count, length, flags, limit, driver.now(), driver.after_call)
        if self._type != socket.SOCK_STREAM or flags & MSG_ERRQUEUE:
            found = await self._several(op)
        else:
            self._receiving = True
            try:
                found = await self._several(op)
            finally:
                self._receiving = False
        return [self._message(msg, room) for msg in found]

    def _message(self, msg: RecvMsg, room: int) -> tuple[bytes, AncData, int, RetAddress]:
        control, cut = buffers.fit_control(msg.control, room)
        return buffers.join(msg.chunks), control, msg.flags | cut, self._peer(msg)

    @trio.lowlevel.enable_ki_protection
    async def _several(self, op: Op[T]) -> T:
        """Finish an operation on several messages."""
        try:
            result = await self._drive(op)
        except OSError:
            await self._refused()
            raise
        await self._stack.give_way()
        return result

    # -- sending -------------------------------------------------------------------------------

    async def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send; the number of bytes accepted, which a blocking stream makes all of them."""
        if type(data) is not bytes:
            data = buffers.immutable(data)
        return await self._transmit(data, flags, None, ())

    @overload
    async def sendto(self, data: Buffer, address: object, /) -> int: ...

    @overload
    async def sendto(self, data: Buffer, flags: int, address: object, /) -> int: ...

    async def sendto(self, data: Buffer, *args: object) -> int:
        """`sendto(data[, flags], address)`."""
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        flags = buffers.c_int(args[0]) if len(args) == 2 else 0
        to = await self._destination(args[-1], "sendto")
        return await self._transmit(buffers.immutable(data), flags, to, ())

    async def sendmsg(
        self,
        buffers_: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: object = None,
        /,
    ) -> int:
        """Send the buffers as one message, with ancillary data (level, type, bytes)."""
        data = buffers.gather(buffers_)
        control = buffers.control(ancdata)
        if flags != 0:
            flags = buffers.message_flags(flags)
        to = None if address is None else await self._destination(address, "sendmsg")
        return await self._transmit(data, flags, to, control)

    async def sendmmsg(
        self,
        messages: Iterable[Sequence[Any]],
        flags: int = 0,
        /,
    ) -> list[int]:
        """Send messages in order, each given as the arguments of a `sendmsg`:
        `(buffers[, ancdata[, flags[, address]]])` (sendmmsg(2)).

        The number of bytes sent of each message that was: the list is shorter than
        `messages` if an error or a full buffer came in between. Of a message's own flags
        only MSG_EOR counts. At most 1024 messages are looked at.
        """
        if flags != 0:
            flags = buffers.message_flags(flags)
        native: list[mmsg.Message] = []
        try:
            for msg in islice(messages, mmsg.UIO_MAXIOV):
                native.append(await self._native_message(*msg))
        except OSError:
            if not native:
                raise
        await trio.lowlevel.checkpoint_if_cancelled()
        sk = self._sk or await self._closed()
        if self._sending:
            await self._busy("sending to")
        driver = self._driver
        op = mmsg.sendmmsg(sk, native, flags, driver.now(), driver.after_call)
        self._sending = self._type == socket.SOCK_STREAM
        try:
            return await self._several(op)
        finally:
            self._sending = False

    async def _native_message(
        self,
        buffers_: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: object = None,
    ) -> mmsg.Message:
        to = None if address is None else await self._destination(address, "sendmmsg")
        control = buffers.control(ancdata)
        return mmsg.Message(buffers.gather(buffers_), control, buffers.c_int(flags), to)

    async def _destination(self, address: object, call: str) -> Native:
        known, native = self._last_peer
        if address is known and known is not None:
            return native
        known, native = self._last_to
        if address is known and known is not None:
            return native
        numeric = addresses.parse_numeric(self._family, address, call)
        if numeric is None:
            return await self._resolve(address, call, local=False)  # anew each time
        if isinstance(address, tuple) and type(address[0]) is str:  # nothing that can change
            self._last_to = (address, numeric)
        return numeric

    @trio.lowlevel.enable_ki_protection
    async def _transmit(
        self,
        data: bytes | memoryview,
        flags: int,
        to: Native | None,
        control: tuple[tuple[int, int, bytes], ...],
    ) -> int:
        if flags:
            flags = buffers.c_int(flags)
        await trio.lowlevel.checkpoint_if_cancelled()
        sk = self._sk
        if sk is None:
            await self._closed()
        if self._sending:
            await self._busy("sending to")
        driver = self._driver
        now = driver.now()
        try:
            result = self._prot.sendmsg(sk, data, flags, now, to, control)
        except OSError:
            await self._refused()
            raise
        if isinstance(result, int):
            driver.after_call(now)
            driver.calls += 1
            if driver.calls % self._stack.checkpoint_every == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return result
        if self._type != socket.SOCK_STREAM:
            return await self._drive(result)
        self._sending = True
        try:
            return await self._drive(result)
        finally:
            self._sending = False


def _length(value: int, call: str, complaint: str = "negative buffersize") -> int:
    """`value` as a length: TypeError, ValueError, OverflowError as in `socket`."""
    if type(value) is int and 0 <= value <= _SSIZE_MAX:
        return value
    number = operator.index(value)
    if number < 0:
        raise ValueError(f"{complaint} in {call}")
    if number > _SSIZE_MAX:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number
