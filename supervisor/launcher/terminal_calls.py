"""`terminal.*` as a worker asks for it: one link's calls and streams, on its tenant's terminals.

The link comes and goes with the worker; the terminals stay.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from protocol import frames, launching
from protocol.aio import LinkEnd
from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError
from supervisor.launcher.engine import Size
from supervisor.launcher.terminal import Terminal
from supervisor.launcher.terminals import Opened, Terminals

Start = Callable[[launching.OpenTerminal, Size], Awaitable[Opened]]
T = TypeVar("T")


class _Chunks:
    """The stream of one attachment; see `terminal.Stream`."""

    def __init__(
        self, end: LinkEnd, call_id: int, terminal: Terminal, over: Callable[[], object]
    ) -> None:
        self.on_credit: Callable[[], None] | None = None
        self.terminal: Final = terminal
        self._end: Final = end
        self._call_id: Final = call_id
        self._over: Final[Callable[[], object]] = over
        self._waiting: asyncio.Task[None] | None = None

    @property
    def credit(self) -> int:
        """See `Stream`. None while the worker does not read what it has credit for."""
        if self._end.congested:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_task(self._wait_for_room())
            return 0
        return self._end.link.stream_credit(self._call_id)

    async def _wait_for_room(self) -> None:
        await self._end.writable()
        self._waiting = None
        if self.on_credit is not None:
            self.on_credit()

    def send(self, chunk: bytes) -> None:
        """See `Stream`."""
        self._end.link.chunk(self._call_id, chunk)
        self._end.flush()

    def finish(self, ended: launching.Ended) -> None:
        """See `Stream`."""
        self._over()
        self._end.link.end(self._call_id, msgspec.json.encode(ended))
        self._end.flush()

    def detach(self, error: GatewayError) -> None:
        """Give it no more, for a reason."""
        self.terminal.detach(self)
        self._over()
        self._end.fail(self._call_id, error)


class TerminalCalls:
    """See the module.

    Args:
        terminals: Those of the link's tenant.
        start: Starts the sandbox of a terminal; checks all that is asked for.
    """

    def __init__(self, terminals: Terminals, start: Start) -> None:
        self._terminals: Final = terminals
        self._start: Final = start
        self._streams: Final[dict[int, _Chunks]] = {}
        self._tasks: Final[dict[int, asyncio.Task[bytes]]] = {}
        # Terminals that are being started, and those of them that nobody would know of.
        self._opening: Final[set[int]] = set()
        self._unwanted: Final[set[int]] = set()
        self._acts: Final[dict[str, Callable[[LinkEnd, frames.Call], object]]] = {
            "terminal.open": self._open,
            "terminal.list": self._list,
            "terminal.attach": self._attach,
            "terminal.write": self._write,
            "terminal.resize": self._resize,
            "terminal.close": self._close,
        }

    @property
    def methods(self) -> frozenset[str]:
        """What is answered here."""
        return frozenset(self._acts)

    def on_call(self, end: LinkEnd, call: frames.Call) -> None:
        """Answer a call, now or later.

        Raises:
            RemoteProtocolError: it is none that an honest worker makes.
        """
        try:
            result = self._acts[call.method](end, call)
        except GatewayError as error:
            end.fail(call.id, error)
            return
        if result is not None:
            end.link.result(call.id, msgspec.json.encode(result))
            end.flush()

    def on_cancel(self, call_id: int) -> None:
        """Nobody waits for this any more; what is being started ends when it has been."""
        self._unwanted.update({call_id} & self._opening)
        stream = self._streams.get(call_id)
        if stream is not None:
            stream.detach(GatewayError(ErrorCode.CANCELLED, "the caller has gone away"))

    def on_credit(self, call_id: int) -> None:
        """A stream may go on."""
        stream = self._streams.get(call_id)
        if stream is not None and stream.on_credit is not None:
            stream.on_credit()

    def on_closed(self) -> None:
        """The link has ended: nobody watches through it, and what waits to be written does not."""
        for stream in list(self._streams.values()):
            stream.terminal.detach(stream)
        self._streams.clear()
        self._unwanted.update(self._opening)
        for call_id, task in self._tasks.items():
            if call_id not in self._opening:
                task.cancel()

    # The methods. Each gives a result, or None for one that is answered otherwise.

    def _open(self, end: LinkEnd, call: frames.Call) -> None:
        asked = _decode(call, launching.OpenTerminal)

        async def opened() -> bytes:
            try:
                terminal = await self._terminals.open(asked, partial(self._start, asked))
                if call.id in self._unwanted:
                    terminal.end("closed")
                return msgspec.json.encode(terminal.view())
            finally:
                self._opening.discard(call.id)
                self._unwanted.discard(call.id)

        self._opening.add(call.id)
        self._later(end, call.id, opened())

    def _list(self, _end: LinkEnd, _call: frames.Call) -> launching.Terminals:
        return self._terminals.view()

    def _attach(self, end: LinkEnd, call: frames.Call) -> None:
        if call.credit < 1:
            reason = "an attachment that takes no stream"
            raise RemoteProtocolError(reason)
        asked = _decode(call, launching.Attach)
        terminal = self._terminals.find(asked.sandbox_id)
        stream = _Chunks(end, call.id, terminal, partial(self._streams.pop, call.id, None))
        self._streams[call.id] = stream
        try:
            terminal.attach(stream, asked.from_byte)
        except GatewayError:
            self._streams.pop(call.id, None)
            raise

    def _write(self, end: LinkEnd, call: frames.Call) -> None:
        asked = _decode(call, launching.Write)
        terminal = self._terminals.find(asked.sandbox_id)

        async def written() -> bytes:
            count = await terminal.write(asked.data, asked.writer, asked.at)
            return msgspec.json.encode(launching.Written(count=count))

        self._later(end, call.id, written())

    def _resize(self, _end: LinkEnd, call: frames.Call) -> dict[str, Any]:
        asked = _decode(call, launching.Resize)
        self._terminals.find(asked.sandbox_id).resize(Size(asked.columns, asked.rows))
        return {}

    def _close(self, _end: LinkEnd, call: frames.Call) -> dict[str, Any]:
        self._terminals.find(_decode(call, launching.Named).sandbox_id).end("closed")
        return {}

    # Inside.

    def _later(self, end: LinkEnd, call_id: int, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[call_id] = task
        task.add_done_callback(partial(self._on_done, end, call_id))

    def _on_done(self, end: LinkEnd, call_id: int, task: "asyncio.Task[bytes]") -> None:
        del self._tasks[call_id]
        if task.cancelled() or not end.link.is_serving(call_id):
            return
        error = task.exception()
        if error is None:
            end.link.result(call_id, task.result())
            end.flush()
        elif isinstance(error, GatewayError):
            end.fail(call_id, error)
        else:
            end.close(error if isinstance(error, Exception) else None)


def _decode(call: frames.Call, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(call.params, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = f"{call.method}: {error}"
        raise RemoteProtocolError(reason) from error
