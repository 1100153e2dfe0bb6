"""Sockets of a stack under the names of `trio.socket`.

    from ustack import socket

    with socket.use_stack(stack):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)

Every public name of `trio.socket` is here, except those that docs/sockets.md lists with
the reason. Beside them: the constants that Python's `socket` lacks, and `use_stack`,
`current_stack`, `poll`, `select`, `Epoll`.
"""

# ruff: noqa: F403, I001 - `x as x` is how a typed package says that a name is public

import trio.socket as _trio_socket
from trio.socket import (
    gaierror as gaierror,
    gethostname as gethostname,
    getprotobyname as getprotobyname,
    herror as herror,
    htonl as htonl,
    htons as htons,
    inet_aton as inet_aton,
    inet_ntoa as inet_ntoa,
    inet_ntop as inet_ntop,
    inet_pton as inet_pton,
    ntohs as ntohs,
    set_custom_hostname_resolver as set_custom_hostname_resolver,
    set_custom_socket_factory as set_custom_socket_factory,
)

from ustack.sockets.constants import *
from ustack.sockets.namespace import (
    current_stack as current_stack,
    from_stdlib_socket as from_stdlib_socket,
    fromfd as fromfd,
    getaddrinfo as getaddrinfo,
    getnameinfo as getnameinfo,
    if_indextoname as if_indextoname,
    if_nameindex as if_nameindex,
    if_nametoindex as if_nametoindex,
    socket as socket,
    use_stack as use_stack,
)
from ustack.sockets.poll import Epoll as Epoll, poll as poll, select as select
from ustack.sockets.socket import SocketType as SocketType

# Constants that mean nothing to a stack (of CAN, TIPC, netlink and so on), and those that
# later versions of Python add.
globals().update(
    {
        name: getattr(_trio_socket, name)
        for name in dir(_trio_socket)
        if name.isupper() and not name.startswith("_") and name not in globals()
    }
)
