"""Whatever a peer does, the sender's books stay right: random programs of writes, ACKs,
SACKs, windows and time, checked after every step."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.tcp.harness import Bench, check_counters
from ustack.sock.sock import MSG_EOR, MSG_MORE, MSG_OOB
from ustack.tcp.pmtu import simple_retransmit
from ustack.tcp.state import CLOSE
from ustack.wire.packet import DROPPED, QUEUED, TAKEN

TCP_NODELAY, TCP_CORK = 1, 3


class Sender(RuleBasedStateMachine):
    """A connected socket; the peer acknowledges what it likes."""

    sack = True

    @initialize(
        mss=st.sampled_from([1460, 536, 100]),
        ts=st.booleans(),
        wscale=st.sampled_from([None, 7]),
        cc=st.sampled_from(["reno", "cubic"]),
    )
    def connect(self, mss: int, ts: bool, wscale: int | None, cc: str) -> None:
        self.b = Bench.connected(
            mss=mss, ts=ts, wscale=wscale, window=0xFFFF, cc=cc, sack=self.sack, rtt=10
        )
        self.sk = self.b.sk

    @property
    def una(self) -> int:
        return self.sk.snd_una - self.sk.iss

    @property
    def nxt(self) -> int:
        return self.sk.snd_nxt - self.sk.iss

    def edge(self, fraction: float) -> int:
        """A place between snd_una and snd_nxt."""
        return self.una + round((self.nxt - self.una) * fraction)

    def inject(self, **fields) -> None:
        if self.sk.state != CLOSE:
            self.b.inject(**fields)
        self.b.take()

    @rule(
        size=st.one_of(st.integers(1, 300), st.integers(1000, 20000), st.just(100_000)),
        flags=st.sampled_from([0, 0, 0, MSG_MORE, MSG_EOR, MSG_OOB]),
    )
    def send(self, size: int, flags: int) -> None:
        try:
            self.b.send(size, flags)
        except (BlockingIOError, BrokenPipeError, TimeoutError):
            self.b.step()

    @rule(fraction=st.floats(0, 1), win=st.sampled_from([None, None, None, 0, 1, 50, 700, 5000]))
    def ack(self, fraction: float, win: int | None) -> None:
        self.inject(ack=self.edge(fraction), win=win)

    @rule()
    def ack_all(self) -> None:
        self.inject()

    @rule(parts=st.lists(st.floats(0, 1), min_size=3, max_size=7))
    def ack_with_sacks(self, parts: list[float]) -> None:
        edges = sorted({self.edge(part) for part in parts})
        blocks = list(zip(edges[1::2], edges[2::2], strict=False))
        self.inject(ack=edges[0], sacks=blocks[:3])

    @rule(index=st.integers(0, 5), count=st.integers(1, 3))
    def sack_whole_entries(self, index: int, count: int) -> None:
        """What an honest receiver reports: whole segments that are missing none."""
        entries = list(self.sk.rtx_queue)
        if index == 0 or index + count > len(entries):
            return
        left = entries[index].seq - self.sk.iss
        right = entries[index + count - 1].end_seq - self.sk.iss
        self.inject(ack=self.una, sacks=[(left, right)])

    @rule(left=st.floats(-0.5, 1.2), size=st.integers(-100, 5000))
    def odd_sack(self, left: float, size: int) -> None:
        start = self.edge(left)
        self.inject(ack=self.una, sacks=[(start, start + size)])

    @rule(back=st.integers(1, 3000))
    def dsack(self, back: int) -> None:
        self.inject(ack=self.una, sacks=[(self.una - back, self.una)])

    @rule(back=st.integers(1, 5000), left=st.floats(0, 1), size=st.integers(1, 5000))
    def old_ack(self, back: int, left: float, size: int) -> None:
        start = self.edge(left)
        self.inject(ack=max(self.una - back, 1), sacks=[(start, start + size)])

    @rule(size=st.integers(1, 3000), gap=st.sampled_from([0, 0, 500]))
    def peer_data(self, size: int, gap: int) -> None:
        if gap:
            self.inject(seq=self.b.peer_seq + gap, data=b"d" * size, ack=self.una)
        else:
            self.inject(data=b"d" * size, ack=self.una)

    @rule()
    def dup_ack(self) -> None:
        self.inject(ack=self.una)

    @rule(ms=st.sampled_from([0.1, 1, 3, 12, 50, 210, 1000]))
    def wait(self, ms: float) -> None:
        self.b.run(ms)
        self.b.take()

    @rule(name=st.sampled_from([TCP_NODELAY, TCP_CORK]), value=st.integers(0, 1))
    def option(self, name: int, value: int) -> None:
        self.b.setopt(6, name, value)

    @rule(mtu=st.sampled_from([1500, 1000, 600]))
    def path(self, mtu: int) -> None:
        """The path MTU changes, as after ICMP."""
        dst = self.sk.dst
        assert dst is not None
        smaller = mtu < dst.mtu(self.b.now)
        dst.pmtu, dst.pmtu_expires = mtu, 1 << 61
        if smaller and self.sk.state != CLOSE:
            simple_retransmit(self.sk, self.b.now)
        self.b.step()

    @rule(verdict=st.sampled_from([TAKEN, TAKEN, QUEUED, DROPPED]))
    def device(self, verdict: int) -> None:
        self.b.dev.verdict = verdict

    @rule(count=st.integers(1, 5))
    def drain(self, count: int) -> None:
        self.b.drain(count)

    @rule()
    def shut(self) -> None:
        if self.sk.state != CLOSE and self.sk.write_seq - self.sk.iss > 200_000:
            self.b.shutdown()

    @invariant()
    def books(self) -> None:
        if hasattr(self, "sk"):
            check_counters(self.sk)


class RenoSender(Sender):
    """The same without SACK."""

    sack = False


@pytest.mark.parametrize("machine", [Sender, RenoSender])
def test_counters_stay_exact(machine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
    machine.TestCase("runTest").runTest()
