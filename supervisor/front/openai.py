"""OpenAI's API at `/v1/…`: calls of the tenant's worker, answered in OpenAI's shapes.

The front wraps what the client sent and does not look into it; whether the answer comes as a stream
is the worker's to say, by chunks.
"""

from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import unquote

import msgspec

from protocol.aio import LinkEnd
from protocol.errors import ErrorCode, GatewayError
from protocol.frames import Chunk
from protocol.methods import Method
from protocol.methods.openai import CHAT, EMBEDDINGS, MODELS, RESPONSES
from protocol.names import encode_shown
from protocol.pieces import Pieces
from supervisor.front import rpc
from supervisor.front.calls import TenantCall
from supervisor.front.exchange import Caller, Client, Request
from supervisor.front.stream import EventStream

PATHS: Final = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/models": MODELS,
}
MODELS_PREFIX: Final = "/v1/models/"
_DONE: Final = b"data: [DONE]\n\n"
_encode: Final = msgspec.json.Encoder().encode
# https://platform.openai.com/docs/guides/error-codes
_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"
_KINDS: Final[dict[ErrorCode, tuple[str, str | None]]] = {
    ErrorCode.UNAUTHORIZED: (_INVALID, "invalid_api_key"),
    ErrorCode.FORBIDDEN: ("permission_error", "forbidden"),
    ErrorCode.NOT_FOUND: (_INVALID, "not_found"),
    ErrorCode.PAYLOAD_TOO_LARGE: (_INVALID, "payload_too_large"),
    ErrorCode.RATE_LIMITED: ("rate_limit_error", "rate_limit_exceeded"),
    ErrorCode.QUOTA_EXCEEDED: ("insufficient_quota", "insufficient_quota"),
    ErrorCode.INTERNAL: (_SERVER, "internal_error"),
    ErrorCode.UNAVAILABLE: (_SERVER, "unavailable"),
    ErrorCode.TIMEOUT: (_SERVER, "timeout"),
    ErrorCode.CANCELLED: (_SERVER, "cancelled"),
}


class OpenAIEnvelope:
    """The bare result, or OpenAI's error object; a `calls.Envelope`."""

    __slots__ = ()

    def success(self, result: bytes) -> tuple[int, bytes]:
        """See `Envelope`."""
        return 200, result

    def refusal(self, error: GatewayError) -> bytes:
        """See `Envelope`."""
        return refusal(error)


_envelope: Final = OpenAIEnvelope()


class OpenAIStream(EventStream):
    """Streams JSON as OpenAI does: chat completions without names, responses with their types."""

    def __init__(self, client: Client, end: LinkEnd, call_id: int, *, named: bool) -> None:
        super().__init__(client, end, call_id, b"")
        # Only connections have these routes.
        self._caller: Final = cast("Caller", client)
        self._named: Final = named
        self._inside = False

    def chunk(self, chunk: Chunk) -> None:
        """Send one chunk on, or a part of one."""
        self._begin()
        data = chunk.data
        if b"\n" in data or b"\r" in data:
            data = data.replace(b"\r", b" ").replace(b"\n", b" ")
        head = b"" if self._inside else self._head(data)
        self._inside = chunk.goes_on
        self._caller.send_events(b"%b%b%b" % (head, data, b"" if chunk.goes_on else b"\n\n"))
        self._sent()

    def finish(self, response: bytes) -> None:
        """End the stream; the client has all that is in `response`."""
        del response
        if not self._named:
            self._caller.send_events(_DONE)
        self._caller.end_events()

    def fail(self, response: bytes) -> None:
        """End the stream with an error, which clients raise."""
        head = b"event: error\n" if self._named else b""
        self._caller.send_events(b"%bdata: %b\n\n" % (head, response))
        self._caller.end_events()

    def _head(self, data: bytes) -> bytes:
        if not self._named:
            return b"data: "
        # `{"type":"…"` is how each begins.
        return b"event: %b\ndata: " % data[9 : data.find(b'"', 9)]


class OpenAICall(TenantCall):
    """One request. The worker streams if the body asks for it."""

    __slots__ = ()

    def _begin_stream(self, client: Client, end: LinkEnd, call_id: int) -> EventStream:
        return OpenAIStream(client, end, call_id, named=self.method == RESPONSES.name)

    def _succeed(self, result: bytes) -> None:
        if self._stream is not None and not self._stream.begun:
            self._stream = None
        super()._succeed(result)


def starter(method: Method) -> Callable[[Caller, Request], None]:
    """Give what begins a request that `method` answers."""

    def start(client: Caller, request: Request) -> None:
        try:
            params = _params(request)
        except GatewayError as error:
            client.refuse(error)
            return
        request.body = b""
        call = OpenAICall(client, request, _envelope, method.name, params)
        call.start(streams=bool(method.streams))

    return start


def _params(request: Request) -> bytes | Pieces:
    asked = request.asked
    if asked.verb == "GET":
        if asked.path.startswith(MODELS_PREFIX):
            return _encode({"model": unquote(asked.path.removeprefix(MODELS_PREFIX))})
        return b"{}"
    body = request.body
    rpc.check_value(body)
    # After the body, so that it counts whatever that says.
    after = b',"sessionKey":%b}' % _encode(asked.session_key)
    if isinstance(body, Pieces):
        return body.between(b'{"body":', after)
    return b'{"body":%b%b' % (body, after)


def refusal(error: GatewayError) -> bytes:
    """Give OpenAI's error object, with our details beside its own members."""
    details = dict(error.details)
    param = details.pop("field", None)
    kind, code = _KINDS.get(error.code, (_INVALID, None))
    if error.code is ErrorCode.NOT_FOUND and param == "model":
        code = "model_not_found"
    shown: dict[str, Any] = {
        "message": error.message,
        "type": kind,
        "param": param if isinstance(param, str) else None,
        "code": code,
    }
    if details:
        shown["details"] = details
    return b'{"error":%b}' % encode_shown(shown)
