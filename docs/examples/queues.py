"""Where are my bytes after send() returned? One connection in virtual time, step by step.

Two hosts, 10 ms apart. At each step the program prints where every byte of the stream stands:

    write queue      accepted from the application, not sent yet
    rtx queue        sent and not acknowledged, kept to be sent again
    receive queue    at the peer, not read yet
    wq, rmem         what the two buffers are charged for that (SO_MEMINFO)

    python docs/examples/queues.py

Nothing in it is real time: the same table is printed every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from ustack.seeds import Seeds
from ustack.sim.build import Host, two_hosts
from ustack.sim.loop import Simulator
from ustack.sock.sock import AF_INET, MSG_MORE, SOCK_STREAM
from ustack.tcp.sock import TcpSock

MS = 1_000_000
DELAY = 10 * MS
PORT = 7
ADDRESS = bytes((10, 0, 0, 2))
SO_RCVBUF = (1, 8)


class Story:
    """The two ends of one connection, and the table of what happened to it."""

    def __init__(self) -> None:
        self.sim = Simulator(Seeds(1))
        self.left, self.right, _ = two_hosts(self.sim, delay=DELAY)
        self.rows: list[tuple[str, ...]] = [
            ("ms", "what happened", "write queue", "rtx queue", "receive queue", "wq", "rmem")
        ]
        self.start = 0

    def socket(self, host: Host) -> TcpSock:
        sk = cast(TcpSock, host.stack.socket(AF_INET, SOCK_STREAM))
        sk.nonblocking = True
        return sk

    def connect(self) -> None:
        """A listener with a small buffer, and a connection to it."""
        listener = self.socket(self.right)
        prot, now = listener.prot, self.sim.now
        prot.setsockopt(listener, *SO_RCVBUF, (20_000).to_bytes(4, "little"), now)
        prot.bind(listener, (b"", PORT), now)
        prot.listen(listener, 1, now)
        self.sender = self.socket(self.left)
        try:
            prot.connect(self.sender, (ADDRESS, PORT), now)
        except BlockingIOError:
            pass  # under way
        self.sim.flush()
        self.sim.run_until(5 * DELAY)
        self.receiver = cast(TcpSock, prot.accept(listener, self.sim.now))
        self.start = self.sim.now

    def step(self, text: str, act: Callable[[int], object] | None = None, ms: int = 0) -> None:
        """Call the core, or let time pass; then look."""
        if act is not None:
            result = act(self.sim.now)
            text = text.format(result)
            self.sim.flush()
        if ms:
            self.sim.run_until(self.sim.now + ms * MS)
        a, b = self.sender, self.receiver
        self.rows.append(
            (
                str((self.sim.now - self.start) // MS),
                text,
                str(a.write_seq - a.snd_nxt),
                str(a.snd_nxt - a.snd_una),
                str(b.rcv_nxt - b.copied_seq),
                str(a.wmem_queued),
                str(b.rmem_alloc),
            )
        )

    def send(self, size: int, flags: int = 0) -> Callable[[int], object]:
        sk = self.sender
        return lambda now: sk.prot.sendmsg(sk, bytes(size), flags, now)

    def recv(self, size: int) -> Callable[[int], object]:
        sk = self.receiver
        return lambda now: getattr(sk.prot.recvmsg(sk, size, 0, now), "len", None)

    def table(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 1 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in self.rows
        ]
        return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def tell() -> Story:
    story = Story()
    story.connect()
    step, send, recv = story.step, story.send, story.recv
    step("connected")
    step("send(100, MSG_MORE) returned {}", send(100, MSG_MORE))
    step("send(50) returned {}", send(50))
    step("9 ms later: on the wire", ms=9)
    step("it has arrived", ms=2)
    step("its ACK has arrived", ms=10)
    step("recv(60) returned {}", recv(60))
    step("recv(60000) returned {}", recv(60000))
    step("send(30000) returned {}", send(30000))
    step("a round trip later", ms=21)
    step("and another: the peer does not read", ms=21)
    step("200 ms later", ms=200)
    step("recv(60000) returned {}", recv(60000))
    step("a round trip later", ms=31)
    step("recv(60000) returned {}", recv(60000))
    step("and all is acknowledged", ms=300)
    return story


def main() -> int:
    story = tell()
    print(story.table())
    sk, peer = story.sender, story.receiver
    empty = not sk.wmem_queued and not peer.rmem_alloc
    whole = peer.copied_seq == peer.rcv_nxt and sk.snd_una == sk.write_seq
    verdict = "holds" if empty and whole else "does not hold"
    print(f"\nWhat was acknowledged costs nothing, what was read costs nothing: {verdict}")
    return 0 if empty and whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
