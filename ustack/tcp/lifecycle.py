"""The ends of a connection: states, FIN, RST, close, TIME_WAIT.

All changes of state go through `set_state`; it also takes the socket out of the tables
when it reaches CLOSE. `done` is the end of every connection, however it came: timers off,
both directions shut, waiters woken. After `close` the socket has no owner (`dead`); the
protocol goes on without one until the peer has everything, within the limits of D-9 and
A-76. What remains of a connection in TIME_WAIT, or in FIN_WAIT2 without an owner, is a
light object (`timewait`).

Sources: RFC 9293 section 3.6, Linux `tcp_set_state`, `tcp_done`, `tcp_reset`, `tcp_fin`,
`__tcp_close`, `inet_shutdown`, `tcp_disconnect`; rules A-70 to A-77, C-18, C-21, C-25, C-28.
"""

from __future__ import annotations

from errno import ECONNREFUSED, ECONNRESET, EINVAL, ENOTCONN, EPIPE, ETIMEDOUT

from ustack.sock import error_queue, notify
from ustack.sock.deadlines import NEVER
from ustack.sock.errors import error
from ustack.sock.sock import (
    BINDADDR_LOCK,
    BINDPORT_LOCK,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
)
from ustack.sock.wait import Interrupted, Op, Wait
from ustack.tcp import chrono
from ustack.tcp.output import send_fin
from ustack.tcp.sock import ACK_SCHED, NUM_TIMERS, SEC, T_KEEPALIVE, TcpSock
from ustack.tcp.state import (
    AFTER_CLOSE,
    CLOSE,
    CLOSE_WAIT,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    LISTEN,
    SS_CONNECTED,
    SS_CONNECTING,
    SS_DISCONNECTING,
    SS_UNCONNECTED,
    SYN_RECV,
    SYN_SENT,
    TIME_WAIT,
)
from ustack.tcp.timers import clear_xmit_timer, rto_ns
from ustack.tcp.timewait import TIMEWAIT_LEN, TimeWait
from ustack.tcp.transmit import send_ack, send_active_reset

_RESET_STATES = (ESTABLISHED, CLOSE_WAIT, FIN_WAIT1, FIN_WAIT2, SYN_RECV)


def set_state(sk: TcpSock, state: int) -> None:
    """The only place where the state changes (`tcp_set_state`)."""
    old = sk.state
    if old == state:
        return
    mib = sk.net.mib
    if state == ESTABLISHED:
        mib.inc("TcpCurrEstab")
    elif old in (ESTABLISHED, CLOSE_WAIT) and state not in (ESTABLISHED, CLOSE_WAIT):
        mib.inc("TcpCurrEstab", -1)
        if state == CLOSE:
            mib.inc("TcpEstabResets")
    sk.state = state
    if state == CLOSE:
        sk.host.unhash(sk)
        if not sk.userlocks & BINDPORT_LOCK:
            sk.host.put_port(sk)
    if sk.net.trace is not None:
        sk.net.trace("tcp:state", sk, old, state)


def done(sk: TcpSock, now: int) -> None:
    """The connection is over (`tcp_done`)."""
    if sk.state in (SYN_SENT, SYN_RECV):
        sk.net.mib.inc("TcpAttemptFails")
    set_state(sk, CLOSE)
    clear_xmit_timers(sk)
    sk.shutdown = SHUTDOWN_MASK
    if sk.dead:
        destroy(sk, now)
    else:
        sk.state_change()


def clear_xmit_timers(sk: TcpSock) -> None:
    """Every timer off (`tcp_clear_xmit_timers`)."""
    clear_xmit_timer(sk)
    sk.timers = [NEVER] * NUM_TIMERS
    sk.ack_pending = 0
    sk.compressed_ack = 0


def destroy(sk: TcpSock, now: int) -> None:
    """Give back everything a dead socket holds (`inet_csk_destroy_sock`)."""
    write_queue_purge(sk, now)
    receive_purge(sk)
    error_queue.purge(sk)
    sk.host.orphans.pop(sk, None)
    sk.host.put_port(sk)
    sk.net.deadlines.forget(sk)


def write_queue_purge(sk: TcpSock, now: int) -> None:
    """Drop everything unsent and unacknowledged (`tcp_write_queue_purge`)."""
    sk.write_queue.clear()
    sk.rtx_queue.clear()
    sk.rack_list = None
    sk.wmem_queued = 0
    sk.packets_out = sk.sacked_out = sk.lost_out = sk.retrans_out = 0
    sk.rtt.backoff = 0
    sk.page = None
    chrono.stop(sk, chrono.BUSY, now)
    if sk.notify is not None:
        notify.stream_dead(sk, now)


def receive_purge(sk: TcpSock) -> None:
    """Drop everything received and unread."""
    sk.rmem_alloc -= sk.receive_queue.purge() + sk.ofo_queue.purge()
    sk.sacks.reset()


