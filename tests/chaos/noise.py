"""A tenant that takes what it can get, as a process of its own: big bodies, slow readers, guesses.

Run as `noise.py <settings as JSON>`: `{"host", "port", "token", "tenant", "uploads", "streams",
"guesses"}`, the last three as numbers of connections. It writes `ready` when every stream has begun
and every kind of noise has been answered once; ends with its standard input, and then writes what
it did as JSON.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

BODY_BYTES: Final = 8 * 2**20 - 2**16 - 512
STREAM_TEXT_CHARS: Final = 200 * 1024
RECEIVE_BUFFER_BYTES: Final = 4096
FROM: Final = "127.0.0.2"
"""Its own address: places for connections and failures of tokens are counted by address."""
BITE_SECONDS: Final = 0.1
AGAIN_SECONDS: Final = 0.1
"""How long who was refused waits; with no pause it would be our own processor that is measured."""

_HEAD: Final = (
    "POST /rpc HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    "Authorization: Bearer {token}\r\nAccept: {accept}\r\nContent-Length: {length}\r\n\r\n"
)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(token: str, body: bytes, accept: str = "application/json") -> bytes:
    return _HEAD.format(token=token, accept=accept, length=len(body)).encode() + body


def call(method: str, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"%b","params":%b}' % (method.encode(), params)


class Noise:
    """All of one tenant's noise."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._address: Final = settings["host"], settings["port"]
        self._settings: Final = settings
        self.counts: Final[Counter[str]] = Counter()
        self._begun = 0
        self._uploaded = asyncio.Event()
        self._guessed = asyncio.Event()
        self._streaming = asyncio.Event()
        numbers = b"[" + b"1," * (BODY_BYTES // 2 - 64) + b"1]"
        text = b'{"key":"agent:main:noise","message":"%b"}' % (b"x" * (BODY_BYTES - 256))
        token = settings["token"]
        self._bodies: Final = (
            request(token, call("health", numbers)),
            request(token, call("sessions.send", text)),
            request(token, b"[" + numbers + b"]"),
        )

    async def run(self) -> None:
        """Be noisy until standard input ends."""
        acts: list[Callable[[int], Awaitable[None]]] = [
            *[self._upload] * self._settings["uploads"],
            *[self._stream] * self._settings["streams"],
            *[self._guess] * self._settings["guesses"],
        ]
        tasks = [asyncio.create_task(self._over(act, n)) for n, act in enumerate(acts)]
        for name, event in (
            ("uploads", self._uploaded),
            ("streams", self._streaming),
            ("guesses", self._guessed),
        ):
            if self._settings[name]:
                await event.wait()
        _say("ready")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _say(json.dumps(self.counts))

    async def _over(self, act: Callable[[int], Awaitable[None]], number: int) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await act(number)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _open(self, receive_buffer: int = 0) -> Streams:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind((FROM, 0))
            await asyncio.get_running_loop().sock_connect(sock, self._address)
            return await asyncio.open_connection(sock=sock, limit=max(receive_buffer, 1024))
        except BaseException:
            sock.close()
            raise

    async def _status(self, reader: asyncio.StreamReader) -> int:
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        _, _, length = lower.partition(b"content-length:")
        await reader.readexactly(int(length.split(b"\r\n", 1)[0]))
        return int(head.split(b" ", 2)[1])

    async def _upload(self, number: int) -> None:
        """Send one big body after the other."""
        reader, writer = await self._open()
        try:
            while True:
                writer.write(self._bodies[number % len(self._bodies)])
                status = await self._status(reader)
                self.counts[f"upload {status}"] += 1
                self._uploaded.set()
                if status == 429:
                    return
                number += 1
        finally:
            writer.transport.abort()

    async def _stream(self, number: int) -> None:
        """Read an answer a byte now and then."""
        reader, writer = await self._open(RECEIVE_BUFFER_BYTES)
        try:
            params = {"key": f"agent:main:noise:{number}", "message": "x" * STREAM_TEXT_CHARS}
            body = call("sessions.send", json.dumps(params).encode())
            writer.write(request(self._settings["token"], body, "text/event-stream"))
            await reader.readexactly(1)
            self.counts["streams"] += 1
            self._begun += 1
            if self._begun == self._settings["streams"]:
                self._streaming.set()
            while await reader.read(1):  # noqa: ASYNC110 - it takes its time
                await asyncio.sleep(BITE_SECONDS)
        finally:
            writer.transport.abort()

    async def _guess(self, number: int) -> None:
        """Claim to be the tenant, or nobody, over and over."""
        reader, writer = await self._open()
        try:
            guess = f"tk_{self._settings['tenant']}_{number:032x}" if number % 2 else "x" * 32
            body = request(guess, call("health", b"{}"))
            while True:
                writer.write(body)
                status = await self._status(reader)
                self.counts[f"guess {status}"] += 1
                self._guessed.set()
        finally:
            writer.transport.abort()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main() -> None:
    await Noise(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    # Where it would run is another machine: it takes no processor from whom it wakes (sched(7)).
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    uvloop.run(main())
