"""Hosts in virtual time, and the links between them.

A `SimHost` is a stack, driven by the simulator's events instead of by a TUN and a clock. A
`SimLink` joins two of them through two wires (`link.wire`), one a direction. Packets are
cut to the MTU and completed before they meet a wire or a capture, so what is lost, counted
and recorded are real packets.

Packets that arrive at one device at the same time are handed over together, up to 64, as
a driver reads a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

from ustack.link.gso import finish_bytes
from ustack.link.wire import Wire
from ustack.observe.pcapng import INBOUND, OUTBOUND
from ustack.sim.loop import Event, Simulator
from ustack.sock.deadlines import NEVER
from ustack.sock.dst import Device
from ustack.sock.net import Rng, SeedSource
from ustack.wire.packet import F_ALL, TAKEN, Frame, Packet

BATCH = 64

# direction (observe.pcapng INBOUND, OUTBOUND), packet
Watcher: TypeAlias = Callable[[int, bytes], None]


class HostStack(Protocol):
    """What the simulator needs of a stack."""

    @property
    def softirq_pending(self) -> bool: ...

    def add_device(self, dev: Device) -> object: ...

    def add_address(self, dev: Device, cidr: str) -> object: ...

    def handle_batch(self, frames: list[Frame], now: int, dev: Device) -> None: ...

    def handle_timeout(self, now: int) -> None: ...

    def next_timeout(self) -> int: ...

    def run_softirq(self, now: int) -> None: ...


StackT = TypeVar("StackT", bound=HostStack, covariant=True)


class SubSeeds:
    """The seeds of one host: its streams do not move those of another."""

    def __init__(self, seeds: SeedSource, name: str) -> None:
        self._seeds = seeds
        self._name = name

    def stream(self, name: str) -> Rng:
        return self._seeds.stream(f"{self._name}/{name}")


class SimHost(Generic[StackT]):
    """One stack in virtual time. Give the stack `host_seeds(sim, name)` as its seeds."""

    def __init__(self, sim: Simulator, name: str, stack: StackT) -> None:
        self.sim = sim
        self.name = name
        self.stack = stack
        self.devices: list[Device] = []
        self._timer: Event | None = None
        self._softirq: Event | None = None
        sim.hosts.append(self)

    def attach(self, dev: Device, *addresses: str) -> None:
        """Give the stack a device, with addresses in prefix notation."""
        self.devices.append(dev)
        self.stack.add_device(dev)
        for address in addresses:
            self.stack.add_address(dev, address)

    def receive(self, frames: list[Frame], dev: Device) -> None:
        """Frames have arrived at `dev`."""
        self.stack.handle_batch(frames, self.sim.now, dev)
        self.flush()

    def flush(self) -> None:
        """Deliver what the host has sent to itself, and follow its next deadline. What a
        delivery queues anew waits its turn behind the tasks."""
        stack, sim = self.stack, self.sim
        if stack.softirq_pending:
            stack.run_softirq(sim.now)
        if stack.softirq_pending and self._softirq is None:
            self._softirq = sim.at(sim.now, self._again)
        at = max(stack.next_timeout(), sim.now)
        timer = self._timer
        if timer is not None:
            if timer.at == at:
                return
            sim.cancel(timer)
        self._timer = sim.at(at, self._timeout) if at < NEVER else None

    def _again(self) -> None:
        self._softirq = None
        self.flush()

    def _timeout(self) -> None:
        self._timer = None
        self.stack.handle_timeout(self.sim.now)
        self.flush()


def host_seeds(sim: Simulator, name: str) -> SubSeeds:
    """The seed source for the stack of the host called `name`."""
    return SubSeeds(sim.seeds, name)


class SimDevice(Device):
    """One end of a link. Everything sent is taken at once; what waits, waits on the wire."""

    def __init__(self, sim: Simulator, host: SimHost[Any], name: str, mtu: int, wire: Wire) -> None:
        super().__init__(name, mtu, F_ALL)
        self.sim = sim
        self.host = host
        self.wire = wire
        self.peer = self
        self.seen: Device = self  # what the stack knows as the device
        self.watchers: list[Watcher] = []
        self._batch: list[Frame] = []
        self._batch_at = -1

    def xmit(self, packet: Packet) -> int:
        now, send, peer = self.sim.now, self.wire.send, self.peer
        for data in finish_bytes(packet):
            self.tx_packets += 1
            self.tx_bytes += len(data)
            for watch in self.watchers:
                watch(OUTBOUND, data)
            for at, arriving in send(data, now):
                peer._expect(at, Frame(arriving))
        return TAKEN

    def _expect(self, at: int, frame: Frame) -> None:
        """`frame` will arrive at `at`: with the batch that is due then, or in a new one."""
        if at == self._batch_at and len(self._batch) < BATCH:
            self._batch.append(frame)
            return
        batch = [frame]
        self._batch, self._batch_at = batch, at
        self.sim.at(at, lambda: self._arrive(batch))

    def _arrive(self, batch: list[Frame]) -> None:
        if batch is self._batch:
            self._batch_at = -1  # closed: what comes now comes later
        for watch in self.watchers:
            for frame in batch:
                watch(INBOUND, frame.buf)
        self.host.receive(batch, self.seen)


class WireSettings(TypedDict, total=False):
    """The settings of a `link.wire.Wire`."""

    rate: int
    delay: int
    jitter: int
    limit: int
    loss: float
    duplicate: float
    reorder: float
    reorder_ns: int


class SimLink:
    """Joins two hosts. `settings` are both wires'; `back` changes them for the way from `b`
    to `a`. `wrap(host, device)` may put something in front of each end, a queue for one
    (`link.fifo`). `wires` and `devices` are (a's, b's)."""

    def __init__(
        self,
        sim: Simulator,
        a: SimHost[Any],
        b: SimHost[Any],
        mtu: int = 1500,
        addresses: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
        back: WireSettings | None = None,
        wrap: Callable[[SimHost[Any], Device], Device] | None = None,
        **settings: Unpack[WireSettings],
    ) -> None:
        ends: list[SimDevice] = []
        back_settings: WireSettings = {**settings, **(back or {})}
        for host, other, way in ((a, b, settings), (b, a, back_settings)):
            name = f"eth{len(host.devices)}"
            rng = sim.seeds.stream(f"wire/{host.name}/{name}/{other.name}")
            wire = Wire(rng, **way)
            dev = SimDevice(sim, host, name, mtu, wire)
            dev.seen = wrap(host, dev) if wrap else dev
            host.attach(dev.seen, *addresses[len(ends)])
            ends.append(dev)
        self.devices = (ends[0], ends[1])
        self.wires = (ends[0].wire, ends[1].wire)
        ends[0].peer, ends[1].peer = ends[1], ends[0]
