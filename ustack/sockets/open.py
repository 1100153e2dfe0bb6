"""Making stacks: on a TUN interface of this machine, or two joined in memory.

A stack lives as long as its `async with` block. Inside, one background task drives it;
an error in that task is a bug of the stack, cancels the block and comes out of it. At
the end the sockets that are still open are closed, their FINs delivered if the peers
answer within `grace`, and the devices removed. So it is if the block is cancelled: the
driver is shielded until the block has ended. Who still waits for a socket then, in a task
outside of the block, gets ClosedResourceError.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import BinaryIO

import trio

from ustack.io.driver import Driver, Source
from ustack.io.malloc import tune_malloc
from ustack.io.memory import memory_pair
from ustack.io.netlink import configure_link
from ustack.io.timebase import TrioTime
from ustack.io.tun import open_tun_device
from ustack.link.fifo import TXQUEUELEN, Fifo
from ustack.link.gro import merge
from ustack.link.loopback import Loopback
from ustack.observe.pcapng import CaptureDevice, PcapngWriter, Tap
from ustack.seeds import Seeds
from ustack.sock.dst import Device
from ustack.sock.sysctl import Sysctl
from ustack.sockets.resolver import Resolver
from ustack.sockets.stack import NetworkStack
from ustack.stack import Stack
from ustack.wire.packet import Frame

GRACE = 2.0  # s
_DEFAULT_ROUTE = ("0.0.0.0/0", "::/0")


@asynccontextmanager
async def open_tun(
    name: str = "ustack0",
    *,
    addresses: Sequence[str] = ("10.9.0.2/24", "fd00:9::2/64"),
    peers: Sequence[str] = ("10.9.0.1/24", "fd00:9::1/64"),
    mtu: int = 1500,
    offload: bool = True,
    gro: bool = True,
    rate: int = 0,
    txqueuelen: int = TXQUEUELEN,
    routes: Sequence[str] = (),
    seed: int | None = None,
    sysctl: Sysctl | None = None,
    pcap: str | os.PathLike[str] | None = None,
    resolver: Resolver | None = None,
    grace: float = GRACE,
    keep_memory: bool = True,
) -> AsyncIterator[NetworkStack]:
    """A stack on the TUN interface `name`, which is made for it and goes away with it.

    `addresses` (CIDR) are the stack's own, `peers` those of the kernel's end of the link;
    `routes` are prefixes behind the stack that the kernel should send through it.
    `offload`: exchange segments of up to 64 KiB with the kernel. `gro`: where the kernel
    hands over single segments, merge consecutive ones before TCP sees them. `rate`: bits a
    second that leave; what is sent faster waits in a queue of `txqueuelen` packets, charged to
    its socket, and is dropped beyond (0: a TUN takes everything at once). `seed` makes
    ISNs, ports and hash secrets repeatable. `pcap`: record every packet to that file (pcapng).
    `grace`: seconds to wait at the end for connections to close. `keep_memory`: tell this
    process's allocator not to give freed packets back to the system (`io.malloc`).

    Needs CAP_NET_ADMIN in the network namespace. `ustack.PreflightError`, which says what
    is missing and what mends it, if the machine does not allow it; ValueError for an
    address that is none.
    """
    if keep_memory:
        tune_malloc()
    with ExitStack() as cleanup:
        source, device = open_tun_device(name, mtu, offload)
        cleanup.callback(source.close)
        configure_link(source.name, mtu, peers, routes)
        file = cleanup.enter_context(open(pcap, "wb")) if pcap is not None else None
        wall_ns = time.time_ns() - time.monotonic_ns()
        core = Stack(seeds=Seeds(seed), loopback=Loopback(), sysctl=sysctl, wall_ns=wall_ns)
        driver = Driver(core)
        cleanup.callback(driver.close)
        shape = (rate, txqueuelen)
        _attach(core, driver, source, device, addresses, shape, file, gro and not source.vnet)
        for default in sorted({_DEFAULT_ROUTE[":" in cidr] for cidr in addresses}):
            core.add_route(default, core.routes.devices[-1])
        async with _running([(core, driver)], resolver, grace) as stacks:
            yield stacks[0]


@asynccontextmanager
async def open_memory_pair(
    *,
    addresses: tuple[Sequence[str], Sequence[str]] = (
        ("10.9.0.2/24", "fd00:9::2/64"),
        ("10.9.0.1/24", "fd00:9::1/64"),
    ),
    mtu: int = 1500,
    rate: int = 0,
    txqueuelen: int = TXQUEUELEN,
    seed: int | None = None,
    sysctl: tuple[Sysctl | None, Sysctl | None] = (None, None),
    grace: float = GRACE,
) -> AsyncIterator[tuple[NetworkStack, NetworkStack]]:
    """Two stacks joined by a cable that exists only in this process: no privileges.

    `rate` and `txqueuelen` are as `open_tun`'s, for each direction. They run by trio's clock,
    so a `trio.testing.MockClock` moves their timers too.
    """
    devices = memory_pair(mtu)
    with ExitStack() as cleanup:
        hosts = []
        for i, device in enumerate(devices):
            host_seed = None if seed is None else seed * 2 + i
            core = Stack(seeds=Seeds(host_seed), loopback=Loopback(), sysctl=sysctl[i])
            timebase = TrioTime()
            driver = Driver(core, timebase)
            cleanup.callback(driver.close)
            device.on_frames = timebase.wake
            _attach(core, driver, device, device, addresses[i], (rate, txqueuelen))
            hosts.append((core, driver))
        async with _running(hosts, None, grace) as (left, right):
            yield left, right


def _attach(
    core: Stack,
    driver: Driver,
    source: Source,
    device: Device,
    addresses: Sequence[str],
    shape: tuple[int, int],
    capture: BinaryIO | None = None,
    gro: bool = False,
) -> None:
    """Put `device` below the stack, with its addresses; slow it down and record it if asked
    to: `shape` is bits a second and the queue's length. A capture shows packets when they
    leave, and those that came as they were before they were merged."""
    if capture is not None:
        tap = Tap(PcapngWriter(capture, device.name), time.time_ns, device.mtu)
        source, device = _Recorded(source, tap), CaptureDevice(device, tap)
    if gro:
        source = _Merged(source)
    rate, txqueuelen = shape
    if rate:
        tx_done = core.handle_tx_done
        device = Fifo(device, driver.now, core.deadlines, tx_done, txqueuelen, max(rate // 8, 1))
    core.add_device(device)
    for cidr in addresses:
        core.add_address(device, cidr)
    driver.add_device(source, device)


class _Recorded:
    """A source whose frames are recorded as they come in."""

    def __init__(self, source: Source, tap: Tap) -> None:
        self._source = source
        self._tap = tap
        self.fileno = source.fileno

    def read_batch(self) -> list[Frame]:
        frames = self._source.read_batch()
        self._tap.inbound(frames)
        return frames


class _Merged:
    """A source whose consecutive segments of one flow come as one frame."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.fileno = source.fileno

    def read_batch(self) -> list[Frame]:
        frames = self._source.read_batch()
        return merge(frames) if len(frames) > 1 else frames


