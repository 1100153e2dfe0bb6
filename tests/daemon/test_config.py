from __future__ import annotations

import pytest

from ustack.daemon import config, daemon
from ustack.daemon.config import (
    Config,
    ConfigError,
    choose_addresses,
    parse_address,
    parse_service,
    parse_sysctls,
)
from ustack.io.tun import MAX_MTU, MIN_MTU


def test_the_defaults_are_good() -> None:
    default = Config()
    default.check()
    assert default.hosts == ["10.9.0.2", "fd00:9::2"]
    assert choose_addresses([], []) == (config.ADDRESSES, config.PEERS)
    assert (config.MIN_MTU, config.MAX_MTU) == (MIN_MTU, MAX_MTU)


def test_every_service_that_can_be_named_exists() -> None:
    services = daemon.all_services(Config(), str, "1")
    ports = {name: service.port for name, service in services.items()}
    assert ports == config.SERVICES | config.OTHER_SERVICES


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ("10.1.2.3/24", "10.1.2.1/24"),
        ("10.1.2.1/24", "10.1.2.2/24"),
        ("10.1.2.0/31", "10.1.2.1/31"),
        ("fd00:1::5/64", "fd00:1::1/64"),
    ],
)
def test_one_end_of_the_link_gives_the_other(given: str, other: str) -> None:
    assert choose_addresses([given], []) == ([given], [other])
    assert choose_addresses([], [given]) == ([other], [given])


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"mtu": 67}, "MTU 67 is out of range"),
        ({"mtu": 65536}, "MTU 65536 is out of range"),
        ({"mtu": 1279}, "too small for IPv6"),
        ({"tun": ""}, "no interface name"),
        ({"tun": "a" * 16}, "no interface name"),
        ({"tun": "a b"}, "no interface name"),
        ({"addresses": ["10.9.0.1/24"]}, "both the stack's address and the kernel's"),
        ({"addresses": ["10.9.0/24"]}, "no address"),
        ({"addresses": ["10.9.0.2"]}, "lacks its prefix length"),
        ({"addresses": ["224.0.0.1/24"]}, "cannot be the address of a host"),
        ({"peers": ["::/64"]}, "cannot be the address of a host"),
        ({"peers": ["127.0.0.1/8"]}, "cannot be the address of a host"),
        ({"services": {"echo": 7, "http": 7}}, "cannot both have port 7"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, object], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause) as caught:
        Config(**settings).check()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_small_mtu_is_fine_without_ipv6() -> None:
    Config(mtu=68, addresses=["10.9.0.2/24"], peers=["10.9.0.1/24"]).check()


def test_services() -> None:
    assert parse_service("echo") == ("echo", 7)
    assert parse_service("http=8080") == ("http", 8080)
    assert parse_service("sink") == ("sink", 5009)
    for bad in ("ssh", "echo=", "echo=0", "echo=65536", "echo=x", "echo=-1", ""):
        with pytest.raises(ConfigError):
            parse_service(bad)


def test_sysctls_by_the_kernels_names_and_types() -> None:
    made = parse_sysctls(
        [
            "net.ipv4.tcp_sack=0",
            "tcp_rmem=4096 131072 6291456",
            "tcp_wmem=1,2,3",
            "tcp_congestion_control=reno",
            "net.core.somaxconn=0x10",
        ]
    )
    assert made.tcp_sack is False
    assert made.tcp_rmem == (4096, 131072, 6291456)
    assert made.tcp_wmem == (1, 2, 3)
    assert made.tcp_congestion_control == "reno"
    assert made.somaxconn == 16


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("tcp_sakc=1", "did you mean tcp_sack"),
        ("tcp_sack", "NAME=VALUE"),
        ("tcp_sack=yes", "give a number"),
        ("tcp_sack=-1", "give a number"),
        ("tcp_rmem=1 2", "give 3 numbers"),
        ("__class__=1", "did you mean"),
    ],
)
def test_a_sysctl_that_cannot_be(setting: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        parse_sysctls([setting])


def test_an_address_without_room_for_a_peer() -> None:
    with pytest.raises(ConfigError, match="leaves no room"):
        choose_addresses(["10.1.1.1/32"], [])


def test_parse_address() -> None:
    assert str(parse_address("fd00:9::2/64").ip) == "fd00:9::2"
    with pytest.raises(ConfigError):
        parse_address("fe80::1%eth0/64")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("64000", 64_000), ("8bit", 8), ("1.5Mbit", 1_500_000), ("10kbit", 10_000), ("1gbit", 10**9)],
)
def test_rates(text: str, rate: int) -> None:
    assert config.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0", "7", "-1", "1kb", "1 mbit", "nan"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError, match="10mbit"):
        config.parse_rate(text)
