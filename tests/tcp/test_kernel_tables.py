"""Against recordings of a kernel: every segment in every state, the receiver's windows and
ACKs, random segments and reads (see tests.tcp.record)."""

from __future__ import annotations

import json

import pytest

from tests.tcp import receiver_fuzz, segment_table, window_table
from tests.tcp.harness import Bench
from tests.tcp.record import fuzz_keys, key_of, play_fuzz, read

# The kernel appends a segment to whatever queued entry ends where it starts, if its search
# tree leads it past that one before the one that the segment overlaps.
COALESCED = {"ofo 7", "ofo 11", "urg 8"}


def _segments_of(state: str) -> list[segment_table.Case]:
    return [case for case in segment_table.CASES if case[0] == state]


@pytest.mark.parametrize("state", segment_table.STATES)
def test_every_segment_in_every_state(state):
    recorded = read("segments")
    wrong = {}
    for case in _segments_of(state):
        got = json.dumps(segment_table.answer(Bench, case))
        if got != recorded[key_of(case)]:
            wrong[key_of(case)] = f"\n    us     {got}\n    kernel {recorded[key_of(case)]}"
    assert not wrong, "\n".join(f"{key}: {text}" for key, text in wrong.items())


def test_the_recording_is_complete():
    assert read("segments").keys() == {key_of(case) for case in segment_table.CASES}
    assert read("windows").keys() == {key_of(case) for case in window_table.CASES}
    assert read("receiver").keys() == set(fuzz_keys())


def test_b60_b61_b62_b63_windows_and_acks_of_a_stream():
    recorded = read("windows")
    for case in window_table.CASES:
        got = window_table.answer(Bench, case)
        assert got == json.loads(recorded[key_of(case)]), key_of(case)


@pytest.mark.parametrize("mode", receiver_fuzz.MODES)
def test_random_segments_and_reads(mode):
    recorded = read("receiver")
    for key in fuzz_keys():
        if key.split()[0] == mode and key not in COALESCED:
            assert play_fuzz(Bench, key) == recorded[key], key
