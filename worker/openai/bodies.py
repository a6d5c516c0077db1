"""The requests of OpenAI's API (https://platform.openai.com/docs/api-reference).

The fields declared here are honoured, or refused by name where to leave them out would change what
is answered. Others are ignored: clients send many that are for OpenAI alone.
"""

from typing import Annotated, Any, Literal

import msgspec

from protocol import limits
from protocol.models import ModelId, ToolName

TokenCount = Annotated[int, msgspec.Meta(ge=1, le=limits.MODEL_TOKENS_MAX)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(ge=0, le=1)]
User = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.OPENAI_USER_CHARS_MAX)]
StopText = Annotated[str, msgspec.Meta(min_length=1)]
ReasoningEffort = Literal["minimal", "low", "medium", "high"]
Choice = Literal["auto", "none", "required"]


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what a client sends: open, snake_case. Null is as good as left out."""


class Unsupported(Body, frozen=True, kw_only=True):
    """Fields that would change the answer, and that cannot be honoured: refused if they ask."""

    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    modalities: tuple[str, ...] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None


# Chat completions.


class TextContent(Body, tag="text", tag_field="type", frozen=True, kw_only=True):
    """Plain text."""

    text: str


class ImageUrl(Body, frozen=True, kw_only=True):
    """A picture as `data:image/…;base64,…`. `detail` is ignored."""

    url: str


class ImageContent(Body, tag="image_url", tag_field="type", frozen=True, kw_only=True):
    """A picture."""

    image_url: ImageUrl


class RefusalContent(Body, tag="refusal", tag_field="type", frozen=True, kw_only=True):
    """What an assistant said when it would not answer."""

    refusal: str


Texts = str | tuple[TextContent, ...]


class SystemMessage(Body, tag="system", tag_field="role", frozen=True, kw_only=True):
    """What the model is told of its task."""

    content: Texts


class DeveloperMessage(Body, tag="developer", tag_field="role", frozen=True, kw_only=True):
    """As `SystemMessage`."""

    content: Texts


class UserMessage(Body, tag="user", tag_field="role", frozen=True, kw_only=True):
    """What the user says."""

    content: str | tuple[TextContent | ImageContent, ...]
    name: str | None = None


class CalledFunction(Body, frozen=True, kw_only=True):
    """`arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(Body, tag="function", tag_field="type", frozen=True, kw_only=True):
    """A call that an assistant asked for."""

    id: str
    function: CalledFunction


class AssistantMessage(Body, tag="assistant", tag_field="role", frozen=True, kw_only=True):
    """What the model said."""

    content: str | tuple[TextContent | RefusalContent, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    name: str | None = None


class ToolMessage(Body, tag="tool", tag_field="role", frozen=True, kw_only=True):
    """What a tool answered."""

    content: Texts
    tool_call_id: str


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(Body, frozen=True, kw_only=True):
    """What a model is told of a function; `parameters` is a JSON Schema of an object."""

    name: ToolName
    description: str | None = None
    parameters: Any = None


class FunctionTool(Body, tag="function", tag_field="type", frozen=True, kw_only=True):
    """A function of the client's."""

    function: Function


class NamedFunction(Body, frozen=True, kw_only=True):
    """A function by its name."""

    name: ToolName


class FunctionChoice(Body, tag="function", tag_field="type", frozen=True, kw_only=True):
    """The model has to call this one."""

    function: NamedFunction


class StreamOptions(Body, frozen=True, kw_only=True):
    """`include_usage`: one chunk more, with what was used."""

    include_usage: bool | None = None


class ChatBody(Unsupported, frozen=True, kw_only=True):
    """A request of `/v1/chat/completions`.

    `max_tokens` is the older name of `max_completion_tokens`.
    """

    model: ModelId
    messages: Annotated[
        tuple[ChatMessage, ...],
        msgspec.Meta(min_length=1, max_length=limits.MODEL_MESSAGES_MAX),
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: StopText | Annotated[tuple[StopText, ...], msgspec.Meta(max_length=4)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: ReasoningEffort | None = None
    tools: (
        Annotated[tuple[FunctionTool, ...], msgspec.Meta(max_length=limits.MODEL_TOOLS_MAX)] | None
    ) = None
    tool_choice: Choice | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    user: User | None = None


# Responses.


class InputText(Body, tag="input_text", tag_field="type", frozen=True, kw_only=True):
    """What is said to the model."""

    text: str


class OutputText(Body, tag="output_text", tag_field="type", frozen=True, kw_only=True):
    """What the model said."""

    text: str


class InputImage(Body, tag="input_image", tag_field="type", frozen=True, kw_only=True):
    """A picture as `data:image/…;base64,…`."""

    image_url: str


InputContent = InputText | OutputText | InputImage | RefusalContent


class InputItem(Body, frozen=True, kw_only=True):
    """What was said, called or answered; which fields it needs depends on `type`."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | tuple[InputContent, ...] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | tuple[InputText, ...] | None = None


class ResponseTool(Body, tag="function", tag_field="type", frozen=True, kw_only=True):
    """A function of the client's; `parameters` is a JSON Schema of an object."""

    name: ToolName
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class ResponseToolChoice(Body, tag="function", tag_field="type", frozen=True, kw_only=True):
    """The model has to call this function."""

    name: ToolName


class TextFormat(Body, frozen=True, kw_only=True):
    """Of the answer; `schema` and what goes with it for `json_schema`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Body, frozen=True, kw_only=True):
    """How the answer is written."""

    format: TextFormat | None = None


class Reasoning(Body, frozen=True, kw_only=True):
    """How much the model thinks."""

    effort: ReasoningEffort | None = None


class ResponseBody(Body, frozen=True, kw_only=True):
    """A request of `/v1/responses`. Nothing is kept: `store` is taken for false."""

    model: ModelId
    input: (
        str
        | Annotated[
            tuple[InputItem, ...],
            msgspec.Meta(min_length=1, max_length=limits.MODEL_MESSAGES_MAX),
        ]
    )
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: (
        Annotated[tuple[ResponseTool, ...], msgspec.Meta(max_length=limits.MODEL_TOOLS_MAX)] | None
    ) = None
    tool_choice: Choice | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: User | None = None
    metadata: dict[str, str] | None = None
    # Refused if they ask for something.
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    top_logprobs: int | None = None


# Embeddings.


class EmbeddingBody(Body, frozen=True, kw_only=True):
    """A request of `/v1/embeddings`."""

    model: ModelId
    input: (
        str
        | Annotated[
            tuple[str | int | tuple[int, ...], ...],
            msgspec.Meta(min_length=1, max_length=limits.EMBED_TEXTS_MAX),
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
