"""The interface of a model, as agents use it."""

from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple, Protocol

from protocol.methods.chat import Part, Role, Usage

StopReason = Literal["stop", "tool_calls", "length"]


class PromptMessage(NamedTuple):
    """One message of the conversation so far."""

    role: Role
    parts: tuple[Part, ...]


class ToolDescription(NamedTuple):
    """What a model is told of a tool; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class ModelRequest(NamedTuple):
    """One call of a model."""

    model: str
    messages: tuple[PromptMessage, ...]
    tools: tuple[ToolDescription, ...]
    run_id: str | None = None
    session_key: str | None = None
    max_tokens: int | None = None


class TextDelta(NamedTuple):
    """Text that is added to the answer."""

    text: str


class ToolCall(NamedTuple):
    """The model wants a tool run; `arguments` is JSON text, as the model wrote it."""

    call_id: str
    name: str
    arguments: str


class Finished(NamedTuple):
    """The last event of an answer. `usage` counts this one call of the model."""

    usage: Usage
    stop_reason: StopReason


ModelEvent = TextDelta | ToolCall | Finished


class ModelProvider(Protocol):
    """Something that answers conversations."""

    @property
    def name(self) -> str:
        """What comes before the slash in the names of its models."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer: any number of `TextDelta` and `ToolCall`, then one `Finished`.

        Raises:
            GatewayError: the provider refused; its message is shown to the user.
        """


class RemoteModels(ModelProvider, Protocol):
    """One that has many models, and knows what they can take."""

    async def window(self, model: str) -> int | None:
        """Give how many tokens a model can be told and say together, where that is known.

        Raises:
            GatewayError: it cannot be asked.
        """
