"""ICMP errors about our segments: C-17, E-36 to E-38, F-11, F-12."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import PEER_PORT, PORT, SOL_SOCKET, Bench
from ustack.tcp.state import CLOSE, ESTABLISHED
from ustack.wire.checksum import fold, partial_sum, pseudo_sum

IP_RECVERR = 11
_CODES = (
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.ECONNREFUSED, None,
    errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENONET, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTUNREACH,
    errno.EHOSTUNREACH, errno.EHOSTUNREACH,
)  # fmt: skip


def icmp(b: Bench, type_: int, code: int, seq: int = 0, info: int = 0, **fields) -> None:
    """A router says so about our segment `seq`."""
    sport, dport = fields.get("sport", PORT), fields.get("dport", PEER_PORT)
    tcp = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    tcp += ((b.iss + seq) % 2**32).to_bytes(4, "big")
    if b.v6:
        quoted = b"\x60\0\0\0\0\x14\x06\x40" + b.local + b.peer + tcp + bytes(12)
        body = bytes((type_, code, 0, 0)) + info.to_bytes(4, "big") + quoted
        total = partial_sum(body) + pseudo_sum(b.peer, b.local, 58, len(body))
        head = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\x3a\x40" + b.peer + b.local
        b.deliver(head + body[:2] + (0xFFFF ^ fold(total)).to_bytes(2, "big") + body[4:])
        return
    quoted = b"\x45\0\0\x28\0\0\x40\0\x40\x06\0\0" + b.local + b.peer + tcp
    body = bytes((type_, code, 0, 0)) + info.to_bytes(4, "big") + quoted
    body = body[:2] + (0xFFFF ^ fold(partial_sum(body))).to_bytes(2, "big") + body[4:]
    head = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + bytes(4) + b"\x40\x01"
    addrs = b.peer + b.local
    csum = 0xFFFF ^ fold(partial_sum(head + b"\0\0" + addrs))
    b.deliver(head + csum.to_bytes(2, "big") + addrs + body)


def error(b: Bench) -> int:
    return b.getopt(SOL_SOCKET, 4)


@pytest.mark.parametrize("code", range(16))
def test_c17_unreachable_during_connect(code):
    b = Bench.syn_sent()
    icmp(b, 3, code)
    if _CODES[code] is None:
        assert b.sk.state != CLOSE
    else:
        assert b.sk.state == CLOSE
        assert error(b) == _CODES[code]
        assert not b.stack.tcp.established
        assert b.sk.wmem_queued == 0


@pytest.mark.parametrize(("type_", "number"), [(11, errno.EHOSTUNREACH), (12, errno.EPROTO)])
def test_c17_other_types_during_connect(type_, number):
    b = Bench.syn_sent()
    icmp(b, type_, 0)
    assert error(b) == number


def test_c17_what_does_not_end_an_attempt():
    b = Bench.syn_sent()
    icmp(b, 4, 0)  # source quench says nothing
    icmp(b, 3, 3, seq=5)
    icmp(b, 3, 3, seq=-1)
    icmp(b, 3, 3, dport=PEER_PORT + 1)
    icmp(b, 3, 16)
    icmp(b, 5, 0)
    assert b.sk.state != CLOSE
    assert b.stack.mib["TcpExtOutOfWindowIcmps"] == 2


def test_c17_ipv6():
    for type_, code, number in (
        (1, 0, errno.ENETUNREACH),
        (1, 1, errno.EACCES),
        (1, 4, errno.ECONNREFUSED),
        (3, 0, errno.EHOSTUNREACH),
        (4, 0, errno.EPROTO),
    ):
        b = Bench.syn_sent(v6=True)
        icmp(b, type_, code)
        assert error(b) == number, (type_, code)


def test_a_blocking_connect_is_told():
    b = Bench()
    b.new_socket()
    b.sk.prot.bind(b.sk, (b.local, PORT), b.now)
    call = b.start("connect", (b.peer, PEER_PORT))
    icmp(b, 3, 1)
    assert call.error.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize(
    ("type_", "code", "ends"),
    [(3, 0, True), (3, 1, True), (3, 3, False), (3, 13, False), (11, 0, True), (12, 0, True)],
)
def test_what_ends_a_half_open_request(type_, code, ends):
    b = Bench.listening()
    b.inject("S", seq=0, options=b.peer_syn_options())
    icmp(b, type_, code, seq=9)
    assert b.sk.accept_queue.half_open == 1
    icmp(b, type_, code)
    assert b.sk.accept_queue.half_open == (not ends)


def test_an_established_connection_remembers_it_for_a_timeout():
    b = Bench.connected()
    b.send(10)
    icmp(b, 3, 1, seq=1)
    assert b.sk.state == ESTABLISHED
    assert b.sk.err == 0
    assert b.sk.err_soft == errno.EHOSTUNREACH
    icmp(b, 4, 0, seq=1)
    assert b.sk.err_soft == errno.EHOSTUNREACH
    b.run(2_000_000)
    b.raises(errno.EHOSTUNREACH, b.recv)
    b = Bench.connected()
    b.send(10)
    icmp(b, 3, 1, seq=1)
    b.inject("A", ack=11)
    assert b.sk.err_soft == 0  # progress: it was not the last word


def test_e38_with_recverr_it_is_told_at_once():
    b = Bench.connected()
    b.setopt(0, IP_RECVERR, 1)
    b.send(10)
    icmp(b, 3, 1, seq=1)
    b.raises(errno.EHOSTUNREACH, b.recv)
    assert b.sk.state == ESTABLISHED


def test_f11_the_path_takes_less():
    b = Bench.connected()
    b.send(2920)
    b.take()
    icmp(b, 3, 4, seq=1, info=1000)
    assert b.sk.mss_cache == 960
    assert all(s.len <= 960 for s in b.take())
    icmp(b, 3, 4, seq=1, info=1400)
    assert b.sk.mss_cache == 960  # never more
    b = Bench.connected()
    icmp(b, 3, 4, seq=-5, info=1000)
    assert b.sk.mss_cache == 1460


def test_f12_too_small_a_path():
    b = Bench.connected()
    b.send(2920)
    b.take()
    icmp(b, 3, 4, seq=1, info=300)
    assert b.sk.mss_cache == 512
    assert not b.take()[0].raw[6] & 0x40


@pytest.mark.parametrize("mode", [0, 4, 5])  # DONT, INTERFACE, OMIT
def test_f12_modes_that_do_not_listen(mode):
    b = Bench.connected()
    b.setopt(0, 10, mode)
    b.send(2920)
    icmp(b, 3, 4, seq=1, info=1000)
    assert b.sk.mss_cache == 1460


def test_f11_ipv6_packet_too_big():
    b = Bench.connected(v6=True, mss=1440)
    b.send(2880)
    icmp(b, 2, 0, seq=1, info=1300)
    assert b.sk.mss_cache == 1240
    icmp(b, 2, 0, seq=1, info=1000)
    assert b.sk.mss_cache == 1240


@pytest.mark.parametrize(
    ("v6", "type_", "code", "reverts"),
    [(False, 3, 0, True), (False, 3, 1, True), (False, 3, 5, False), (False, 11, 0, False),
     (True, 1, 0, True), (True, 1, 3, False), (True, 3, 0, False)],
)  # fmt: skip
def test_d5_no_way_takes_a_back_off_back(v6, type_, code, reverts):
    b = Bench.connected(v6=v6, rtt=100)
    b.send(100)
    while b.sk.rtt.backoff < 2:
        b.run(10)
    b.take()
    rto, last = b.sk.rtt.rto_us, b.ms
    icmp(b, type_, code, seq=1)
    assert b.sk.rtt.backoff == (1 if reverts else 2)
    b.run(rto / 1000 + 1)
    wait = b.take()[0].at - last
    assert wait == pytest.approx(rto / 2000 if reverts else rto / 1000, abs=11)


def test_d5_a_back_off_that_was_not_called_for_may_have_passed_already():
    b = Bench.connected(rtt=100)
    b.send(100)
    while b.sk.rtt.backoff < 2:
        b.run(1)
    b.run(b.sk.rtt.rto_us * 0.6 / 1000)
    b.take()
    icmp(b, 3, 1, seq=1)
    b.expect("PA", seq=1, len=100)
    assert b.sk.rtt.backoff == 2


def test_d5_only_an_error_about_the_head_after_a_retransmission_counts():
    b = Bench.connected(rtt=100)
    b.send(100)
    icmp(b, 3, 1, seq=1)
    assert b.sk.rtt.backoff == 0
    while not b.sk.rtt.backoff:
        b.run(10)
    icmp(b, 3, 1, seq=2)
    assert b.sk.rtt.backoff == 1
