"""The same experiment the other way round: a C program on the kernel, the echo on ustack.

Compiles `echo_integrity.c` with cc and runs it three times against an echo server on
ustack. What a C program sees of ustack is what it sees of any other host.

    python docs/examples/echo_integrity_c.py

Runs in a private network namespace of its own, as any user that may make one. Exit status
77 if there is no C compiler.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import trio

import ustack
from ustack.io.namespace import enter_private_network

SOURCE = Path(__file__).with_suffix("").with_name("echo_integrity.c")
NO_COMPILER, ROUNDS = 77, 10


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def main(program: str) -> bool:
    wrong = {}
    async with ustack.open_tun("ustack0") as stack, trio.open_nursery() as nursery:
        listeners = await stack.open_tcp_listeners(0, host="10.9.0.2")
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        port = listeners[0].socket.getsockname()[1]
        for how in ("once", "loop", "waitall"):
            print(f"-- {how}", flush=True)
            done = await trio.run_process([program, "10.9.0.2", str(port), how], check=False)
            wrong[how] = done.returncode
        nursery.cancel_scope.cancel()
    holds = 0 < wrong["once"] <= ROUNDS and wrong["loop"] == wrong["waitall"] == 0
    print("rounds that were wrong:", wrong)
    print("wrong without a full read, right with it:", "holds" if holds else "DOES NOT HOLD")
    return holds


if __name__ == "__main__":
    compiler = shutil.which("cc")
    if compiler is None:
        print("there is no C compiler (cc): install one to run this")
        raise SystemExit(NO_COMPILER)
    enter_private_network()
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/echo_integrity"
        subprocess.run([compiler, "-O2", "-pthread", "-o", program, str(SOURCE)], check=True)
        raise SystemExit(0 if trio.run(main, program) else 1)
