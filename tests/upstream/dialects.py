"""The wire of OpenAI's chat completions and of Anthropic's messages, as the server speaks it.

https://platform.openai.com/docs/api-reference/chat, https://docs.anthropic.com/en/api/messages
"""

import base64
import hashlib
import struct
from typing import Any, Final

import msgspec

from tests.upstream.script import Asked, Plan, tokens

ARGUMENT_PIECE: Final = 8
_encode = msgspec.json.encode


def _json(value: Any) -> bytes:
    # msgspec writes NaN and infinities as null, and no integer above 64 bits.
    data = _encode(value)
    return data.replace(b'"@huge"', b"%d" % 2**70).replace(b'"@nan"', b"NaN")


def _odd(plan: Plan, count: int) -> Any:
    match plan.options.get("usage"):
        case "huge" | "nan" as kind:
            return f"@{kind}"
        case "negative":
            return -5
        case "text":
            return "many"
        case "less":
            return 0
    return count


class OpenAI:
    """Chat completions."""

    path = b"/v1/chat/completions"

    @staticmethod
    def usage(plan: Plan) -> dict[str, Any] | None:
        kind = plan.options.get("usage")
        if kind in ("none", "null"):
            return None
        output = plan.output_tokens + plan.reasoning_tokens
        return {
            "prompt_tokens": _odd(plan, plan.prompt_tokens),
            "completion_tokens": _odd(plan, output),
            "total_tokens": plan.prompt_tokens + output,
            "prompt_tokens_details": {"cached_tokens": int(plan.number("cached"))},
            "completion_tokens_details": {"reasoning_tokens": plan.reasoning_tokens},
        }

    @staticmethod
    def reason(plan: Plan) -> str:
        default = "length" if plan.cut else "tool_calls" if plan.calls else "stop"
        return plan.options.get("stop", default)

    @classmethod
    def whole(cls, plan: Plan) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": plan.text, "refusal": None}
        if plan.reasoning:
            message["reasoning_content"] = plan.reasoning
        if plan.calls:
            message["content"] = plan.text or None
            message["tool_calls"] = [
                {
                    "id": f"call_{at}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for at, call in enumerate(plan.calls)
            ]
        answer: dict[str, Any] = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": plan.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": cls.reason(plan),
                }
            ],
            "system_fingerprint": "fp_fake",
        }
        usage = cls.usage(plan)
        if usage is not None or plan.options.get("usage") == "null":
            answer["usage"] = usage
        return _json(answer)

    @classmethod
    def events(cls, plan: Plan) -> list[list[bytes]]:
        """The lines of each event."""
        found = [cls._chunk(plan, {"role": "assistant", "content": "", "refusal": None})]
        found += [cls._chunk(plan, {"reasoning_content": plan.reasoning})] * bool(plan.reasoning)
        found += [cls._chunk(plan, {"content": piece}) for piece in plan.pieces]
        for at, call in enumerate(plan.calls):
            head = {"name": call.name, "arguments": ""}
            found.append(cls._call(plan, {"index": at, "id": f"call_{at}", "function": head}))
            for begin in range(0, len(call.arguments), ARGUMENT_PIECE):
                piece = {"arguments": call.arguments[begin : begin + ARGUMENT_PIECE]}
                found.append(cls._call(plan, {"index": at, "function": piece}))
        found.append(cls._chunk(plan, {}, cls.reason(plan)))
        usage = cls.usage(plan)
        if plan.include_usage and usage is not None:
            found.append(cls._envelope(plan) | {"choices": [], "usage": usage})
        return [[b"data: " + _json(each)] for each in found] + [[b"data: [DONE]"]]

    @staticmethod
    def _envelope(plan: Plan) -> dict[str, Any]:
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": plan.model,
            "system_fingerprint": "fp_fake",
        }

    @classmethod
    def _chunk(cls, plan: Plan, delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        chunk = cls._envelope(plan) | {"choices": [choice]}
        return chunk | {"usage": None} if plan.include_usage else chunk

    @classmethod
    def _call(cls, plan: Plan, call: dict[str, Any]) -> dict[str, Any]:
        return cls._chunk(plan, {"tool_calls": [call | {"type": "function"}]})

    @staticmethod
    def error(kind: str, message: str, code: str | None = None) -> bytes:
        return _encode(
            {"error": {"message": message, "type": kind, "param": None, "code": code or kind}}
        )

    @classmethod
    def error_event(cls, message: str) -> list[bytes]:
        return [b"data: " + cls.error("server_error", message)]


class Anthropic:
    """Messages."""

    path = b"/v1/messages"
    _REASONS: Final = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}

    @classmethod
    def usage(cls, plan: Plan, output: int) -> dict[str, Any]:
        cached, written = int(plan.number("cached")), int(plan.number("written"))
        return {
            "input_tokens": _odd(plan, plan.prompt_tokens - cached - written),
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": cached,
            "output_tokens": _odd(plan, output),
        }

    @classmethod
    def reason(cls, plan: Plan) -> str:
        reason = OpenAI.reason(plan)
        return cls._REASONS.get(reason, reason)

    @classmethod
    def _blocks(cls, plan: Plan) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if plan.reasoning:
            blocks.append({"type": "thinking", "thinking": plan.reasoning, "signature": "c2ln"})
        if plan.text:
            blocks.append({"type": "text", "text": plan.text})
        for at, call in enumerate(plan.calls):
            given = msgspec.Raw(call.arguments.encode())
            blocks.append(
                {"type": "tool_use", "id": f"toolu_{at}", "name": call.name, "input": given}
            )
        return blocks

    @classmethod
    def whole(cls, plan: Plan) -> bytes:
        answer: dict[str, Any] = {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": plan.model,
            "content": cls._blocks(plan),
            "stop_reason": cls.reason(plan),
            "stop_sequence": None,
            "usage": cls.usage(plan, plan.output_tokens + plan.reasoning_tokens),
        }
        if plan.options.get("usage") in ("none", "null"):
            del answer["usage"]
        return _json(answer)

    @classmethod
    def events(cls, plan: Plan) -> list[list[bytes]]:
        silent = plan.options.get("usage") in ("none", "null")
        message: dict[str, Any] = {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": plan.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        if not silent:
            message["usage"] = cls.usage(plan, 1)
        found: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
        for at, block in enumerate(cls._blocks(plan)):
            found += cls._block_events(plan, at, block)
            if not at:
                found.insert(2, {"type": "ping"})
        end: dict[str, Any] = {
            "type": "message_delta",
            "delta": {"stop_reason": cls.reason(plan), "stop_sequence": None},
        }
        if not silent:
            output = plan.output_tokens + plan.reasoning_tokens
            end["usage"] = {"output_tokens": _odd(plan, output)}
        found += [end, {"type": "message_stop"}]
        return [[b"event: " + each["type"].encode(), b"data: " + _json(each)] for each in found]

    @classmethod
    def _block_events(cls, plan: Plan, at: int, block: dict[str, Any]) -> list[dict[str, Any]]:
        match block["type"]:
            case "text":
                empty = block | {"text": ""}
                deltas = [{"type": "text_delta", "text": piece} for piece in plan.pieces]
            case "thinking":
                empty = block | {"thinking": "", "signature": ""}
                deltas = [
                    {"type": "thinking_delta", "thinking": plan.reasoning},
                    {"type": "signature_delta", "signature": "c2ln"},
                ]
            case _:
                empty = block | {"input": {}}
                text = bytes(block["input"]).decode()
                deltas = [
                    {"type": "input_json_delta", "partial_json": text[begin : begin + 8]}
                    for begin in range(0, len(text), ARGUMENT_PIECE)
                ]
        return [
            {"type": "content_block_start", "index": at, "content_block": empty},
            *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": at},
        ]

    @staticmethod
    def error(kind: str, message: str, _code: str | None = None) -> bytes:
        return _encode({"type": "error", "error": {"type": kind, "message": message}})

    @classmethod
    def error_event(cls, message: str) -> list[bytes]:
        return [b"event: error", b"data: " + cls.error("overloaded_error", message)]


Dialect = type[OpenAI] | type[Anthropic]


def embeddings(asked: Asked) -> bytes:
    """Vectors of length 1 that depend on the text alone."""
    texts = [asked.input] if isinstance(asked.input, str) else list(asked.input or [])
    size = asked.dimensions or 8
    data = []
    for at, text in enumerate(texts):
        vector = _vector(str(text), size)
        packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        given = packed if asked.encoding_format == "base64" else vector
        data.append({"object": "embedding", "index": at, "embedding": given})
    count = sum(tokens(str(text)) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return _encode({"object": "list", "data": data, "model": asked.model, "usage": usage})


def _vector(text: str, size: int) -> list[float]:
    seed = hashlib.sha256(text.encode()).digest()
    raw = [seed[at % len(seed)] - 127.5 + at / size for at in range(size)]
    length = sum(each * each for each in raw) ** 0.5
    return [each / length for each in raw]


def models() -> bytes:
    listed = [{"id": "fake", "object": "model", "created": 1_700_000_000, "owned_by": "fake"}]
    return _encode({"object": "list", "data": listed})
