"""Any bytes, in any state: counted drops and answers, never an exception, the books right,
memory bounded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tcp.harness import PEER_PORT, PORT, Bench
from ustack.tcp.listen import listen_any
from ustack.tcp.sock import TcpSock
from ustack.tcp.timewait import TimeWait
from ustack.wire.tcp import build


def _time_wait() -> Bench:
    b = Bench.fin_wait2()
    b.inject("FA", ack=2)
    return b


def _orphan() -> Bench:
    b = Bench.connected()
    b.send(100)
    b.close()
    return b


def _request() -> Bench:
    b = Bench.listening(ts=True)
    b.inject("S", seq=0, options=b.peer_syn_options())
    return b


def _catch_all() -> Bench:
    b = Bench()
    b.new_socket()
    listen_any(b.sk, 4, lambda request: request.accept(b.now), b.now)
    return b


def _crossed() -> Bench:
    b = Bench.syn_sent()
    b.inject("S", seq=0, options=b.peer_syn_options())
    return b


def _busy() -> Bench:
    """Data under way in both directions, holes in both."""
    b = Bench.connected(ts=True, wscale=7)
    b.send(20_000)
    b.inject("A", seq=500, data=b"x" * 100, ack=1)
    b.inject("AU", seq=900, data=b"x" * 100, ack=1449, sacks=[(2897, 4345)], urg=50)
    return b


STATES: list[Callable[[], Bench]] = [
    Bench.listening, _request, _catch_all, Bench.syn_sent, _crossed, Bench.connected, _busy,
    Bench.close_wait, Bench.fin_wait1, Bench.fin_wait2, Bench.closing, Bench.last_ack,
    _time_wait, _orphan,
]  # fmt: skip

_OPTIONS = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.lists(
        st.one_of(
            st.just(b"\1"),
            st.just(b"\0"),
            st.integers(0, 65535).map(lambda mss: b"\2\4" + mss.to_bytes(2, "big")),
            st.integers(0, 255).map(lambda shift: b"\3\3" + bytes([shift])),
            st.just(b"\4\2"),
            st.binary(min_size=8, max_size=8).map(lambda ts: b"\x08\x0a" + ts),
            st.binary(min_size=8, max_size=32).map(lambda s: bytes([5, 2 + len(s)]) + s),
        ),
        max_size=6,
    ).map(lambda parts: b"".join(parts)[:40]),
)
_OFFSETS = st.one_of(
    st.integers(-3, 3),
    st.integers(-3000, 3000),
    st.integers(-70_000, 70_000),
    st.sampled_from([2**31 - 1, 2**31, 2**31 + 1, -(2**31)]),
    st.integers(0, 2**32 - 1),
)
_SEGMENT = st.fixed_dictionaries(
    {
        "flags": st.integers(0, 255),
        "seq": _OFFSETS,
        "ack": _OFFSETS,
        "window": st.sampled_from([0, 1, 100, 65535]),
        "options": _OPTIONS,
        "urg": st.integers(0, 65535),
        "data": st.one_of(st.just(b""), st.binary(max_size=40), st.just(b"z" * 1400)),
        "after": st.sampled_from([0, 0, 1, 50, 700, 70_000]),
    }
)


def _inject(b: Bench, flags, seq, ack, window, options, urg, data, after) -> None:
    """A segment around what the socket expects, or anywhere."""
    sk = b.sk
    options += bytes(-len(options) % 4)
    header = build(
        PEER_PORT,
        b.sport,
        sk.rcv_nxt + seq,
        sk.snd_una + ack,
        flags,
        window,
        options,
        urg,
    )
    b.deliver(b.ip(header, data))
    if after:
        b.run(after)


def _check_host(b: Bench) -> None:
    host = b.stack.tcp
    for key, owner in host.established.items():
        assert owner.key == key
        if isinstance(owner, TcpSock):
            owner.receive_queue.check()
            owner.ofo_queue.check()
            owner.sacks.check()
            held = sum(skb.truesize for skb in owner.receive_queue) + owner.ofo_queue.truesize
            assert owner.rmem_alloc == held + sum(e.charge for e in owner.error_queue or ())
    assert host.tw_count == sum(isinstance(o, TimeWait) for o in host.established.values())
    for sk in host.sockets():
        if sk.accept_queue is not None:
            queue = sk.accept_queue
            assert queue.half_open <= queue.max_backlog + 1
            assert len(queue) <= queue.max_backlog + 1
            assert 0 <= queue.young <= queue.half_open


@pytest.mark.parametrize("make", STATES, ids=lambda make: make.__name__.strip("_"))
@settings(max_examples=60)
@given(st.lists(_SEGMENT, min_size=1, max_size=12))
def test_any_segments_in_any_state(make, segments):
    b = make()
    for segment in segments:
        _inject(b, **segment)
        _check_host(b)
        if b.sk.state == 1:
            with contextlib.suppress(BlockingIOError):
                b.recv(50)
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                b.send(30)


@pytest.mark.parametrize("make", STATES, ids=lambda make: make.__name__.strip("_"))
@settings(max_examples=40)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=8), st.booleans())
def test_any_bytes_as_a_tcp_segment(make, blobs, right_ports):
    """Whatever follows the IP header, with the right ports or with any."""
    b = make()
    for blob in blobs:
        ports = PEER_PORT.to_bytes(2, "big") + PORT.to_bytes(2, "big") if right_ports else b""
        raw = ports + blob
        if len(raw) >= 18:
            b.deliver(b.ip(raw[:18] + b"\0\0", raw[18:]))
        else:
            total = (20 + len(raw)).to_bytes(2, "big")
            head = b"\x45\0" + total + b"\0\0\x40\0\x40\x06\0\0" + b.peer + b.local
            b.deliver(head + raw)
        _check_host(b)


@given(st.lists(_SEGMENT, min_size=5, max_size=40))
@settings(max_examples=40)
def test_a_peer_cannot_grow_anything_without_bound(segments):
    b = _busy()
    for segment in segments * 3:
        segment = {**segment, "after": 0, "data": b"y" * 7}
        _inject(b, **segment)
    sk = b.sk
    assert sk.rmem_alloc <= sk.rcvbuf + 2304 + 4096
    assert len(sk.ofo_queue) * 832 <= sk.rcvbuf + 4096
    assert len(b.stack.tcp.established) <= 1
    assert len(b.stack.deadlines) < 80


def test_a_flood_of_syns_is_bounded():
    b = Bench.listening(backlog=100)
    for port in range(1, 5000):
        b.inject("S", seq=0, sport=port, options=b.peer_syn_options())
    assert b.sk.accept_queue.half_open == 101
    assert len(b.stack.tcp.established) == 101
    assert len(b.stack.deadlines) < 300
    b.run(64_000)
    assert not b.stack.tcp.established


def test_one_byte_segments_far_apart_are_bounded():
    """The costliest thing a peer may send: holes everywhere."""
    b = Bench.connected(wscale=7)
    for i in range(5000):
        b.inject("A", seq=2 + 2 * i, data=b"x", ack=1)
    sk = b.sk
    assert sk.rmem_alloc <= sk.rcvbuf + 832
    assert len(sk.ofo_queue) <= sk.rcvbuf // 832 + 1


def test_time_wait_pairs_are_bounded():
    b = Bench.listening(backlog=400, tcp_max_tw_buckets=50)
    listener = b.sk
    for port in range(1000, 1200):
        b.inject("S", seq=0, sport=port, options=b.peer_syn_options())
        b.inject("FA", seq=1, ack=1, sport=port)
        b.sk = listener
        b.accept()
        b.close()
        b.inject("A", seq=2, ack=2, sport=port)
    for port in range(2000, 2200):
        b.inject("S", seq=0, sport=port, options=b.peer_syn_options())
        b.inject("A", seq=1, ack=1, sport=port)
        b.sk = listener
        b.accept()
        b.close()
        b.inject("FA", seq=1, ack=2, sport=port)
        b.take()
    assert b.stack.tcp.tw_count == 50
    assert len(b.stack.tcp.established) == 50
