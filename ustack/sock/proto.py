"""The calls a protocol offers its sockets (Linux: `struct proto`, `struct proto_ops`).

The socket API, the simulator and the script runner reach every protocol through this
table: `sk.prot.sendmsg(sk, ...)`. Calls that may block return the result, or an `Op` to
be driven (`sock.wait`); with a non-blocking socket or MSG_DONTWAIT they raise EAGAIN
instead. All of them raise OSError with the kernel's errno; `now` is integer ns.

Addresses are (address bytes, port). `b""` as an address is the wildcard.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from ustack.sock.sock import RecvMsg, Sock
from ustack.sock.wait import Op
from ustack.wire.packet import Buffer

Address: TypeAlias = tuple[bytes, int]
Cmsg: TypeAlias = tuple[int, int, bytes]


class Proto(Protocol):
    """One protocol's system calls."""

    name: str

    def bind(self, sk: Sock, addr: Address, now: int) -> None: ...

    def listen(self, sk: Sock, backlog: int, now: int) -> None: ...

    def accept(self, sk: Sock, now: int) -> Sock | Op[Sock]: ...

    def connect(self, sk: Sock, addr: Address | None, now: int) -> None | Op[None]:
        """None as address is AF_UNSPEC: dissolve the association."""

    def sendmsg(
        self,
        sk: Sock,
        data: Buffer,
        flags: int,
        now: int,
        addr: Address | None = None,
        control: tuple[Cmsg, ...] = (),
    ) -> int | Op[int]:
        """Send. `data` is kept by reference and must never change: callers copy mutable
        buffers first."""

    def recvmsg(self, sk: Sock, length: int, flags: int, now: int) -> RecvMsg | Op[RecvMsg]: ...

    def shutdown(self, sk: Sock, how: int, now: int) -> None: ...

    def close(self, sk: Sock, now: int) -> None | Op[None]:
        """Give the socket back. An Op only with SO_LINGER and a time."""

    def setsockopt(self, sk: Sock, level: int, name: int, value: bytes, now: int) -> None: ...

    def getsockopt(self, sk: Sock, level: int, name: int, optlen: int, now: int) -> bytes: ...

    def ioctl(self, sk: Sock, request: int, now: int) -> int: ...

    def poll(self, sk: Sock, now: int) -> int:
        """The poll mask, recomputed at each call. Sets NOSPACE as the kernel does."""
