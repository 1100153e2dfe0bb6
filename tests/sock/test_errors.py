"""Errors have the C library's wording, all that the sources raise."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import ustack
from ustack.sock.errors import error

SOURCES = Path(ustack.__file__).parent


def raised() -> set[str]:
    found: set[str] = set()
    for path in SOURCES.glob("**/*.py"):
        found |= set(re.findall(r"\berror\((?:errno\.)?(E[A-Z0-9]+)\)", path.read_text()))
    return found


def test_the_wording() -> None:
    names = raised() | {"ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "EAGAIN"}
    assert len(names) > 25
    for name in sorted(names):
        number = getattr(errno, name)
        exc = error(number)
        assert (exc.errno, exc.strerror) == (number, os.strerror(number))
        assert type(exc) is type(OSError(number, ""))
