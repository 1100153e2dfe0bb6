"""Groups: which ones this host has joined, on which device, and what it sends to itself.

A packet to a group is let in by a device on which a socket has joined the group. The group
of all hosts is always joined. A multicast, or a broadcast, that a socket sends is also for
the members on this host: they get a copy as if it had come in by the device that it left
by, without the checks that would refuse it there (our own address as its source).

Which sources a group is wanted from, `ip.membership` knows; that the routers learn of it, by
IGMP and MLD, is the work of `ip.reports`, which has the groups of each device.

Sources: Linux `ip_check_mc_rcu`, `ipv6_chk_mcast_addr`, `ip_mc_output`, `dev_loopback_xmit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from ustack.ip import igmp, mld
from ustack.ip.igmp import Igmp
from ustack.ip.mld import Mld
from ustack.ip.reports import Reporter
from ustack.sock.dst import Device, SoftDevice
from ustack.wire.checksum import verify
from ustack.wire.igmp import HEADER_LEN
from ustack.wire.packet import TAKEN, Frame, Packet, RxPacket

if TYPE_CHECKING:
    from ustack.ip.output import IpOutput

INTERFACE_NODES6 = b"\xff\x01" + bytes(13) + b"\x01"
_ALWAYS = frozenset((igmp.ALL_HOSTS, mld.ALL_NODES, INTERFACE_NODES6))


class Groups:
    """The groups of one host, by family and device."""

    __slots__ = ("_igmp", "_mld", "_net", "_rng")

    def __init__(self, net: IpOutput) -> None:
        self._net = net
        self._rng = net.seeds.stream("groups")
        self._igmp: dict[int, Igmp] = {}
        self._mld: dict[int, Mld] = {}

    def of(self, group: bytes, ifindex: int) -> Reporter:
        """Who keeps `group` on that device, which there must be."""
        return self.igmp(ifindex) if len(group) == 4 else self.mld(ifindex)

    def igmp(self, ifindex: int) -> Igmp:
        found = self._igmp.get(ifindex)
        if found is None:
            found = self._igmp[ifindex] = Igmp(self._net, self._device(ifindex), self._rng)
        return found

    def mld(self, ifindex: int) -> Mld:
        found = self._mld.get(ifindex)
        if found is None:
            found = self._mld[ifindex] = Mld(self._net, self._device(ifindex), self._rng)
        return found

    def _device(self, ifindex: int) -> Device:
        return next(dev for dev in self._net.routes.devices if dev.ifindex == ifindex)

    def joined(self, group: bytes, ifindex: int) -> bool:
        """Is `group` joined on that device, from whatever sources?"""
        if group in _ALWAYS:
            return True
        found = self._igmp.get(ifindex) if len(group) == 4 else self._mld.get(ifindex)
        return found is not None and group in found.groups

    def wants(self, group: bytes, ifindex: int, src: bytes) -> bool:
        """Are packets from `src` to `group` that come by that device for this host?"""
        if group in _ALWAYS:
            return True
        found = self._igmp.get(ifindex) if len(group) == 4 else self._mld.get(ifindex)
        if found is None:
            return False
        member = found.groups.get(group)
        return member is not None and (member.wants(src) or not any(src))

    # -- messages of routers -----------------------------------------------------------------

    def igmp_rcv(self, rx: RxPacket) -> None:
        """An IGMP message, multicast or not (Linux: `igmp_rcv`)."""
        mib = self._net.mib
        if rx.end - rx.l4 < HEADER_LEN:
            mib.drop("PKT_TOO_SMALL")
        elif not verify(rx.buf, rx.l4, rx.end, 0):
            mib.drop("IP_CSUM")
        elif not igmp.rcv(self.igmp(rx.iif), rx):
            mib.drop("NOT_SPECIFIED")

    def mld_rcv(self, rx: RxPacket) -> None:
        """An MLD query, its checksum good (Linux: `igmp6_event_query`)."""
        if not mld.rcv(self.mld(rx.iif), rx):
            self._net.mib.drop("NOT_SPECIFIED")


@mypyc_attr(allow_interpreted_subclasses=True)
class LoopedBack(SoftDevice):
    """Packets that have left by `dev` and are for this host too."""

    def __init__(self, dev: Device) -> None:
        super().__init__(dev.name, dev.mtu)
        self.ifindex = dev.ifindex
        self.loopback = True  # our own address is a good source
        self._queue: list[Frame] = []

    def xmit(self, packet: Packet) -> int:
        buf = b"".join((packet.header, *packet.payload))
        self._queue.append(Frame(buf, 0, packet.gso_size, True, packet.charge))
        self.pending = True
        return TAKEN

    def drain(self) -> list[Frame]:
        frames, self._queue = self._queue, []
        self.pending = False
        return frames
