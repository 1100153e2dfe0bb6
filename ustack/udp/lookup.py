"""Which socket a datagram is for (Linux: `__udp4_lib_lookup`, `compute_score`).

Problem: a datagram goes to the socket that fits it best: connected to its sender, else
bound to its destination address, else bound to the wildcard; among equals the one that
was bound last, or one of a REUSEPORT group by the hash of the 4-tuple (rules C-52, C-53).
A server may have tens of thousands of connected sockets on one port.

A broadcast or multicast goes to every socket that fits at all.

Structure: connected sockets are in a dict by their whole 4-tuple, all others in a dict by
(local address, port); a value is the sockets under one key, in the order they came. A
lookup is at most three dict probes. A connected socket is always the best match, so the
dicts need not be compared.

Invariant: a socket is in exactly one list, `sk.hash_key` says which, from its bind to its
close.
"""

from __future__ import annotations

from hashlib import blake2s

from ustack.sock.addr import ANY4, is_multicast
from ustack.sock.multicast import allows
from ustack.sock.sock import AF_INET, AF_INET6
from ustack.udp.sock import UdpSock

LOOPBACK, LOOPBACK_ITSELF = 1, -1  # the first device


class UdpTable:
    """The bound sockets of one host."""

    __slots__ = ("_bound", "_conns", "_count", "_secret", "socks")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret  # keys the choice within REUSEPORT groups
        self._conns: dict[tuple[bytes, int, bytes, int], list[UdpSock]] = {}
        self._bound: dict[tuple[bytes, int], list[UdpSock]] = {}
        self.socks: dict[UdpSock, None] = {}  # every bound socket, in order
        self._count = 0

    def hash(self, sk: UdpSock) -> None:
        """Put `sk` where its addresses and ports say. It is the newest of the connected, or of
        the bound if its own address is another than before."""
        before = sk.hashed if sk.hash_key is not None else None
        if sk.daddr and sk.dport:
            conn = (sk.rcv_saddr, sk.sport, sk.daddr, sk.dport)
            if conn == sk.hash_key:
                return
            self.unhash(sk)
            self._conns.setdefault(conn, []).append(sk)
            sk.hash_key = conn
        else:
            self.unhash(sk)
            bound = (sk.rcv_saddr if sk.rcv_saddr != ANY4 else b"", sk.sport)
            self._bound.setdefault(bound, []).append(sk)
            sk.hash_key = bound
        self.socks[sk] = None
        if before != sk.rcv_saddr:
            self._count += 1
            # those are looked at last (Linux: `sk_add_node_rcu`)
            last = sk.reuseport and sk.family == AF_INET6
            sk.order = -self._count if last else self._count
            sk.hashed = sk.rcv_saddr
        if len(sk.hash_key) == 2 and len(self._bound[sk.hash_key]) > 1:
            self._bound[sk.hash_key].sort(key=_order)

    def unhash(self, sk: UdpSock) -> None:
        """Take `sk` out; no error if it is not in."""
        key = sk.hash_key
        if key is None:
            return
        sk.hash_key = None
        del self.socks[sk]
        if len(key) == 4:
            socks = self._conns[key]
            socks.remove(sk)
            if not socks:
                del self._conns[key]
        else:
            socks = self._bound[key]
            socks.remove(sk)
            if not socks:
                del self._bound[key]

    def lookup(
        self, laddr: bytes, lport: int, raddr: bytes, rport: int, iif: int
    ) -> UdpSock | None:
        """The socket for a datagram from `raddr` to `laddr` that came by device `iif` (0:
        unknown, any). By loopback it has come by the device of the address, unless that is
        LOOPBACK_ITSELF."""
        if self._conns:
            found = self._conns.get((laddr, lport, raddr, rport))
            if found is not None:
                sk = found[-1] if len(found) == 1 else _newest_on(found, laddr, iif)
                if sk is not None and (not sk.bindtodevice or _is_on(sk, laddr, iif)):
                    return sk
        for key in ((laddr, lport), (b"", lport)):
            found = self._bound.get(key)
            if found is not None:
                if len(found) > 1:
                    sk = self._best(found, laddr, lport, raddr, rport, iif)
                else:
                    sk = found[0] if _score(found[0], laddr, raddr, iif) > 0 else None
                if sk is not None:
                    return sk
        return None

    def lookup_many(
        self, laddr: bytes, lport: int, raddr: bytes, rport: int, iif: int
    ) -> list[UdpSock]:
        """Every socket for a broadcast or multicast to `laddr` (Linux: `__udp4_lib_mcast_deliver`,
        `__udp_is_mcast_sock`)."""
        group = is_multicast(laddr)
        socks = list(self._conns.get((laddr, lport, raddr, rport), ()))
        for key in ((laddr, lport), (b"", lport)):
            socks += self._bound.get(key, ())
        return [
            sk
            for sk in socks
            if _score(sk, laddr, raddr, iif) > 0 and (not group or allows(sk, laddr, iif, raddr))
        ]

    def _best(
        self, socks: list[UdpSock], laddr: bytes, lport: int, raddr: bytes, rport: int, iif: int
    ) -> UdpSock | None:
        """The best of the sockets bound to one address and port; of equals the newest."""
        best: UdpSock | None = None
        badness = -1
        for sk in reversed(socks):
            score = _score(sk, laddr, raddr, iif)
            if score > badness:
                best, badness = sk, score
        if best is not None and best.reuseport:
            group = [
                sk
                for sk in socks
                if sk.reuseport
                and sk.family == best.family
                and sk.rcv_saddr == best.rcv_saddr
                and sk.bindtodevice == best.bindtodevice
                and not sk.daddr
            ]
            if len(group) > 1:
                tuple4 = laddr + raddr + lport.to_bytes(2, "big") + rport.to_bytes(2, "big")
                digest = blake2s(tuple4, key=self._secret, digest_size=4).digest()
                best = group[int.from_bytes(digest, "big") * len(group) >> 32]
        return best


def _order(sk: UdpSock) -> int:
    return sk.order


def _score(sk: UdpSock, laddr: bytes, raddr: bytes, iif: int) -> int:
    """How well a socket that is bound to the right address and port fits; -1: not at all."""
    v6 = len(laddr) == 16
    score = 1
    if sk.family == AF_INET6:
        if not v6:
            if sk.v6only:
                return -1
        elif sk.rcv_saddr == ANY4 or (sk.old_peer and sk.old_peer != raddr):
            return -1
    elif v6:
        return -1
    if sk.family == AF_INET:
        score = 2
    if sk.daddr:  # connected, but to port 0: any port of that peer
        if sk.daddr != raddr:
            return -1
        score += 4
    if sk.bindtodevice:
        if not _is_on(sk, laddr, iif):
            return -1
        score += 4
    return score


def _is_on(sk: UdpSock, laddr: bytes, iif: int) -> bool:
    """Has the packet come by the device that `sk` is bound to (Linux: `udp_sk_bound_dev_eq`,
    `inet_iif`, `inet6_iif`)?"""
    if iif == LOOPBACK:
        iif = sk.net.address_device(laddr) or LOOPBACK
    return sk.bindtodevice == abs(iif) or not iif


def _newest_on(socks: list[UdpSock], laddr: bytes, iif: int) -> UdpSock | None:
    """The newest of sockets with one 4-tuple, one bound to the device before others."""
    for sk in reversed(socks):
        if sk.bindtodevice and iif and _is_on(sk, laddr, iif):
            return sk
    for sk in reversed(socks):
        if not sk.bindtodevice:
            return sk
    return None if iif else socks[-1]