def write_err(sk: TcpSock, now: int) -> None:
    """We have given up on the peer (`tcp_write_err`)."""
    done_with_error(sk, sk.err_soft or ETIMEDOUT, now)
    sk.net.mib.inc("TcpExtTCPAbortOnTimeout")


def done_with_error(sk: TcpSock, err: int, now: int) -> None:
    """The connection is over, and this is why (`tcp_done_with_error`)."""
    sk.err = err
    write_queue_purge(sk, now)
    done(sk, now)
    if not sk.dead:
        sk.error_report()


def reset(sk: TcpSock, now: int) -> None:
    """A valid RST has come (rule C-21, `tcp_reset`). Unread data stays readable."""
    if sk.state == SYN_SENT:
        done_with_error(sk, ECONNREFUSED, now)
    elif sk.state == CLOSE_WAIT:
        done_with_error(sk, EPIPE, now)
    elif sk.state != CLOSE:
        done_with_error(sk, ECONNRESET, now)


def fin(sk: TcpSock, now: int) -> None:
    """The peer's FIN is next in order (rule C-25, `tcp_fin`)."""
    sk.ack_pending |= ACK_SCHED
    sk.shutdown |= RCV_SHUTDOWN
    sk.fin_received = True
    state = sk.state
    if state in (SYN_RECV, ESTABLISHED):
        set_state(sk, CLOSE_WAIT)
        sk.pingpong = max(sk.pingpong, 1)
    elif state == FIN_WAIT1:
        send_ack(sk, now)
        set_state(sk, CLOSING)
    elif state == FIN_WAIT2:
        send_ack(sk, now)
        time_wait(sk, TIME_WAIT, TIMEWAIT_LEN, now)
    freed = sk.ofo_queue.purge()
    sk.rmem_alloc -= freed
    if sk.sack_ok:
        sk.sacks.reset()
    if not sk.dead:
        sk.state_change()


def time_wait(sk: TcpSock, substate: int, timeo: int, now: int) -> None:
    """Leave a light object behind and close the socket (rule C-30, `tcp_time_wait`)."""
    host = sk.host
    key = sk.key
    if host.tw_count < sk.net.sysctl.tcp_max_tw_buckets:
        tw = TimeWait(sk, substate, now)
        host.unhash(sk)
        host.hash_timewait(tw, key)
        host.ports.inherit(tw, sk)
        tw.schedule(timeo, now)
    else:
        sk.net.mib.inc("TcpExtTCPTimeWaitOverflow")
    done(sk, now)


def listen_stop(sk: TcpSock, now: int) -> None:
    """A listener closes: connections nobody accepted are reset, half-open ones forgotten
    without a packet (rule C-7, `inet_csk_listen_stop`)."""
    queue = sk.accept_queue
    sk.accept_queue = None
    if queue is None:
        return
    for request in queue.requests():
        request.forget()
    for child in queue.drain():
        if child.state != CLOSE:
            send_active_reset(child, now)
            set_state(child, CLOSE)
        child.dead = True
        clear_xmit_timers(child)
        destroy(child, now)


# -- close ---------------------------------------------------------------------------------


def close(sk: TcpSock, now: int) -> None | Op[None]:
    """The application gives the socket up (rule A-70, `__tcp_close`)."""
    sk.shutdown = SHUTDOWN_MASK
    if sk.state == LISTEN:
        set_state(sk, CLOSE)
        listen_stop(sk, now)
        _orphan(sk, now)
        return None
    unread = _unread(sk)
    sk.rmem_alloc -= sk.receive_queue.purge()
    if sk.state == CLOSE:
        _orphan(sk, now)
        return None
    if unread:
        sk.net.mib.inc("TcpExtTCPAbortOnClose")
        send_active_reset(sk, now)
        set_state(sk, CLOSE)
        clear_xmit_timers(sk)
    elif sk.linger and not sk.linger_time:
        disconnect(sk, now)
        sk.net.mib.inc("TcpExtTCPAbortOnData")
    elif close_state(sk):
        send_fin(sk, now)
    if sk.linger and sk.linger_time and _is_lingering(sk):
        return _linger(sk, now)
    _orphan(sk, now)
    return None


def _unread(sk: TcpSock) -> bool:
    """Is there received data that nobody read? A FIN does not count."""
    end = sk.rcv_nxt - (1 if sk.fin_received else 0)
    return bool(sk.receive_queue) and end > sk.copied_seq


def close_state(sk: TcpSock) -> bool:
    """Move to the state that follows a local close; true if a FIN is due (rule C-28)."""
    state, fin_due = AFTER_CLOSE[sk.state]
    set_state(sk, state)
    return fin_due


def _is_lingering(sk: TcpSock) -> bool:
    return sk.state in (FIN_WAIT1, CLOSING, LAST_ACK)


def _linger(sk: TcpSock, now: int) -> Op[None]:
    """SO_LINGER with a time: wait until the peer has everything, or the time is over."""
    deadline = now + sk.linger_time
    try:
        while _is_lingering(sk) and now < deadline:
            now = yield Wait(sk.wait_queue, deadline)
    except Interrupted:
        pass  # a close cannot be undone; the protocol goes on without its owner
    _orphan(sk, now)


