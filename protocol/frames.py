"""The frames that our processes exchange.

On the wire a frame is `u32 little-endian length` followed by that many bytes of MessagePack: an
array whose first element is the tag. Struct fields are positional, so a field is only ever added at
the end, with a default.

`Call`, `Cancel` and `Credit` carry an id of their *sender's* numbering; `Result`, `Failure`,
`Chunk` and `End` carry an id of their *receiver's*. Either side may call.
"""

from typing import Annotated

import msgspec

from protocol import limits

CallId = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    pass


class Call(_Frame, frozen=True, tag=1):
    """Ask the peer to run a method.

    `params` is JSON as the client sent it. `scopes` is a bit set of `protocol.methods.Scope`,
    granted by whoever authenticated the caller. `credit` is how many chunks the caller takes before
    it grants more; 0 means that it wants one plain result.
    """

    id: CallId
    method: Annotated[str, msgspec.Meta(max_length=limits.METHOD_NAME_CHARS_MAX)]
    params: bytes
    scopes: Annotated[int, msgspec.Meta(ge=0, le=limits.SCOPE_BITS_MAX)] = 0
    credit: Annotated[int, msgspec.Meta(ge=0, le=limits.STREAM_CREDIT_MAX)] = 0
    idempotency_key: (
        Annotated[str, msgspec.Meta(max_length=limits.IDEMPOTENCY_KEY_CHARS_MAX)] | None
    ) = None


class Result(_Frame, frozen=True, tag=2):
    """The answer of a call: JSON, ready to be spliced into a response. Retires the id."""

    id: CallId
    body: bytes


class Failure(_Frame, frozen=True, tag=3):
    """The refusal of a call: an `ErrorCode` name, a sentence and a JSON object. Retires the id."""

    id: CallId
    code: Annotated[str, msgspec.Meta(max_length=limits.ERROR_CODE_CHARS_MAX)]
    message: Annotated[str, msgspec.Meta(max_length=4096)]
    details: bytes = b"{}"


class Chunk(_Frame, frozen=True, tag=4):
    """One piece of a stream, at most 64 KiB; costs the callee one credit.

    `goes_on`: what it is the beginning of did not fit, and goes on in the next one.
    """

    id: CallId
    data: Annotated[bytes, msgspec.Meta(max_length=limits.CHUNK_BYTES_MAX)]
    goes_on: bool = False


class End(_Frame, frozen=True, tag=5):
    """The end of a stream and its result. Retires the id."""

    id: CallId
    body: bytes


class Credit(_Frame, frozen=True, tag=6):
    """The caller takes `count` chunks more."""

    id: CallId
    count: Annotated[int, msgspec.Meta(ge=1, le=limits.STREAM_CREDIT_MAX)]


class Cancel(_Frame, frozen=True, tag=7):
    """The caller no longer wants the answer. The id retires with the answer that still comes."""

    id: CallId


class Event(_Frame, frozen=True, tag=8):
    """Something happened; nobody answers. `body` is JSON.

    From a worker to the front it is an event of the tenant's (`protocol.methods.events`): an object
    with `cursor` and `payload`. The front tells a worker by the topic `listen` whether anybody
    wants them: `true` or `false`.
    """

    topic: Annotated[str, msgspec.Meta(max_length=limits.METHOD_NAME_CHARS_MAX)]
    body: bytes


class Ping(_Frame, frozen=True, tag=9):
    """Ask for a sign of life from the peer's event loop."""

    nonce: CallId


class Pong(_Frame, frozen=True, tag=10):
    """The sign of life, with the nonce that asked for it."""

    nonce: CallId


class Drain(_Frame, frozen=True, tag=11):
    """Take no new call, finish what runs within `seconds`, then say `Drained`."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=limits.DRAIN_SECONDS_MAX)]


class Drained(_Frame, frozen=True, tag=12):
    """Nothing is in flight any more; the sender exits next."""


Frame = (
    Call | Result | Failure | Chunk | End | Credit | Cancel | Event | Ping | Pong | Drain | Drained
)
