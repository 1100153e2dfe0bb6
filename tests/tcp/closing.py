"""What the tests of closing and of leaks share."""

from __future__ import annotations

import struct

from tests.tcp.harness import Bench


def linger(seconds: int, on: int = 1) -> bytes:
    return struct.pack("ii", on, seconds)


def assert_empty(b: Bench) -> None:
    host = b.stack.tcp
    assert not host.established
    assert not host.orphans
    assert not host.listeners
    assert host.catch_all is None
    assert host.tw_count == 0
    assert len(host.ports) == 0
    assert len(b.stack.deadlines) == 0
    assert b.stack.mib["TcpCurrEstab"] == 0
