"""Y34: what IP accepts, reassembly, the ICMP that a host sends, and its limits."""

from __future__ import annotations

import random

from tests.sockets.parity.peer import UDP, icmp, ip_options, ip_packet, udp
from tests.sockets.parity.scenario import parity

HEADERS4 = {
    "good": {}, "ihl-4": {"ihl": 4}, "ihl-15": {"ihl": 15},
    "bad-csum": {"csum": 0x1111}, "total-long": {"total": 60}, "total-short": {"total": 31},
    "total-tiny": {"total": 19}, "ttl-0": {"ttl": 0}, "ttl-1": {"ttl": 1},
    "reserved-flag": {"frag": 0xC000}, "no-df": {"frag": 0}, "tos": {"tos": 0xFC},
    "options-nop": {"options": b"\x01\x01\x01\x00"},
    "options-bad": {"options": b"\x07\xff\x04\x00"},
    "options-rr": {"options": b"\x07\x07\x04\0\0\0\0\0"},
    "options-ssrr": {"options": b"\x89\x07\x04\x0a\x09\0\x02\0"},
    "options-ts": {"options": b"\x44\x08\x05\0\0\0\0\0"},
    "options-unknown": {"options": b"\x99\x04\0\0"},
}  # fmt: skip

SOURCES4 = {
    "loopback": (127, 0, 0, 1), "own": (10, 9, 0, 2), "broadcast": (255, 255, 255, 255),
    "subnet-broadcast": (10, 9, 0, 255), "multicast": (224, 0, 0, 1), "zero": (0, 0, 0, 0),
    "class-e": (240, 0, 0, 1), "off-link": (8, 8, 8, 8),
}  # fmt: skip
DESTINATIONS4 = {
    "loopback": (127, 0, 0, 1), "other": (10, 9, 0, 77), "broadcast": (255, 255, 255, 255),
    "subnet-broadcast": (10, 9, 0, 255), "multicast": (224, 0, 0, 1), "zero": (0, 0, 0, 0),
    "far": (8, 8, 8, 8), "subnet-zero": (10, 9, 0, 0),
}  # fmt: skip


def bound(t):
    s = t.socket("udp")
    s.bind("", 7000)
    return s


def look(t, s):
    t.settle()
    s.recv(100)


@parity("F-1", v6=False, cases=HEADERS4)
def test_header4(t, case):
    s = bound(t)
    t.rule("F-1")
    t.udp(b"payload", **HEADERS4[case])
    look(t, s)


OPTIONS4 = {
    "nops": "01010101", "end": "00010203", "no-length": "07", "length-0": "0700",
    "length-1": "0701", "too-long": "070b0400", "rr": "070704 00000000 00",
    "rr-2": "070b04 0000000000000000 00", "rr-half": "070b08 0a0900010000 0000",
    "rr-full": "070708 00000000", "rr-low": "070703 00000000", "rr-odd": "070705 00000000",
    "rr-short": "0702", "rr-twice": "070304 070304", "rr-then-bad": "070704 00000000 0709",
    "nop-rr": "01 070704 00000000", "lsrr": "830704 0a090002", "ssrr": "890704 0a090002",
    "lsrr-low": "830703 0a090002", "lsrr-full": "830708 0a090002", "srr-twice": "830304 890304",
    "srr-short": "8302", "ts": "440805 00 00000000", "ts-3": "441005 00 000000000000000000000000",
    "ts-full": "440809 00 00000000", "ts-overflow": "440809 f0 00000000",
    "ts-flow-14": "440809 e0 00000000", "ts-low": "440804 00 00000000",
    "ts-odd": "440806 00 00000000", "ts-addr-short": "440805 01 00000000", "ts-short": "4403",
    "ts-addr": "440c05 01 0000000000000000",
    "ts-addr-2": "441405 01 00000000000000000000000000000000",
    "ts-pre-ours": "441405 03 0a090002 00000000 0a090002 00000000",
    "ts-pre-other": "440c05 03 0a090009 00000000", "ts-pre-many": "440c05 03 e0000001 00000000",
    "ts-pre-zero": "440c05 03 00000001 00000000", "ts-pre-e": "440c05 03 f0000001 00000000",
    "ts-pre-full": "440c0d 03 0a090002 00000000", "ts-flag-2": "440c05 02 0000000000000000",
    "ts-flag-5": "440c05 05 0000000000000000", "ts-twice": "440405 00 440405 00",
    "ts-rr": "440805 00 00000000 070704 00000000", "rr-ts": "070704 00000000 440805 00 00000000",
    "alert": "94040000", "alert-short": "9403 00", "alert-other": "94040001",
    "cipso": "860a00000001 01040000", "cipso-short": "8606 00000001",
    "sec": "820b 0000000000 00000000", "sid": "88040001", "unknown": "5c060102 0304",
    "unknown-rr": "5c040102 070704 00000000",
}  # fmt: skip


def padded(options):
    return options + bytes(-len(options) & 3)


