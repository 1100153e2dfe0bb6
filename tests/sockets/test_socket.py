"""The socket's own duties, over a stand-in for the core."""

from __future__ import annotations

import array
import copy
import errno
import gc
import inspect
import pickle
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from tests.sockets.fakes import CAPACITY, datagram_pair, fake_stack, join, stream_pair
from ustack.sockets.base import BaseSocket
from ustack.sockets.poll import Epoll
from ustack.sockets.socket import SocketType

V4 = ("10.0.0.1", 7)


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code


# -- the shape of the class ------------------------------------------------------------------


def test_has_every_name_of_trios_socket_type() -> None:
    theirs = {name for name in vars(trio.socket.SocketType) if not name.startswith("__")}
    ours = {*vars(SocketType), *vars(BaseSocket)}
    assert theirs <= ours


def test_calls_are_async_where_trios_are() -> None:
    from trio._socket import _SocketType

    for name, theirs in inspect.getmembers(_SocketType, inspect.isfunction):
        if not name.startswith("_"):
            ours = getattr(SocketType, name)
            assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs), name


async def test_is_a_trio_socket_with_its_attributes() -> None:
    async with fake_stack() as stack:
        sock = stack.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 17)
        assert isinstance(sock, trio.socket.SocketType)
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET6, socket.SOCK_DGRAM, 17)
        assert isinstance(sock.family, socket.AddressFamily)
        assert isinstance(sock.type, socket.SocketKind)
        assert "laddr=('::', 0, 0, 0)" in repr(sock)
        assert "raddr" not in repr(sock)
        assert not sock.get_inheritable()
        sock.set_inheritable(False)
        for call in (sock.dup, sock.detach, lambda: sock.set_inheritable(True)):
            with refused(errno.EOPNOTSUPP):
                call()


async def test_filenos_are_unique_and_no_real_descriptors() -> None:
    async with fake_stack() as stack:
        first, second = stack.socket(), stack.socket()
        assert first.fileno() >= 1 << 30
        assert first.fileno() != second.fileno()
        with refused(errno.EBADF):
            socket.socket(fileno=first.fileno())
        number = first.fileno()
        first.close()
        assert first.fileno() == -1
        assert stack.socket().fileno() != number
        assert repr(first) == "<ustack.SocketType [closed]>"


async def test_a_closed_socket_is_given_back() -> None:
    async with fake_stack() as stack:
        sock = stack.socket()
        with sock:
            pass
        sock.close()
        assert sock.fileno() == -1
        assert stack.sansio.made[0].closed
        assert stack.statistics().sockets == 0
        gone = weakref.ref(stack.sansio.made.pop())
        del sock
        gc.collect()
        assert gone() is None


async def test_every_call_on_a_closed_socket_is_ebadf() -> None:
    async with fake_stack() as stack:
        sock = stack.socket()
        sock.close()
        sock.close()
        buf = bytearray(10)
        sync = [
            sock.getsockname,
            sock.getpeername,
            sock.is_readable,
            sock.getblocking,
            sock.disconnect,
            sock.listen,
            lambda: sock.setblocking(False),
            lambda: sock.shutdown(1),
            lambda: sock.ioctl(1),
            lambda: sock.getsockopt(1, 1),
            lambda: sock.setsockopt(1, 1, 1),
            lambda: sock.sk,
        ]
        for call in sync:
            with refused(errno.EBADF):
                call()
        calls = [
            lambda: sock.bind(V4),
            lambda: sock.connect(V4),
            sock.accept,
            sock.wait_readable,
            sock.wait_writable,
            lambda: sock.recv(1),
            lambda: sock.recv_into(buf),
            lambda: sock.recvfrom(1),
            lambda: sock.recvfrom_into(buf),
            lambda: sock.recvmsg(1),
            lambda: sock.recvmsg_into([buf]),
            lambda: sock.send(b"x"),
            lambda: sock.sendto(b"x", V4),
            lambda: sock.sendmsg([b"x"]),
        ]
        for call in calls:
            with refused(errno.EBADF):
                await call()


