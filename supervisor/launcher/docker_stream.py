"""The byte stream of a program that Docker has started, and what is on it.

A connection is upgraded from HTTP to raw bytes; with a terminal they are the terminal's, without
one each piece of output has a header that says of which stream it is. Reference:
https://docs.docker.com/engine/api/v1.41/#operation/ContainerAttach.
"""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Iterator
from typing import Final

from protocol import limits
from protocol.errors import ErrorCode, GatewayError

STDOUT: Final = 1
STDERR: Final = 2
CHUNK_BYTES: Final = 64 * limits.KIB
_HEADER: Final = struct.Struct(">BxxxI")
_HEAD_BYTES_MAX: Final = 8 * limits.KIB
_END_OF_HEAD: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
_SECONDS: Final = 30.0


async def start(path: str, api: str, exec_id: str, *, terminal: bool) -> socket.socket:
    """Start a program and take over its stream; the socket does not block, and is the caller's.

    Args:
        path: The daemon's socket.
        api: The version of its API.
        exec_id: What it calls the program.
        terminal: Whether the program was created with one.

    Raises:
        GatewayError: UNAVAILABLE, the daemon refuses or is gone.
    """
    body = json.dumps({"Detach": False, "Tty": terminal}).encode()
    head = (
        f"POST /v{api}/exec/{exec_id}/start HTTP/1.1\r\nHost: docker\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(_SECONDS):
            await loop.sock_connect(sock, path)
            await loop.sock_sendall(sock, head.encode() + body)
            answer = await _read_head(sock)
    except (OSError, TimeoutError) as error:
        sock.close()
        reason = f"Docker does not start programs now: {str(error) or 'no answer'}"
        raise GatewayError(ErrorCode.UNAVAILABLE, reason) from error
    except BaseException:
        sock.close()
        raise
    status = _STATUS.match(answer)
    if status is None or status[1] not in (b"101", b"200"):
        sock.close()
        reason = answer.splitlines()[0].decode(errors="replace") if answer else "no answer"
        raise GatewayError(ErrorCode.UNAVAILABLE, f"Docker did not start the program: {reason}")
    return sock


async def _read_head(sock: socket.socket) -> bytes:
    """Read to the end of the head and not a byte more: what follows is the program's."""
    loop = asyncio.get_running_loop()
    head = b""
    while not head.endswith(_END_OF_HEAD) and len(head) < _HEAD_BYTES_MAX:
        byte = await loop.sock_recv(sock, 1)
        if not byte:
            break
        head += byte
    return head


class Demultiplexer:
    """Parts the output of a program without a terminal by its streams, as it comes."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take what was read; gives each piece of output with its stream's number."""
        view = memoryview(data)
        while view:
            if not self._left:
                missing = _HEADER.size - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) < _HEADER.size:
                    return
                self._stream, self._left = _HEADER.unpack(self._head)
                self._head = b""
                continue
            piece, view = view[: self._left], view[self._left :]
            self._left -= len(piece)
            yield self._stream, bytes(piece)
