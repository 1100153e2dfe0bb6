"""Does the fuzzer find what it should? Small faults planted in the stack, and who finds them.

A fault is a change of a few characters such as one makes: a boundary, a wrong constant, a
statement that was forgotten. The kernel's traces of many programs are recorded once, with
plans from the stack as it is; a program whose traces do not agree is left out. Then each
fault gets a process of its own (`mutant`), in which the module is loaded with the fault in
it, and plays the same programs with the same plans against the recordings, until one
diverges. Nothing else can differ, so that one has found the fault.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PROGRAMS, SEED = 800, 20
_WORKERS, _LIMIT = 2, 120  # processes at once, seconds for each


class Mutation(NamedTuple):
    """In `file` of the stack, `new` stands for `old`, which breaks a rule."""

    rule: str
    file: str
    old: str
    new: str

    @property
    def module(self) -> str:
        return "ustack." + self.file.removesuffix(".py").replace("/", ".")

    def apply(self, source: str) -> str:
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file} does not have exactly one {self.old!r}")
        return source.replace(self.old, self.new)

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.rule} {self.file}: {old} -> {new or 'nothing'}"


MUTATIONS = (
    Mutation(
        "A-1", "tcp/output.py",
        "    rear.set_pcount(mss_now)\n    sk.wmem_queued += TX_OVERHEAD\n",
        "    rear.set_pcount(mss_now)\n",
    ),
    Mutation("A-4", "tcp/sock.py", "self.sndbuf - queued >= queued >> 1", "queued < self.sndbuf"),
    Mutation(
        "A-11", "tcp/sock.py",
        "self.wmem_queued < self.sndbuf and self.write_seq - self.snd_nxt < (",
        "self.wmem_queued < self.sndbuf and self.write_seq - self.snd_nxt <= (",
    ),
    Mutation("A-22", "tcp/transmit.py", "skb.flags | PSH, now,", "skb.flags, now,"),
    Mutation("A-23", "tcp/output.py", "skb.len < skb.pcount * mss_now", "skb.len < mss_now"),
    Mutation(
        "A-23", "tcp/output.py", "sk.snd_una < sk.snd_sml <= sk.snd_nxt", "sk.snd_sml <= sk.snd_nxt"
    ),
    Mutation(
        "A-26", "tcp/probe.py", "    skb.flags |= PSH\n    skb.set_pcount(mss_now)\n",
        "    skb.set_pcount(mss_now)\n",
    ),
    Mutation("A-28", "tcp/sendmsg.py", "tail.len >= goal or tail.eor or", "tail.len >= goal or"),
    Mutation("A-33", "tcp/output.py", "sk.wmem_alloc < limit or", "sk.wmem_alloc <= limit or"),
    Mutation(
        "A-36", "tcp/ack.py", "if skb.pcount == 1 or una <= skb.seq:", "if una <= skb.seq:"
    ),
    Mutation("A-50", "tcp/ack.py", "if head.end_seq <= sk.wnd_end:", "if head.seq < sk.wnd_end:"),
    Mutation(
        "A-51", "tcp/ack.py", "(window > sk.snd_wnd or not window))\n    ):",
        "window > sk.snd_wnd)\n    ):",
    ),
    Mutation("A-60", "tcp/transmit.py", "return sk.snd_up - seq\n", "return sk.snd_up - seq - 1\n"),
    Mutation(
        "A-70", "tcp/lifecycle.py", "bool(sk.receive_queue) and end > sk.copied_seq",
        "bool(sk.receive_queue)",
    ),
    Mutation(
        "A-73", "tcp/timeouts.py", "sk.probes_out >= sk.keepalive_probes",
        "sk.probes_out > sk.keepalive_probes",
    ),
    Mutation(
        "A-75", "tcp/output.py", "    if sk.write_queue:\n        tail = sk.write_queue[-1]\n",
        "    if sk.write_queue and not sk.packets_out:\n        tail = sk.write_queue[-1]\n",
    ),
    Mutation("B-7", "tcp/sock.py", "avail >= target", "avail > target"),
    Mutation(
        "B-11", "tcp/recvmsg.py", "sk.peek_off = max(sk.peek_off - used, 0)",
        "sk.peek_off = sk.peek_off - used",
    ),
    Mutation("B-14", "tcp/recvmsg.py", "hint = max(hint, 1)", "pass"),
    Mutation("B-21", "tcp/recvmsg.py", "sk.copied_seq > sk.urg_seq", "sk.copied_seq >= sk.urg_seq"),
    Mutation("B-30", "tcp/data.py", "        dsack_set(sk, seg.seq, rcv_nxt)\n", ""),
    Mutation(
        "B-31", "tcp/recv_queue.py", "if skb.end_seq <= before.end_seq:",
        "if skb.end_seq < before.end_seq:",
    ),
    Mutation(
        "B-34", "tcp/rcvbuf.py", "min(sk.window_clamp, 2 * sk.advmss)",
        "min(sk.window_clamp, sk.advmss)",
    ),
    Mutation(
        "B-50", "tcp/acking.py", "if sk.rcv_nxt - sk.rcv_wup > sk.rcv_mss or (",
        "if sk.rcv_nxt - sk.rcv_wup >= sk.rcv_mss or (",
    ),
    Mutation("B-52", "tcp/acking.py", "received > sk.rcv_mss", "received >= 2 * sk.rcv_mss"),
    Mutation(
        "B-53", "tcp/timeouts.py", "sk.ato = min(sk.ato << 1,",
        "sk.ato = min(sk.ato,",
    ),
    Mutation("B-55", "tcp/sock.py", "MAX_QUICKACKS = 16", "MAX_QUICKACKS = 15"),
    Mutation("B-58", "tcp/sack.py", "NUM_SACKS = 4", "NUM_SACKS = 3"),
    Mutation("B-61", "tcp/window.py", "allowed_space >> 4", "allowed_space >> 3"),
    Mutation("B-63", "tcp/window.py", "        incr = 2 * advmss\n", "        incr = advmss\n"),
    Mutation(
        "B-70", "tcp/rcvbuf.py", "copied = sk.copied_seq - sk.rcvq_seq - inq",
        "copied = sk.copied_seq - sk.rcvq_seq",
    ),
    Mutation(
        "B-71", "tcp/sock.py", "need = space_from_win(self.rcvlowat, self.scaling_ratio)",
        "need = self.rcvlowat << 1",
    ),
)  # fmt: skip


class Found(NamedTuple):
    """What became of a fault: the program that diverges and how, "" if none does."""

    mutation: Mutation
    program: str
    kind: str
    played: int

    def __str__(self) -> str:
        if not self.kind:
            return f"NOT FOUND by {self.played} programs: {self.mutation}"
        return f'{self.mutation}\n    found as "{self.kind}" by {self.program}'


def record(count: int = PROGRAMS, seed: int = SEED) -> bytes:
    """The recordings of the programs that agree, pickled."""
    from tests.fuzz.campaign import Campaign, draw
    from tests.fuzz.mutant import recording

    with Campaign(check=recording) as campaign:
        found = campaign.once(draw(count, seed))
    return pickle.dumps([one for one in found if one is not None])


def find(mutation: Mutation, recordings: Path) -> Found:
    """Play the programs on a stack with this fault until one diverges."""
    command = [sys.executable, "-m", "tests.fuzz.mutant", str(recordings)]
    done = subprocess.run(
        command, input=pickle.dumps(tuple(mutation)), capture_output=True, timeout=_LIMIT,
        cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{mutation}\n{done.stderr.decode()}")
    return Found(mutation, *pickle.loads(done.stdout))


def find_all(recordings: bytes) -> Iterator[Found]:
    """Each fault in turn."""
    with tempfile.NamedTemporaryFile() as file, ThreadPoolExecutor(_WORKERS) as pool:
        file.write(recordings)
        file.flush()
        yield from pool.map(lambda m: find(m, Path(file.name)), MUTATIONS)
