"""What a packet costs in buffer space (Linux: `skb->truesize`, `SKB_TRUESIZE`).

Linux charges a socket for the memory behind a packet: its descriptor, the slab bucket
its bytes landed in, and the shared info at the tail. Nothing here allocates that way, but
everything a program can see of buffer limits (where EAGAIN starts, which datagram is
dropped, SO_MEMINFO) depends on the charge, so it is computed as on Linux 6.18, x86-64:

- a TCP send entry is its payload plus `TX_OVERHEAD`, whatever it carries;
- a packet of IP length L is a 256-byte descriptor plus its bucket: 576 for small heads
  (L + 64 <= 256), else the power of two that holds L + 64 of headroom + 320 of tail; one
  too long for a linear buffer is a small head and its payload in pages;
- a frame merged from several segments sits in pages: 832 and 4096 for each started 4 KiB.
"""

from __future__ import annotations

from errno import EMSGSIZE

from ustack.sock.errors import error

TX_OVERHEAD = 832  # a descriptor and a small head

_DESCRIPTOR = 256
_SMALL_LIMIT = 256 - 64  # largest IP length in a small head
_HEAD_AND_TAIL = 64 + 320
_LINEAR_LIMIT = 16_000  # largest IP length in one buffer (Linux: SKB_MAX_ALLOC)
_UDP_HEADERS = 28
# of a received packet's charge, what its buffer cannot hold: descriptor, headroom, tail
BUFFER_OVERHEAD = _DESCRIPTOR + _HEAD_AND_TAIL
_IP6_HEADER, _FRAGMENT_HEADER = 40, 8
_MERGED_HEADERS = 40  # the least that IP and TCP headers take off a merged frame's pages


def rx_truesize(ip_len: int, gso_size: int = 0) -> int:
    """Charge for a received packet of `ip_len` bytes, headers included; `gso_size` as in
    `wire.packet.Frame`."""
    if gso_size:
        return TX_OVERHEAD + (ip_len - _MERGED_HEADERS + 4095 & ~4095)
    return TX_OVERHEAD if ip_len <= _SMALL_LIMIT else tx_truesize(ip_len)


def datagram_truesize(hlen: int, length: int, mtu: int) -> tuple[int, int]:
    """(charge of a datagram, charge of all its fragments but the last): `length` bytes behind
    IP headers of `hlen` bytes. EMSGSIZE if `mtu` has no room for a fragment."""
    if hlen + length <= mtu:
        return tx_truesize(hlen + length), 0
    if hlen == _IP6_HEADER:
        hlen += _FRAGMENT_HEADER
    piece = mtu - hlen & ~7
    if piece <= 0:
        raise error(EMSGSIZE)
    full, last = divmod(length, piece)
    if not last:
        full, last = full - 1, piece
    before = full * tx_truesize(hlen + piece)
    return before + tx_truesize(hlen + last), before


def tx_truesize(ip_len: int) -> int:
    """Charge for one datagram, or one fragment, of `ip_len` bytes on its way out."""
    if ip_len <= _SMALL_LIMIT:
        return TX_OVERHEAD
    if ip_len > _LINEAR_LIMIT:
        return TX_OVERHEAD + ip_len - _UDP_HEADERS
    return _DESCRIPTOR + (1 << (ip_len + _HEAD_AND_TAIL - 1).bit_length())
