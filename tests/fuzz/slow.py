"""A kernel behind a slow device, for programs that are to see packets wait below a socket.

On a TUN nothing waits; here a token bucket stands before it (`Shaper`). The peer's pings,
which say that a packet has been received (`KernelSut.inject`), would wait there too, so they
take another TUN: what both bring is received in one order.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from typing import Any

from tests.sockets.parity.kernel import KernelSut
from tests.sockets.parity.peer import icmp
from tests.sockets.parity.shaper import Shaper

SLOW = Shaper(rate=50_000, burst=3200)  # two segments, lest the bucket cuts them apart
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_HERE, _THERE = bytes((10, 8, 0, 2)), bytes((10, 8, 0, 1))
_LIMIT = 2.0  # seconds


class SlowKernel(KernelSut):
    """A namespace with a slow TUN, and a quick one for pings."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._aside = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        name = struct.pack("16sH22x", b"tun1", _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(self._aside, _TUNSETIFF, name)
        self.netns.ip("address add 10.8.0.2/24 dev tun1", "link set tun1 up")
        self._question = icmp(_THERE, _HERE, 8, 0, 1)

    def inject(self, packet: bytes) -> None:
        os.write(self.tun, packet)
        os.write(self._aside, self._question)
        deadline = time.monotonic() + _LIMIT
        poller = select.poll()
        poller.register(self._aside, select.POLLIN)
        while time.monotonic() < deadline:
            poller.poll(10)
            if self._answered():
                return
        raise RuntimeError("the kernel does not answer a ping")

    def _answered(self) -> bool:
        try:
            while True:
                data = os.read(self._aside, 2000)
                if data[9] == 1 and data[20] == 0:
                    return True
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._aside)
        super().close()
