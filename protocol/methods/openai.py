"""`openai.*`: what OpenAI's clients ask for at `/v1/…`, as the front hands it on.

`body` is what the client sent, of the shape of OpenAI's API reference
(https://platform.openai.com/docs/api-reference); which of its fields count says
`worker/openai/bodies.py`. The results, and what is streamed, are OpenAI's too.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from protocol import limits
from protocol.methods.chat import SessionKey
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.models import ModelId


class BodyParams(Params, frozen=True, kw_only=True):
    """`sessionKey` is the header `x-openclaw-session-key`.

    With a configured model it goes into the tenant's reports, with an agent it names the session.
    """

    body: Annotated[msgspec.Raw, msgspec.Meta(description="As OpenAI's API reference has it.")]
    session_key: SessionKey | None = None


CHAT: Final = declare(
    "openai.chat",
    params=BodyParams,
    result=dict[str, Any],
    scope=Scope.WRITE,
    spends=True,
    streams="chat.completion.chunk",
    timeout_seconds=limits.CALL_SECONDS_MAX,
    doc="Answer a conversation by a model or an agent; POST /v1/chat/completions.",
)

RESPONSES: Final = declare(
    "openai.responses",
    params=BodyParams,
    result=dict[str, Any],
    scope=Scope.WRITE,
    spends=True,
    streams="response",
    timeout_seconds=limits.CALL_SECONDS_MAX,
    doc="Answer a conversation in the shape of the Responses API; POST /v1/responses.",
)

EMBEDDINGS: Final = declare(
    "openai.embeddings",
    params=BodyParams,
    result=dict[str, Any],
    scope=Scope.WRITE,
    spends=True,
    timeout_seconds=limits.CALL_SECONDS_MAX,
    doc="Give vectors for texts; POST /v1/embeddings.",
)


class Model(Result, rename=str, frozen=True, kw_only=True, omit_defaults=False):
    """A model as OpenAI lists it. `owned_by` is its provider."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelList(Result, rename=str, frozen=True, kw_only=True, omit_defaults=False):
    """All of them."""

    data: tuple[Model, ...]
    object: Literal["list"] = "list"


class ModelsParams(Params, frozen=True, kw_only=True):
    """None."""


MODELS: Final = declare(
    "openai.models",
    params=ModelsParams,
    result=ModelList,
    scope=Scope.READ,
    idempotent=True,
    doc="List the models that can be asked, and the agents as models; GET /v1/models.",
)


class ModelParams(Params, frozen=True, kw_only=True):
    """`model` is one of `openai.models`."""

    model: ModelId


MODEL: Final = declare(
    "openai.model",
    params=ModelParams,
    result=Model,
    scope=Scope.READ,
    idempotent=True,
    doc="Give one model; GET /v1/models/{model}.",
)
