"""A worker's chunks as server-sent events, no faster than the client reads them."""

from typing import Final

from protocol import limits
from protocol.aio import LinkEnd
from protocol.frames import Chunk
from supervisor.front.exchange import Client

CREDIT_BATCH: Final = limits.STREAM_CREDIT_INITIAL // 2


class EventStream:
    """Streams the chunks of one call to one client.

    The worker may send so many chunks ahead as it has credit for; more is granted only while the
    client's transport takes what there is. So a client that does not read costs at most the
    transport's buffer and one credit's worth of chunks.

    Args:
        client: Whom.
        end: The link to the worker.
        call_id: The call on it.
        name: Of the events that chunks become.
    """

    def __init__(self, client: Client, end: LinkEnd, call_id: int, name: bytes) -> None:
        self._name: Final = name
        self._client: Final = client
        self._end: Final = end
        self._call_id: Final = call_id
        self._owed = 0
        self.begun = False

    def chunk(self, chunk: Chunk) -> None:
        """Send one chunk on."""
        self._begin()
        self._client.send_event(self._name, chunk.data)
        self._sent()

    def _sent(self) -> None:
        self._owed += 1
        if self._owed >= CREDIT_BATCH:
            self.grant()

    def grant(self) -> None:
        """Let the worker go on, if the client takes more."""
        if self._owed and not self._client.write_paused:
            self._end.link.grant(self._call_id, self._owed)
            self._end.flush()
            self._owed = 0

    def finish(self, response: bytes) -> None:
        """Send the last event, of type `result`, and end the stream."""
        self.fail(response)

    def fail(self, response: bytes) -> None:
        """End it with a refusal, likewise."""
        self._begin()
        self._client.send_event(b"result", response)
        self._client.end_events()

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self._client.begin_events()
