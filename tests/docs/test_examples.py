"""The examples of the README run, as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.docs.documents import README, ROOT, examples
from tools.testbed import NEAR4, Direct

TUN, *MEMORY = examples(README)
LAST_LINE = "\n\n\ntrio.run(main)\n"
POLL_S = 0.005  # nothing tells another program that an example listens now


def main_of(example: str) -> Callable[[], Awaitable[None]]:
    """The example's `main`, not run yet."""
    assert example.endswith(LAST_LINE)
    names: dict[str, Any] = {}
    exec(compile(example.removesuffix(LAST_LINE), "README.md", "exec"), names)
    main: Callable[[], Awaitable[None]] = names["main"]
    return main


@pytest.mark.parametrize("example", MEMORY, ids=["streams", "unchanged program"])
def test_stacks_in_memory(example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("b'hello'\n")


def test_the_table_of_sockets_is_as_ss_prints_it(capfd: pytest.CaptureFixture[str]) -> None:
    trio.run(main_of(MEMORY[0]))
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["Netid", "State", "Recv-Q", "Send-Q"]
    assert "cwnd:10" in lines[3]


async def connected(host: str, port: int) -> trio.SocketStream:
    """A connection by the kernel, as soon as somebody listens."""
    while True:
        sock = trio.socket.socket()
        try:
            await sock.connect((host, port))
            return trio.SocketStream(sock)
        except OSError:
            sock.close()
            await trio.sleep(POLL_S)


@pytest.mark.kernel
async def test_a_stack_on_a_tun_echoes_what_the_kernel_sends() -> None:
    with Direct() as bed, bed.near.entered(), trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main_of(TUN))
            async with await connected(NEAR4, 7) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
                assert await stream.receive_some() == b""
