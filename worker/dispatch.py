"""From a method's name to its handler, and from what the handler did to an answer."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from protocol import limits, params
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import METHODS, Method, answered_by
from protocol.scopes import allows, refusal
from worker.services import Services
from worker.sessions.feed import Stream

# What a frame holds beside the result.
RESULT_BYTES_MAX: Final = limits.FRAME_BYTES_MAX - 64

_encode: Final = msgspec.json.Encoder().encode


class CallContext(NamedTuple):
    """What a handler knows of a call beside its parameters.

    Attributes:
        services: The worker's parts.
        idempotency_key: From the caller's header.
        stream: Where chunks go, for a method that streams and a caller that asked for it.
    """

    services: Services
    idempotency_key: str | None
    stream: Stream | None


Handler = Callable[[CallContext, Any], Any]
H = TypeVar("H", bound=Handler)


class Binding(NamedTuple):
    """A declared method and its handler. `scope` is the method's as a plain bit."""

    method: Method
    scope: int
    handler: Handler
    is_async: bool
    decoder: "msgspec.json.Decoder[Any]"


class Deferred(NamedTuple):
    """A call whose handler takes its time: `run` it in a task; that gives the result as JSON."""

    method: Method
    run: Callable[[], Coroutine[Any, Any, bytes]]


class Later(NamedTuple):
    """What a plain handler gives when a call turns out to take its time: what is left to do."""

    work: Callable[[], Coroutine[Any, Any, Any]]


_bindings: Final[dict[str, Binding]] = {}


def handles(method: Method) -> Callable[[H], H]:
    """Bind a handler to the declaration of its method.

    A plain function answers at once and must be quick, or gives `Later`; a coroutine function gets
    a task.

    Raises:
        ValueError: the method has a handler: a mistake in our own code.
    """

    def bind(handler: H) -> H:
        if method.name in _bindings:
            raise ValueError(f"{method.name} has two handlers")
        decoder = msgspec.json.Decoder(method.params)
        is_async = iscoroutinefunction(handler)
        _bindings[method.name] = Binding(method, method.scope.value, handler, is_async, decoder)
        return handler

    return bind


def check_complete() -> None:
    """Fail unless every method that is ours has a handler, and every handler a declaration.

    Raises:
        LookupError: naming the methods.
    """
    mine = answered_by("worker")
    lacking = sorted(mine - _bindings.keys())
    unknown = sorted(
        name
        for name, binding in _bindings.items()
        if name not in mine or METHODS[name] is not binding.method
    )
    if lacking or unknown:
        raise LookupError(f"methods without a handler: {lacking}; not declared: {unknown}")


def start(
    services: Services,
    name: str,
    body: bytes,
    scopes: int,
    idempotency_key: str | None,
    stream: Stream | None,
) -> bytes | Deferred:
    """Check a call and run its handler; gives its result as JSON, or a `Deferred`.

    Raises:
        GatewayError: the call is refused.
        Exception: whatever a handler lets escape.
    """
    binding = _bindings.get(name)
    if binding is None:
        shown = params.printable(name, params.NAME_CHARS_SHOWN)
        raise GatewayError(ErrorCode.METHOD_NOT_FOUND, f"unknown method: {shown}")
    method = binding.method
    if not allows(scopes, binding.scope):
        raise refusal(method.scope)
    decoded = params.decode(name, binding.decoder, body)
    context = CallContext(services, idempotency_key, stream if method.streams else None)
    if binding.is_async:
        return Deferred(method, partial(_run, method, partial(binding.handler, context, decoded)))
    result = binding.handler(context, decoded)
    if isinstance(result, Later):
        return Deferred(method, partial(_run, method, result.work))
    return encode(result)


async def _run(method: Method, work: Callable[[], Coroutine[Any, Any, Any]]) -> bytes:
    seconds = method.timeout_seconds
    try:
        async with asyncio.timeout(seconds) as limit:
            return encode(await work())
    except TimeoutError:
        if not limit.expired():
            raise
        message = f"{method.name} took longer than {seconds:.0f} s"
        raise GatewayError(ErrorCode.TIMEOUT, message) from None


def encode(result: Any) -> bytes:
    """Give a result as JSON.

    Raises:
        GatewayError: PAYLOAD_TOO_LARGE: it does not fit a frame.
    """
    body = _encode(result)
    if len(body) > RESULT_BYTES_MAX:
        raise GatewayError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"the result has {len(body)} bytes, more than {RESULT_BYTES_MAX}; ask for less at once",
            limit=RESULT_BYTES_MAX,
        )
    return body
