"""One element of the send queues (Linux: `struct sk_buff` with `tcp_skb_cb`).

An Skb holds up to `size_goal` bytes of the stream, as views of what the application
passed. It is cut only on MSS boundaries: when the window or the congestion window lets
part of it go, and when a SACK block covers part of it. `pcount` is the number of
MSS-sized segments that it stands for; it is set when the Skb is first considered for
sending and is what all the packet counters (packets_out, sacked_out ...) add up.
"""

from __future__ import annotations

from ustack.wire.packet import Buffer

# `sacked` bits (Linux: TCPCB_*)
SACKED_ACKED = 1
SACKED_RETRANS = 2
LOST = 4
UNLISTED = 0x40  # RACK looks at it again when it has gone again (Linux: not tsorted)
EVER_RETRANS = 0x80

# Bounds the iovec of one write. The kernel's limit of 17 fragments is no limit to what is
# copied, since a fragment has up to 32 KiB: entries fill up to their goal. So here too.
MAX_PARTS = 64


class Skb:
    """`seq`..`end_seq` includes the SYN and FIN bits' sequence numbers; `len` does not.

    The delivery rate snapshot (`first_tx`, `tx_delivered`, `tx_delivered_at`,
    `is_app_limited`) exists once `tx_time` is set (`transmit_skb`).
    """

    first_tx: int
    tx_delivered: int
    tx_delivered_at: int
    is_app_limited: bool

    __slots__ = (
        "end_seq",
        "eor",
        "first_tx",
        "flags",
        "gso_size",
        "is_app_limited",
        "len",
        "page_end",
        "parts",
        "pcount",
        "sacked",
        "seq",
        "tx_delivered",
        "tx_delivered_at",
        "tx_mark",
        "tx_time",
    )

    def __init__(self, seq: int, flags: int = 0) -> None:
        self.seq = seq
        self.end_seq = seq
        self.parts: list[Buffer] = []
        self.len = 0
        self.flags = flags  # SYN, FIN, PSH, ACK bits for the header
        self.eor = False  # MSG_EOR: never merged with what follows
        self.page_end = 0  # where the last part ends in the page it was gathered in
        self.sacked = 0
        self.pcount = 0
        self.gso_size = 0  # the MSS that pcount was computed with
        self.tx_mark = 0  # the device has it until this much of `tx_charged` is released
        self.tx_time = 0  # ns, last transmission; 0 if never sent

    def append(self, part: Buffer, extend_last: bool) -> None:
        """Add payload; `extend_last`: `part` is the last part, grown in place."""
        if extend_last:
            n = len(part) - len(self.parts[-1])
            self.parts[-1] = part
        else:
            n = len(part)
            self.parts.append(part)
        self.len += n
        self.end_seq += n

    def take_front(self, nbytes: int) -> list[Buffer]:
        """Remove the first `nbytes` of payload and return them; seq is the caller's."""
        taken: list[Buffer] = []
        parts = self.parts
        need = nbytes
        while need:
            part = parts[0]
            if len(part) <= need:
                taken.append(part)
                need -= len(part)
                del parts[0]
            else:
                view = memoryview(part)
                taken.append(view[:need])
                parts[0] = view[need:]
                need = 0
        self.len -= nbytes
        return taken

    def set_pcount(self, mss: int) -> int:
        """Recompute and return the number of segments (at least one: SYN, FIN)."""
        self.gso_size = mss
        self.pcount = 1 if self.len <= mss else (self.len + mss - 1) // mss
        return self.pcount

    def check(self) -> None:
        """The invariants, for tests."""
        assert self.len == sum(len(part) for part in self.parts)
        assert self.end_seq - self.seq - self.len in (0, 1, 2)
