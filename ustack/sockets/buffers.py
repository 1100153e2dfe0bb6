"""Moving bytes between a program's buffers and the core: one copy, or none.

Sending: the core keeps what it is given until the peer has acknowledged it, so it must
never change. `bytes`, and views of `bytes`, are handed over as they are; anything a
program could write to is copied first. Receiving: the core returns views into packet
buffers (`RecvMsg.chunks`), copied here once into the result or the caller's buffer.
"""

from __future__ import annotations

import errno
import operator
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ustack.sock.errors import error
from ustack.wire.packet import Buffer as CoreBuffer

if TYPE_CHECKING:
    from typing_extensions import Buffer

_CMSG_HEADER = socket.CMSG_LEN(0)
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1
IOV_MAX = 1024  # buffers of one message


def c_int(value: object) -> int:
    """`value` as a C int: TypeError, OverflowError as in `socket`."""
    number = operator.index(value)  # type: ignore[arg-type]
    if not _INT_MIN <= number <= _INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return number


def message_flags(value: object) -> int:
    """The flags of a sendmsg or recvmsg. OSError EINVAL for those with MSG_CMSG_COMPAT, the
    sign bit, which is the kernel's own."""
    flags = c_int(value)
    if flags < 0:
        raise error(errno.EINVAL)
    return flags


def room(value: int) -> int:
    """The length of a buffer for ancillary data: TypeError, ValueError as in `socket`."""
    number = operator.index(value)
    if not 0 <= number <= _INT_MAX:
        raise ValueError("invalid ancillary data buffer length")
    return number


def immutable(data: Buffer) -> CoreBuffer:
    """`data` as bytes that can never change. TypeError if it is not bytes-like, BufferError
    if its bytes do not stand together.

    A view over `bytes` becomes a view of our own: the caller may release his.
    """
    if type(data) is bytes:
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    if isinstance(view.obj, bytes):
        return view.cast("B")
    return view.tobytes()


def gather(buffers: Iterable[Buffer]) -> CoreBuffer:
    """The buffers of one sendmsg as one. TypeError if any is not bytes-like, OSError
    EMSGSIZE if there are more than IOV_MAX."""
    if isinstance(buffers, (str, bytes, bytearray, memoryview)):
        raise TypeError("sendmsg(): argument 1 must be an iterable of bytes-like objects")
    parts = [immutable(buffer) for buffer in buffers]
    if len(parts) > IOV_MAX:
        raise error(errno.EMSGSIZE)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def join(chunks: Sequence[CoreBuffer]) -> bytes:
    """What was received, as one bytes object."""
    if len(chunks) == 1:
        return bytes(chunks[0])
    return b"".join(chunks)


def writable(buffer: Buffer, nbytes: int, call: str) -> memoryview:
    """The part of `buffer` to receive into: `nbytes` of it, all of it if 0.

    TypeError if it is read-only or not contiguous, ValueError for an impossible `nbytes`.
    """
    view = memoryview(buffer)
    if view.readonly or not view.c_contiguous:
        kind = type(buffer).__name__
        raise TypeError(f"{call}() argument 1 must be read-write bytes-like object, not {kind}")
    view = view.cast("B")
    if nbytes < 0:
        raise ValueError(f"negative buffersize in {call}")
    if nbytes > len(view):
        raise ValueError("nbytes is greater than the length of the buffer")
    return view[:nbytes] if nbytes else view


def scatter(chunks: Iterable[CoreBuffer], views: Sequence[memoryview]) -> int:
    """Copy `chunks` into `views`, filling each before the next; the number of bytes copied.

    `chunks` hold no more bytes than `views` have room for: the call that made them was
    told how much there is.
    """
    total = 0
    which = 0
    pos = 0
    for chunk in chunks:
        total += len(chunk)
        while len(chunk):
            view = views[which]
            n = min(len(chunk), len(view) - pos)
            view[pos : pos + n] = chunk[:n]
            pos += n
            chunk = chunk[n:]
            if pos == len(view):
                which += 1
                pos = 0
    return total


def control(messages: Iterable[tuple[int, int, Buffer]]) -> tuple[tuple[int, int, bytes], ...]:
    """The ancillary data of a sendmsg in the core's form. TypeError as in `socket`."""
    out = []
    for item in messages:
        try:
            level, kind, data = item
        except (TypeError, ValueError):
            raise TypeError(
                "[sendmsg() ancillary data items] must be (level, type, data) tuples"
            ) from None
        out.append((c_int(level), c_int(kind), bytes(memoryview(data))))
    return tuple(out)


def fit_control(
    messages: Sequence[tuple[int, int, bytes]], room: int
) -> tuple[list[tuple[int, int, bytes]], int]:
    """What of `messages` fits in a control buffer of `room` bytes, and MSG_CTRUNC or 0.

    As the kernel's `put_cmsg`: a message that does not fit whole is cut to the space that
    is left, and one without space for its header is left out.
    """
    fitted: list[tuple[int, int, bytes]] = []
    for level, kind, data in messages:
        if room < _CMSG_HEADER:
            return fitted, socket.MSG_CTRUNC
        if room < socket.CMSG_LEN(len(data)):
            fitted.append((level, kind, data[: room - _CMSG_HEADER]))
            return fitted, socket.MSG_CTRUNC
        fitted.append((level, kind, data))
        room -= min(room, socket.CMSG_SPACE(len(data)))
    return fitted, 0
