"""A table of the sockets of a stack, as ss(8) prints it: `ss -tuanimO` of iproute2.

Every value is one that the core keeps anyway; taking a row changes nothing. Names and
units are those of ss: `rto`, `rtt`, `ato` in ms, `cwnd` in segments, rates in bit/s,
queues in bytes. For a listener Recv-Q is the number of connections that wait for accept
and Send-Q its backlog. Ping sockets, which ss cannot see, are there too, as "icmp" and "icmp6"
and with the columns of /proc/net/icmp: the identifier stands for the port.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from ustack.sock.addr import present
from ustack.sock.sock import AF_INET6, PACING_UNLIMITED, Sock
from ustack.tcp.sock import TcpSock
from ustack.tcp.state import CLOSE, ESTABLISHED, LISTEN, NAMES
from ustack.tcp.timewait import TimeWait
from ustack.wire.addr import format_addr
from ustack.wire.packet import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP

_SOL_SOCKET, _SO_MEMINFO = 1, 55
_MEMINFO = struct.Struct("9I")
_MS = 1_000_000
_NETIDS = {IPPROTO_UDP: "udp", IPPROTO_ICMP: "icmp", IPPROTO_ICMPV6: "icmp6"}
_INFINITE_SSTHRESH = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Skmem:
    """What a socket's queues are charged with, bytes (SO_MEMINFO, in its order)."""

    rmem: int
    rcvbuf: int
    wmem: int
    sndbuf: int
    fwd: int
    wmem_queued: int
    opt: int
    backlog: int
    drops: int

    def __str__(self) -> str:
        return (
            f"skmem:(r{self.rmem},rb{self.rcvbuf},t{self.wmem},tb{self.sndbuf},f{self.fwd},"
            f"w{self.wmem_queued},o{self.opt},bl{self.backlog},d{self.drops})"
        )


