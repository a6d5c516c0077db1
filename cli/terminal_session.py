"""One terminal of a tenant's, between the gateway and our own screen."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from cli.acting import LIFE_SECONDS, Acting
from cli.screen import Screen
from protocol import limits

PROTOCOL: Final = "openclaw.terminal.v1"
READ_BYTES: Final = 4096
READS_MAX: Final = 16
RETRY_SECONDS: Final = 0.25
# When another token is taken, well before the first one ends.
RENEW_SECONDS: Final = LIFE_SECONDS / 2
END_OF_FILE: Final = b"\x04"
_SIGNAL_EXIT: Final = 128
_LINE_ENDS: Final = b"\r\n"


class Ended(NamedTuple):
    """Its program has ended, with this as a shell's exit code."""

    code: int


class Left(NamedTuple):
    """We have left it."""


class Away(NamedTuple):
    """It cannot be reached."""

    why: str


Over = Ended | Left | Away


class _Told(msgspec.Struct, frozen=True, rename="camel"):
    """What the gateway says of a terminal."""

    type: str
    from_byte: int = 0
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""


class Leaving:
    """Looks for what leaves a terminal: `~.` at the beginning of a line."""

    def __init__(self) -> None:
        self._is_at_beginning = True
        self._has_tilde = False

    def look(self, data: bytes) -> tuple[bytes, bool]:
        """Give what is typed of it, and whether we leave."""
        typed = bytearray()
        for byte in data:
            if self._has_tilde:
                self._has_tilde = False
                if byte == ord("."):
                    return bytes(typed), True
                typed += b"~"
                if byte == ord("~"):
                    self._is_at_beginning = False
                    continue
            elif self._is_at_beginning and byte == ord("~"):
                self._has_tilde = True
                continue
            typed.append(byte)
            self._is_at_beginning = byte in _LINE_ENDS
        return bytes(typed), False


