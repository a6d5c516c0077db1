"""What a worker asks of egress about models, and what it is answered.

The shape is that of a chat with tools as all providers have it; `supervisor/egress/providers/`
turns it into each provider's own and back. Calls on the link are JSON; a piece of an answer is one
chunk, an array-like JSON message. Who the tenant is, egress knows from the link.
"""

from typing import Annotated, Any, Literal

import msgspec

from protocol import limits

Role = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["stop", "tool_calls", "length", "content_filter"]
ModelId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$(?!\n)")]
"""What an operator calls a model in `models` of `config.yaml`, or `builtin/echo`."""
ToolName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    pass


class TextBlock(_Message, tag="text", tag_field="type", frozen=True, kw_only=True):
    """Plain text."""

    text: str


class ImageBlock(_Message, tag="image", tag_field="type", frozen=True, kw_only=True):
    """A picture inside the message, base64; a model that takes none refuses it."""

    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: str


Block = TextBlock | ImageBlock


class AskedTool(_Message, frozen=True, kw_only=True):
    """A tool call that the assistant made; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ChatMessage(_Message, frozen=True, kw_only=True):
    """One message. Those of the role `tool` answer the call `tool_call_id`."""

    role: Role
    content: tuple[Block, ...] = ()
    tool_calls: tuple[AskedTool, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class OfferedTool(_Message, frozen=True, kw_only=True):
    """What a model is told of a tool; `parameters` is a JSON Schema of an object."""

    name: ToolName
    description: str = ""
    parameters: msgspec.Raw = msgspec.Raw(b'{"type":"object","properties":{}}')


class NamedTool(_Message, frozen=True, kw_only=True):
    """The model has to call this tool."""

    name: ToolName


class ModelRequest(_Message, frozen=True, kw_only=True):
    """Parameters of `model`: one call of a model, the unit that is reserved, priced and settled.

    `max_tokens` bounds the answer, thinking included; egress always sends one. With `stream` the
    answer comes as chunks (`ModelPiece`) before the `ModelAnswer`; else the answer holds all.
    `run_id` and `session_key` go into the ledger, for the tenant's own reports.
    """

    model: ModelId
    messages: Annotated[
        tuple[ChatMessage, ...],
        msgspec.Meta(min_length=1, max_length=limits.MODEL_MESSAGES_MAX),
    ]
    tools: Annotated[tuple[OfferedTool, ...], msgspec.Meta(max_length=limits.MODEL_TOOLS_MAX)] = ()
    tool_choice: Literal["auto", "none", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=limits.MODEL_TOKENS_MAX)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stop: Annotated[tuple[str, ...], msgspec.Meta(max_length=4)] = ()
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    """As OpenAI has it: `{"type": "json_object"}`, `{"type": "json_schema", "json_schema": …}`."""
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None
    stream: bool = False
    run_id: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    session_key: Annotated[str, msgspec.Meta(max_length=limits.SESSION_KEY_CHARS_MAX)] | None = None


class ToolPiece(msgspec.Struct, frozen=True, array_like=True):
    """What is added to the tool call of this index; id and name come with its first piece."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class ModelPiece(msgspec.Struct, frozen=True, array_like=True):
    """One chunk of an answer: what is added to its text, its reasoning, its tool calls."""

    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolPiece, ...] = ()


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one call. The five classes do not overlap; their sum is the total.

    `input` are those not read from or written to a cache, `output` those that are no reasoning.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """All together: what a token quota counts."""
        return self.input + self.cache_read + self.cache_write + self.output + self.reasoning


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of a call that was settled. `text` and `tool_calls` are empty after a stream.

    `estimated`: the provider said nothing of its usage; it was counted here.
    """

    model: str
    stop_reason: StopReason
    spent: Spent
    cost_micro_usd: int
    estimated: bool = False
    request_id: str = ""
    """The provider's own, for questions to it."""
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[AskedTool, ...] = ()


class EmbedRequest(_Message, frozen=True, kw_only=True):
    """Parameters of `embed`: a vector for each text."""

    model: ModelId
    texts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=limits.EMBED_TEXTS_MAX)]
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
    run_id: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class EmbedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the texts."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    spent: Spent
    cost_micro_usd: int
    estimated: bool = False


class ModelShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A model that the operator allows; result of `models` is a list of them."""

    id: str
    provider: str
    context_window: int | None = None
    input: tuple[str, ...] = ("text",)
    embeds: bool = False
    own_key: bool = False
    """Whether the tenant's own key is used for it."""
