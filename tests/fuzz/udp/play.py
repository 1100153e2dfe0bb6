"""One program on one backend: `Player(program, trial).play()` leaves a trace.

A trace is as in `tests/sockets/parity/trace.py`, without times: results of calls, what the
peer sent, what was seen on the wire because of it, and after each step the state of every
socket: addresses, poll mask, SIOCINQ, SIOCOUTQ, SO_MEMINFO.

Whatever a host chooses at random does not appear: ephemeral ports, the first IP id, times
of day. Whether ids are the same in all fragments of a datagram, and count on in the packets
of a connected socket, does.

One namespace serves many programs. What a kernel remembers of a peer (path MTU, tokens of
the ICMP rate limit, fragments) would reach into the next, so each has a peer of its own.
"""

from __future__ import annotations

import socket
import struct
import traceback
from ipaddress import ip_address
from typing import Any
from zlib import crc32

from tests.fuzz.trial import FuzzClock
from tests.fuzz.udp.program import (
    AF4,
    AF6,
    HOSTS,
    LOCAL4,
    LOCAL6,
    PEER,
    PEER_PORTS,
    SERVER,
    Program,
)
from tests.sockets.parity.kernel import KernelSut
from tests.sockets.parity.peer import (
    EPHEMERAL,
    ICMP,
    ICMPV6,
    UDP,
    Seen,
    brief,
    icmp,
    ip_packet,
    pattern,
    udp,
)
from tests.sockets.parity.stack import StackSut
from tests.sockets.parity.trace import Event, Trace
from tests.sockets.parity.trial import (
    MSG_ERRQUEUE,
    PEER6,
    SIOCINQ,
    SIOCOUTQ,
    SOL_IP,
    SOL_IPV6,
    SOL_SOCKET,
    SOL_UDP,
    Message,
    Socket,
    Trial,
    poll_names,
)

# no limit but that of one peer: what a program may cause does not depend on the one before
_SETTINGS = {
    "icmp_msgs_per_sec": 1_000_000, "icmp_msgs_burst": 1_000_000, "ipfrag_high_thresh": 1 << 28,
}  # fmt: skip
_PEERS = "10.64.0.0/10"
_FIRST4, _FIRST6, _STRANGE = 0x0A400001, int(ip_address("fd00:9::1:0:1")), 1 << 20
_IGMP, _TIMESTAMPING = 2, 4
_TIMES = {(SOL_SOCKET, name) for name in (29, 35, 37, 63, 64, 65)}
_ORIGDST = {(SOL_IP, 20), (SOL_IPV6, 74)}
_MEM = (("rmem", 0), ("rcvbuf", 1), ("wmem", 2), ("sndbuf", 3), ("drops", 8))


class Place:
    """Where the peer of one program is."""

    def __init__(self, number: int) -> None:
        number %= _STRANGE
        self.peer = {AF4: _packed(AF4, number), AF6: _packed(AF6, number)}
        self.stranger = {family: _packed(family, number + _STRANGE) for family in (AF4, AF6)}
        self.local = {
            AF4: socket.inet_pton(AF4, LOCAL4), AF6: socket.inet_pton(AF6, LOCAL6)
        }  # fmt: skip

    def text(self, name: str, family: int) -> str:
        """The address that a host of `HOSTS` is for a socket of that family."""
        text = HOSTS[name][family == AF6]
        own = AF4 if family == AF4 or text.startswith("::ffff:") else AF6
        return text.replace(PEER, str(ip_address(self.peer[own])))

    def named(self, name: str, family: int) -> bytes:
        """The address that a peer of that family means."""
        if name in ("peer", "stranger"):
            return (self.peer if name == "peer" else self.stranger)[family]
        return socket.inet_pton(family, HOSTS[name][family == AF6])

    def hide(self, text: str) -> str:
        """`text` without what is this program's alone."""
        for packed in self.peer.values():
            text = text.replace(str(ip_address(packed)), PEER).replace(packed.hex(), PEER)
        return text


def _packed(family: int, number: int) -> bytes:
    first, size = (_FIRST4, 4) if family == AF4 else (_FIRST6, 16)
    return (first + number).to_bytes(size, "big")


