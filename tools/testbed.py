"""Network namespaces for tests and benchmarks: topologies with a real kernel in them.

A namespace here has no name and no holder process. A short-lived thread calls
unshare(CLONE_NEWNET) and opens its own /proc/thread-self/ns/net; that descriptor is the
namespace. When it is closed, or its process dies however violently, the kernel removes
the namespace with its devices, routes and rules: nothing can leak and nothing needs
cleaning up. Namespaces are per thread, so `with netns.entered():` moves the calling
thread in and back, and whatever is made inside belongs there for good: a socket, a TUN, a
child process. The block must not await.

Topologies (`near` is the side under test: a TUN called `NEAR_DEV` that a stack will open
there, or for reference runs a kernel behind a veth of that name; `far` is the kernel peer):

    direct       near == far: the stack's TUN ends in the peer's own kernel
    veth         near ---- far: kernels at both ends, the reference
    routed       [stack on TUN, or kernel] near/router0 ---- (router1 ----) far

Loss must happen in a router. A packet that is dropped in the sender's own host is no loss:
its kernel is told (UDP gets EPERM, TCP retries at once), so `Routed.drop` puts its rules
into the forward hook of router0. There it must also see MTU-sized packets, so segmentation
offload and GRO are off on every hop of a routed topology.

`Routed.set_middle_mtu` changes both ends of the link between the two routers, whose
packets-too-big then go to both senders. Two routers are needed for that: lowering the MTU
of an end host's own link tells no ICMP, and a veth silently drops what is larger than the
MTU of its receiving end.

Everything here needs CAP_SYS_ADMIN over the user namespace: be root, or start under
`unshare --user --map-root-user --net`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

CLONE_NEWNET = 0x40000000
UP_S = 10
PR_SET_PDEATHSIG = 1

NEAR_DEV = "ustack0"
NEAR4, NEAR6 = "10.9.0.2", "fd00:9::2"
PEER4, PEER6 = "10.9.0.1", "fd00:9::1"  # the other end of NEAR_DEV
FAR4, FAR6 = "10.8.0.1", "fd00:8::1"  # the kernel peer behind routers

_PACKAGES = {
    "ip": "iproute2",
    "ss": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "iperf3": "iperf3",
    "unshare": "util-linux",
}
_libc = ctypes.CDLL(None, use_errno=True)


class BedError(RuntimeError):
    """The test bed cannot be built here; the text says what is missing and what mends it."""


def find_tool(name: str) -> str | None:
    """The path of a system program, also where an ordinary user's PATH lacks sbin."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def need_tool(name: str) -> str:
    path = find_tool(name)
    if path is None:
        package = _PACKAGES.get(name, name)
        raise BedError(f"{name} is missing: apt-get install {package}")
    return path


def missing() -> str | None:
    """Why no test bed can be built in this process, or None if one can."""
    for name in ("ip", "nft", "ethtool"):
        if find_tool(name) is None:
            return f"{name} is missing: apt-get install {_PACKAGES[name]}"
    try:
        Netns("probe").close()
    except BedError as exc:
        return str(exc)
    return None


