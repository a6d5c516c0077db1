"""A program that runs in a container of its own, and its standard streams.

It ends when its first process does, as under bubblewrap: then whatever else runs in the container
is killed, where Docker would wait for all who hold the output open.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from protocol.errors import GatewayError
from supervisor.launcher.docker_client import Client
from supervisor.launcher.docker_container import Container
from supervisor.launcher.docker_stream import CHUNK_BYTES, STDERR, STDOUT, Demultiplexer
from supervisor.launcher.engine import Outcome, Size, outcome_of_code
from supervisor.launcher.readable import readable, writable

NOT_EXECUTED: Final = 127
_REFUSAL: Final = b"OCI runtime exec failed: "
"""How the output begins of a program that could not be executed, instead of its own."""
# Most programs end before Docker is asked for the first time: the end of the output tells.
_FIRST_LOOK_SECONDS: Final = 0.1
_BEGUN_SECONDS: Final = 0.02
_LOOK_SECONDS_MAX: Final = 1.0
# What a program has written and nobody has read when it is killed.
_LEFT_SECONDS: Final = 1.0


class Program(NamedTuple):
    """What Docker says of a program. `exit_code` is None until it has ended; 0 is no pid."""

    pid: int
    exit_code: int | None


class DockerJob:
    """See `supervisor.launcher.engine.Job`.

    Args:
        client: The daemon.
        container: Where the program runs; thrown away after it.
        exec_id: What Docker calls the program.
        stream: Its stream, taken over.
        stdio: Its pipes, taken over; None with a terminal.
        over: Called with the container when the program has ended.
    """

    def __init__(
        self,
        client: Client,
        container: Container,
        exec_id: str,
        stream: socket.socket,
        stdio: tuple[int, int, int] | None,
        over: Callable[[Container], None],
    ) -> None:
        self.terminal: Final[int | None] = None if stdio else stream.fileno()
        self._client: Final = client
        self._container: Final = container
        self._exec_id: Final = exec_id
        self._stream: Final = stream
        self._over: Final = over
        self._loop: Final = asyncio.get_running_loop()
        self._look_now: Final = asyncio.Event()
        self._program: Program | None = None
        self._broken_pipe = False
        self._killed = False
        self._resizing: asyncio.Task[None] | None = None
        self._tasks: Final[list[asyncio.Task[None]]] = []
        if stdio is not None:
            stdin, stdout, stderr = stdio
            self._tasks.append(self._loop.create_task(self._feed(stdin)))
            self._tasks.append(self._loop.create_task(self._drain(stdout, stderr)))

    # Job

    async def wait(self) -> Outcome:
        """See `Job`."""
        try:
            program = self._program = await self._end_of_program()
            # Of a container that has ended Docker does not pass on all that was said.
            if await self._container.end_programs() and self._tasks:
                await asyncio.wait([self._tasks[-1]])
            self._container.kill()
            await self._container.ended()
        finally:
            self._container.kill()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._over(self._container)
        used = self._container.used()
        return self._outcome(program)._replace(
            oom_killed=used.oom_kills > 0,
            cpu_ms=round(used.cpu_seconds * 1000),
            peak_memory_bytes=used.memory_peak_bytes,
        )

    def _outcome(self, program: Program) -> Outcome:
        if self._broken_pipe:
            return Outcome(None, signal.SIGPIPE)
        if program.exit_code is None:
            return Outcome(None, signal.SIGKILL)
        if not program.pid:
            return Outcome(NOT_EXECUTED, None)
        return outcome_of_code(program.exit_code)

    def kill(self) -> None:
        """See `Job`."""
        if not self._killed:
            self._killed = True
            self._container.kill()
            self._look_now.set()
            for task in self._tasks:
                self._loop.call_later(_LEFT_SECONDS, task.cancel)

    def resize(self, size: Size) -> None:
        """See `Job`."""
        before = self._resizing
        self._resizing = self._loop.create_task(self._resize(size, before))

    async def resized(self) -> None:
        """Wait until the size that was last asked for holds, or the program has ended."""
        if self._resizing is not None:
            await self._resizing

    async def _resize(self, size: Size, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await before
        with contextlib.suppress(GatewayError):  # it has ended
            await self._client.call(
                lambda api: api.exec_resize(self._exec_id, height=size.rows, width=size.columns)
            )

    def close(self) -> None:
        """See `Job`."""
        self._stream.close()

    def abandon(self) -> None:
        """Let go of one that nobody waits for; its container is whoever's made it."""
        for task in self._tasks:
            task.cancel()
        self.close()

    # Its end

    async def look(self) -> Program:
        """Ask Docker about the program.

        Raises:
            GatewayError: Docker does not know it any more, or is gone.
        """
        found: dict[str, Any] = await self._client.call(lambda api: api.exec_inspect(self._exec_id))
        return Program(found["Pid"], None if found["Running"] else found["ExitCode"])

    async def begun(self) -> Program:
        """Wait until Docker says that the program runs, or what became of it. Bound it outside.

        Raises:
            GatewayError: as `look`.
        """
        program = await self.look()
        while not program.pid and program.exit_code is None:
            await asyncio.sleep(_BEGUN_SECONDS)
            program = await self.look()
        return program

    async def _end_of_program(self) -> Program:
        """Wait until it has ended, or its container has.

        Docker tells of an end late, while others hold the output open. So once it is known which
        process it is, that is what is waited for.
        """
        delay = _FIRST_LOOK_SECONDS
        gone = self._loop.create_task(self._container.ended())
        try:
            while True:
                await self._pause(delay, gone)
                try:
                    program = await self.look()
                except GatewayError:
                    program = Program(0, None)
                    if not gone.done():
                        self._container.kill()
                        raise
                if program.exit_code is not None or gone.done():
                    return program
                if program.pid and await self._ended(program.pid, gone):
                    delay = 0.002
                else:
                    delay = min(2 * delay, _LOOK_SECONDS_MAX)
        finally:
            gone.cancel()

    async def _pause(self, seconds: float, gone: "asyncio.Task[None]") -> None:
        looking = self._loop.create_task(self._look_now.wait())
        try:
            await asyncio.wait(
                [looking, gone], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            looking.cancel()
            self._look_now.clear()

    async def _ended(self, pid: int, gone: "asyncio.Task[None]") -> bool:
        """Wait for a process, at most until its container ends; says whether it has ended."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return True
        ended = self._loop.create_task(readable(pidfd))
        try:
            if self._container.holds(pid):  # else somebody else bears its number already
                await asyncio.wait([ended, gone], return_when=asyncio.FIRST_COMPLETED)
            return True
        finally:
            ended.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended
            os.close(pidfd)

    # Its streams

    async def _feed(self, stdin: int) -> None:
        """Copy what comes down a pipe; its end is the end of the program's input."""
        try:
            os.set_blocking(stdin, False)
            while data := await _read(stdin):
                await self._loop.sock_sendall(self._stream, data)
            self._stream.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the program takes no more
        finally:
            os.close(stdin)

    async def _drain(self, stdout: int, stderr: int) -> None:
        """Copy what the program says, as fast as it is taken."""
        pipes = {STDOUT: stdout, STDERR: stderr}
        parts = Demultiplexer()
        try:
            for pipe in pipes.values():
                os.set_blocking(pipe, False)
            first = True
            while data := await self._loop.sock_recv(self._stream, CHUNK_BYTES):
                for stream, piece in parts.feed(data):
                    if first and piece.startswith(_REFUSAL) and await self._was_refused():
                        stream, piece = STDERR, _reason(piece)  # noqa: PLW2901 - it is not the program's
                    first = False
                    await _write(pipes[stream], piece)
        except BrokenPipeError:
            # Nobody reads any more; a program outside Docker would have had the signal.
            self._broken_pipe = True
            self._container.kill()
        except (OSError, KeyError):
            return
        finally:
            for pipe in pipes.values():
                os.close(pipe)
            self._look_now.set()

    async def _was_refused(self) -> bool:
        """Say whether Docker could not execute the program, so that what it says is Docker's."""
        try:
            program: Program | None = await self.begun()
        except GatewayError:
            program = self._program  # it has ended, and its container too
        return program is not None and not program.pid


def _reason(refusal: bytes) -> bytes:
    words = refusal.decode(errors="replace").strip().removesuffix(": unknown")
    return f"sandbox: {words.rpartition('process: ')[2]}\n".encode()


async def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            await readable(descriptor)


async def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            await writable(descriptor)
