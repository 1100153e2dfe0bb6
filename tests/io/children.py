"""Run a piece of a test in a forked child: for what cannot be undone in a process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

_PR_SET_DUMPABLE = 4


def in_child(function: Callable[[], Any], seconds: int = 20) -> Any:
    """What `function` returns (as JSON allows), called in a child of this process.

    AssertionError with the child's traceback if it raises, or takes more than `seconds`.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        try:
            answer = {"value": function()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    assert data, f"the child ended with status {status}"
    answer = json.loads(data)
    assert "error" not in answer, answer["error"]
    return answer["value"]


def become_nobody() -> None:
    """An ordinary user, as a program that he has started is."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    # changing the user closes /proc/self to it, as exec would not
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
