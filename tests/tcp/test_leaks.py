"""Nothing stays behind: tables, ports, deadlines, after every kind of end."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.closing import assert_empty, linger
from tests.tcp.harness import PEER4, PEER_PORT, SOL_SOCKET, Bench
from ustack.tcp.listen import listen_any
from ustack.tcp.state import (
    CLOSE,
)

SO_KEEPALIVE, SO_LINGER, TCP_LINGER2 = 9, 13, 8
ISNS = (0, 2**31 - 1, 2**32 - 1)


def _finish_active(b: Bench) -> None:
    b.close()
    b.inject("A", ack=2)
    b.inject("FA", ack=2)


def _finish_passive(b: Bench) -> None:
    b.inject("FA")
    b.close()
    b.inject("A", ack=2)


def _finish_together(b: Bench) -> None:
    b.close()
    b.inject("FA", ack=1)
    b.inject("A", ack=2)


def _finish_by_rst(b: Bench) -> None:
    b.inject("RA")
    b.close()


def _finish_by_abort(b: Bench) -> None:
    b.inject("PA", data=b"unread")
    b.close()


def _finish_by_linger_zero(b: Bench) -> None:
    b.setopt(SOL_SOCKET, SO_LINGER, linger(0))
    b.close()


def _finish_by_disconnect(b: Bench) -> None:
    b.sk.prot.connect(b.sk, None, b.now)
    b.close()


def _finish_with_a_silent_peer(b: Bench) -> None:
    b.send(1000)
    b.close()
    b.run(1_000_000)


def _finish_by_keepalive(b: Bench) -> None:
    b.setopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    b.run(7_200_000 + 10 * 75_000)
    assert b.sk.state == CLOSE
    b.close()


def _finish_with_keepalive_armed(b: Bench) -> None:
    b.setopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    b.inject("PA", data=b"x")
    b.recv()
    _finish_active_after(b)


def _finish_active_after(b: Bench) -> None:
    b.close()
    b.inject("A", ack=2)
    b.inject("FA", ack=2)


def _finish_with_holes(b: Bench) -> None:
    b.inject("PA", seq=50, data=b"beyond a hole")
    b.close()
    b.inject("RA", seq=1)


def _finish_shut_first(b: Bench) -> None:
    b.shutdown(1)
    b.inject("FA", ack=2)
    b.close()


FINISHES = [value for name, value in list(globals().items()) if name.startswith("_finish_")]


@pytest.mark.parametrize("finish", FINISHES, ids=lambda f: f.__name__[8:])
@pytest.mark.parametrize("opening", ["connected", "accepted", "ephemeral"])
def test_no_table_leaks(finish, opening):
    """However a connection ends, once TIME_WAIT is over nothing of it is left, and no timer
    keeps it alive."""
    if opening == "ephemeral":
        b = Bench()
        b.new_socket()
        b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
        b.sport = b.sk.sport
        b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    else:
        b = getattr(Bench, opening)()
    finish(b)
    b.run(61_000)
    if opening == "accepted":
        b.sk = b.listener
        b.close()
    assert_empty(b)
    assert b.sk.rmem_alloc == b.sk.wmem_queued == b.sk.wmem_alloc == 0


def test_no_table_leaks_with_attempts_that_fail():
    for end in ("RA", "timeout", "shutdown", "close", "disconnect"):
        b = Bench()
        b.new_socket()
        b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
        b.sport = b.sk.sport
        if end == "RA":
            b.inject("RA", seq=0, ack=1)
        elif end == "timeout":
            b.run(200_000)
        elif end == "shutdown":
            b.shutdown(1)
        elif end == "disconnect":
            b.sk.prot.connect(b.sk, None, b.now)
        b.close()
        assert_empty(b)


def test_no_table_leaks_with_half_open_requests():
    for end in ("RST", "timeout", "close", "syn"):
        b = Bench.listening()
        for port in range(1001, 1005):
            b.inject("S", seq=0, sport=port, options=b.peer_syn_options())
            if end == "RST":
                b.inject("R", seq=1, sport=port)
            elif end == "syn":
                b.inject("S", seq=7, sport=port)
        if end == "timeout":
            b.run(64_000)
        if end != "close":
            assert b.sk.accept_queue.half_open == b.sk.accept_queue.young == 0
        b.close()
        assert_empty(b)


def test_no_table_leaks_after_many_connections_with_keepalive():
    """Timers that were hours ahead do not keep closed sockets."""
    b = Bench.listening()
    listener = b.sk
    b.setopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    for port in range(1001, 1201):
        b.inject("S", seq=0, sport=port, options=b.peer_syn_options())
        b.inject("A", seq=1, ack=1, sport=port)
        b.sk = listener
        b.accept()
        b.inject("RA", seq=1, ack=1, sport=port)
        b.close()
    b.take()
    assert len(b.stack.deadlines) == 0
    b.sk = listener
    b.close()
    assert_empty(b)


def test_no_table_leaks_with_a_catch_all():
    b = Bench()
    b.new_socket()
    listen_any(b.sk, 8, lambda request: request.accept(b.now), b.now)
    catch_all = b.sk
    for i in range(20):
        b.inject("S", seq=0, dport=100 + i, options=b.peer_syn_options())
        b.inject("A", seq=1, ack=1, dport=100 + i)
        b.sk = catch_all
        b.accept()
        b.close()
        b.inject("FA", seq=1, ack=2, dport=100 + i)
    b.sk = catch_all
    b.close()
    b.run(61_000)
    assert_empty(b)


def test_what_was_in_flight_is_let_go_with_the_connection():
    """RACK's list is a second reference to it."""
    b = Bench.connected(mss=1000)
    b.send(10_000)
    b.inject(ack=1, sacks=[(2001, 3001)])
    assert b.sk.rack_list
    b.inject("RA")
    assert b.sk.rack_list is None
