"""The test bed itself: what other tests of this folder rely on."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from tools import testbed

pytestmark = pytest.mark.kernel


def test_nothing_is_left_behind() -> None:
    """A bed that fails inside leaves no name, no process and no descriptor."""
    names = Path("/run/netns")
    before = sorted(names.iterdir()) if names.exists() else []
    descriptors = len(os.listdir("/proc/self/fd"))
    with contextlib.suppress(ZeroDivisionError), testbed.Routed(2, near_kernel=True) as bed:
        child = bed.far.start([sys.executable, "-c", "import sys; sys.stdin.read()"])
        raise ZeroDivisionError
    assert child.returncode is not None
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert (sorted(names.iterdir()) if names.exists() else []) == before


def test_a_thread_comes_back_from_a_namespace() -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    with testbed.Direct() as bed:
        with contextlib.suppress(ZeroDivisionError), bed.near.entered():
            assert os.readlink("/proc/thread-self/ns/net") != home
            raise ZeroDivisionError
        assert os.readlink("/proc/thread-self/ns/net") == home
        inside = bed.near.run(["ip", "-o", "link"])
    assert re.findall(r"^\d+: (\w+)", inside, re.M) == ["lo"]


def test_an_absent_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "find_tool", lambda name: None)
    with pytest.raises(testbed.BedError, match="nft is missing: apt-get install nftables"):
        testbed.need_tool("nft")
    assert testbed.missing() == "ip is missing: apt-get install iproute2"


def test_a_failing_command_says_why() -> None:
    with testbed.Direct() as bed, pytest.raises(testbed.BedError, match="nosuchdevice"):
        bed.near.ip("link set nosuchdevice up")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_the_router_counts_what_it_drops(family: int) -> None:
    """All of it with 1000 of 1000, each way for itself; none of UDP."""
    host = testbed.FAR4 if family == socket.AF_INET else testbed.FAR6
    with testbed.Routed(1, near_kernel=True) as bed:
        with bed.near.entered():
            near, probe = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
        with bed.far.entered():
            far = socket.create_server((host, 0), family=family)
            sink = socket.socket(family, socket.SOCK_DGRAM)
            sink.bind((host, 0))
        with near, far, probe, sink:
            bed.drop(1000)
            near.setblocking(False)
            near.connect_ex(far.getsockname())
            probe.sendto(b"after the SYN", sink.getsockname())
            sink.settimeout(5)
            assert sink.recv(100) == b"after the SYN"
            assert bed.dropped() == (0, 1)
            bed.undrop()
            assert bed.dropped() == (0, 0)
