"""Where ustack is known to differ from the kernel: each entry is one rule and says when.

An entry is a predicate over both traces and the index of the first event in which they
differ. It is as narrow as the rule; what comes after such a divergence is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.fuzz.compare import differing
from tests.sockets.parity.trace import Event, Trace
from tests.sockets.parity.trial import LOCAL4, MSG_MORE

_NO_SOURCES = tuple(f"('src', '{name}')" for name in ("us", "lo", "group"))
CHECKSUM_BREAK = 76  # bytes of UDP that a kernel verifies at once


def unverified(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-30: the kernel verifies a long datagram when it comes to be read, and until then
    charges one whose checksum is wrong if it is behind another; ustack verifies at arrival."""
    fields = differing(kernel, ustack, at)
    if not fields or not any(_is_bad(event) for event in kernel.events[:at]):
        return False
    signs = {"rmem": 1, "drops": -1}  # what is more there is still to be dropped
    return all(
        (theirs - ours) * signs.get(name.partition(".")[2], 0) > 0
        for name, (theirs, ours) in fields.items()
    )


def _is_bad(event: Any) -> bool:
    words = event.text.split()
    if event.kind != "peer" or words[0] != "dgram" or int(words[1]) + 8 <= CHECKSUM_BREAK:
        return False
    return "('csum', 4660)" in event.text or "('length'" in event.text


