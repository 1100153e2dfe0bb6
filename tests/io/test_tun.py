"""The TUN against the kernel behind it, in a private network namespace."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tools.testbed import NEAR4, NEAR_DEV, PEER4, Direct
from ustack.io.netlink import configure_link
from ustack.io.preflight import PreflightError
from ustack.io.tun import BATCH_FRAMES, TunDevice, open_tun_device, tun_error
from ustack.io.vnet import HDR_LEN
from ustack.link.gso import SoftwareGso, finish_bytes
from ustack.sock.dst import Device
from ustack.wire.packet import DROPPED, F_ALL, TAKEN, Frame, Packet

kernel = pytest.mark.kernel


@contextmanager
def tun(offload: bool = True, up: bool = True) -> Iterator[tuple[TunDevice, Device]]:
    """In a namespace of its own: a TUN whose kernel end has PEER4."""
    with Direct() as bed, bed.near.entered():
        raw, top = open_tun_device(NEAR_DEV, 1500, offload)
        try:
            if up:
                configure_link(NEAR_DEV, 1500, [f"{PEER4}/24"])
            yield raw, top
        finally:
            raw.close()


def read(raw: TunDevice) -> list[Frame]:
    """The next batch; bounded."""
    assert select.select([raw.fd], [], [], 5)[0]
    return raw.read_batch()


def udp(source: str, destination: str, sport: int, dport: int, data: bytes, gso: int = 0) -> Packet:
    """An IPv4 datagram with its checksum left open, as the core makes them."""
    length = 8 + len(data)
    src, dst = socket.inet_aton(source), socket.inet_aton(destination)
    total = (20 + length).to_bytes(2, "big")
    ip = b"\x45\0" + total + bytes(4) + b"\x40\x11\0\0" + src + dst
    csum = -int.from_bytes(ip, "big") % 65535
    ip = ip[:10] + csum.to_bytes(2, "big") + ip[12:]
    pseudo = (int.from_bytes(src + dst, "big") + 17 + length) % 65535
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    header = ip + ports + length.to_bytes(2, "big") + pseudo.to_bytes(2, "big")
    return Packet(header, [data], len(data), gso, 20, 6)


@kernel
@pytest.mark.parametrize("offload", [True, False])
def test_the_kernel_takes_our_datagrams_and_we_its(offload: bool) -> None:
    with tun(offload) as (raw, top), socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind((PEER4, 7000))
        peer.settimeout(5)
        assert raw.vnet is offload
        assert (raw.features == F_ALL) is offload
        assert isinstance(top, SoftwareGso) is not offload
        assert top.xmit(udp(NEAR4, PEER4, 9, 7000, b"from us")) == TAKEN
        assert peer.recvfrom(100) == (b"from us", (NEAR4, 9))
        for i in range(BATCH_FRAMES + 1):
            peer.sendto(b"%d" % i, (NEAR4, 9))
        first, rest = read(raw), read(raw)
        assert len(first) == BATCH_FRAMES
        bodies = [frame.buf[frame.off + 28 :] for frame in first + rest]
        assert bodies == [b"%d" % i for i in range(BATCH_FRAMES + 1)]
        assert {frame.off for frame in first} == {HDR_LEN if offload else 0}
        assert {frame.csum_ok for frame in first} == {offload}
        assert raw.read_batch() == []
        assert raw.tx_packets == 1


@kernel
def test_the_kernel_cuts_a_burst_of_datagrams() -> None:
    with tun() as (_, top), socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind((PEER4, 7000))
        peer.settimeout(5)
        data = os.urandom(5000)
        assert top.xmit(udp(NEAR4, PEER4, 9, 7000, data, gso=1400)) == TAKEN
        assert [peer.recv(9000) for _ in range(4)] == [
            data[i : i + 1400] for i in range(0, 5000, 1400)
        ]


@kernel
def test_a_burst_of_the_kernel_arrives_merged() -> None:
    udp_segment = 103
    with tun() as (raw, _), socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.setsockopt(socket.IPPROTO_UDP, udp_segment, 1000)
        peer.sendto(bytes(3500), (NEAR4, 9))
        (frame,) = read(raw)
        assert (frame.gso_size, frame.csum_ok) == (1000, True)
        assert len(frame.buf) == HDR_LEN + 28 + 3500


@kernel
@pytest.mark.parametrize("offload", [True, False])
def test_a_write_to_a_link_that_is_down_is_a_counted_drop(offload: bool) -> None:
    with tun(offload, up=False) as (raw, top):
        assert top.xmit(udp(NEAR4, PEER4, 9, 7000, b"x")) == DROPPED
        assert (raw.tx_dropped, raw.tx_packets, dict(raw.drops)) == (1, 0, {"EIO": 1})
        configure_link(NEAR_DEV, 1500, [f"{PEER4}/24"])
        assert top.xmit(udp(NEAR4, PEER4, 9, 7000, b"x")) == TAKEN


@kernel
def test_a_packet_that_the_kernel_refuses_is_a_counted_drop() -> None:
    with tun() as (raw, top):
        beyond = Packet(b"\x45" + bytes(27), csum_start=200, csum_offset=6)
        assert top.xmit(beyond) == DROPPED
        assert dict(raw.drops) == {"EINVAL": 1}


@kernel
def test_a_removed_interface_is_an_error() -> None:
    with Direct() as bed, bed.near.entered():
        raw = TunDevice(NEAR_DEV, 1500)
        bed.near.ip(f"link del {NEAR_DEV}")
        with pytest.raises(OSError, match="removed") as caught:
            raw.read_batch()
        assert caught.value.errno == errno.ENODEV
        raw.close()


@kernel
def test_a_name_in_use_is_one_line() -> None:
    with tun() as (raw, _):
        with pytest.raises(PreflightError) as caught:
            TunDevice(raw.name, 1500)
        assert "in use by another process" in caught.value.cause
        assert "\n" not in str(caught.value)


@kernel
def test_an_interface_of_another_kind_is_one_line() -> None:
    with Direct() as bed, bed.near.entered():
        bed.near.ip("tuntap add dev taken mode tap")
        with pytest.raises(PreflightError, match="ip link del taken"):
            TunDevice("taken", 1500)


@kernel
def test_nothing_is_left_after_sigkill() -> None:
    with Direct() as bed, bed.near.entered():
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                tun = TunDevice(NEAR_DEV, 1500)
                configure_link(tun.name, 1500, [f"{PEER4}/24"])
                os.write(writer, b"x")
                time.sleep(60)
            finally:
                os._exit(1)
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        again = TunDevice(NEAR_DEV, 1500)
        configure_link(NEAR_DEV, 1500, [f"{PEER4}/24"])
        again.close()


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", ".."])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(PreflightError, match="no interface name"):
        TunDevice(name, 1500)


@pytest.mark.parametrize("mtu", [0, 67, 65536])
def test_an_mtu_out_of_range_is_refused(mtu: int) -> None:
    with pytest.raises(PreflightError, match=f"MTU {mtu} is out of range"):
        TunDevice("ustack0", mtu)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOENT, "mknod"),
        (errno.ENODEV, "modprobe tun"),
        (errno.EBUSY, "another name"),
        (errno.EINVAL, "ip link del x"),
        (errno.EIO, "boom"),
    ],
)
def test_what_the_kernel_says_becomes_cause_and_remedy(code: int, remedy: str) -> None:
    error = tun_error(OSError(code, "boom"), "x")
    assert remedy in error.remedy or code == errno.EIO
    assert str(error) == f"{error.cause}: {error.remedy}"


def test_the_helper_makes_datagrams_that_finish() -> None:
    (data,) = finish_bytes(udp(NEAR4, PEER4, 1, 2, b"abc"))
    assert data[-3:] == b"abc"
