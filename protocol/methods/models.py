"""`models.*`: the models that the operator allows; what a call of one costs is in `usage.*`."""

from typing import Final

import msgspec

from protocol.methods.registry import Params, Result, Scope, declare


class ListParams(Params, frozen=True, kw_only=True):
    """None."""


class Model(Result, frozen=True, kw_only=True, omit_defaults=True):
    """A model. `contextWindow` is in tokens, where the operator says it.

    `input` is what a message may hold (`text`, `image`); one that `embeds` makes vectors and
    answers no chats. `ownKey`: it is called with a key that the tenant has brought.
    """

    id: str
    name: str
    provider: str
    input: list[str]
    context_window: int | None = None
    embeds: bool = False
    own_key: bool = False


class ListResult(Result, frozen=True, kw_only=True):
    """`default` is what agents use; `agent.model` of the configuration chooses another."""

    default: str
    models: list[Model] = msgspec.field(default_factory=list)


LIST: Final = declare(
    "models.list",
    params=ListParams,
    result=ListResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give the models that the operator allows.",
)
