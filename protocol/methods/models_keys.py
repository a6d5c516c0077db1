"""`models.keys.*`: keys that a tenant brings for the operator's providers.

A key is sealed where models are called from, used for this tenant's calls alone, and never given
back. What is called with it costs the operator nothing: its tokens count, its price is zero.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol.egress import OWN_KEY_PATTERN, KnownKey
from protocol.methods.registry import Params, Result, Scope, declare

Provider = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class SetParams(Params, frozen=True, kw_only=True):
    """`provider` is one of the operator's: those of `models.list`."""

    provider: Provider
    api_key: Annotated[str, msgspec.Meta(pattern=OWN_KEY_PATTERN)]


class SetResult(Result, frozen=True, kw_only=True):
    """It is in force; an earlier one is gone."""

    ok: Literal[True]
    provider: str


SET: Final = declare(
    "models.keys.set",
    params=SetParams,
    result=SetResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Use a key of the tenant's own for a provider, from the next call on.",
)


class ListParams(Params, frozen=True, kw_only=True):
    """None."""


class ListResult(Result, frozen=True, kw_only=True):
    """Which there are, and since when (Unix ms); nothing of the keys themselves."""

    keys: list[KnownKey]


LIST: Final = declare(
    "models.keys.list",
    params=ListParams,
    result=ListResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Say which keys of its own the tenant has.",
)


class DeleteParams(Params, frozen=True, kw_only=True):
    """Whose key."""

    provider: Provider


class DeleteResult(Result, frozen=True, kw_only=True):
    """`deleted` is false where there was none."""

    deleted: bool
    provider: str


DELETE: Final = declare(
    "models.keys.delete",
    params=DeleteParams,
    result=DeleteResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Forget a key of the tenant's own; the operator's is used again, if there is one.",
)
