"""Both ends of a link in one process, joined by bytes: no sockets, no loop, no clock."""

from protocol import frames
from protocol.link import ANSWERS, LIVENESS, REQUESTS, Link

EVERYTHING = (
    REQUESTS | ANSWERS | LIVENESS | {frames.Event, frames.Drain, frames.Drained}
)  # what the widest link of ours takes


class Pair:
    """Two ends, 0 and 1, and the bytes that are on their way to each."""

    def __init__(
        self, accepts: tuple[frozenset[type], frozenset[type]] = (EVERYTHING, EVERYTHING)
    ) -> None:
        self.ends = (Link(accepts[0]), Link(accepts[1]))
        self._wire = (bytearray(), bytearray())

    def collect(self, target: int) -> int:
        """Put on the wire what the other end has to say; gives how much is on its way now."""
        self._wire[target].extend(b"".join(self.ends[1 - target].take_outgoing()))
        return len(self._wire[target])

    def deliver(self, target: int, count: int | None = None) -> list[frames.Frame]:
        """Hand `count` bytes (or all) of what is on its way to end `target`; gives its frames."""
        size = self.collect(target)
        size = size if count is None else min(count, size)
        piece = bytes(self._wire[target][:size])
        del self._wire[target][:size]
        return list(self.ends[target].receive(piece))

    def is_quiet(self) -> bool:
        """Whether nothing is on its way and nobody has anything to say."""
        return not self.collect(0) and not self.collect(1)


def leftovers(link: Link) -> dict[str, object]:
    """All that a link holds, by name."""
    return {
        "asked": dict(link._asked),
        "serving": dict(link._serving),
        "out": bytes(link._out),
        "pings": link._last_ping - link._last_pong,
        "pending": link._decoder.pending_bytes,
    }


NOTHING: dict[str, object] = {"asked": {}, "serving": {}, "out": b"", "pings": 0, "pending": 0}


def snapshot(link: Link) -> object:
    """The whole state of a link, to compare: a refused call of ours must not change it."""

    def calls(table: dict[int, object]) -> dict[int, tuple[object, ...]]:
        return {
            key: tuple(getattr(call, name) for name in ("credit", "streams", "cancelled"))
            for key, call in table.items()
        }

    return (
        calls({**link._asked}),
        calls({**link._serving}),
        bytes(link._out),
        link._last_asked,
        link._last_served,
        link._last_ping,
        link._last_pong,
        link._decoder.pending_bytes,
        link._broken,
    )
