from __future__ import annotations

import json
from typing import Any

import pytest

from tests.io.children import become_nobody, in_child
from tools.testbed import NEAR_DEV, Direct
from ustack.io.namespace import enter_private_network
from ustack.io.netlink import configure_link
from ustack.io.preflight import PreflightError
from ustack.io.tun import TunDevice

pytestmark = pytest.mark.kernel


def test_addresses_mtu_routes_and_up_and_again() -> None:
    with Direct() as bed, bed.near.entered():
        tun = TunDevice(NEAR_DEV, 1400)
        for _ in range(2):
            configure_link(
                NEAR_DEV, 1400, ["10.9.0.1/24", "fd00:9::1/64"], ["10.99.0.0/16", "fd00:99::/48"]
            )
        (link,) = json.loads(bed.near.run(["ip", "-j", "address", "show", "dev", NEAR_DEV]))
        found = {(a["local"], a["prefixlen"], a["scope"]) for a in link["addr_info"]}
        assert found == {("10.9.0.1", 24, "global"), ("fd00:9::1", 64, "global")}
        assert not any(a.get("tentative") for a in link["addr_info"])
        assert link["mtu"] == 1400
        assert "UP" in link["flags"]
        routes: list[dict[str, Any]] = []
        for family in ("-4", "-6"):
            shown = bed.near.run(["ip", family, "-j", "route", "show", "dev", NEAR_DEV])
            routes += json.loads(shown)
        assert {"10.99.0.0/16", "fd00:99::/48"} <= {route["dst"] for route in routes}
        tun.close()


@pytest.mark.parametrize(
    ("name", "peers", "routes", "cause"),
    [
        ("nosuch", [], [], "interface nosuch does not exist"),
        (NEAR_DEV, ["10.9.0.1/33"], [], "is no address"),
        (NEAR_DEV, ["here"], [], "is no address"),
        (NEAR_DEV, [], ["10.9.0.1/24"], "is no prefix"),
    ],
)
def test_bad_calls_are_one_line(name: str, peers: list[str], routes: list[str], cause: str) -> None:
    with Direct() as bed, bed.near.entered():
        tun = TunDevice(NEAR_DEV, 1500)
        with pytest.raises(PreflightError, match=cause) as caught:
            configure_link(name, 1500, peers, routes)
        assert "\n" not in str(caught.value)
        tun.close()


def test_ipv6_switched_off_is_said() -> None:
    with Direct() as bed, bed.near.entered():
        bed.near.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
        tun = TunDevice(NEAR_DEV, 1500)
        with pytest.raises(PreflightError, match="IPv6 is off"):
            configure_link(NEAR_DEV, 1500, ["fd00:9::1/64"])
        tun.close()


def test_without_the_right_it_says_who_has_it() -> None:
    def child() -> str:
        enter_private_network()
        tun = TunDevice(NEAR_DEV, 1500)
        become_nobody()
        with pytest.raises(PreflightError) as caught:
            configure_link(NEAR_DEV, 1500, ["10.9.0.1/24"])
        tun.close()
        return str(caught.value)

    import pyroute2  # before the child gives up the right to read where it lies

    assert pyroute2.IPRoute
    assert "CAP_NET_ADMIN" in in_child(child)
