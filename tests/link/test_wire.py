from hypothesis import given
from hypothesis import strategies as st

from ustack.link.wire import Wire
from ustack.seeds import Seeds

MS = 1_000_000


def wire(seed=1, **settings):
    return Wire(Seeds(seed).stream("wire"), **settings)


def body(i, size=100):
    return i.to_bytes(4, "big") * (size // 4)


def test_plain_wire_only_delays():
    w = wire(delay=5 * MS)
    assert w.send(b"a", 7) == [(7 + 5 * MS, b"a")]


def test_rate_serialises():
    w = wire(rate=8_000_000, delay=MS)  # a byte a microsecond
    arrivals = [w.send(body(i, 1000), 0) for i in range(3)]
    assert [a[0][0] for a in arrivals] == [2 * MS, 3 * MS, 4 * MS]
    assert w.send(body(9, 1000), 10 * MS)[0][0] == 12 * MS


def test_queue_limit():
    w = wire(rate=8_000_000, limit=2)
    assert [bool(w.send(body(i, 1000), 0)) for i in range(4)] == [True, True, False, False]
    assert w.send(body(5, 1000), MS)
    assert w.stats.overflowed == 2


def test_jitter_keeps_the_order():
    w = wire(delay=MS, jitter=50 * MS)
    arrivals = [w.send(b"x", i * 1000)[0][0] for i in range(200)]
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) > 1


def test_reorder_lets_others_overtake():
    w = wire(delay=MS, reorder=0.1)
    got = sorted((at, i) for i in range(300) for at, _ in w.send(b"x", i * MS))
    order = [i for _, i in got]
    assert order != sorted(order)
    assert sorted(order) == list(range(300))
    assert w.stats.reordered > 10


def test_loss_and_duplication_are_about_what_was_asked():
    w = wire(loss=0.1, duplicate=0.05)
    arrived = sum(len(w.send(b"x", i)) for i in range(5000))
    s = w.stats
    assert 400 < s.lost < 600
    assert 170 < s.duplicated < 290
    assert arrived == s.delivered == s.sent - s.lost + s.duplicated


def test_one_setting_does_not_move_another_decision():
    def lost(**settings):
        w = wire(loss=0.1, **settings)
        return [i for i in range(500) if not w.send(b"x", i)]

    assert lost() == lost(duplicate=0.5, reorder=0.5, jitter=MS)


@given(
    st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, MS), st.integers(4, 1500)), max_size=50),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_same_seed_same_deliveries_and_conservation(seed, packets, loss, dup, reorder):
    def run():
        w = wire(
            seed, rate=10**8, delay=MS, jitter=MS, limit=5, loss=loss, duplicate=dup,
            reorder=reorder,
        )  # fmt: skip
        now, out = 0, []
        for i, (pause, size) in enumerate(packets):
            now += pause
            got = w.send(body(i, size), now)
            assert all(at >= now + MS for at, _ in got)
            out += got
        s = w.stats
        assert s.delivered == len(out)
        assert s.sent == s.lost + s.overflowed + s.delivered - s.duplicated == len(packets)
        return out

    assert run() == run()
