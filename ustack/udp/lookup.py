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


class UdpTable:
    """The bound sockets of one host."""

    __slots__ = ("_bound", "_conns", "_secret", "socks")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret  # keys the choice within REUSEPORT groups
        self._conns: dict[tuple[bytes, int, bytes, int], list[UdpSock]] = {}
        self._bound: dict[tuple[bytes, int], list[UdpSock]] = {}
        self.socks: dict[UdpSock, None] = {}  # every bound socket, in order

    def hash(self, sk: UdpSock) -> None:
        """Put `sk` where its addresses and ports say, taking it from where it was."""
        self.unhash(sk)
        self.socks[sk] = None
        if sk.daddr and sk.dport:
            conn = (sk.rcv_saddr, sk.sport, sk.daddr, sk.dport)
            self._conns.setdefault(conn, []).append(sk)
            sk.hash_key = conn
        else:
            bound = (sk.rcv_saddr if sk.rcv_saddr != ANY4 else b"", sk.sport)
            self._bound.setdefault(bound, []).append(sk)
            sk.hash_key = bound

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
        unknown, any)."""
        if self._conns:
            found = self._conns.get((laddr, lport, raddr, rport))
            if found is not None:
                sk = found[-1] if len(found) == 1 else _newest_on(found, iif)
                if sk is not None and not (iif and sk.bindtodevice and sk.bindtodevice != iif):
                    return sk
        for key in ((laddr, lport), (b"", lport)):
            found = self._bound.get(key)
            if found is not None:
                if len(found) > 1:
                    sk = self._best(found, laddr, lport, raddr, rport, iif)
                else:
                    sk = found[0] if _score(found[0], len(laddr) == 16, raddr, iif) > 0 else None
                if sk is not None:
                    return sk
        return None

    def lookup_many(
        self, laddr: bytes, lport: int, raddr: bytes, rport: int, iif: int
    ) -> list[UdpSock]:
        """Every socket for a broadcast or multicast to `laddr` (Linux: `__udp4_lib_mcast_deliver`,
        `__udp_is_mcast_sock`)."""
        v6 = len(laddr) == 16
        group = is_multicast(laddr)
        socks = list(self._conns.get((laddr, lport, raddr, rport), ()))
        for key in ((laddr, lport), (b"", lport)):
            socks += self._bound.get(key, ())
        return [
            sk
            for sk in socks
            if _score(sk, v6, raddr, iif) > 0 and (not group or allows(sk, laddr, iif, raddr))
        ]

    def _best(
        self, socks: list[UdpSock], laddr: bytes, lport: int, raddr: bytes, rport: int, iif: int
    ) -> UdpSock | None:
        """The best of the sockets bound to one address and port; of equals the newest."""
        best: UdpSock | None = None
        badness = -1
        for sk in reversed(socks):
            score = _score(sk, len(laddr) == 16, raddr, iif)
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


def _score(sk: UdpSock, v6: bool, raddr: bytes, iif: int) -> int:
    """How well a socket that is bound to the right address and port fits; -1: not at all."""
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
        if iif and sk.bindtodevice != iif:
            return -1
        score += 4
    return score


def _newest_on(socks: list[UdpSock], iif: int) -> UdpSock | None:
    """The newest of sockets with one 4-tuple, one bound to the device before others."""
    for sk in reversed(socks):
        if sk.bindtodevice == iif:
            return sk
    for sk in reversed(socks):
        if not sk.bindtodevice:
            return sk
    return None if iif else socks[-1]
