"""The UDP header (RFC 768)."""

from __future__ import annotations

from struct import Struct

HEADER = Struct("!HHHH")  # source port, destination port, length, checksum
HEADER_LEN = 8
CSUM_OFFSET = 6


def build(sport: int, dport: int, payload_len: int, csum: int = 0) -> bytes:
    """A header; its length field counts the header too."""
    return HEADER.pack(sport, dport, HEADER_LEN + payload_len, csum)
