"""Control messages: what a receive call tells about a packet, what a send call asks for.

Control messages are (level, type, data bytes); laying them out in a buffer, and
MSG_CTRUNC where it is too small, is the socket API's. The order of received ones is the
kernel's: times, drop count, UDP_GRO, then the IP level's.

Sources: Linux `sock_recv_cmsgs`, `ip_cmsg_recv_offset`, `ip6_datagram_recv_ctl`,
`ip_cmsg_send`, `ip6_datagram_send_ctl`, `__sock_cmsg_send`.
"""

from __future__ import annotations

from errno import EINVAL, ENOBUFS
from struct import Struct

from ustack.sock.addr import ANY4, LOOPBACK6, normalize, present
from ustack.sock.errors import error
from ustack.sock.kept import SO_TXTIME, kept
from ustack.sock.notify import (
    LOOPBACK,
    OPT_ID,
    OPT_RX_FILTER,
    RX_SOFTWARE,
    SOFTWARE,
    TX_RECORD,
    times,
)
from ustack.sock.options import (
    SO_MARK,
    SO_PRIORITY,
    SO_RXQ_OVFL,
    SO_TIMESTAMP,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMPING,
    SO_TIMESTAMPING_NEW,
    SOL_IP,
    SOL_IPV6,
    SOL_SOCKET,
    SOL_UDP,
)
from ustack.sock.proto import Cmsg
from ustack.sock.sock import (
    AF_INET,
    AF_INET6,
    F_PKTINFO,
    F_RECVHOPLIMIT,
    F_RECVORIGDSTADDR,
    F_RECVORIGDSTADDR6,
    F_RECVPKTINFO6,
    F_RECVTCLASS,
    F_RECVTOS,
    F_RECVTTL,
    F_RXQ_OVFL,
    SOCK_STREAM,
    Sock,
)
from ustack.wire.packet import IPPROTO_ICMP, RxPacket

IP_TOS, IP_TTL, IP_PKTINFO, IP_ORIGDSTADDR = 1, 2, 8, 20
IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_DONTFRAG, IPV6_TCLASS, IPV6_ORIGDSTADDR = 50, 52, 62, 67, 74
UDP_SEGMENT, UDP_GRO = 103, 104

SCM_TS_OPT_ID = 81
_FOR_UNIX = (1, 2)  # SCM_RIGHTS, SCM_CREDENTIALS: of no concern here

_INT, _U16, _U32 = Struct("i"), Struct("H"), Struct("I")
_U64_SIZE = 8
_TWO_LONGS = Struct("qq")
_PKTINFO = Struct("=i4s4s")  # ifindex, spec_dst, addr
_PKTINFO6 = Struct("=16si")  # addr, ifindex
_SOCKADDR_IN = Struct("=H2s4s8x")
_SOCKADDR_IN6 = Struct("=H2sI16sI")
_SEC = 1_000_000_000
_CMSG_HEADER = 16  # struct cmsghdr; data is padded to 8


# -- receiving -----------------------------------------------------------------------------


def recv_cmsgs(
    sk: Sock, rx: RxPacket, dropcount: int, gro: int, info: bool = True, queued: bool = False
) -> list[Cmsg]:
    """What `sk` has asked to be told about `rx`. `dropcount`: datagrams dropped before it,
    `gro`: its segment size where several were merged, else 0. `info`: it wanted to know
    where IPv4 packets came to when this one came; else that is not known any more. `queued`:
    it is in the error queue."""
    control: list[Cmsg] = []
    flags = sk.inet_flags
    if sk.timestamp or sk.tsflags:
        add_times(control, sk, rx.now)
    if flags & F_RXQ_OVFL and dropcount:
        control.append((SOL_SOCKET, SO_RXQ_OVFL, _U32.pack(dropcount & 0xFFFFFFFF)))
    if gro:
        control.append((SOL_UDP, UDP_GRO, _INT.pack(gro)))
    if sk.family == AF_INET6 and flags & F_RECVPKTINFO6:
        iif = _arrived_by(sk, rx, queued) if info or len(rx.dst) == 16 else 0
        control.append((SOL_IPV6, IPV6_PKTINFO, _PKTINFO6.pack(present(rx.dst, True), iif)))
    if len(rx.dst) == 4:
        if flags & F_PKTINFO:
            iif, specific = 0, ANY4
            if info:
                iif, specific = _arrived_by(sk, rx, queued), _specific_destination(rx, sk)
            control.append((SOL_IP, IP_PKTINFO, _PKTINFO.pack(iif, specific, rx.dst)))
        _recv4(control, flags, rx)
    else:
        _recv6(control, flags, rx)
    return control


def add_times(control: list[Cmsg], sk: Sock, at: int) -> None:
    """When what is received arrived (`at`, ns), in each form that `sk` has asked for (Linux:
    `__sock_recv_timestamp`, `tcp_recv_timestamp`)."""
    at += sk.net.wall_ns
    if sk.timestamp:
        control.append(timestamp(sk.timestamp, at))
    tsflags = sk.tsflags
    if tsflags & SOFTWARE and (
        tsflags & RX_SOFTWARE or (sk.timestamp and not tsflags & OPT_RX_FILTER)
    ):
        control.append(times(sk, at))


