"""The queues on both ends of a connection in mid-transfer, side by side."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ustack.observe.sock_diag import KernelSocket, SockDiag, ss_command
from ustack.observe.ss import SsRow

if TYPE_CHECKING:
    from ustack.sockets.stack import NetworkStack

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Queues:
    """One connection at one moment; `command` is what `ss -tinm` says, if there is ss."""

    when: str
    ours: SsRow
    kernel: KernelSocket
    command: str

    @property
    def empty(self) -> bool:
        """Nothing is on its way, at either end."""
        return not (self.ours.send_q or self.kernel.rqueue)

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, ours, the kernel's)."""
        ours, kernel, info = self.ours, self.kernel, self.ours.info
        mem, their = ours.skmem, kernel.skmem
        rtt = f"{kernel.rtt_us / 1000:g}/{kernel.get('tcpi_rttvar') / 1000:g}"
        return [
            ("State", ours.state, kernel.state),
            ("Recv-Q", str(ours.recv_q), str(kernel.rqueue)),
            ("Send-Q", str(ours.send_q), str(kernel.wqueue)),
            ("notsent", str(info.get("notsent", 0)), str(kernel.notsent)),
            ("rmem/rcvbuf", f"{mem.rmem}/{mem.rcvbuf}", f"{their.rmem}/{their.rcvbuf}"),
            ("wmem/sndbuf", f"{mem.wmem}/{mem.sndbuf}", f"{their.wmem}/{their.sndbuf}"),
            ("wmem_queued", str(mem.wmem_queued), str(their.wmem_queued)),
            ("unacked", str(info.get("unacked", 0)), str(kernel.unacked)),
            ("cwnd", str(info.get("cwnd", 0)), str(kernel.cwnd)),
            ("snd_wnd", str(info.get("snd_wnd", 0)), str(kernel.get("tcpi_snd_wnd"))),
            ("mss", str(info.get("mss", 0)), str(kernel.get("tcpi_snd_mss"))),
            ("rtt, ms", str(info.get("rtt", "-")), rtt),
            ("rto, ms", str(info.get("rto", "-")), f"{kernel.rto_us / 1000:g}"),
            ("retrans", str(info.get("retrans", "0/0")), f"0/{kernel.retrans}"),
        ]

    def as_json(self) -> dict[str, Any]:
        both = {name: {"ustack": ours, "kernel": kernel} for name, ours, kernel in self.rows()}
        return {"when": self.when, **both}

    def __str__(self) -> str:
        head = ("", f"ustack {self.ours.local}", "kernel {}:{}".format(*self.kernel.local))
        rows = [head, *self.rows()]
        left, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"{self.when}: the queues on both ends", ""]
        lines += [f"  {a.ljust(left)}  {b.ljust(middle)}  {c}".rstrip() for a, b, c in rows]
        if self.command:
            lines += ["", "  the kernel's side by ss -tinm:", *indented(self.command)]
        return "\n".join(lines)


def indented(text: str) -> list[str]:
    return ["    " + line.strip() for line in text.splitlines()]


def snapshot(
    stack: NetworkStack, diag: SockDiag, when: str, ours: Endpoint, kernel: Endpoint
) -> Queues | None:
    """Both ends now; None if either has no such connection (any more).

    `kernel` is the kernel's end, as the kernel names it.
    """
    theirs = diag.lookup(kernel, ours)
    local, peer = printed(ours), printed(kernel)
    row = next((r for r in stack.ss().rows if (r.local, r.peer) == (local, peer)), None)
    if row is None or theirs is None:
        return None
    return Queues(when, row, theirs, ask_ss(kernel, ours))


def ask_ss(kernel: Endpoint, ours: Endpoint) -> str:
    """The connection as ss(8) shows it; nothing where ss is absent or does not answer."""
    command = ss_command(kernel, ours)
    if command is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1.0, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.rstrip()


def printed(end: Endpoint) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
