"""Cork against no cork: the packets it saves, counted from a capture.

A hundred messages of ten bytes, over UDP and TCP: each sent by itself; with MSG_MORE on all
but the last; and between switching UDP_CORK or TCP_CORK on and off. The kernel is the other
end and gets the same bytes every time.

    python docs/examples/cork.py

Runs in a private network namespace of its own, as any user that may make one.
"""

from __future__ import annotations

import socket
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable

import dpkt
import trio

import ustack
from ustack.io.namespace import enter_private_network

UDP_CORK = 1
MESSAGES = [f"message {i:02}".encode() for i in range(100)]
HOST = "10.9.0.1"

Send = Callable[[ustack.SocketType], Awaitable[None]]


async def plain(sock: ustack.SocketType) -> None:
    for message in MESSAGES:
        await sock.send(message)


async def more(sock: ustack.SocketType) -> None:
    for message in MESSAGES[:-1]:
        await sock.send(message, socket.MSG_MORE)
    await sock.send(MESSAGES[-1])


async def corked(sock: ustack.SocketType) -> None:
    udp = sock.type == socket.SOCK_DGRAM
    option = (socket.IPPROTO_UDP, UDP_CORK) if udp else (socket.IPPROTO_TCP, socket.TCP_CORK)
    sock.setsockopt(*option, 1)
    await plain(sock)
    sock.setsockopt(*option, 0)


async def over_udp(stack: ustack.NetworkStack, send: Send) -> tuple[int, bytes]:
    """The port it went to, what came."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as peer:
        await peer.bind((HOST, 0))
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.connect(peer.getsockname())
            await send(sock)
        data = b""
        with trio.move_on_after(5):
            while len(data) < 1000:
                data += await peer.recv(65536)
        return peer.getsockname()[1], data


async def over_tcp(stack: ustack.NetworkStack, send: Send) -> tuple[int, bytes]:
    with trio.socket.socket() as listener:
        await listener.bind((HOST, 0))
        listener.listen()
        with stack.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            await sock.connect(listener.getsockname())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer, _ = await listener.accept()
            await send(sock)
        data = b""
        with peer, trio.move_on_after(5):
            while part := await peer.recv(65536):
                data += part
        return listener.getsockname()[1], data


def packets_with_data(path: str) -> Counter[int]:
    """How many packets with data each port got."""
    found: Counter[int] = Counter()
    with open(path, "rb") as file:
        for _, raw in dpkt.pcapng.Reader(file):
            segment = dpkt.ip.IP(raw).data if raw[0] >> 4 == 4 else None
            if isinstance(segment, (dpkt.tcp.TCP, dpkt.udp.UDP)) and segment.data:
                found[segment.dport] += 1
    return found


async def main() -> bool:
    results: dict[tuple[str, str], tuple[int, bytes]] = {}
    with tempfile.NamedTemporaryFile(suffix=".pcapng") as file:
        async with ustack.open_tun("ustack0", addresses=["10.9.0.2/24"], pcap=file.name) as stack:
            for over in (over_udp, over_tcp):
                for send in (plain, more, corked):
                    results[over.__name__, send.__name__] = await over(stack, send)
        counted = packets_with_data(file.name)
    packets = {key: counted[port] for key, (port, _) in results.items()}
    for (over_name, send_name), number in packets.items():
        print(f"{over_name:9} {send_name:7} {number:3} packets with data")
    whole = all(data == b"".join(MESSAGES) for _, data in results.values())
    # a stream's messages travel together once the congestion window of ten segments is full
    several = packets["over_udp", "plain"] == 100 and packets["over_tcp", "plain"] >= 10
    one = all(number == 1 for (_, how), number in packets.items() if how != "plain")
    holds = whole and several and one
    print("a cork makes one packet of them:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    enter_private_network()
    raise SystemExit(0 if trio.run(main) else 1)
