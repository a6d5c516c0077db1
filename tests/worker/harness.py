"""A worker with real links on socketpairs and a real directory: in this process, or as its own.

Tests talk to it as a front and a supervisor would. Nothing of the worker is replaced but what it
takes as arguments: the clock and the catalogue of models and tools.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from protocol import descriptors, frames
from protocol.aio import LinkEnd, Reply, attach, failure_error
from protocol.descriptors import WorkerDescriptors
from protocol.errors import GatewayError, LinkClosedError
from protocol.link import ANSWERS, LIVENESS
from protocol.methods import ALL_SCOPES
from protocol.methods.chat import TextPart, Usage
from protocol.spawn import AgentSettings, WorkerSpec
from tests.workers.echo import EchoProvider
from worker.agents.catalogue import CATALOGUE, Catalogue
from worker.agents.model import Finished, ModelEvent, ModelRequest, TextDelta
from worker.agents.tool import Means, Tool, ToolContext
from worker.clock import Clock, SystemClock
from worker.config.overlay import OverlayFile
from worker.egress.link import EgressLink
from worker.main import Worker
from worker.sandbox.files import SandboxFiles
from worker.sandbox.link import LauncherLink
from worker.sandbox.sandboxes import Sandboxes
from worker.store.files import Directory
from worker.store.gate import Gate

SECONDS = 20.0
PROGRAM = Path(__file__).with_name("program.py")
ROOT = Path(__file__).parents[2]


class ManualClock:
    """Stands still unless told."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    def advance(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


class GatedProvider:
    """Answers `answer to <text>`, but only when the test opens the gate for that text."""

    name = "gated"

    def __init__(self) -> None:
        self._started: dict[str, asyncio.Event] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self.order: list[str] = []
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        text = "".join(p.text for p in request.messages[-1].parts if isinstance(p, TextPart))
        self.order.append(text)
        self.requests.append(request)
        yield TextDelta("answer to ")
        self.started(text).set()
        await self._gate(text).wait()
        yield TextDelta(text)
        yield Finished(Usage(input=len(text), output=len(text) + 10), "stop")

    def started(self, text: str) -> asyncio.Event:
        return self._started.setdefault(text, asyncio.Event())

    def _gate(self, text: str) -> asyncio.Event:
        return self._gates.setdefault(text, asyncio.Event())

    def open(self, text: str) -> None:
        self._gate(text).set()


def tool_context(clock: Clock, said: list[str] | None = None) -> ToolContext:
    """On whose behalf a tool runs; there is no launcher and no egress."""
    directory = Directory()
    gate = Gate(None)
    sandboxes = Sandboxes(LauncherLink(), OverlayFile(directory, gate))
    means = Means(clock, sandboxes, SandboxFiles(directory), gate, EgressLink())
    return ToolContext("agent:main:x", "run", (said if said is not None else []).append, means)


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


ECHOING = CATALOGUE.with_local(EchoProvider())
"""There is no egress here: the model that repeats what it is told answers in the worker."""


def catalogue_of(provider: Any, *tools: Tool) -> Catalogue:
    named = {tool.name: tool for tool in tools} or CATALOGUE.tools
    return Catalogue(named, f"{provider.name}/test").with_local(provider)


class Peer:
    """The other end of one of the worker's links."""

    def __init__(self) -> None:
        self.notices: list[frames.Frame] = []
        self.noticed = asyncio.Event()
        self.closed = asyncio.Event()

    def on_call(self, end: LinkEnd, call: frames.Call) -> None:
        raise AssertionError(f"the worker called {call.method}")

    def on_cancel(self, end: LinkEnd, call_id: int) -> None:
        raise AssertionError(f"the worker cancelled {call_id}")

    def on_credit(self, end: LinkEnd, call_id: int) -> None:
        raise AssertionError(f"the worker granted credit to {call_id}")

    def on_notice(self, end: LinkEnd, frame: frames.Frame) -> None:
        self.notices.append(frame)
        self.noticed.set()

    def on_closed(self, end: LinkEnd, reason: Exception | None) -> None:
        self.closed.set()


