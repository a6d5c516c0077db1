"""Chat completions and embeddings, as OpenAI defined them and many others speak them.

https://platform.openai.com/docs/api-reference/chat,
https://platform.openai.com/docs/api-reference/embeddings. What others do otherwise and can be
understood is taken: no index of a tool call, arguments that are an object, reasoning as
`reasoning_content` or `reasoning`, reasoning tokens beside the completion's.
"""

import math
from typing import Any, Final

import aiohttp
import msgspec

from protocol.models import AskedTool, EmbedRequest, ModelRequest, Spent, StopReason
from supervisor.egress import refused
from supervisor.egress.client import ANSWER_BYTES_MAX
from supervisor.egress.providers.openai_request import written
from supervisor.egress.providers.reported import CALLS_MAX, NAME_CHARS_MAX, counts
from supervisor.egress.providers.streaming import INVALID, NONSENSE, Answer, Chats
from supervisor.egress.sse import Event
from supervisor.egress.upstream import BrokenOffError, Embedded, Finish, Target

_DONE: Final = b"[DONE]"
_REASONS: Final[dict[str, StopReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    """A message, or what is added to one."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            parts = [part for part in self.content if isinstance(part, dict)]
            return "".join(str(part.get("text") or "") for part in parts)
        return self.content or self.refusal or ""

    @property
    def thought(self) -> str:
        return self.reasoning_content or self.reasoning or ""


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """An answer or a chunk of one."""

    id: str | None = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: dict[str, Any] | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode
_decode_vectors: Final = msgspec.json.Decoder(_Vectors).decode
_encode: Final = msgspec.json.encode


class OpenAI(Chats):
    """Implements `Upstream`."""

    async def _sent(self, target: Target, request: ModelRequest) -> aiohttp.ClientResponse:
        return await self._post(target, "/chat/completions", _encode(written(target, request)))

    def _request_id(self, response: aiohttp.ClientResponse) -> str:
        return _bounded(response.headers.get("x-request-id"))

    def _answer(self, target: Target, request_id: str) -> Answer:
        return _Stream(target, request_id)

    async def embed(self, target: Target, request: EmbedRequest) -> Embedded:
        """See `Upstream`."""
        asked: dict[str, Any] = {
            "model": target.model.upstream_model,
            "input": request.texts,
            "encoding_format": "float",
        }
        if request.dimensions is not None:
            asked["dimensions"] = request.dimensions
        response = await self._post(target, "/embeddings", _encode(asked))
        try:
            request_id = self._request_id(response)
            _check_json(target, response)
            data = await self._client.body(response, request_id, ANSWER_BYTES_MAX).whole()
        finally:
            response.close()
        try:
            found = _decode_vectors(data)
            vectors = _ordered(found.data, len(request.texts))
        except INVALID:
            raise BrokenOffError(NONSENSE, None, request_id) from None
        # Vectors have no completion to report.
        usage = None if found.usage is None else found.usage | {"completion_tokens": 0}
        return Embedded(vectors, spent(usage), request_id)

    async def _post(self, target: Target, path: str, body: bytes) -> aiohttp.ClientResponse:
        site = await self._client.site(target.provider.base_url)
        headers = {
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "openclawmu",
        }
        if target.key:
            headers["Authorization"] = f"Bearer {target.key}"
        return await self._client.post(target, site.url + path, headers, body)

    async def _whole(
        self, target: Target, response: aiohttp.ClientResponse, request_id: str
    ) -> Finish:
        _check_json(target, response)
        data = await self._client.body(response, request_id, ANSWER_BYTES_MAX).whole()
        try:
            found = _decode(data)
            if found.error is not None and not found.choices:
                raise refused.by_error_object(target)
            choice = (found.choices or [])[0]
            message = choice.message or _Said()
            calls = _whole_calls(message.tool_calls or [])
        except (IndexError, *INVALID):
            raise BrokenOffError(NONSENSE, None, request_id) from None
        return Finish(
            stop_reason=_reason(choice.finish_reason, calls=bool(calls)),
            spent=spent(found.usage),
            request_id=request_id or _bounded(found.id),
            text=message.text,
            reasoning=message.thought,
            tool_calls=calls,
        )


class _Stream(Answer):
    def __init__(self, target: Target, request_id: str) -> None:
        super().__init__(target, request_id)
        self._calls: Final[dict[str, int]] = {}
        self._last_call = -1
        self._reason: str | None = None

    @property
    def complete(self) -> bool:
        """See `Answer`. Not everybody says `[DONE]`."""
        return self._reason is not None

    def finish(self) -> Finish:
        """See `Answer`."""
        reason = _reason(self._reason, calls=bool(self._calls))
        return Finish(reason, self.spent, self.request_id)

    def add(self, event: Event) -> None:
        """See `Answer`."""
        if event.data == _DONE:
            self.over = True
            return
        chunk = _decode(event.data)
        if chunk.error is not None:
            self.fail()
        if chunk.usage:
            self.spent = spent(chunk.usage)
        if not self.request_id:
            self.request_id = _bounded(chunk.id)
        for choice in chunk.choices or ():
            if choice.finish_reason:
                self._reason = choice.finish_reason
            if choice.delta is not None:
                self._say(choice.delta)

    def _say(self, said: _Said) -> None:
        self.gathered.text(said.text)
        self.gathered.reasoning(said.thought)
        for call in said.tool_calls or ():
            call_id = _bounded(call.id)
            function = call.function or _Function()
            index = self._index(call.index, call_id)
            known = index in self._calls.values()
            if not known:
                self._calls[call_id or f"#{index}"] = index
            self.gathered.tool(
                index,
                "" if known else call_id or f"call_{index}",
                "" if known else _bounded(function.name),
                _arguments(function.arguments),
            )

    def _index(self, given: int | None, call_id: str) -> int:
        if given is not None:
            index = given
        elif call_id and call_id not in self._calls:
            index = self._last_call + 1
        else:
            index = self._calls.get(call_id, max(self._last_call, 0))
        if not 0 <= index < CALLS_MAX:
            raise ValueError(index)
        self._last_call = index
        return index


def spent(usage: dict[str, Any] | None) -> Spent | None:
    """Give what a call has spent by a `usage`; None where that says nothing that can be true.

    Cached and reasoning tokens are part of the prompt's and the completion's; some count the
    reasoning beside the completion, which shows in the total.
    """
    if not usage or usage.get("prompt_tokens") is None or usage.get("completion_tokens") is None:
        return None
    prompt_details = usage.get("prompt_tokens_details") or {}
    output_details = usage.get("completion_tokens_details") or {}
    if not isinstance(prompt_details, dict) or not isinstance(output_details, dict):
        return None
    read = prompt_details.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))
    found = counts(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        read,
        prompt_details.get("cache_write_tokens"),
        output_details.get("reasoning_tokens"),
        usage.get("total_tokens"),
    )
    if found is None:
        return None
    prompt, completion, read, write, reasoning, total = found
    read = min(read, prompt)
    write = min(write, prompt - read)
    beside = reasoning > completion or total == prompt + completion + reasoning
    return Spent(
        input=prompt - read - write,
        cache_read=read,
        cache_write=write,
        output=completion if beside else completion - reasoning,
        reasoning=reasoning,
    )


def _check_json(target: Target, response: aiohttp.ClientResponse) -> None:
    if not response.content_type.endswith("json"):
        raise refused.by_nonsense(target)


def _bounded(name: str | None) -> str:
    return (name or "")[:NAME_CHARS_MAX]


def _reason(given: str | None, *, calls: bool) -> StopReason:
    reason = _REASONS.get(given or "", "stop")
    return "tool_calls" if calls and reason == "stop" else reason


def _arguments(given: str | dict[str, Any] | None) -> str:
    return given if isinstance(given, str) else "" if given is None else _encode(given).decode()


def _whole_calls(calls: list[_Call]) -> tuple[AskedTool, ...]:
    if len(calls) > CALLS_MAX:
        raise ValueError(len(calls))
    found = []
    for at, call in enumerate(calls):
        function = call.function or _Function()
        call_id, name = _bounded(call.id) or f"call_{at}", _bounded(function.name)
        found.append(AskedTool(id=call_id, name=name, arguments=_arguments(function.arguments)))
    return tuple(found)


def _ordered(found: list[_Vector], count: int) -> tuple[tuple[float, ...], ...]:
    """Give the vectors in the order of the texts.

    Raises:
        ValueError: there is not one for each, they are of several sizes, or no numbers.
    """
    if any(vector.index is not None for vector in found):
        found = sorted(found, key=lambda vector: vector.index or 0)
        if [vector.index for vector in found] != list(range(count)):
            raise ValueError(count)
    vectors = tuple(tuple(vector.embedding) for vector in found)
    sizes = {len(vector) for vector in vectors}
    if len(vectors) != count or len(sizes) != 1 or sizes == {0}:
        raise ValueError(count)
    if not all(map(math.isfinite, (number for vector in vectors for number in vector))):
        raise ValueError(count)
    return vectors
