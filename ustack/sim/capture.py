"""Captures of a simulation: pcapng with virtual time stamps."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO

from ustack.observe.pcapng import PcapngWriter
from ustack.sim.host import SimDevice
from ustack.sim.loop import Simulator


class Capture:
    """Records what passes the devices given, in memory. Times are the simulator's, after
    its `wall_ns`; each device is an interface of the file, called "host/device"."""

    def __init__(self, sim: Simulator, first: SimDevice, *more: SimDevice) -> None:
        self._sim = sim
        self._file = BytesIO()
        self._writer = PcapngWriter(self._file, _name(first))
        self._record(first, 0)
        for device in more:
            self.watch(device)

    def watch(self, device: SimDevice) -> None:
        """Record another device from now on."""
        self._record(device, self._writer.add_interface(_name(device)))

    def _record(self, device: SimDevice, interface: int) -> None:
        write = self._writer.packet
        sim = self._sim

        def record(direction: int, data: bytes) -> None:
            write(sim.wall_ns + sim.now, (data,), direction, interface)

        device.watchers.append(record)

    @property
    def packets(self) -> int:
        """How many have been recorded."""
        return self._writer.packets

    def getvalue(self) -> bytes:
        """The capture file so far."""
        return self._file.getvalue()

    def digest(self) -> str:
        """SHA-256 of the capture file: equal for equal runs."""
        return sha256(self.getvalue()).hexdigest()


def _name(device: SimDevice) -> str:
    return f"{device.host.name}/{device.name}"