def sent_cmsgs(control: list[Cmsg], sk: Sock, packet: bytes, iif: int) -> bytes:
    """What `sk` has asked to be told about packets, of one of its own that went to the device
    `iif`; the packet's source."""
    v4 = packet[0] >> 4 == 4
    if v4:
        src, dst, l4 = packet[12:16], packet[16:20], (packet[0] & 15) * 4
        tos, ttl, proto = packet[1], packet[8], packet[9]
    else:
        src, dst, l4 = packet[8:24], packet[24:40], 40
        tos, ttl, proto = int.from_bytes(packet[:2], "big") >> 4 & 0xFF, packet[7], packet[6]
    rx = RxPacket(packet, 0, l4, len(packet), proto, src, dst, tos, ttl, 0, True, iif, 0)
    flags = sk.inet_flags
    if sk.family == AF_INET6 and flags & F_RECVPKTINFO6:
        packed = _PKTINFO6.pack(present(dst, True), iif)
        control.append((SOL_IPV6, IPV6_PKTINFO, packed))
    if v4:
        if flags & F_PKTINFO:
            specific = ANY4 if sk.family == AF_INET6 else src
            control.append((SOL_IP, IP_PKTINFO, _PKTINFO.pack(iif, specific, dst)))
        _recv4(control, flags, rx)
    else:
        _recv6(control, flags, rx)
    return src