def answers(t, options):
    """What a host says to an echo request, and to a datagram that nobody wants, with these
    options; with what it quotes of the second."""
    t.ip(icmp(t.peer, t.local, 8, 0, 0x12340007, bytes(20), options=options))
    t.settle()
    t.udp(b"payload", 40000, 9, options=options)
    for seen in t.settle():
        if seen.kind in (3, 12):
            header = seen.data[: (seen.data[0] & 15) * 4]
            t.event("call", "quoted", f"{ip_options(header[20:])} of {len(seen.data)}")


@parity("F-1", "F-20", "F-22", v6=False, cases=OPTIONS4, icmp_ratemask=0)
def test_options4(t, case):
    """Options are carried out, echoed, or refused by a parameter problem."""
    s = bound(t)
    t.rule("F-1")
    options = padded(bytes.fromhex(OPTIONS4[case]))
    answers(t, options)
    t.udp(bytes(1000), 40000, 9, options=options)
    t.settle()
    t.udp(b"payload", options=options)
    look(t, s)
    t.udp(b"payload", options=options, dst=bytes((10, 9, 0, 255)))
    look(t, s)


@parity("F-1", v6=False, cases=range(10), icmp_ratemask=0, icmp_msgs_per_sec=100000)
def test_random_options4(t, case):
    rng = random.Random(case)
    t.rule("F-1")
    for _ in range(60):
        options = b""
        for _ in range(rng.randrange(1, 5)):
            kind = rng.choice((0, 1, 7, 68, 131, 137, 134, 148, 130, 33, rng.randrange(256)))
            size = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 20))
            pointer = rng.choice((3, 4, 5, 8, 9, 13, size, size + 1, rng.randrange(40)))
            if kind in (68, 131, 137):  # times are seen in their places; no routes back
                pointer = rng.choice((4, 5, 13, 21) if kind == 68 else (3, 4, 5))
            body = bytes((pointer, rng.choice((0, 1, 3, 0xF0, 0xE1, rng.randrange(256)))))
            body += rng.choice((t.local, t.peer, bytes(4), b"")) + bytes(40)
            options += bytes((kind, size)) + body[: max(size - 2, 0)]
        answers(t, padded(options[: rng.choice((40, 40, 40, rng.randrange(1, 41)))]))


@parity("F-1", v6=False, cases=["trailing", "truncated", "empty", "short"])
def test_length4(t, case):
    s = bound(t)
    t.rule("F-1")
    packet = udp(t.peer, t.local, 40000, 7000, b"payload")
    t.ip({"trailing": packet + b"trailing", "truncated": packet[:-3], "empty": packet[:20],
          "short": packet[:24]}[case])  # fmt: skip
    look(t, s)


@parity("F-1", "E-25", "F-20", v6=False, cases=SOURCES4)
def test_source4(t, case):
    s = bound(t)
    t.rule("F-1")
    t.udp(b"payload", src=bytes(SOURCES4[case]))
    look(t, s)
    t.udp(b"payload", 40000, 9, src=bytes(SOURCES4[case]))
    t.settle()


@parity("F-1", "F-20", "E-18", v6=False, cases=DESTINATIONS4)
def test_destination4(t, case):
    s = bound(t)
    t.rule("F-1")
    t.udp(b"payload", dst=bytes(DESTINATIONS4[case]))
    look(t, s)
    t.udp(b"payload", 40000, 9, dst=bytes(DESTINATIONS4[case]))
    t.settle()


@parity("F-2", v4=False, cases=["good", "length-long", "length-short", "hops-0",
                                "tclass", "no-csum"])  # fmt: skip
def test_header6(t, case):
    s = bound(t)
    t.rule("F-2")
    plant = {"good": {}, "hops-0": {"ttl": 0}, "tclass": {"tos": 0xB8},
             "no-csum": {"csum": 0}}.get(case)  # fmt: skip
    if plant is not None:
        t.udp(b"payload", **plant)
    else:
        packet = bytearray(udp(t.peer, t.local, 40000, 7000, b"payload"))
        packet[5] += 20 if case == "length-long" else -3
        t.ip(bytes(packet))
    look(t, s)


EXTENSIONS6 = {
    "hop-by-hop": (0, b"\x11\0\x01\x04\0\0\0\0"), "destination": (60, b"\x11\0\x01\x04\0\0\0\0"),
    "hop-unknown-skip": (0, b"\x11\0\x3e\x04\0\0\0\0"),
    "hop-unknown-drop": (0, b"\x11\0\x7e\x04\0\0\0\0"),
    "hop-unknown-icmp": (0, b"\x11\0\xbe\x04\0\0\0\0"),
    "hop-unknown-icmp-uni": (0, b"\x11\0\xfe\x04\0\0\0\0"),
    "routing-0": (43, b"\x11\0\0\0\0\0\0\0"), "routing-left": (43, b"\x11\0\0\x01\0\0\0\0"),
    "unknown-next": (0, b"\x99\0\x01\x04\0\0\0\0"), "no-next": (0, b"\x3b\0\x01\x04\0\0\0\0"),
}  # fmt: skip


