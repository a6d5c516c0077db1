"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0) of the control plane."""

from http import HTTPStatus
from typing import Any, Final

import msgspec

from protocol import limits
from protocol.control.routes import PATH_PARAMETERS, ROUTES, Route
from protocol.control.shapes import Problem
from protocol.errors import STATUS_PHRASES, ErrorCode

_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEM: Final = "application/problem+json"
_IDS: Final = frozenset(PATH_PARAMETERS)
_ALWAYS: Final = (
    ErrorCode.INVALID_REQUEST,
    ErrorCode.UNAUTHORIZED,
    ErrorCode.FORBIDDEN,
    ErrorCode.TARGET_TOO_LONG,
    ErrorCode.HEADERS_TOO_LARGE,
    ErrorCode.UNAVAILABLE,
    ErrorCode.TIMEOUT,
)
_WITH_BODY: Final = (
    ErrorCode.REQUEST_TIMEOUT,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
)
_BESIDE: Final = (
    "For operators. Tenants call POST /rpc, which rpc.discover describes, and OpenAI's API as its"
    " own reference describes it (https://platform.openai.com/docs/api-reference):"
    " POST /v1/chat/completions, /v1/responses and /v1/embeddings, GET /v1/models and"
    " /v1/models/{model}."
)
_IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": (
        "A repeat with the same key is answered as the first was, for"
        f" {limits.CONTROL_REPLAY_SECONDS:.0f} s or until the gateway restarts."
    ),
    "schema": {
        "type": "string",
        "pattern": f"^[!-~]{{1,{limits.IDEMPOTENCY_KEY_CHARS_MAX}}}$",
    },
}


def document(version: str) -> dict[str, Any]:
    """Describe every declared route.

    Args:
        version: The gateway's own version.
    """
    kinds = {kind for route in ROUTES for kind in (route.answer, route.body) if kind is not None}
    types = sorted(kinds | {Problem}, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.verb.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenClawMU control plane",
            "version": version,
            "description": _BESIDE,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"adminKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"adminKey": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.doc,
        "parameters": _parameters(route),
        "responses": {
            str(route.status): {
                "description": HTTPStatus(route.status).phrase,
                "content": _answer(route),
                "links": _links(route),
            }
        },
    }
    for status in sorted({code.http_status for code in refusals(route)}):
        operation["responses"][str(status)] = {
            "description": STATUS_PHRASES[status],
            "content": {_PROBLEM: {"schema": _reference(Problem)}},
        }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": _reference(route.body)}},
        }
    return operation


def _answer(route: Route) -> dict[str, Any]:
    if route.answer is None:
        return {"text/plain": {"schema": {"type": "string"}}}
    return {"application/json": {"schema": _reference(route.answer)}}


def _links(route: Route) -> dict[str, Any]:
    """Say where the ids go that a creation answers with."""
    if route.status != HTTPStatus.CREATED or route.answer is None:
        return {}
    given = {encoded for encoded in route.answer.__struct_encode_fields__ if encoded in _IDS}
    return {
        other.name: {
            "operationId": other.name,
            "parameters": {name: f"$response.body#/{name}" for name in other.parameters},
        }
        for other in ROUTES
        if other.parameters and given.issuperset(other.parameters)
    }


def refusals(route: Route) -> tuple[ErrorCode, ...]:
    """Give everything that can be refused on a route."""
    found = _ALWAYS + route.refusals
    if route.body is not None:
        found += _WITH_BODY
    if route.changes:
        found += (ErrorCode.IDEMPOTENCY_KEY_REUSED,)
    return found


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": msgspec.json.schema(PATH_PARAMETERS[name]),
        }
        for name in route.parameters
    ]
    if route.query is not None:
        described = msgspec.json.schema(route.query)["$defs"][route.query.__name__]
        for name, schema in described["properties"].items():
            parameters.append({"name": name, "in": "query", "schema": schema})
    if route.changes:
        parameters.append(_IDEMPOTENCY_KEY)
    return parameters


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
