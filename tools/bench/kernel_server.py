"""The reference: the services of `service.py` on kernel sockets and one epoll.

What the kernel does at both ends with as little program as possible; the same program on
trio, and so the cost of trio, is `server.py --stack kernel`.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
from collections.abc import Callable

from tools import testbed
from tools.bench import service

Handler = Callable[[int], None]
BUFFER = 256 * 1024  # larger ones fall out of the CPU caches


class Server:
    """One epoll; a callback for each descriptor."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.scratch = bytearray(BUFFER)
        self.zeros = bytes(BUFFER)
        self.running = True

    def add(self, fd: int, events: int, handler: Handler) -> None:
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def close(self, conn: socket.socket) -> None:
        del self.handlers[conn.fileno()]
        conn.close()

    def listen(self, family: int, port: int) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        service.prepare(sock)  # inherited by what it accepts
        self._bind(sock, port)
        sock.listen(4096)
        serve = {
            service.ECHO: self.echo,
            service.DISCARD: self.discard,
            service.SOURCE: self.source,
            service.UPLOAD: self.upload,
            service.DOWNLOAD: self.download,
        }[port]

        def accept(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    conn, _ = sock.accept()
                    conn.setblocking(False)
                    serve(conn)

        self.add(sock.fileno(), select.EPOLLIN, accept)

    def _bind(self, sock: socket.socket, port: int) -> None:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", port))

    def echo(self, conn: socket.socket) -> None:
        def ready(_: int) -> None:
            data = conn.recv(65536)
            if data:
                conn.send(data)  # pingpong and connect have one byte on the way
            else:
                self.close(conn)

        self.add(conn.fileno(), select.EPOLLIN, ready)

    def discard(self, conn: socket.socket) -> None:
        counted = 0

        def ready(_: int) -> None:
            nonlocal counted
            nbytes = conn.recv_into(self.scratch, BUFFER, socket.MSG_TRUNC)
            counted += nbytes
            if not nbytes:
                conn.send(service.LENGTH.pack(counted))
                self.close(conn)

        self.add(conn.fileno(), select.EPOLLIN, ready)

    def source(self, conn: socket.socket) -> None:
        def ready(_: int) -> None:
            conn.send(self.zeros)

        self.add(conn.fileno(), select.EPOLLOUT, ready)

    def upload(self, conn: socket.socket) -> None:
        receipt = service.Receipt(32_000_000)

        def ready(_: int) -> None:
            nbytes = conn.recv_into(receipt.room())
            if nbytes:
                receipt.got(nbytes)
                return
            conn.send(receipt.line())
            self.close(conn)

        self.add(conn.fileno(), select.EPOLLIN, ready)

    def download(self, conn: socket.socket) -> None:
        left = memoryview(b"")

        def ready(events: int) -> None:
            nonlocal left
            if events & select.EPOLLIN:
                request = conn.recv(8)
                if not request:
                    self.close(conn)
                    return
                left = memoryview(service.payload(*service.LENGTH.unpack(request)))
            left = left[conn.send(left) :]
            if left:
                self.epoll.modify(conn.fileno(), select.EPOLLOUT)
            else:
                conn.shutdown(socket.SHUT_WR)
                self.epoll.modify(conn.fileno(), select.EPOLLIN)

        self.add(conn.fileno(), select.EPOLLIN, ready)

    def listen_udp(self, family: int) -> None:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        self._bind(sock, service.ECHO)

        def ready(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, peer = sock.recvfrom(2048)
                    sock.sendto(data, peer)

        self.add(sock.fileno(), select.EPOLLIN, ready)

    def control(self, _: int) -> None:
        if sys.stdin.readline():
            print(json.dumps(testbed.read_counters()), flush=True)
        else:
            self.running = False

    def run(self) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in service.TCP_PORTS:
                self.listen(family, port)
            self.listen_udp(family)
        self.add(sys.stdin.fileno(), select.EPOLLIN, self.control)
        print("serving", flush=True)
        while self.running:
            for fd, events in self.epoll.poll():
                try:
                    self.handlers[fd](events)
                except BlockingIOError:
                    continue
                except OSError:  # the peer reset it; the handler held the last reference
                    del self.handlers[fd]


if __name__ == "__main__":
    service.raise_file_limit()
    Server().run()
