from __future__ import annotations

import platform

from ustack.io.malloc import tune_malloc


def test_glibc_takes_the_settings_and_takes_them_again() -> None:
    glibc = platform.libc_ver()[0] == "glibc"
    assert tune_malloc() is glibc
    assert tune_malloc() is glibc