def die_with_parent() -> None:
    """For a child between fork and exec: be killed when the parent dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        err = ctypes.get_errno()
        raise BedError(f"setns: {os.strerror(err)}")


def _unshared_fd() -> int:
    """The descriptor of a new network namespace; the calling thread stays where it is."""
    result: list[int] = []

    def unshare() -> None:
        if _libc.unshare(CLONE_NEWNET) != 0:
            result.extend((-1, ctypes.get_errno()))
            return
        result.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=unshare, name="unshare")
    thread.start()
    thread.join()
    if result[0] < 0:
        raise BedError(
            f"no network namespace: {os.strerror(result[1])}; "
            "run as root or under `unshare --user --map-root-user --net`"
        )
    return result[0]


class Netns:
    """One network namespace, alive as long as this object is open (or something is in it)."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.fd = _unshared_fd()
        self.children: list[subprocess.Popen[str]] = []
        # No duplicate address detection (it would make every address wait a second), no
        # reverse path filter, and no memory of one run's congestion in the next.
        self.sysctl("net/ipv6/conf/all/accept_dad", 0)
        self.sysctl("net/ipv6/conf/default/accept_dad", 0)
        self.sysctl("net/ipv4/conf/all/rp_filter", 0)
        self.sysctl("net/ipv4/conf/default/rp_filter", 0)
        self.sysctl("net/ipv4/tcp_no_metrics_save", 1)
        self.ip("link set lo up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace inside the block."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self.fd)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        """Run a program to its end in here; its stdout. BedError with its stderr if it fails."""
        command = [need_tool(argv[0]), *argv[1:]]
        with self.entered():
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise BedError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def ip(self, *commands: str) -> None:
        """Run ip(8) commands as one batch."""
        self.run(["ip", "-batch", "-"], "\n".join(commands) + "\n")

    def start(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[str]:
        """Start a program in here with pipes for stdin and stdout; it ends with the bed."""
        kwargs.setdefault("stdin", subprocess.PIPE)
        kwargs.setdefault("stdout", subprocess.PIPE)
        with self.entered():
            child = subprocess.Popen(argv, text=True, preexec_fn=die_with_parent, **kwargs)
        self.children.append(child)
        return child

    def sysctl(self, path: str, value: int | str) -> None:
        """Write a sysctl of this namespace, path with slashes. Absent ones are skipped."""
        with (
            self.entered(),
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/sys/{path}", "w", encoding="ascii") as file,
        ):
            file.write(str(value))

    def counters(self) -> dict[str, int]:
        """The kernel's SNMP counters of this namespace, named as nstat(8) names them."""
        with self.entered():
            return read_counters()

    def close(self) -> None:
        for child in self.children:
            stop(child)
        self.children.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def stop(child: subprocess.Popen[str]) -> None:
    """End one child of ours: end of input, then SIGTERM, then SIGKILL."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    for end in (None, child.terminate, child.kill):
        if end is not None:
            end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(2.0)
            break
    if child.stdout is not None:
        child.stdout.close()


def read_counters() -> dict[str, int]:
    """The SNMP counters of the calling thread's namespace (`TcpRetransSegs`, ...)."""
    counters: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
            lines = file.read().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            prefix, _, rest = names.partition(": ")
            numbers = values.partition(": ")[2].split()
            counters.update(
                (prefix + n, int(v)) for n, v in zip(rest.split(), numbers, strict=True)
            )
    with open("/proc/thread-self/net/snmp6", encoding="ascii") as file:
        counters.update((key, int(value)) for key, value in map(str.split, file))
    return counters


class End(NamedTuple):
    """One end of a link: where it is and what it is called."""

    netns: Netns
    dev: str
    v4: str
    v6: str


def _link(left: End, right: End, offload: bool = True) -> None:
    """Join two namespaces by a veth pair, up and addressed.

    Both ends know each other's link address: a first packet that waits for ARP or
    neighbour discovery would be late by up to a second.
    """
    path = f"/proc/{os.getpid()}/fd/{right.netns.fd}"
    left.netns.ip(
        f"link add {left.dev} address 02:00:00:00:00:01 type veth "
        f"peer name {right.dev} address 02:00:00:00:00:02 netns {path}"
    )
    for own, other, mac in ((left, right, 2), (right, left, 1)):
        own.netns.ip(
            f"address add {own.v4}/24 dev {own.dev}",
            f"address add {own.v6}/64 dev {own.dev} nodad",
            f"link set {own.dev} up",
            f"neigh add {other.v4} lladdr 02:00:00:00:00:0{mac} nud permanent dev {own.dev}",
            f"neigh add {other.v6} lladdr 02:00:00:00:00:0{mac} nud permanent dev {own.dev}",
        )
        if not offload:
            own.netns.run(["ethtool", "-K", own.dev, "tso", "off", "gso", "off", "gro", "off"])
    for end in (left, right):
        _wait_until_up(end)


def _wait_until_up(end: End) -> None:
    """The kernel notices a veth's carrier in a work queue; what is sent before is lost."""
    deadline = time.monotonic() + UP_S
    while time.monotonic() < deadline:
        (link,) = json.loads(end.netns.run(["ip", "-j", "address", "show", "dev", end.dev]))
        if link["operstate"] == "UP" and not any(a.get("tentative") for a in link["addr_info"]):
            return
        time.sleep(0.002)
    raise BedError(f"{end.dev} in {end.netns.label} has not come up within {UP_S} s")


class Bed:
    """A topology. A context manager: leaving it ends its processes and its namespaces."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.near: Netns
        self.far: Netns
        self.far4, self.far6 = PEER4, PEER6
        self.mtu = 1500

    def _netns(self, label: str) -> Netns:
        netns = Netns(label)
        self._stack.callback(netns.close)
        return netns

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        raise NotImplementedError


class Direct(Bed):
    """One namespace: the TUN that a stack opens in it ends in the kernel peer itself."""

    def _build(self) -> None:
        self.near = self.far = self._netns("peer")


class Veth(Bed):
    """Two kernels over a veth pair, with the addresses that `Direct` gives its two sides."""

    def _build(self) -> None:
        self.near, self.far = self._netns("near"), self._netns("peer")
        _link(
            End(self.near, NEAR_DEV, NEAR4, NEAR6),
            End(self.far, "far0", PEER4, PEER6),
        )


class Routed(Bed):
    """The kernel peer behind one or two routers, no offload on any hop.

    With `near_kernel` the near side is a kernel in its own namespace; otherwise
    a stack must open its TUN, called `NEAR_DEV`, in `near`, which is router0.
    """

    def __init__(self, routers: int = 1, near_kernel: bool = False) -> None:
        super().__init__()
        self.near_kernel = near_kernel
        self._count = routers
        self.routers: list[Netns] = []
        self.far4, self.far6 = FAR4, FAR6

    def _build(self) -> None:
        self.routers = [self._netns(f"router{i}") for i in range(self._count)]
        for router in self.routers:
            router.sysctl("net/ipv4/conf/all/forwarding", 1)
            router.sysctl("net/ipv6/conf/all/forwarding", 1)
        self.near = self.routers[0]
        if self.near_kernel:
            self.near = self._netns("near")
            _link(
                End(self.near, NEAR_DEV, NEAR4, NEAR6),
                End(self.routers[0], NEAR_DEV, PEER4, PEER6),
                offload=False,
            )
            self.near.ip(f"route add default via {PEER4}", f"route add default via {PEER6}")
        if self._count == 2:
            self._link_routers(*self.routers)
        self.far = self._netns("far")
        _link(
            End(self.far, "far0", FAR4, FAR6),
            End(self.routers[-1], "down0", "10.8.0.254", "fd00:8::fe"),
            offload=False,
        )
        self.far.ip("route add default via 10.8.0.254", "route add default via fd00:8::fe")

    def _link_routers(self, first: Netns, second: Netns) -> None:
        ends = (
            End(first, "mid0", "10.7.0.1", "fd00:7::1"),
            End(second, "mid0", "10.7.0.2", "fd00:7::2"),
        )
        _link(*ends, offload=False)
        first.ip("route add 10.8.0.0/24 via 10.7.0.2", "route add fd00:8::/64 via fd00:7::2")
        second.ip("route add 10.9.0.0/24 via 10.7.0.1", "route add fd00:9::/64 via fd00:7::1")

    def set_middle_mtu(self, mtu: int) -> None:
        """Change the MTU of the link between the two routers (IPv6 needs 1280)."""
        for router in self.routers:
            router.ip(f"link set mid0 mtu {mtu}")

    def drop(self, permille: int) -> None:
        """From now on router0 drops that many of 1000 TCP packets each way, at random."""
        self.undrop()
        rules = "\n".join(
            f'{match} "{NEAR_DEV}" meta l4proto tcp numgen random mod 1000 <= {permille - 1} '
            f"counter name {name} drop"
            for match, name in (("oifname", "to_near"), ("iifname", "to_far"))
        )
        self.routers[0].run(
            ["nft", "-f", "-"],
            f"table inet testbed {{\ncounter to_near {{ }}\ncounter to_far {{ }}\n"
            f"chain forward {{\ntype filter hook forward priority 0\n{rules}\n}}\n}}\n",
        )

    def undrop(self) -> None:
        """Take the loss away, and its counters."""
        with contextlib.suppress(BedError):
            self.routers[0].run(["nft", "delete table inet testbed"])

    def dropped(self) -> tuple[int, int]:
        """Packets dropped since `drop`: (on the way to near, on the way to far)."""
        text = self.routers[0].run(["nft", "-j", "list counters"])
        found = [item["counter"] for item in json.loads(text)["nftables"] if "counter" in item]
        packets = {counter["name"]: int(counter["packets"]) for counter in found}
        return packets.get("to_near", 0), packets.get("to_far", 0)