def redirected(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-5: connect redirects the pending datagram, which still takes the route of its first
    call. On the kernel a packet carries its route over loopback, and is delivered by it
    whatever its address; and where connect to an IPv4 peer has written over the addresses of
    a pending IPv6 datagram, an error says so."""
    pending: set[str] = set()
    ever: set[str] = set()
    moved: set[str] = set()
    caller = ""
    for event in kernel.events[: at + 1]:
        if event.kind == "call":
            caller, _, call = event.text.partition(".")
            if call.startswith("connect(") and caller in pending:
                moved.add(caller)
                ever.add(caller)
        elif event.kind == "state" and event is not kernel.events[at]:
            pending = {name[:2] for name, n in event.value.items() if name[2:] == ".wmem" and n}
            if caller in moved and caller not in pending:
                moved.discard(caller)
    pair = [str(t.events[at].value).split(" from ") for t in (kernel, ustack) if at < len(t.events)]
    if len(pair) == 2 and len(pair[0]) == 2 and pair[0][0] == pair[1][0]:
        return caller in ever and "flags 0x20" in pair[0][0]
    return caller in moved or _to_group(kernel.events[:at])


def outgrown(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-5: path MTU discovery has been switched on since the first call, and what is pending
    is found too long when it leaves: the kernel also sends itself an ICMP error, or cuts it for
    IP_PMTUDISC_INTERFACE."""
    fields = differing(kernel, ustack, at)
    calls = [event.text for event in kernel.events[:at] if event.kind == "call"]
    caller = calls[-1].partition(".")[0] if calls else ""
    switched = any(
        call.startswith(f"{caller}.setsockopt({option}, {value}")
        for call in calls
        for option in ("0, 10", "41, 23")
        for value in ("02", "03", "04")
    )
    if switched and not fields and at < len(ustack.events):
        return ustack.events[at].value == "EMSGSIZE"
    return switched and bool(fields) and all(
        name in (f"{caller}.poll", f"{caller}.rmem")
        and (theirs > ours if name.endswith("rmem") else "ERR" in theirs and "ERR" not in ours)
        for name, (theirs, ours) in fields.items()
    )  # fmt: skip


def _to_group(events: list[Event]) -> bool:
    """The last call is a send to the peer, which a corked send to many has redirected."""
    calls = [event.text for event in events if event.kind == "call"]
    caller, _, last = calls[-1].partition(".") if calls else ("", "", "")
    many = ("('group'", "('mgroup'", "('bcast'", "('limited'")
    corked = [c for c in calls if c.startswith(f"{caller}.send(") and any(h in c for h in many)]
    return last.startswith("send(") and ", None, " in last and any(
        int(call.split(", ")[1], 16) & MSG_MORE for call in corked
    )  # fmt: skip


def forgotten(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-45: IP_MTU says ENOTCONN when the route of a connected socket has been found to be out
    of date, as after a change of groups, and no other has been looked for yet."""
    if at >= min(len(kernel.events), len(ustack.events)):
        return False
    theirs, ours = kernel.events[at], ustack.events[at]
    asked = theirs.text.endswith(("getsockopt(0, 14)", "getsockopt(41, 24)"))
    joined = any(
        f".setsockopt({option}, " in event.text and str(event.value) == "ok"
        for event in kernel.events[:at]
        for option in ("0, 35", "0, 36", "41, 20", "41, 21")
    )
    return asked and joined and theirs.value == "ENOTCONN" and isinstance(ours.value, int)


def dead_route(kernel: Trace, ustack: Trace, at: int) -> bool:
    """F-11: when groups change, the kernel forgets its routes, and what is pending along one
    over loopback, or with a learned path MTU, is lost. Here it goes."""
    events = kernel.events[:at]
    pending: set[str] = set()
    stranded: set[str] = set()
    for event in events:
        if event.kind == "state":
            pending = {name[:2] for name, n in event.value.items() if name[2:] == ".wmem" and n}
        elif any(f".setsockopt(0, {name}, " in event.text for name in (35, 36)):
            stranded |= pending
    calls = [event.text[:2] for event in events if event.kind == "call"]
    theirs = kernel.events[at] if at < len(kernel.events) else None
    return theirs is not None and theirs.kind == "state" and bool(set(calls[-1:]) & stranded)


def stale_mtu(kernel: Trace, ustack: Trace, at: int) -> bool:
    """F-11: a path MTU that another socket's packet has brought is IP_MTU's answer after the
    next send; here at once."""
    if at >= min(len(kernel.events), len(ustack.events)):
        return False
    theirs, ours = kernel.events[at], ustack.events[at]
    learned = any(e.text.startswith(("icmp 3 4 ", "icmp 2 0 ")) for e in kernel.events[:at])
    asked = theirs.text.endswith(("getsockopt(0, 14)", "getsockopt(41, 24)"))
    both = isinstance(theirs.value, int) and isinstance(ours.value, int)
    return asked and learned and both and theirs.value > ours.value


def unasked(kernel: Trace, ustack: Trace, at: int) -> bool:
    """F-1: our own address or a group is refused as a source, but not by the kernel for a
    connected socket that has heard something: it keeps that route (`udp_v4_early_demux`)."""
    fields = differing(kernel, ustack, at)
    packets = [event for event in kernel.events[:at] if event.kind == "peer"]
    if not fields or not packets or not any(s in packets[-1].text for s in _NO_SOURCES):
        return False
    state = kernel.events[at].value
    never = (LOCAL4, "127.", "239.", "::ffff:239.")
    return all(state[f"{name[:2]}.peer"].startswith(never) for name in fields)


def condensed(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-26: what a half-full queue saves depends on what a datagram has in pages, which is not
    told by what it has cost: corked after 1472 bytes, or with UDP_SEGMENT."""
    fields = differing(kernel, ustack, at)
    state = kernel.events[at].value if fields else {}
    return bool(fields) and all(
        name.endswith(".rmem")
        and abs(theirs - ours) <= 1472
        and theirs > state[f"{name[:2]}.rcvbuf"] / 2
        for name, (theirs, ours) in fields.items()
    )


def shared(kernel: Trace, ustack: Trace, at: int) -> bool:
    """C-52: which socket of a SO_REUSEPORT group gets a datagram, or an error, is decided by a
    hash of the addresses with a secret: another of the group has got it."""
    fields = differing(kernel, ustack, at)
    sharing = _having(kernel.events[:at], ".setsockopt(1, 15, 01000000)")
    if not fields or not {name.partition(".")[0] for name in fields} <= sharing:
        return False
    if {name.partition(".")[2] for name in fields} <= {"poll", "rmem"}:  # an error
        names = [kernel.events[at].value[f"{label}.name"] for label in sharing]
        return len(set(names)) < len(names)
    for name in {name.partition(".")[2] for name in fields} - {"poll"}:
        pairs = [pair for key, pair in fields.items() if key.partition(".")[2] == name]
        if sorted(x for x, _ in pairs) != sorted(y for _, y in pairs):
            return False
    return True


def _having(events: list[Event], call: str) -> set[str]:
    """The sockets that have made that call."""
    return {e.text.partition(".")[0] for e in events if e.kind == "call" and call in e.text}


def burst(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-40: a stamp of departure of several segments comes with the first segment where the
    device cannot cut, with the whole burst here, which leaves less room."""
    events = kernel.events[:at]
    stamped = _having(events, ".setsockopt(1, 37, ") | _having(events, "(1, 37, ")
    cut = _having(events, ".setsockopt(17, 103, ") | _having(events, "(17, 103, ")
    fields = differing(kernel, ustack, at)
    if fields:
        return all(
            name[:2] in stamped & cut
            and (name.endswith(".drops") or (name.endswith(".rmem") and ours > theirs))
            for name, (theirs, ours) in fields.items()
        )
    pair = [trace.events[at] for trace in (kernel, ustack) if at < len(trace.events)]
    words = [str(event.value).split() for event in pair if event.text[:2] in stamped & cut]
    return len(words) == 2 and "bytes," in words[0] and words[0][3:] == words[1][3:]


def too_long_by_one(kernel: Trace, ustack: Trace, at: int) -> bool:
    """E-9: a socket that goes by the MTU of its device, loopback's 65536, may send 65508 bytes
    on the kernel, where they are lost for lack of a length, or found too long after all. Here
    that is EMSGSIZE, before anything else is looked at."""
    calls = [event for event in ustack.events[: at + 1] if event.kind == "call"]
    return bool(calls) and ".send(65508, " in calls[-1].text and calls[-1].value == "EMSGSIZE"


def by_loopback(kernel: Trace, ustack: Trace, at: int) -> bool:
    """C-53: what was sent to an address of this host has come by the device of the address, but
    what was sent to 0.0.0.0, or by SO_BINDTODEVICE to loopback, by that; here by the device."""
    events = kernel.events[:at]
    fields = differing(kernel, ustack, at)
    bound = _having(events, ".setsockopt(1, 25, ")
    calls = [event.text for event in events if event.kind == "call"]
    caller = calls[-1].partition(".")[0] if calls else ""
    to_any = any(
        f"('{host}', " in call or f"({host}, " in call for call in calls for host in ("any", "many")
    )
    by_lo = _having(events, ".setsockopt(1, 25, 6c6f00)")
    if not to_any and not (caller in by_lo if fields else by_lo):
        return False
    if fields:
        received = {name.partition(".")[2] for name in fields} <= {"inq", "rmem", "poll"}
        return received and any(name[:2] in bound for name in fields)
    pair = [str(t.events[at].value) for t in (kernel, ustack) if at < len(t.events)]
    ours = pair[-1].replace("(0, 8, 02000000", "(0, 8, 01000000") if pair else ""
    ours = re.sub(r"(\(41, 50, \w+)02000000\)", r"\g<1>01000000)", ours)
    return len(pair) == 2 and pair[0] == ours


LISTED: dict[str, Callable[[Trace, Trace, int], bool]] = {
    "C-52": shared,
    "C-53": by_loopback,
    "E-5": lambda kernel, ustack, at: any(
        applies(kernel, ustack, at) for applies in (redirected, outgrown)
    ),
    "E-9": too_long_by_one,
    "E-26": condensed,
    "E-30": unverified,
    "E-40": burst,
    "E-45": forgotten,
    "F-1": unasked,
    "F-11": lambda kernel, ustack, at: any(
        applies(kernel, ustack, at) for applies in (dead_route, stale_mtu)
    ),
}
