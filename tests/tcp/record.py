"""Record what the kernel of this machine answers: `python -m tests.tcp.record`.

Rewrites tests/tcp/snapshots. Root or a user namespace is needed, some three minutes, and a
machine that is not busy: scripts go on 3 ms after each step.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.tcp import receiver_fuzz, segment_table, window_table
from tests.tcp.harness import Bench
from ustack.io.namespace import enter_private_network

SNAPSHOTS = Path(__file__).parent / "snapshots"
_ATTEMPTS = 3


def digest(value: Any) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()[:12]


def fuzz_keys() -> list[str]:
    return [f"{mode} {seed}" for mode in receiver_fuzz.MODES for seed in receiver_fuzz.SEEDS]


def play_fuzz(cls: type[Bench], key: str) -> str:
    mode, seed = key.split()
    return digest(receiver_fuzz.play(cls, mode, int(seed)))


def key_of(case: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in case)


def read(name: str) -> dict[str, str]:
    """A recording: case -> answer."""
    lines = (SNAPSHOTS / f"{name}.txt").read_text().splitlines()
    found: dict[str, str] = {}
    text = ""
    for line in lines:
        if line.startswith("    "):
            found.update(dict.fromkeys(line.strip().split("; "), text))
        elif not line.startswith("#"):
            text = line
    return found


def write(name: str, answers: dict[str, str]) -> None:
    """One line an answer, then the cases that have it."""
    by_answer: dict[str, list[str]] = {}
    for key, text in answers.items():
        by_answer.setdefault(text, []).append(key)
    lines = [f"# Linux {platform.release()}; see tests/tcp/record.py"]
    for text, keys in by_answer.items():
        lines.append(text)
        lines += ["    " + "; ".join(keys[i : i + 6]) for i in range(0, len(keys), 6)]
    SNAPSHOTS.mkdir(exist_ok=True)
    (SNAPSHOTS / f"{name}.txt").write_text("\n".join(lines) + "\n")


def _stubborn(play: Callable[[], str]) -> str:
    for attempt in range(_ATTEMPTS):
        try:
            return play()
        except (OSError, AssertionError):
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def main() -> None:
    enter_private_network()
    from tests.tcp.kernel_bench import KernelBench

    KernelBench.open_tun()
    chosen = sys.argv[1:] or ["segments", "windows", "receiver"]
    if "segments" in chosen:
        cases = {
            key_of(c): lambda c=c: json.dumps(segment_table.answer(KernelBench, c))
            for c in segment_table.CASES
        }
        write("segments", {key: _stubborn(play) for key, play in cases.items()})
    if "windows" in chosen:
        cases = {
            key_of(c): lambda c=c: json.dumps(window_table.answer(KernelBench, c))
            for c in window_table.CASES
        }
        write("windows", {key: _stubborn(play) for key, play in cases.items()})
    if "receiver" in chosen:
        plays = {key: lambda key=key: play_fuzz(KernelBench, key) for key in fuzz_keys()}
        write("receiver", {key: _stubborn(play) for key, play in plays.items()})


if __name__ == "__main__":
    main()
