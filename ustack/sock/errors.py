"""The errors a program can see: `OSError` with the kernel's errno and wording."""

from __future__ import annotations

import errno as _e

_TEXT = {
    _e.EPERM: "Operation not permitted",
    _e.ENOENT: "No such file or directory",
    _e.ENXIO: "No such device or address",
    _e.E2BIG: "Argument list too long",
    _e.EBADF: "Bad file descriptor",
    _e.EAGAIN: "Resource temporarily unavailable",
    _e.ENOMEM: "Cannot allocate memory",
    _e.EACCES: "Permission denied",
    _e.EFAULT: "Bad address",
    _e.EBUSY: "Device or resource busy",
    _e.EEXIST: "File exists",
    _e.ENODEV: "No such device",
    _e.EINVAL: "Invalid argument",
    _e.EMFILE: "Too many open files",
    _e.ENOTTY: "Inappropriate ioctl for device",
    _e.EPIPE: "Broken pipe",
    _e.EDOM: "Numerical argument out of domain",
    _e.ERANGE: "Numerical result out of range",
    _e.ENONET: "Machine is not on the network",
    _e.EPROTO: "Protocol error",
    _e.EDESTADDRREQ: "Destination address required",
    _e.EMSGSIZE: "Message too long",
    _e.EPROTOTYPE: "Protocol wrong type for socket",
    _e.ENOPROTOOPT: "Protocol not available",
    _e.EPROTONOSUPPORT: "Protocol not supported",
    _e.ESOCKTNOSUPPORT: "Socket type not supported",
    _e.EOPNOTSUPP: "Operation not supported",
    _e.EAFNOSUPPORT: "Address family not supported by protocol",
    _e.EADDRINUSE: "Address already in use",
    _e.EADDRNOTAVAIL: "Cannot assign requested address",
    _e.ENETDOWN: "Network is down",
    _e.ENETUNREACH: "Network is unreachable",
    _e.ECONNABORTED: "Software caused connection abort",
    _e.ECONNRESET: "Connection reset by peer",
    _e.ENOBUFS: "No buffer space available",
    _e.EISCONN: "Transport endpoint is already connected",
    _e.ENOTCONN: "Transport endpoint is not connected",
    _e.ETIMEDOUT: "Connection timed out",
    _e.ECONNREFUSED: "Connection refused",
    _e.EHOSTDOWN: "Host is down",
    _e.EHOSTUNREACH: "No route to host",
    _e.EALREADY: "Operation already in progress",
    _e.EINPROGRESS: "Operation now in progress",
}


def error(errno: int) -> OSError:
    """The exception for `errno`: Python picks the subclass (BlockingIOError for EAGAIN...)."""
    return OSError(errno, _TEXT.get(errno) or _e.errorcode.get(errno, "Unknown error"))
