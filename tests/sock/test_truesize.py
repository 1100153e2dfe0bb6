"""Charges against figures observed on Linux 6.18 (x86-64)."""

from __future__ import annotations

import pytest

from ustack.sock.truesize import TX_OVERHEAD, rx_truesize, tx_truesize


@pytest.mark.parametrize(
    ("ip_len", "charge"),
    [
        (28, 832), (92, 832), (192, 832), (193, 1280), (628, 1280), (640, 1280), (641, 2304),
        (1028, 2304), (1500, 2304), (1664, 2304), (1665, 4352),
        (3928, 8448), (6028, 8448), (8028, 12544), (9028, 12544), (12028, 16640), (16028, 20736),
        (30028, 33024), (60028, 61696),
    ],
)  # fmt: skip
def test_one_packet_in(ip_len: int, charge: int) -> None:
    assert rx_truesize(ip_len) == charge


@pytest.mark.parametrize(
    ("v6", "ip_len", "charge"),
    [
        (False, 28, 832), (False, 225, 832), (False, 226, 1280), (False, 673, 1280),
        (False, 674, 2304), (False, 1500, 2304), (False, 1697, 2304), (False, 1698, 4352),
        (False, 3746, 8448), (False, 7842, 16640), (False, 16032, 16640), (False, 16033, 16837),
        (False, 16128, 16932), (False, 65535, 66339),
        (True, 48, 832), (True, 232, 832), (True, 233, 1280), (True, 680, 1280),
        (True, 681, 2304), (True, 1704, 2304), (True, 1705, 4352), (True, 3753, 8448),
        (True, 7849, 16640), (True, 16039, 16640), (True, 16040, 16824),
    ],
)  # fmt: skip
def test_one_packet_out(v6: bool, ip_len: int, charge: int) -> None:
    assert tx_truesize(ip_len, v6) == charge


def test_merged_frame_is_charged_by_pages() -> None:
    assert rx_truesize(44 * 1460 + 40, 1460) == 66_368
    assert rx_truesize(2 * 1448 + 52, 1448) == 832 + 4096


def test_receive_buffer_counts() -> None:
    """20000 bytes hold 24 small datagrams or 8 full ones; 212992 hold 92 full ones."""
    assert 20_000 // rx_truesize(128) == 24
    assert 20_000 // rx_truesize(1500) == 8
    assert 212_992 // rx_truesize(1500) == 92
    assert TX_OVERHEAD == 832
