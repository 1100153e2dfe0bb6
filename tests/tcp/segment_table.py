"""Every kind of segment in every state, as scripts for a bench: what is answered, what the
socket then says. `CASES` names them, `answer` plays one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from tests.tcp.harness import Bench, Sent

Case: TypeAlias = tuple[str, str, str, str, int]
Answer: TypeAlias = list[Any]
FIONREAD = 0x541B

# -- the states ----------------------------------------------------------------------------


def _listen(cls: type[Bench]) -> Bench:
    return cls.listening()


def _request(cls: type[Bench]) -> Bench:
    b = cls.listening()
    b.inject("S", seq=0, ack=0, options=b.peer_syn_options())
    return b


def _syn_sent(cls: type[Bench]) -> Bench:
    return cls.syn_sent()


def _crossed_syns(cls: type[Bench]) -> Bench:
    b = cls.syn_sent()
    b.inject("S", seq=0, ack=0, options=b.peer_syn_options())
    return b


def _established(cls: type[Bench]) -> Bench:
    """20 bytes read, 30 sent and acknowledged."""
    b = _in_flight(cls)
    b.inject("A", ack=31)
    return b


def _in_flight(cls: type[Bench]) -> Bench:
    b = cls.connected()
    b.inject("A", data=b"a" * 20, ack=1)
    b.recv()
    b.send(30)
    return b


def _hole(cls: type[Bench]) -> Bench:
    b = _established(cls)
    b.inject("A", seq=31, data=b"c" * 10, ack=31)
    return b


def _shut_rd(cls: type[Bench]) -> Bench:
    b = _established(cls)
    b.shutdown(0)
    return b


def _close_wait(cls: type[Bench]) -> Bench:
    b = _established(cls)
    b.inject("FA", ack=31)
    return b


def _last_ack(cls: type[Bench]) -> Bench:
    b = _close_wait(cls)
    b.shutdown()
    return b


def _fin_wait1(cls: type[Bench]) -> Bench:
    b = _established(cls)
    b.shutdown()
    return b


def _fin_wait2(cls: type[Bench]) -> Bench:
    b = _fin_wait1(cls)
    b.inject("A", ack=32)
    return b


def _fin_wait2_shut(cls: type[Bench]) -> Bench:
    b = _fin_wait2(cls)
    b.shutdown(0)
    return b


def _closing(cls: type[Bench]) -> Bench:
    b = _fin_wait1(cls)
    b.inject("FA", ack=31)
    return b


def _time_wait(cls: type[Bench]) -> Bench:
    b = _fin_wait2(cls)
    b.inject("FA", ack=32)
    return b


def _orphan(cls: type[Bench]) -> Bench:
    b = _established(cls)
    b.close()
    return b


def _orphan_fin_wait2(cls: type[Bench]) -> Bench:
    b = _orphan(cls)
    b.inject("A", ack=32)
    return b


def _orphan_time_wait(cls: type[Bench]) -> Bench:
    b = _orphan_fin_wait2(cls)
    b.inject("FA", ack=32)
    return b


def _orphan_last_ack(cls: type[Bench]) -> Bench:
    b = _close_wait(cls)
    b.close()
    return b


def _reset(cls: type[Bench]) -> Bench:
    b = _established(cls)
    b.inject("RA", ack=31)
    return b


# name: (how to get there, our next sequence number as the peer knows it)
STATES: dict[str, tuple[Callable[[type[Bench]], Bench], int]] = {
    "LISTEN": (_listen, 1),
    "SYN-RECV": (_request, 1),
    "SYN-SENT": (_syn_sent, 1),
    "SYN-RECV/crossed": (_crossed_syns, 1),
    "ESTAB": (_established, 31),
    "ESTAB/flight": (_in_flight, 31),
    "ESTAB/hole": (_hole, 31),
    "ESTAB/shut-rd": (_shut_rd, 31),
    "CLOSE-WAIT": (_close_wait, 31),
    "LAST-ACK": (_last_ack, 32),
    "FIN-WAIT-1": (_fin_wait1, 32),
    "FIN-WAIT-2": (_fin_wait2, 32),
    "FIN-WAIT-2/shut-rd": (_fin_wait2_shut, 32),
    "CLOSING": (_closing, 32),
    "TIME-WAIT": (_time_wait, 32),
    "FIN-WAIT-1/orphan": (_orphan, 32),
    "FIN-WAIT-2/orphan": (_orphan_fin_wait2, 32),
    "TIME-WAIT/orphan": (_orphan_time_wait, 32),
    "LAST-ACK/orphan": (_orphan_last_ack, 32),
    "CLOSE": (_reset, 31),
}
PASSIVE = ("LISTEN", "SYN-RECV")

# -- the segments --------------------------------------------------------------------------

FLAGS = ("-", "A", "S", "SA", "F", "FA", "R", "RA", "P", "PA", "SF", "SFA", "SRA", "FPA", "SR")
SEQ = {"old": -15, "before": -1, "next": 0, "hole": 5, "beyond": 300_000}
ACK = {"all": 0, "less": -1, "old": -20, "future": 7}


def cases() -> Iterator[Case]:
    """(state, flags, sequence number, acknowledgment number, payload length)."""
    for state in STATES:
        for flags in FLAGS:
            for seq in SEQ:
                several = "A" in flags and seq in ("next", "before")
                for ack in ACK if several else ("all",):
                    yield state, flags, seq, ack, 8 if "P" in flags else 0
        for seq in ("old", "before", "next"):
            yield state, "A", seq, "all", 20
            yield state, "FA", seq, "all", 20


CASES = list(cases())


def answer(cls: type[Bench], case: Case) -> Answer:
    """What comes out, and what the socket says, after the segment, after a plain ACK that
    follows it, and of the calls then made."""
    state, flags, seq, ack, length = case
    make, snd_nxt = STATES[state]
    b = make(cls)
    b.take()
    next_seq = b.peer_seq
    b.inject(
        flags.strip("-"),
        seq=next_seq + SEQ[seq],
        ack=snd_nxt + ACK[ack],
        data=b"d" * length,
        options=b.peer_syn_options() if "S" in flags else None,
    )
    b.run(2)
    out = [shown(b.take(), state), status(b, state)]
    b.inject("A", seq=next_seq, ack=snd_nxt)
    b.run(2)
    out += [shown(b.take(), state), status(b, state)]
    if state not in PASSIVE and "orphan" not in state:
        out += [call(lambda: len(b.recv())), call(lambda: b.send(b"z")), shown(b.take(), state)]
    return out


def shown(sent: list[Sent], state: str) -> list[str]:
    """The segments sent. Whether a delayed ACK, or a SYN that a wrong ACK calls for, comes
    within these few ms is a matter of the kernel's ticks."""
    ticking = state.startswith("SYN-")
    return [line(s) for s in sent if not (ticking and s.flags in ("S", "A"))]


def line(s: Sent) -> str:
    seq = "zero" if s.flags == "RA" and not s.raw_seq else s.seq  # an absolute number
    ack = f" ack {s.ack}" if "A" in s.flags else ""
    sacks = "".join(f" {left}-{right}" for left, right in s.sacks)
    return f"{s.flags} {seq}:{s.len}{ack}{sacks}" + (f" win {s.win}" if "R" in s.flags else "")


def status(b: Bench, state: str) -> str | None:
    """poll and FIONREAD."""
    if "orphan" in state:
        return None
    return f"{b.poll():x} {call(lambda: b.ioctl(FIONREAD))}"


def call(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except OSError as why:
        return errno.errorcode[why.errno or 0]
