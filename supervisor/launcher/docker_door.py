"""How a container's listener is handed out, where the daemon has made the network namespace.

Its first program (`supervisor.launcher.doorway`) makes a listening socket in there and sends it to
a socket of ours that the container sees. That takes no right that a tenant has not, so it is the
same beside any daemon, as root and as anybody: nobody enters the namespace.
"""

import contextlib
import os
import secrets
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.environment import PROXY
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher import doorway
from supervisor.launcher.docker_profile import DOOR
from supervisor.launcher.readable import readable

_SOURCE: Final = Path(doorway.__file__).read_text()
PROGRAM: Final = ("python3", "-I", "-S", "-c", _SOURCE, DOOR, *map(str, PROXY))
"""What is put before the arguments of a program that is to have a door."""
_NAME_BYTES: Final = 16
_PEER: Final = struct.Struct("3i")


class DockerDoor:
    """A socket with a name, for one container; of use once.

    Args:
        folder: Where it is made; nobody else's.

    Raises:
        GatewayError: UNAVAILABLE, it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder / secrets.token_hex(_NAME_BYTES)
        self.path: Final = self._folder / "door"
        self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._folder.mkdir(mode=0o711, parents=True)
            # A path may be longer than an address: by way of the directory's descriptor.
            directory = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
            try:
                self._socket.bind(f"/proc/self/fd/{directory}/{self.path.name}")
            finally:
                os.close(directory)
            self.path.chmod(0o666)  # its user inside is the tenant's
            self._socket.listen(1)
            self._socket.setblocking(False)
        except OSError as error:
            self.close()
            raise lacking(str(error)) from error

    async def listener(self, holds: Callable[[int], bool]) -> int:
        """Wait for the listener, which the caller closes. Bound the wait outside.

        Args:
            holds: Says whether a process is in the container.

        Raises:
            GatewayError: UNAVAILABLE, something else has come.
        """
        while True:
            await readable(self._socket.fileno())
            with contextlib.suppress(BlockingIOError):
                channel, _ = self._socket.accept()
                with channel:
                    if holds(_peer(channel)):
                        await readable(channel.fileno())
                        return _receive(channel)

    def close(self) -> None:
        """Close it, and take the name away."""
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def lacking(reason: str) -> GatewayError:
    """Give the refusal of a sandbox that gets no door."""
    message = f"the sandbox's network cannot be made: {reason}"
    return GatewayError(ErrorCode.UNAVAILABLE, message, field="network")


def _peer(channel: socket.socket) -> int:
    """Give the process that has connected (unix(7), SO_PEERCRED)."""
    found = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(found)[0])


def _receive(channel: socket.socket) -> int:
    with contextlib.suppress(OSError):
        _, found, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if found and _listens(found[0]):
            return found[0]
        for descriptor in found:
            os.close(descriptor)
    raise lacking("what was handed out is no listener")


def _listens(descriptor: int) -> bool:
    sock = socket.socket(fileno=descriptor)
    try:
        return (
            sock.family == socket.AF_INET
            and sock.type == socket.SOCK_STREAM
            and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        )
    finally:
        sock.detach()
