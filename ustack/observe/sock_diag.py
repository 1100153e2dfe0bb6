"""The kernel's side of a connection: what `ss -tinm` shows, as values.

A user who looks at our queues wants the peer's beside them, and the peer is often the
kernel of this machine. It tells through NETLINK_SOCK_DIAG (sock_diag(7)): a request names
one connection or a set of states, each answer is a `struct inet_diag_msg` and attributes:
`struct tcp_info`, the memory counters of SO_MEMINFO, the congestion control's name.

The netlink socket sees the network namespace in which it was made, whatever its process
does later, so a `SockDiag` is made in the peer's namespace. A kernel older than a field of
`tcp_info` sends a shorter structure: the missing fields are absent from `info`.

Sources: linux/inet_diag.h, linux/sock_diag.h, linux/tcp.h (the userspace ABI), sock_diag(7).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Self

from ustack.observe.ss import Skmem

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NO_COOKIE = 0xFFFFFFFF
INET_DIAG_INFO, INET_DIAG_CONG, INET_DIAG_SKMEMINFO = 2, 4, 7
_EXT = sum(1 << (attr - 1) for attr in (INET_DIAG_INFO, INET_DIAG_CONG, INET_DIAG_SKMEMINFO))

STATES = (
    *("UNKNOWN", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT"),
    *("UNCONN", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "NEW-SYN-RECV"),
)
LISTEN = 10
ALL_STATES = (1 << len(STATES)) - 1
CONNECTED_STATES = ALL_STATES & ~(1 << LISTEN)

_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2 up to the socket's id
_SOCKID = struct.Struct("!HH16s16s")
_SOCKID_REST = struct.Struct("=III")  # interface, cookie
_MESSAGE = struct.Struct("=BBBB48xIIIII")  # inet_diag_msg around the socket's id
_ATTR = struct.Struct("=HH")


def _fields(code: str, names: str) -> list[tuple[str, str]]:
    return [(name, code) for name in names.split()]


# The fields of struct tcp_info with their formats; `wscale` is two fields of four bits,
# split below.
_TCP_INFO = (
    *_fields("B", "state ca_state retransmits probes backoff options wscale flags"),
    *_fields("I", "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets"),
    *_fields("I", "last_data_sent last_ack_sent last_data_recv last_ack_recv"),
    *_fields("I", "pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss reordering"),
    *_fields("I", "rcv_rtt rcv_space total_retrans"),
    *_fields("Q", "pacing_rate max_pacing_rate bytes_acked bytes_received"),
    *_fields("I", "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out"),
    *_fields("Q", "delivery_rate busy_time rwnd_limited sndbuf_limited"),
    *_fields("I", "delivered delivered_ce"),
    *_fields("Q", "bytes_sent bytes_retrans"),
    *_fields("I", "dsack_dups reord_seen rcv_ooopack snd_wnd"),
)


_SKMEM_FIELDS = len(fields(Skmem))
_NO_SKMEM = Skmem(*[0] * _SKMEM_FIELDS)


@dataclass(frozen=True, slots=True)
class KernelSocket:
    """One TCP socket of the kernel at one moment. `info` has tcp_info's own names."""

    state: str
    local: tuple[str, int]
    remote: tuple[str, int]
    rqueue: int  # bytes received and not read; of a listener, connections not accepted
    wqueue: int  # bytes sent and not acknowledged; of a listener, the backlog
    congestion: str = ""
    skmem: Skmem = _NO_SKMEM
    info: dict[str, int] = field(default_factory=dict)

    def get(self, name: str) -> int:
        """A field of tcp_info (`"tcpi_snd_cwnd"`), 0 where the kernel sent none."""
        return self.info.get(name, 0)

    @property
    def cwnd(self) -> int:
        return self.get("tcpi_snd_cwnd")

    @property
    def rtt_us(self) -> int:
        return self.get("tcpi_rtt")

    @property
    def rto_us(self) -> int:
        return self.get("tcpi_rto")

    @property
    def unacked(self) -> int:
        """Segments sent and not acknowledged."""
        return self.get("tcpi_unacked")

    @property
    def notsent(self) -> int:
        """Bytes in the write queue that have never been sent."""
        return self.get("tcpi_notsent_bytes")

    @property
    def retrans(self) -> int:
        """Segments retransmitted since the connection began."""
        return self.get("tcpi_total_retrans")

    def __str__(self) -> str:
        """Two lines as `ss -tinm` prints them, with the fields that explain a queue."""
        get = self.get
        ends = " ".join(f"{host}:{port}" for host, port in (self.local, self.remote))
        values = [str(self.skmem), self.congestion]
        if get("tcpi_snd_wscale") or get("tcpi_rcv_wscale"):
            values.append(f"wscale:{get('tcpi_snd_wscale')},{get('tcpi_rcv_wscale')}")
        values.append(f"rto:{self.rto_us / 1000:g}")
        values.append(f"rtt:{self.rtt_us / 1000:g}/{get('tcpi_rttvar') / 1000:g}")
        values.append(f"mss:{get('tcpi_snd_mss')} pmtu:{get('tcpi_pmtu')} cwnd:{self.cwnd}")
        optional = (
            *(
                ("unacked", self.unacked),
                ("lost", get("tcpi_lost")),
                ("sacked", get("tcpi_sacked")),
            ),
            *(("notsent", self.notsent), ("snd_wnd", get("tcpi_snd_wnd"))),
        )
        values.extend(f"{name}:{value}" for name, value in optional if value)
        if self.retrans:
            values.append(f"retrans:{get('tcpi_retrans')}/{self.retrans}")
        head = f"{self.state} {self.rqueue} {self.wqueue} {ends}"
        return f"{head}\n\t {' '.join(value for value in values if value)}"


