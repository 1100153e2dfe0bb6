"""Charges against figures observed on Linux 6.18 (x86-64)."""

from __future__ import annotations

import pytest

from ustack.sock.truesize import TX_OVERHEAD, rx_truesize, tx_truesize


@pytest.mark.parametrize(
    ("ip_len", "charge"),
    [
        (28, 832), (92, 832), (192, 832), (193, 1280), (628, 1280), (640, 1280), (641, 2304),
        (1028, 2304), (1500, 2304), (1664, 2304), (1665, 4352),
        (15928, 16640), (16128, 16932), (65535, 66339),
    ],
)  # fmt: skip
def test_one_packet(ip_len: int, charge: int) -> None:
    assert rx_truesize(ip_len) == charge
    assert tx_truesize(ip_len) == charge


def test_merged_frame_is_charged_by_pages() -> None:
    assert rx_truesize(44 * 1460 + 40, 1460) == 66_368
    assert rx_truesize(2 * 1448 + 52, 1448) == 832 + 4096


def test_receive_buffer_counts() -> None:
    """20000 bytes hold 24 small datagrams or 8 full ones; 212992 hold 92 full ones."""
    assert 20_000 // rx_truesize(128) == 24
    assert 20_000 // rx_truesize(1500) == 8
    assert 212_992 // rx_truesize(1500) == 92
    assert TX_OVERHEAD == 832