def _orphan(sk: TcpSock, now: int) -> None:
    """From here on the socket has no owner (rule A-76)."""
    sk.dead = True
    sk.socket = None
    sk.state_change()  # whoever waits in another call of this socket
    if sk.state == FIN_WAIT2:
        if sk.linger2 < 0:
            send_active_reset(sk, now)
            set_state(sk, CLOSE)
            sk.net.mib.inc("TcpExtTCPAbortOnLinger")
        else:
            orphan_fin_wait2(sk, now)
    if sk.state != CLOSE and not _may_live_on(sk):
        send_active_reset(sk, now)
        set_state(sk, CLOSE)
        sk.net.mib.inc("TcpExtTCPAbortOnMemory")
    if sk.state == CLOSE:
        clear_xmit_timers(sk)
        destroy(sk, now)


def _may_live_on(sk: TcpSock) -> bool:
    """Connections without an owner are counted: a peer that does not answer could
    make any number of them (`tcp_check_oom`)."""
    orphans = sk.host.orphans
    orphans[sk] = None
    return len(orphans) <= sk.net.sysctl.tcp_max_orphans


def fin_time(sk: TcpSock) -> int:
    """How long an orphan waits in FIN_WAIT2, ns (`tcp_fin_time`)."""
    timeo = sk.linger2 or sk.net.sysctl.tcp_fin_timeout * SEC
    return max(timeo, (rto_ns(sk) << 2) - (rto_ns(sk) >> 1))


def orphan_fin_wait2(sk: TcpSock, now: int) -> None:
    """Nobody will read what comes: a light object waits for the FIN. One that has to wait
    for longer than a TIME_WAIT does keeps the socket for the difference."""
    timeo = fin_time(sk)
    if timeo > TIMEWAIT_LEN:
        sk.arm(T_KEEPALIVE, now + timeo - TIMEWAIT_LEN)
    else:
        time_wait(sk, FIN_WAIT2, timeo, now)


def orphan_fin_wait2_with_fin(sk: TcpSock, now: int) -> None:
    """As above, but the segment carries a FIN that is yet to be processed: the socket
    stays for it."""
    timeo = fin_time(sk)
    sk.arm(T_KEEPALIVE, now + timeo - (TIMEWAIT_LEN if timeo > TIMEWAIT_LEN else 0))


# -- shutdown and disconnect ---------------------------------------------------------------


def shutdown(sk: TcpSock, how: int, now: int) -> None:
    """shutdown(2) (rule A-74, `inet_shutdown`)."""
    if how not in (0, 1, 2):
        raise error(EINVAL)
    mask = how + 1
    if sk.sock_state == SS_CONNECTING:  # nobody will ask how the attempt has ended
        under_way = sk.state in (SYN_SENT, SYN_RECV, CLOSE)
        sk.sock_state = SS_DISCONNECTING if under_way else SS_CONNECTED
    if sk.state == CLOSE:
        sk.shutdown |= mask
        sk.state_change()
        raise error(ENOTCONN)
    if sk.state == LISTEN:
        if mask & RCV_SHUTDOWN:
            disconnect(sk, now)
    elif sk.state == SYN_SENT:
        disconnect(sk, now)
        sk.sock_state = SS_UNCONNECTED
    else:
        sk.shutdown |= mask
        if mask & SEND_SHUTDOWN:
            shutdown_send(sk, now)
    sk.state_change()


def shutdown_send(sk: TcpSock, now: int) -> None:
    """Nothing more will be written: FIN. One that is asked for in SYN_RECV is sent when the
    handshake is complete (`tcp_shutdown`)."""
    if sk.state in (ESTABLISHED, CLOSE_WAIT) and close_state(sk):
        send_fin(sk, now)


def _needs_reset(sk: TcpSock) -> bool:
    """Does the peer have to be told that the connection is gone? (`tcp_need_reset`)"""
    return sk.state in _RESET_STATES


def disconnect(sk: TcpSock, now: int) -> None:
    """Dissolve whatever there is and make the socket new (rule C-18, `tcp_disconnect`)."""
    old = sk.state
    if old == LISTEN:
        set_state(sk, CLOSE)
        listen_stop(sk, now)
    elif _needs_reset(sk) or (old in (CLOSING, LAST_ACK) and sk.snd_nxt != sk.write_seq):
        send_active_reset(sk, now)
        sk.err = ECONNRESET
        set_state(sk, CLOSE)
    elif old == SYN_SENT:
        sk.err = ECONNRESET
        set_state(sk, CLOSE)
    elif old != CLOSE:
        set_state(sk, CLOSE)
    clear_xmit_timers(sk)
    receive_purge(sk)
    write_queue_purge(sk, now)
    if not sk.userlocks & BINDADDR_LOCK:
        sk.saddr = sk.rcv_saddr = b""
    sk.peek_off = -1
    sk.host.reset_connection(sk)
    sk.error_report()
