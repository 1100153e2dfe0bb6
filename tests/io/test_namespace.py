from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.io.children import become_nobody, in_child
from ustack.io.namespace import enter_private_network, private_tun_node, userns_error
from ustack.io.netlink import configure_link
from ustack.io.preflight import PreflightError
from ustack.io.tun import TunDevice


def loopback_works() -> bool:
    """Whether `lo` carries a datagram."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x", sock.getsockname())
        return sock.recv(10) == b"x"


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


@pytest.mark.kernel
@pytest.mark.parametrize("user", [None, True])
def test_a_network_of_our_own_as_root(user: bool | None) -> None:
    def child() -> object:
        enter_private_network(user)
        return [loopback_works(), "lo" in interfaces(), os.geteuid()]

    assert in_child(child) == [True, True, 0]


@pytest.mark.kernel
def test_an_ordinary_user_gets_a_network_and_a_tun() -> None:
    import pyroute2  # before the child gives up the right to read where it lies

    assert pyroute2.IPRoute

    def child() -> object:
        private_tun_node()
        become_nobody()
        enter_private_network()
        tun = TunDevice("ustack0", 1500)
        configure_link("ustack0", 1500, ["10.9.0.1/24", "fd00:9::1/64"])
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("10.9.0.1", 0))
            sock.sendto(b"hello", ("10.9.0.2", 9))
        frames = []
        while not frames:
            frames = [f.buf for f in tun.read_batch() if f.buf[f.off] >> 4 == 4]
        return [os.geteuid(), loopback_works(), frames[0][-5:].decode()]

    assert in_child(child) == [0, True, "hello"]


@pytest.mark.kernel
def test_a_closed_node_is_one_line() -> None:
    def child() -> object:
        private_tun_node()
        os.chmod("/dev/net/tun", 0o600)
        become_nobody()
        enter_private_network()
        with pytest.raises(PreflightError) as caught:
            TunDevice("ustack0", 1500)
        return [caught.value.cause, caught.value.remedy]

    cause, remedy = in_child(child)
    assert cause == "/dev/net/tun is closed to this user"
    assert "sudo chmod 666 /dev/net/tun" in remedy


@pytest.mark.kernel
def test_an_ordinary_user_cannot_go_without_a_user_namespace() -> None:
    def child() -> object:
        become_nobody()
        with pytest.raises(PreflightError) as caught:
            enter_private_network(user=False)
        return str(caught.value)

    assert "CAP_SYS_ADMIN" in in_child(child)


@pytest.mark.kernel
def test_forbidden_user_namespaces_are_named_with_their_remedy() -> None:
    """The limit is per user namespace: we set it in one of our own."""

    def child() -> object:
        enter_private_network(user=True)
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        with pytest.raises(PreflightError) as caught:
            enter_private_network(user=True)
        return [caught.value.cause, caught.value.remedy]

    cause, remedy = in_child(child)
    assert cause == "this machine forbids user namespaces (user.max_user_namespaces=0)"
    assert remedy == "sudo sysctl user.max_user_namespaces=15000"


@pytest.mark.kernel
def test_a_running_thread_is_named() -> None:
    def child() -> object:
        done = threading.Event()
        thread = threading.Thread(target=done.wait, daemon=True)
        thread.start()
        try:
            with pytest.raises(PreflightError) as caught:
                enter_private_network(user=True)
        finally:
            done.set()
            thread.join()
        return caught.value.cause

    assert "thread" in in_child(child)


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_each_sysctl_that_forbids_has_its_remedy(
    tmp_path: Path, path: str, value: str, remedy: str
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(value + "\n")
    error = userns_error(errno.EPERM, str(tmp_path))
    assert error.remedy == f"sudo sysctl {remedy}"
    assert path.replace("/", ".") in error.cause


@pytest.mark.parametrize(
    ("code", "part"),
    [(errno.ENOSPC, "too many"), (errno.ENOSYS, "kernel"), (errno.EPERM, "container")],
)
def test_other_reasons(tmp_path: Path, code: int, part: str) -> None:
    assert part in str(userns_error(code, str(tmp_path)))


def test_this_process_has_not_moved() -> None:
    shown = subprocess.run(
        ["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == os.readlink("/proc/self/ns/net")
