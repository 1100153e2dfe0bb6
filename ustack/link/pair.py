"""Two devices back to back in one process: what one is given, the other receives.

Nothing is lost, delayed or limited here; that is `link.wire`'s business. With offload
features super-segments pass whole, as between two namespaces over veth.
"""

from __future__ import annotations

from collections.abc import Callable

from ustack.link.gso import finish_bytes
from ustack.link.loopback import loop_frame
from ustack.sock.dst import SoftDevice
from ustack.wire.packet import F_ALL, TAKEN, Frame, Packet


class PairDevice(SoftDevice):
    """One end of a pair; `connect_pair` makes both.

    `on_pending` is called when frames begin to wait at this end while its stack may be
    idle. Like a wait queue's wake-up, it may only make somebody runnable.
    """

    def __init__(self, name: str, mtu: int, features: int = F_ALL) -> None:
        super().__init__(name, mtu, F_ALL)
        self._whole = features == F_ALL
        self._queue: list[Frame] = []
        self.peer: PairDevice | None = None
        self.on_pending: Callable[[], None] | None = None

    def xmit(self, packet: Packet) -> int:
        peer = self.peer
        assert peer is not None, "not connected"
        if self._whole:
            frames = [loop_frame(packet)]
        else:
            frames = [Frame(data) for data in finish_bytes(packet)]
        self.tx_packets += len(frames)
        self.tx_bytes += sum(len(frame.buf) for frame in frames)
        peer._arrive(frames)
        return TAKEN

    def _arrive(self, frames: list[Frame]) -> None:
        self._queue += frames
        if not self.pending:
            self.pending = True
            if self.on_pending is not None:
                self.on_pending()

    def drain(self) -> list[Frame]:
        frames, self._queue = self._queue, []
        self.pending = False
        return frames


def connect_pair(
    names: tuple[str, str] = ("pair0", "pair1"), mtu: int = 1500, features: int = F_ALL
) -> tuple[PairDevice, PairDevice]:
    """Two connected ends. Without `features` packets cross cut and complete, and the
    receiver verifies their checksums."""
    a, b = PairDevice(names[0], mtu, features), PairDevice(names[1], mtu, features)
    a.peer, b.peer = b, a
    return a, b
