"""Connection states (RFC 9293 section 3.3.2), with Linux's numbers and ss(8)'s names."""

from __future__ import annotations

ESTABLISHED = 1
SYN_SENT = 2
SYN_RECV = 3
FIN_WAIT1 = 4
FIN_WAIT2 = 5
TIME_WAIT = 6
CLOSE = 7
CLOSE_WAIT = 8
LAST_ACK = 9
LISTEN = 10
CLOSING = 11

NAMES = {
    ESTABLISHED: "ESTAB",
    SYN_SENT: "SYN-SENT",
    SYN_RECV: "SYN-RECV",
    FIN_WAIT1: "FIN-WAIT-1",
    FIN_WAIT2: "FIN-WAIT-2",
    TIME_WAIT: "TIME-WAIT",
    CLOSE: "UNCONN",
    CLOSE_WAIT: "CLOSE-WAIT",
    LAST_ACK: "LAST-ACK",
    LISTEN: "LISTEN",
    CLOSING: "CLOSING",
}

# close(): the state that follows, and whether a FIN is due (rule C-28, `tcp_close_state`)
AFTER_CLOSE = {
    ESTABLISHED: (FIN_WAIT1, True),
    SYN_RECV: (FIN_WAIT1, True),
    CLOSE_WAIT: (LAST_ACK, True),
    SYN_SENT: (CLOSE, False),
    LISTEN: (CLOSE, False),
    TIME_WAIT: (CLOSE, False),
    FIN_WAIT1: (FIN_WAIT1, False),
    FIN_WAIT2: (FIN_WAIT2, False),
    CLOSING: (CLOSING, False),
    LAST_ACK: (LAST_ACK, False),
    CLOSE: (CLOSE, False),
}

# What the application has been told (Linux: `socket_state`), which is not always what is:
# a connection is SS_CONNECTING until a call has reported how the attempt ended.
SS_UNCONNECTED, SS_CONNECTING, SS_CONNECTED, SS_DISCONNECTING = 1, 2, 3, 4

# congestion states (`enum tcp_ca_state`), TCP_INFO's numbers
CA_OPEN, CA_DISORDER, CA_CWR, CA_RECOVERY, CA_LOSS = 0, 1, 2, 3, 4
