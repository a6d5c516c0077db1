"""A turn as it happens, for those who watch it."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol, Self

import msgspec

from protocol import limits
from protocol.errors import GatewayError
from protocol.methods.chat import Message, Usage
from protocol.methods.events import ToolProgress
from protocol.methods.sessions import ChatDelta, RunStatus

# A character is at most six bytes of JSON; the rest of a chunk is for the other members.
DELTA_CHARS_MAX: Final = (limits.CHUNK_BYTES_MAX - 4096) // 6

_encode: Final = msgspec.json.Encoder().encode


class TurnResult(NamedTuple):
    """How a turn stands at the end of watching it: ended, or (`queued`) left to a later worker.

    `refusal` is the error of the table that ended it, if it ran here.
    """

    state: RunStatus
    reply: Message | None = None
    usage: Usage | None = None
    error: str | None = None
    refusal: GatewayError | None = None
    error_code: str | None = None


class Feed:
    """The text and tool calls of one turn, kept until its end: a late watcher misses nothing.

    Its size is bounded by those of a turn's output, however many watch and however slowly.
    """

    def __init__(self) -> None:
        self.pieces: Final[list[str]] = []
        self.tools: Final[list[tuple[int, ToolProgress]]] = []
        """Of tool calls, each after so many pieces."""
        self._watchers: Final[set[Callable[[], None]]] = set()
        self._result: Final[asyncio.Future[TurnResult]] = asyncio.get_running_loop().create_future()

    def add(self, text: str) -> None:
        """Take the next piece of text."""
        self.pieces.append(text)
        for watcher in tuple(self._watchers):
            watcher()

    def tool(self, progress: ToolProgress) -> None:
        """Take note of a tool call that begins or ends."""
        self.tools.append((len(self.pieces), progress))
        for watcher in tuple(self._watchers):
            watcher()

    def finish(self, result: TurnResult | GatewayError) -> None:
        """Tell everybody that it is over; without effect when they know."""
        if self._result.done():
            return
        if isinstance(result, GatewayError):
            self._result.set_exception(result)
            self._result.exception()  # it may be that nobody watches
        else:
            self._result.set_result(result)

    async def wait(self) -> TurnResult:
        """Wait for the end. Bound the wait outside.

        Raises:
            GatewayError: the end of the turn could not be written down.
        """
        return await asyncio.shield(self._result)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called after each piece."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Stop that."""
        self._watchers.discard(watcher)


class Stream(Protocol):
    """Where chunks can be sent."""

    on_credit: Callable[[], None] | None

    @property
    def credit(self) -> int:
        """How many chunks are taken now."""

    def send(self, chunk: bytes, *, goes_on: bool = False) -> None:
        """Send one, or with `goes_on` the beginning of one; costs one credit."""


class DeltaPump:
    """Sends a turn's text to one stream, as fast as that takes it.

    What comes while there is no credit is sent as one piece later.
    """

    def __init__(self, feed: Feed, stream: Stream, run_id: str, session_key: str) -> None:
        self._feed: Final = feed
        self._stream: Final = stream
        self._run_id: Final = run_id
        self._session_key: Final = session_key
        self._next_piece = self._next_tool = 0
        self._rest = ""
        self._seq = 0
        self._all_sent = asyncio.Event()

    def __enter__(self) -> Self:
        self._feed.watch(self.pump)
        self._stream.on_credit = self.pump
        self.pump()
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.unwatch(self.pump)
        self._stream.on_credit = None

    def pump(self) -> None:
        """Send what there is and is taken."""
        pieces, tools = self._feed.pieces, self._feed.tools
        while self._stream.credit > 0:
            until = tools[self._next_tool][0] if self._next_tool < len(tools) else len(pieces)
            if len(self._rest) < DELTA_CHARS_MAX and self._next_piece < until:
                self._rest += "".join(pieces[self._next_piece : until])
                self._next_piece = until
            if self._rest:
                text, self._rest = self._rest[:DELTA_CHARS_MAX], self._rest[DELTA_CHARS_MAX:]
                self._send("delta", text, None)
            elif self._next_tool < len(tools):
                self._next_tool += 1
                self._send("tool", "", tools[self._next_tool - 1][1])
            else:
                break
        if self._rest or self._next_piece < len(pieces) or self._next_tool < len(tools):
            self._all_sent.clear()
        else:
            self._all_sent.set()

    def _send(self, state: Literal["delta", "tool"], text: str, tool: ToolProgress | None) -> None:
        self._seq += 1
        self._stream.send(
            _encode(
                ChatDelta(
                    run_id=self._run_id,
                    session_key=self._session_key,
                    seq=self._seq,
                    state=state,
                    delta_text=text,
                    tool=tool,
                )
            )
        )

    async def all_sent(self) -> None:
        """Wait until everything there is has been sent. Bound the wait outside."""
        await self._all_sent.wait()
