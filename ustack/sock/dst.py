"""A route as a socket holds it (Linux: `struct dst_entry`), and the device behind it.

`ip.route` makes these; sockets cache one and ask it for the path MTU. They are shared:
a PMTU learned for a destination is seen by every socket that sends there.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from ustack.sock.deadlines import NEVER
from ustack.wire.packet import Frame, Packet


@mypyc_attr(allow_interpreted_subclasses=True)
class Device:
    """One network interface below a stack. Subclasses do the work of `xmit`.

    `features` says what a `Packet` may still have left to do (`wire.packet` F_*). A
    device never delivers a received packet from inside `xmit`.
    """

    def __init__(self, name: str, mtu: int, features: int = 0) -> None:
        self.name = name
        self.mtu = mtu
        self.features = features
        self.ifindex = 0  # set by Stack.add_device
        self.loopback = False
        self.tx_packets = 0
        self.tx_bytes = 0
        self.tx_dropped = 0
        self.rx_packets = 0
        self.rx_bytes = 0

    def xmit(self, packet: Packet) -> int:
        """Take one packet: TAKEN, QUEUED or DROPPED. Never raises for what a peer or a
        full queue can cause."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class SoftDevice(Device):
    """A device whose packets come back into a stack of this process: loopback, a pair.

    `xmit` only queues. `Stack.run_softirq` looks at `pending` after the outermost call
    into the core has returned and takes the frames with `drain`, in order.
    """

    def __init__(self, name: str, mtu: int, features: int = 0) -> None:
        super().__init__(name, mtu, features)
        self.pending = False

    def drain(self) -> list[Frame]:
        """Take every frame that waits for this device's own stack."""
        raise NotImplementedError


class Dst:
    """The path to one destination through one device.

    `daddr` is what goes into the packets: the destination asked for, or the loopback
    address where that was the wildcard, which means this host. `broadcast`, `multicast`: it
    stands for many hosts, this one perhaps among them. `obsolete`: routes or
    addresses have changed since; ask `Net.route` again.
    """

    __slots__ = (
        "broadcast",
        "daddr",
        "dev",
        "gateway",
        "ident",
        "layout",
        "local",
        "multicast",
        "obsolete",
        "pmtu",
        "pmtu_expires",
        "pmtu_locked",
        "saddr",
        "version",
    )

    def __init__(
        self,
        version: int,
        dev: Device,
        saddr: bytes,
        gateway: bytes | None = None,
        local: bool = False,
    ) -> None:
        self.version = version
        self.dev = dev
        self.saddr = saddr  # preferred source address
        self.gateway = gateway
        self.local = local  # delivered to this host over loopback
        self.daddr = b""
        self.broadcast = False
        self.multicast = False
        self.ident = -1  # next IPv4 identification on this path, -1: none yet
        self.obsolete = False
        self.layout = 0  # the most a fragment may have by what was laid out before, 0: no limit
        self.pmtu = 0  # learned path MTU, 0 if none
        self.pmtu_expires = NEVER
        self.pmtu_locked = False  # below min_pmtu: fragments allowed, DF off (F-12)

    def frozen(self) -> Dst:
        """The same path, for a packet that goes by it whatever is learned meanwhile."""
        dst = Dst(self.version, self.dev, self.saddr, self.gateway, self.local)
        dst.daddr, dst.broadcast, dst.multicast = self.daddr, self.broadcast, self.multicast
        dst.learn_from(self)
        return dst

    def learn_from(self, other: Dst) -> None:
        """Take over what another path knows of its MTU."""
        self.pmtu, self.pmtu_expires = other.pmtu, other.pmtu_expires
        self.pmtu_locked = other.pmtu_locked

    def mtu(self, now: int) -> int:
        """The path MTU in bytes: the learned one while fresh, else the device's."""
        if self.pmtu:
            if now < self.pmtu_expires:
                return min(self.pmtu, self.dev.mtu)
            self.pmtu = 0
            self.pmtu_locked = False
        return self.dev.mtu
