"""An echo server with one select() loop and no task for each client.

The classic shape: one listening socket, a set of connections, select() says which of them
has something to read or room to write. Five clients talk to it at once, one of them slowly.

    python docs/examples/select_echo.py

Two stacks in memory: needs no rights.
"""

from __future__ import annotations

import socket

import trio

import ustack

CLIENTS, SIZE, PORT = 5, 200_000, 7


async def serve(listener: ustack.SocketType) -> None:
    """Echo for ever. Every socket is non-blocking: select() alone waits."""
    listener.setblocking(False)
    waiting: dict[ustack.SocketType, bytearray] = {}  # what each client is still to get
    finished: set[ustack.SocketType] = set()  # those that will send nothing more
    while True:
        hungry = [s for s in waiting if s not in finished and len(waiting[s]) < 65536]
        writing = [s for s in waiting if waiting[s]]
        readable, writable, _ = await ustack.select([listener, *hungry], writing, [])
        for sock in readable:
            if sock is listener:
                conn, peer = await listener.accept()
                conn.setblocking(False)
                waiting[conn] = bytearray()
                print("a connection from", peer)
                continue
            data = await sock.recv(16384)
            waiting[sock] += data
            if not data:
                finished.add(sock)
        for sock in writable:
            del waiting[sock][: await sock.send(waiting[sock])]
        for sock in [s for s in finished if not waiting[s]]:
            finished.remove(sock)
            del waiting[sock]
            sock.close()


async def talk(stack: ustack.NetworkStack, number: int, results: list[bool]) -> None:
    sent = ustack.Seeds(number).stream("client").randbytes(SIZE)
    got = bytearray()
    stream = await stack.open_tcp_stream("10.9.0.1", PORT)
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            for at in range(0, SIZE, 5000):
                await stream.send_all(sent[at : at + 5000])
                await trio.sleep(0.01 if number == 0 else 0)
            await stream.send_eof()

        nursery.start_soon(send)
        async for data in stream:
            got += data
    print(f"client {number}: {len(got)} bytes came back,", "right" if got == sent else "WRONG")
    results.append(got == sent)


async def main() -> bool:
    results: list[bool] = []
    async with ustack.open_memory_pair() as (client, server), trio.open_nursery() as nursery:
        listener = server.socket(socket.AF_INET, socket.SOCK_STREAM)
        await listener.bind(("", PORT))
        listener.listen()
        nursery.start_soon(serve, listener)
        with trio.move_on_after(30):
            async with trio.open_nursery() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(talk, client, number, results)
        nursery.cancel_scope.cancel()
    holds = results == [True] * CLIENTS
    print("one loop serves all:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if trio.run(main) else 1)
