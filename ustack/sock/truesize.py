"""What a packet costs in buffer space (Linux: `skb->truesize`, `SKB_TRUESIZE`).

Linux charges a socket for the memory behind a packet: its descriptor, the slab bucket
its bytes landed in, and the shared info at the tail. Nothing here allocates that way, but
everything a program can see of buffer limits (where EAGAIN starts, which datagram is
dropped, SO_MEMINFO) depends on the charge, so it is computed as on Linux 6.18, x86-64:

- a TCP send entry is its payload plus `TX_OVERHEAD`, whatever it carries;
- a received packet of IP length L is a 256-byte descriptor plus its bucket: 576 for small
  heads (L + 64 <= 256), else the power of two that holds L + 64 of headroom + 320 of tail,
  or beyond 8 KiB the pages that do;
- one on its way out the same, but with 31 bytes of headroom and alignment over IPv4, 24 over
  IPv6, rounded up to cache lines; one too long for a linear buffer, or that is to be cut into
  segments, is a small head and its payload in pages;
- a frame merged from several segments sits in pages: 832 and 4096 for each started 4 KiB;
- what a socket sends to this host costs its receiver what it cost the sender.
"""

from __future__ import annotations

from errno import EMSGSIZE

from ustack.sock.errors import error

TX_OVERHEAD = 832  # a descriptor and a small head

_DESCRIPTOR = 256
_SMALL = 256  # bytes in a small head
_CACHE_LINE, _PAGE, _LARGEST_BUCKET = 64, 4096, 8192
_HEADROOM, _TAIL = 64, 320
_ROOM4, _ROOM6 = 31, 24  # beside the packet, on its way out
_MAX_LINEAR = 16_064  # bytes in one buffer, room included (Linux: SKB_MAX_ALLOC)
# of a received packet's charge, what its buffer cannot hold: descriptor, headroom, tail
BUFFER_OVERHEAD = _DESCRIPTOR + _HEADROOM + _TAIL
_UDP4_HEADERS, _UDP6_HEADERS = 28, 48
_IP6_HEADER, _FRAGMENT_HEADER = 40, 8
# heads and the bytes in them; what precedes an IPv4 packet there
_HEADS = (
    *(((1 << n) + _DESCRIPTOR, (1 << n) - _TAIL) for n in range(14, 9, -1)), (TX_OVERHEAD, _SMALL),
)  # fmt: skip
_LINK = 16
_MERGED_HEADERS = 40  # the least that IP and TCP headers take off a merged frame's pages


def rx_truesize(ip_len: int, gso_size: int = 0) -> int:
    """Charge for a received packet of `ip_len` bytes, headers included; `gso_size` as in
    `wire.packet.Frame`."""
    if gso_size:
        return TX_OVERHEAD + (ip_len - _MERGED_HEADERS + 4095 & ~4095)
    return _linear(ip_len + _HEADROOM)


def _linear(size: int) -> int:
    """A descriptor and a buffer that holds `size` bytes."""
    if size <= _SMALL:
        return TX_OVERHEAD
    size += _TAIL
    if size > _LARGEST_BUCKET:
        return _DESCRIPTOR + (size + _PAGE - 1 & -_PAGE)
    return _DESCRIPTOR + (1 << (size - 1).bit_length())


def datagram_truesize(hlen: int, length: int, mtu: int) -> tuple[int, int]:
    """(charge of a datagram, charge of all its fragments but the last): `length` bytes behind
    IP headers of `hlen` bytes. EMSGSIZE if `mtu` has no room for a fragment."""
    v6 = hlen == _IP6_HEADER
    if hlen + length <= mtu:
        return tx_truesize(hlen + length, v6), 0
    piece = mtu - hlen - (_FRAGMENT_HEADER if v6 else 0) & ~7
    if piece <= 0:
        raise error(EMSGSIZE)
    full, last = divmod(length, piece)
    if not last or (not v6 and full and hlen + piece + last <= mtu):
        full, last = full - 1, piece + last
    before = full * tx_truesize(hlen + piece, v6)
    return before + tx_truesize(hlen + last, v6), before


def tx_truesize(ip_len: int, v6: bool = False) -> int:
    """Charge for one datagram, or one fragment, of `ip_len` bytes on its way out, without the
    Fragment header of IPv6."""
    size = ip_len + (_ROOM6 if v6 else _ROOM4)
    if size <= _SMALL:
        return TX_OVERHEAD
    if size >= _MAX_LINEAR:
        return TX_OVERHEAD + ip_len - (_UDP6_HEADERS if v6 else _UDP4_HEADERS)
    return _DESCRIPTOR + (1 << ((size + _CACHE_LINE - 1 & -_CACHE_LINE) + _TAIL - 1).bit_length())


def segmented_truesize(length: int) -> int:
    """Charge for `length` bytes of payload that are to be cut into segments, and for each
    segment that a receiver on this host gets of them."""
    return TX_OVERHEAD + length


def condensed_truesize(truesize: int, ip_len: int, v6: bool) -> int:
    """What is left of the charge of a datagram of this host when a queue that is half full
    makes it smaller: what it has in pages goes into the tail of its head if that has room
    (Linux: `skb_condense`)."""
    headers = _UDP6_HEADERS if v6 else _UDP4_HEADERS
    segment = truesize == TX_OVERHEAD + ip_len - headers
    # of all heads that it may have, the largest: it has the least in pages
    for head, size in _HEADS[-1:] if segment else _HEADS:
        pages = truesize - head
        linear = ip_len - pages
        if pages > 0 and linear >= 0 and tx_truesize(linear, v6) == head:
            used = linear + (_ROOM6 if v6 else _LINK)
            return head if pages <= size - used else truesize
    return truesize