class UdpTrial(Trial):
    """A trial with both families at once, and a peer of its own."""

    def __init__(self, sut: UdpKernelSut | StackSut, place: Place) -> None:
        super().__init__(sut, True)
        self.place = place
        self.sent: list[bytes] = []  # UDP packets seen on the wire
        self.counting = False  # ids of what comes now count on
        self._last_id = 0

    def step(self) -> None:
        """Note all that has come of the last call or packet."""
        self.sut.settle()
        self._seen = []
        self.sut.pump(self.sut.now(), self._take)
        self.trace.events += [Event("wire", self.place.hide(seen.text)) for seen in self._seen]

    def _take(self, raw: bytes, at: int) -> None:
        family = AF6 if raw[0] >> 4 == 6 else AF4
        self.local, self.peer = self.place.local[family], self.place.peer[family]
        seen = Seen(self, raw, 0.0)
        if seen.noise or seen.proto == _IGMP or self._of_another(seen):
            return
        if seen.proto == UDP:
            self.sent.append(raw)
            if seen.dport >= EPHEMERAL:
                seen.text = seen.text.replace(f">{seen.dport} ", ">* ", 1)
        if seen.offset:
            seen.text += f" {crc32(raw[48 if seen.v6 else 20 :]):08x}"
        if seen.offset and seen.id == self._last_id:
            seen.text += " same id"
        elif self.counting and not seen.v6 and (seen.id - self._last_id) % 65536 == 1:
            seen.text += " next id"
        self._last_id = seen.id
        self._seen.append(seen)

    def _of_another(self, seen: Seen) -> bool:
        """A late word about a program before: that its fragments have not been completed."""
        late = seen.proto in (ICMP, ICMPV6) and seen.kind in (3, 11)
        return late and seen.dst not in (self.peer, self.place.stranger[AF6 if seen.v6 else AF4])


class FuzzSocket(Socket):
    """A socket whose random parts do not show."""

    trial: UdpTrial

    def __init__(self, trial: UdpTrial, index: int, family: int) -> None:
        super().__init__(trial, trial.sut.socket(family, socket.SOCK_DGRAM), f"s{index}")
        self.family = family

    def port(self) -> int:
        return int(self.raw.getsockname()[1])

    def address(self, host: str, port: int) -> Any:
        text = self.trial.place.text(host, self.family)
        return (text, port, 0, 0) if self.family == AF6 else (text, port)

    def shown(self, addr: Any) -> str:
        port = "*" if addr[1] >= EPHEMERAL else addr[1]
        text = socket.inet_ntop(self.family, socket.inet_pton(self.family, addr[0]))
        return self.trial.place.hide(f"{text} {port}")

    def _message(self, data: bytes, flags: int, control: Any, addr: Any, n: int) -> Any:
        shown = brief(data)
        if flags & MSG_ERRQUEUE and any(_is_stamp(*message) for message in control):
            shown = f"{len(data)} bytes, {data[:1]!r}..."  # ids, ports and checksums are in it
        words = [shown if n == len(data) else f"{n} of {shown}"]
        if flags:
            words.append(f"flags {flags:#x}")
        queued = flags & MSG_ERRQUEUE != 0
        words += [
            self._control(level, kind, bytes(value), queued) for level, kind, value in control
        ]
        if addr:
            words.append(f"from {self.shown(addr)}")
        return Message(" ".join(words), data, n)

    def _control(self, level: int, kind: int, value: bytes, queued: bool) -> str:
        if (level, kind) in _TIMES:
            parts = [any(value[at : at + 16]) for at in range(0, len(value), 16)]
            return f"({level}, {kind}, times {parts})"
        # of an error in the queue the port is what stands there in the ICMP header: a checksum
        if (level, kind) in _ORIGDST and (queued or int.from_bytes(value[2:4], "big") >= EPHEMERAL):
            value = value[:2] + b"**" + value[4:]
        return f"({level}, {kind}, {self.trial.place.hide(value.hex())})"

    def state(self) -> dict[str, Any]:
        """All that can be asked without changing it."""
        raw = self.raw
        found: dict[str, Any] = {"inq": raw.ioctl(SIOCINQ), "outq": raw.ioctl(SIOCOUTQ)}
        words = struct.unpack("9I", raw.getsockopt(SOL_SOCKET, 55, 36))
        found.update({name: words[at] for name, at in _MEM})
        found["poll"] = poll_names(raw.poll())
        found["name"] = self.shown(raw.getsockname())
        try:
            found["peer"] = self.shown(raw.getpeername())
        except OSError as why:
            found["peer"] = self.plain(why)
        return {f"{self.label}.{name}": value for name, value in found.items()}


