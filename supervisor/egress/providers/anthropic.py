"""Messages, as Anthropic defined them.

https://docs.anthropic.com/en/api/messages, https://docs.anthropic.com/en/api/messages-streaming
"""

from typing import Any, Final

import aiohttp
import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.models import AskedTool, EmbedRequest, ModelRequest, Spent, StopReason
from supervisor.egress import refused
from supervisor.egress.client import ANSWER_BYTES_MAX
from supervisor.egress.providers.anthropic_request import written
from supervisor.egress.providers.reported import CALLS_MAX, NAME_CHARS_MAX, counts
from supervisor.egress.providers.streaming import INVALID, NONSENSE, Answer, Chats
from supervisor.egress.sse import Event
from supervisor.egress.upstream import BrokenOffError, Embedded, Finish, Target

VERSION: Final = "2023-06-01"
_REASONS: Final[dict[str, StopReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_USAGE: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    id: str = ""
    content: list[_Block] = []
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    index: int | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: dict[str, Any] | None = None


class _Whole(_Message):
    type: str = ""


_decode: Final = msgspec.json.Decoder(_Event).decode
_decode_whole: Final = msgspec.json.Decoder(_Whole).decode
_encode: Final = msgspec.json.encode


class Anthropic(Chats):
    """Implements `Upstream`."""

    async def _sent(self, target: Target, request: ModelRequest) -> aiohttp.ClientResponse:
        return await self._post(target, _encode(written(target, request)))

    def _request_id(self, response: aiohttp.ClientResponse) -> str:
        return (response.headers.get("request-id") or "")[:NAME_CHARS_MAX]

    def _answer(self, target: Target, request_id: str) -> Answer:
        return _Stream(target, request_id)

    async def embed(self, target: Target, request: EmbedRequest) -> Embedded:
        """See `Upstream`. The API has none."""
        msg = f"model {target.model_id}: its provider makes no embeddings"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="model")

    async def _post(self, target: Target, body: bytes) -> aiohttp.ClientResponse:
        site = await self._client.site(target.provider.base_url.rstrip("/").removesuffix("/v1"))
        headers = {
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "openclawmu",
            "anthropic-version": VERSION,
        }
        if target.key:
            headers["x-api-key"] = target.key
        return await self._client.post(target, f"{site.url}/v1/messages", headers, body)

    async def _whole(
        self, target: Target, response: aiohttp.ClientResponse, request_id: str
    ) -> Finish:
        if not response.content_type.endswith("json"):
            raise refused.by_nonsense(target)
        data = await self._client.body(response, request_id, ANSWER_BYTES_MAX).whole()
        try:
            found = _decode_whole(data)
            if found.type == "error":
                raise refused.by_error_object(target)
            calls = _calls(found.content)
            if found.type != "message" or (not found.content and found.stop_reason is None):
                raise ValueError(found.type)
        except INVALID:
            raise BrokenOffError(NONSENSE, None, request_id) from None
        return Finish(
            stop_reason=_reason(found.stop_reason),
            spent=spent(found.usage or {}),
            request_id=request_id or found.id[:NAME_CHARS_MAX],
            text="".join(block.text for block in found.content if block.type == "text"),
            reasoning="".join(b.thinking for b in found.content if b.type == "thinking"),
            tool_calls=calls,
        )


class _Stream(Answer):
    def __init__(self, target: Target, request_id: str) -> None:
        super().__init__(target, request_id)
        self._calls: Final[dict[int, int]] = {}
        self._silent: Final[dict[int, str]] = {}
        self._reason: str | None = None
        self._usage: Final[dict[str, Any]] = {}

    @property
    def complete(self) -> bool:
        """See `Answer`. All that matters has been said with the reason."""
        return self._reason is not None

    def finish(self) -> Finish:
        """See `Answer`."""
        return Finish(_reason(self._reason), self.spent, self.request_id)

    def add(self, event: Event) -> None:
        """See `Answer`. The event's name is said again in its data."""
        found = _decode(event.data)
        match found.type:
            case "message_start" if found.message is not None:
                self.request_id = self.request_id or found.message.id[:NAME_CHARS_MAX]
                self._count(found.message.usage)
            case "content_block_start" if found.content_block is not None:
                self._begin(found.index, found.content_block)
            case "content_block_delta" if found.delta is not None:
                self._say(found.index, found.delta)
            case "content_block_stop":
                self._stop(found.index)
            case "message_delta":
                self._count(found.usage)
                if found.delta is not None and found.delta.stop_reason:
                    self._reason = found.delta.stop_reason
                # What the beginning says of the output is not what it will have been.
                if found.usage:
                    self.spent = spent(self._usage)
            case "message_stop":
                if self._reason is None:
                    raise ValueError(found.type)
                self.over = True
            case "error":
                self.fail()
            case "message_start" | "content_block_start" | "content_block_delta":
                raise ValueError(found.type)

    def _count(self, usage: dict[str, Any] | None) -> None:
        for name in _USAGE:
            if usage and usage.get(name) is not None:
                self._usage[name] = usage[name]

    def _begin(self, at: int | None, block: _Block) -> None:
        self.gathered.text(block.text)
        self.gathered.reasoning(block.thinking)
        if block.type != "tool_use":
            return
        index = len(self._calls)
        if at is None or at in self._calls or index >= CALLS_MAX:
            raise ValueError(at)
        self._calls[at] = index
        # Pieces follow, or this was all of it.
        self._silent[at] = bytes(block.input).decode()
        call_id = block.id[:NAME_CHARS_MAX] or f"call_{index}"
        self.gathered.tool(index, call_id, block.name[:NAME_CHARS_MAX])

    def _say(self, at: int | None, delta: _Delta) -> None:
        self.gathered.text(delta.text)
        self.gathered.reasoning(delta.thinking)
        if delta.partial_json:
            if at is None or at not in self._calls:
                raise ValueError(at)
            self._silent.pop(at, None)
            self.gathered.tool(self._calls[at], arguments=delta.partial_json)

    def _stop(self, at: int | None) -> None:
        unsaid = None if at is None else self._silent.pop(at, None)
        if at is not None and unsaid:
            self.gathered.tool(self._calls[at], arguments=unsaid)


def spent(usage: dict[str, Any]) -> Spent | None:
    """Give what a call has spent by a `usage`; None where that says nothing that can be true.

    The classes are apart in this API, but for thinking, which is part of the output.
    """
    if usage.get("input_tokens") is None or usage.get("output_tokens") is None:
        return None
    found = counts(*(usage.get(name) for name in _USAGE))
    if found is None:
        return None
    return Spent(input=found[0], cache_read=found[1], cache_write=found[2], output=found[3])


def _reason(given: str | None) -> StopReason:
    return _REASONS.get(given or "", "stop")


def _calls(blocks: list[_Block]) -> tuple[AskedTool, ...]:
    asked = [block for block in blocks if block.type == "tool_use"]
    if len(asked) > CALLS_MAX:
        raise ValueError(len(asked))
    return tuple(
        AskedTool(
            id=block.id[:NAME_CHARS_MAX] or f"call_{at}",
            name=block.name[:NAME_CHARS_MAX],
            arguments=bytes(block.input).decode(),
        )
        for at, block in enumerate(asked)
    )
