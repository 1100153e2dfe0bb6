import pytest

from ustack.seeds import Seeds
from ustack.sim.loop import SECOND, Simulator, Stalled
from ustack.sock.deadlines import NEVER
from ustack.sock.wait import POLLIN, Interrupted, Wait, WaitQueue


@pytest.fixture
def sim():
    return Simulator(Seeds(1))


class Mailbox:
    """A blocking call in miniature: receive up to `want` items before the deadline."""

    def __init__(self, sim):
        self.sim = sim
        self.queue = WaitQueue()
        self.items = []

    def put(self, item):
        self.items.append(item)
        self.queue.wake(POLLIN)

    def recv(self, want=1, deadline=None, exclusive=False):
        got = []
        now = self.sim.now
        while True:
            while self.items and len(got) < want:
                got.append(self.items.pop(0))
            if len(got) == want or (deadline is not None and now >= deadline):
                return got
            try:
                now = yield Wait(self.queue, deadline, exclusive)
            except Interrupted:
                if got:
                    return got
                raise


def test_events_run_in_order_of_time_then_of_scheduling(sim):
    ran = []
    for at, name in ((5, "b"), (3, "a"), (5, "c")):
        sim.at(at, lambda at=at, name=name: ran.append((at, sim.now, name)))
    sim.at(4, lambda: sim.at(1, lambda: ran.append((4, sim.now, "late"))))
    sim.run_until_idle()
    assert ran == [(3, 3, "a"), (4, 4, "late"), (5, 5, "b"), (5, 5, "c")]


def test_cancelled_events_neither_run_nor_move_the_time(sim):
    sim.at(1, lambda: None)
    sim.cancel(event := sim.at(9, lambda: pytest.fail("cancelled")))
    sim.run_until_idle()
    sim.cancel(event)
    assert (sim.now, sim.next_event()) == (1, NEVER)


def test_the_heap_does_not_fill_with_cancelled_events(sim):
    kept = sim.at(5 * SECOND, lambda: None)
    for i in range(10_000):
        sim.cancel(sim.at(SECOND + i, lambda: None))
    assert len(sim._heap) < 200
    assert kept.run
    sim.run_until_idle()
    assert sim.now == 5 * SECOND


def test_run_until_a_time(sim):
    ran = []
    for at in (1, 2, 3):
        sim.at(at, lambda at=at: ran.append(at))
    sim.run_until(2)
    assert (ran, sim.now) == ([1, 2], 2)
    sim.run_until(2)
    sim.run_until(10)
    assert (ran, sim.now) == ([1, 2, 3], 10)


def test_run_until_true(sim):
    ran = []
    for at in range(5):
        sim.at(at, lambda at=at: ran.append(at))
    sim.run_until_true(lambda: len(ran) == 3)
    assert sim.now == 2
    with pytest.raises(Stalled):
        sim.run_until_true(lambda: False, until=3)
    with pytest.raises(Stalled):
        sim.run_until_true(lambda: False)


def test_event_bound(sim):
    def again():
        sim.at(sim.now, again)

    again()
    with pytest.raises(Stalled, match="event limit"):
        sim.run_until(SECOND, max_events=100)


def test_task_sleeps_and_returns(sim):
    def app():
        yield from sim.sleep(3)
        yield from sim.sleep_until(2)
        value = yield from sim.call("at once")
        return sim.now, value

    assert sim.run_task(app()) == (3, "at once")


def test_task_is_woken_at_the_current_time(sim):
    box = Mailbox(sim)
    task = sim.spawn(sim.call(box.recv()))
    sim.at(7, lambda: box.put("x"))
    sim.run_until(6)
    assert not task.done
    with pytest.raises(RuntimeError):
        task.result()
    sim.run_until_idle()
    assert (task.result(), sim.now, box.queue.waiters) == (["x"], 7, [])


def test_deadline_ends_the_wait(sim):
    box = Mailbox(sim)
    assert sim.run_task(box.recv(2, deadline=50)) == []
    assert sim.now == 50
    box.put("x")
    sim.at(60, lambda: box.put("y"))
    assert sim.run_task(box.recv(2, deadline=10**15)) == ["x", "y"]
    assert (sim.now, sim.next_event()) == (60, NEVER)


def test_wake_never_runs_the_task_inside(sim):
    box = Mailbox(sim)
    task = sim.spawn(box.recv())
    sim.run_until_idle()
    box.put("x")
    assert not task.done
    assert task.wake(0) is False  # runnable already
    sim.run_until_idle()
    assert task.done


def test_exclusive_waiters_take_one_wake_up_each(sim):
    box = Mailbox(sim)
    tasks = [sim.spawn(box.recv(exclusive=True), f"t{i}") for i in range(3)]
    sim.run_until_idle()
    box.put(1)
    box.put(2)
    sim.run_until_idle()
    assert [t.done for t in tasks] == [True, True, False]
    assert [t.result() for t in tasks[:2]] == [[1], [2]]
    assert repr(tasks[2]) == "<Task t2 running>"


def test_join(sim):
    box = Mailbox(sim)

    def child():
        items = yield from box.recv()
        yield from sim.sleep(5)
        return items

    def parent():
        task = sim.spawn(child())
        yield from sim.sleep(10)
        box.put("x")
        first = yield from task.join()
        again = yield from task.join()
        return first, again, sim.now

    assert sim.run_task(parent()) == (["x"], ["x"], 15)


def test_cancel_with_nothing_transferred(sim):
    box = Mailbox(sim)
    task = sim.spawn(box.recv())
    sim.run_until_idle()
    task.cancel()
    sim.run_until_idle()
    assert (task.done, task.cancelled, box.queue.waiters) == (True, True, [])
    with pytest.raises(Interrupted):
        task.result()
    task.cancel()
    sim.run_until_idle()


def test_cancel_returns_what_was_transferred(sim):
    box = Mailbox(sim)

    def app():
        got = yield from box.recv(3)
        yield from sim.sleep(5)
        return got, sim.now

    task = sim.spawn(app())
    box.put("x")
    sim.run_until_idle()
    task.cancel()
    sim.run_until_idle()
    assert task.result() == (["x"], 5)


def test_cancel_before_the_start(sim):
    ran = []

    def app():
        ran.append(1)
        yield from sim.sleep(1)

    task = sim.spawn(app())
    task.cancel()
    sim.run_until_idle()
    assert (task.cancelled, ran) == (True, [])


def test_cancel_and_wake_at_once(sim):
    box = Mailbox(sim)
    task = sim.spawn(box.recv())
    sim.run_until_idle()
    box.put("x")
    task.cancel()
    sim.run_until_idle()
    assert task.cancelled
    assert box.items == ["x"]  # not lost


def test_an_exception_stops_the_run(sim):
    def app():
        yield from sim.sleep(1)
        raise ZeroDivisionError

    sim.spawn(app())
    with pytest.raises(ZeroDivisionError):
        sim.run_until_idle()
