"""What the tests of connecting and of listening share."""

from __future__ import annotations

from tests.tcp.harness import (
    PEER_PORT,
    Bench,
)
from ustack.sock.sock import AF_INET, SOCK_STREAM


def new(b: Bench, family: int = AF_INET):
    sk = b.stack.socket(family, SOCK_STREAM)
    sk.nonblocking = True
    return sk


def syn(b: Bench, port: int = PEER_PORT, **fields) -> None:
    b.inject("S", seq=0, sport=port, options=b.peer_syn_options(), **fields)


def assert_empty(b: Bench, listeners: int = 0) -> None:
    host = b.stack.tcp
    assert not host.established
    assert len(host.listeners) == listeners
    assert host.tw_count == 0
    assert len(host.ports) == listeners
    assert len(b.stack.deadlines) == 0
