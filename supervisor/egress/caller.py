"""Who calls: one worker's call on its link, of one tenant."""

import asyncio
from typing import Any, Final, TypeVar

import msgspec

from protocol import frames
from protocol.aio import LinkEnd
from protocol.params import decode

T = TypeVar("T", bound=msgspec.Struct)


class Tenant:
    """A tenant, as long as it has a worker; what it may spend is the till's to know."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.links = 0


class Caller:
    """One call. Its tenant is the link's, whatever the call says.

    Args:
        tenant: Whose worker calls.
        end: The link.
        call: The call.
    """

    __slots__ = ("_end", "_id", "_room", "streams", "tenant")

    def __init__(self, tenant: Tenant, end: LinkEnd, call: frames.Call) -> None:
        self.tenant: Final = tenant
        self.streams: Final = call.credit > 0
        """Whether it takes chunks."""
        self._end: Final = end
        self._id: Final = call.id
        self._room: asyncio.Event | None = None

    def on_credit(self) -> None:
        """It takes more chunks."""
        if self._room is not None:
            self._room.set()

    async def send(self, chunk: bytes) -> None:
        """Send a chunk when it is taken. Ends with the call, by cancellation."""
        while not self._end.link.stream_credit(self._id):
            if self._room is None:
                self._room = asyncio.Event()
            self._room.clear()
            await self._room.wait()
        self._end.link.chunk(self._id, chunk)
        self._end.flush()


def decoded(method: str, params: bytes, kind: type[T]) -> T:
    """Read the parameters of a worker's call.

    Raises:
        GatewayError: INVALID_REQUEST, naming the field: a worker sends on what a client wrote.
    """
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decode(method, decoder, params)


_decoders: Final[dict[Any, Any]] = {}
