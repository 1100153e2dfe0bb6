"""ICMP errors about our segments.

An error must quote a sequence number that is in flight, or anybody could send one. It
ends a connection attempt at once; an established connection only remembers it, as the
reason to give if it later times out (RFC 1122 section 4.2.3.9), unless IP_RECVERR asked
to be told. "Fragmentation needed" lowers the path MTU, and what is too long is cut and
sent again.

Sources: RFC 5927, Linux `tcp_v4_err`, `tcp_v4_mtu_reduced`; rules A-42, C-17, E-38, F-11.
"""

from __future__ import annotations

from errno import EMSGSIZE
from typing import TYPE_CHECKING

from ustack.sock.error_queue import queue_icmp
from ustack.sock.icmp import IcmpError, icmp_err_convert
from ustack.sock.sock import PMTUDISC_DONT, PMTUDISC_INTERFACE, PMTUDISC_OMIT
from ustack.tcp.lifecycle import done_with_error
from ustack.tcp.listen import Request
from ustack.tcp.mtu_probe import mtu_to_mss
from ustack.tcp.output import reroute, sync_mss
from ustack.tcp.pmtu import simple_retransmit
from ustack.tcp.sock import PENDING_RETRANS, TcpSock
from ustack.tcp.state import CLOSE, LISTEN, SYN_RECV, SYN_SENT
from ustack.tcp.timeouts import retransmit_timer
from ustack.tcp.timers import reset_xmit_timer, rto_ns
from ustack.wire import icmpv6
from ustack.wire.icmp import (
    DEST_UNREACH,
    HOST_UNREACH,
    NET_UNREACH,
    PARAM_PROBLEM,
    TIME_EXCEEDED,
)
from ustack.wire.seq import unwrap

if TYPE_CHECKING:
    from ustack.tcp.host import TcpHost


def icmp_err(host: TcpHost, e: IcmpError) -> None:
    """Find the owner by the quoted ports and let it know."""
    quoted = e.quoted
    if len(quoted) < 8:
        host.net.mib.inc("IcmpInErrors")
        return
    key = e.dst + e.src + bytes(quoted[2:4]) + bytes(quoted[0:2])
    owner = host.established.get(key)
    seq = int.from_bytes(quoted[4:8], "big")
    errno, fatal = icmp_err_convert(e.version, e.type, e.code)
    if isinstance(owner, TcpSock):
        _sock_err(owner, e, errno, seq)
    elif isinstance(owner, Request):
        if seq != owner.iss & 0xFFFFFFFF:
            host.net.mib.inc("TcpExtOutOfWindowIcmps")
        elif fatal if e.version == 6 else _aborts_request(e):
            host.net.mib.inc("TcpExtListenDrops")
            owner.forget()
    elif owner is None:
        host.net.mib.inc("Icmp6InErrors" if e.version == 6 else "IcmpInErrors")


def _aborts_request(e: IcmpError) -> bool:
    """IPv4: what ends a half-open request (`tcp_v4_err`). A port cannot be unreachable that
    has just sent a SYN."""
    if e.type == DEST_UNREACH:
        return e.code in (NET_UNREACH, HOST_UNREACH)
    return e.type in (TIME_EXCEEDED, PARAM_PROBLEM)


def _sock_err(sk: TcpSock, e: IcmpError, errno: int, raw_seq: int) -> None:
    if sk.state in (CLOSE, LISTEN) or not errno:
        return
    seq = unwrap(raw_seq, sk.snd_una)
    if not sk.snd_una <= seq <= sk.snd_nxt:
        sk.net.mib.inc("TcpExtOutOfWindowIcmps")
        return
    if _may_revert(sk, e):
        _revert_rto(sk, seq, e.now)
    if errno == EMSGSIZE:
        discovery = sk.pmtudisc6 if e.version == 6 else sk.pmtudisc
        if discovery not in (PMTUDISC_DONT, PMTUDISC_INTERFACE, PMTUDISC_OMIT):
            _mtu_reduced(sk, e)
        return
    if sk.state in (SYN_SENT, SYN_RECV):
        if e.version == 4 or sk.recverr6:  # IPv4 queues it without being asked
            queue_icmp(sk, e, errno, sk.dport, bytes(e.quoted))
        done_with_error(sk, errno, e.now)
    elif sk.recverr6 if e.version == 6 else sk.recverr:
        sk.err = errno
        sk.error_report()
    else:
        sk.err_soft = errno


def _may_revert(sk: TcpSock, e: IcmpError) -> bool:
    """Does the error say that the way was gone, not that it was crowded? (RFC 6069)"""
    if e.version == 4:
        return e.type == DEST_UNREACH and e.code in (NET_UNREACH, HOST_UNREACH)
    opening = sk.state in (SYN_SENT, SYN_RECV)
    return e.type == icmpv6.DEST_UNREACH and e.code == icmpv6.NOROUTE and not opening


def _revert_rto(sk: TcpSock, seq: int, now: int) -> None:
    """The last retransmission was not lost by congestion: its back-off was not called for
    (`tcp_ld_RTO_revert`)."""
    head = sk.rtx_queue.head()
    if seq != sk.snd_una or not sk.retransmits or not sk.rtt.backoff or head is None:
        return
    sk.rtt.revert_backoff()
    at = head.tx_time + rto_ns(sk)
    if at > now:
        reset_xmit_timer(sk, PENDING_RETRANS, at)
    else:
        retransmit_timer(sk, now)


def _mtu_reduced(sk: TcpSock, e: IcmpError) -> None:
    """A router could not forward what we sent (rule A-42). IPv6 is not told that it could
    have been longer."""
    if e.version == 6 and sk.dst is not None and mtu_to_mss(sk, e.info) >= sk.mss_cache:
        return
    sk.net.update_pmtu(sk.daddr, e.info, e.now)
    if sk.dst is None:
        return
    dst = reroute(sk, sk.dst) if sk.dst.obsolete else sk.dst
    mtu = dst.mtu(e.now)
    if mtu < sk.pmtu_cookie:
        sync_mss(sk, mtu)
        simple_retransmit(sk, e.now)
