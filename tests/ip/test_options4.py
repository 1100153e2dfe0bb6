"""F-1: the options of received packets, carried out and echoed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.ip.options4 import Compiled, compile_options, echo_options

OURS, SRC, OTHER = bytes((10, 9, 0, 2)), bytes((10, 9, 0, 1)), bytes((10, 9, 0, 9))
NOW = 0x01020304


def is_ours(addr: bytes) -> bool:
    return addr == OURS


def compiled(options: bytes) -> Compiled:
    options += bytes(-len(options) & 3)
    return compile_options(bytearray(20) + options, OURS, NOW, is_ours)


def carried_out(options: str) -> str:
    found = compiled(bytes.fromhex(options))
    assert not found.bad
    return found.header[20:].hex()


def echoed(options: str) -> str | None:
    header = bytes(compiled(bytes.fromhex(options)).header)
    made = echo_options(header, SRC, len(header), OURS, NOW, is_ours)
    return None if made is None else made.hex()


@given(st.binary(max_size=40))
def test_any_options_are_judged_without_an_exception(data: bytes) -> None:
    found = compiled(data)
    header = bytes(found.header)
    assert found.bad == 0 or 20 <= found.bad < len(header)
    answer = echo_options(header, SRC, found.bad or len(header), OURS, NOW, is_ours)
    assert answer is None or (len(answer) % 4 == 0 and len(answer) <= len(header) - 20)


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        ("", None),
        ("00ffffff", None),  # nothing after the end of the list counts
        ("01010101", None),
        ("94040000", None),  # router alert
        ("9403 0000", 1),
        ("86060000 0001 0000", 1),  # a security label that nobody here reads
        ("07", 0),  # no length
        ("0701", 0),  # impossible lengths
        ("0700", 0),
        ("0709 04000000", 0),  # longer than what is there
        ("0707 04 00000000 00", None),
        ("0707 08 00000000 00", None),  # full
        ("0707 03 00000000 00", 2),
        ("0707 05 00000000 00", 2),  # room left, but not for an address
        ("0702 0000", 1),
        ("0703 04 0703 04 0000", 3),  # twice
        ("8307 04 0a000001 00", None),
        ("8907 04 0a000001 00", None),
        ("8307 03 0a000001 00", 2),
        ("8303 04 8903 04 0000", 3),
        ("8307 04 0a000001 0701", 7),  # the fault behind it counts first
        ("4408 05 00 00000000", None),
        ("4408 09 00 00000000", None),  # full, no overflow yet
        ("4408 09 f0 00000000", 3),  # the overflow count overflows
        ("4408 04 00 00000000", 2),
        ("4408 06 00 00000000", 2),
        ("4408 05 01 00000000", 2),  # no room for address and time
        ("440c 05 01 0000000000000000", None),
        ("440c 05 03 0000000000000000", None),
        ("4403 05 00", 1),
    ],
)
def test_the_offset_of_what_is_wrong(options: str, bad: int | None) -> None:
    assert compiled(bytes.fromhex(options)).bad == (0 if bad is None else 20 + bad)


@pytest.mark.parametrize(
    ("options", "routed"),
    [("8307040a00000100", True), ("8907040a00000100", True), ("01010101", False)],
)
def test_source_routes_are_seen(options: str, routed: bool) -> None:
    assert compiled(bytes.fromhex(options)).source_routed is routed


@pytest.mark.parametrize(
    ("options", "received", "answer"),
    [
        ("01010101", "01010101", ""),
        ("00ffffff", "00000000", ""),
        ("0707040000000000", "0707080a09000200", "0707080a09000200"),
        ("070b04 0000000000000000 00", "070b080a0900020000000000", "070b0c0a0900020a09000200"),
        ("440805 00 00000000", "4408090001020304", "4408090001020304"),
        ("440809 00 00000000", "4408091000000000", "4408091000000000"),
        ("440c05 01 0000000000000000", "440c0d010a09000201020304", "440c0d010a09000201020304"),
        ("440c05 03 0a090002 00000000", "440c0d030a09000201020304", "440c0d030a09000201020304"),
        ("440c05 03 0a090009 00000000", "440c05030a09000900000000", "440c05030a09000900000000"),
        ("440405 00 070304 00", "4404051007030400", "07030444040510"),
        ("94040000", "94040000", ""),
    ],
)
def test_carried_out_and_echoed(options: str, received: str, answer: str) -> None:
    assert carried_out(options) == received
    assert echoed(options) == (answer + "00" * (-len(answer) // 2 & 3))


def test_half_a_slot_is_left_for_the_answer() -> None:
    assert echoed("44140501" + "00" * 16) == "44141501" + (OURS + NOW.to_bytes(4, "big")).hex() * 2
    assert echoed("44100501" + "00" * 12) is None
    assert echoed("07090400000000000000 0000") is None


def test_an_error_echoes_the_options_before_it() -> None:
    header = bytes(compiled(bytes.fromhex("07070400000000 8603000000")).header)
    assert compiled(bytes.fromhex("07070400000000 8603000000")).bad == 28
    answer = echo_options(header, SRC, 28, OURS, NOW, is_ours)
    assert answer is not None
    assert answer.hex() == "0707080a090002" + "860300" + "0000"


@pytest.mark.parametrize(
    ("route", "answered"), [("830704", True), ("830708", False), ("830705", True)]
)
def test_no_answers_along_a_source_route(route: str, answered: bool) -> None:
    header = bytes(20) + bytes.fromhex(route) + OTHER + b"\x07"
    assert (echo_options(header, SRC, 27, OURS, NOW, is_ours) is not None) is answered
    back = bytes(20) + bytes.fromhex(route) + SRC + b"\x07"
    assert echo_options(back, SRC, 27, OURS, NOW, is_ours) == b""