def _is_stamp(level: int, kind: int, value: bytes) -> bool:
    """An extended error that tells when a packet left."""
    return (level, kind) in ((SOL_IP, 11), (SOL_IPV6, 25)) and value[4] == _TIMESTAMPING


class Player:
    """Plays one program."""

    def __init__(self, program: Program, trial: UdpTrial) -> None:
        self.program = program
        self.trial = trial
        setup = dict(program.setup)
        self.family: int = setup["peer"]
        families = enumerate(setup["families"])
        self.sockets = [FuzzSocket(trial, i, family) for i, family in families]
        self.written = 0  # bytes that calls have offered: where their patterns start

    def play(self) -> None:
        self.observe()
        for op in self.program.steps:
            getattr(self, "do_" + op[0])(*op[1:])
            self.trial.step()
            self.observe()

    def observe(self) -> None:
        state: dict[str, Any] = {}
        for s in self.sockets:
            state.update(s.state())
        self.trial.event("state", "", state)

    def port(self, port: Any) -> int:
        return self.sockets[port[1]].port() if isinstance(port, tuple) else port

    # -- calls -------------------------------------------------------------------------

    def do_bind(self, i: int, host: str, port: int) -> None:
        s = self.sockets[i]
        s._call(f"bind({host}, {port})", lambda: s.raw.bind(s.address(host, port)))

    def do_connect(self, i: int, host: str, port: Any) -> None:
        s = self.sockets[i]
        to = s.address(host, self.port(port))
        s._call(f"connect({host}, {port})", lambda: s.raw.connect(to))

    def do_unspec(self, i: int) -> None:
        self.sockets[i].disconnect()

    def do_send(self, i: int, n: int, flags: int, to: Any, control: tuple[Any, ...]) -> None:
        s = self.sockets[i]
        addr = s.address(to[0], self.port(to[1])) if to is not None else None
        body = pattern(self.written, n)
        self.written += n
        shown = [(level, kind, value.hex()) for level, kind, value in control]
        text = f"send({n}, {flags:#x}, {to}, {shown})"
        self.trial.counting = _is_connected(s)
        s._call(text, lambda: s.raw.send(body, flags, addr, control))

    def do_recv(self, i: int, n: int, flags: int) -> None:
        self.sockets[i].recv(n, flags)

    def do_set(self, i: int, level: int, name: int, value: bytes) -> None:
        s = self.sockets[i]
        self.trial.counting = level == SOL_UDP and _is_connected(s)
        s.set(level, name, value)

    def do_get(self, i: int, level: int, name: int) -> None:
        self.sockets[i].get(level, name)

    def do_shutdown(self, i: int, how: int) -> None:
        self.sockets[i].shutdown(how)

    def do_renew(self, i: int) -> None:
        s = self.sockets[i]
        s.close()
        self.sockets[i] = FuzzSocket(self.trial, i, s.family)

    # -- the peer ----------------------------------------------------------------------

    def inject(self, packet: bytes, *what: Any) -> None:
        self.trial.counting = False
        self.trial.inject(packet, " ".join(map(str, what)))

    def _ends(self) -> tuple[bytes, bytes]:
        place = self.trial.place
        return place.peer[self.family], place.local[self.family]

    def do_dgram(self, n: int, sport: int, dport: Any, plant: tuple[Any, ...]) -> None:
        given = dict(plant)
        if self.family == AF6:
            given.pop("options", None)
        src, dst = self._ends()
        if "src" in given:
            src = self.trial.place.named(given.pop("src"), self.family)
        if "dst" in given:
            dst = self.trial.place.named(given.pop("dst"), self.family)
        packet = udp(src, dst, sport, self.port(dport), pattern(n, n), **given)
        self.inject(packet, "dgram", n, sport, dport, *plant)

    def do_frag(self, *op: Any) -> None:
        key, total, start, end, more, tos = op
        src, dst = self._ends()
        whole = udp(src, dst, PEER_PORTS[0], self.port(("of", 0)), pattern(key, total - 8))
        piece = (whole[-total:] + bytes(end))[start:end]
        if self.family == AF4:
            field = start // 8 | (0x2000 if more else 0)
            packet = ip_packet(src, dst, UDP, piece, ident=key, frag=field, tos=tos)
        else:
            head = bytes((UDP, 0)) + (start | more).to_bytes(2, "big") + key.to_bytes(4, "big")
            packet = ip_packet(src, dst, 44, head + piece, tos=tos)
        self.inject(packet, "frag", *op)

    def do_icmp(self, kind: int, code: int, rest: int, back: int, cut: int) -> None:
        src, dst = self._ends()
        version = 4 if self.family == AF4 else 6
        sent = [raw for raw in self.trial.sent if raw[0] >> 4 == version and src in raw[12:40]]
        if back < len(sent):
            quote = sent[-1 - back]
        else:
            quote = udp(dst, src, SERVER, PEER_PORTS[0], b"never sent")
        packet = icmp(src, dst, kind, code, rest, quote[:cut])
        self.inject(packet, "icmp", kind, code, rest, back, cut)

    def do_ping(self, n: int) -> None:
        packet = icmp(*self._ends(), 8 if self.family == AF4 else 128, 0, 77, pattern(n, n))
        self.inject(packet, "ping", n)

    def do_proto(self, number: int) -> None:
        self.inject(ip_packet(*self._ends(), number, bytes(40)), "proto", number)


