"""The two packet values that cross the device boundary.

`Frame` comes in: one read from a device. `Packet` goes out: what is left to do
to it (checksum to complete, segments to cut) is written on it, so that a device
which can do that work is handed one packet of up to 64 KiB and a device which
cannot is handed many, by `link.gso`, below the core.

Addresses inside the core are network-order `bytes`: 4 for IPv4, 16 for IPv6.
The length is the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview

# What `Device.xmit` answers. QUEUED: the device holds the packet and its charge, and
# tells the stack (`handle_tx_done`) when it has let go of them. TAKEN: gone already.
TAKEN, QUEUED, DROPPED = 0, 1, 2

# Device features: what `Packet`s may still have left to do when they reach `xmit`.
F_CSUM = 1  # complete the checksum at csum_start/csum_offset
F_TSO4 = 2  # cut gso_size segments, TCP over IPv4
F_TSO6 = 4  # ... TCP over IPv6
F_USO = 8  # ... UDP, both families
F_ALL = F_CSUM | F_TSO4 | F_TSO6 | F_USO

IPPROTO_ICMP = 1
IPPROTO_IGMP = 2
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ICMPV6 = 58


class Frame:
    """One received packet: `buf[off:]` starts at the IP header.

    `gso_size` is 0, or the payload bytes of each segment that was merged into this
    frame. `csum_ok`: the device vouches for the transport checksum (virtio's
    DATA_VALID or NEEDS_CSUM); else the stack verifies it. `truesize`: what a datagram of
    this host has cost its sender, 0 for all that comes from elsewhere.
    """

    __slots__ = ("buf", "csum_ok", "gso_size", "off", "truesize")

    def __init__(
        self,
        buf: bytes,
        off: int = 0,
        gso_size: int = 0,
        csum_ok: bool = False,
        truesize: int = 0,
    ) -> None:
        self.buf = buf
        self.off = off
        self.gso_size = gso_size
        self.csum_ok = csum_ok
        self.truesize = truesize


class Packet:
    """One packet on its way out.

    `header`: the IP header (complete) and the transport header. `payload`: buffers of
    `payload_len` bytes in all; a list of them may change once `xmit` has returned, so who keeps
    a packet copies it. `csum_start` is the offset of the transport header when
    its checksum is still to be completed (the field at `csum_start + csum_offset` then
    holds the folded, uncomplemented sum of the pseudo header), 0 when it is complete or
    not needed. `gso_size` > 0: to be cut into segments of that many payload bytes.
    `owner` and `charge`: whom `handle_tx_done` credits, and with how many bytes, if the
    device answers QUEUED.
    """

    __slots__ = (
        "charge",
        "csum_offset",
        "csum_start",
        "gso_size",
        "header",
        "owner",
        "payload",
        "payload_len",
    )

    def __init__(
        self,
        header: bytes,
        payload: Sequence[Buffer] = (),
        payload_len: int = 0,
        gso_size: int = 0,
        csum_start: int = 0,
        csum_offset: int = 0,
        owner: object = None,
        charge: int = 0,
    ) -> None:
        self.header = header
        self.payload = payload
        self.payload_len = payload_len
        self.gso_size = gso_size
        self.csum_start = csum_start
        self.csum_offset = csum_offset
        self.owner = owner
        self.charge = charge


class RxPacket:
    """What IP input hands to a transport: a `Frame` whose IP header has been checked.

    `buf[l4:end]` is the transport header and payload, `buf[l3:]` the IP header. `iif` is
    the index of the device it came from, `now` its arrival time. `truesize` is 0, or for
    a reassembled datagram the charge of its fragments, for one of this host what its sender
    was charged (else `sock.truesize` has it).
    """

    __slots__ = (
        "buf",
        "csum_ok",
        "dst",
        "end",
        "gso_size",
        "iif",
        "l3",
        "l4",
        "now",
        "proto",
        "src",
        "tos",
        "truesize",
        "ttl",
    )

    def __init__(
        self,
        buf: bytes,
        l3: int,
        l4: int,
        end: int,
        proto: int,
        src: bytes,
        dst: bytes,
        tos: int,
        ttl: int,
        gso_size: int,
        csum_ok: bool,
        iif: int,
        now: int,
        truesize: int = 0,
    ) -> None:
        self.buf = buf
        self.l3 = l3
        self.l4 = l4
        self.end = end
        self.proto = proto
        self.src = src
        self.dst = dst
        self.tos = tos
        self.ttl = ttl
        self.gso_size = gso_size
        self.csum_ok = csum_ok
        self.iif = iif
        self.now = now
        self.truesize = truesize
