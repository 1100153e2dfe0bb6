"""The few system calls that Python 3.11 lacks, by ctypes: unshare, mount, timerfd."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NOEXEC = 0x2, 0x8

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_CLOCK_MONOTONIC = 1
_TFD_CLOEXEC, _TFD_NONBLOCK, _TFD_TIMER_ABSTIME = 0o2000000, 0o4000, 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Itimerspec(ctypes.Structure):
    """`struct itimerspec`: interval, then value."""

    _fields_ = [
        ("interval_sec", ctypes.c_long),
        ("interval_nsec", ctypes.c_long),
        ("value_sec", ctypes.c_long),
        ("value_nsec", ctypes.c_long),
    ]


_settime = _libc.timerfd_settime
_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p]
_mount = _libc.mount
_mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags))


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    _check(_mount(source.encode(), target.encode(), fstype.encode(), flags, data.encode()))


def die_with_parent() -> None:
    """Have this process killed when the thread that forked it ends (prctl(2))."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))


class TimerFd:
    """A timerfd on CLOCK_MONOTONIC, the clock of `time.monotonic_ns`."""

    __slots__ = ("_ref", "_spec", "fd")

    def __init__(self) -> None:
        self.fd = _check(_libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC | _TFD_NONBLOCK))
        self._spec = _Itimerspec()
        self._ref = ctypes.byref(self._spec)

    def set(self, at: int) -> None:
        """Fire at `at` ns, at once if that has passed; 0 disarms. Takes back an expiry
        that has not been read."""
        self._spec.value_sec, self._spec.value_nsec = divmod(at, 1_000_000_000)
        _check(_settime(self.fd, _TFD_TIMER_ABSTIME, self._ref, None))

    def close(self) -> None:
        os.close(self.fd)