@parity("F-2", "F-20", v4=False, cases=EXTENSIONS6)
def test_extensions6(t, case):
    s = bound(t)
    t.rule("F-2")
    proto, header = EXTENSIONS6[case]
    inner = udp(t.peer, t.local, 40000, 7000, b"payload")[40:]
    t.ip(ip_packet(t.peer, t.local, proto, header + inner))
    look(t, s)


@parity("F-1", "F-2", "F-20")
def test_unknown_protocol(t):
    t.rule("F-20")
    t.ip(ip_packet(t.peer, t.local, 99, b"whatever"))
    t.settle()


# pieces of a datagram of 24 bytes: (first byte, bytes, more follow)
FRAGMENTS = {
    "in-order": [(0, 8, 1), (8, 8, 1), (16, 16, 0)],
    "reverse": [(16, 16, 0), (8, 8, 1), (0, 8, 1)],
    "duplicate": [(0, 8, 1), (0, 8, 1), (8, 24, 0)],
    "subset": [(0, 16, 1), (8, 8, 1), (16, 16, 0)],
    "superset": [(8, 8, 1), (0, 16, 1), (16, 16, 0)],
    "overlap": [(0, 16, 1), (8, 16, 1), (24, 8, 0)],
    "two-ends": [(16, 16, 0), (8, 16, 0), (0, 8, 1)],
    "beyond-end": [(8, 8, 0), (16, 8, 1), (0, 8, 1)],
    "odd-length": [(0, 9, 1), (8, 24, 0)],
    "empty": [(0, 0, 1), (0, 8, 1), (8, 24, 0)],
    "late-duplicate": [(0, 8, 1), (8, 24, 0), (0, 8, 1)],
    "same-twice": [(0, 32, 0)],
}


def fragments(t, pieces, ident=77, body=None):
    """The packets of these pieces of a datagram."""
    body = udp(t.peer, t.local, 40000, 7000, bytes(range(24)))[40 if t.v6 else 20 :]
    for start, size, more in pieces:
        part = body[start : start + size]
        if t.v6:
            head = bytes((UDP, 0)) + (start | more).to_bytes(2, "big") + ident.to_bytes(4, "big")
            yield ip_packet(t.peer, t.local, 44, head + part)
        else:
            frag = start // 8 | more << 13
            yield ip_packet(t.peer, t.local, UDP, part, ident=ident, frag=frag)


@parity("F-5", "F-6", cases=FRAGMENTS)
def test_reassembly(t, case):
    s = bound(t)
    t.rule("F-5")
    for packet in fragments(t, FRAGMENTS[case]):
        t.ip(packet)
        t.settle()
        s.mem("rmem")
    look(t, s)
    for packet in fragments(t, FRAGMENTS["in-order"], ident=78):
        t.ip(packet)
    look(t, s)


@parity(
    "F-20", "F-22", "F-23", v6=False, cases=["echo", "bad-csum", "unknown", "bcast", "tos", "big"]
)
def test_echo4(t, case):
    t.rule("F-22")
    dst = bytes((10, 9, 0, 255)) if case == "bcast" else t.local
    data = bytes(1400 if case == "big" else 20)
    kind = 42 if case == "unknown" else 8
    extra = {"bad-csum": {"bad": 0x1111}, "tos": {"tos": 0x5C}}.get(case, {})
    t.ip(icmp(t.peer, dst, kind, 0, 0x12340007, data, ttl=3, **extra), f"icmp {kind}")
    t.settle()


@parity("F-22", v4=False, cases=["echo", "bad-csum", "unknown", "unknown-info", "big"])
def test_echo6(t, case):
    t.rule("F-22")
    data = bytes(1400 if case == "big" else 20)
    kind = {"unknown": 99, "unknown-info": 200}.get(case, 128)
    extra = {"bad": 0x1111} if case == "bad-csum" else {}
    t.ip(icmp(t.peer, t.local, kind, 0, 0x12340007, data, ttl=3, **extra), f"icmp {kind}")
    t.settle()


@parity("F-20", cases=["small", "large", "fragment", "icmp-error", "tos"])
def test_port_unreachable(t, case):
    """How much is quoted, and when there is no answer."""
    t.rule("F-20")
    if case == "fragment":
        (packet,) = fragments(t, [(8, 24, 0)])
        t.ip(packet)
    elif case == "icmp-error":
        quote = udp(t.local, t.peer, 7000, 40000, b"x")
        kind, code = (1, 4) if t.v6 else (3, 3)
        t.ip(icmp(t.peer, t.local, kind, code, 0, quote))
    else:
        t.udp(bytes(1400 if case == "large" else 10), 40000, 9, tos=0x28 if case == "tos" else 0)
    t.settle()


@parity("F-21", cases=["same"])
def test_rate_limit(t, case):
    """A burst of six to one destination, then one a second."""
    t.rule("F-21")
    for _ in range(12):
        t.udp(b"x", 40000, 9)
    seen = t.settle()
    t.check(len(seen) == 6, len(seen))
    t.run(1100)
    t.udp(b"x", 40000, 9)
    t.udp(b"x", 40000, 9)
    t.settle()
