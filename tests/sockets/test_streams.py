"""Streams and listeners of one stack, over a stand-in for the core."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
import trio.testing

from tests.sockets.fakes import FakeSock, fake_stack
from ustack.sockets.resolver import Resolver

SIX, FOUR = bytes(15) + b"\6", b"\4\4\4\4"


def dual(stack) -> FakeSock:
    """Make `dual` a name with both families; returns the socket at the other end."""
    stack.resolver = Resolver({"dual": ["::6", "4.4.4.4"]})
    return stack.sansio.socket(socket.AF_INET, socket.SOCK_STREAM, 0)


async def test_the_first_address_that_answers_wins(autojump_clock) -> None:
    async with fake_stack() as stack:
        peer = dual(stack)
        stack.sansio.answers = {SIX: peer, FOUR: errno.ECONNREFUSED}
        stream = await stack.open_tcp_stream("dual", 80)
        assert stream.socket.getpeername() == ("::6", 80, 0, 0)
        assert stack.statistics().sockets == 1
        assert trio.current_time() == 0


async def test_a_refusal_starts_the_next_attempt_at_once(autojump_clock) -> None:
    async with fake_stack() as stack:
        peer = dual(stack)
        stack.sansio.answers = {SIX: errno.ENETUNREACH, FOUR: peer}
        stream = await stack.open_tcp_stream("dual", 80, local_address="4.4.4.1")
        assert stream.socket.getpeername() == ("4.4.4.4", 80)
        assert stream.socket.getsockname()[0] == "4.4.4.1"
        assert trio.current_time() == 0


async def test_silence_starts_the_next_attempt_after_a_while(autojump_clock) -> None:
    async with fake_stack() as stack:
        peer = dual(stack)
        stack.sansio.answers = {FOUR: peer}
        await stack.open_tcp_stream("dual", 80, happy_eyeballs_delay=0.25)
        assert trio.current_time() == pytest.approx(0.25)
        assert stack.statistics().sockets == 1


async def test_all_refusals_are_reported() -> None:
    async with fake_stack() as stack:
        dual(stack)
        stack.sansio.answers = {SIX: errno.ENETUNREACH, FOUR: errno.ECONNREFUSED}
        with pytest.raises(OSError, match="all attempts to connect to 'dual' port 80") as caught:
            await stack.open_tcp_stream("dual", 80)
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert {exc.errno for exc in cause.exceptions} == {errno.ENETUNREACH, errno.ECONNREFUSED}
        with pytest.raises(OSError) as caught:
            await stack.open_tcp_stream("4.4.4.4", 80)
        assert caught.value.errno == errno.ECONNREFUSED
        assert stack.statistics().sockets == 0
        with pytest.raises(socket.gaierror):
            await stack.open_tcp_stream("nowhere", 80)


async def test_arguments_are_looked_at_as_trios_functions_do() -> None:
    async with fake_stack() as stack:
        with pytest.raises(ValueError, match="host must be"):
            await stack.open_tcp_stream(None, 80)
        with pytest.raises(TypeError, match="port must be"):
            await stack.open_tcp_stream("4.4.4.4", "80")
        with pytest.raises(TypeError, match="backlog must be"):
            await stack.open_tcp_listeners(0, backlog=1.0)
        stack.resolver = Resolver({"empty": []})
        with pytest.raises(OSError, match="no address found"):
            await stack.open_tcp_stream("empty", 80)


async def test_no_delay_is_the_usual_one(autojump_clock) -> None:
    async with fake_stack() as stack:
        peer = dual(stack)
        stack.sansio.answers = {FOUR: peer}
        await stack.open_tcp_stream("dual", 80, happy_eyeballs_delay=None)
        assert trio.current_time() == pytest.approx(0.25)


async def test_cancelling_leaves_nothing_open() -> None:
    async with fake_stack() as stack:
        dual(stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stack.open_tcp_stream, "dual", 80)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert stack.statistics().sockets == 0


async def test_listeners() -> None:
    async with fake_stack() as stack:
        four, six = sorted(
            await stack.open_tcp_listeners(80), key=lambda listener: listener.socket.family
        )
        assert four.socket.getsockname() == ("0.0.0.0", 80)
        assert six.socket.getsockname() == ("::", 80, 0, 0)
        assert four.socket.sk.calls == [("listen", 0xFFFF)]
        one = 1
        assert four.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == one
        assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == one
        (only,) = await stack.open_tcp_listeners(81, host="10.0.0.1", backlog=5)
        assert only.socket.sk.calls == [("listen", 5)]
        with pytest.raises(TypeError):
            await stack.open_tcp_listeners("80")


async def test_a_listener_that_cannot_be_had_leaves_none_open() -> None:
    async with fake_stack() as stack:
        stack.resolver = Resolver({"some": ["10.0.0.1", "1.1.1.1"]})
        with pytest.raises(OSError) as caught:
            await stack.open_tcp_listeners(80, host="some")
        assert caught.value.errno == errno.EINVAL
        assert stack.statistics().sockets == 0


async def test_serve_tcp() -> None:
    async with fake_stack() as stack, trio.open_nursery() as nursery:
        served = []

        async def handler(stream: trio.SocketStream) -> None:
            served.append(await stream.receive_some())

        listeners = await nursery.start(
            lambda task_status: stack.serve_tcp(
                handler, 80, host="10.0.0.1", task_status=task_status
            )
        )
        child = stack.sansio.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        child.inbox.append((b"hello", None))
        listening = listeners[0].socket.sk
        listening.backlog.append(child)
        listening.data_ready()
        await trio.testing.wait_all_tasks_blocked()
        assert served == [b"hello"]
        nursery.cancel_scope.cancel()


async def test_a_trio_program_runs_on_it_unchanged() -> None:
    async with fake_stack() as stack:
        peer = dual(stack)
        trio.socket.set_custom_socket_factory(stack.socket_factory())
        trio.socket.set_custom_hostname_resolver(stack.hostname_resolver())
        stack.sansio.answers = {SIX: errno.ENETUNREACH, FOUR: peer}
        stream = await trio.open_tcp_stream("dual", 80)
        assert stream.socket.sk.peer is peer
        listeners = await trio.open_tcp_listeners(80)
        assert {type(listener.socket) for listener in listeners} == {type(stream.socket)}
        datagrams = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        assert datagrams.type == socket.SOCK_DGRAM
        assert datagrams.fileno() >= 1 << 30
