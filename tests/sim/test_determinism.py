"""Same seed, same packets, byte for byte; also where Python hashes strings otherwise."""

import io
import os
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

from tests.link.packets import parse
from tests.sim.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def digest_elsewhere(name, seed, hash_seed):
    """The digest of the run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.scenarios", name, str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", SCENARIOS)
def test_same_seed_same_bytes(name):
    here = SCENARIOS[name](7)
    assert here.packets > 100
    assert {digest_elsewhere(name, 7, h) for h in ("0", "4242")} == {here.digest()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_other_seed_other_bytes(name):
    assert SCENARIOS[name](7).digest() != SCENARIOS[name](8).digest()


def test_every_packet_on_the_wire_is_whole():
    """At most one MTU, lengths and checksums right, by an independent reader."""
    packets = [data for _, data in dpkt.pcapng.Reader(io.BytesIO(SCENARIOS["tcp"](7).getvalue()))]
    assert max(map(len, packets)) == 1500
    assert {type(parse(data)) for data in packets} == {dpkt.ip.IP, dpkt.ip6.IP6}