class StreamedCall:
    """A call whose answer comes in pieces."""

    def __init__(self, end: LinkEnd, method: str, params: object, credit: int, **more: Any) -> None:
        self.end = end
        self.chunks: list[dict[str, Any]] = []
        self.last: Reply | None = None
        self._news = asyncio.Event()
        body = params if isinstance(params, bytes) else msgspec.json.encode(params)
        self.id = end.start_call(
            method, body, self._on_reply, scopes=int(ALL_SCOPES), credit=credit, **more
        )

    def _on_reply(self, reply: Reply) -> None:
        if isinstance(reply, frames.Chunk):
            self.chunks.append(msgspec.json.decode(reply.data))
        else:
            self.last = reply
        self._news.set()

    @property
    def text(self) -> str:
        return "".join(chunk["deltaText"] for chunk in self.chunks)

    async def until(self, text: str) -> None:
        async with asyncio.timeout(SECONDS):
            while text not in self.text:
                self._news.clear()
                await self._news.wait()

    async def result(self) -> Any:
        async with asyncio.timeout(SECONDS):
            while self.last is None:
                self._news.clear()
                await self._news.wait()
        if isinstance(self.last, frames.Failure):
            raise failure_error(self.last)
        assert isinstance(self.last, frames.Result | frames.End), self.last
        return msgspec.json.decode(self.last.body)

    def cancel(self) -> None:
        self.end.link.cancel(self.id)
        self.end.flush()

    def grant(self, count: int) -> None:
        self.end.link.grant(self.id, count)
        self.end.flush()


class Front:
    """A front's end of a link to the worker."""

    def __init__(self, end: LinkEnd, peer: Peer) -> None:
        self.end = end
        self.peer = peer

    async def call(
        self,
        method: str,
        params: object = None,
        *,
        scopes: int = int(ALL_SCOPES),
        key: str | None = None,
    ) -> Any:
        """Give the decoded result, or raise what the worker refused with."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        body = params if isinstance(params, bytes) else msgspec.json.encode(params or {})
        self.end.start_call(method, body, answer.set_result, scopes=scopes, idempotency_key=key)
        async with asyncio.timeout(SECONDS):
            reply = await answer
        if isinstance(reply, frames.Failure):
            raise failure_error(reply)
        if isinstance(reply, LinkClosedError):
            raise reply
        assert isinstance(reply, frames.Result), reply
        return msgspec.json.decode(reply.body)

    def stream(
        self, method: str, params: object, *, credit: int = 16, key: str | None = None
    ) -> StreamedCall:
        return StreamedCall(self.end, method, params, credit, idempotency_key=key)

    async def refused(self, method: str, params: object = None, **more: Any) -> GatewayError:
        try:
            result = await self.call(method, params, **more)
        except GatewayError as error:
            return error
        raise AssertionError(f"not refused: {result}")

    async def finished(self, run_id: str, session_key: str) -> Mapping[str, Any]:
        """Wait for the end of a session's newest turn, by asking for it again and again."""
        async with asyncio.timeout(SECONDS):
            while True:
                got: dict[str, Any] = await self.call("sessions.get", {"key": session_key})
                if got.get("runId") == run_id and got["runStatus"] not in ("queued", "running"):
                    return got