@dataclass(frozen=True, slots=True)
class SsRow:
    """One socket. `info` is empty unless it is a TCP connection."""

    netid: str  # "tcp", "udp", "icmp", "icmp6"
    state: str
    recv_q: int
    send_q: int
    local: str
    peer: str
    skmem: Skmem
    info: dict[str, int | float | str] = field(default_factory=dict)

    def detail(self) -> str:
        """The second line: memory, then `name:value` words; a bare word has no value."""
        words = [str(self.skmem)]
        words += [
            name if value == "" else f"{name}:{_plain(value)}" for name, value in self.info.items()
        ]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class SsTable:
    """All sockets of one stack at one moment. `str()` of it is the text that ss prints."""

    rows: tuple[SsRow, ...]

    def __str__(self) -> str:
        return self.render()

    def render(self, detail: bool = True) -> str:
        """The table as text, with the detail lines or without."""
        head = ("Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port")
        lines = [head, *(_columns(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        out = []
        for i, line in enumerate(lines):
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            out.append("  ".join(cells).rstrip())
            if detail and i:
                out.append("\t " + self.rows[i - 1].detail())
        return "\n".join(out)


def table(sockets: Iterable[Sock], now: int, timewaits: Iterable[TimeWait] = ()) -> SsTable:
    """The rows of `sockets` at `now` (ns), in their order, then those of pairs that have no
    socket any more."""
    rows = [row(sk, now) for sk in sockets]
    return SsTable((*rows, *(_timewait_row(tw) for tw in timewaits)))


def row(sk: Sock, now: int) -> SsRow:
    """One socket's row at `now` (ns)."""
    if isinstance(sk, TcpSock):
        return _tcp_row(sk, now)
    return SsRow(
        _NETIDS[sk.protocol],
        NAMES[ESTABLISHED if sk.daddr else CLOSE],
        sk.rmem_alloc,
        sk.wmem_alloc,
        _endpoint(sk.family == AF_INET6, sk.rcv_saddr or sk.saddr, sk.sport),
        _endpoint(sk.family == AF_INET6, sk.daddr, sk.dport),
        skmem(sk, now),
    )


def skmem(sk: Sock, now: int) -> Skmem:
    """SO_MEMINFO of the socket."""
    raw = sk.prot.getsockopt(sk, _SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size, now)
    return Skmem(*_MEMINFO.unpack(raw))


def _tcp_row(sk: TcpSock, now: int) -> SsRow:
    if sk.state == LISTEN and sk.accept_queue is not None:
        recv_q, send_q = len(sk.accept_queue), sk.accept_queue.max_backlog
    else:
        recv_q, send_q = max(sk.rcv_nxt - sk.copied_seq, 0), sk.write_seq - sk.snd_una
    return SsRow(
        "tcp",
        NAMES[sk.state],
        recv_q,
        send_q,
        _endpoint(sk.family == AF_INET6, sk.rcv_saddr or sk.saddr, sk.sport),
        _endpoint(sk.family == AF_INET6, sk.daddr, sk.dport),
        skmem(sk, now),
        {} if sk.state in (LISTEN, CLOSE) else tcp_info(sk, now),
    )


def _timewait_row(tw: TimeWait) -> SsRow:
    v6 = tw.family == AF_INET6
    local, peer = _endpoint(v6, tw.saddr, tw.sport), _endpoint(v6, tw.daddr, tw.dport)
    return SsRow("tcp", NAMES[tw.substate], 0, 0, local, peer, Skmem(*[0] * 9))


def tcp_info(sk: TcpSock, now: int) -> dict[str, int | float | str]:
    """The words of `ss -i` for a connection, in its order; zeros that ss omits are omitted."""
    info = _options(sk)
    info |= _timing(sk)
    info |= _sizes(sk)
    info |= _counts(sk)
    info |= _flight(sk)
    info |= _receive(sk)
    return info


def _options(sk: TcpSock) -> dict[str, int | float | str]:
    info: dict[str, int | float | str] = {}
    if sk.tstamp_ok:
        info["ts"] = ""
    if sk.sack_ok:
        info["sack"] = ""
    info[sk.ca_name] = ""
    if sk.wscale_ok:
        info["wscale"] = f"{sk.snd_wscale},{sk.rcv_wscale}"
    return info


def _timing(sk: TcpSock) -> dict[str, int | float | str]:
    info: dict[str, int | float | str] = {"rto": sk.rtt.rto_us / 1000}
    if sk.rtt.backoff:
        info["backoff"] = sk.rtt.backoff
    if sk.rtt.srtt_us:  # kept times 8, its deviation times 4
        info["rtt"] = f"{_plain(sk.rtt.srtt_us / 8000)}/{_plain(sk.rtt.mdev_us / 4000)}"
    if sk.ato:
        info["ato"] = sk.ato / _MS
    return info


def _sizes(sk: TcpSock) -> dict[str, int | float | str]:
    info: dict[str, int | float | str] = {"mss": sk.mss_cache}
    if sk.pmtu_cookie:
        info["pmtu"] = sk.pmtu_cookie
    info["rcvmss"] = sk.rcv_mss
    info["advmss"] = sk.advmss
    info["cwnd"] = sk.cc.snd_cwnd
    if sk.cc.snd_ssthresh < _INFINITE_SSTHRESH:
        info["ssthresh"] = sk.cc.snd_ssthresh
    return info


def _counts(sk: TcpSock) -> dict[str, int | float | str]:
    return _nonzero(
        bytes_sent=sk.bytes_sent,
        bytes_retrans=sk.bytes_retrans,
        bytes_acked=sk.bytes_acked,
        bytes_received=sk.bytes_received,
        segs_out=sk.segs_out,
        segs_in=sk.segs_in,
        data_segs_out=sk.data_segs_out,
        data_segs_in=sk.data_segs_in,
    )


def _flight(sk: TcpSock) -> dict[str, int | float | str]:
    info: dict[str, int | float | str] = {}
    if sk.rtt.srtt_us:
        bits = sk.cc.snd_cwnd * sk.mss_cache * 8 * 8_000_000 // sk.rtt.srtt_us
        info["send"] = f"{bits}bps"
    if 0 < sk.pacing_rate < PACING_UNLIMITED:
        info["pacing_rate"] = f"{sk.pacing_rate * 8}bps"
    info |= _nonzero(delivered=sk.delivered, unacked=sk.packets_out)
    if sk.retrans_out or sk.total_retrans:
        info["retrans"] = f"{sk.retrans_out}/{sk.total_retrans}"
    info |= _nonzero(lost=sk.lost_out, sacked=sk.sacked_out, dsack_dups=sk.dsack_dups)
    if sk.reordering != sk.net.sysctl.tcp_reordering:
        info["reordering"] = sk.reordering
    return info


def _receive(sk: TcpSock) -> dict[str, int | float | str]:
    info: dict[str, int | float | str] = {}
    if sk.rcv_rtt_us:
        info["rcv_rtt"] = sk.rcv_rtt_us / 8000
    info |= _nonzero(
        rcv_space=sk.rcvq_space,
        rcv_ssthresh=sk.rcv_ssthresh,
        notsent=max(sk.write_seq - sk.snd_nxt, 0),
        snd_wnd=sk.snd_wnd,
        rcv_wnd=sk.rcv_wnd,
        rcv_ooopack=sk.rcv_ooopack,
    )
    return info


def _nonzero(**values: int) -> dict[str, int | float | str]:
    return {name: value for name, value in values.items() if value}


def _columns(one: SsRow) -> tuple[str, str, str, str, str, str]:
    return one.netid, one.state, str(one.recv_q), str(one.send_q), one.local, one.peer


def _endpoint(v6: bool, addr: bytes, port: int) -> str:
    text = format_addr(present(addr, v6))
    host = f"[{text}]" if ":" in text else text
    return f"{host}:{port or '*'}"


def _plain(value: float | str) -> str:
    """A number without a tail of zeros."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
