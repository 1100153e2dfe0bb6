"""Counters, under the names that nstat(8) prints, and drops by reason.

Bad packets are values, not exceptions: whoever refuses one counts it here under the
kernel's reason (`enum skb_drop_reason`, without its prefix).
"""

from __future__ import annotations

from collections import Counter


class Mib:
    """SNMP counters of one stack: `mib.inc("TcpInSegs")`, read with `mib["TcpInSegs"]`.

    A name that no kernel knows is a bug in the caller and raises KeyError.
    """

    __slots__ = ("values", "drops")

    def __init__(self) -> None:
        self.values: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.drops: Counter[str] = Counter()

    def inc(self, name: str, by: int = 1) -> None:
        self.values[name] += by

    def drop(self, reason: str) -> None:
        """Count a refused packet under `reason` (for example "TCP_OLD_DATA")."""
        self.drops[reason] += 1

    def __getitem__(self, name: str) -> int:
        return self.values[name]

    def nonzero(self) -> dict[str, int]:
        """The counters that have moved, in declaration order."""
        return {name: value for name, value in self.values.items() if value}


def _group(prefix: str, names: str) -> list[str]:
    return [prefix + name for name in names.split()]


NAMES: list[str] = [
    *_group(
        "Ip",
        "InReceives InHdrErrors InAddrErrors InUnknownProtos InDiscards InDelivers OutRequests "
        "OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails "
        "FragCreates OutTransmits",
    ),
    *_group(
        "Icmp",
        "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InEchos InEchoReps "
        "InTimestamps "
        "OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds "
        "OutParmProbs OutEchos OutEchoReps OutTimestampReps",
    ),
    *_group(
        "Tcp",
        "ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs "
        "InErrs OutRsts InCsumErrors",
    ),
    *_group(
        "Udp",
        "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors "
        "IgnoredMulti MemErrors",
    ),
    *_group(
        "Ip6",
        "InReceives InHdrErrors InTooBigErrors InNoRoutes InAddrErrors InUnknownProtos "
        "InTruncatedPkts InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout "
        "ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits",
    ),
    *_group(
        "Icmp6",
        "InMsgs InErrors InCsumErrors OutMsgs OutErrors OutRateLimitHost InDestUnreachs "
        "InPktTooBigs InTimeExcds InParmProblems InEchos InEchoReplies OutDestUnreachs "
        "OutPktTooBigs OutTimeExcds OutParmProblems OutEchos OutEchoReplies InGroupMembQueries "
        "InGroupMembResponses InGroupMembReductions InMLDv2Reports OutGroupMembResponses "
        "OutGroupMembReductions OutMLDv2Reports",
    ),
    *_group(
        "Udp6",
        "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors",
    ),
    *_group(
        "TcpExt",
        "SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned "
        "OfoPruned OutOfWindowIcmps LockDroppedIcmps TW TWRecycled TWKilled PAWSActive PAWSEstab "
        "PAWSOldAck PAWSTimewait TSEcrRejected BeyondWindow "
        "DelayedACKs DelayedACKLocked DelayedACKLost ListenOverflows ListenDrops TCPHPHits "
        "TCPPureAcks TCPHPAcks TCPRenoRecovery TCPSackRecovery TCPSACKReneging TCPSACKReorder "
        "TCPRenoReorder TCPTSReorder TCPFullUndo TCPPartialUndo TCPDSACKUndo TCPLossUndo "
        "TCPLostRetransmit TCPRenoFailures TCPSackFailures TCPLossFailures TCPFastRetrans "
        "TCPSlowStartRetrans TCPTimeouts TCPLossProbes TCPLossProbeRecovery TCPRenoRecoveryFail "
        "TCPSackRecoveryFail TCPRcvCollapsed TCPBacklogCoalesce TCPDSACKOldSent TCPDSACKOfoSent "
        "TCPDSACKRecv TCPDSACKOfoRecv TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory "
        "TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed TCPSACKDiscard TCPDSACKIgnoredOld "
        "TCPDSACKIgnoredNoUndo TCPSpuriousRTOs TCPBacklogDrop TCPMinTTLDrop TCPDeferAcceptDrop "
        "TCPTimeWaitOverflow TCPReqQFullDoCookies TCPReqQFullDrop TCPRetransFail TCPRcvCoalesce "
        "TCPOFOQueue TCPOFODrop TCPOFOMerge TCPChallengeACK TCPSYNChallenge TCPFastOpenActive "
        "TCPSpuriousRtxHostQueues TCPAutoCorking TCPFromZeroWindowAdv TCPToZeroWindowAdv "
        "TCPWantZeroWindowAdv TCPSynRetrans TCPOrigDataSent TCPHystartTrainDetect "
        "TCPACKSkippedSynRecv TCPACKSkippedPAWS TCPACKSkippedSeq TCPACKSkippedFinWait2 "
        "TCPACKSkippedTimeWait TCPACKSkippedChallenge TCPWinProbe TCPKeepAlive TCPMTUPFail "
        "TCPMTUPSuccess TCPDelivered TCPDeliveredCE TCPAckCompressed TCPZeroWindowDrop "
        "TCPRcvQDrop TCPWqueueTooBig TcpTimeoutRehash TCPDSACKRecvSegs TCPDSACKIgnoredDubious "
        "PFMemallocDrop",
    ),
]
