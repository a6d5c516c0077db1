"""How a method is declared, once: for the dispatcher, the OpenRPC document, docs and tests."""

from typing import Any, Final, Literal, NamedTuple

import msgspec

from protocol.limits import CALL_SECONDS_DEFAULT, CALL_SECONDS_MAX, METHOD_NAME_CHARS_MAX
from protocol.scopes import ALL_SCOPES, Scope

__all__ = ["ALL_SCOPES", "METHODS", "Method", "Params", "Result", "Scope", "declare"]


AnsweredBy = Literal["worker", "supervisor", "operator"]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of every method's parameters: by name, closed, camelCase on the wire."""


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every method's result. A field that equals its default is left out."""


class Method(NamedTuple):
    """The declaration of one method."""

    name: str
    params: type[Params]
    result: type[Any]
    scope: Scope
    doc: str
    spends: bool
    idempotent: bool
    streams: str
    timeout_seconds: float
    answered_by: AnsweredBy = "worker"


METHODS: Final[dict[str, Method]] = {}


def declare(  # noqa: PLR0913 - a declaration is its fields
    name: str,
    *,
    params: type[Params],
    result: type[Any],
    scope: Scope,
    doc: str,
    spends: bool = False,
    idempotent: bool = False,
    streams: str = "",
    timeout_seconds: float = CALL_SECONDS_DEFAULT,
    answered_by: AnsweredBy = "worker",
) -> Method:
    """Declare a method; its handler is bound to the declaration.

    Args:
        name: `<domain>.<verb>`, at most 64 characters.
        params: The closed set of parameters.
        result: What `result` holds in the response.
        scope: What the caller's token must allow.
        doc: One sentence for OpenRPC and the docs page.
        spends: Whether a model may be called on the tenant's budget.
        idempotent: Whether an idempotency key makes a repeat safe, or the method is safe by itself.
        streams: What the pieces are named, for a caller that asks for the answer in pieces; empty
            for an answer that has none.
        timeout_seconds: How long the caller waits at most.
        answered_by: The tenant's own worker; or the supervisor, for what takes authority that a
            worker has not; or the supervisor to operators alone, who present the admin key.

    Raises:
        ValueError: the name is taken, or a field is out of its bounds: a mistake in our own code.
    """
    if name in METHODS or not 0 < len(name) <= METHOD_NAME_CHARS_MAX:
        msg = f"method name taken or out of bounds: {name!r}"
        raise ValueError(msg)
    if not 0 < timeout_seconds <= CALL_SECONDS_MAX or not doc.endswith("."):
        msg = f"{name}: a timeout within bounds and a sentence are needed"
        raise ValueError(msg)
    method = Method(
        name, params, result, scope, doc, spends, idempotent, streams, timeout_seconds, answered_by
    )
    METHODS[name] = method
    return method


def answered_by(whom: AnsweredBy) -> frozenset[str]:
    """Give the names of the declared methods that are answered so; see `declare`."""
    return frozenset(name for name, method in METHODS.items() if method.answered_by == whom)