# -- receiving ---------------------------------------------------------------------------------


async def test_the_receive_calls_on_a_stream() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        for data in (b"one", b"two", b"three", b"four", b"five", b"six"):
            assert await a.send(data) == len(data)
        buf = bytearray(b"........")
        assert await b.recv(2) == b"on"
        assert await b.recvfrom(100) == (b"e", None)
        assert await b.recv_into(buf, 2) == 2
        assert bytes(buf) == b"tw......"
        assert await b.recvfrom_into(buf) == (1, None)
        assert bytes(buf) == b"ow......"
        assert await b.recvmsg(100) == (b"three", [], 0, None)
        small, rest = bytearray(3), bytearray(10)
        assert await b.recvmsg_into([small, rest]) == (4, [], 0, None)
        assert bytes(small + rest[:1]) == b"four"
        assert await b.recv(100) == b"five"
        assert await b.recv_into(array.array("I", [0, 0])) == 3
        a.close()
        assert await b.recv(10) == b""


async def test_the_receive_calls_on_a_datagram_socket() -> None:
    async with fake_stack() as stack:
        a, b = datagram_pair(stack)
        await a.bind(V4)
        peers = [await _send_and(a, b.recvfrom(10)) for _ in range(2)]
        assert peers == [(b"ping", V4)] * 2
        assert peers[0][1] is peers[1][1]  # the address is made once
        buf = bytearray(10)
        assert await _send_and(a, b.recvfrom_into(buf)) == (4, V4)
        control = (0, 8, b"\x01\0\0\0")
        assert await _send_and(a, b.recvmsg(10, 64)) == (b"ping", [control], 0, V4)
        cut = await _send_and(a, b.recvmsg(10, socket.CMSG_LEN(1)))
        assert cut == (b"ping", [(0, 8, b"\x01")], socket.MSG_CTRUNC, V4)
        assert await _send_and(a, b.recvmsg(10)) == (b"ping", [], socket.MSG_CTRUNC, V4)


async def _send_and(sender, receive):
    await sender.send(b"ping")
    return await receive


async def test_bad_receive_arguments_are_refused_as_in_socket() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        await a.send(b"kept")
        with pytest.raises(ValueError, match="negative buffersize in recv"):
            await b.recv(-1)
        with pytest.raises(TypeError):
            await b.recv("1")
        with pytest.raises(TypeError):
            await b.recv(1.5)
        with pytest.raises(TypeError):
            await b.recv_into(b"read-only")
        with pytest.raises(ValueError, match="negative buffersize"):
            await b.recv_into(bytearray(4), -1)
        with pytest.raises(ValueError, match="greater than the length"):
            await b.recv_into(bytearray(4), 5)
        with pytest.raises(ValueError, match="ancillary"):
            await b.recvmsg(4, -1)
        with pytest.raises(TypeError):
            await b.recvmsg_into([b"read-only"])
        assert await b.recv(10) == b"kept"


# -- sending -----------------------------------------------------------------------------------


async def test_what_the_core_is_handed_never_changes() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        data = bytes(100)
        for given in (data, memoryview(data)[10:20], bytearray(b"abc"), array.array("H", [1, 2])):
            await a.send(given)
        sent = [call[1] for call in a.sk.calls]
        assert sent[0] is data
        assert sent[1].obj is data
        assert len(sent[1]) == 10
        assert type(sent[2]) is bytes
        assert sent[3] == array.array("H", [1, 2]).tobytes()


async def test_a_view_may_be_released_after_send() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        with memoryview(b"0123456789")[2:5] as view:
            await a.send(view)
        assert bytes(a.sk.calls[0][1]) == b"234"