def timestamp(name: int, at: int) -> Cmsg:
    """SO_TIMESTAMP's timeval or SO_TIMESTAMPNS's timespec for the time of day `at`, ns."""
    if name in (SO_TIMESTAMP, SO_TIMESTAMP_NEW):
        return SOL_SOCKET, name, _TWO_LONGS.pack(at // _SEC, at % _SEC // 1000)
    return SOL_SOCKET, name, _TWO_LONGS.pack(at // _SEC, at % _SEC)


def _recv4(control: list[Cmsg], flags: int, rx: RxPacket) -> None:
    """All but IP_PKTINFO, which is the first."""
    if flags & F_RECVTTL:
        control.append((SOL_IP, IP_TTL, _INT.pack(rx.ttl)))
    if flags & F_RECVTOS:
        control.append((SOL_IP, IP_TOS, bytes((rx.tos,))))
    if flags & F_RECVORIGDSTADDR and rx.end - rx.l4 >= 4:
        port = rx.buf[rx.l4 + 2 : rx.l4 + 4]
        control.append((SOL_IP, IP_ORIGDSTADDR, _SOCKADDR_IN.pack(AF_INET, port, rx.dst)))


def _arrived_by(sk: Sock, rx: RxPacket, queued: bool) -> int:
    """The device of `rx`; for what has come over loopback, that of the address, but of an
    IPv4 error (Linux: `inet_iif`, `inet6_iif`)."""
    if rx.iif == LOOPBACK and not (queued and len(rx.dst) == 4):
        return sk.net.address_device(rx.dst) or rx.iif
    return rx.iif


def _specific_destination(rx: RxPacket, sk: Sock) -> bytes:
    """The address of this host that `rx` came to: what an answer should come from (RFC 1122
    3.2.1.3, Linux: `fib_compute_spec_dst`). Ping sockets do not tell."""
    if rx.proto == IPPROTO_ICMP:
        return ANY4
    if sk.net.is_local(rx.dst) or (rx.iif == LOOPBACK and rx.dst[0] < 224):
        return rx.dst
    try:
        return sk.net.route(rx.src, None, rx.iif).saddr
    except OSError:
        return ANY4


def _recv6(control: list[Cmsg], flags: int, rx: RxPacket) -> None:
    if flags & F_RECVHOPLIMIT:
        control.append((SOL_IPV6, IPV6_HOPLIMIT, _INT.pack(rx.ttl)))
    if flags & F_RECVTCLASS:
        control.append((SOL_IPV6, IPV6_TCLASS, _INT.pack(rx.tos)))
    if flags & F_RECVORIGDSTADDR6 and rx.end - rx.l4 >= 4:
        port = rx.buf[rx.l4 + 2 : rx.l4 + 4]
        packed = _SOCKADDR_IN6.pack(AF_INET6, port, 0, rx.dst, 0)
        control.append((SOL_IPV6, IPV6_ORIGDSTADDR, packed))


# -- sending -------------------------------------------------------------------------------


class SendOptions:
    """What the control messages of one send call ask for; -1 and b"" where they do not."""

    __slots__ = (
        "any_source",
        "dontfrag",
        "gso_size",
        "oif",
        "opt_id",
        "saddr",
        "stamps",
        "tos",
        "ttl",
    )

    def __init__(self) -> None:
        self.ttl = -1
        self.tos = -1
        self.saddr = b""
        self.any_source = False  # not even the one that the socket is bound to
        self.oif = 0
        self.gso_size = -1
        self.dontfrag = -1
        self.stamps = -1
        self.opt_id = -1


def parse_send(sk: Sock, control: tuple[Cmsg, ...], v6: bool) -> SendOptions:
    """Read the control messages of a send to an IPv6 (`v6`) or IPv4 destination. EINVAL for
    a malformed or unknown one of a level that is looked at, ENOBUFS for too many."""
    size = sum(_CMSG_HEADER + (len(data) + 7 & ~7) for _, _, data in control)
    if size > sk.net.sysctl.optmem_max:
        raise error(ENOBUFS)
    wanted = SendOptions()
    for level, type_, data in control:
        if level == SOL_SOCKET:
            send_socket(sk, wanted, type_, data)
        elif level == SOL_UDP:
            if type_ != UDP_SEGMENT or len(data) != _U16.size:
                raise error(EINVAL)
            wanted.gso_size = _U16.unpack(data)[0]
        elif level == SOL_IP and not v6:
            _send4(wanted, type_, data)
        elif level == SOL_IPV6 and v6:
            _send6(sk, wanted, type_, data)
        elif level == SOL_IPV6 and type_ == IPV6_PKTINFO and sk.family == AF_INET6:
            _send_mapped_pktinfo(wanted, data)
    return wanted


def send_socket(sk: Sock, wanted: SendOptions, type_: int, data: bytes) -> None:
    """One of level SOL_SOCKET (Linux: `__sock_cmsg_send`)."""
    if type_ in _FOR_UNIX:
        return
    if type_ == SO_TXTIME and len(data) == _U64_SIZE and kept(sk, SOL_SOCKET, SO_TXTIME):
        return  # it leaves at once
    if len(data) != _U32.size:
        raise error(EINVAL)
    number = _U32.unpack(data)[0]
    if type_ in (SO_TIMESTAMPING, SO_TIMESTAMPING_NEW) and not number & ~TX_RECORD:
        wanted.stamps = number
    elif type_ == SCM_TS_OPT_ID and sk.type != SOCK_STREAM and sk.tsflags & OPT_ID:
        wanted.opt_id = number
    elif type_ not in (SO_MARK, SO_PRIORITY):
        raise error(EINVAL)


def _send4(wanted: SendOptions, type_: int, data: bytes) -> None:
    if type_ == IP_PKTINFO and len(data) == _PKTINFO.size:
        oif, saddr, _ = _PKTINFO.unpack(data)
        wanted.oif = oif or wanted.oif
        wanted.saddr = normalize(saddr)
        wanted.any_source = not wanted.saddr
    elif type_ == IP_TTL and len(data) == _INT.size:
        wanted.ttl = _within(_INT.unpack(data)[0], 1, 255)
    elif type_ == IP_TOS and len(data) == _INT.size:
        wanted.tos = _within(_INT.unpack(data)[0], 0, 255)
    elif type_ == IP_TOS and len(data) == 1:
        wanted.tos = data[0]
    else:
        raise error(EINVAL)


def _send6(sk: Sock, wanted: SendOptions, type_: int, data: bytes) -> None:
    if type_ == IPV6_PKTINFO and len(data) >= _PKTINFO6.size:
        saddr, oif = _PKTINFO6.unpack_from(data)
        bound = wanted.oif or sk.bindtodevice
        saddr = normalize(saddr)
        foreign = saddr and (len(saddr) == 4 or not sk.net.is_local(saddr))
        if saddr == LOOPBACK6 and (oif or bound):
            foreign = (oif or bound) != LOOPBACK
        if sk.freebind or sk.net.sysctl.ip_nonlocal_bind:
            foreign = False
        if foreign or (oif and bound and oif != bound):
            raise error(EINVAL)
        wanted.oif = oif or wanted.oif
        wanted.saddr = saddr or wanted.saddr
        return
    if len(data) != _INT.size:
        raise error(EINVAL)
    number = _INT.unpack(data)[0]
    if type_ == IPV6_HOPLIMIT:
        wanted.ttl = _within(number, -1, 255)
    elif type_ == IPV6_TCLASS:
        wanted.tos = _within(number, -1, 255)
    elif type_ == IPV6_DONTFRAG:
        wanted.dontfrag = _within(number, 0, 1)
    else:
        raise error(EINVAL)


def _send_mapped_pktinfo(wanted: SendOptions, data: bytes) -> None:
    """IPV6_PKTINFO on a send to an IPv4 destination: its address must be mapped."""
    if len(data) < _PKTINFO6.size:
        raise error(EINVAL)
    saddr, oif = _PKTINFO6.unpack_from(data)
    wanted.oif = oif or wanted.oif
    saddr = normalize(saddr)
    if len(saddr) != 4:
        raise error(EINVAL)
    wanted.saddr = saddr if saddr != ANY4 else b""
    wanted.any_source = not wanted.saddr


def _within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise error(EINVAL)
    return value
