"""Server-sent events as a provider sends them, without I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation, less
`id` and `retry`: nobody takes up a model's answer again where it broke off.
"""

from typing import Final, NamedTuple

LINE_BYTES_MAX: Final = 1024 * 1024
EVENT_BYTES_MAX: Final = 2 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


class SSEError(ValueError):
    """A line or an event over its bound."""


class Event(NamedTuple):
    """One event; `name` is empty where none was given."""

    name: bytes
    data: bytes


class Decoder:
    """Takes bytes, torn anywhere, and gives the events that they complete.

    Lines end with LF, CR or CRLF. An event without data is none, as is one that the stream ends in
    the middle of. What is kept of an event is bounded; so is the time that any input takes, by a
    constant times its length.
    """

    def __init__(self) -> None:
        self._torn: list[bytes] = []
        self._torn_bytes = 0
        self._after_cr = False
        self._begun = False
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes.

        Raises:
            SSEError: a line is over `LINE_BYTES_MAX`, or an event over `EVENT_BYTES_MAX`. The
                stream is of no use any more.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = data.split(b"\n")
        self._keep(first)
        events: list[Event] = []
        if rest:
            line = b"".join(self._torn)
            self._torn, self._torn_bytes = [], 0
            self._keep(rest.pop())
            self._take(line, events)
            for each in rest:
                self._take(each, events)
        return events

    def _keep(self, torn: bytes) -> None:
        self._torn_bytes += len(torn)
        if self._torn_bytes > LINE_BYTES_MAX:
            raise SSEError(f"a line is over {LINE_BYTES_MAX} bytes")
        if torn:
            self._torn.append(torn)

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(Event(self._name, b"\n".join(self._data)))
                self._data, self._data_bytes = [], 0
            self._name = b""
            return
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > EVENT_BYTES_MAX:
                raise SSEError(f"an event is over {EVENT_BYTES_MAX} bytes")
            self._data.append(value)
        elif field == b"event":
            self._name = value
