"""The stack's half of the demo: runs the stack, follows the kernel's client, reports."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from ustack.cli.demo_client import WORKS
from ustack.cli.demo_queues import Endpoint, Queues, snapshot
from ustack.cli.demo_report import Progress, Result
from ustack.daemon.config import OTHER_SERVICES, Config
from ustack.daemon.daemon import serving
from ustack.observe.sock_diag import SockDiag

if TYPE_CHECKING:
    from ustack.sockets.stack import NetworkStack

USUAL_SECONDS = 2.0
LIMIT = 25.0  # s for everything, with bulk transfers of USUAL_SECONDS
_BULK_TRANSFERS = 4
_SHOWN = ("bulk out", 4)  # whose queues are shown


@dataclass(slots=True)
class Outcome:
    """All that the demo has found out."""

    results: list[Result] = field(default_factory=list)
    queues: Queues | None = None
    finished: bool = False

    @property
    def verified(self) -> bool:
        return self.finished and all(result.verified for result in self.results)


class Conductor:
    """Turns the client's events into results."""

    def __init__(self, stack: NetworkStack, hosts: list[str], seconds: float, out: Progress):
        self.outcome = Outcome()
        self._stack = stack
        self._seconds = seconds
        self._hosts = {6 if ":" in host else 4: host for host in hosts}
        self._out = out
        self._current: Result | None = None
        self._before = 0
        self._diag = SockDiag()
        self._taken: Queues | None = None  # the queues as last looked at

    def close(self) -> None:
        """What has not been reached is a result too."""
        self._diag.close()
        seen = {(result.work, result.family) for result in self.outcome.results}
        for family in self._hosts:
            for work in WORKS:
                if (work, family) not in seen:
                    self.outcome.results.append(Result(work, family))

    def handle(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "begin":
            self._begin(event["work"], event["family"])
        elif kind == "progress" and self._current is not None:
            self._progress(self._current, event)
        elif kind == "end" and self._current is not None:
            self._end(self._current, event)
        elif kind == "done":
            self.outcome.finished = True

    def _begin(self, work: str, family: int) -> None:
        self._current = Result(work, family, note="not finished")
        self.outcome.results.append(self._current)
        self._before = self._retransmitted()
        self._out.moving(self._current.title)

    def _progress(self, current: Result, event: dict[str, Any]) -> None:
        seconds = event["seconds"]
        current.bytes, current.seconds = event["bytes"], seconds
        self._out.moving(current.title, current.bytes, seconds)
        if (current.work, current.family) == _SHOWN and self.outcome.queues is None:
            self._look(current, seconds, tuple(event["local"]))

    def _look(self, current: Result, seconds: float, kernel: Endpoint) -> None:
        """Take the queues; show them once the transfer is half done and they hold something.
        The last ones taken are shown if that never happens."""
        ours = (self._hosts[current.family], OTHER_SERVICES["source"])
        when = f"{current.title} after {seconds:.1f} s"
        self._taken = snapshot(self._stack, self._diag, when, ours, kernel) or self._taken
        if self._taken is not None and not self._taken.empty and seconds >= self._seconds / 2:
            self._show(self._taken)

    def _show(self, queues: Queues) -> None:
        self.outcome.queues = queues
        self._out.line(f"\n{queues}\n")

    def _end(self, current: Result, event: dict[str, Any]) -> None:
        if self._taken is not None and self.outcome.queues is None:
            self._show(self._taken)
        current.verified = event["verified"]
        current.sent = event["sent"]
        current.bytes = event["bytes"]
        current.seconds = event["seconds"]
        current.note = event["note"]
        current.retrans_kernel = event["retrans"]
        current.retrans_ustack = self._retransmitted() - self._before
        self._out.ended(current)
        self._current = None

    def _retransmitted(self) -> int:
        return self._stack.sansio.mib["TcpRetransSegs"]


async def conduct(
    config: Config, version: str, channel: socket.socket, seconds: float, out: Progress
) -> Outcome:
    """Run the stack, have the client at the other end of `channel` do its work."""
    async with serving(config, version) as (stack, _):
        device = stack.statistics().devices[-1]
        how = "with" if config.offload else "without"
        out.line(
            f"ustack {version} on {config.tun}, mtu {device.mtu}, {how} offload, "
            f"in a private network namespace; the kernel is its peer."
        )
        conductor = Conductor(stack, config.hosts, seconds, out)
        try:
            with trio.move_on_after(LIMIT + _BULK_TRANSFERS * max(0.0, seconds - USUAL_SECONDS)):
                async for event in events(channel, {"hosts": config.hosts, "seconds": seconds}):
                    conductor.handle(event)
        finally:
            conductor.close()
        return conductor.outcome


async def events(channel: socket.socket, orders: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Start the client; what it tells, until it ends, however it does."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(channel))
    rest = b""
    try:
        await stream.send_all(json.dumps(orders).encode("ascii") + b"\n")
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
    except trio.BrokenResourceError:
        return
