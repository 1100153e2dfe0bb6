"""The table of probes (`reach`): where each rule of A and B decides."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.fuzz.reach import Probe
from tests.sockets.parity.trace import Event, Trace

# rules without a probe, and why
EXCEPT = {
    "A-15": "out: there is no memory pressure beyond a socket",
    "A-43": "MTU probing is off unless asked for, and its own tests ask",
    "A-68": "Fast Open has a cache of cookies by destination, which outlives a program",
}

_QUIET = 0x4 | 0x10 | 0x20 | 0x100 | 0x800 | 0x2000  # flags that a send takes and ignores


def _calls(trace: Trace, name: str) -> Iterator[Event]:
    """The calls of that name, blocking ones at their end."""
    for event in trace.events:
        if event.kind in ("call", "done") and event.text.partition(".")[2].startswith(name + "("):
            yield event


def _ignored_flags(trace: Trace) -> bool:
    """a send with flags that mean nothing to it succeeds"""
    for event in _calls(trace, "send"):
        flags = re.search(r", (0x[0-9a-f]+)", event.text)
        if flags and int(flags[1], 16) & _QUIET and isinstance(event.value, int):
            return True
    return False


def _address_ignored(trace: Trace) -> bool:
    """a send to an address succeeds on a connection"""
    return any("to (peer)" in e.text and isinstance(e.value, int) for e in _calls(trace, "send"))


def _control_refused(trace: Trace) -> bool:
    """a send with a control message that there is not says EINVAL"""
    return any(e.value == "EINVAL" for e in _calls(trace, "send"))


def _zerocopy_copies(trace: Trace) -> bool:
    """a send with MSG_ZEROCOPY succeeds"""
    return any("0x4000000" in e.text and isinstance(e.value, int) for e in _calls(trace, "send"))


def _no_source(trace: Trace) -> bool:
    """a receive call returns data without an address"""
    return any(
        ":" in str(e.value) and " from " not in str(e.value) for e in _calls(trace, "recv")
    )  # fmt: skip


def _still_readable(trace: Trace) -> bool:
    """poll says IN, nothing is read, and it says so again"""
    last = ""
    for event in trace.events:
        if event.kind not in ("call", "done"):
            continue
        if ".poll(" in event.text:
            if "IN" in str(event.value).split("|") and event.value == last:
                return True
            last = str(event.value)
        elif ".recv(" in event.text:
            last = ""
    return False


PROBES = (
    # -- A: sending ------------------------------------------------------------------------
    Probe("A-1", "tcp.sendmsg:_new_entry", "sk.wmem_queued += TX_OVERHEAD"),
    Probe("A-1", "tcp.output:tso_fragment", "sk.wmem_queued += TX_OVERHEAD"),
    Probe("A-2", "sock.options:_apply_sndbuf", "sk.on_sndbuf_changed(now)"),
    Probe(
        "A-3", "tcp.sendmsg:copy_in", "if not sk.stream_memory_free():",
        "sk.wmem_queued >= sk.sndbuf",
    ),
    Probe("A-4", "tcp.proto:_poll_data", "sk.nospace = True", "sk.wmem_queued < sk.sndbuf"),
    Probe(
        "A-5", "tcp.sendmsg:copy_in", "take = min(goal - tail.len, length - done)",
        "tail.len and sk.wmem_queued >= sk.sndbuf",
    ),
    Probe("A-6", "tcp.sendmsg:_push_before_sleeping", "_mark_push(sk)"),
    Probe("A-7", "tcp.sendmsg:_wait_for_space", "now = yield Wait(sk.wait_queue, deadline)"),
    Probe("A-8", "tcp.sendmsg:_would_block", "_push_before_sleeping(sk, flags, now)"),
    Probe("A-9", "tcp.sendmsg:_refuse", "sk.raise_pending()", "sk.err"),
    Probe("A-9", "tcp.sendmsg:_check_can_send", "raise error(EPIPE)"),
    Probe("A-10", "tcp.sendmsg:_refuse", "raise would_block()"),
    Probe("A-10", "tcp.sendmsg:_refuse", "raise error(EPIPE)"),
    Probe(
        "A-11", "tcp.sendmsg:copy_in", "if not sk.stream_memory_free():",
        "sk.write_seq - sk.snd_nxt >= sk.effective_notsent_lowat()",
    ),
    Probe("A-12", "tcp.output:check_space", "sk.write_space()"),
    Probe(
        "A-13", "tcp.output:sndbuf_expand", "sk.sndbuf = min(want, sk.net.sysctl.tcp_wmem[2])",
        "not initial",
    ),
    Probe("A-14", "tcp.proto:TcpProto.ioctl", "return tcp.write_seq - start", "tcp.write_queue"),
    Probe("A-20", "tcp.sendmsg:push", "tail.flags |= PSH"),
    Probe("A-21", "tcp.sendmsg:_push_during_copy", "push_frames(sk, mss_now, NAGLE_PUSH, now)"),
    Probe("A-21", "tcp.sendmsg:_push_during_copy", "push_one(sk, mss_now, now)"),
    Probe(
        "A-22", "tcp.transmit:transmit_skb",
        "verdict = transmit(sk, skb.seq, skb.flags | PSH, now, skb.parts, skb.len, skb.gso_size)",
    ),
    Probe("A-23", "tcp.output:_fit", "return WAITS", "not nonagle"),
    Probe(
        "A-23", "tcp.output:nagle_test", "return not nagle_check(sk, True, nonagle)",
        "not nonagle and sk.packets_out and not sk.snd_una < sk.snd_sml <= sk.snd_nxt",
    ),
    Probe("A-24", "tcp.options:_set_nodelay", "push_pending_frames(sk, now)", "sk.write_queue"),
    Probe("A-25", "tcp.output:_fit", "return WAITS", "nonagle & NAGLE_CORK"),
    Probe("A-25", "tcp.options:_set_cork", "push_pending_frames(sk, now)", "sk.write_queue"),
    Probe("A-26", "tcp.probe:write_wakeup", "skb.set_pcount(mss_now)", "sk.wnd_end > skb.end_seq"),
    Probe("A-27", "tcp.sendmsg:push", "sk.tsq_throttled = True"),
    Probe("A-28", "tcp.sendmsg:copy_in", "tail.eor = True"),
    Probe(
        "A-28", "tcp.sendmsg:copy_in", "if not sk.stream_memory_free():",
        "tail is not None and tail.eor and tail.len < goal",
    ),
    Probe("A-30", "tcp.output:xmit_size_goal", "sk.gso_segs = min(limit // mss_now, 65535)"),
    Probe("A-30", "tcp.output:xmit_size_goal", "return mss_now"),
    Probe("A-31", "tcp.output:_fill", "quota = max_segs"),
    Probe("A-32", "tcp.output:tso_should_defer", "if cong_win < send_win:"),
    Probe("A-33", "tcp.output:small_queue_test", "sk.tsq_throttled = True"),
    Probe("A-34", "tcp.output:grow_skb", "behind.seq += nbytes"),
    Probe(
        "A-34", "tcp.output:_fit", "return SHORT_OF_RWND",
        "skb.seq < sk.wnd_end and skb.len < mss_now",
    ),
    Probe("A-35", "tcp.transmit:transmit", "event_ack_sent(sk)", "sk.tstamp_ok"),
    Probe("A-35", "tcp.transmit:_header_with_sacks", "size = 20 + len(options)", "ts is not None"),
    Probe("A-36", "tcp.ack:_tso_acked", "trim_head(sk, skb, una - skb.seq)"),
    Probe(
        "A-36", "tcp.ack:clean_rtx_queue", "if skb.pcount == 1 or una <= skb.seq:",
        "skb.pcount == 1 and una > skb.seq",
    ),
    Probe("A-37", "tcp.ack:tcp_ack", "sk.retransmits = 0", "sk.retransmits"),
    Probe("A-37", "tcp.ack:tcp_ack", "sk.err_soft = 0", "sk.err_soft"),
    Probe("A-40", "tcp.output:sync_mss", "sk.mss_cache = size", "size < sk.mss_clamp - 12"),
    Probe("A-41", "tcp.transmit:advertised_mss", "assert dst is not None", "sk.user_mss"),
    Probe("A-42", "tcp.icmp:_mtu_reduced", "simple_retransmit(sk, e.now)"),
    Probe("A-44", "tcp.output:sync_mss", "sk.mss_cache = size", "pmtu > 60000 and 30000 < size"),
    Probe("A-50", "tcp.timeouts:_probe_timer", "sk.probes_out += 1"),
    Probe("A-50", "tcp.probe:write_wakeup", "tso_fragment(sk, skb, room, mss_now)"),
    Probe("A-51", "tcp.ack:ack_update_window", "return False"),
    Probe("A-51", "tcp.ack:ack_update_window", "sk.snd_wnd = window"),
    Probe("A-52", "tcp.transmit:acceptable_seq", "return end"),
    Probe("A-60", "tcp.transmit:_urgent_pointer", "return sk.snd_up - seq"),
    Probe("A-65", seen=_ignored_flags),
    Probe("A-66", seen=_address_ignored),
    Probe("A-66", seen=_control_refused),
    Probe("A-67", seen=_zerocopy_copies),
    Probe("A-67", "sock.notify:_deliver_zerocopy", "queue(sk, entry)"),
    Probe("A-70", "tcp.lifecycle:close", "send_active_reset(sk, now)"),
    Probe("A-70", "tcp.lifecycle:close", "disconnect(sk, now)"),
    Probe("A-70", "tcp.lifecycle:close", "send_fin(sk, now)"),
    Probe("A-71", "tcp.timeouts:_write_timeout", "write_err(sk, now)", "sk.user_timeout"),
    Probe(
        "A-71", "tcp.timeouts:_clamp_to_user_timeout",
        "return min(at, max(sk.retrans_stamp + sk.user_timeout, now + MS))",
    ),
    Probe("A-72", "tcp.lifecycle:_orphan", 'sk.net.mib.inc("TcpExtTCPAbortOnLinger")'),
    Probe("A-72", "tcp.input:_fin_acked", "done(sk, seg.now)", "sk.linger2 < 0"),
    Probe("A-73", "tcp.timeouts:_keepalive_step", "sk.probes_out += 1"),
    Probe("A-73", "tcp.timeouts:_keepalive_step", "send_active_reset(sk, now)"),
    Probe("A-74", "tcp.lifecycle:shutdown", "raise error(EINVAL)"),
    Probe("A-74", "tcp.lifecycle:shutdown", "raise error(ENOTCONN)"),
    Probe("A-74", "tcp.lifecycle:shutdown", "shutdown_send(sk, now)"),
    Probe("A-75", "tcp.output:send_fin", "tail.flags |= FIN"),
    Probe("A-75", "tcp.output:send_fin", "tail = Skb(sk.write_seq, ACK | FIN)"),
    Probe("A-76", "tcp.input:_late_text", "reset(sk, seg.now)"),
    Probe("A-76", "tcp.lifecycle:orphan_fin_wait2", "time_wait(sk, FIN_WAIT2, timeo, now)"),
    Probe("A-77", "tcp.lifecycle:_linger", "now = yield Wait(sk.wait_queue, deadline)"),
    Probe("A-77", "sock.options:_set_linger", "raise error(EINVAL)"),
    # -- B: receiving ----------------------------------------------------------------------
    Probe("B-1", "tcp.recvmsg:recvmsg", "return recv_error(sk, length)"),
    Probe("B-1", "tcp.recvmsg:recvmsg", "raise error(ENOTCONN)"),
    Probe("B-2", "tcp.recvmsg:_Read.__init__", "target = length"),
    Probe("B-3", "tcp.recvmsg:_copy", "read.len += used", "read.len"),
    Probe("B-4", "tcp.recvmsg:_pass", "if copied:", "0 < copied < read.target"),
    Probe("B-5", "tcp.recvmsg:_pass", "sk.raise_pending()"),
    Probe("B-5", "tcp.recvmsg:_pass", "raise error(ENOTCONN)"),
    Probe("B-5", "tcp.recvmsg:_pass", "raise would_block()"),
    Probe("B-6", "tcp.recvmsg:_take", "avail = len(skb.data) - offset", "not read.left"),
    Probe(
        "B-7", "tcp.recvmsg:_recv_blocking",
        "now = yield forever if deadline is None else Wait(sk.wait_queue, deadline)",
    ),
    Probe("B-7", "tcp.data:data_ready", "target = sk.rcvlowat",
          "0 < sk.rcv_nxt - sk.copied_seq < sk.rcvlowat"),
    Probe("B-8", "tcp.recvmsg:_take", "sk.copied_seq += 1"),
    Probe(
        "B-9", "tcp.recvmsg:_recv_blocking",
        "now = yield forever if deadline is None else Wait(sk.wait_queue, deadline)",
        "read.call_flags & 0x100",
    ),
    Probe(
        "B-10", "tcp.recvmsg:_recv_blocking",
        "may_wait = deadline is None or now < deadline", "deadline is not None and now >= deadline",
    ),
    Probe(
        "B-11", "tcp.recvmsg:_Read.__init__", "self.peek_seq += self.peek_offset",
        "sk.peek_off >= 0",
    ),
    Probe("B-11", "tcp.recvmsg:_copy", "sk.peek_off = max(sk.peek_off - used, 0)"),
    Probe("B-12", "tcp.recvmsg:_copy", "read.len += used", "read.call_flags & MSG_TRUNC"),
    Probe("B-13", seen=_no_source),
    Probe("B-14", "tcp.recvmsg:_add_inq", "hint = max(hint, 1)"),
    Probe("B-15", "tcp.recvmsg:_finish", "add_times(msg.control, sk, read.arrived)"),
    Probe("B-16", "tcp.recvmsg:_follow_other_reader", "read.peek_seq = start"),
    Probe("B-20", "tcp.recvmsg:recv_urg", "raise error(EINVAL)"),
    Probe("B-20", "tcp.recvmsg:recv_urg", "raise error(EAGAIN)"),
    Probe("B-20", "tcp.recvmsg:recv_urg", "sk.urg_data = URG_READ"),
    Probe("B-21", "tcp.recvmsg:_copy", "used = urg_offset"),
    Probe("B-21", "tcp.recvmsg:_copy", "_advance(sk, read, 1)"),
    Probe("B-21", "tcp.data:_check_urg", "sk.urg_seq = ptr"),
    Probe(
        "B-22", "tcp.proto:TcpProto.ioctl",
        "return int(bool(tcp.urg_data) and tcp.urg_seq == tcp.copied_seq)",
        "tcp.urg_data and tcp.urg_seq == tcp.copied_seq",
    ),
    Probe("B-22", "tcp.recvmsg:inq", "return sk.urg_seq - sk.copied_seq"),
    Probe("B-30", "tcp.data:data_queue", "dsack_set(sk, seg.seq, seg.end_seq)"),
    Probe("B-30", "tcp.data:data_queue", "dsack_set(sk, seg.seq, rcv_nxt)"),
    Probe("B-30", "tcp.validate:sequence_ok", 'return "TCP_INVALID_END_SEQUENCE"'),
    Probe("B-31", "tcp.recv_queue:OfoQueue.insert", "dsack = (skb.seq, before.end_seq)"),
    Probe("B-31", "tcp.recv_queue:OfoQueue.insert", "return self._duplicate(skb)"),
    Probe("B-31", "tcp.recv_queue:OfoQueue._replace", "result.freed += covered.truesize"),
    Probe("B-32", "tcp.recvmsg:inq", "answer -= 1"),
    Probe("B-33", "sock.options:_apply_rcvbuf", "sk.on_rcvbuf_changed(now)"),
    Probe("B-34", "tcp.rcvbuf:_prune", "_clamp_window(sk)"),
    Probe("B-34", "tcp.rcvbuf:_prune_ofo", "sk.rmem_alloc -= freed"),
    Probe("B-34", "tcp.data:_queue_in_order", "sk.rcvq_overflow = True"),
    Probe("B-35", "tcp.validate:_out_of_sequence", "send_dupack(sk, seg)",
          "seg.len and not sk.cur_win"),
    Probe(
        "B-50", "tcp.acking:cleanup_rbuf", "if pending & ACK_SCHED:",
        "pending & ACK_SCHED and sk.rcv_nxt - sk.rcv_wup > sk.rcv_mss",
    ),
    Probe(
        "B-50", "tcp.acking:cleanup_rbuf", "if fresh and fresh >= 2 * win:",
        "fresh and fresh >= 2 * win",
    ),
    Probe("B-51", "tcp.acking:measure_rcv_mss", "sk.rcv_mss = length"),
    Probe("B-51", "tcp.acking:measure_rcv_mss", "sk.ack_pending |= ACK_PUSHED2"),
    Probe(
        "B-52", "tcp.acking:ack_snd_check", "received = sk.rcv_nxt - sk.rcv_wup",
        "sk.rcv_nxt - sk.rcv_wup > sk.rcv_mss and not in_quickack_mode(sk)",
    ),
    Probe("B-53", "tcp.timers:send_delayed_ack", "sk.arm(T_DELACK, at)"),
    Probe(
        "B-53", "tcp.timeouts:_delack_timer",
        "sk.ato = min(sk.ato << 1, in_ticks(sk, sk.rtt.rto_us) * 1000)",
    ),
    Probe("B-53", "tcp.timeouts:_delack_timer", "sk.ato = TCP_ATO_MIN"),
    Probe(
        "B-53", "tcp.acking:event_data_recv",
        "sk.ato = min(whole_ticks(sk, sk.ato >> 1) + gap, in_ticks(sk, sk.rtt.rto_us) * 1000)",
    ),
    Probe("B-54", "tcp.acking:_ack_out_of_order", "sk.compressed_ack += 1"),
    Probe("B-55", "tcp.acking:incr_quickack", "sk.quick = max(sk.quick, min(budget or 2, limit))"),
    Probe("B-55", "tcp.transmit:dec_quickack_mode", "sk.ato = TCP_ATO_MIN"),
    Probe("B-56", "tcp.transmit:_event_data_sent", "sk.pingpong += 1"),
    Probe("B-57", "tcp.options:_set_quickack", "cleanup_rbuf(sk, 1, now)"),
    Probe("B-58", "tcp.sack:SackList.new_ofo", "blocks.pop()"),
    Probe(
        "B-58", "tcp.sack:SackList.blocks", "return (self.dsack, *self._blocks)[:limit]",
        "self._blocks",
    ),
    Probe("B-60", "tcp.rcvbuf:init_window", "sk.rcv_ssthresh = sk.rcv_wnd", "locked"),
    Probe(
        "B-60", "tcp.listen:Request._init_window", "full = window.win_from_space(sk.rcvbuf, "
        "sk.scaling_ratio)", "self.tstamp_ok",
    ),
    Probe("B-61", "tcp.window:select_window", "if low and (free_space < allowed_space >> 4 or "
          "free_space < mss or free_space <= 0):", "low and free_space < max(mss, 1)"),
    Probe("B-61", "tcp.window:_unscaled_window", "return free_space - free_space % mss"),
    Probe("B-61", "tcp.window:_unscaled_window", "return rcv_wnd"),
    Probe("B-61", "tcp.window:offered_window", "return (cur_win + unit - 1) & -unit"),
    Probe("B-62", "tcp.rcvbuf:measure_ratio", "sk.scaling_ratio = ratio"),
    Probe("B-63", "tcp.rcvbuf:grow_window", "sk.rcv_ssthresh += incr"),
    Probe("B-63", "tcp.window:_grow_bloated", "return 2 * rcv_mss"),
    Probe(
        "B-64", "tcp.rcvbuf:set_window_clamp", "sk.rcv_ssthresh = min(sk.rcv_ssthresh, new)",
        "new < sk.rcv_ssthresh",
    ),
    Probe("B-64", "tcp.options:_set_window_clamp", "raise error(EINVAL)"),
    Probe("B-70", "tcp.rcvbuf:rcvbuf_grow", "sk.rcvbuf = rcvbuf"),
    Probe("B-71", "tcp.sock:TcpSock.set_rcvlowat", "self.rcvbuf = need"),
    Probe(
        "B-71", "tcp.sock:TcpSock.set_rcvlowat", "locked = bool(self.userlocks & RCVBUF_LOCK)",
        "self.userlocks & RCVBUF_LOCK and value > self.rcvbuf >> 1",
    ),
    Probe("B-80", "tcp.proto:poll", "queue = sk.accept_queue"),
    Probe("B-80", "tcp.proto:poll", "mask |= POLLHUP"),
    Probe("B-80", "tcp.proto:poll", "mask |= POLLIN | POLLRDNORM | POLLRDHUP"),
    Probe("B-80", "tcp.proto:poll", "mask |= POLLERR"),
    Probe(
        "B-80", "tcp.proto:poll", "if sk.state not in (SYN_SENT, SYN_RECV):",
        "sk.state == SYN_SENT",
    ),
    Probe("B-80", "tcp.proto:_poll_data", "mask |= POLLPRI"),
    Probe("B-81", "sock.poll:poll", "found = _scan(entries, now)"),
    Probe("B-82", "sock.options:_take_error", "err = sk.sock_error()", "sk.err"),
    Probe("B-82", "sock.options:_take_error", "err, sk.err_soft = sk.err_soft, 0", "sk.err_soft"),
    Probe("B-83", seen=_still_readable),
)  # fmt: skip
