"""TCP of one host: its tables, and the way in for segments and ICMP errors.

One dictionary holds everything that has a 4-tuple: connections, half-open requests,
TIME_WAIT pairs. Its key is the 4-tuple as it arrives (source, destination, ports), so
that finding a connection costs one slice and one look-up. Listeners are found by port,
the more specific address first; a catch-all listener gets the SYNs that nobody wants.

Sources: RFC 6528 (initial sequence numbers), Linux `tcp_v4_rcv`, `tcp_v4_err`,
`__inet_lookup_listener`; rules C-17, C-22, C-33, C-52, C-53, E-38.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOENT
from hashlib import blake2s
from typing import TYPE_CHECKING, TypeAlias

from ustack.sock.addr import is_multicast
from ustack.sock.errors import error
from ustack.sock.icmp import IcmpError
from ustack.sock.net import Net
from ustack.sock.ports import PortTable
from ustack.sock.sock import AF_INET, BINDPORT_LOCK
from ustack.tcp import icmp, timeouts
from ustack.tcp.congestion.base import AckSample, CongestionControl
from ustack.tcp.congestion.registry import registry
from ustack.tcp.input import rcv
from ustack.tcp.listen import Request, listen_input
from ustack.tcp.mss import TCP_MIN_MSS
from ustack.tcp.proto import TcpProto
from ustack.tcp.retransmit import tsq_write
from ustack.tcp.segment import Segment
from ustack.tcp.sock import TcpSock
from ustack.tcp.timewait import ISN_STEP, TW_ACK, TW_RST, TW_SYN, TimeWait
from ustack.wire.checksum import verify
from ustack.wire.packet import IPPROTO_TCP, RxPacket
from ustack.wire.seq import MASK
from ustack.wire.tcp import ACK, RST, SYN, build, parse_options

if TYPE_CHECKING:
    Owner: TypeAlias = TcpSock | Request | TimeWait


class TcpHost:
    """Demultiplexes to the sockets of one stack.

    `next_isn(owner, now)` chooses initial sequence numbers; tests replace it.
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.ports = PortTable(net, IPPROTO_TCP)
        self.established: dict[bytes, Owner] = {}
        self.listeners: dict[int, list[TcpSock]] = {}
        self.catch_all: TcpSock | None = None
        self.tw_count = 0
        self.orphans: dict[TcpSock, None] = {}  # connections whose socket has been closed
        self.congestion_controls = registry()
        self.prot = TcpProto()
        self.ack_sample = AckSample()  # filled anew for each ACK: no ACK is within another
        self._secret = net.seeds.stream("tcp/isn").getrandbits(256).to_bytes(32, "big")
        self.next_isn: Callable[[TcpSock | Request, int], int] = self._secure_isn

    # -- making sockets --------------------------------------------------------------

    def create_sock(self, family: int) -> TcpSock:
        """A new socket of AF_INET or AF_INET6."""
        return TcpSock(self, family)

    def new_congestion_control(self, name: str) -> CongestionControl:
        """An instance of the algorithm called `name`; ENOENT if there is none."""
        cls = self.congestion_controls.get(name)
        if cls is None:
            raise error(ENOENT)
        return cls()

    def sockets(self) -> list[TcpSock]:
        """Listeners, then connections, oldest first."""
        found = [sk for group in self.listeners.values() for sk in group]
        return found + [sk for sk in self.established.values() if isinstance(sk, TcpSock)]

    def timewaits(self) -> list[TimeWait]:
        return [tw for tw in self.established.values() if isinstance(tw, TimeWait)]

    def _hash(self, owner: TcpSock | Request, purpose: bytes) -> int:
        data = owner.saddr + owner.daddr + (owner.sport << 16 | owner.dport).to_bytes(4, "big")
        digest = blake2s(data, digest_size=4, key=self._secret, person=purpose).digest()
        return int.from_bytes(digest, "big")

    def _secure_isn(self, owner: TcpSock | Request, now: int) -> int:
        """RFC 6528: a clock of 64 ns plus a keyed hash of the 4-tuple."""
        return (self._hash(owner, b"isn") + (now >> 6)) & MASK

    def ts_offset(self, owner: TcpSock | Request) -> int:
        """Where this pair's timestamp clock starts."""
        return self._hash(owner, b"ts")

    @staticmethod
    def pseudo_base(saddr: bytes, daddr: bytes) -> int:
        """The part of the pseudo-header sum that a connection never changes."""
        return (int.from_bytes(saddr + daddr, "big") + IPPROTO_TCP) % 65535

    # -- tables ----------------------------------------------------------------------

    @staticmethod
    def key_of(sk: TcpSock, sport: int) -> bytes:
        return sk.daddr + sk.saddr + (sk.dport << 16 | sport).to_bytes(4, "big")

    def is_taken(self, sk: TcpSock, port: int, port_chosen: bool, now: int) -> bool:
        """Would `sk` at local `port` collide with another connection? (rules C-34, C-50)"""
        owner = self.established.get(self.key_of(sk, port))
        if isinstance(owner, TimeWait):
            return not owner.may_be_reused(now, port_chosen)
        return owner is not None

    def hash(self, sk: TcpSock) -> None:
        """Make a connection findable."""
        sk.key = self.key_of(sk, sk.sport)
        sk.csum_base = self.pseudo_base(sk.saddr, sk.daddr)
        sk.ip_template = None
        self.established[sk.key] = sk

    def unhash(self, sk: TcpSock) -> None:
        """Take a connection or a listener out of the tables; no error if it is in none."""
        if self.established.get(sk.key) is sk:
            del self.established[sk.key]
        group = self.listeners.get(sk.sport)
        if group is not None and sk in group:
            group.remove(sk)
            if not group:
                del self.listeners[sk.sport]
        if self.catch_all is sk:
            self.catch_all = None

    def reset_connection(self, sk: TcpSock) -> None:
        """A socket whose connection is over becomes as new, but for a port that the user
        has chosen (`tcp_disconnect`)."""
        self.unhash(sk)
        if not sk.userlocks & BINDPORT_LOCK:
            self.put_port(sk)
        una, nxt, gap = sk.snd_una, sk.snd_nxt, sk.max_window + 2
        end = sk.write_seq
        shown = sk.mss_cache, sk.pmtu_cookie, sk.advmss, sk.snd_wnd
        windows = sk.rcv_ssthresh, sk.rcv_wnd, sk.rcvq_space
        sk.init_connection()
        # what tcp_info goes on showing until the next connection sets it
        sk.mss_cache, sk.pmtu_cookie, sk.advmss, sk.snd_wnd = shown
        sk.rcv_ssthresh, sk.rcv_wnd, sk.rcvq_space = windows
        sk.rcv_mss = TCP_MIN_MSS
        # Linux leaves a window's width before the next ISN, which SIOCOUTQ shows
        sk.snd_una, sk.snd_nxt, sk.write_seq = una, nxt, end + gap
        sk.daddr = b""
        sk.dport = 0
        sk.dst = None
        sk.key = b""
        sk.csum_base = 0
        sk.shutdown = 0
        sk.err_soft = 0

    def put_port(self, sk: TcpSock) -> None:
        """Give the local port back."""
        if sk.sport:
            self.ports.release(sk)
            sk.last_port, sk.sport = sk.sport, 0

    def add_listener(self, sk: TcpSock) -> None:
        self.listeners.setdefault(sk.sport, []).append(sk)

    def hash_timewait(self, tw: TimeWait, key: bytes) -> None:
        self.established[key] = tw
        self.tw_count += 1
        self.net.mib.inc("TcpExtTW")

    def remove_timewait(self, tw: TimeWait) -> None:
        if self.established.get(tw.key) is tw:
            del self.established[tw.key]
            self.tw_count -= 1
            self.ports.release(tw)

    def lookup_listener(self, rx: RxPacket, port: int, key: bytes) -> TcpSock | None:
        """The listener with the best match; among equals with SO_REUSEPORT the 4-tuple
        decides."""
        best: list[TcpSock] = []
        best_score = 0
        for sk in self.listeners.get(port, ()):
            score = _score(sk, rx)
            if score > best_score:
                best, best_score = [sk], score
            elif score and score == best_score and sk.reuseport and best[0].reuseport:
                best.append(sk)
        if len(best) > 1:
            digest = blake2s(key, digest_size=4, key=self._secret, person=b"group").digest()
            return best[int.from_bytes(digest, "big") % len(best)]
        return best[0] if best else self.catch_all

    # -- input -------------------------------------------------------------------------

    def rcv(self, rx: RxPacket) -> None:
        """A segment for this host, from IP (`tcp_v4_rcv`)."""
        values = self.net.mib.values
        values["TcpInSegs"] += 1
        size = rx.end - rx.l4
        if size < 20:
            self._bad(rx, "PKT_TOO_SMALL")
            return
        seg = Segment(rx)
        if seg.hdr_len < 20 or seg.len < 0:
            self._bad(rx, "PKT_TOO_SMALL")
            return
        if not rx.csum_ok:
            pseudo = int.from_bytes(rx.src + rx.dst, "big") + IPPROTO_TCP + size
            if not verify(rx.buf, rx.l4, rx.end, pseudo):
                values["TcpInCsumErrors"] += 1
                self._bad(rx, "TCP_CSUM")
                return
        options_at = rx.l4 + 20
        if seg.data_off != options_at:
            syn = seg.flags & SYN != 0
            seg.options = parse_options(rx.buf, options_at, seg.data_off, syn)
        key = rx.src + rx.dst + rx.buf[rx.l4 : rx.l4 + 4]
        owner = self.established.get(key)
        if type(owner) is TcpSock:
            if not rcv(owner, seg):
                self.send_reset(seg)
        elif owner is None:
            self._rcv_new(rx, seg, key)
        elif type(owner) is Request:
            child = owner.process(seg)
            if child is not None and not rcv(child, seg):
                self.send_reset(seg)
        elif type(owner) is TimeWait:
            self._rcv_timewait(owner, rx, seg, key)

    def _bad(self, rx: RxPacket, reason: str) -> None:
        self.net.mib.inc("TcpInErrs")
        self.net.mib.drop(reason)

    def _rcv_new(self, rx: RxPacket, seg: Segment, key: bytes) -> None:
        """No connection has this 4-tuple."""
        if is_multicast(rx.dst) or not self.net.is_local(rx.dst):  # also a broadcast address
            self.net.mib.drop("PKT_TYPE")
            return
        listener = self.lookup_listener(rx, seg.dport, key)
        if listener is None:
            self.net.mib.drop("NO_SOCKET")
            self.send_reset(seg)
        elif not listen_input(listener, seg, key):
            self.send_reset(seg)

    def _rcv_timewait(self, tw: TimeWait, rx: RxPacket, seg: Segment, key: bytes) -> None:
        verdict = tw.process(seg)
        if verdict == TW_SYN:
            listener = self.lookup_listener(rx, seg.dport, key)
            if listener is not None:
                tw.kill()
                self.net.mib.inc("TcpExtTWRecycled")
                listen_input(listener, seg, key, (tw.snd_nxt + ISN_STEP) & MASK or 1)
                return
            verdict = TW_ACK
        if verdict == TW_ACK:
            tw.send_ack(seg.now)
        elif verdict == TW_RST:
            self.send_reset(seg)
            tw.kill()

    def send_reset(self, seg: Segment) -> None:
        """Answer a segment that fits nothing (rule C-22, `tcp_v4_send_reset`)."""
        rx = seg.rx
        if seg.flags & RST or not self.net.is_local(rx.dst):
            return
        if seg.flags & ACK:
            seq, ack, flags = seg.raw_ack, 0, RST
        else:
            span = seg.len + (seg.flags & 1) + (seg.flags >> 1 & 1)
            seq, ack, flags = 0, seg.raw_seq + span, RST | ACK
        csum = (self.pseudo_base(rx.dst, rx.src) + 20) % 65535
        header = build(seg.dport, seg.sport, seq, ack, flags, 0, csum=csum)
        self.net.send_reply(IPPROTO_TCP, rx.dst, rx.src, header, 0, seg.now)
        self.net.mib.inc("TcpOutRsts")
        self.net.mib.inc("TcpOutSegs")

    def icmp_err(self, e: IcmpError) -> None:
        """An ICMP error about a segment of this host."""
        icmp.icmp_err(self, e)

    # -- timers and devices ----------------------------------------------------------------

    def handle_timers(self, sk: TcpSock, now: int) -> None:
        timeouts.handle_timers(sk, now)

    def tx_done(self, sk: TcpSock, now: int) -> None:
        """The device queue has drained a little: small queues and autocorking let go."""
        if sk.tsq_throttled:
            tsq_write(sk, now)


def _score(sk: TcpSock, rx: RxPacket) -> int:
    """How well a listener fits, 0 if not at all (`compute_score`, rule C-53)."""
    v4 = len(rx.dst) == 4
    if sk.family == AF_INET:
        if not v4:
            return 0
    elif v4 and sk.v6only:
        return 0
    if sk.bindtodevice and sk.bindtodevice != rx.iif:
        return 0
    score = 2 if sk.bindtodevice else 1
    if sk.rcv_saddr:
        if sk.rcv_saddr != rx.dst:
            return 0
        score += 8
    return score + (sk.family == AF_INET)
