"""Making datagrams for a UDP host without an IP layer."""

from __future__ import annotations

import struct
from collections.abc import Generator

import pytest

from tests.sock.fakes import LOCAL4, PEER4, FakeNet
from ustack.sock.sock import AF_INET, RecvMsg
from ustack.udp.host import UdpHost
from ustack.udp.sock import UdpSock
from ustack.wire.checksum import fold, partial_sum, pseudo_sum
from ustack.wire.packet import IPPROTO_UDP, RxPacket

MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, MSG_MORE = 0x2, 0x20, 0x40, 0x8000


class Host(UdpHost):
    """A UDP host on a fake network."""

    def __init__(self) -> None:
        self.fake = FakeNet()
        super().__init__(self.fake)

    def bound(self, port: int = 7, addr: bytes = b"", family: int = AF_INET) -> UdpSock:
        sk = self.create_sock(family)
        self.prot.bind(sk, (addr, port), 0)
        return sk

    def connected(self, port: int = 5000, addr: bytes = PEER4, family: int = AF_INET) -> UdpSock:
        sk = self.create_sock(family)
        self.prot.connect(sk, (addr, port), 0)
        return sk


def datagram(
    data: bytes,
    dport: int = 7,
    sport: int = 5000,
    src: bytes = PEER4,
    dst: bytes = LOCAL4,
    *,
    csum: int | None = None,
    ulen: int | None = None,
    gso_size: int = 0,
    iif: int = 2,
    now: int = 0,
) -> RxPacket:
    """A received datagram; with a right checksum unless told otherwise."""
    length = 8 + len(data) if ulen is None else ulen
    header = struct.pack(">HHHH", sport, dport, length, 0)
    if csum is None:
        total = partial_sum(header + data) + pseudo_sum(src, dst, IPPROTO_UDP, length)
        csum = 0xFFFF ^ fold(total) or 0xFFFF
    hlen = 20 if len(dst) == 4 else 40
    buf = bytes(hlen) + header[:6] + csum.to_bytes(2, "big") + data
    end = len(buf)
    return RxPacket(
        buf, 0, hlen, end, IPPROTO_UDP, src, dst, 0x10, 61, gso_size, False, iif, now
    )  # fmt: skip


def recv(sk: UdpSock, length: int = 65536, flags: int = MSG_DONTWAIT) -> RecvMsg:
    msg = sk.prot.recvmsg(sk, length, flags, 0)
    assert isinstance(msg, RecvMsg)
    return msg


def data_of(msg: RecvMsg) -> bytes:
    return b"".join(msg.chunks)


def send(sk: UdpSock, data: bytes, *args: object, flags: int = 0, **kwargs: object) -> int:
    result = sk.prot.sendmsg(sk, data, flags, 0, *args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(result, int)
    return result


def fails(errno: int, call: object, *args: object, **kwargs: object) -> None:
    """Assert that the call raises OSError with that errno."""
    assert callable(call)
    with pytest.raises(OSError) as why:
        call(*args, **kwargs)
    assert why.value.errno == errno


def queued(sk: UdpSock) -> list[bytes]:
    """Read everything that waits."""
    out = []
    while sk.has_data():
        out.append(data_of(recv(sk)))
    return out


def is_op(result: object) -> bool:
    return isinstance(result, Generator)
