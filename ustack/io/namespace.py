"""A network of one's own: private network namespaces, with or without root.

A process that enters a private network namespace may open a TUN, configure it and talk
to it without touching the machine's network. An ordinary user gets there through a user
namespace in which he is root; root needs none. A user namespace can be entered only
while the process has a single thread.

Everything disappears with its last process: nothing here is persistent.

Sources: user_namespaces(7), network_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from errno import EACCES, EINVAL, ENOSPC, ENOSYS, EPERM, EUSERS

from ustack.io import libc
from ustack.io.preflight import PreflightError

TUN_NODE = "/dev/net/tun"
_TUN_MAJOR, _TUN_MINOR = 10, 200

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 0x1

# sysctl file, the value that forbids user namespaces to users, what mends it
_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def enter_private_network(user: bool | None = None) -> None:
    """Move this process into a fresh network namespace, with `lo` up.

    `user`: through a user namespace (in which we become root); None: unless we are root.
    Call it before any thread starts.
    """
    if user is None:
        user = os.geteuid() != 0
    if user:
        _enter_user_namespace()
    else:
        _unshare_net()
    loopback_up()


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNET)
    except OSError as exc:
        raise userns_error(exc.errno or 0) from None
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as exc:
        # AppArmor lets the namespace be made and then denies every right in it
        raise userns_error(exc.errno or 0) from None


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def userns_error(code: int, proc: str = "/proc/sys") -> PreflightError:
    """Why a user namespace could not be entered."""
    for path, forbidding, remedy in _SYSCTLS:
        try:
            with open(f"{proc}/{path}") as file:
                value = file.read().strip()
        except OSError:
            continue
        if value == forbidding:
            return PreflightError(
                f"this machine forbids user namespaces ({path.replace('/', '.')}={value})", remedy
            )
    if code in (ENOSPC, EUSERS):
        return PreflightError(
            "too many user namespaces", "sudo sysctl user.max_user_namespaces=15000"
        )
    if code == EINVAL and len(os.listdir("/proc/self/task")) > 1:
        return PreflightError(
            "a user namespace cannot be entered once a thread runs", "enter it first"
        )
    if code in (EINVAL, ENOSYS):
        return PreflightError("this kernel has no user namespaces", "run it as root")
    return PreflightError(
        f"user namespaces are forbidden here ({os.strerror(code)}), as in many containers",
        "run it as root, or outside the container",
    )


def _unshare_net() -> None:
    try:
        libc.unshare(libc.CLONE_NEWNET)
    except OSError as exc:
        if exc.errno in (EPERM, EACCES):
            raise PreflightError(
                "no permission to make a network namespace", "run it as root (CAP_SYS_ADMIN)"
            ) from None
        raise PreflightError(
            f"cannot make a network namespace ({exc.strerror})",
            "use a kernel with CONFIG_NET_NS, or raise user.max_net_namespaces",
        ) from None


def loopback_up() -> None:
    """Set `lo` up in the namespace we are in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        try:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
        except OSError as exc:
            if exc.errno in (EPERM, EACCES):
                raise userns_error(EPERM) from None
            raise


def private_tun_node(directory: str = "/tmp") -> None:
    """Where /dev/net/tun is closed: put one open to all in its place, for us alone.

    Root only; moves the process into a private mount namespace. For tests of what an
    ordinary user gets on a machine whose node is open.
    """
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    # a file system of our own, since `directory` may be mounted nodev
    libc.mount("tmpfs", directory, "tmpfs", libc.MS_NOSUID | libc.MS_NOEXEC, "mode=0755,size=64k")
    node = f"{directory}/tun"
    os.mknod(node, 0o020666, os.makedev(_TUN_MAJOR, _TUN_MINOR))
    os.chmod(node, 0o666)  # mknod obeys the umask
    libc.mount(node, TUN_NODE, "", libc.MS_BIND)
