"""A device queue: the place where a slow device makes a sender wait.

Problem: a TUN takes whatever it is given, at once, so nothing below a socket ever fills.
On a real interface packets wait in a queue, and what waits there is charged to its socket
until the device has taken it: UDP's EAGAIN, TCP small queues, autocorking and SO_MEMINFO
all rest on that charge.

Structure: a first-in first-out queue of at most `limit` packets (Linux: `pfifo_fast` and
`txqueuelen`) in front of another device, drained by a token bucket of `rate` bytes a
second that holds at most `burst` bytes (Linux: `sch_tbf`). Tokens are kept as the time
at which the bucket will have been empty: `_empty_at` moves on by each packet's time on
the wire and never falls more than a full bucket behind; a packet may pass once the bucket
holds its length, or is full. So there is no refill to compute and nothing ticks.

A packet that finds the queue empty and tokens in the bucket goes straight through with
the inner device's verdict. Else it waits (QUEUED, its charge is held) or is refused
(DROPPED). When it leaves, `tx_done(owner, charge, now)` gives the charge back, unless the
inner device itself holds the packet now and will do so.

Invariants: packets leave in the order in which they came; a super-segment is one packet
to `limit` and its wire length, with a header for every segment, to `rate`; `next_deadline`
is NEVER exactly when nothing waits. `tx_done` may send again from inside.

Sources: Linux `dev_queue_xmit`, `sch_fifo.c`, `sch_tbf.c`, `sock_wfree`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ustack.sock.deadlines import NEVER, Deadlines
from ustack.sock.dst import Device
from ustack.wire.packet import DROPPED, QUEUED, Packet

TXQUEUELEN = 500
SECOND = 1_000_000_000


def wire_length(packet: Packet) -> int:
    """Bytes on the wire, every segment with its own header (Linux: `qdisc_pkt_len`)."""
    total = len(packet.header) + packet.payload_len
    if 0 < packet.gso_size < packet.payload_len:
        total += (packet.payload_len - 1) // packet.gso_size * len(packet.header)
    return total


class Fifo(Device):
    """A queue of `limit` packets in front of `inner`.

    `rate` is bytes a second, 0 for as fast as `inner` takes them (then nothing waits).
    `burst` is how many bytes may leave at once after a pause. `clock` tells the core's
    time, since `xmit` is not told it; `deadlines` is the stack's heap.
    """

    def __init__(
        self,
        inner: Device,
        clock: Callable[[], int],
        deadlines: Deadlines,
        tx_done: Callable[[object, int, int], None],
        limit: int = TXQUEUELEN,
        rate: int = 0,
        burst: int = 0,
    ) -> None:
        super().__init__(inner.name, inner.mtu, inner.features)
        self.inner = inner
        self.loopback = inner.loopback
        self.limit = limit
        self.heap_at = NEVER
        self._rate = rate
        self._burst_ns = burst * SECOND // rate if rate else 0
        self._clock = clock
        self._deadlines = deadlines
        self._tx_done = tx_done
        self._queue: deque[Packet] = deque()
        self._empty_at = -NEVER

    def __len__(self) -> int:
        """Packets that wait."""
        return len(self._queue)

    def __bool__(self) -> bool:
        return True

    def xmit(self, packet: Packet) -> int:
        queue = self._queue
        if not queue:
            if not self._rate:
                return self._pass(packet)
            now = self._clock()
            if self._may_pass(packet) <= now:
                full = now - self._burst_ns
                self._empty_at = max(self._empty_at, full) + self._time(packet)
                return self._pass(packet)
        if len(queue) >= self.limit:
            self.tx_dropped += 1
            return DROPPED
        packet.payload = tuple(packet.payload)  # its owner may cut or trim what it keeps
        queue.append(packet)
        if len(queue) == 1:
            self._deadlines.arm(self, self._may_pass(packet))
        return QUEUED

    def _time(self, packet: Packet) -> int:
        """How long the packet occupies the wire, in ns."""
        return -(-wire_length(packet) * SECOND // self._rate)

    def _may_pass(self, packet: Packet) -> int:
        """When the bucket holds enough for `packet`."""
        return self._empty_at + min(self._time(packet), self._burst_ns)

    def _pass(self, packet: Packet) -> int:
        verdict = self.inner.xmit(packet)
        if verdict == DROPPED:
            self.tx_dropped += 1
        else:
            self.tx_packets += 1
            self.tx_bytes += len(packet.header) + packet.payload_len
        return verdict

    def next_deadline(self) -> int:
        return self._may_pass(self._queue[0]) if self._queue else NEVER

    def handle_timeout(self, now: int) -> None:
        """Let go of what the bucket has tokens for."""
        queue = self._queue
        while queue and self._may_pass(queue[0]) <= now:
            packet = queue.popleft()
            # from when the wire was free, not from now: a late timer slows nothing down
            self._empty_at += self._time(packet)
            if self._pass(packet) != QUEUED and packet.charge:
                self._tx_done(packet.owner, packet.charge, now)
