"""Restarts by generations under mixed load, with a long stream in flight each time."""

from collections.abc import Callable
from typing import Any

from tests.e2e.gateway import ends
from tests.e2e.restarting import Restarting, Stream, session, talk
from tests.e2e.traffic import Traffic, said_once, text_of, transcripts
from tests.workers import slow

TENANT = "always-slow"
END_SECONDS = 10.0


class Restarts:
    """One tenant through many restarts.

    Args:
        gateway: Where.
        clients: How many there are beside the stream, of some 35 requests a second each.
        stream_seconds: How long the answer takes that is in flight at each restart.
        say: Told of each restart in a line.
    """

    def __init__(
        self, gateway: Restarting, clients: int, stream_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._gateway = gateway
        self._seconds = stream_seconds
        self._say = say
        self._token = gateway.create(TENANT)
        self.traffic = Traffic(gateway, self._token, clients)

    def run(self, restarts: int) -> list[str]:
        """Restart so often; gives what was broken."""
        key = session(self._gateway, self._token, "stream")
        pids = [self._gateway.status(TENANT)["pid"]]
        streams: list[Stream] = []
        with self.traffic:
            for number in range(restarts):
                text = talk(number, self._seconds)
                streams.append(Stream(self._gateway, self._token, key, text).under_way())
                pids.append(self._restart(streams[-1]))
                self._say(f"restart {number}: {len(self.traffic.failures)} failed so far")
        broken = list(self.traffic.failures)
        if len(set(pids)) != restarts + 1:
            broken.append(f"{restarts} restarts, but the processes were {pids}")
        texts = [talk(number, self._seconds) for number in range(restarts)]
        broken += [
            f"the stream {text!r} said {stream.text!r}: {stream.response}"
            for text, stream in zip(texts, streams, strict=True)
            if not _complete(stream, text)
        ]
        rows = transcripts(self._gateway, self._token).values()
        try:
            said_once([row for found in rows for row in found], [*self.traffic.sent, *texts])
        except AssertionError as error:
            broken.append(f"not each message made one turn: {error}")
        row = self._gateway.status(TENANT)
        if (row["state"], row["deaths"], row["pid"]) != ("ready", 0, pids[-1]):
            broken.append(f"the tenant ended as {row}")
        return broken

    def _restart(self, stream: Stream) -> Any:
        (old,) = self._gateway.workers(TENANT)
        with ends(old, within=self._seconds + END_SECONDS):
            status, row = self._gateway.restart(TENANT)
            assert status == 200, row
            assert stream.is_alive()
            stream.join(self._seconds + END_SECONDS)
        return row["pid"]


def _complete(stream: Stream, text: str) -> bool:
    result = stream.response.get("result", {})
    whole = slow.answer_of(text)
    return (
        result.get("status") == "ok" and stream.text == whole and text_of(result["reply"]) == whole
    )
