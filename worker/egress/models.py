"""Models, as agents ask them: through egress, which has the keys and counts what is spent."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from math import inf
from typing import Final

import msgspec

from protocol import aio, frames, limits, models
from protocol.errors import LinkClosedError
from protocol.methods.chat import Part, TextPart, ToolCallPart, ToolResultPart, Usage
from worker.agents.model import (
    Finished,
    ModelEvent,
    ModelRequest,
    PromptMessage,
    TextDelta,
    ToolCall,
)
from worker.clock import Clock
from worker.egress.link import EgressLink

CREDIT: Final = limits.STREAM_CREDIT_INITIAL
WINDOW_SECONDS: Final = 30.0
"""How long it is believed what models can take: an operator may change it."""
_piece_decoder: Final = msgspec.json.Decoder(models.ModelPiece)
_answer_decoder: Final = msgspec.json.Decoder(models.ModelAnswer)


class Answer:
    """The answer to one call of a model, piece by piece; iterate over it, then see `end`.

    Args:
        link: Who is asked.
        request: What.
    """

    def __init__(self, link: EgressLink, request: models.ModelRequest) -> None:
        self._link: Final = link
        self._request: Final = request
        self._chunks: Final[deque[bytes]] = deque()
        self._over: frames.End | frames.Failure | frames.Result | LinkClosedError | None = None
        self._changed: Final = asyncio.Event()
        self.end: models.ModelAnswer | None = None
        """Its end, when all pieces have been taken."""

    async def pieces(self) -> AsyncGenerator[models.ModelPiece, None]:
        """Give the pieces; who stops early has the call cancelled.

        Raises:
            GatewayError: the call was refused or failed.
        """
        request = msgspec.structs.replace(self._request, stream=True)
        stream = await self._link.stream("model", request, self._on_reply, CREDIT)
        taken = 0
        try:
            while True:
                while self._chunks:
                    chunk = self._chunks.popleft()
                    taken += 1
                    if taken >= CREDIT // 2:
                        stream.grant(taken)
                        taken = 0
                    yield _piece_decoder.decode(chunk)
                if self._over is not None:
                    break
                self._changed.clear()
                await self._changed.wait()
        finally:
            if self._over is None:
                stream.cancel()
        self.end = self._ended()

    def _on_reply(self, reply: aio.Reply) -> None:
        if isinstance(reply, frames.Chunk):
            self._chunks.append(reply.data)
        else:
            self._over = reply
        self._changed.set()

    def _ended(self) -> models.ModelAnswer:
        over = self._over
        if isinstance(over, LinkClosedError):
            raise self._link.unavailable()
        if isinstance(over, frames.Failure):
            raise aio.failure_error(over)
        assert over is not None
        return _answer_decoder.decode(over.body)


class EgressModels:
    """Every model that egress knows; implements `worker.agents.model.ModelProvider`.

    Args:
        link: Who is asked.
        clock: For how long it is kept what models can take.
    """

    name: Final = "egress"

    def __init__(self, link: EgressLink, clock: Clock) -> None:
        self._link: Final = link
        self._clock: Final = clock
        self._windows: dict[str, int | None] = {}
        self._windows_until = -inf

    async def window(self, model: str) -> int | None:
        """See `RemoteModels`."""
        if model not in self._windows or self._clock.monotonic() > self._windows_until:
            found = await self._link.models()
            self._windows = {each.id: each.context_window for each in found}
            self._windows_until = self._clock.monotonic() + WINDOW_SECONDS
        return self._windows.get(model)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ModelProvider`."""
        answer = Answer(self._link, translated(request))
        calls = Calls()
        async for piece in answer.pieces():
            if piece.text:
                yield TextDelta(piece.text)
            calls.add(piece)
        for call in calls.whole():
            yield call
        assert answer.end is not None
        yield finished(answer.end.stop_reason, answer.end.spent, answer.end.cost_micro_usd)


class Calls:
    """The tool calls of an answer, which come in pieces."""

    def __init__(self) -> None:
        self._parts: Final[dict[int, list[str]]] = {}

    def add(self, piece: models.ModelPiece) -> None:
        """Take what a piece adds."""
        for tool in piece.tools:
            call = self._parts.setdefault(tool.index, ["", "", ""])
            call[0] += tool.id
            call[1] += tool.name
            call[2] += tool.arguments

    def whole(self) -> Iterable[ToolCall]:
        """Give them, in their order, when no piece is to come."""
        for call_id, name, arguments in self._parts.values():
            yield ToolCall(call_id, name, arguments or "{}")


def finished(stop: models.StopReason, spent: models.Spent, cost_micro_usd: int = 0) -> Finished:
    """Give the end of an answer as an agent takes it."""
    usage = Usage(
        input=spent.input + spent.cache_read + spent.cache_write,
        output=spent.output + spent.reasoning,
        cache_read=spent.cache_read,
        cache_write=spent.cache_write,
        reasoning=spent.reasoning,
        cost_micro_usd=cost_micro_usd,
    )
    return Finished(usage, "stop" if stop == "content_filter" else stop)


def translated(request: ModelRequest) -> models.ModelRequest:
    """Give an agent's request as egress takes it."""
    return models.ModelRequest(
        model=request.model,
        run_id=request.run_id,
        session_key=request.session_key,
        max_tokens=request.max_tokens,
        messages=tuple(each for message in request.messages for each in _messages(message)),
        tools=tuple(
            models.OfferedTool(
                name=tool.name,
                description=tool.description,
                parameters=msgspec.Raw(msgspec.json.encode(tool.parameters)),
            )
            for tool in request.tools
        ),
    )


def _messages(message: PromptMessage) -> Iterable[models.ChatMessage]:
    if message.role == "tool":
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                yield models.ChatMessage(
                    role="tool", content=_blocks((part,)), tool_call_id=part.call_id
                )
        return
    yield models.ChatMessage(
        role=message.role,
        content=_blocks(message.parts),
        tool_calls=tuple(
            models.AskedTool(id=part.call_id, name=part.name, arguments=part.arguments)
            for part in message.parts
            if isinstance(part, ToolCallPart)
        ),
    )


def _blocks(parts: tuple[Part, ...]) -> tuple[models.Block, ...]:
    return tuple(
        models.TextBlock(text=part.text)
        for part in parts
        if isinstance(part, TextPart | ToolResultPart)
    )
