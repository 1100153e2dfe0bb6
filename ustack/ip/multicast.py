"""Groups: which ones this host has joined, on which device, and what it sends to itself.

A packet to a group is let in by a device on which a socket has joined the group. The group
of all hosts is always joined. A multicast, or a broadcast, that a socket sends is also for
the members on this host: they get a copy as if it had come in by the device that it left
by, without the checks that would refuse it there (our own address as its source).

Left out: IGMP and MLD. No membership is reported, so a switch or router that forwards
multicasts only where they were asked for does not learn of ours; on a TUN or another
point-to-point link, where whoever is at the other end sends everything, nothing is missed.

Sources: Linux `ip_check_mc_rcu`, `ipv6_chk_mcast_addr`, `ip_mc_output`, `dev_loopback_xmit`.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from ustack.sock.dst import Device, SoftDevice
from ustack.wire.packet import TAKEN, Frame, Packet

ALL_HOSTS4 = b"\xe0\0\0\x01"
ALL_NODES6 = b"\xff\x02" + bytes(13) + b"\x01"
INTERFACE_NODES6 = b"\xff\x01" + bytes(13) + b"\x01"
_ALWAYS = frozenset((ALL_HOSTS4, ALL_NODES6, INTERFACE_NODES6))


class Groups:
    """How many sockets have joined each group on each device."""

    __slots__ = ("_joined",)

    def __init__(self) -> None:
        self._joined: dict[tuple[bytes, int], int] = {}

    def join(self, group: bytes, ifindex: int) -> None:
        key = (group, ifindex)
        self._joined[key] = self._joined.get(key, 0) + 1

    def leave(self, group: bytes, ifindex: int) -> None:
        key = (group, ifindex)
        left = self._joined[key] - 1
        if left:
            self._joined[key] = left
        else:
            del self._joined[key]

    def has(self, group: bytes, ifindex: int) -> bool:
        """Are packets to `group` that come by that device for this host?"""
        return group in _ALWAYS or (group, ifindex) in self._joined


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
        self._queue.append(Frame(buf, 0, packet.gso_size, True))
        self.pending = True
        return TAKEN

    def drain(self) -> list[Frame]:
        frames, self._queue = self._queue, []
        self.pending = False
        return frames