class SockDiag:
    """Asks the kernel of the namespace in which it was made about its TCP sockets."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._seq = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def lookup(self, local: tuple[str, int], remote: tuple[str, int]) -> KernelSocket | None:
        """The kernel's socket with these ends, None if it has none."""
        sockid = _SOCKID.pack(local[1], remote[1], _packed(local[0]), _packed(remote[0]))
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        try:
            found = list(self._ask(family, ALL_STATES, sockid, NLM_F_REQUEST))
        except FileNotFoundError:
            return None
        # Without a connection the kernel falls back to the listener of the port.
        return next((s for s in found if (s.local, s.remote) == (local, remote)), None)

    def dump(self, family: int, states: int = CONNECTED_STATES) -> list[KernelSocket]:
        """All TCP sockets of an address family in a set of states (bits 1 << state)."""
        return list(self._ask(family, states, bytes(_SOCKID.size), NLM_F_REQUEST | NLM_F_DUMP))

    def _ask(self, family: int, states: int, sockid: bytes, flags: int) -> Iterator[KernelSocket]:
        self._seq += 1
        body = (
            _REQUEST.pack(family, socket.IPPROTO_TCP, _EXT, 0, states)
            + sockid
            + _SOCKID_REST.pack(0, NO_COOKIE, NO_COOKIE)
        )
        header = _NLMSGHDR.pack(
            _NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, flags, self._seq, 0
        )
        self._sock.sendto(header + body, (0, 0))
        for kind, message in self._messages(many=bool(flags & NLM_F_DUMP)):
            if kind == SOCK_DIAG_BY_FAMILY:
                yield parse(message)

    def _messages(self, many: bool) -> Iterator[tuple[int, bytes]]:
        """The messages that answer the last request; OSError for a netlink error."""
        while True:
            data = self._sock.recv(1 << 18)
            offset = 0
            while offset + _NLMSGHDR.size <= len(data):
                length, kind, _, seq, _ = _NLMSGHDR.unpack_from(data, offset)
                message = data[offset + _NLMSGHDR.size : offset + length]
                offset += (length + 3) & ~3
                if seq != self._seq:
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message)[0]
                    raise OSError(code, os.strerror(code) if code else "no answer")
                yield kind, message
                if not many:
                    return


def parse(message: bytes) -> KernelSocket:
    """A `struct inet_diag_msg` with its attributes. OSError EBADMSG if it is cut short."""
    if len(message) < _MESSAGE.size:
        raise OSError(errno.EBADMSG, "short sock_diag message")
    family, state, _, _, _, rqueue, wqueue, _, _ = _MESSAGE.unpack_from(message)
    sport, dport, src, dst = _SOCKID.unpack_from(message, 4)
    attrs = dict(_attributes(message[_MESSAGE.size :]))
    return KernelSocket(
        STATES[state] if state < len(STATES) else STATES[0],
        (_presented(family, src), sport),
        (_presented(family, dst), dport),
        rqueue,
        wqueue,
        attrs.get(INET_DIAG_CONG, b"").rstrip(b"\0").decode("ascii", "replace"),
        _skmem(attrs.get(INET_DIAG_SKMEMINFO, b"")),
        tcp_info(attrs.get(INET_DIAG_INFO, b"")),
    )


def tcp_info(data: bytes) -> dict[str, int]:
    """`struct tcp_info` as far as `data` goes, by its own field names."""
    info: dict[str, int] = {}
    offset = 0
    for name, code in _TCP_INFO:
        size = struct.calcsize(code)
        offset = (offset + size - 1) & -size
        if offset + size > len(data):
            break
        (info[f"tcpi_{name}"],) = struct.unpack_from(f"={code}", data, offset)
        offset += size
    wscale = info.pop("tcpi_wscale", None)
    if wscale is not None:
        info["tcpi_snd_wscale"], info["tcpi_rcv_wscale"] = wscale & 15, wscale >> 4
    return info


def ss_command(local: tuple[str, int], remote: tuple[str, int]) -> list[str] | None:
    """The `ss -tinm` command that shows this one connection, None where ss is absent."""
    program = shutil.which("ss") or shutil.which("ss", path="/usr/sbin:/sbin")
    if program is None:
        return None
    ends = [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in (local, remote)
    ]
    return [program, "-tinmH", "src", ends[0], "dst", ends[1]]


def _skmem(data: bytes) -> Skmem:
    known = data[: 4 * _SKMEM_FIELDS].ljust(4 * _SKMEM_FIELDS, b"\0")
    return Skmem(*struct.unpack(f"={_SKMEM_FIELDS}I", known))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTR.size <= len(data):
        length, kind = _ATTR.unpack_from(data, offset)
        if length < _ATTR.size:
            return
        yield kind & 0x3FFF, data[offset + _ATTR.size : offset + length]
        offset += (length + 3) & ~3


def _packed(host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host).ljust(16, b"\0")


def _presented(family: int, packed: bytes) -> str:
    return socket.inet_ntop(family, packed[: 16 if family == socket.AF_INET6 else 4])
