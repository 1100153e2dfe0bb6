"""The TUN device: packets by file descriptor, offloads by the virtio header.

pytun opens and names the interface; from there on the data path is one `os.read` into a
fresh `bytes` for each frame (which the receive queues then keep views of) and one
`os.writev` for each packet, so nothing is copied here.

With offloads a read or a write carries up to 64 KiB of one flow, and checksums are not
computed at all on this machine: that decides throughput. What the kernel accepts is
asked from most to least (UDP segmentation came with Linux 6.2). With UDP segmentation
granted, datagrams of one flow may arrive merged: `Frame.gso_size` says so.

The interface is not persistent: it goes away with the file descriptor, also when the
process is killed. A write to an interface that is down (EIO) or that cannot take the
packet is a counted drop, as on any link; an interface that somebody has deleted is an
error, because nothing can ever arrive on it again.

Sources: Linux Documentation/networking/tuntap.rst, drivers/net/tun.c.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections import Counter
from errno import EBADFD, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EPERM, errorcode

import pytun

from ustack.io.preflight import PreflightError
from ustack.io.vnet import HDR_LEN, NO_OFFLOAD, decode, encode
from ustack.link.gso import SoftwareGso
from ustack.sock.dst import Device
from ustack.wire.packet import (
    DROPPED,
    F_ALL,
    F_CSUM,
    F_TSO4,
    F_TSO6,
    TAKEN,
    Frame,
    Packet,
)

TUN_NODE = "/dev/net/tun"
BATCH_FRAMES = 64
BATCH_BYTES = 512 * 1024  # with BATCH_FRAMES, about 1 ms of work
MIN_MTU, MAX_MTU = 68, 65535
IFNAMSIZ = 16

_READ_SIZE = HDR_LEN + 40 + 65535  # an IPv6 header does not count in its payload length

_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_USO4, _TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
_TSO = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
# what to ask for, best first, and what it lets a packet have left to do
_OFFLOADS = (
    (_TSO | _TUN_F_USO4 | _TUN_F_USO6, F_ALL),
    (_TSO, F_CSUM | F_TSO4 | F_TSO6),
    (_TUN_F_CSUM, F_CSUM),
)


class TunDevice(Device):
    """A TUN interface, as a device below a stack and as the source of its frames."""

    def __init__(self, name: str, mtu: int, offload: bool = True) -> None:
        _check_name_and_mtu(name, mtu)
        vnet_flag = getattr(pytun, "IFF_VNET_HDR", 0) if offload else 0
        self._tun = _open(name, pytun.IFF_TUN | pytun.IFF_NO_PI | vnet_flag)
        self.fd: int = self._tun.fileno()
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)
        super().__init__(self._tun.name, mtu, _negotiate(self.fd) if vnet_flag else 0)
        self.vnet = vnet_flag != 0
        self.rx_dropped = 0
        self.drops: Counter[str] = Counter()  # by reason: DEV_HDR, or the errno of a write

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        """Remove the interface."""
        if self.fd >= 0:
            self.fd = -1
            self._tun.close()

    def read_batch(self, limit: int = BATCH_FRAMES) -> list[Frame]:
        """What has arrived: at most `limit` frames or BATCH_BYTES."""
        frames: list[Frame] = []
        read, fd, vnet = os.read, self.fd, self.vnet
        size = 0
        try:
            while len(frames) < limit and size < BATCH_BYTES:
                buf = read(fd, _READ_SIZE)
                size += len(buf)
                frame = decode(buf) if vnet else Frame(buf)
                if frame is not None:
                    frames.append(frame)
                else:
                    self.rx_dropped += 1
                    self.drops["DEV_HDR"] += 1
        except BlockingIOError:
            pass
        except OSError as exc:
            if exc.errno == EBADFD:
                raise OSError(ENODEV, f"interface {self.name} has been removed") from None
            raise
        return frames

    def xmit(self, packet: Packet) -> int:
        header = packet.header
        try:
            if self.vnet:
                vnet = encode(packet) if packet.csum_start else NO_OFFLOAD
                sent = os.writev(self.fd, [vnet, header, *packet.payload]) - HDR_LEN
            else:
                sent = os.writev(self.fd, [header, *packet.payload])
        except OSError as exc:
            self.tx_dropped += 1
            self.drops[errorcode.get(exc.errno or 0, "EIO")] += 1
            return DROPPED
        self.tx_packets += 1
        self.tx_bytes += sent
        return TAKEN


def open_tun_device(name: str, mtu: int, offload: bool = True) -> tuple[TunDevice, Device]:
    """The TUN, and the device to give to the stack: the TUN itself if it takes every kind
    of unfinished packet, else software segmentation above it."""
    raw = TunDevice(name, mtu, offload)
    return raw, raw if raw.features == F_ALL else SoftwareGso(raw)


def _check_name_and_mtu(name: str, mtu: int) -> None:
    bad = not name or len(name.encode()) >= IFNAMSIZ or "/" in name or name in (".", "..")
    if bad or any(c.isspace() for c in name):
        raise PreflightError(
            f"{name!r} is no interface name",
            f"choose one of 1 to {IFNAMSIZ - 1} bytes without spaces and slashes",
        )
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise PreflightError(
            f"MTU {mtu} is out of range",
            f"choose one from {MIN_MTU} (IPv6: 1280) to {MAX_MTU}",
        )


def _open(name: str, flags: int) -> pytun.TunTapDevice:
    try:
        return pytun.TunTapDevice(name, flags, TUN_NODE)
    except OSError as exc:
        raise tun_error(exc, name) from None


def tun_error(exc: OSError, name: str) -> PreflightError:
    """Why TUN_NODE could not be opened, or `name` not made, and what to do about it."""
    code = exc.errno
    if code == ENOENT:
        return PreflightError(
            f"{TUN_NODE} is missing",
            f"sudo mkdir -p /dev/net && sudo mknod -m 666 {TUN_NODE} c 10 200",
        )
    if code in (ENODEV, ENXIO):
        return PreflightError("this kernel has no TUN driver loaded", "sudo modprobe tun")
    if code == EBUSY:
        return PreflightError(
            f"interface {name} is in use by another process",
            "stop that one, or choose another name",
        )
    if code == EINVAL:
        return PreflightError(
            f"interface {name} exists and is no TUN of this kind",
            f"choose another name, or remove it: sudo ip link del {name}",
        )
    if not os.access(TUN_NODE, os.R_OK | os.W_OK):
        return PreflightError(
            f"{TUN_NODE} is closed to this user", f"sudo chmod 666 {TUN_NODE}, or run as root"
        )
    if code == EPERM:
        return PreflightError(
            f"no permission to create interface {name}", "run it as root (CAP_NET_ADMIN)"
        )
    return PreflightError(f"cannot create interface {name}", exc.strerror or str(exc))


def _negotiate(fd: int) -> int:
    """Ask for offloads; the features granted."""
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HDR_LEN))
    for flags, features in _OFFLOADS:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
        except OSError:
            continue
        return features
    return 0
