"""The supervisor's side of the zygote: ask for a worker, get a pid; replace it when it dies."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from protocol import descriptors
from supervisor.child import Child, Exit, start_python
from supervisor.logs import Log, LogPump
from supervisor.zygote.spec import JailSpec, Reply, Spawn, Spawned, Start

SPAWN_SECONDS: Final = 10.0
SPAWNS_WAITING_MAX: Final = 32
EXIT_SECONDS: Final = 5.0

_decode: Final = msgspec.msgpack.Decoder(Reply).decode


class SpawnError(Exception):
    """The zygote could not fork a worker."""


class SpawnDescriptors(NamedTuple):
    """What a worker is born with, in the order in which the zygote expects it."""

    link: int
    channel: int
    ready: int
    stderr: int


class ZygoteProcess:
    """One zygote process.

    Args:
        command: The interpreter's arguments; the program finds its channel at descriptor 3.
        policy: The system calls that it may make; see `Start`.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        command: Sequence[str],
        policy: bytes,
        on_exit: Callable[["ZygoteProcess", Exit], None],
        log: Log,
    ) -> None:
        self._command: Final = command
        self._policy: Final = policy
        self._on_exit: Final = on_exit
        self._log: Final = log
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._last_request = 0
        self._slots = asyncio.Semaphore(SPAWNS_WAITING_MAX)
        self._channel: socket.socket
        self._child: Child

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: it cannot be started.
        """
        self._channel, theirs = descriptors.pair()
        reader, writer = os.pipe()
        with theirs:
            pid = start_python(self._command, (theirs.fileno(),), writer)
        os.close(writer)
        LogPump(reader, self._log)
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._on_message)
        self._child = Child(pid, self._ended)
        with contextlib.suppress(OSError):  # it has ended already, which is told
            descriptors.send(self._channel, msgspec.msgpack.encode(Start(policy=self._policy)))

    async def spawn(self, jail: JailSpec, spec: bytes, fds: SpawnDescriptors) -> int:
        """Fork a worker, which becomes a child of this process; gives its pid.

        Args:
            jail: How it is jailed.
            spec: What it is told, opaque to the zygote.
            fds: Copies of these go to the worker; the caller closes its own.

        Raises:
            SpawnError: the zygote refused, is gone, or did not answer in time.
        """
        async with self._slots:
            self._last_request += 1
            request = self._last_request
            answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting[request] = answer
            try:
                message = msgspec.msgpack.encode(Spawn(request=request, jail=jail, entry=spec))
                descriptors.send(self._channel, message, fds)
                async with asyncio.timeout(SPAWN_SECONDS):
                    return await answer
            except TimeoutError as error:
                self.kill()  # it hangs; the next one will not
                msg = "the zygote does not answer"
                raise SpawnError(msg) from error
            except OSError as error:
                msg = f"the zygote cannot be asked: {error}"
                raise SpawnError(msg) from error
            finally:
                del self._waiting[request]

    def _on_message(self) -> None:
        try:
            message, _ = descriptors.receive(self._channel, descriptors_max=0)
            reply = _decode(message)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._close_channel()
            return
        except (descriptors.DescriptorMessageError, msgspec.DecodeError) as error:
            self._log.error("zygote sent what it must not", error=str(error))
            self.kill()
            return
        answer = self._waiting.get(reply.request)
        if answer is None or answer.done():
            if isinstance(reply, Spawned):
                # Nobody waits for it any more, so nobody would ever end it.
                Child(reply.pid, lambda _: None).signal(signal.SIGKILL)
            return
        if isinstance(reply, Spawned):
            answer.set_result(reply.pid)
        else:
            answer.set_exception(SpawnError(reply.reason))

    def _ended(self, status: Exit) -> None:
        self._close_channel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SpawnError(f"the zygote {status}"))
        self._on_exit(self, status)

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()

    async def stop(self) -> None:
        """End it: it leaves by itself when its channel is closed."""
        self._close_channel()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                await self._child.wait()
        except TimeoutError:
            self.kill()
            await self._child.wait()

    def kill(self) -> None:
        """End it at once."""
        self._child.signal(signal.SIGKILL)
