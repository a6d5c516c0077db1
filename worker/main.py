"""A worker: one tenant's process, from the zygote's fork to its end.

Everything that it will ever need is imported with this module. After `run` has been called nothing
is: the jail is closed by then.
"""

import asyncio
import contextlib
import faulthandler
import os
import socket
from math import inf
from typing import Any, Final, NoReturn

import apsw
import msgspec
import uvloop

from protocol import codec, descriptors, frames, limits, strict_yaml
from protocol.aio import LinkEnd, attach
from protocol.descriptors import WorkerDescriptors
from protocol.egress import EGRESS
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import LAUNCHER, Ceilings
from protocol.link import LIVENESS, REQUESTS
from protocol.methods.health import HEALTH
from protocol.spawn import Idle, WorkerSettings, WorkerSpec
from worker import discover, dispatch, health, log, memory
from worker.agents.catalogue import CATALOGUE, Catalogue
from worker.agents.tool import Means
from worker.channels import webhook
from worker.clock import Clock, SystemClock
from worker.config import handlers as config_handlers
from worker.config.overlay import OverlayError, OverlayFile
from worker.egress import handlers as model_handlers
from worker.egress.link import EgressLink
from worker.egress.models import EgressModels
from worker.events import handlers as event_handlers
from worker.events.bus import Events
from worker.links import CallsLink
from worker.openai import chat as openai_chat
from worker.openai import embeddings, models, responses
from worker.sandbox import file_handlers, state_handlers, terminals
from worker.sandbox import handlers as sandbox_handlers
from worker.sandbox.files import SandboxFiles
from worker.sandbox.link import LauncherLink
from worker.sandbox.sandboxes import Sandboxes
from worker.sandbox.watchers import Watchers
from worker.services import Services
from worker.sessions import changes, handlers, reads, schema, talking
from worker.sessions.pages import Pages
from worker.sessions.purging import Purging
from worker.sessions.turns import Turns
from worker.store import pragmas
from worker.store.database import Database
from worker.store.errors import StoreConfigurationError, StoreDamagedError
from worker.store.files import Directory, UnsafePathError
from worker.store.gate import Gate
from worker.usage import handlers as usage_handlers
from worker.usage import key_handlers

EXIT_DRAINED: Final = 0
IDLE_CHECK_SECONDS_MIN: Final = 0.05
# After two, everything that was readable at the first has been read.
TURNS_OF_THE_LOOP: Final = 2
# A next generation takes the turns that we leave within this; else there is none.
SUCCESSOR_SECONDS: Final = 1.0
REHEARSAL_SECONDS: Final = 1.0
EXIT_FAILED: Final = 1
EXIT_WOULD_FAIL_AGAIN: Final = 3
EXIT_CONFIGURATION: Final = 78
_STANDARD_ERROR: Final = 2
LAUNCHER_DESCRIPTORS: Final = 2

# Importing them is what binds the handlers.
_HANDLERS: Final = (
    *(changes, config_handlers, discover, event_handlers),
    *(file_handlers, handlers, health, sandbox_handlers, state_handlers, talking, terminals),
    *(embeddings, key_handlers, model_handlers, models, openai_chat, responses),
    *(usage_handlers, webhook),
)
# `protocol.documents` imports it when there is some, which would be too late here.
_PRELOADED: Final = (strict_yaml,)
dispatch.check_complete()
_spec_decoder: Final = msgspec.msgpack.Decoder(WorkerSpec)
_ceilings_decoder: Final = msgspec.msgpack.Decoder(Ceilings)
_settings_decoder: Final = msgspec.json.Decoder(WorkerSettings)
_runs_decoder: Final = msgspec.json.Decoder(int | None)
_STOPPING: Final = GatewayError(ErrorCode.UNAVAILABLE, "the worker is being stopped; try again")


