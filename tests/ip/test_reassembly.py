"""F-5, F-6: fragments in, datagrams out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ip.world import PEER4, PEER6, SECOND, US4, US6, World, ip4, ip6
from ustack.ip.fragment import fragments4, fragments6
from ustack.ip.reassembly import ADDED, DUPLICATE, OVERLAP, FragQueue
from ustack.sock.deadlines import NEVER
from ustack.sock.truesize import rx_truesize
from ustack.wire.packet import RxPacket

MF = 0x2000
DATA = bytes(range(256)) * 16


def cut4(data, size=1000, ident=77, tos=0):
    pieces = fragments4(PEER4, US4, 17, ident, 64, tos, memoryview(data), size + 20)
    return [header + bytes(piece) for header, piece in pieces]


def cut6(data, size=1000, ident=77):
    pieces = fragments6(PEER6, US6, 17, ident, 64, 0, 0, memoryview(data), size + 48)
    return [header + bytes(piece) for header, piece in pieces]


def frag(offset, data, more=True, ident=77, tos=0, src=PEER4):
    return ip4(data, src=src, frag=offset // 8 | (MF if more else 0), ident=ident, tos=tos)


def payloads(w):
    return [rx.buf[rx.l4 : rx.end] for rx in w.udp.received]


@pytest.mark.parametrize("cut", [cut4, cut6])
@pytest.mark.parametrize("order", ["in order", "reverse", "twice"])
def test_delivers_one_datagram(cut, order):
    w = World()
    pieces = cut(DATA)
    if order == "reverse":
        pieces.reverse()
    elif order == "twice":
        pieces = [piece for piece in pieces[:-1] for _ in range(2)] + pieces[-1:]
    w.inject(*pieces, now=5)
    assert payloads(w) == [DATA]
    (rx,) = w.udp.received
    header = 20 if cut is cut4 else 48
    sizes = [header + len(DATA[i : i + 1000]) for i in range(0, len(DATA), 1000)]
    assert rx.truesize == sum(map(rx_truesize, sizes))
    assert rx.now == 5
    assert not rx.csum_ok
    assert rx.gso_size == 0
    assert w.host.next_timeout() == NEVER


def test_the_whole_header_is_put_right():
    w = World()
    w.inject(*cut4(DATA, tos=0x20))
    (rx,) = w.udp.received
    assert rx.buf[:20] == ip4(DATA, ident=77, tos=0x20)[:20]
    w.inject(*cut6(DATA))
    assert w.udp.received[1].buf[:40] == ip6(DATA)[:40]


def test_headers_before_the_fragment_header_are_kept():
    w = World()
    options = bytes((44, 0, 1, 4, 0, 0, 0, 0))
    for offset, more in ((0, 1), (8, 0)):
        body = options + bytes((17, 0, 0, offset | more)) + bytes(4) + b"abcdefgh"
        w.inject(ip6(body, proto=60))
    (rx,) = w.udp.received
    assert rx.buf == ip6(bytes((17, 0, 1, 4, 0, 0, 0, 0)) + b"abcdefgh" * 2, proto=60)
    assert rx.buf[rx.l4 : rx.end] == b"abcdefgh" * 2


def test_a_late_duplicate_starts_a_new_queue():
    w = World()
    pieces = cut4(DATA)
    w.inject(*pieces, pieces[0])
    assert payloads(w) == [DATA]


@pytest.mark.parametrize(
    ("fragments", "reason"),
    [
        ([(0, b"a" * 16, True), (8, b"b" * 16, True)], "FRAG_OVERLAP"),
        ([(8, b"a" * 8, True), (0, b"b" * 32, True)], "FRAG_OVERLAP"),
        ([(0, b"a" * 16, True), (8, b"b" * 8, True)], "DUP_FRAG"),
        ([(0, b"", True)], "FRAG_LENGTH"),
        ([(16, b"a" * 8, False), (32, b"a" * 8, False)], "FRAG_LENGTH"),
        ([(16, b"a" * 8, False), (24, b"a" * 8, True)], "FRAG_LENGTH"),
        ([(16, b"a" * 8, True), (8, b"a" * 8, False)], "FRAG_LENGTH"),
    ],
)
def test_fragments_that_do_not_fit(fragments, reason):
    w = World()
    w.inject(*[frag(offset, data, more) for offset, data, more in fragments])
    assert w.drops() == {reason: 1}
    if reason != "DUP_FRAG":  # the datagram is gone, what comes now begins a new one
        w.inject(frag(0, b"x" * 8), frag(8, b"yz", False))
        assert payloads(w) == [b"x" * 8 + b"yz"]


def test_fragments_of_ragged_length_are_trimmed():
    w = World()
    w.inject(frag(0, b"12345678abc"), frag(8, b"rest", False))
    assert payloads(w) == [b"12345678rest"]


def test_a_datagram_beyond_65535_is_discarded():
    w = World()
    w.inject(*[frag(offset, bytes(8184)) for offset in range(0, 65472, 8184)])
    w.inject(frag(65472, bytes(60), False))
    assert not w.udp.received
    assert w.drops() == {"PKT_TOO_BIG": 1}


@pytest.mark.parametrize(
    ("marks", "result"),
    [
        ((0, 0), 0), ((2, 3), 3), ((1, 3), 3), ((1, 2), 1), ((0, 2), None), ((0, 1), None),
        ((0, 3), None), ((3, 3), 3),
    ],
)  # fmt: skip
def test_ecn(marks, result):
    w = World()
    w.inject(frag(0, b"12345678", tos=marks[0]), frag(8, b"x", False, tos=marks[1]))
    if result is None:
        assert w.drops() == {"FRAG_ECN": 1}
        assert not w.udp.received
    else:
        assert w.udp.received[0].tos == result


def test_different_datagrams_do_not_mix():
    w = World()
    w.inject(frag(0, b"a" * 8, ident=1), frag(0, b"b" * 8, ident=2))
    w.inject(frag(8, b"c", False, ident=2), frag(8, b"d", False, ident=1))
    assert payloads(w) == [b"b" * 8 + b"c", b"a" * 8 + b"d"]


def test_ipv6_ecn():
    w = World()
    first, last = cut6(DATA[:16], 8)
    ce = 0x30
    w.inject(first[:1] + bytes((first[1] | ce,)) + first[2:], last[:1] + b"\x20" + last[2:])
    assert w.udp.received[0].tos == 3


def test_ipv6_datagram_beyond_65535_is_discarded():
    w = World()
    options = bytes((44, 0, 1, 4, 0, 0, 0, 0))
    pieces = range(0, 65528, 8184)
    for offset in pieces:
        size = min(8184, 65528 - offset)
        field = offset | (offset + size < 65528)
        header = bytes((17, 0)) + field.to_bytes(2, "big") + bytes(4)
        w.inject(ip6(options + header + bytes(size), proto=60))
    assert not w.udp.received
    assert w.drops() == {"PKT_TOO_BIG": 1}


def test_fragments_of_fragments_are_refused():
    w = World()
    inner = bytes((17, 0, 0, 1)) + bytes(4) + bytes(16)
    for offset in (0, 16):
        field = offset | (offset == 0)
        header = bytes((44, 0)) + field.to_bytes(2, "big") + bytes(4)
        w.inject(ip6(header + inner[offset : offset + 16], proto=44))
    assert w.drops() == {"IPV6_BAD_EXTHDR": 1}
    assert not w.host._input6._reassembly.queues


@pytest.mark.parametrize(("family", "seconds"), [(4, 30), (6, 60)])
def test_timeout_tells_the_sender(family, seconds):
    w = World()
    pieces = cut4(DATA) if family == 4 else cut6(DATA)
    w.inject(*pieces[:2], now=SECOND)
    w.inject(pieces[2], now=20 * SECOND)
    assert w.host.next_timeout() == (1 + seconds) * SECOND
    w.host.handle_timeout((1 + seconds) * SECOND - 1)
    assert not w.dev.take()
    w.host.handle_timeout((1 + seconds) * SECOND)
    (answer,) = w.dev.take()
    if family == 4:
        assert answer[20:22] == b"\x0b\x01"
        assert answer[28:] == pieces[0][:548]
    else:
        assert answer[40:42] == b"\x03\x01"
        assert answer[48:] == pieces[0][:1232]
    assert w.drops() == {"FRAG_REASM_TIMEOUT": 1}
    assert w.host.next_timeout() == NEVER
    w.inject(*pieces[3:], now=40 * SECOND)
    assert not w.udp.received


def test_timeout_without_the_first_fragment_is_silent():
    w = World()
    w.inject(*cut4(DATA)[1:])
    w.host.handle_timeout(30 * SECOND)
    assert w.drops() == {"FRAG_REASM_TIMEOUT": 1}
    assert not w.dev.take()


def test_memory_is_bounded():
    w = World(ipfrag_high_thresh=100_000)
    for ident in range(200):
        w.inject(frag(0, bytes(1000), ident=ident))
    reassembly = w.host._input4._reassembly
    reassembly.check()
    assert 100_000 < reassembly.mem <= 100_000 + rx_truesize(1020)
    assert w.drops() == {"NOMEM": 200 - len(reassembly.queues)}
    w.host.handle_timeout(31 * SECOND)
    assert reassembly.mem == 0
    assert not reassembly._sources


def test_fragments_too_far_apart_start_afresh():
    w = World(ipfrag_max_dist=4)
    w.inject(frag(0, b"a" * 8, ident=1))
    w.inject(*[frag(0, b"x" * 8, ident=ident) for ident in range(2, 7)])
    w.inject(frag(8, b"b", False, ident=1))
    assert w.drops() == {"FRAG_TOO_FAR": 1}
    w.inject(frag(0, b"c" * 8, ident=1))
    assert payloads(w) == [b"c" * 8 + b"b"]


def test_other_sources_do_not_count():
    w = World(ipfrag_max_dist=4)
    w.inject(frag(0, b"a" * 8, ident=1))
    other = bytes((10, 9, 0, 9))
    w.inject(*[frag(0, b"x" * 8, ident=ident, src=other) for ident in range(2, 9)])
    w.inject(frag(8, b"b", False, ident=1))
    assert payloads(w) == [b"a" * 8 + b"b"]


class Model:
    """The naive idea of the same: a list of runs, searched from end to end."""

    def __init__(self):
        self.runs = []

    def insert(self, offset, data):
        end = offset + len(data)
        last = max(self.runs, default=None, key=lambda run: run[0])
        touching = [run for run in self.runs if offset < run[0] + len(run[1]) and run[0] < end]
        if touching:
            start, held = touching[0]
            inside = len(touching) == 1 and start <= offset and end <= start + len(held)
            return DUPLICATE if inside else OVERLAP
        if last is not None and last[0] + len(last[1]) == offset:
            last[1] += data
        else:
            self.runs.append([offset, bytearray(data)])
        return ADDED

    def data(self):
        return b"".join(bytes(held) for _, held in sorted(self.runs))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=30))
def test_queue_against_a_naive_model(fragments):
    queue, model = FragQueue((b"", b"", 0, 0), 0), Model()
    for serial, (slot, slots) in enumerate(fragments):
        data = bytes((serial,)) * (slots * 8)
        assert queue.set_length(slot * 8 + len(data), True)
        verdict = queue.insert(slot * 8, data)
        assert verdict == model.insert(slot * 8, data)
        queue.check()
        assert queue.data() == model.data()


@given(st.data())
def test_any_order_with_duplicates_gives_the_datagram_back(data):
    payload = data.draw(st.binary(min_size=1, max_size=400))
    size = data.draw(st.sampled_from([8, 16, 40]))
    pieces = cut4(payload, size)
    order = data.draw(st.permutations(pieces))
    again = data.draw(st.lists(st.sampled_from(order[:-1]), max_size=5)) if order[1:] else []
    w = World()
    w.inject(*order[:-1], *again, order[-1])
    assert payloads(w) == [payload]
    w.host._input4._reassembly.check()


def test_charge_of_small_fragments_is_that_of_the_first():
    """They are copied behind it while there is room."""
    queue = FragQueue((b"", b"", 0, 0), 0)
    body = bytes(24)
    queue.first = RxPacket(bytes(28), 0, 20, 28, 17, b"", b"", 0, 64, 0, False, 1, 0)
    queue.set_length(24, False)
    for start in (0, 8, 16):
        queue.insert(start, body[start : start + 8])
    assert queue.charge() == 832
    queue = FragQueue((b"", b"", 0, 0), 0)
    queue.first = RxPacket(bytes(1500), 0, 20, 1500, 17, b"", b"", 0, 64, 0, False, 1, 0)
    queue.set_length(3008, False)
    for start, size in ((0, 1480), (1480, 1480), (2960, 48)):
        queue.insert(start, bytes(size))
    assert queue.charge() == 2304 + 2304 + 832
