"""Topologies and ends. The test's thread is in the near namespace while a test runs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.kernel.ends import Ends, Near, open_near
from tools import testbed

LIMIT_S = 60
USTACK, PLAIN, KERNEL = Near("ustack"), Near("ustack", offload=False), Near("kernel")
_control = pytest.param(KERNEL, id="kernel-control", marks=pytest.mark.slow)
_offload = pytest.param(USTACK, id="offload")
_plain = pytest.param(PLAIN, id="no-offload")


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[_offload, _plain, _control])
def near(request: pytest.FixtureRequest) -> Near:
    """What stands at the near end; the control is a kernel."""
    assert isinstance(request.param, Near)
    return request.param


@pytest.fixture(params=[_plain, _control])
def plain_near(request: pytest.FixtureRequest) -> Near:
    """The same, without offload only: routed topologies carry MTU-sized packets."""
    assert isinstance(request.param, Near)
    return request.param


@pytest.fixture
def bed(near: Near) -> Iterator[testbed.Bed]:
    """The stack under test and its peer on one link."""
    with testbed.Veth() if near.is_kernel else testbed.Direct() as bed, bed.near.entered():
        yield bed


@pytest.fixture
def one_router(plain_near: Near) -> Iterator[testbed.Routed]:
    with testbed.Routed(1, plain_near.is_kernel) as bed, bed.near.entered():
        yield bed


@pytest.fixture
def two_routers(plain_near: Near) -> Iterator[testbed.Routed]:
    with testbed.Routed(2, plain_near.is_kernel) as bed, bed.near.entered():
        yield bed


@contextlib.asynccontextmanager
async def _ends(bed: testbed.Bed, near: Near, family: int) -> AsyncIterator[Ends]:
    async with trio.open_nursery() as nursery, open_near(near) as stack:
        nursery.start_soon(_watchdog)
        ends = Ends(bed, near, stack, family)
        yield ends
        ends.close()
        nursery.cancel_scope.cancel()


async def _watchdog() -> None:
    await trio.sleep(LIMIT_S)
    raise trio.TooSlowError(f"the test has not ended within {LIMIT_S} s")


@pytest.fixture
async def ends(bed: testbed.Bed, near: Near, family: int) -> AsyncIterator[Ends]:
    async with _ends(bed, near, family) as ends:
        yield ends


@pytest.fixture
async def lossy(one_router: testbed.Routed, plain_near: Near, family: int) -> AsyncIterator[Ends]:
    """Ends with a router between them that can lose packets."""
    async with _ends(one_router, plain_near, family) as ends:
        yield ends


@pytest.fixture
async def narrow(two_routers: testbed.Routed, plain_near: Near, family: int) -> AsyncIterator[Ends]:
    """Ends with a link between them whose MTU can shrink."""
    async with _ends(two_routers, plain_near, family) as ends:
        yield ends
