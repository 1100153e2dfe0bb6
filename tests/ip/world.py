"""A host with fake transports, and the packets that a peer would send it."""

from __future__ import annotations

from ustack.ip.host import IpHost
from ustack.link.gso import finish_bytes
from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sock.dst import Device
from ustack.sock.sock import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, Sock
from ustack.sock.sysctl import Sysctl
from ustack.wire import ipv4, ipv6
from ustack.wire.addr import parse_addr
from ustack.wire.checksum import fold, pseudo_sum
from ustack.wire.packet import IPPROTO_TCP, IPPROTO_UDP, TAKEN, Frame

SECOND = 1_000_000_000
US4, PEER4 = parse_addr("10.9.0.2"), parse_addr("10.9.0.1")
US6, PEER6 = parse_addr("fd00:9::2"), parse_addr("fd00:9::1")


class FakeDevice(Device):
    """Keeps what it was given."""

    def __init__(self, name="tun0", mtu=1500, features=0, verdict=TAKEN):
        super().__init__(name, mtu, features)
        self.packets = []
        self.verdict = verdict

    def xmit(self, packet):
        self.packets.append(packet)
        return self.verdict

    def take(self):
        """What has been sent, as a wire would carry it."""
        packets, self.packets = self.packets, []
        return [data for packet in packets for data in finish_bytes(packet)]


class FakeTransport:
    def __init__(self):
        self.received = []
        self.errors = []

    def rcv(self, rx):
        self.received.append(rx)

    def icmp_err(self, e):
        self.errors.append(e)


class World:
    """10.9.0.2/24 and fd00:9::2/64 on a device of MTU 1500."""

    def __init__(self, mtu=1500, **settings):
        self.host = IpHost(seeds=Seeds(7), loopback=Loopback(), sysctl=Sysctl(**settings))
        self.dev = FakeDevice(mtu=mtu)
        self.host.add_device(self.dev)
        self.host.add_address(self.dev, "10.9.0.2/24")
        self.host.add_address(self.dev, "fd00:9::2/64")
        self.tcp, self.udp = FakeTransport(), FakeTransport()
        self.host.register(IPPROTO_TCP, self.tcp.rcv, self.tcp.icmp_err)
        self.host.register(IPPROTO_UDP, self.udp.rcv, self.udp.icmp_err, self.udp.rcv)
        self.mib = self.host.mib

    def inject(self, *packets, now=0, dev=None, csum_ok=False):
        frames = [Frame(packet, csum_ok=csum_ok) for packet in packets]
        self.host.handle_batch(frames, now, dev or self.dev)

    def drops(self):
        """What has been dropped since the last look."""
        seen = dict(self.mib.drops)
        self.mib.drops.clear()
        return seen

    def sock(self, daddr, proto=IPPROTO_TCP):
        """A connected socket."""
        v6 = len(daddr) == 16
        kind = SOCK_STREAM if proto == IPPROTO_TCP else SOCK_DGRAM
        sk = Sock(self.host, AF_INET6 if v6 else AF_INET, kind, proto)
        sk.dst = self.host.route(daddr)
        sk.saddr, sk.daddr = sk.dst.saddr, daddr
        sk.sport, sk.dport = 1000, 2000
        return sk


def ip4(
    payload=b"", src=PEER4, dst=US4, proto=IPPROTO_UDP, ident=1, frag=0, ttl=64, tos=0, options=b""
):
    """An IPv4 packet; `frag` is the whole fragment field."""
    first = (0x40 + 5 + len(options) // 4) << 8 | tos
    length = 20 + len(options) + len(payload)
    rest = src + dst + options
    hops = ttl << 8 | proto
    csum = 0xFFFF ^ fold(first + length + ident + frag + hops + int.from_bytes(rest, "big"))
    words = (first, length, ident, frag, hops, csum)
    return b"".join(word.to_bytes(2, "big") for word in words) + rest + payload


def ip6(payload=b"", src=PEER6, dst=US6, proto=IPPROTO_UDP, hops=64, tclass=0):
    return ipv6.build_header(src, dst, proto, len(payload), hops, tclass, 0) + payload


def udp(src, dst, data=b"", sport=5000, dport=6000):
    """A UDP header with a good checksum, and data."""
    length = 8 + len(data)
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + length.to_bytes(2, "big")
    total = pseudo_sum(src, dst, IPPROTO_UDP, length)
    body = head + bytes(2) + data
    total += int.from_bytes(body + bytes(len(body) & 1), "big")
    return head + ((0xFFFF ^ fold(total)) or 0xFFFF).to_bytes(2, "big") + data


class Ip4:
    """A parsed IPv4 packet, its header checksum asserted."""

    def __init__(self, data):
        self.first, self.length, self.ident, self.frag, self.ttl, self.proto = (
            int.from_bytes(data[0:2], "big"),
            int.from_bytes(data[2:4], "big"),
            int.from_bytes(data[4:6], "big"),
            int.from_bytes(data[6:8], "big"),
            data[8],
            data[9],
        )
        assert int.from_bytes(data[:20], "big") % 65535 == 0
        assert self.first >> 8 == 0x45
        assert self.length == len(data)
        self.tos = self.first & 0xFF
        self.df = bool(self.frag & ipv4.DF)
        self.more = bool(self.frag & ipv4.MF)
        self.offset = (self.frag & ipv4.OFFSET_MASK) * 8
        self.src, self.dst, self.payload = data[12:16], data[16:20], data[20:]


class Ip6:
    """A parsed IPv6 packet."""

    def __init__(self, data):
        assert data[0] >> 4 == 6
        assert len(data) == 40 + int.from_bytes(data[4:6], "big")
        self.proto, self.hops = data[6], data[7]
        self.tclass = (data[0] << 8 | data[1]) >> 4 & 0xFF
        self.src, self.dst, self.payload = data[8:24], data[24:40], data[40:]
