"""From a control request to its answer: the admin key, the route, what it carries, the handler.

The front hands over what it cannot judge. A tenant's token has no meaning here.
"""

import hashlib
import hmac
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from protocol import params
from protocol.control.routes import Route, find
from protocol.errors import ErrorCode, GatewayError
from protocol.names import digest, encode_shown
from protocol.spawn import ControlRequest, ControlResponse
from supervisor.control import operators
from supervisor.control.actions import TenantActions
from supervisor.control.handlers import Asked, Handlers
from supervisor.control.operators import OperatorMethods
from supervisor.control.replays import Replays
from supervisor.tenants import check_tenant_id

T = TypeVar("T", bound=msgspec.Struct)


class ControlPlane:
    """Authorises, routes and answers control requests.

    Args:
        admin_digest: SHA-256 of the admin key.
        actions: What is asked for.
        replays: The answers that a repeated request gets again.
    """

    def __init__(
        self, admin_digest: bytes, actions: TenantActions, replays: Replays | None = None
    ) -> None:
        self._admin_digest: Final = admin_digest
        self._handlers: Final = Handlers(actions)
        self._methods: Final = OperatorMethods(actions)
        self._replays: Final = replays or Replays()

    async def answer(self, request: ControlRequest) -> ControlResponse:
        """Answer one request; a refusal is an answer too."""
        is_call = request.path == operators.PATH
        try:
            self._authorise(request.secret)
            if is_call:
                return await self._methods.answer(request.body)
            route, parameters = _route(request)
            if route.changes and request.idempotency_key is not None:
                return await self._replays.answer(
                    request.idempotency_key,
                    _fingerprint(request),
                    lambda: self._act(route, parameters, request),
                )
        except GatewayError as error:
            return operators.refusal(error) if is_call else _refusal(error)
        return await self._act(route, parameters, request)

    def _authorise(self, secret: str) -> None:
        if not hmac.compare_digest(digest(secret), self._admin_digest):
            raise GatewayError(ErrorCode.UNAUTHORIZED, "the admin key is missing or wrong")

    async def _act(
        self, route: Route, parameters: dict[str, str], request: ControlRequest
    ) -> ControlResponse:
        try:
            if "tenantId" in parameters:
                check_tenant_id(parameters["tenantId"])
            asked = Asked(parameters, _query(route, request.query), _body(route, request.body))
            body = await self._handlers.run(route, asked)
        except GatewayError as error:
            return _refusal(error)
        return ControlResponse(status=route.status, body=msgspec.Raw(msgspec.json.encode(body)))


def _refusal(error: GatewayError) -> ControlResponse:
    body = msgspec.Raw(encode_shown(error.problem()))
    return ControlResponse(status=error.code.http_status, body=body)


def _route(request: ControlRequest) -> tuple[Route, dict[str, str]]:
    found = find([unquote(part) for part in request.path.split("/")[1:]])
    if found is None or not request.path.startswith("/"):
        raise GatewayError(ErrorCode.NOT_FOUND, "no such route")
    for verb, route in found.routes.items():
        if verb == request.verb:
            return route, found.parameters
    allowed = list(found.routes)
    msg = f"use {', '.join(allowed)} here"
    raise GatewayError(ErrorCode.METHOD_NOT_ALLOWED, msg, allowed=allowed)


def _query(route: Route, query: str) -> Any:
    if route.query is None:
        if query:
            msg = "query: this route takes none"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="query")
        return None
    pairs = parse_qsl(query, keep_blank_values=True) if query else []
    given = dict(pairs)
    if len(given) < len(pairs):
        msg = "query: a parameter is given twice"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="query")
    try:
        return msgspec.convert(given, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise _unfit("query", error) from error


def _body(route: Route, body: bytes) -> Any:
    if route.body is None:
        if body:
            msg = "body: this route takes none"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="body")
        return None
    if not body and not route.body_required:
        return route.body()
    return _decode(body, route.body)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.convert(_with_integers(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        raise _unfit("body", error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError(ErrorCode.PARSE_ERROR, f"the body is no JSON: {error}") from error


def _unfit(part: str, error: msgspec.ValidationError) -> GatewayError:
    path, reason = params.explain(str(error))
    field = params.printable(path, params.NAME_CHARS_SHOWN) or part
    message = f"{field}: {params.printable(reason, params.REASON_CHARS_SHOWN)}"
    return GatewayError(ErrorCode.INVALID_REQUEST, message, field=field)


def _with_integers(value: Any) -> Any:
    """Give JSON with 2.0 as 2: to JSON Schema both are integers (validation, section 6.1.1)."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_integers(inner) for name, inner in value.items()}
        case list():
            return [_with_integers(inner) for inner in value]
    return value


def _fingerprint(request: ControlRequest) -> bytes:
    asked = (request.verb, request.path, request.query, request.body)
    return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()
