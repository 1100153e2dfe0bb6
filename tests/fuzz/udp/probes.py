"""Where each rule of E decides, and how many programs get there (`tests.fuzz.reach`)."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.reach import LEAST, Probe, Recorder
from tests.fuzz.udp.play import Place, play_stack
from tests.fuzz.udp.program import Program

# rules without a probe, and why
EXCEPT = {
    "E-4": "the race is between tasks; what the first corked call fixes is E-3 and E-5",
    "E-12": "a device that queues: `parity/test_y30_udp_slow.py`",
    "E-13": "a device that queues: `parity/test_y30_udp_slow.py`",
    "E-31": "calls that wait: `parity/test_y31_udp_receive.py`",
    "E-38": "a rule of TCP",
}

PROBES = (
    Probe("E-1", "udp.sendmsg:_sendmsg4", "raise error(EMSGSIZE)"),
    Probe("E-1", "udp.sendmsg:_sendmsg4", "raise error(EOPNOTSUPP)"),
    Probe("E-1", "udp.sendmsg:_sendmsg4", "raise error(EDESTADDRREQ)"),
    Probe("E-1", "udp.sendmsg:_sendmsg6", "raise error(EDESTADDRREQ)"),
    Probe("E-1", "udp.sendmsg:_sendmsg4", "if not dport:", "not dport"),
    Probe("E-1", "udp.sendmsg:check_broadcast", "raise error(EACCES)"),
    Probe("E-1", "udp.sendmsg:path", "if why.errno == ENETUNREACH:", "why.errno == ENETUNREACH"),
    Probe("E-1", "udp.sendmsg:path", "raise error(EAFNOSUPPORT)"),
    Probe("E-2", "udp.output:send_at_once", "return len(data)"),
    Probe("E-2", "udp.output:send_at_once", "return depart(sk, pending, data, now)"),
    Probe("E-3", "udp.sendmsg:_send", "sk.cork = pending", "sk.corked"),
    Probe("E-3", "udp.sendmsg:_send", "sk.cork = pending", "not sk.corked"),
    Probe("E-5", "udp.cork:_add", "push(sk, now)", "length > len(data)"),
    Probe("E-5", "udp.cork:_add", "buffer += data", "not data"),
    Probe("E-6", "udp.proto:_set_udp", "cork.push(sk, now)", "sk.cork is not None"),
    Probe("E-6", "udp.proto:_set_udp", "cork.push(sk, now)", "sk.cork is None"),
    Probe("E-7", "udp.cork:_lay_out", "pending.tail = size", "gap"),
    Probe("E-8", "udp.cork:append", "flush(sk)"),
    Probe("E-8", "udp.connect:close", "cork.flush(sk)", "sk.cork is not None"),
    Probe("E-9", "udp.output:check_size", "raise error(EMSGSIZE)", "limit == mtu"),
    Probe("E-9", "udp.output:check_size", "raise error(EMSGSIZE)", "limit > mtu"),
    Probe("E-9", "udp.output:check_size", "raise error(EMSGSIZE)", "sk.error_queue"),
    Probe("E-10", "udp.cork:_lay_out", "raise error(ENOBUFS)"),
    Probe("E-10", "udp.output:depart", "raise error(ENOBUFS)"),
    Probe("E-10", "sock.datagram:has_room", "raise error(EPIPE)"),
    Probe("E-11", "sock.datagram:poll", "if is_writeable(sk):", "not is_writeable(sk)"),
    Probe("E-14", "udp.output:transmit", "csum = 0"),
    Probe("E-15", "udp.output:check_gso", "raise _refused(sk, v6, EMSGSIZE)"),
    Probe("E-15", "udp.output:check_gso", "raise _refused(sk, v6, EINVAL)"),
    Probe("E-15", "udp.output:check_gso", "return size if length > size else 0", "length > size"),
    Probe("E-15", "udp.input:_rcv_merged", "return"),
    Probe("E-15", "udp.input:_rcv_merged", "stop = min(at + rx.gso_size, end)"),
    Probe("E-16", "udp.connect:connect", "sk.dport = addr[1]"),
    Probe("E-16", "udp.connect:connect", "sk.dport = addr[1]", "v4 and sk.family == AF_INET6"),
    Probe("E-16", "udp.connect:disconnect", 'sk.daddr = b""', "sk.daddr"),
    Probe("E-16", "udp.connect:disconnect", "release(sk)"),
    Probe("E-16", "udp.input:_deliver", "if rx.gso_size:", "sk.daddr"),
    Probe("E-17", "udp.proto:UdpProto.shutdown", "raise error(ENOTCONN)"),
    Probe("E-17", "udp.proto:UdpProto.shutdown", "if not sk.daddr:", "sk.daddr"),
    Probe("E-18", "udp.input:_rcv_many", "_deliver(sk, rx, sport, end)", "len(rx.dst) == 4"),
    Probe("E-18", "udp.input:_rcv_many", "_deliver(sk, rx, sport, end)", "len(rx.dst) == 16"),
    Probe("E-18", "udp.input:_rcv_many", 'host.net.mib.drop("NO_SOCKET")'),
    Probe("E-19", "udp.connect:close", "sk.receive_queue.clear()", "sk.receive_queue"),
    Probe("E-25", "udp.input:_drop", "mib.drop(reason)", 'reason == "UDP_TOO_SHORT"'),
    Probe("E-25", "udp.input:_drop", "mib.drop(reason)", 'reason == "UDP_CSUM"'),
    Probe("E-25", "udp.input:rcv", "end = l4 + ulen", "ulen < available"),
    Probe("E-25", "udp.input:_no_port", 'host.net.mib.drop("NO_SOCKET")'),
    Probe("E-26", "udp.input:queue_rcv", "sk.drops += 1"),
    Probe("E-26", "udp.recvmsg:_try_recv", "sk.forward_deficit = deficit"),
    Probe("E-26", "udp.input:_note", "dg.dropcount = sk.drops", "sk.drops"),
    Probe("E-27", "udp.recvmsg:_fill", "msg.flags = MSG_TRUNC"),
    Probe("E-27", "udp.recvmsg:_fill", "msg.addr = (rx.src, dg.sport)", "flags & 0x20"),
    Probe("E-27", "udp.recvmsg:_peek_taken", "sk.peek_off += msg.len"),
    Probe("E-27", "udp.recvmsg:_peek_taken", "off -= size"),
    Probe("E-28", "udp.recvmsg:_fill", "msg.addr = (rx.src, dg.sport)", "not size"),
    Probe("E-28", "udp.recvmsg:_fill", "msg.addr = (rx.src, dg.sport)", "size and not length"),
    Probe("E-29", "sock.datagram:poll", "mask |= POLLPRI"),
    Probe("E-29", "sock.datagram:poll", "mask |= POLLHUP"),
    Probe("E-29", "sock.datagram:poll", "mask |= POLLRDHUP | POLLIN | POLLRDNORM"),
    Probe("E-30", "udp.input:_is_sound", "sk.drops += 1"),
    Probe("E-36", "udp.input:icmp_err", "sk.err = errno", "e.version == 4"),
    Probe("E-36", "udp.input:icmp_err", "sk.err = errno", "e.version == 6"),
    Probe("E-37", "udp.input:icmp_err", "elif not fatal or not sk.daddr:", "not fatal"),
    Probe("E-37", "udp.input:icmp_err", "elif not fatal or not sk.daddr:", "not sk.daddr"),
    Probe("E-37", "sock.datagram:has_room", "sk.raise_pending()", "sk.err"),
    Probe("E-37", "udp.recvmsg:_try_recv", "sk.raise_pending()"),
    Probe("E-40", "sock.error_queue:queue_icmp", "queue(sk, entry)", "e.version == 4"),
    Probe("E-40", "sock.recv_error:_dequeue", "sk.err = queue[0].errno"),
    Probe("E-40", "sock.recv_error:_dequeue", "sk.err = 0"),
    Probe("E-40", "sock.recv_error:_dequeue", "raise would_block()"),
    Probe("E-40", "sock.error_queue:purge_errors", "sk.rmem_alloc -= entry.charge"),
    Probe("E-41", "sock.error_queue:queue_icmp", "queue(sk, entry)", "e.version == 6"),
    *(Probe("E-45", "sock.cmsg:_recv4", f"control.append((SOL_IP, {rest}))") for rest in (
        "IP_TTL, _INT.pack(rx.ttl)",
        "IP_TOS, bytes((rx.tos,))", "IP_ORIGDSTADDR, _SOCKADDR_IN.pack(AF_INET, port, rx.dst)",
    )),
    Probe("E-45", "sock.cmsg:recv_cmsgs", "iif, specific = 0, ANY4", "info"),
    Probe("E-45", "sock.cmsg:_send4", "wanted.any_source = not wanted.saddr"),
    Probe("E-45", "sock.cmsg:_send4", "raise error(EINVAL)"),
    Probe("E-45", "sock.options:_get_mtu", "mtu = sk.dst.mtu(now)"),
    Probe("E-45", "sock.options:_get_mtu", "raise error(ENOTCONN)"),
    *(Probe("E-46", "sock.cmsg:_recv6", f"control.append((SOL_IPV6, {rest}))") for rest in (
        "IPV6_HOPLIMIT, _INT.pack(rx.ttl)", "IPV6_TCLASS, _INT.pack(rx.tos)",
        "IPV6_ORIGDSTADDR, packed",
    )),
    Probe("E-46", "sock.cmsg:recv_cmsgs", "if sk.family == AF_INET6 and flags & F_RECVPKTINFO6:",
          "flags & F_RECVPKTINFO6"),
    Probe("E-46", "sock.cmsg:_send6", "wanted.saddr = saddr or wanted.saddr"),
    Probe("E-46", "sock.cmsg:_send_mapped_pktinfo", "wanted.any_source = not wanted.saddr"),
)  # fmt: skip


def _reached(programs: list[Program]) -> Counter[int]:
    total: Counter[int] = Counter()
    for number, program in enumerate(programs):
        with Recorder(PROBES) as recorder:
            play_stack(program, Place(number))
        total.update(i for i, probe in enumerate(PROBES) if probe in recorder.hits)
    return total


def table(programs: list[Program], workers: int = 2) -> list[tuple[int, Probe]]:
    """How many of `programs` reach each probe."""
    total: Counter[int] = Counter()
    with ProcessPoolExecutor(workers) as pool:
        for part in pool.map(_reached, [programs[i::workers] for i in range(workers)]):
            total.update(part)
    return [(total[i], probe) for i, probe in enumerate(PROBES)]


def least(programs: int) -> float:
    """How many of so many programs must reach a probe."""
    return LEAST * programs / 2000