class Links:
    """Our ends of everything a worker is given."""

    def __init__(self) -> None:
        self.supervisor, self.their_supervisor = socket.socketpair()
        self.channel, self.their_channel = descriptors.pair()
        self.ready, self.their_ready = os.pipe()
        self.peer = Peer()
        self.end: LinkEnd | None = None
        self.fronts: list[Front] = []

    @property
    def theirs(self) -> tuple[int, int, int]:
        return self.their_supervisor.fileno(), self.their_channel.fileno(), self.their_ready

    async def attach(self) -> None:
        accepts = LIVENESS | {frames.Event, frames.Drained}
        self.end = await attach(self.supervisor, accepts, self.peer)

    async def is_ready(self) -> bool:
        """Wait for the readiness byte; False: the pipe was closed without one."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.ready, readable.set)
        async with asyncio.timeout(SECONDS):
            await readable.wait()
        loop.remove_reader(self.ready)
        data = os.read(self.ready, 1)
        os.close(self.ready)
        return data != b""

    async def front(self) -> Front:
        mine, theirs = socket.socketpair()
        with theirs:
            descriptors.send(self.channel, b"front", [theirs.fileno()])
        peer = Peer()
        front = Front(await attach(mine, ANSWERS | {frames.Event}, peer), peer)
        self.fronts.append(front)
        return front

    def drain(self, seconds: float) -> None:
        """Take the fronts off the worker, as the supervisor does first, and have it drain."""
        assert self.end is not None
        for front in self.fronts:
            front.end.finish_after_calls()
        self.end.link.send(frames.Drain(seconds))
        self.end.flush()

    async def close(self) -> None:
        """Close our ends, and wait until both sides have noticed."""
        self.channel.close()
        assert self.end is not None
        ends = [(self.end, self.peer), *((front.end, front.peer) for front in self.fronts)]
        async with asyncio.timeout(SECONDS):
            for end, peer in ends:
                end.close()
                await peer.closed.wait()
        for _ in range(5):
            await asyncio.sleep(0)


class Rig:
    """A worker in this process; its directory is the present one."""

    def __init__(
        self, worker: Worker, links: Links, task: "asyncio.Task[int]", front: Front
    ) -> None:
        self.worker = worker
        self.links = links
        self.task = task
        self.front = front

    async def abandon(self) -> None:
        """Clean up a worker that has ended without draining, as the end of a process would."""
        await self.worker.services.sessions.close()
        self.worker._close_channel()

    async def drain(self, seconds: float = SECONDS) -> int:
        """Have it drain and give its exit code."""
        self.links.drain(seconds)
        async with asyncio.timeout(SECONDS):
            return await self.task


@asynccontextmanager
async def running_worker(
    catalogue: Catalogue = ECHOING,
    clock: Clock | None = None,
    *,
    tenant: str = "acme",
    generation: int = 1,
    living: tuple[int, ...] = (),
    **settings: Any,
) -> AsyncIterator[Rig]:
    """Start a worker here, with more `settings` of agents; at the end it is drained."""
    links = Links()
    agents = AgentSettings(model=catalogue.model, **settings)
    spec = WorkerSpec(tenant=tenant, generation=generation, living=living, agents=agents)
    worker = Worker(spec, catalogue, clock or SystemClock())
    fds = WorkerDescriptors(
        links.their_supervisor.detach(), links.their_channel.detach(), links.their_ready
    )
    await links.attach()
    task = asyncio.get_running_loop().create_task(worker.serve(fds))
    try:
        assert await links.is_ready()
        rig = Rig(worker, links, task, await links.front())
        yield rig
    finally:
        if not task.done():
            links.drain(0)
            async with asyncio.timeout(SECONDS):
                await task
        await links.close()


class Process:
    """A worker as a process of its own."""

    def __init__(self, links: Links, popen: "subprocess.Popen[bytes]") -> None:
        self.links = links
        self.popen = popen

    async def front(self) -> Front:
        return await self.links.front()

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(SECONDS)

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.popen.wait, SECONDS)

    def output(self) -> bytes:
        assert self.popen.stdout is not None
        return self.popen.stdout.read()

    def errors(self) -> bytes:
        assert self.popen.stderr is not None
        return self.popen.stderr.read()


def _start_program(directory: Path, links: Links, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments, *map(str, links.theirs)],
        cwd=directory,
        pass_fds=links.theirs,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@asynccontextmanager
async def worker_process(
    directory: Path,
    *,
    generation: int = 1,
    living: tuple[int, ...] = (),
    mode: str = "plain",
    file_bytes_max: int | None = None,
) -> AsyncIterator[Process]:
    """Start `program.py` in `directory`; at the end it is killed if it still runs."""
    links = Links()
    spec = msgspec.msgpack.encode(WorkerSpec(tenant="acme", generation=generation, living=living))
    with _start_program(directory, links, mode, str(file_bytes_max or 0), spec.hex()) as popen:
        links.their_supervisor.close()
        links.their_channel.close()
        os.close(links.their_ready)
        await links.attach()
        try:
            yield Process(links, popen)
        finally:
            popen.kill()
            await links.close()