async def test_sendto_and_sendmsg_pass_everything_on() -> None:
    async with fake_stack() as stack:
        a, _ = datagram_pair(stack)
        await a.sendto(b"x", V4)
        await a.sendto(b"y", socket.MSG_DONTWAIT, V4)
        control = [(0, 1, bytearray(b"\x05\0\0\0"))]
        await a.sendmsg([b"ab", bytearray(b"cd"), memoryview(b"ef")], control, 0x8000, V4)
        await a.sendmsg([])
        native = (b"\x0a\0\0\x01", 7)
        assert a.sk.calls == [
            ("sendmsg", b"x", 0, native, ()),
            ("sendmsg", b"y", socket.MSG_DONTWAIT, native, ()),
            ("sendmsg", b"abcdef", 0x8000, native, ((0, 1, b"\x05\0\0\0"),)),
            ("sendmsg", b"", 0, None, ()),
        ]


async def test_bad_send_arguments_are_type_errors() -> None:
    async with fake_stack() as stack:
        a, _ = datagram_pair(stack)
        calls = [
            lambda: a.send("text"),
            lambda: a.send(7),
            lambda: a.sendto(b"x"),
            lambda: a.sendto(b"x", 0, V4, 0),
            lambda: a.sendto(b"x", None),
            lambda: a.sendto("x", V4),
            lambda: a.sendmsg(b"x"),
            lambda: a.sendmsg(["x"]),
            lambda: a.sendmsg([b"x"], [(0, 1)]),
            lambda: a.sendmsg([b"x"], [(0, 1, "text")]),
        ]
        for call in calls:
            with pytest.raises(TypeError):
                await call()
        assert a.sk.calls == []


# -- waiting and cancelling -------------------------------------------------------------------


async def test_non_blocking_calls_raise_at_once() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        assert a.getblocking()
        with pytest.raises(BlockingIOError):
            await a.recv(1, socket.MSG_DONTWAIT)
        a.setblocking(False)
        assert not a.getblocking()
        with pytest.raises(BlockingIOError):
            await a.recv(1)
        assert await a.send(bytes(CAPACITY + 1)) == CAPACITY
        with pytest.raises(BlockingIOError):
            await a.send(b"x")
        made = stack.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        assert made.type == socket.SOCK_STREAM
        assert not made.getblocking()


async def test_a_loop_of_refused_calls_lets_others_run() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        ran = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_append, ran)
            while not ran:
                with pytest.raises(BlockingIOError):
                    await a.recv(1, socket.MSG_DONTWAIT)


async def _append(to: list) -> None:
    to.append(1)


async def test_calls_that_do_not_wait_let_others_run_once_in_a_while() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        ran = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_append, ran)
            calls = 0
            while not ran:
                await a.send(b"x")
                await b.recv(1)
                calls += 2
        assert stack.checkpoint_every // 2 <= calls <= stack.checkpoint_every * 2
        stack.checkpoint_every = 1
        with trio.testing.assert_checkpoints():
            await a.send(b"x")
        with trio.testing.assert_checkpoints():
            await b.recv(1)


async def test_a_cancelled_receive_takes_nothing() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        with trio.CancelScope() as scope:
            scope.cancel()
            await b.recv(10)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.recv, 10)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await a.send(b"still here")
        assert await b.recv(100) == b"still here"


async def test_a_cancelled_send_returns_what_was_accepted() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        sent = []

        async def send(n: int) -> None:
            sent.append(await a.send(bytes(n)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, CAPACITY + 500)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert sent == [CAPACITY]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert sent == [CAPACITY]
        assert len(await b.recv(10000)) == CAPACITY


async def test_a_cancelled_connect_closes_the_socket() -> None:
    async with fake_stack() as stack:
        sock = stack.socket()
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.connect(V4)
        assert sock.fileno() == -1
        sock = stack.socket()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.connect, V4)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert sock.fileno() == -1


