"""How many ICMP errors may leave (F-21; Linux: `icmp_global_allow`, `inet_peer_xrlim_allow`).

Two token buckets stand before each error: one for the host as a whole, and one for each
destination, so that no peer can make this host flood a third party, nor use up what
others are due. From the host's bucket a random number of tokens goes each time: a counter
that can be read from outside by sending probes would tell which ports are open.

The table of destinations is bounded; the one that was first seen is forgotten first, and
then has a full bucket again, which the host's own bucket bounds.
"""

from __future__ import annotations

from ustack.sock.net import Rng
from ustack.sock.sysctl import Sysctl

MAX_PEERS = 1024
_BURST = 6  # errors that one destination may be sent at once (XRLIM_BURST_FACTOR)
_SECOND = 1_000_000_000


class IcmpLimiter:
    """The buckets of one host, for both families."""

    __slots__ = ("_filled_at", "_peers", "_rng", "_sysctl", "_tokens")

    def __init__(self, sysctl: Sysctl, rng: Rng) -> None:
        self._sysctl = sysctl
        self._rng = rng
        self._tokens = sysctl.icmp_msgs_burst * _SECOND  # billionths of a message
        self._filled_at = 0
        self._peers: dict[bytes, tuple[int, int]] = {}  # address -> (credit in ns, at)

    def allow_host(self, now: int) -> bool:
        """True if the host as a whole may send; takes nothing yet."""
        rate, burst = self._sysctl.icmp_msgs_per_sec, self._sysctl.icmp_msgs_burst * _SECOND
        elapsed = max(0, now - self._filled_at)
        self._filled_at = now
        self._tokens = min(burst, self._tokens + elapsed * rate)
        return self._tokens >= _SECOND

    def consume_host(self) -> None:
        """Take 0 to 2 messages from the host's bucket, 1 in the mean."""
        self._tokens -= self._rng.randrange(0, 3) * _SECOND

    def allow_peer(self, addr: bytes, interval: int, now: int) -> bool:
        """Take a token, of one each `interval` ns, from the bucket of `addr` if there is one."""
        full = _BURST * interval
        credit, at = self._peers.get(addr) or (full, now)
        credit = min(full, credit + max(0, now - at))
        allowed = credit >= interval
        if addr not in self._peers and len(self._peers) >= MAX_PEERS:
            del self._peers[next(iter(self._peers))]
        self._peers[addr] = (credit - interval if allowed else credit, now)
        return allowed