class Session:
    """See the module.

    Args:
        acts: For the tenant.
        terminal_id: Which.
        screen: Ours.
    """

    def __init__(self, acts: Acting, terminal_id: str, screen: Screen) -> None:
        self._acts: Final = acts
        self._terminal_id: Final = terminal_id
        self._screen: Final = screen
        self._typed: Final[asyncio.Queue[bytes]] = asyncio.Queue(READS_MAX)
        self._unsent = b""
        self._leaving: Final = Leaving()
        self._next: int | None = None
        self._over: asyncio.Future[Over]
        self._renewed_at = 0.0

    async def run(self) -> Over:
        """Be there until it ends, or we leave."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        self._renewed_at = loop.time()
        resized = asyncio.Event()
        loop.add_signal_handler(signal.SIGWINCH, resized.set)
        reading = loop.create_task(self._read())
        try:
            over = await self._stay(resized)
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        if not isinstance(over, Ended):
            self._screen.calm()
        return over

    async def _stay(self, resized: asyncio.Event) -> Over:
        """Connect, again and again if need be."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limits.TERMINAL_AWAY_SECONDS
        why = "the gateway does not answer"
        while loop.time() < deadline:
            try:
                async with self._connected() as connection:
                    over = await self._talk(connection, resized)
                    if over is not None:
                        return over
                    deadline = loop.time() + limits.TERMINAL_AWAY_SECONDS
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else None
                reason = closed.rcvd.reason if closed.rcvd is not None else ""
                if code is not None and code > limits.SOCKET_REFUSED_CODE:
                    return Away(reason)
                why = f"the connection was lost ({reason or 'no word'})"
                if code == CloseCode.POLICY_VIOLATION:
                    await self._renew()
            except (OSError, InvalidHandshake, TimeoutError) as error:
                why = f"the gateway cannot be reached: {error}"
            if self._over.done():
                return self._over.result()
            if loop.time() - self._renewed_at >= RENEW_SECONDS:
                await self._renew()
            else:
                await asyncio.sleep(RETRY_SECONDS)
        return Away(why)

    async def _renew(self) -> None:
        await asyncio.to_thread(self._acts.renew)
        self._renewed_at = asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        context = self._acts.gateway.tls_context()
        where = "ws" if context is None else "wss"
        size = Screen.size()
        query = f"terminalId={self._terminal_id}&cols={size.columns}&rows={size.lines}"
        if self._next is not None:
            query += f"&fromByte={self._next}"
        async with connect(
            f"{where}://{self._acts.gateway.address}/terminal?{query}",
            subprotocols=[Subprotocol(PROTOCOL), Subprotocol(f"bearer.{self._acts.secret}")],
            compression=None,
            proxy=None,
            ssl=context,
        ) as connection:
            yield connection

    async def _talk(self, connection: ClientConnection, resized: asyncio.Event) -> Over | None:
        """Pass on both ways; gives None when it is time to connect anew.

        Raises:
            ConnectionClosed: the gateway did.
        """
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Future[Any]] = [
            loop.create_task(self._hear(connection)),
            loop.create_task(self._say(connection)),
            loop.create_task(self._tell_size(connection, resized)),
        ]
        try:
            left = self._renewed_at + RENEW_SECONDS - loop.time()
            done, _ = await asyncio.wait(
                [self._over, *tasks], timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks[1:]:
                task.cancel()
        if not done:
            # What was typed is there when the gateway has answered our close.
            await asyncio.gather(*tasks[1:], return_exceptions=True)
            await connection.close()
            await asyncio.gather(tasks[0], return_exceptions=True)
            return None if not self._over.done() else self._over.result()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        if self._over.done():
            tasks[0].cancel()
            return self._over.result()
        await tasks[0]  # which tells why it is closed
        return None

    # Inwards and outwards.

    async def _hear(self, connection: ClientConnection) -> None:
        async for message in connection:
            if isinstance(message, bytes):
                self._next = (self._next or 0) + len(message)
                self._screen.show(message)
            else:
                self._on_told(msgspec.json.decode(message, type=_Told))
        raise ConnectionClosed(connection.protocol.close_rcvd, connection.protocol.close_sent)

    def _on_told(self, told: _Told) -> None:
        if told.type in ("attached", "lost"):
            self._next = told.from_byte
        elif told.type == "exit" and not self._over.done():
            code = told.exit_code
            self._over.set_result(
                Ended(_SIGNAL_EXIT + (told.signal or 0) if code is None else code)
            )

    async def _say(self, connection: ClientConnection) -> None:
        while True:
            self._unsent = self._unsent or await self._typed.get()
            await connection.send(self._unsent)
            self._unsent = b""

    async def _tell_size(self, connection: ClientConnection, resized: asyncio.Event) -> None:
        while True:
            await resized.wait()
            resized.clear()
            size = Screen.size()
            told = {"type": "resize", "cols": size.columns, "rows": size.lines}
            await connection.send(msgspec.json.encode(told).decode())

    async def _read(self) -> None:
        """Read what is typed, until we leave or there is no more."""
        try:
            while data := await self._next_read():
                typed, leaves = self._leaving.look(data) if self._screen.is_terminal else (data, 0)
                if typed:
                    await self._typed.put(typed)
                if leaves and not self._over.done():
                    self._over.set_result(Left())
                    return
        except OSError:
            pass  # the terminal that we ran in is gone, as at the end of a file
        await self._typed.put(END_OF_FILE)

    async def _next_read(self) -> bytes:
        loop = asyncio.get_running_loop()
        source = self._screen.source
        readable = asyncio.Event()
        try:
            loop.add_reader(source, readable.set)
        except PermissionError:
            return os.read(source, READ_BYTES)  # a file, which never lets us wait
        try:
            await readable.wait()
        finally:
            loop.remove_reader(source)
        return os.read(source, READ_BYTES)
