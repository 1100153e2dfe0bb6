"""What every call of a socket shares, and the calls that never wait.

See `sockets.socket` for the rules.
"""

from __future__ import annotations

import errno
import operator
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, overload

import trio

from ustack.io.ops import drive
from ustack.sock.errors import error
from ustack.sock.sock import Sock
from ustack.sock.wait import POLLFREE, Interrupted, Op
from ustack.sockets import address as addresses
from ustack.sockets import buffers
from ustack.sockets.address import Native, RetAddress
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CLOSE, SYN_SENT

if TYPE_CHECKING:
    import builtins
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from ustack.sock.proto import Proto
    from ustack.sockets.stack import NetworkStack

T = TypeVar("T")

_INT = struct.Struct("i")


class BaseSocket(trio.socket.SocketType):
    """A core socket, its stack, and the tasks that wait for it."""

    __slots__ = (
        "_blocked",
        "_driver",
        "_ended",
        "_family",
        "_fileno",
        "_last_peer",
        "_last_to",
        "_prot",
        "_proto",
        "_receiving",
        "_sending",
        "_sk",
        "_stack",
        "_type",
        "_wr_shutdown",
    )

    def __init__(self, stack: NetworkStack, sk: Sock, proto: int, fileno: int) -> None:
        super().__init__()
        self._stack = stack
        self._driver = stack.driver
        self._sk: Sock | None = sk
        self._prot: Proto = sk.prot
        self._family = socket.AddressFamily(sk.family)
        self._type = socket.SocketKind(sk.type)
        self._proto = proto
        self._fileno = fileno
        self._wr_shutdown = False
        self._receiving = False
        self._sending = False
        self._blocked: list[Op[Any]] = []  # what our tasks are waiting for
        self._ended: dict[Op[Any], tuple[Any] | None] = {}  # ended by `close`: their results
        # addresses in both forms, the sender last heard and the destination last given: a server
        # answers whom it heard, a client asks the same server again
        self._last_peer: tuple[RetAddress, Native] = (None, (b"", 0))
        self._last_to: tuple[object, Native] = (None, (b"", 0))
        sk.socket = self

    # -- what it is ----------------------------------------------------------------------

    @property
    def family(self) -> socket.AddressFamily:
        return self._family

    @property
    def type(self) -> socket.SocketKind:
        return self._type

    @property
    def proto(self) -> int:
        return self._proto

    @property
    def did_shutdown_SHUT_WR(self) -> bool:
        """True once `shutdown` has closed the sending half."""
        return self._wr_shutdown

    @property
    def sk(self) -> Sock:
        """The core's side of the socket, to look at. OSError EBADF once closed."""
        return self._open()

    @property
    def _sock(self) -> Self:
        """What anyio asks a trio socket for its attributes: the socket beneath it."""
        return self

    def fileno(self) -> int:
        """A number from 1 << 30, unique in the stack; -1 once closed."""
        return self._fileno if self._sk is not None else -1

    def __repr__(self) -> str:
        if self._sk is None:
            return "<ustack.SocketType [closed]>"
        text = (
            f"<ustack.SocketType fd={self._fileno}, family={self._family!s},"
            f" type={self._type!s}, proto={self._proto}, laddr={self.getsockname()}"
        )
        try:
            return f"{text}, raddr={self.getpeername()}>"
        except OSError:
            return f"{text}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError("cannot pickle 'SocketType' object")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: builtins.type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get_inheritable(self) -> bool:
        """False: no other process can hold this socket."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """OSError EOPNOTSUPP for true."""
        if operator.index(inheritable):
            raise error(errno.EOPNOTSUPP)

    def dup(self) -> NoReturn:
        """Not supported: OSError EOPNOTSUPP. There is no descriptor to share."""
        raise error(errno.EOPNOTSUPP)

    def detach(self) -> NoReturn:
        """Not supported: OSError EOPNOTSUPP. There is no descriptor to give away."""
        raise error(errno.EOPNOTSUPP)

    def setblocking(self, flag: bool) -> None:
        """False: calls that would wait raise BlockingIOError, as with O_NONBLOCK."""
        self._open().nonblocking = not operator.index(flag)

    def getblocking(self) -> bool:
        return not self._open().nonblocking

    # -- the shape of a call ---------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def _ask(self, call: Callable[..., T], *args: object) -> T:
        """A call into the core: `call(sk, *args, now)`. OSError EBADF once closed."""
        sk = self._open()
        try:
            return call(sk, *args, self._driver.now())
        finally:
            self._driver.kick()

    def _open(self) -> Sock:
        sk = self._sk
        if sk is None:
            raise error(errno.EBADF)
        return sk

    @trio.lowlevel.enable_ki_protection
    async def _drive(self, op: Op[T]) -> T:
        """Wait for an operation in progress. ClosedResourceError if `close` ends it."""
        blocked = self._blocked
        blocked.append(op)
        try:
            result = await drive(self._driver, op)
        except BaseException:
            self._ended.pop(op, None)
            raise
        finally:
            blocked.remove(op)
        # an operation that a cancel had ended before `close` came keeps its own result
        if op in self._ended:
            outcome = self._ended.pop(op)
            if result is None and outcome is None:
                raise trio.ClosedResourceError("another task closed this socket")
            if result is None and outcome is not None:
                return cast(T, outcome[0])
        return result

    @trio.lowlevel.enable_ki_protection
    def end_blocked(self, sk: Sock) -> None:
        """End the operations in progress, as a cancel would, and wake their tasks."""
        for op in self._blocked:
            self._ended[op] = None
            try:
                op.throw(Interrupted())
            except StopIteration as stop:
                self._ended[op] = (stop.value,)
            except (Interrupted, OSError):
                pass
        sk.wait_queue.wake_all(POLLFREE)

    async def _closed(self) -> NoReturn:
        """The end of an async call on a closed socket."""
        await trio.lowlevel.checkpoint()
        raise error(errno.EBADF)

    async def _busy(self, doing: str) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise trio.BusyResourceError(f"another task is {doing} this socket")

    async def _refused(self) -> None:
        """After a call that raised: others run, so that a loop of refused calls cannot
        keep the driver from bringing what it waits for."""
        self._driver.kick()
        await trio.lowlevel.cancel_shielded_checkpoint()

    # -- names, options, the end --------------------------------------------------------------

    def getsockname(self) -> RetAddress:
        sk = self._open()
        port = sk.sport or (sk.last_port if isinstance(sk, TcpSock) else 0)
        return addresses.to_python(self._family, (sk.rcv_saddr or sk.saddr, port))

    def getpeername(self) -> RetAddress:
        """The peer's address. OSError ENOTCONN when there is none."""
        sk = self._open()
        if not sk.dport or (isinstance(sk, TcpSock) and sk.state in (CLOSE, SYN_SENT)):
            raise error(errno.ENOTCONN)
        return addresses.to_python(self._family, (sk.daddr, sk.dport))

    @overload
    def getsockopt(self, level: int, optname: int) -> int: ...

    @overload
    def getsockopt(self, level: int, optname: int, buflen: int) -> bytes: ...

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> int | bytes:
        """The option as an int, or as at most `buflen` (1-1024) bytes."""
        level, optname = buffers.c_int(level), buffers.c_int(optname)
        sk = self._open()
        now = self._driver.now()
        if not buflen:
            value = self._prot.getsockopt(sk, level, optname, _INT.size, now)
            return int.from_bytes(value, sys.byteorder, signed=True)
        if not 0 < buffers.c_int(buflen) <= 1024:
            raise OSError("getsockopt buflen out of range")
        return self._prot.getsockopt(sk, level, optname, buflen, now)

    @overload
    def setsockopt(self, level: int, optname: int, value: int | Buffer) -> None: ...

    @overload
    def setsockopt(self, level: int, optname: int, value: None, optlen: int) -> None: ...

    def setsockopt(
        self, level: int, optname: int, value: int | Buffer | None, optlen: int | None = None
    ) -> None:
        """Set an option to an int, to bytes, or (None, optlen) to no value of that length."""
        level, optname = buffers.c_int(level), buffers.c_int(optname)
        raw = _option_value(level, value, optlen)
        self._ask(self._prot.setsockopt, level, optname, raw)

    def ioctl(self, request: int) -> int:
        """The number that ioctl(2) stores for `request`: SIOCINQ, SIOCOUTQ, SIOCOUTQNSD..."""
        sk = self._open()
        return self._prot.ioctl(sk, operator.index(request), self._driver.now())

    def close(self) -> None:
        """Give the socket back; a stream's unsent data is still delivered.

        With SO_LINGER and a time the close goes on in the background: a caller that wants
        to wait for it uses `aclose`. Closing twice is fine.
        """
        op = self._begin_close()
        if op is not None:
            self._stack.drive_in_background(op)

    async def aclose(self) -> None:
        """`close`, then wait as close(2) does with SO_LINGER and a time."""
        sk = self._sk
        op = self._begin_close()
        if op is not None:
            self._stack.lingering(self, sk)
            try:
                await self._drive(op)
            finally:
                self._stack.lingering(self, None)
        else:
            await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    def _begin_close(self) -> Op[None] | None:
        sk = self._sk
        if sk is None:
            return None
        self._stack.forget(self._fileno)
        self._sk = None
        self.end_blocked(sk)
        try:
            return self._prot.close(sk, self._driver.now())
        finally:
            self._driver.kick()

    def abandon(self) -> None:
        """Closed, without a word to the core."""
        sk, self._sk = self._sk, None
        self._stack.forget(self._fileno)
        if sk is not None:
            self.end_blocked(sk)


def _option_value(level: int, value: int | Buffer | None, optlen: int | None) -> bytes:
    """What the kernel would read from the program for this setsockopt."""
    if value is None:
        if optlen is None:
            raise TypeError("invalid value for argument 'value': None needs an optlen")
        # A null pointer: IPv6 options read it as zero, the others fault on it.
        if optlen and level != socket.IPPROTO_IPV6:
            raise error(errno.EFAULT)
        return bytes(optlen)
    if optlen is not None:
        raise TypeError("invalid value for argument 'value': an optlen is for None")
    if isinstance(value, int):
        try:
            return _INT.pack(value)
        except struct.error:
            raise TypeError(f"socket option out of the range of a C int: {value}") from None
    return bytes(buffers.immutable(value))
