"""How long a segment may be: the maximum segment size and its three bounds.

Pure arithmetic. What goes on the wire in a SYN (`advertise_mss`) depends on the
interface alone. What we send (`mtu_to_mss`) is bounded by the path MTU, by the peer's
MSS option, and by half of the largest window the peer ever offered: a sender that fills
a whole small window with one segment would stop and wait for every ACK.

Sources: RFC 9293 section 3.7.1, RFC 6691; Linux `tcp_sync_mss`, `__tcp_mtu_to_mss`,
`tcp_bound_to_half_wnd`, `tcp_xmit_size_goal`, `ipv4_default_advmss`, `ip6_default_advmss`.
"""

from __future__ import annotations

TCP_HEADER_LEN = 20
IPV4_HEADER_LEN = 20
IPV6_HEADER_LEN = 40
TCP_MSS_DEFAULT = 536  # what a peer without the MSS option can take (RFC 9293)
TCP_MIN_MSS = 88  # smallest TCP_MAXSEG
TSTAMP_LEN = 12  # timestamps, aligned
GSO_MAX_SIZE = 65343  # 64 KiB minus room for headers
IPV4_MAX_ADVMSS = 65535 - IPV4_HEADER_LEN - TCP_HEADER_LEN
IPV6_MIN_ADVMSS = 1280 - IPV6_HEADER_LEN - TCP_HEADER_LEN
IPV6_MAXPLEN = 65535


def mtu_to_mss(
    mtu: int,
    net_header_len: int,
    mss_clamp: int,
    tcp_header_len: int = TCP_HEADER_LEN,
    ext_hdr_len: int = 0,
    min_snd_mss: int = 48,
) -> int:
    """Payload of a full segment on a path of this MTU (Linux: `tcp_mtu_to_mss`).

    `mss_clamp` is the peer's MSS option, or the user's TCP_MAXSEG if that is smaller.
    `tcp_header_len` includes the options that every segment carries (timestamps).
    """
    mss = min(mtu - net_header_len - TCP_HEADER_LEN, mss_clamp) - ext_hdr_len
    return max(mss, min_snd_mss) - (tcp_header_len - TCP_HEADER_LEN)


def bound_to_half_wnd(size: int, max_window: int, tcp_header_len: int = TCP_HEADER_LEN) -> int:
    """`size`, but at most half of the largest window ever offered.

    A window up to the default MSS is not halved: there is nothing to gain below that.
    """
    cutoff = max_window >> 1 if max_window > TCP_MSS_DEFAULT else max_window
    if cutoff and size > cutoff:
        return max(cutoff, 68 - tcp_header_len)
    return size


def size_goal(
    mss_now: int,
    max_window: int,
    tcp_header_len: int = TCP_HEADER_LEN,
    gso_max: int = GSO_MAX_SIZE,
) -> int:
    """How large a send-queue entry may grow: a multiple of `mss_now`
    (Linux: `tcp_xmit_size_goal`)."""
    limit = bound_to_half_wnd(gso_max, max_window, tcp_header_len)
    return max(limit // mss_now * mss_now, mss_now)


def default_mss(is_v6: bool) -> int:
    """The MSS of a peer whose SYN does not say (RFC 9293 section 3.7.1)."""
    return IPV6_MIN_ADVMSS if is_v6 else TCP_MSS_DEFAULT


def advertise_mss(mtu: int, is_v6: bool, user_mss: int = 0, min_adv_mss: int = 256) -> int:
    """The MSS option of our SYN; `user_mss` is TCP_MAXSEG, 0 if unset.

    IPv6 advertises 65535, "any size", on links that could carry more than its payload
    length field can say (RFC 8200 section 8.3).
    """
    if is_v6:
        mss = max(mtu - IPV6_HEADER_LEN - TCP_HEADER_LEN, IPV6_MIN_ADVMSS)
        if mss > IPV6_MAXPLEN - TCP_HEADER_LEN:
            mss = IPV6_MAXPLEN
    else:
        mss = min(max(mtu - IPV4_HEADER_LEN - TCP_HEADER_LEN, min_adv_mss), IPV4_MAX_ADVMSS)
    return min(mss, user_mss) if user_mss else mss
