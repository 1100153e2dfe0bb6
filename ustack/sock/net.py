"""What a transport may ask of its host (Linux: `struct net`, and the IP layer's exits).

`Stack` implements it. It stands below `tcp` and `udp` so that neither needs to import
what is above it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from mypy_extensions import mypyc_attr

from ustack.sock.addr import BROADCAST4, is_multicast
from ustack.sock.deadlines import Deadlines
from ustack.sock.dst import Dst
from ustack.sock.mib import Mib
from ustack.sock.sysctl import Sysctl
from ustack.wire.packet import Buffer, RxPacket

if TYPE_CHECKING:
    from ustack.sock.sock import Sock


class Rng(Protocol):
    """The part of random.Random that the core uses."""

    def getrandbits(self, k: int, /) -> int: ...
    def randrange(self, start: int, stop: int, /) -> int: ...
    def random(self) -> float: ...


class SeedSource(Protocol):
    """Hands out named random streams (`ustack.seeds.Seeds`)."""

    def stream(self, name: str) -> Rng: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Net(ABC):
    """One host as its sockets see it."""

    def __init__(self, sysctl: Sysctl, seeds: SeedSource, wall_ns: int = 0) -> None:
        self.sysctl = sysctl
        self.seeds = seeds
        self.mib = Mib()
        self.deadlines = Deadlines()
        self.last_cookie = 0  # of the sockets (SO_COOKIE)
        self.wall_ns = wall_ns  # add to `now` for the time of day (SO_TIMESTAMP)
        self.trace: Callable[..., None] | None = None

    @abstractmethod
    def route(self, daddr: bytes, saddr: bytes | None = None, oif: int = 0) -> Dst:
        """The path to `daddr`, from `saddr` if given. OSError ENETUNREACH if none,
        EINVAL if `saddr` is not ours."""

    @abstractmethod
    def is_local(self, addr: bytes) -> bool:
        """True if packets to `addr` are for this host (own, loopback, AnyIP prefix)."""

    def is_group(self, addr: bytes) -> bool:
        """True if `addr` is multicast or a broadcast address: many may be bound to it."""
        if is_multicast(addr) or addr == BROADCAST4:
            return True
        try:
            return len(addr) == 4 and self.route(addr).broadcast
        except OSError:
            return False

    @abstractmethod
    def queue_xmit(
        self,
        sk: Sock,
        header: bytes,
        payload: Sequence[Buffer],
        payload_len: int,
        gso_size: int,
        charge: int,
        now: int,
    ) -> int:
        """Send a transport packet of a connected socket along `sk.dst` (Linux:
        `ip_queue_xmit`). The checksum field of `header` holds the folded pseudo-header
        sum. Returns the device's verdict; on QUEUED, `charge` is on `sk.wmem_alloc`."""

    @abstractmethod
    def send_datagram(
        self,
        sk: Sock,
        proto: int,
        saddr: bytes,
        daddr: bytes,
        dst: Dst,
        header: bytes,
        payload: list[Buffer],
        payload_len: int,
        gso_size: int,
        charge: int,
        ttl: int,
        tos: int,
        now: int,
    ) -> int:
        """Send one datagram of `sk` along `dst`, in fragments if it must be (Linux:
        `ip_make_skb`, `ip_send_skb`).

        `header` is the transport header, its checksum field the folded pseudo-header sum,
        or zero for no checksum. `ttl` -1 is the default. OSError EMSGSIZE: over 65,535
        bytes, or over the path MTU on a socket that may not fragment. Returns the device's
        verdict (DROPPED if any fragment was); what is QUEUED of `charge` is on
        `sk.wmem_alloc`."""

    @abstractmethod
    def update_pmtu(self, daddr: bytes, mtu: int, now: int) -> None:
        """A validated ICMP says that packets to `daddr` fit `mtu` bytes (F-11, F-12).
        Seen at once by every socket that sends there, in `sk.dst.mtu(now)`."""

    @abstractmethod
    def send_reply(
        self,
        proto: int,
        saddr: bytes,
        daddr: bytes,
        header: bytes,
        tos: int,
        now: int,
    ) -> None:
        """Send a transport packet that belongs to no socket (RST, TIME_WAIT ACK,
        SYN-ACK): DF set, id 0, default TTL. Checksum field as in `queue_xmit`. A packet
        without a route is counted and dropped."""

    @abstractmethod
    def icmp_port_unreach(self, rx: RxPacket) -> None:
        """Answer `rx` with a port unreachable error (Linux: `icmp_send`), unless the rules
        of F-20 forbid it or the rate limit of F-21 withholds it."""

    @abstractmethod
    def icmp_unreach(self, rx: RxPacket, code: int) -> None:
        """Answer `rx` with a destination unreachable error of this code of its family."""

    # -- devices and groups: a host says what it has; this one has none ------------------

    def device_name(self, ifindex: int) -> str | None:
        """The name of a device, None if there is none of that index."""
        return None

    def device_index(self, name: str) -> int:
        """The index of a device, 0 if there is none of that name."""
        return 0

    def address_device(self, addr: bytes) -> int:
        """The index of the device that has this address, 0 if none (Linux: `ip_dev_find`)."""
        return 0

    def group_device(self, group: bytes, ifindex: int, addr: bytes) -> int:
        """The device to join `group` on: the one given, or that has `addr`, or that the route
        to the group leads through; 0 if there is none (Linux: `ip_mc_find_dev`)."""
        return 0

    def join_group(self, group: bytes, ifindex: int, mode: int, now: int) -> None:
        """One socket more wants the packets to `group` that come by that device: from all
        sources or from none yet, as `mode` says (Linux: `__ip_mc_inc_group`)."""
        raise NotImplementedError

    def leave_group(self, group: bytes, ifindex: int, now: int) -> None:
        """One socket fewer, whose sources have been deleted (Linux: `ip_mc_dec_group`)."""
        raise NotImplementedError

    def add_sources(
        self, group: bytes, ifindex: int, mode: int, sources: list[bytes], delta: bool, now: int
    ) -> None:
        """A socket names `sources` in `mode`; unless `delta` it has that mode from now on
        (Linux: `ip_mc_add_src`)."""
        raise NotImplementedError

    def del_sources(
        self, group: bytes, ifindex: int, mode: int, sources: list[bytes], delta: bool, now: int
    ) -> None:
        """It no longer does; unless `delta` the mode is given up too (Linux:
        `ip_mc_del_src`)."""
        raise NotImplementedError