class SupervisorLink:
    """The link to the supervisor: its word starts the drain, its end is ours; a `LinkHandler`."""

    def __init__(self, worker: "Worker") -> None:
        self._worker: Final = worker

    def on_call(self, end: LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`. The link takes no calls."""

    def on_cancel(self, end: LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_credit(self, end: LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_notice(
        self, end: LinkEnd, frame: frames.Event | frames.Drain | frames.Drained | frames.Pong
    ) -> None:
        """See `LinkHandler`."""
        match frame:
            case frames.Drain(seconds):
                self._worker.start_draining(seconds)
            case frames.Event("settings", body):
                self._worker.change_settings(_settings_decoder.decode(body))
            case frames.Event("runs", body):
                self._worker.services.turns.limit(_runs_decoder.decode(body))
            case frames.Event("storage", body):
                self._worker.services.gate.hear(body)

    def on_closed(self, end: LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`."""
        self._worker.on_supervisor_gone()


class Worker:
    """One worker. Its tenant's directory is the working directory.

    Args:
        spec: What the supervisor told it.
        catalogue: What its agents use.
        clock: Where time comes from.
    """

    def __init__(self, spec: WorkerSpec, catalogue: Catalogue, clock: Clock) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._stopped: Final[asyncio.Future[int]] = self._loop.create_future()
        self._directory: Final = Directory()
        gate = Gate(spec.storage)
        self._sessions: Final = Database(schema.PATH, schema.MIGRATIONS, self._directory, gate)
        self._overlay: Final = OverlayFile(self._directory, gate)
        events = Events(clock, spec.generation)
        launcher = LauncherLink()
        egress = EgressLink()
        catalogue = catalogue._replace(remote=EgressModels(egress, clock))
        sandboxes = Sandboxes(launcher, self._overlay)
        files = SandboxFiles(self._directory)
        means = Means(clock, sandboxes, files, gate, egress)
        self._turns: Final = Turns(
            self._sessions,
            catalogue,
            self._overlay,
            clock,
            events,
            means,
            spec,
        )
        self.services: Final = Services(
            spec,
            clock,
            catalogue,
            self._overlay,
            self._sessions,
            self._turns,
            Pages(),
            Purging(self._sessions),
            events,
            files,
            launcher,
            egress,
            sandboxes,
            Watchers(),
            gate,
            clock.monotonic(),
        )
        self._idle_seconds = spec.idle_seconds
        self._idle_timer: asyncio.TimerHandle | None = None
        self._supervisor: LinkEnd | None = None
        self._channel: socket.socket | None = None
        self._front: tuple[CallsLink, LinkEnd] | None = None
        self._meetings: Final[set[asyncio.Task[None]]] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._draining = False
        self._drained = False

    async def serve(self, fds: WorkerDescriptors) -> int:
        """Serve until told to stop; gives the exit code.

        Raises:
            StoreConfigurationError: a store and this program do not fit.
            StoreDamagedError: a store is damaged.
            OverlayError: the tenant's configuration cannot be used, and another generation serves.
            Exception: the start failed in another way.
        """
        # Before the readiness byte: where files and program do not fit, the worker cannot start.
        pragmas.check_version()
        if self.services.spec.supersedes:
            self._overlay.check()
        if self._sessions.exists():
            await self._open_sessions()
        self._supervisor = await attach(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds.supervisor),
            LIVENESS | {frames.Drain, frames.Event},
            SupervisorLink(self),
        )
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds.channel)
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._on_channel)
        os.write(fds.ready, b"1")
        os.close(fds.ready)
        self._turns.resume()
        if self._sessions.is_open and reads.has_deleted(self._sessions.read()):
            self.services.purging.start()
        self._watch_idleness(self._loop.time())
        return await asyncio.shield(self._stopped)

    async def _open_sessions(self) -> None:
        try:
            await self._turns.recover()
        except (GatewayError, apsw.Error, OSError) as error:
            # A full disk must not keep the tenant from reading what it has: calls try again.
            log.failure("sessions not opened", error)

    def stop(self, code: int) -> None:
        """End the process with this code, unless it ends already."""
        if not self._stopped.done():
            self._stopped.set_result(code)

    def on_supervisor_gone(self) -> None:
        """End at once; after the drain it is we who have closed the link."""
        self.stop(EXIT_DRAINED if self._drained else EXIT_FAILED)

    def start_draining(self, seconds: float) -> None:
        """Finish what is in flight within that time, then end."""
        if not self._draining:
            self._draining = True
            self._spawn(self._drain(seconds), self._tasks)

    def _spawn(self, work: Any, among: "set[asyncio.Task[None]]") -> None:
        task = self._loop.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    # Idleness.

    def change_settings(self, settings: WorkerSettings) -> None:
        """Take other settings than those of the start."""
        self._idle_seconds = settings.idle_seconds
        self._turns.settings = settings.agents
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._watch_idleness(self._loop.time())

    def _watch_idleness(self, busy_at: float) -> None:
        """Say so when there has been nothing to do for long enough, and again after as long."""
        now, seconds = self._loop.time(), self._idle_seconds
        if seconds == 0:
            return
        link = self._front[0] if self._front is not None else None
        if self._turns.busy or (link is not None and link.busy):
            busy_at = now
        elif link is not None:
            busy_at = max(busy_at, link.last_call_at)
        if now - busy_at >= seconds and not self._turns.left_open():
            busy_at = now
            assert self._supervisor is not None
            self._supervisor.link.send(frames.Event("idle", msgspec.json.encode(Idle())))
            self._supervisor.flush()
        self._idle_timer = self._loop.call_later(
            max(busy_at + seconds - now, IDLE_CHECK_SECONDS_MIN), self._watch_idleness, busy_at
        )

    # Fronts.

    def _on_channel(self) -> None:
        if self._channel is None:
            return
        try:
            payload, received = descriptors.receive(self._channel)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._close_channel()
            return
        except descriptors.DescriptorMessageError as error:
            log.failure("descriptor message refused", error)
            return
        if not self._take(payload, received):
            for descriptor in received:
                os.close(descriptor)
            log.write("error", "descriptor message not understood", descriptors=len(received))

    def _take(self, payload: bytes, received: list[int]) -> bool:
        """Take what is handed over; says whether it is understood."""
        if payload == b"front" and len(received) == 1:
            self._spawn(self._meet_front(received[0]), self._meetings)
        elif payload == EGRESS and len(received) == 1:
            self.services.egress.take(received[0])
        elif payload.startswith(LAUNCHER) and len(received) == LAUNCHER_DESCRIPTORS:
            link, channel = received
            ceilings = _ceilings_decoder.decode(payload[len(LAUNCHER) :])
            self.services.launcher.offer(link, channel, ceilings)
        else:
            return False
        return True

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    async def _meet_front(self, descriptor: int) -> None:
        link = CallsLink(self.services)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        try:
            end = await attach(sock, REQUESTS | {frames.Event}, link)
        except OSError as error:
            log.failure("front link not made", error)
            sock.close()
            return
        if self._front is not None:
            self._front[1].close()
        self._front = link, end

    # The end.

    async def _drain(self, seconds: float) -> None:
        deadline = self._loop.time() + seconds
        assert self._supervisor is not None
        try:
            # What the front sent before is in our sockets: it may still start here.
            self._on_channel()
            for _ in range(TURNS_OF_THE_LOOP):
                await asyncio.sleep(0)
            await asyncio.gather(*self._meetings)
            self.services.events.close()
            self.services.terminals.let_go()
            await self._turns.drain(seconds)
            if self._front is not None:
                await self._part(*self._front, deadline)
            self._close_channel()
            self.services.launcher.close()
            self.services.egress.close()
            self.services.purging.stop()
            await self._sessions.close()
            self._overlay.close()
            self.services.files.close()
            self._directory.close()
        except Exception as error:  # noqa: BLE001 - it has to end all the same
            log.failure("drain failed", error)
            self.stop(EXIT_FAILED)
            return
        if not self._supervisor.closed:
            self._drained = True
            self._supervisor.link.send(frames.Drained())
            self._supervisor.finish()

    async def _part(self, link: CallsLink, end: LinkEnd, deadline: float) -> None:
        for seconds, of_running in ((SUCCESSOR_SECONDS, False), (inf, True)):
            left = deadline - self._loop.time()
            if await link.answered(min(seconds, left)):
                return
            self._turns.feeds.let_go(of_running=of_running)
        await link.finish(end, _STOPPING)


def run(spec: bytes, fds: WorkerDescriptors, catalogue: Catalogue = CATALOGUE) -> NoReturn:
    """Be a worker until the process ends; nothing is imported from here on.

    Ends with 0 when drained, 3 when another start would fail in the same way, 78 when this program
    and the tenant's files do not fit, 1 for everything else.

    Args:
        spec: A `WorkerSpec` as MessagePack.
        fds: What the supervisor handed over.
        catalogue: What the agents use.
    """
    code = EXIT_FAILED
    try:
        # SIGABRT is how the supervisor asks a worker that hangs where it is.
        faulthandler.enable(_STANDARD_ERROR, all_threads=True)
        code = _run(uvloop.new_event_loop(), spec, fds, catalogue)
    except (StoreConfigurationError, OverlayError, msgspec.DecodeError) as error:
        log.failure("worker cannot start", error, reason=str(error))
        code = EXIT_CONFIGURATION
    except (StoreDamagedError, UnsafePathError) as error:
        log.failure("worker cannot start", error, reason=str(error))
        code = EXIT_WOULD_FAIL_AGAIN
    except BaseException as error:  # noqa: BLE001 - the last frame of this process
        memory.end_if_exhausted(error)
        log.failure("worker failed", error)
    finally:
        # At once: nobody waits for what still runs, and the stores are safe at any time.
        os._exit(code)


def rehearse() -> None:
    """Live a whole short life, up to an answered call, with nobody at the other ends.

    A forked process copies each page when it first writes there, be it a reference count: more
    than half of the time a worker takes to its first answer. What waits to be a worker does that
    ahead. There must not be a tenant in the working directory.
    """
    with contextlib.ExitStack() as ends:

        def pair(kind: socket.SocketKind) -> tuple[socket.socket, int]:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            ends.enter_context(ours)
            return ours, theirs.detach()

        supervisor, to_supervisor = pair(socket.SOCK_STREAM)
        channel, to_channel = pair(socket.SOCK_SEQPACKET)
        front, to_front = pair(socket.SOCK_STREAM)
        ready, to_ready = os.pipe()
        ends.callback(os.close, ready)
        front.sendall(codec.encode(frames.Call(1, HEALTH.name, b"{}", int(HEALTH.scope))))
        front.shutdown(socket.SHUT_WR)
        descriptors.send(channel, b"front", [to_front])
        os.close(to_front)
        supervisor.sendall(codec.encode(frames.Drain(REHEARSAL_SECONDS)))
        spec = WorkerSpec(tenant="", generation=0)
        fds = WorkerDescriptors(to_supervisor, to_channel, to_ready)
        loop = uvloop.new_event_loop()
        ends.callback(loop.close)
        code = _run(loop, msgspec.msgpack.encode(spec), fds, CATALOGUE)
        answer = front.recv(limits.CHUNK_BYTES_MAX)
    if code != EXIT_DRAINED or not answer:
        raise RuntimeError(f"the rehearsal ended with {code} and {len(answer)} bytes")


def _run(
    loop: asyncio.AbstractEventLoop, spec: bytes, fds: WorkerDescriptors, catalogue: Catalogue
) -> int:
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(memory.on_loop_error)

    async def serve() -> int:
        return await Worker(_spec_decoder.decode(spec), catalogue, SystemClock()).serve(fds)

    return loop.run_until_complete(serve())
