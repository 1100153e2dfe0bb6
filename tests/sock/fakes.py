"""A host for tests of sockets: one address of each family, and a record of what was sent."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ustack.seeds import Seeds
from ustack.sock.dst import Device, Dst
from ustack.sock.errors import error
from ustack.sock.net import Net
from ustack.sock.sock import Sock
from ustack.sock.sysctl import Sysctl
from ustack.wire.packet import QUEUED, TAKEN, Buffer, RxPacket

LOCAL4, PEER4 = b"\x0a\x09\0\x02", b"\x0a\x09\0\x01"
LOCAL6, PEER6 = b"\xfd" + bytes(14) + b"\x02", b"\xfd" + bytes(14) + b"\x01"
SUBNET_BROADCAST = b"\x0a\x09\0\xff"


class Sent:
    """One datagram handed to the IP layer."""

    def __init__(
        self,
        sk: Sock,
        saddr: bytes,
        daddr: bytes,
        header: bytes,
        data: bytes,
        gso_size: int,
        charge: int,
        ttl: int,
        tos: int,
    ) -> None:
        self.sk = sk
        self.saddr = saddr
        self.daddr = daddr
        self.header = header
        self.data = data
        self.gso_size = gso_size
        self.charge = charge
        self.ttl = ttl
        self.tos = tos

    @property
    def sport(self) -> int:
        return int.from_bytes(self.header[:2], "big")

    @property
    def dport(self) -> int:
        return int.from_bytes(self.header[2:4], "big")


class FakeNet(Net):
    """10.9.0.2/24 and fd00::2/64 on one device; everything sent is recorded."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(Sysctl(), Seeds(seed))
        self.dev = Device("tun0", 1500)
        self.dev.ifindex = 2
        self.verdict = TAKEN
        self.sent: list[Sent] = []
        self.unreachable: list[RxPacket] = []
        self.pmtu_updates: list[tuple[bytes, int]] = []
        self.dsts: dict[bytes, Dst] = {}

    def route(self, daddr: bytes, saddr: bytes | None = None, oif: int = 0) -> Dst:
        if saddr and not self.is_local(saddr):
            raise error(errno.EINVAL)
        if not daddr or not any(daddr):
            daddr = saddr or (b"\x7f\0\0\x01" if len(daddr) != 16 else bytes(15) + b"\x01")
        dst = self.dsts.get(daddr)
        if dst is None:
            dst = self.dsts[daddr] = self._resolve(daddr)
            dst.daddr = daddr
        return dst

    def _resolve(self, daddr: bytes) -> Dst:
        if self.is_local(daddr):
            saddr = b"\x7f\0\0\x01" if daddr[0] == 127 and len(daddr) == 4 else daddr
            return Dst(4 if len(daddr) == 4 else 6, self.dev, saddr, local=True)
        if len(daddr) == 4 and (daddr[:3] == LOCAL4[:3] or daddr == b"\xff" * 4):
            dst = Dst(4, self.dev, LOCAL4)
            dst.broadcast = daddr in (SUBNET_BROADCAST, b"\xff" * 4)
            return dst
        if len(daddr) == 16 and daddr[:8] == LOCAL6[:8]:
            return Dst(6, self.dev, LOCAL6)
        raise error(errno.ENETUNREACH)

    def is_local(self, addr: bytes) -> bool:
        return addr in (LOCAL4, LOCAL6, bytes(15) + b"\x01") or (len(addr) == 4 and addr[0] == 127)

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
        raise AssertionError("datagrams do not leave by this way")

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
        data = b"".join(payload)
        assert len(data) == payload_len
        assert len(dst.daddr) == len(daddr)
        self.sent.append(Sent(sk, saddr, daddr, header, data, gso_size, charge, ttl, tos))
        if self.verdict == QUEUED:
            sk.wmem_alloc += charge
        return self.verdict

    def update_pmtu(self, daddr: bytes, mtu: int, now: int) -> None:
        self.pmtu_updates.append((daddr, mtu))
        self.route(daddr).pmtu = mtu

    def send_reply(
        self, proto: int, saddr: bytes, daddr: bytes, header: bytes, tos: int, now: int
    ) -> None:
        raise AssertionError("UDP answers nothing by itself")

    def icmp_port_unreach(self, rx: RxPacket) -> None:
        self.unreachable.append(rx)

    def icmp_unreach(self, rx: RxPacket, code: int) -> None:
        self.unreachable.append(rx)