async def test_close_wakes_every_blocked_call() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        await a.send(bytes(CAPACITY))
        blocked = [a.wait_writable, a.wait_readable, lambda: a.recv(1), lambda: a.send(b"x")]
        closed = []

        async def expect_closed(call) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await call()
            closed.append(call)

        async with trio.open_nursery() as nursery:
            for call in blocked:
                nursery.start_soon(expect_closed, call)
            await trio.testing.wait_all_tasks_blocked()
            a.close()
        assert len(closed) == len(blocked)
        listener, connecting = stack.socket(), stack.socket()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, listener.accept)
            nursery.start_soon(expect_closed, listener.accept)
            nursery.start_soon(expect_closed, lambda: connecting.connect(V4))
            await trio.testing.wait_all_tasks_blocked()
            listener.close()
            connecting.close()
        assert len(closed) == len(blocked) + 3


async def test_close_lets_a_partial_send_say_how_much() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        sent = []

        async def send() -> None:
            sent.append(await a.send(bytes(CAPACITY + 500)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            a.close()
        assert sent == [CAPACITY]


async def test_a_cancelled_send_says_how_much_though_a_close_follows() -> None:
    async with fake_stack() as stack:
        a, _ = stream_pair(stack)
        sent = []
        scope = trio.CancelScope()

        async def send() -> None:
            with scope:
                sent.append(await a.send(bytes(CAPACITY + 500)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            a.close()
        assert sent == [CAPACITY]
        assert not a._ended


async def test_close_and_wake_at_the_same_time() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await b.recv(10)

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await a.send(b"x")  # makes the receiver runnable; it has not run yet
            b.close()


async def test_two_tasks_cannot_share_a_stream_but_can_share_datagrams() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        await a.send(bytes(CAPACITY))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.recv, 1)
            nursery.start_soon(a.send, b"x")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await a.recv(1)
            with pytest.raises(trio.BusyResourceError):
                await a.recv_into(bytearray(1))
            with pytest.raises(trio.BusyResourceError):
                await a.send(b"y")
            nursery.cancel_scope.cancel()
        a, b = datagram_pair(stack)
        got = []

        async def receive() -> None:
            got.append(await b.recv(10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await a.send(b"1")
            await a.send(b"2")
        assert sorted(got) == [b"1", b"2"]


async def test_readiness() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        assert not b.is_readable()
        await a.wait_writable()
        await a.send(bytes(CAPACITY))
        assert b.is_readable()
        await b.wait_readable()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.wait_writable)
            await trio.testing.wait_all_tasks_blocked()
            await b.recv(CAPACITY)


# -- connections ---------------------------------------------------------------------------------


async def test_accept_wraps_what_the_core_returns() -> None:
    async with fake_stack() as stack:
        listener = stack.socket(socket.AF_INET6)
        listener.listen(5)
        assert listener.sk.calls == [("listen", 5)]
        for host in (b"\x0a\0\0\x07", bytes(15) + b"\x01"):
            child = stack.sansio.socket(socket.AF_INET6, socket.SOCK_STREAM, 0)
            child.daddr, child.dport = host, 99
            listener.sk.backlog.append(child)
        first, peer = await listener.accept()
        assert peer == ("::ffff:10.0.0.7", 99, 0, 0)
        assert first.getpeername() == peer
        assert first.family == socket.AF_INET6
        assert (await listener.accept())[1] == ("::1", 99, 0, 0)
        assert first.fileno() > listener.fileno()


async def test_connect_disconnect_and_names() -> None:
    async with fake_stack() as stack:
        sock = stack.socket(type=socket.SOCK_DGRAM)
        assert sock.getsockname() == ("0.0.0.0", 0)
        with refused(errno.ENOTCONN):
            sock.getpeername()
        await sock.bind(("", 53))
        assert sock.getsockname() == ("0.0.0.0", 53)
        await sock.connect(V4)
        assert sock.getpeername() == V4
        assert "raddr=('10.0.0.1', 7)" in repr(sock)
        sock.disconnect()
        with refused(errno.ENOTCONN):
            sock.getpeername()


async def test_shutdown_is_remembered_only_if_it_worked() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        with refused(errno.EINVAL):
            a.shutdown(3)
        a.shutdown(socket.SHUT_RD)
        assert not a.did_shutdown_SHUT_WR
        a.shutdown(socket.SHUT_WR)
        assert a.did_shutdown_SHUT_WR
        assert await b.recv(1) == b""


async def test_a_lingering_close_goes_on_in_the_background(autojump_clock) -> None:
    async with fake_stack() as stack:
        for close in ("close", "aclose"):
            sock = stack.socket()
            sk = sock.sk
            sk.linger, sk.linger_time = True, 5_000_000_000
            start = trio.current_time()
            if close == "close":
                sock.close()
                assert sk.calls == []
                await trio.sleep(5.1)
            else:
                await sock.aclose()
                assert trio.current_time() - start == pytest.approx(5)
            assert sk.calls == [("lingered",)]


# -- options --------------------------------------------------------------------------------------


async def test_options_as_ints_bytes_and_nothing() -> None:
    async with fake_stack() as stack:
        sock = stack.socket()
        sock.setsockopt(1, 7, -5)
        assert sock.getsockopt(1, 7) == -5
        assert sock.getsockopt(1, 7, 2) == b"\xfb\xff"
        sock.setsockopt(1, 7, True)
        assert sock.getsockopt(1, 7) == 1
        sock.setsockopt(6, 13, bytearray(b"reno"))
        assert sock.getsockopt(6, 13, 16) == b"reno"
        sock.setsockopt(socket.IPPROTO_IPV6, 1, None, 4)
        assert sock.getsockopt(socket.IPPROTO_IPV6, 1, 4) == bytes(4)
        with refused(errno.EFAULT):
            sock.setsockopt(1, 7, None, 4)
        with refused(errno.EINVAL):
            sock.setsockopt(1, 7, None, 0)
        with refused(errno.ENOPROTOOPT):
            sock.getsockopt(1, 99)
        for wrong in (("x",), (None,), (1.5,), (1, 4), (1 << 40,)):
            with pytest.raises(TypeError):
                sock.setsockopt(1, 7, *wrong)
        for length in (-1, 1025):
            with pytest.raises(OSError, match="out of range"):
                sock.getsockopt(1, 7, length)
        assert sock.ioctl(1) == 0


async def test_streams_and_listeners_of_trio_take_it() -> None:
    async with fake_stack() as stack:
        a, b = stream_pair(stack)
        left, right = trio.SocketStream(a), trio.SocketStream(b)
        assert a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 1 << 14
        await left.send_all(memoryview(b"hello"))
        await left.send_eof()
        assert [chunk async for chunk in right] == [b"hello"]
        await left.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some(1)
        right.socket.sk.err = errno.ECONNRESET
        with pytest.raises(trio.BrokenResourceError):
            await right.receive_some(1)
        with pytest.raises(ValueError, match="SOCK_STREAM"):
            trio.SocketStream(stack.socket(type=socket.SOCK_DGRAM))
        listening = stack.socket()
        listener = trio.SocketListener(listening)
        listening.sk.backlog.append(a_child := stack.sansio.socket(2, 1, 0))
        a_child.daddr, a_child.dport = b"\x0a\0\0\x01", 5
        accepted = await listener.accept()
        assert accepted.socket.sk is a_child


async def test_two_stacks_do_not_know_each_other() -> None:
    async with fake_stack() as one, fake_stack() as two:
        assert one.socket().fileno() == two.socket().fileno()
        join(one.socket(), one.socket())
        assert one.statistics().sockets == 3
        assert two.statistics().sockets == 1


async def test_a_socket_is_not_copied() -> None:
    """Two handles for one socket would not know of each other's close."""
    async with fake_stack() as stack:
        for owner in (stack.socket(), stack, Epoll()):
            for call in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot pickle"):
                    call(owner)
