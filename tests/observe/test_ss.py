"""The socket table: what a row says, and how it prints."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from ustack.observe import ss
from ustack.seeds import Seeds
from ustack.sock.deadlines import Deadlines
from ustack.sock.mib import Mib
from ustack.sock.sock import AF_INET, AF_INET6, SOCK_DGRAM, Sock
from ustack.sock.sysctl import Sysctl
from ustack.tcp.congestion.cubic import Cubic
from ustack.tcp.listen import AcceptQueue
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import ESTABLISHED, LISTEN


class Prot:
    def getsockopt(self, sk, level, name, optlen, now):
        assert (level, name, optlen) == (1, 55, 36)
        queued = getattr(sk, "wmem_queued", 0)
        return struct.pack("9I", sk.rmem_alloc, sk.rcvbuf, 0, sk.sndbuf, 0, queued, 0, 0, sk.drops)


def net() -> SimpleNamespace:
    return SimpleNamespace(sysctl=Sysctl(), seeds=Seeds(1), mib=Mib(), deadlines=Deadlines())


def tcp_sock(family: int = AF_INET) -> TcpSock:
    host = SimpleNamespace(net=net(), prot=Prot(), new_congestion_control=lambda name: Cubic())
    return TcpSock(host, family)  # type: ignore[arg-type]


def established() -> TcpSock:
    sk = tcp_sock()
    sk.state = ESTABLISHED
    sk.saddr, sk.sport, sk.daddr, sk.dport = b"\x0a\x09\0\x02", 7, b"\x0a\x09\0\x01", 40000
    sk.sack_ok = sk.tstamp_ok = sk.wscale_ok = True
    sk.snd_wscale, sk.rcv_wscale = 7, 8
    sk.mss_cache, sk.rcv_mss, sk.advmss = 1448, 536, 1448
    sk.snd_una, sk.snd_nxt, sk.write_seq = 1000, 1000 + 2896, 1000 + 5000
    sk.copied_seq, sk.rcv_nxt = 500, 600
    sk.packets_out, sk.retrans_out, sk.total_retrans, sk.lost_out = 2, 1, 3, 1
    sk.bytes_sent, sk.bytes_acked, sk.bytes_received = 2896, 999, 100
    sk.wmem_queued, sk.rmem_alloc = 7000, 832
    sk.rtt.sample(1500, 1000, 3896)
    sk.cc.snd_cwnd, sk.cc.snd_ssthresh = 10, 20
    return sk


def test_a_connection() -> None:
    row = ss.row(established(), 0)
    assert (row.netid, row.state, row.recv_q, row.send_q) == ("tcp", "ESTAB", 100, 5000)
    assert (row.local, row.peer) == ("10.9.0.2:7", "10.9.0.1:40000")
    assert row.skmem.rmem == 832
    assert row.skmem.wmem_queued == 7000
    info = row.info
    assert info["rtt"] == "1.5/0.75"
    assert info["wscale"] == "7,8"
    assert info["retrans"] == "1/3"
    assert info["notsent"] == 5000 - 2896
    assert (info["cwnd"], info["ssthresh"], info["mss"], info["unacked"]) == (10, 20, 1448, 2)
    assert info["send"] == f"{10 * 1448 * 8 * 1_000_000 // 1500}bps"
    assert "sacked" not in info
    assert "backoff" not in info


def test_how_it_prints() -> None:
    text = str(ss.table([established()], 0))
    head, line, detail = text.split("\n")
    assert head.split() == [
        "Netid",
        "State",
        "Recv-Q",
        "Send-Q",
        "Local",
        "Address:Port",
        "Peer",
        "Address:Port",
    ]
    assert line.split() == ["tcp", "ESTAB", "100", "5000", "10.9.0.2:7", "10.9.0.1:40000"]
    assert detail.startswith("\t skmem:(r832,rb131072,t0,tb16384,f0,w7000,o0,bl0,d0) ts sack cubic")
    assert " rtt:1.5/0.75 mss:1448 " in detail
    assert len(ss.table([established()], 0).render(detail=False).split("\n")) == 2


def test_a_listener_shows_its_backlog() -> None:
    sk = tcp_sock(AF_INET6)
    sk.state, sk.sport = LISTEN, 80
    sk.accept_queue = AcceptQueue(5)
    sk.accept_queue.push(established())
    row = ss.row(sk, 0)
    assert (row.recv_q, row.send_q) == (1, 5)
    assert (row.state, row.local, row.peer) == ("LISTEN", "[::]:80", "[::]:*")
    assert row.info == {}


def test_datagram_sockets() -> None:
    sk = Sock(net(), AF_INET6, SOCK_DGRAM, 17)  # type: ignore[arg-type]
    sk.prot = Prot()
    sk.sport, sk.rmem_alloc, sk.wmem_alloc, sk.drops = 53, 100, 200, 3
    row = ss.row(sk, 0)
    assert (row.netid, row.state, row.recv_q, row.send_q) == ("udp", "UNCONN", 100, 200)
    assert (row.local, row.peer) == ("[::]:53", "[::]:*")
    assert str(row.skmem).endswith("d3)")
    sk.daddr, sk.dport = b"\1\2\3\4", 9
    sk.saddr = bytes(15) + b"\1"
    row = ss.row(sk, 0)
    assert (row.state, row.local, row.peer) == ("ESTAB", "[::1]:53", "[::ffff:1.2.3.4]:9")
    assert row.detail() == str(row.skmem)


@pytest.mark.parametrize(
    ("family", "proto", "netid", "unbound"),
    [(AF_INET, 1, "icmp", "0.0.0.0:*"), (AF_INET6, 58, "icmp6", "[::]:*")],
)
def test_ping_sockets(family: int, proto: int, netid: str, unbound: str) -> None:
    sk = Sock(net(), family, SOCK_DGRAM, proto)  # type: ignore[arg-type]
    sk.prot = Prot()
    sk.sport = 77
    row = ss.row(sk, 0)
    assert (row.netid, row.state, row.peer) == (netid, "UNCONN", unbound)
    sk.saddr, sk.daddr = bytes((10, 9, 0, 2)), bytes((10, 9, 0, 1))  # connected to "port" 0
    row = ss.row(sk, 0)
    assert row.state == "ESTAB"
    assert row.local.endswith("10.9.0.2]:77" if family == AF_INET6 else "10.9.0.2:77")


def test_nothing() -> None:
    assert str(ss.table([], 0)) == (
        "Netid  State  Recv-Q  Send-Q  Local Address:Port  Peer Address:Port"
    )
