"""The host as a whole: making sockets (table G.1), and UDP to itself."""

from errno import EAFNOSUPPORT, EINVAL, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT

import pytest

from ustack.link.loopback import Loopback
from ustack.seeds import Seeds
from ustack.sock.sock import AF_INET, AF_INET6, MSG_DONTWAIT, SOCK_DGRAM, SOCK_STREAM
from ustack.stack import Stack


@pytest.fixture
def stack():
    return Stack(seeds=Seeds(1), loopback=Loopback())


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
@pytest.mark.parametrize(
    ("kind", "proto", "result"), [(SOCK_STREAM, 0, 6), (SOCK_STREAM, 6, 6), (SOCK_DGRAM, 17, 17)]
)
def test_sockets(stack, family, kind, proto, result):
    sk = stack.socket(family, kind, proto)
    assert (sk.family, sk.type, sk.protocol, sk.nonblocking) == (family, kind, result, False)
    assert stack.socket(family, kind | 0x80800).nonblocking


@pytest.mark.parametrize(
    ("family", "kind", "proto", "errno"),
    [
        (999, SOCK_STREAM, 0, EAFNOSUPPORT), (1, SOCK_STREAM, 0, EAFNOSUPPORT),
        (AF_INET, 99, 0, EINVAL), (AF_INET, 11, 0, EINVAL), (AF_INET, SOCK_STREAM | 16, 0, EINVAL),
        (AF_INET, SOCK_STREAM, 300, EINVAL), (AF_INET, SOCK_STREAM, -1, EINVAL),
        (AF_INET, 5, 0, ESOCKTNOSUPPORT), (AF_INET, 4, 0, ESOCKTNOSUPPORT),
        (AF_INET, SOCK_STREAM, 17, EPROTONOSUPPORT), (AF_INET6, SOCK_DGRAM, 6, EPROTONOSUPPORT),
        (AF_INET, 3, 1, EPERM),
    ],
)  # fmt: skip
def test_sockets_that_cannot_be(stack, family, kind, proto, errno):
    with pytest.raises(OSError) as caught:
        stack.socket(family, kind, proto)
    assert caught.value.errno == errno


@pytest.mark.parametrize(
    ("family", "here"), [(AF_INET, b"\x7f\0\0\x01"), (AF_INET6, bytes(15) + b"\x01")]
)
@pytest.mark.parametrize("size", [5, 65000])
def test_udp_to_itself(stack, family, here, size):
    sender, receiver = stack.socket(family, SOCK_DGRAM), stack.socket(family, SOCK_DGRAM)
    receiver.prot.bind(receiver, (here, 7777), 0)
    data = bytes(range(256)) * 300
    sender.prot.sendmsg(sender, data[:size], 0, 0, (here, 7777))
    assert stack.softirq_pending
    stack.run_softirq(1)
    got = receiver.prot.recvmsg(receiver, 70000, MSG_DONTWAIT, 1)
    assert b"".join(got.chunks) == data[:size]
    assert got.addr[0] == here
    assert sender.wmem_alloc == 0
