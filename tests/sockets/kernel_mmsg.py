"""The kernel's sendmmsg, recvmmsg and accept4, which Python lacks, with the shapes of ours."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    _fields_ = (("hdr", Msghdr), ("len", ctypes.c_uint))


class Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _sockaddr(address: tuple[str, int]) -> bytes:
    family = socket.AF_INET.to_bytes(2, "little")
    return family + address[1].to_bytes(2, "big") + socket.inet_aton(address[0]) + bytes(8)


def _vector(buffers: Sequence[Any]) -> Any:
    vector = (Mmsghdr * max(1, len(buffers)))()
    for entry, buffer in zip(vector, buffers, strict=False):
        entry.hdr.iov = ctypes.pointer(Iovec(ctypes.addressof(buffer), len(buffer)))
        entry.hdr.iovlen = 1
    return vector


def sendmmsg(sock: socket.socket, messages: Sequence[Sequence[Any]], flags: int = 0) -> list[int]:
    """Messages as `SocketType.sendmmsg` takes them, without ancillary data."""
    buffers = [(ctypes.c_char * len(data)).from_buffer_copy(data) for (data,), *_ in messages]
    vector = _vector(buffers)
    names = []
    for entry, (_, *rest) in zip(vector, messages, strict=False):
        entry.hdr.flags = rest[1] if len(rest) > 1 else 0
        if len(rest) > 2:
            names.append(ctypes.create_string_buffer(_sockaddr(rest[2]), 16))
            entry.hdr.name, entry.hdr.namelen = ctypes.addressof(names[-1]), 16
    n = _check(_libc.sendmmsg(sock.fileno(), vector, len(messages), flags))
    return [entry.len for entry in vector[:n]]


def recvmmsg(
    sock: socket.socket,
    vlen: int,
    bufsize: int,
    ancbufsize: int = 0,
    flags: int = 0,
    timeout: float | None = None,
) -> list[tuple[bytes, list[Any], int, None]]:
    """As `SocketType.recvmmsg`, without addresses and ancillary data."""
    buffers = [(ctypes.c_char * bufsize)() for _ in range(vlen)]
    vector = _vector(buffers)
    limit = None
    if timeout is not None:
        limit = ctypes.byref(Timespec(int(timeout // 1), int(timeout % 1 * 1e9)))
    n = _check(_libc.recvmmsg(sock.fileno(), vector, vlen, flags, limit))
    return [
        (bytes(buffer[: min(entry.len, bufsize)]), [], entry.hdr.flags, None)
        for entry, buffer in zip(vector[:n], buffers, strict=False)
    ]


def accept4(sock: socket.socket, flags: int = 0) -> tuple[socket.socket, object]:
    made = socket.socket(fileno=_check(_libc.accept4(sock.fileno(), None, None, flags)))
    made.settimeout(None if os.get_blocking(made.fileno()) else 0)
    return made, made.getpeername()
