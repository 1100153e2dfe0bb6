"""The daemon, talked to by the kernel of a private namespace."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import dpkt
import pytest

from tests.cli.commands import Up, is_one_line, run
from tests.io.children import become_nobody, in_child
from ustack.io.namespace import enter_private_network
from ustack.io.netlink import configure_link
from ustack.io.tun import TunDevice

pytestmark = pytest.mark.kernel
HOSTS = ("10.9.0.2", "fd00:9::2")


def in_namespace(test: Callable[[], object]) -> object:
    """What `test` returns, run in a network namespace of its own."""

    def child() -> object:
        enter_private_network(user=False)
        return test()

    return in_child(child, seconds=60)


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def echoed(host: str, port: int = 7) -> bytes:
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(b"hello")
        return sock.recv(100)


def test_all_services_and_a_clean_end() -> None:
    def child() -> object:
        with Up() as up:
            assert up.lines[0].startswith("ustack0 is up, mtu 1500: stack 10.9.0.2, fd00:9::2")
            names = [line.split()[0] for line in up.lines[1:]]
            assert names == ["echo", "discard", "daytime", "chargen", "http"]
            for host in HOSTS:
                assert echoed(host) == b"hello"
                url = f"http://[{host}]/" if ":" in host else f"http://{host}/"
                page = urllib.request.urlopen(url, timeout=10).read().decode()
                assert "TcpPassiveOpens" in page
                with socket.create_connection((host, 13), timeout=10) as sock:
                    assert sock.recv(100).endswith(b"-UTC\r\n")
                with socket.create_connection((host, 19), timeout=10) as sock:
                    assert len(sock.makefile("rb").read(10_000)) == 10_000
            idle = socket.create_connection((HOSTS[0], 7), timeout=10)
            status, out, err = up.end(signal.SIGTERM)
            assert idle.recv(1) == b"", "the connection ended with a FIN"
            assert (status, out, err) == (0, "SIGTERM: closing\nclosed\n", "")
        return interfaces()

    assert in_namespace(child) == ["lo"]


def test_other_names_addresses_and_ports() -> None:
    def child() -> object:
        arguments = "--tun mine --address 10.1.0.9/24 --mtu 576 --no-offload --service echo=7777"
        with Up(*arguments.split(), "--service", "http") as up:
            assert up.lines[0] == "mine is up, mtu 576: stack 10.1.0.9; kernel 10.1.0.1"
            assert echoed("10.1.0.9", 7777) == b"hello"
            assert interfaces() == ["lo", "mine"]
            return list(up.end(signal.SIGINT)[::2])

    assert in_namespace(child) == [0, ""]


def test_sigkill_leaves_nothing_that_stops_the_next_start() -> None:
    def child() -> object:
        for _ in range(2):
            with Up() as up:
                assert [echoed(host) for host in HOSTS] == [b"hello"] * 2
                assert up.end(signal.SIGKILL)[0] == -signal.SIGKILL
            assert interfaces() == ["lo"]
        return True

    assert in_namespace(child)


def test_a_capture_of_what_went_by(tmp_path: Path) -> None:
    file = tmp_path / "up.pcapng"

    def child() -> object:
        with Up("--pcap", str(file)) as up:
            echoed(HOSTS[0])
            return up.end()[0]

    assert in_namespace(child) == 0
    with file.open("rb") as opened:
        packets = [dpkt.ip.IP(data) for _, data in dpkt.pcapng.Reader(opened) if data[0] >> 4 == 4]
    payloads = [bytes(p.data.data) for p in packets if isinstance(p.data, dpkt.tcp.TCP)]
    assert payloads.count(b"hello") == 2


def refused(*argv: str) -> list[object]:
    """[exit status, stderr] of an `up` that cannot start."""
    status, out, err = run("up", *argv)
    assert out == ""
    assert is_one_line(err), err
    return [status, err]


def test_an_interface_in_use() -> None:
    def child() -> object:
        with Up():
            return refused()

    status, err = in_namespace(child)  # type: ignore[misc]
    assert status == 1
    assert "interface ustack0 is in use" in err


def test_an_address_in_use() -> None:
    def child() -> object:
        other = TunDevice("other0", 1500)
        configure_link("other0", 1500, ["10.9.0.1/24", "fd00:9::77/64"])
        answers = [refused(), refused("--peer", "fd00:9::1/64", "--address", "fd00:9::77/64")]
        other.close()
        return answers

    (status, peer), (status6, own) = in_namespace(child)  # type: ignore[misc]
    assert status == status6 == 1
    assert peer == "ustack up: address 10.9.0.1 is in use on other0: choose another --peer\n"
    assert own == "ustack up: address fd00:9::77 is in use on other0: choose another --address\n"


def test_a_capture_file_that_cannot_be() -> None:
    status, err = in_namespace(lambda: refused("--pcap", "/nonexistent/file"))  # type: ignore[misc]
    assert status == 1
    assert "cannot open /nonexistent/file (No such file or directory)" in err


def test_a_missing_capability() -> None:
    import pyroute2  # before the child gives up the right to read where it lies

    from ustack.daemon import daemon

    assert pyroute2.IPRoute
    assert daemon.run

    def child() -> object:
        become_nobody()
        return [os.geteuid(), *refused()]

    uid, status, err = in_namespace(child)  # type: ignore[misc]
    assert (uid, status) == (65534, 1)
    assert "root" in err


def test_an_interface_that_somebody_removes() -> None:
    def child() -> object:
        from pyroute2 import IPRoute

        with Up() as up, IPRoute() as ipr:
            ipr.link("del", index=ipr.link_lookup(ifname="ustack0")[0])
            return list(up.end(None))

    status, out, err = in_namespace(child)  # type: ignore[misc]
    assert (status, out) == (1, "")
    assert is_one_line(err)
    assert "interface ustack0 has been removed" in err
