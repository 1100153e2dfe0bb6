"""Two stacks joined inside one process, as if by a cable.

What one end sends waits in the other end's queue and wakes that end's driver: nothing is
delivered inside `xmit`. A packet crosses with its offloads undone, as between two guests
of one hypervisor: a checksum still to be completed is vouched for, and a burst stays
merged. With `features=0` (and `link.gso.SoftwareGso` above) finished packets cross.

Works under any trio clock with `io.timebase.TrioTime`, a mock clock included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ustack.sock.dst import Device
from ustack.wire.packet import DROPPED, F_ALL, TAKEN, Frame, Packet

QUEUE_LEN = 1000  # packets, as Linux's txqueuelen
BATCH_FRAMES = 64


class MemoryDevice(Device):
    """One end of a pair. `on_frames` is called when frames wait where none did: it is the
    wake of the driver (`Driver.wake`) that reads this end."""

    def __init__(self, name: str, mtu: int, features: int = F_ALL) -> None:
        super().__init__(name, mtu, features)
        self.peer: MemoryDevice = self
        self.on_frames: Callable[[], None] = _nobody
        self._queue: deque[Frame] = deque()

    def fileno(self) -> int:
        """-1: there is no descriptor to wait for."""
        return -1

    def read_batch(self, limit: int = BATCH_FRAMES) -> list[Frame]:
        """What the other end has sent; wakes again if more is left."""
        queue = self._queue
        frames = [queue.popleft() for _ in range(min(limit, len(queue)))]
        if queue:
            self.on_frames()
        return frames

    def xmit(self, packet: Packet) -> int:
        peer = self.peer
        queue = peer._queue
        if len(queue) >= QUEUE_LEN:
            self.tx_dropped += 1
            return DROPPED
        buf = b"".join([packet.header, *packet.payload])
        self.tx_packets += 1
        self.tx_bytes += len(buf)
        gso_size = packet.gso_size if packet.payload_len > packet.gso_size else 0
        queue.append(Frame(buf, 0, gso_size, packet.csum_start != 0))
        if len(queue) == 1:
            peer.on_frames()
        return TAKEN


def _nobody() -> None:
    """No driver yet: its first turn will look by itself."""


def memory_pair(
    mtu: int = 1500, features: int = F_ALL, names: tuple[str, str] = ("mem0", "mem1")
) -> tuple[MemoryDevice, MemoryDevice]:
    """Two joined devices. Give each to its stack, and to that stack's driver."""
    left, right = MemoryDevice(names[0], mtu, features), MemoryDevice(names[1], mtu, features)
    left.peer, right.peer = right, left
    return left, right
