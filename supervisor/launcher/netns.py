"""A network namespace with one door: a listening socket in it, handed out.

Made by the process that becomes a sandbox, as the tenant, before anything of the tenant's runs: a
user namespace that owns a network namespace, its loopback up, and the listener. The sandbox then
lies in a user namespace below, from where it can change nothing of it. Who is connected to through
the listener is whoever holds it, outside.
"""

import os
import socket
import struct
from typing import Final

from protocol import descriptors
from protocol.environment import PROXY
from supervisor.zygote import linux, roots

BACKLOG: Final = 64
_LOOPBACK: Final = 1  # the first interface of every namespace
# rtnetlink(7), netlink(7): the numbers of linux/rtnetlink.h and linux/netlink.h.
_RTM_NEWLINK: Final = 16
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_IFF_UP: Final = 1
_NLMSG_ERROR: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_INTERFACE: Final = struct.Struct("=BxHiII")
_REPLY_BYTES: Final = 4096


def enter(door: int, uid: int, gid: int) -> None:
    """Enter a new network namespace, and hand a listener in it over on `door`, which is closed.

    Args:
        door: A `SEQPACKET` socket.
        uid: The caller's.
        gid: The caller's.

    Raises:
        OSError: the system refuses.
    """
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
    roots.map_ids(uid, gid)
    _bring_up_loopback()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        socket.socket(fileno=door) as channel,
    ):
        listener.bind(PROXY)
        listener.listen(BACKLOG)
        descriptors.send(channel, b"listener", [listener.fileno()])


def _bring_up_loopback() -> None:
    body = _INTERFACE.pack(socket.AF_UNSPEC, 0, _LOOPBACK, _IFF_UP, _IFF_UP)
    size = _HEADER.size + len(body)
    message = _HEADER.pack(size, _RTM_NEWLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.send(message)
        reply = route.recv(_REPLY_BYTES)
    kind = _HEADER.unpack_from(reply)[1]
    error = struct.unpack_from("=i", reply, _HEADER.size)[0] if kind == _NLMSG_ERROR else 0
    if error:
        raise OSError(-error, os.strerror(-error))
