"""One host's network layer: devices below, protocols above, and the entries for a driver.

Structure. A driver, real or simulated, calls `handle_batch` with what a device has read,
`handle_timeout` when `next_timeout` is reached, and `run_softirq` when the outermost call
has returned and `softirq_pending` says that packets wait which this process sent to itself
(loopback, a pair in memory). Protocols are made known with `register` (Linux:
`inet_add_protocol`), for both families at once.

Invariant: a driver's entry is never entered from within another. A device does not
deliver from inside `xmit`, a wake-up does not call back; whoever breaks that would see
half-changed state, so it is a RuntimeError at once. `handle_tx_done` is no such entry: a
device queue drained by a timeout calls it.

Limits: `run_softirq` takes a bounded number of turns, so that two local sockets that
answer each other for ever do not starve the rest; what waits then is still pending.

Sources: Linux `netif_receive_skb`, `process_backlog`, `inet_add_protocol`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from mypy_extensions import mypyc_attr

from ustack.ip.icmp import Icmp
from ustack.ip.icmpv6 import Icmpv6
from ustack.ip.ipv4_input import Ipv4Input
from ustack.ip.ipv6_input import Ipv6Input
from ustack.ip.multicast import LoopedBack
from ustack.ip.output import IpOutput
from ustack.ip.ratelimit import IcmpLimiter
from ustack.sock.dst import Device, SoftDevice
from ustack.sock.icmp import IcmpError
from ustack.sock.net import SeedSource
from ustack.sock.sysctl import Sysctl
from ustack.wire import icmp, icmpv6
from ustack.wire.addr import network, parse_addr, parse_cidr
from ustack.wire.packet import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IGMP, Frame, RxPacket

if TYPE_CHECKING:
    from ustack.sock.sock import Sock

SOFTIRQ_TURNS = 64


@mypyc_attr(allow_interpreted_subclasses=True)
class IpHost(IpOutput):
    """A host without transports."""

    def __init__(
        self,
        *,
        seeds: SeedSource,
        loopback: SoftDevice,
        sysctl: Sysctl | None = None,
        wall_ns: int = 0,
    ) -> None:
        super().__init__(sysctl or Sysctl(), seeds, loopback, wall_ns)
        err_handlers: dict[int, Callable[[IcmpError], None]] = {}
        limiter = IcmpLimiter(self.sysctl, seeds.stream("icmp"))
        self.icmp = Icmp(self, limiter, err_handlers)
        self.icmpv6 = Icmpv6(self, limiter, err_handlers)
        self._err_handlers = err_handlers
        self._handlers4: dict[int, Callable[[RxPacket], None]] = {
            IPPROTO_ICMP: self.icmp.rcv,
            IPPROTO_IGMP: self.groups.igmp_rcv,
        }
        self._handlers6: dict[int, Callable[[RxPacket], None]] = {IPPROTO_ICMPV6: self.icmpv6.rcv}
        self._input4 = Ipv4Input(self, self._handlers4, self.icmp)
        self._input6 = Ipv6Input(self, self._handlers6, self.icmpv6)
        self._soft_devices: list[SoftDevice] = []
        self._looped_back: dict[int, LoopedBack] = {}
        self._busy = False
        self.batch_done: Callable[[int], None] | None = None
        """Called with `now` at the end of each batch: TCP sends the ACKs that it owes."""
        self.loopback = loopback
        self.add_device(loopback)

    def register(
        self,
        proto: int,
        rcv: Callable[[RxPacket], None],
        icmp_err: Callable[[IcmpError], None],
        rcv_many: Callable[[RxPacket], None] | None = None,
    ) -> None:
        """Make a transport protocol known, over IPv4 and IPv6. `rcv_many` takes broadcasts
        and multicasts; they are not for a protocol without."""
        self._handlers4[proto] = self._handlers6[proto] = rcv
        self._err_handlers[proto] = icmp_err
        if rcv_many is not None:
            self._input4.rcv_many[proto] = self._input6.rcv_many[proto] = rcv_many

    # -- configuration -----------------------------------------------------------------

    @property
    def devices(self) -> list[Device]:
        """Every device, loopback first."""
        return self.routes.devices

    def add_device(self, dev: Device) -> int:
        """Attach a device; its index, from 1 (loopback) up."""
        devices = self.routes.devices
        dev.ifindex = max((d.ifindex for d in devices), default=0) + 1
        devices.append(dev)
        if isinstance(dev, SoftDevice):
            self._soft_devices.append(dev)
        self.routes.invalidate()
        return dev.ifindex

    def add_address(self, dev: Device, cidr: str) -> None:
        """Give `dev` an address, "10.9.0.2/24", and the route to its network."""
        self.routes.add_address(dev, *parse_cidr(cidr))

    def del_address(self, addr: str) -> None:
        self.routes.del_address(parse_addr(addr))

    def add_route(self, prefix: str, dev: Device, via: str | None = None) -> None:
        """Send "0.0.0.0/0" or any other prefix through `dev`."""
        net, plen = parse_cidr(prefix)
        self.routes.add_route(net, plen, dev, parse_addr(via) if via else None)

    def del_route(self, prefix: str) -> None:
        self.routes.del_route(*parse_cidr(prefix))

    def add_local_prefix(self, prefix: str) -> None:
        """Answer for every address in "10.99.0.0/16" (Linux: AnyIP)."""
        net, plen = parse_cidr(prefix)
        self.routes.add_local_prefix(network(net, plen), plen)

    def del_local_prefix(self, prefix: str) -> None:
        net, plen = parse_cidr(prefix)
        self.routes.del_local_prefix(network(net, plen), plen)

    # -- what sockets ask about devices and groups ---------------------------------------

    def device_name(self, ifindex: int) -> str | None:
        return next((dev.name for dev in self.devices if dev.ifindex == ifindex), None)

    def device_index(self, name: str) -> int:
        return next((dev.ifindex for dev in self.devices if dev.name == name), 0)

    def address_device(self, addr: bytes) -> int:
        return self.routes.device_of(addr)

    def group_device(self, group: bytes, ifindex: int, addr: bytes) -> int:
        if ifindex:
            return ifindex if self.device_name(ifindex) is not None else 0
        if addr:
            return self.routes.device_of(addr)
        try:
            return self.routes.route(group).dev.ifindex
        except OSError:
            return 0

    def join_group(self, group: bytes, ifindex: int, mode: int, now: int) -> None:
        self.groups.of(group, ifindex).join(group, mode, now)

    def leave_group(self, group: bytes, ifindex: int, now: int) -> None:
        self.groups.of(group, ifindex).leave(group, now)

    def add_sources(
        self, group: bytes, ifindex: int, mode: int, sources: list[bytes], delta: bool, now: int
    ) -> None:
        self.groups.of(group, ifindex).add_sources(group, mode, sources, delta, now)

    def del_sources(
        self, group: bytes, ifindex: int, mode: int, sources: list[bytes], delta: bool, now: int
    ) -> None:
        self.groups.of(group, ifindex).del_sources(group, mode, sources, delta, now)

    def looped_back(self, dev: Device) -> SoftDevice:
        found = self._looped_back.get(dev.ifindex)
        if found is None:
            found = self._looped_back[dev.ifindex] = LoopedBack(dev)
            self._soft_devices.append(found)
        return found

    # -- a driver's entries ------------------------------------------------------------

    def handle_batch(self, frames: list[Frame], now: int, dev: Device) -> None:
        """Packets that `dev` has received, in order."""
        self._enter("handle_batch")
        try:
            rcv4, rcv6 = self._input4.rcv, self._input6.rcv
            received = 0
            for frame in frames:
                size = len(frame.buf) - frame.off
                received += size
                if size < 20:
                    self.mib.drop("PKT_TOO_SMALL")
                    continue
                version = frame.buf[frame.off] >> 4
                if version == 4:
                    rcv4(frame, now, dev)
                elif version == 6:
                    rcv6(frame, now, dev)
                else:
                    self.mib.drop("UNHANDLED_PROTO")
            dev.rx_packets += len(frames)
            dev.rx_bytes += received
            if self.batch_done is not None:
                self.batch_done(now)
        finally:
            self._busy = False

    def handle_timeout(self, now: int) -> None:
        """Run the timers that are due."""
        self._enter("handle_timeout")
        try:
            self.deadlines.run(now)
        finally:
            self._busy = False

    def next_timeout(self) -> int:
        """When to call `handle_timeout`: ns, NEVER if no timer is armed."""
        return self.deadlines.next_timeout()

    def handle_tx_done(self, owner: object, charge: int, now: int) -> None:
        """A device has let go of a packet that it had QUEUED."""
        if owner is not None:
            cast("Sock", owner).handle_tx_done(charge, now)

    @property
    def softirq_pending(self) -> bool:
        """True if packets wait that this process sent to itself."""
        for dev in self._soft_devices:  # noqa: SIM110 (a generator costs thrice as much)
            if dev.pending:
                return True
        return False

    def run_softirq(self, now: int) -> None:
        """Deliver what waits, and what that causes, in order; in a bounded number of turns."""
        for _ in range(SOFTIRQ_TURNS):
            idle = True
            for dev in self._soft_devices:
                if dev.pending:
                    idle = False
                    self.handle_batch(dev.drain(), now, dev)
            if idle:
                return

    def _enter(self, entry: str) -> None:
        if self._busy:
            raise RuntimeError(f"{entry} called from within another entry of the same stack")
        self._busy = True

    # -- errors out --------------------------------------------------------------------

    def icmp_send(self, rx: RxPacket, kind: int, code: int, info: int = 0) -> None:
        """Answer `rx` with an ICMP error of its family, if F-20 and F-21 allow it."""
        (self.icmpv6 if len(rx.src) == 16 else self.icmp).send(rx, kind, code, info)

    def icmp_port_unreach(self, rx: RxPacket) -> None:
        if len(rx.src) == 16:
            self.icmpv6.send(rx, icmpv6.DEST_UNREACH, icmpv6.PORT_UNREACH)
        else:
            self.icmp.send(rx, icmp.DEST_UNREACH, icmp.PORT_UNREACH)

    def icmp_unreach(self, rx: RxPacket, code: int) -> None:
        v6 = len(rx.src) == 16
        self.icmp_send(rx, icmpv6.DEST_UNREACH if v6 else icmp.DEST_UNREACH, code)