def _is_connected(s: FuzzSocket) -> bool:
    """To an IPv4 peer, so that its packets are numbered."""
    try:
        peer = s.raw.getpeername()
    except OSError:
        return False
    return s.family == AF4 or ip_address(peer[0]).ipv4_mapped is not None


# -- backends --------------------------------------------------------------------------------


class UdpKernelSut(KernelSut):
    """A namespace with both families, in which many programs run one after another."""

    def __init__(self) -> None:
        own = {"ipv6/ip6frag_high_thresh": 1 << 28}
        super().__init__(True, LOCAL6, PEER6, {**_SETTINGS, **own})
        self.add_address(f"{LOCAL4}/24")
        self.netns.ip(f"route add {_PEERS} dev tun0")
        self.marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.marker.bind(("127.0.0.1", 0))
        self.marker.connect(self.marker.getsockname())
        self.marker.settimeout(5)
        # a kernel stamps what arrives while any socket anywhere wants times: now one does
        self.marker.setsockopt(socket.SOL_SOCKET, 29, 1)

    def settle(self) -> None:
        """What was sent to ourselves has been received: loopback keeps the order."""
        self.marker.send(b"")
        self.marker.recv(1)

    def renew(self) -> None:
        """Drop what a program has left: its sockets, and path MTUs of IPv4. Those of IPv6
        cannot be dropped, but are only ever those of its peer."""
        for made in [*self.sockets]:
            made.sock.close()
        self.sockets.clear()
        with open("/proc/sys/net/ipv4/route/flush", "w", encoding="ascii") as file:
            file.write("1")


def _run(program: Program, sut: UdpKernelSut | StackSut, place: Place) -> Trace:
    trial = UdpTrial(sut, place)
    try:
        Player(program, trial).play()
    except Exception:
        trial.trace.error = traceback.format_exc()
    return trial.trace


def play_stack(program: Program, place: Place) -> Trace:
    sut = StackSut(True, LOCAL6, _SETTINGS, clock=FuzzClock())
    sut.add_address(f"{LOCAL4}/24")
    sut.stack.add_route(_PEERS, sut.dev)
    return _run(program, sut, place)


def play_kernel(program: Program, place: Place, sut: UdpKernelSut) -> Trace:
    with sut.netns.entered():
        try:
            return _run(program, sut, place)
        finally:
            sut.renew()
