"""The supervisor's side of the zygote: ask for a worker, get a pid; replace it when it dies."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from protocol import descriptors, meters
from protocol.meters import Histogram
from supervisor.child import Child, Exit, end_unwatched, start_python
from supervisor.logs import Log, LogPump
from supervisor.newborn import Newborn
from supervisor.spares import MakeError, Spares
from supervisor.zygote.spec import JailSpec, Order, Reply, Serving, Spawn, Spawned, Start

START_SECONDS: Final = 10.0
SPAWN_SECONDS: Final = 10.0
SPAWNS_WAITING_MAX: Final = 32
EXIT_SECONDS: Final = 5.0

_decode: Final = msgspec.msgpack.Decoder(Reply).decode


class SpawnError(MakeError):
    """The zygote could not make a process."""


class ZygoteProcess:
    """One zygote process.

    Args:
        command: The interpreter's arguments; the program finds its channel at descriptor 3.
        policy: The system calls that it may make; see `Start`.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
        shape: Of the processes that are made ahead; without it there are none.
        seconds: Where it is counted how long one takes to be made.
    """

    def __init__(
        self,
        command: Sequence[str],
        policy: bytes,
        on_exit: Callable[["ZygoteProcess", Exit], None],
        log: Log,
        shape: JailSpec | None = None,
        seconds: Histogram | None = None,
    ) -> None:
        self._command: Final = command
        self._policy: Final = policy
        self._on_exit: Final = on_exit
        self._log: Final = log
        self._seconds: Final = seconds or meters.latency()
        self.spares: Final = Spares(shape, self._make, log)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._last_request = 0
        self._slots = asyncio.Semaphore(SPAWNS_WAITING_MAX)
        self._serves: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel: socket.socket
        self._child: Child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.ended

    async def start(self) -> None:
        """Start the process; it answers when this returns.

        Raises:
            OSError: it cannot be started.
            SpawnError: it does not get that far; the log says why.
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
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._serves
        except BaseException as error:
            self.kill()
            if isinstance(error, TimeoutError):
                msg = "the zygote does not start in time"
                raise SpawnError(msg) from error
            raise
        self.spares.refill()

    async def spawn(self, jail: JailSpec, entry: bytes, entrances: Sequence[int] = ()) -> Newborn:
        """Give a process that is a child of this one and has been told whose worker it is.

        Args:
            jail: How it is jailed.
            entry: What it is told, opaque to the zygote.
            entrances: Files by which it enters its cgroup; the caller's to close.

        Raises:
            SpawnError: the zygote refused, is gone, or did not answer in time.
            OSError: there are no descriptors left.
        """
        order = msgspec.msgpack.encode(
            Order(tenant=jail.tenant, uid=jail.uid, gid=jail.gid, entry=entry)
        )
        self.spares.wanted += 1
        try:
            async with self._slots:  # from here on `retire` waits for it
                found = await self.spares.take(jail.shape, order, entrances)
                if found is None:
                    found = await self._ask_for(jail.shape)
                    found.tell(order, entrances)  # if it has ended already, its status says why
                self.spares.started(found)
                return found
        finally:
            self.spares.wanted -= 1
            self.spares.refill()

    async def _make(self, shape: JailSpec) -> Newborn:
        async with self._slots:
            return await self._ask_for(shape)

    async def _ask_for(self, shape: JailSpec) -> Newborn:
        newborn = Newborn()
        self._last_request += 1
        request = self._last_request
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        asked_at = loop.time()
        self._waiting[request] = answer
        try:
            message = msgspec.msgpack.encode(Spawn(request=request, jail=shape))
            try:
                descriptors.send(self._channel, message, newborn.theirs)
            finally:
                newborn.close_theirs()
            async with asyncio.timeout(SPAWN_SECONDS):
                newborn.runs(await answer, lambda _: self.spares.lose(newborn))
            self._seconds.observe(loop.time() - asked_at)
        except BaseException as error:
            newborn.close()
            if isinstance(error, TimeoutError):
                self.kill()  # it hangs; the next one will not
                msg = "the zygote does not answer"
                raise SpawnError(msg) from error
            if isinstance(error, OSError):
                msg = f"the zygote cannot be asked: {error}"
                raise SpawnError(msg) from error
            raise
        else:
            return newborn
        finally:
            del self._waiting[request]

    def _on_message(self) -> bool:
        """Take a message; says whether there may be another."""
        if self._channel.fileno() < 0:
            return False
        try:
            message, _ = descriptors.receive(self._channel, descriptors_max=0)
            reply = _decode(message)
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            self._close_channel()
            return False
        except (descriptors.DescriptorMessageError, msgspec.DecodeError) as error:
            self._log.error("zygote sent what it must not", error=str(error))
            self.kill()
            return False
        if isinstance(reply, Serving):
            if not self._serves.done():
                self._serves.set_result(None)
            return True
        answer = self._waiting.get(reply.request)
        if answer is None or answer.done():
            if isinstance(reply, Spawned):
                # Nobody waits for it any more, so nobody would ever end it.
                Child(reply.pid, lambda _: None).signal(signal.SIGKILL)
        elif isinstance(reply, Spawned):
            answer.set_result(reply.pid)
        else:
            answer.set_exception(SpawnError(reply.reason))
        return True

    def _ended(self, status: Exit) -> None:
        while self._on_message():  # what it said before: its end may be heard of first
            pass
        self._close_channel()
        end = SpawnError(f"the zygote {status}")
        if not self._serves.done():
            self._serves.set_exception(end)
        if any(not answer.done() for answer in self._waiting.values()):
            strays = end_unwatched()
            if strays:
                self._log.warning("workers of a dead zygote ended", count=strays)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(end)
        self._on_exit(self, status)

    def _close_channel(self) -> None:
        self.spares.kill()
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()

    async def retire(self) -> None:
        """End it once it has answered everything that it was asked."""
        for _ in range(SPAWNS_WAITING_MAX):
            await self._slots.acquire()
        await self.stop()

    async def stop(self) -> None:
        """End it and its spares: it leaves by itself when its channel is closed."""
        await self.spares.close()
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