@asynccontextmanager
async def _running(
    hosts: Sequence[tuple[Stack, Driver]], resolver: Resolver | None, grace: float
) -> AsyncIterator[list[NetworkStack]]:
    """The stacks with their drivers running; closed down together, whatever ended it.

    Exceptions come out as they were raised, not wrapped by the nursery.
    """
    drivers = [trio.CancelScope() for _ in hosts]
    try:
        async with trio.open_nursery() as nursery:
            for scope, (_, driver) in zip(drivers, hosts, strict=True):
                await nursery.start(_run, driver, scope)
            stacks = [NetworkStack(core, driver, nursery, resolver) for core, driver in hosts]
            try:
                for scope in drivers:
                    scope.shield = True  # not earlier: `start` could not be cancelled
                yield stacks
            finally:
                if not nursery.cancel_scope.cancel_called:  # else a driver has failed
                    await _close(stacks, grace)
                for scope in (*drivers, nursery.cancel_scope):
                    scope.cancel()
                for stack in stacks:
                    stack.abandon()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


async def _run(driver: Driver, scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    with scope:
        await driver.run(task_status)


async def _close(stacks: Sequence[NetworkStack], grace: float) -> None:
    """Close everything at once, then wait for each: they may be each other's peers."""
    for stack in stacks:
        stack.close_sockets()
    with trio.CancelScope(shield=True), trio.move_on_after(grace):
        for stack in stacks:
            await stack.wait_closed()
