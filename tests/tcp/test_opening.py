"""Opening: connect, listen, accept, half-open requests, the catch-all listener."""

from __future__ import annotations

import errno

import pytest

from tests.tcp.harness import (
    ISN,
    LOCAL4,
    MS,
    PEER4,
    PEER_PORT,
    PORT,
    SOL_SOCKET,
    SOL_TCP,
    Bench,
)
from tests.tcp.opening import assert_empty, new, syn
from ustack.tcp.state import CLOSE, ESTABLISHED, SYN_RECV, SYN_SENT
from ustack.wire.tcp import syn_options

ISNS = (0, 2**31 - 1, 2**32 - 1)
SO_ERROR, SO_RCVBUF, SO_LINGER, SO_KEEPALIVE, SO_ACCEPTCONN = 4, 8, 13, 9, 30
TCP_MAXSEG, TCP_SYNCNT, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP = 2, 7, 9, 10
TCP_QUICKACK, TCP_CONGESTION, TCP_NODELAY = 12, 13, 1


# -- connect -------------------------------------------------------------------------------


@pytest.mark.parametrize("isn", ISNS)
@pytest.mark.parametrize("peer_isn", ISNS)
def test_c14_c15_active_open_at_the_edges_of_sequence_space(isn, peer_isn):
    b = Bench.connected(isn=isn, peer_isn=peer_isn)
    b.send(b"hello")
    b.expect("PA", seq=1, ack=1, data=b"hello")
    b.inject("PA", data=b"world", ack=6)
    assert b.recv() == b"world"
    b.close()
    b.inject("FA", ack=7)
    assert not b.sk.host.sockets()


@pytest.mark.parametrize("isn", ISNS)
@pytest.mark.parametrize("peer_isn", ISNS)
def test_c3_c5_passive_open_at_the_edges_of_sequence_space(isn, peer_isn):
    b = Bench.accepted(isn=isn, peer_isn=peer_isn)
    b.inject("PA", data=b"hello")
    b.send(b"world")
    assert b.recv() == b"hello"
    b.inject("RA", ack=6)
    assert b.sk.state == CLOSE


def test_c14_syn_contents():
    b = Bench.syn_sent()
    s = b.expect("S", seq=0, raw_ack=0, win=64240)
    assert s.raw_options.hex().startswith("020405b40402080a")
    assert s.raw_options.hex().endswith("0103030a")
    assert s.raw[6] & 0x40  # DF
    plain = Bench.syn_sent(tcp_timestamps=0)
    assert plain.expect("S").raw_options.hex() == "020405b4010104020103030a"


def test_b60_initial_windows():
    def small(b: Bench) -> None:
        b.setopt(SOL_SOCKET, SO_RCVBUF, 20000)

    b = Bench(tcp_timestamps=0)
    b.new_socket()
    small(b)
    b.start_connect()
    s = b.expect("S", win=18980)
    assert s.options.wscale == 0
    b = Bench.listening()
    b.ts = True
    syn(b)
    assert b.expect("SA", win=65160).options.wscale == -1  # the peer did not offer one


