"""Keep glibc from giving memory back between two packets.

A frame is one fresh `bytes` of up to 64 KiB. At glibc's defaults such a block at the top
of the heap is returned to the kernel when it is freed and faulted in again, page by
page, for the next frame: the same code runs at half its speed, or not, depending on
where the heap happens to end. Three `mallopt` calls settle it.
"""

from __future__ import annotations

import ctypes

_MIB = 1 << 20
# malloc.h: parameter, value
_SETTINGS = (
    (-1, 256 * _MIB),  # M_TRIM_THRESHOLD
    (-2, 32 * _MIB),  # M_TOP_PAD
    (-3, 32 * _MIB),  # M_MMAP_THRESHOLD, the largest that glibc accepts
)


def tune_malloc() -> bool:
    """Set glibc's allocator for packets. False where the C library has no such knobs."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    results = [mallopt(parameter, value) for parameter, value in _SETTINGS]
    return 0 not in results
