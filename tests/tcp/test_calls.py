"""Every call in every state: a defined result or OSError, nothing else, and consistent books."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from typing import Any

import pytest

from tests.tcp.harness import LOCAL4, PEER4, PEER_PORT, PORT, SOL_SOCKET, SOL_TCP, Bench, Call
from ustack.sock.options import SOL_IP, SOL_IPV6
from ustack.sock.sock import RecvMsg
from ustack.tcp.sock import TcpSock

E = errno
IN_PROGRESS = E.EINPROGRESS


def _fresh() -> Bench:
    b = Bench()
    b.new_socket()
    return b


def _bound() -> Bench:
    b = _fresh()
    b.sk.prot.bind(b.sk, (LOCAL4, PORT), b.now)
    return b


def _crossed() -> Bench:
    b = Bench.syn_sent()
    b.inject("S", seq=0, options=b.peer_syn_options())
    return b


def _refused() -> Bench:
    b = Bench.syn_sent()
    b.inject("RA", seq=0, ack=1)
    return b


def _time_wait() -> Bench:
    b = Bench.fin_wait2()
    b.inject("FA", ack=2)
    return b


def _reset() -> Bench:
    b = Bench.connected()
    b.inject("RA")
    return b


STATES: dict[str, Callable[[], Bench]] = {
    "fresh": _fresh,
    "bound": _bound,
    "listen": Bench.listening,
    "syn-sent": Bench.syn_sent,
    "syn-recv": _crossed,
    "refused": _refused,
    "established": Bench.connected,
    "accepted": Bench.accepted,
    "close-wait": Bench.close_wait,
    "fin-wait-1": Bench.fin_wait1,
    "fin-wait-2": Bench.fin_wait2,
    "closing": Bench.closing,
    "last-ack": Bench.last_ack,
    "time-wait": _time_wait,
    "reset": _reset,
}

OK = None
# call -> what it says in the states, in the order above: an errno, or OK
ALL_INVALID = [E.EINVAL] * 14
CALLS: dict[str, tuple[Callable[[Bench], Any], list[int | None]]] = {
    "bind": (
        lambda b: b.sk.prot.bind(b.sk, (LOCAL4, 99), b.now),
        [OK, *ALL_INVALID],
    ),
    "listen": (
        lambda b: b.sk.prot.listen(b.sk, 5, b.now),
        [OK, OK, OK, *[E.EINVAL] * 12],
    ),
    "accept": (
        lambda b: b.sk.prot.accept(b.sk, b.now),
        [E.EINVAL, E.EINVAL, E.EAGAIN, *[E.EINVAL] * 12],
    ),
    "connect": (
        lambda b: b.sk.prot.connect(b.sk, (PEER4, PEER_PORT), b.now),
        [IN_PROGRESS, IN_PROGRESS, E.EISCONN, E.EALREADY, E.EALREADY, E.ECONNREFUSED, OK]
        + [E.EISCONN, OK, *[E.EISCONN] * 5, E.ECONNRESET],
    ),
    "disconnect": (lambda b: b.sk.prot.connect(b.sk, None, b.now), [OK] * 15),
    "send": (
        lambda b: b.send(b"x"),
        [E.EPIPE, E.EPIPE, E.EPIPE, E.EAGAIN, E.EAGAIN, E.ECONNREFUSED, OK, OK, OK]
        + [E.EPIPE] * 5
        + [E.ECONNRESET],
    ),
    "recv": (
        lambda b: b.recv(),
        [E.ENOTCONN, E.ENOTCONN, E.ENOTCONN, E.EAGAIN, E.EAGAIN, E.ECONNREFUSED]
        + [E.EAGAIN, E.EAGAIN, OK, E.EAGAIN, E.EAGAIN, OK, OK, OK, E.ECONNRESET],
    ),
    "recv oob": (
        lambda b: b.recv(1, 1),
        [E.EINVAL, E.EINVAL, E.ENOTCONN, *[E.EINVAL] * 12],
    ),
    "shutdown rd": (lambda b: b.shutdown(0), [E.ENOTCONN, E.ENOTCONN, OK, OK, OK, E.ENOTCONN]
                    + [OK] * 7 + [E.ENOTCONN] * 2),
    "shutdown wr": (lambda b: b.shutdown(1), [E.ENOTCONN, E.ENOTCONN, OK, OK, OK, E.ENOTCONN]
                    + [OK] * 7 + [E.ENOTCONN] * 2),
    "shutdown rdwr": (lambda b: b.shutdown(2), [E.ENOTCONN, E.ENOTCONN, OK, OK, OK, E.ENOTCONN]
                      + [OK] * 7 + [E.ENOTCONN] * 2),
    "close": (lambda b: b.close(), [OK] * 15),
    "poll": (lambda b: b.poll(), [OK] * 15),
    "SIOCINQ": (lambda b: b.ioctl(0x541B), [OK, OK, E.EINVAL, *[OK] * 12]),
    "SIOCOUTQ": (lambda b: b.ioctl(0x5411), [OK, OK, E.EINVAL, *[OK] * 12]),
    "SIOCOUTQNSD": (lambda b: b.ioctl(0x894B), [OK, OK, E.EINVAL, *[OK] * 12]),
    "SIOCATMARK": (lambda b: b.ioctl(0x8905), [OK] * 15),
    "unknown ioctl": (lambda b: b.ioctl(0x1234), [E.ENOTTY] * 15),
}  # fmt: skip


def _error_of(call: Callable[[Bench], Any], b: Bench) -> int | None:
    try:
        call(b)
    except OSError as why:
        return why.errno
    return OK


@pytest.mark.parametrize("name", CALLS)
def test_every_call_in_every_state(name):
    call, expected = CALLS[name]
    assert len(expected) == len(STATES)
    got = {state: _error_of(call, make()) for state, make in STATES.items()}
    assert got == dict(zip(STATES, expected, strict=True)), {
        state: errno.errorcode.get(error or 0, "ok") for state, error in got.items()
    }


@pytest.mark.parametrize("first", CALLS)
def test_any_call_after_any_other(first):
    """In every state, two calls one after the other, then some time: only OSError, and the
    books are right."""
    for make in STATES.values():
        for second, _ in CALLS.values():
            b = make()
            _error_of(CALLS[first][0], b)
            if first != "close":
                _error_of(second, b)
            b.run(100)


_BLOCKING = {
    "accept": (),
    "connect": ((PEER4, PEER_PORT),),
    "sendmsg": (b"x" * 200_000, 0),
    "recvmsg": (10, 0),
    "close": (),
}


@pytest.mark.parametrize("name", _BLOCKING)
@pytest.mark.parametrize("end", ["cancel", "RST", "FIN", "close", "time"])
def test_blocking_calls_end_with_a_result_or_an_error(name, end):
    for make in STATES.values():
        b = make()
        b.sk.linger, b.sk.linger_time = name == "close", 10**12
        try:
            call = b.start(name, *_BLOCKING[name])
        except OSError:
            continue
        if not isinstance(call, Call):
            continue
        if end == "cancel":
            call.cancel()
        elif end == "RST":
            b.inject("RA", seq=b.sk.rcv_nxt - b.sk.irs)
        elif end == "FIN":
            b.inject("FA", seq=b.sk.rcv_nxt - b.sk.irs)
        elif end == "close" and name != "close":
            b.sk.linger = False
            b.close()
        b.run(4_000_000)
        if end in ("cancel", "RST", "close") and b.sk.state != 10:
            assert call.done or (end == "close" and name == "close")
        assert call.error is None or isinstance(call.error, OSError)
        assert isinstance(call.result, int | RecvMsg | TcpSock | None)


@pytest.mark.parametrize("level", [SOL_SOCKET, SOL_TCP, SOL_IP, SOL_IPV6, 99])
def test_options_in_every_state(level):
    """Set and get of any option, with any value: a result or OSError."""
    values = [
        (v).to_bytes(4, "little", signed=True) for v in (0, 1, 2, 500, -1, 2**31 - 1, -(2**31))
    ]
    values += [b"", b"\1", b"reno", b"nonsense", bytes(16), b"\xff" * 16, b"\xff" * 100]
    for make in STATES.values():
        for name in range(75):
            b = make()
            b.checks = False
            for value in values:
                try:
                    b.sk.prot.setsockopt(b.sk, level, name, value, b.now)
                except OSError:
                    pass
                try:
                    found = b.sk.prot.getsockopt(b.sk, level, name, 256, b.now)
                    assert isinstance(found, bytes)
                except OSError:
                    pass


def test_tcp_info_in_every_state():
    for make in STATES.values():
        b = make()
        for length in (0, 1, 104, 248, 1000):
            info = b.sk.prot.getsockopt(b.sk, SOL_TCP, 11, length, b.now)
            assert len(info) == min(length, 248)
            assert not info or info[0] == b.sk.state
    b = Bench.connected()
    b.sk.segs_in = b.sk.delivered = b.sk.data_segs_out = 2**33 + 1  # it has been up for long
    assert len(b.sk.prot.getsockopt(b.sk, SOL_TCP, 11, 248, b.now)) == 248


def test_generators_are_what_calls_return():
    b = Bench.connected()
    b.sk.nonblocking = False
    assert isinstance(b.sk.prot.recvmsg(b.sk, 1, 0, b.now), Generator)


def test_a10_the_state_comes_before_the_control_messages():
    b = Bench.connected()
    b.shutdown(1)
    b.raises(errno.EPIPE, b.sk.prot.sendmsg, b"x", 0, b.now, None, ((1, 99, b"1234"),))
    b = Bench.connected()
    b.raises(errno.EINVAL, b.sk.prot.sendmsg, b"x", 0, b.now, None, ((1, 99, b"1234"),))