def test_c12_connect_says_in_each_state_what_the_kernel_says():
    b = Bench.syn_sent()
    b.raises(errno.EALREADY, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert b.sk.prot.connect(b.sk, (PEER4, PEER_PORT), b.now) is None
    b.raises(errno.EISCONN, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.inject("RA")
    b.raises(errno.EISCONN, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    listener = Bench.listening()
    listener.raises(errno.EISCONN, listener.sk.prot.connect, (PEER4, 1), listener.now)


def test_c12_a_failed_attempt_is_told_once_and_can_be_repeated():
    b = Bench.syn_sent()
    b.inject("RA", seq=0, ack=1)
    b.raises(errno.ECONNREFUSED, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    assert b.sk.sport == PORT  # the user has chosen it
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    syn = b.take()[-1]
    b.inject("RA", seq=0, ack=syn.seq + 1)
    assert b.getopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED
    b.raises(errno.ECONNABORTED, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)


def test_c12_a_port_chosen_for_an_attempt_goes_with_it():
    b = Bench()
    sk = b.new_socket()
    b.raises(errno.EINPROGRESS, sk.prot.connect, (PEER4, PEER_PORT), b.now)
    port = sk.sport
    b.sport = port
    b.inject("RA", seq=0, ack=1)
    assert sk.sport == 0
    assert not b.stack.tcp.ports.owners(port)
    assert not sk.host.established


def test_c12_blocking_connect_waits_for_the_outcome():
    b = Bench()
    b.new_socket()
    b.sk.prot.bind(b.sk, (LOCAL4, PORT), b.now)
    call = b.start("connect", (PEER4, PEER_PORT))
    assert not call.done
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert call.done
    assert call.error is None


def test_c12_sndtimeo_bounds_a_blocking_connect():
    b = Bench()
    b.new_socket()
    b.sk.sndtimeo = 500 * MS
    call = b.start("connect", (PEER4, PEER_PORT))
    b.run(499)
    assert not call.done
    b.run(2)
    assert call.error is not None
    assert call.error.errno == errno.EINPROGRESS
    again = b.start("connect", (PEER4, PEER_PORT))
    b.run(501)
    assert again.error.errno == errno.EALREADY


def test_c12_no_connection_to_multicast_broadcast_or_nowhere():
    b = Bench()
    b.new_socket()
    for address in (bytes([224, 0, 0, 1]), bytes([10, 9, 0, 255]), b"\xff" * 4, bytes([8] * 4)):
        b.raises(errno.ENETUNREACH, b.sk.prot.connect, (address, 7), b.now)
        assert b.sk.sport == 0


def test_c12_bound_4_tuple_in_use():
    b = Bench.connected()
    other = new(b)
    other.reuse = b.sk.reuse = True
    other.host.ports.inherit(other, b.sk)
    other.sport, other.saddr, other.rcv_saddr = PORT, LOCAL4, LOCAL4
    with pytest.raises(OSError) as why:
        other.prot.connect(other, (PEER4, PEER_PORT), b.now)
    assert why.value.errno == errno.EADDRNOTAVAIL


def test_c13_syn_retries():
    b = Bench.syn_sent()
    b.take()
    b.run(200_000)
    times = [s.at for s in b.take()]
    assert times == [pytest.approx(t * 1000, abs=1) for t in (1, 2, 3, 4, 5, 7, 11, 19, 35, 67)]
    assert b.sk.state == CLOSE
    assert b.sk.err == errno.ETIMEDOUT


def test_c15_a_wrong_ack_is_reset_and_the_syn_repeated_soon():
    b = Bench.syn_sent()
    b.take()
    b.inject("A", seq=0, ack=7)
    b.expect("R", seq=7)
    b.run(9)
    b.expect("S", seq=0)
    assert b.sk.state == SYN_SENT


def test_c15_what_is_ignored_in_syn_sent():
    b = Bench.syn_sent()
    b.take()
    for flags in ("R", "A", "F", "P", ""):
        b.inject(flags, seq=0, ack=1)
        b.expect_nothing()
        assert b.sk.state == SYN_SENT


def test_c15_timestamp_echo_out_of_range_is_reset():
    b = Bench.syn_sent(ts=True)
    ours = b.sent[0].options.tsval
    b.take()
    for echo in (ours - 1, ours + 1):
        b.inject("SA", seq=0, ack=1, options=syn_options(1460, None, True, (5, echo)))
        b.expect("R", seq=1)
    b.run(40)
    b.inject("SA", seq=0, ack=1, options=syn_options(1460, None, True, (5, ours + 40)))
    assert b.sk.state == ESTABLISHED


def test_c15_a_waiting_writer_saves_the_ack():
    b = Bench.syn_sent()
    b.take()
    call = b.start_send(b"hello")
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    assert call.done
    assert b.brief() == [("PA", 1, 5)]


def test_c15_interactive_mode_delays_the_ack():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_TCP, TCP_QUICKACK, 0)

    b = Bench()
    b.new_socket()
    prepare(b)
    b.start_connect()
    b.take()
    b.inject("SA", seq=0, ack=1, options=b.peer_syn_options())
    b.expect_nothing()
    b.run(199)
    b.expect_nothing()
    b.run(2)
    b.expect("A", seq=1, ack=1)


def test_c16_simultaneous_open():
    b = Bench.syn_sent(tcp_timestamps=0)
    own = b.expect("S").raw_options
    b.inject("S", seq=0, options=b"")  # whatever the peer offers, our options stand
    assert b.sk.state == SYN_RECV
    assert b.poll() == 0
    b.raises(errno.EALREADY, b.sk.prot.connect, (PEER4, PEER_PORT), b.now)
    assert b.expect("SA", seq=0, ack=1).raw_options == own
    b.inject("SA", seq=0, ack=1, options=b"")
    assert b.sk.state == ESTABLISHED
    b.expect("A", seq=1, ack=1)
    assert b.sk.snd_wnd == 65535
    b.send(b"x")
    b.expect("PA", seq=1)


def test_c16_a_shutdown_in_syn_recv_waits_for_the_handshake():
    b = Bench.syn_sent()
    b.inject("S", seq=0, options=b.peer_syn_options())
    b.take()
    b.shutdown()
    b.expect_nothing()
    b.inject("A", ack=1)
    b.expect("FA", seq=1)


def test_c16_a_crossed_syn_is_repeated_and_given_up():
    b = Bench.syn_sent()
    b.take()
    b.inject("S", seq=0, options=b.peer_syn_options())
    b.take()
    b.run(200_000)
    assert {s.flags for s in b.take()} == {"SA"}
    assert b.sk.state == CLOSE
    assert b.sk.err == errno.ETIMEDOUT


@pytest.mark.parametrize("address", [b"\x7f\0\0\x01", LOCAL4])
@pytest.mark.parametrize("isn", [ISN, *ISNS])
def test_c16_self_connection(address, isn):
    b = Bench(isn=isn)
    b.new_socket()
    b.checks = False
    b.sk.prot.bind(b.sk, (address, PORT), b.now)
    b.raises(errno.EINPROGRESS, b.sk.prot.connect, (address, PORT), b.now)
    b.stack.run_softirq(b.now)
    assert b.sk.state == ESTABLISHED
    assert b.sk.prot.connect(b.sk, (address, PORT), b.now) is None
    b.send(b"to myself")
    b.stack.run_softirq(b.now)
    assert b.recv() == b"to myself"
    b.stack.run_softirq(b.now)
    b.shutdown()
    b.stack.run_softirq(b.now)
    b.run(300)
    b.stack.run_softirq(b.now)
    assert b.recv() == b""
    b.close()
    b.run(200_000)
    assert_empty(b)


def test_a40_an_absent_mss_option_means_the_default():
    assert Bench.connected(mss=None).sk.mss_cache == 536
    assert Bench.connected(mss=None, v6=True).sk.mss_cache == 1220
    assert Bench.accepted(mss=None).sk.mss_cache == 536
    assert Bench.accepted(mss=None, v6=True).sk.mss_cache == 1220


def test_a41_maxseg_lowers_what_is_offered_and_what_is_sent():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_TCP, TCP_MAXSEG, 500)

    b = Bench()
    b.new_socket()
    prepare(b)
    b.start_connect()
    assert b.getopt(SOL_TCP, TCP_MAXSEG) == 500 - 12  # room for timestamps
    assert b.expect("S").options.mss == 500
    b.inject("SA", seq=0, ack=1, options=b"\2\4\x05\xb4")
    assert b.getopt(SOL_TCP, TCP_MAXSEG) == 500  # the peer has none
    b = Bench.accepted(prepare=prepare)
    assert b.sk.mss_cache == 500


def test_c18_disconnect_makes_the_socket_new_but_keeps_what_the_user_set():
    def prepare(b: Bench) -> None:
        b.setopt(SOL_TCP, TCP_NODELAY, 1)
        b.setopt(SOL_SOCKET, SO_RCVBUF, 20000)
        b.setopt(SOL_TCP, TCP_CONGESTION, b"cubic")

    b = Bench.connected(prepare=prepare)
    b.inject("PA", data=b"unread")
    b.inject("PA", seq=20, data=b"hole")
    b.send(b"unacked")
    b.take()
    b.sk.prot.connect(b.sk, None, b.now)
    b.expect("RA", seq=8, ack=7)
    assert b.sk.state == CLOSE
    assert b.poll() == 0x4 | 0x8 | 0x10 | 0x100
    b.raises(errno.ECONNRESET, b.recv)
    b.raises(errno.ENOTCONN, b.recv)
    assert (b.sk.sport, b.sk.saddr) == (PORT, LOCAL4)
    assert b.sk.rmem_alloc == b.sk.wmem_queued == b.ioctl(0x541B) == 0
    assert b.ioctl(0x5411) == 7 + 65535 + 2  # the gap before the next ISN, as Linux shows it
    assert b.getopt(SOL_TCP, TCP_NODELAY) == 1
    assert b.getopt(SOL_SOCKET, SO_RCVBUF) == 40000
    assert b.sk.cc.name == "cubic"
    assert b.getopt(SOL_TCP, TCP_WINDOW_CLAMP) == 0
    b.peer_seq = 1
    b.start_connect()
    gap = 8 + 65535 + 2
    b.expect("S", seq=gap, win=18980)
    b.inject("SA", seq=0, ack=gap + 1, options=b.peer_syn_options())
    b.inject("PA", ack=gap + 1, data=b"again")
    assert b.recv() == b"again"


def test_c18_a_fresh_object_and_a_disconnected_one_differ_in_nothing_but_the_user_settings():
    b = Bench.connected(ts=True, wscale=7)
    for _ in range(12):
        b.inject("PA", data=b"x" * 500, urg=3)
        b.send(3000)
    b.inject("PA", seq=b.peer_seq + 50, data=b"y")
    b.run(1000)
    b.sk.prot.connect(b.sk, None, b.now)
    b.sk.sock_error()
    fresh = new(b)
    b.sk.prot.bind(fresh, (LOCAL4, 9), b.now)
    ours, theirs = _state(b.sk), _state(fresh)
    kept = {"sndbuf", "rcvbuf", "sport", "last_port", "heap_at", "ip_id", "page_used"}
    kept |= {"snd_una", "snd_nxt", "write_seq"}  # what SIOCOUTQ shows
    kept |= {"mss_cache", "pmtu_cookie", "advmss", "snd_wnd"}  # and tcp_info
    kept |= {"rcv_ssthresh", "rcv_wnd", "rcvq_space", "rcv_mss"}
    assert {k for k in ours if ours[k] != theirs[k]} <= kept


def _state(sk) -> dict[str, object]:
    """Every plain value of a socket."""
    names = [name for cls in type(sk).__mro__ for name in getattr(cls, "__slots__", ())]
    values = {name: getattr(sk, name, None) for name in names if name != "__weakref__"}
    found = {k: v for k, v in values.items() if isinstance(v, int | bytes | tuple | str | None)}
    for part in ("rtt", "min_rtt", "cc", "sacks"):
        thing = getattr(sk, part)
        for cls in type(thing).__mro__:
            for name in getattr(cls, "__slots__", ()):
                value = getattr(thing, name, None)
                if isinstance(value, int | str | float | None):
                    found[f"{part}.{name}"] = value
    return found


def test_what_tcp_info_says_before_the_answer():
    b = Bench.syn_sent()
    info = b.sk.prot.getsockopt(b.sk, SOL_TCP, 11, 248, b.now)
    assert info[6] == 0  # no window scaling yet
    assert int.from_bytes(info[20:24], "little") == 88  # rcv_mss


@pytest.mark.parametrize("flags", ["", "F", "R", "A"])
def test_c15_what_says_nothing_to_an_attempt_is_a_drop(flags):
    b = Bench.syn_sent()
    b.inject(flags, seq=0, ack=1)
    assert b.sk.state == SYN_SENT
    assert b.sk.drops == 1
