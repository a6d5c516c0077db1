"""The worker's ends of its links: calls from the front, and the supervisor's word."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from protocol import frames
from protocol.aio import LinkEnd
from protocol.errors import ErrorCode, GatewayError
from worker import dispatch, log, refusal
from worker.events.bus import Push
from worker.services import Services

# Answers of this size wait while the peer does not read.
BIG_ANSWER_BYTES: Final = 64 * 1024
# For what only has to be handed over once waiting is over.
LAST_WORDS_SECONDS: Final = 2.0
HANDOVER_SECONDS: Final = 0.2
_GONE: Final = GatewayError(ErrorCode.CANCELLED, "the caller has gone away")


class CallStream:
    """The chunks of one call; see `worker.sessions.feed.Stream`."""

    def __init__(self, end: LinkEnd, call_id: int) -> None:
        self._end: Final = end
        self._call_id: Final = call_id
        self.on_credit: Callable[[], None] | None = None

    @property
    def credit(self) -> int:
        """How many chunks are taken now."""
        return self._end.link.stream_credit(self._call_id)

    def send(self, chunk: bytes, *, goes_on: bool = False) -> None:
        """Send one, or with `goes_on` the beginning of one; costs one credit."""
        self._end.link.chunk(self._call_id, chunk, goes_on=goes_on)
        self._end.flush()


class _Open:
    """A call whose handler goes on."""

    __slots__ = ("reason", "stream", "task")

    def __init__(self, stream: CallStream | None) -> None:
        self.stream = stream
        self.task: asyncio.Task[bytes] | None = None
        self.reason = _GONE


class CallsLink:
    """Serves the calls of one peer; a `LinkHandler`.

    Quick handlers are answered in the turn of the loop in which the call arrived. While the peer
    reads more slowly than we answer, calls wait, so that answers do not pile up here.
    """

    def __init__(self, services: Services) -> None:
        self._services: Final = services
        self._loop: Final = asyncio.get_running_loop()
        self._open: Final[dict[int, _Open]] = {}
        self._backlog: Final[deque[frames.Call]] = deque()  # bounded by the link's calls in flight
        self._draining_backlog: asyncio.Task[None] | None = None
        self._big: Final = asyncio.Lock()
        self._changed: Final = asyncio.Event()
        self._closed: Final = asyncio.Event()
        self._push: Push = _nowhere
        self.last_call_at = 0.0
        """When the newest call came, by the event loop's clock."""

    @property
    def busy(self) -> bool:
        """Whether a call waits for its answer."""
        return bool(self._open or self._backlog)

    async def answered(self, seconds: float) -> bool:
        """Wait until the peer, which asks for nothing new, has all its answers and has gone.

        Only its end of the link tells that no call is on its way any more.

        Args:
            seconds: How long to wait.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
                await self._until_idle()
        except TimeoutError:
            return False
        return True

    async def finish(self, end: LinkEnd, reason: GatewayError) -> None:
        """Refuse the calls that are open, and close the link.

        Args:
            end: The link's end.
            reason: What those are told that took too long.
        """
        with suppress(TimeoutError):  # those that were just given what they waited for
            async with asyncio.timeout(HANDOVER_SECONDS):
                await self._until_idle()
        self._abort(end, reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._until_idle()
        end.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._closed.wait()

    async def _until_idle(self) -> None:
        while self.busy:
            self._changed.clear()
            await self._changed.wait()

    def _abort(self, end: LinkEnd, reason: GatewayError) -> None:
        while self._backlog:
            self._refuse(end, self._backlog.popleft().id, reason)
        for call in self._open.values():
            call.reason = reason
            if call.task is not None:
                call.task.cancel()

    # LinkHandler.

    def on_call(self, end: LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`."""
        self.last_call_at = self._loop.time()
        if self._backlog or end.congested:
            self._backlog.append(call)
            if self._draining_backlog is None:
                self._draining_backlog = self._loop.create_task(self._drain_backlog(end))
        else:
            self._serve(end, call)

    def on_cancel(self, end: LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        call = self._open.get(call_id)
        if call is not None and call.task is not None:
            call.task.cancel()

    def on_credit(self, end: LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        call = self._open.get(call_id)
        if call is not None and call.stream is not None and call.stream.on_credit is not None:
            call.stream.on_credit()

    def on_notice(
        self, end: LinkEnd, frame: frames.Event | frames.Drain | frames.Drained | frames.Pong
    ) -> None:
        """See `LinkHandler`. The front says whether somebody listens to events."""
        if isinstance(frame, frames.Event) and frame.topic == "listen":
            self._services.events.unlisten(self._push)
            self._push = partial(_push_event, end)
            if frame.body == b"true":
                self._services.events.listen(self._push)

    def on_closed(self, end: LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. Turns that were accepted go on."""
        if reason is not None:
            log.failure("link broken", reason)
        self._abort(end, _GONE)
        self._services.events.unlisten(self._push)
        self._closed.set()

    # Inside.

    async def _drain_backlog(self, end: LinkEnd) -> None:
        while self._backlog and not end.closed:
            await asyncio.sleep(0)  # what was said in this turn of the loop is written at its end
            await end.writable()
            while self._backlog and not end.congested:
                self._serve(end, self._backlog.popleft())
        self._draining_backlog = None
        self._changed.set()

    def _serve(self, end: LinkEnd, call: frames.Call) -> None:
        stream = CallStream(end, call.id) if call.credit else None
        try:
            outcome = dispatch.start(
                self._services, call.method, call.params, call.scopes, call.idempotency_key, stream
            )
        except Exception as error:  # noqa: BLE001 - one call's fault never ends the link
            self._refuse(end, call.id, refusal.of(error, method=call.method))
            return
        if isinstance(outcome, dispatch.Deferred):
            opened = _Open(stream if outcome.method.streams else None)
            self._open[call.id] = opened
            opened.task = self._loop.create_task(self._run(end, outcome))
            opened.task.add_done_callback(
                partial(self._on_done, end, call.id, outcome.method.name, opened)
            )
        else:
            self._answer(end, call.id, outcome, streamed=False)

    async def _run(self, end: LinkEnd, outcome: dispatch.Deferred) -> bytes:
        body = await outcome.run()
        if len(body) >= BIG_ANSWER_BYTES:
            # One after another, each written before the next one looks.
            async with self._big:
                await asyncio.sleep(0)
                await end.writable()
        return body

    def _on_done(
        self,
        end: LinkEnd,
        call_id: int,
        method: str,
        call: _Open,
        task: "asyncio.Task[bytes]",
    ) -> None:
        # Not in the task: one that is cancelled before its first step runs none of its code.
        del self._open[call_id]
        if task.cancelled():
            self._refuse(end, call_id, call.reason)
        elif (error := task.exception()) is not None:
            self._refuse(end, call_id, refusal.of(error, method=method))
        else:
            self._answer(end, call_id, task.result(), streamed=call.stream is not None)
        self._changed.set()

    def _answer(self, end: LinkEnd, call_id: int, body: bytes, *, streamed: bool) -> None:
        if end.link.is_serving(call_id):  # not after the link's end
            if streamed:
                end.link.end(call_id, body)
            else:
                end.link.result(call_id, body)
            end.flush()

    def _refuse(self, end: LinkEnd, call_id: int, error: GatewayError) -> None:
        if end.link.is_serving(call_id):
            end.fail(call_id, error)


def _push_event(end: LinkEnd, name: str, body: bytes) -> bool:
    """Send an event on; not to a peer that reads more slowly than we answer."""
    if end.closed or end.congested:
        return False
    end.link.send(frames.Event(name, body))
    end.flush()
    return True


def _nowhere(_name: str, _body: bytes) -> bool:
    return False
