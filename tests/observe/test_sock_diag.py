"""The kernel's own sockets, read through NETLINK_SOCK_DIAG, against the kernel and ss(8)."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import testbed
from ustack.observe import sock_diag
from ustack.observe.sock_diag import KernelSocket, SockDiag
from ustack.observe.ss import Skmem

Pair = tuple[socket.socket, socket.socket]
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture(scope="module")
def netns() -> Iterator[testbed.Netns]:
    netns = testbed.Netns("sock_diag")
    with netns.entered():
        yield netns
    netns.close()


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def pair(netns: testbed.Netns, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two ends of one connection over lo, (client, server)."""
    family = request.param
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
        listener.accept()[0] as server,
    ):
        yield client, server


def ends(sock: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return sock.getsockname()[:2], sock.getpeername()[:2]


def look(sock: socket.socket) -> KernelSocket:
    with SockDiag() as diag:
        found = diag.lookup(*ends(sock))
    assert found is not None
    return found


@pytest.mark.kernel
def test_queues_are_the_kernels(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"x" * 5000)
    assert server.recv(1, socket.MSG_PEEK) == b"x"
    received, sent = look(server), look(client)
    assert (received.state, received.rqueue, received.wqueue) == ("ESTAB", 5000, 0)
    assert (sent.state, sent.rqueue, sent.wqueue, sent.unacked) == ("ESTAB", 0, 0, 0)
    assert received.skmem.rmem >= 5000
    assert received.get("tcpi_bytes_received") == sent.get("tcpi_bytes_acked") - 1 == 5000
    server.recv(5000, socket.MSG_WAITALL)
    assert look(server).rqueue == 0


@pytest.mark.kernel
def test_a_stuck_sender_shows_what_was_never_sent(pair: Pair) -> None:
    client, server = pair
    client.setblocking(False)
    queued = 0
    with contextlib.suppress(BlockingIOError):
        while queued < 1 << 30:
            queued += client.send(b"x" * 65536)
    sent, received = look(client), look(server)
    # What has arrived and is not acknowledged yet is in both queues.
    assert sent.wqueue < queued <= sent.wqueue + received.rqueue
    assert 0 < sent.notsent <= sent.wqueue
    assert sent.skmem.wmem_queued > sent.wqueue
    assert f"notsent:{sent.notsent}" in str(sent)


@pytest.mark.kernel
def test_info_and_meminfo_equal_getsockopt(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"x" * 100)
    server.recv(100)
    direct = sock_diag.tcp_info(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512))
    seen = look(client)
    timeless = {name for name in direct if not name.startswith("tcpi_last")}
    assert {n: direct[n] for n in timeless} == {n: seen.info[n] for n in timeless}
    assert (seen.cwnd, seen.rtt_us, seen.rto_us) == (
        direct["tcpi_snd_cwnd"],
        direct["tcpi_rtt"],
        direct["tcpi_rto"],
    )
    so_meminfo = 55
    raw = client.getsockopt(socket.SOL_SOCKET, so_meminfo, 36)
    assert Skmem(*struct.unpack("9I", raw)) == seen.skmem
    assert seen.skmem.sndbuf == client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    congestion = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert seen.congestion.encode() == congestion.rstrip(b"\0")


def ss_values(text: str) -> dict[str, str]:
    """The `name:value` fields of ss's output for one connection."""
    values = dict(re.findall(r"\s(\w+):([^\s()]+)(?=\s|$)", text))
    return values | dict(re.findall(r"(\w+):\(([^)]*)\)", text))


@pytest.mark.kernel
@pytest.mark.needs("ss")
def test_the_same_as_ss(pair: Pair) -> None:
    client, server = pair
    for _ in range(3):
        client.sendall(b"x" * 3000)
        server.recv(3000, socket.MSG_WAITALL)
    client.sendall(b"y" * 1234)
    command = sock_diag.ss_command(*ends(server))
    assert command is not None
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(text.splitlines()) == 2
    seen = look(server)
    state, rqueue, wqueue = text.split()[:3]
    assert (state, int(rqueue), int(wqueue)) == (seen.state, seen.rqueue, seen.wqueue)
    theirs, ours = ss_values(text), ss_values(str(seen))
    assert theirs["skmem"] == ours["skmem"]
    assert f" {seen.congestion} " in text
    for name in ("wscale", "mss", "pmtu", "cwnd", "snd_wnd"):
        assert theirs[name] == ours[name], name
    assert float(theirs["rto"]) == pytest.approx(seen.rto_us / 1000)
    assert theirs["rtt"] == ours["rtt"]


@pytest.mark.kernel
def test_an_unknown_connection_is_none(pair: Pair) -> None:
    client, _ = pair
    local, remote = ends(client)
    with SockDiag() as diag:
        assert diag.lookup((local[0], 1), (remote[0], 2)) is None
        # The listener answers for its port, but it is not that connection.
        assert diag.lookup(remote, (local[0], 1)) is None


@pytest.mark.kernel
def test_dump_by_state(pair: Pair) -> None:
    client, server = pair
    with SockDiag() as diag:
        connected = diag.dump(client.family)
        listening = diag.dump(client.family, 1 << sock_diag.LISTEN)
    assert {ends(client), ends(server)} <= {(s.local, s.remote) for s in connected}
    assert [s.state for s in listening] == ["LISTEN"]
    assert listening[0].local == server.getsockname()[:2]


@pytest.mark.kernel
def test_closing_states(pair: Pair) -> None:
    client, server = pair
    here, there = ends(client)
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    with SockDiag() as diag:
        # The FIN's acknowledgement may be delayed.
        assert look(client).state in ("FIN-WAIT-1", "FIN-WAIT-2")
        assert look(server).state == "CLOSE-WAIT"
        server.close()
        assert client.recv(1) == b""
        client.close()
        last = diag.lookup(here, there)
    assert last is not None
    assert (last.state, last.info) == ("TIME-WAIT", {})
    assert str(last.skmem) == "skmem:(r0,rb0,t0,tb0,f0,w0,o0,bl0,d0)"


@pytest.mark.kernel
def test_it_sees_the_namespace_it_was_made_in(pair: Pair) -> None:
    client, _ = pair
    other = testbed.Netns("other")
    with other.entered():
        diag = SockDiag()
    with diag:
        assert diag.dump(client.family) == []
    other.close()


@given(st.binary(max_size=400))
def test_any_bytes_give_a_socket_or_an_error(data: bytes) -> None:
    try:
        sock = sock_diag.parse(data)
    except OSError:
        assert len(data) < 72
    else:
        assert str(sock).startswith(sock.state)


@given(st.binary(max_size=300))
def test_a_short_tcp_info_gives_a_prefix(data: bytes) -> None:
    short, full = sock_diag.tcp_info(data), sock_diag.tcp_info(data.ljust(300, b"\0"))
    assert short.items() <= full.items()
