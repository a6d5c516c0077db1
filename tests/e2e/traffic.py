"""Clients of one tenant that read and write all the time, and what they can tell afterwards."""

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from tests.e2e.gateway import REQUEST_SECONDS, Gateway

PACE_SECONDS = 0.025
"""Between two requests of a client, which makes about 35 a second of each."""


class Client(threading.Thread):
    """One connection; every request has to be answered, at the first try."""

    def __init__(self, address: str, token: str, name: str, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._end = stop
        self._numbers = itertools.count()
        self.key = f"agent:main:load:{name}"
        self.sent: list[str] = []
        self.failures: list[str] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=REQUEST_SECONDS)
        with contextlib.closing(connection):
            self._rpc(connection, "sessions.create", {"key": self.key})
            for act in itertools.cycle(self._acts()):
                if self._end.wait(PACE_SECONDS):
                    return
                act(connection)

    def _acts(self) -> Iterator[Callable[[http.client.HTTPConnection], None]]:
        yield lambda to: self._rpc(to, "sessions.list", {"limit": 20})
        yield self._send
        yield lambda to: self._rpc(to, "health", {"probe": True})
        yield self._inbound
        yield lambda to: self._rpc(to, "chat.history", {"sessionKey": self.key, "limit": 20})
        yield lambda to: self._rpc(to, "sessions.create", {"idempotencyKey": self._unique("made")})

    def _unique(self, what: str) -> str:
        return f"{what}-{next(self._numbers)}-{self.name}"

    def _send(self, connection: http.client.HTTPConnection) -> None:
        text = self._unique("sent")
        self.sent.append(text)
        for _ in range(2):  # the second is a client's retry, and must not make a second turn
            params = {"key": self.key, "message": text}
            self._rpc(connection, "sessions.send", params, {"Idempotency-Key": text})

    def _inbound(self, connection: http.client.HTTPConnection) -> None:
        text = self._unique("inbound")
        self.sent.append(text)
        body = {
            "user": {"id": self.name},
            "content": {"type": "text", "text": text},
            "message_id": text,
        }
        answer = self._ask(connection, "/channels/webhook/default", body)
        if answer is not None and answer.get("reply", {}).get("text") != f"echo: {text}":
            self.failures.append(f"inbound: {answer}")

    def _rpc(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        params: object,
        headers: dict[str, str] | None = None,
    ) -> None:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._ask(connection, "/rpc", call, headers)
        if answer is not None and "result" not in answer:
            self.failures.append(f"{method}: {answer}")

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: object,
        headers: dict[str, str] | None = None,
    ) -> Any:
        started = time.monotonic()
        try:
            connection.request("POST", path, json.dumps(body), {**self._headers, **(headers or {})})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.failures.append(f"{path}: {error!r}")
            return None
        self.seconds.append(time.monotonic() - started)
        if response.status != http.client.OK:
            self.failures.append(f"{path}: {response.status} {answer!r}")
            return None
        return json.loads(answer)


class Traffic:
    """Several clients at once, from entering to leaving the context."""

    def __init__(self, gateway: Gateway, token: str, clients: int) -> None:
        self._stop = threading.Event()
        self._started = 0.0
        self._elapsed = 0.0
        self.clients = [
            Client(gateway.address, token, f"client{number}", self._stop)
            for number in range(clients)
        ]

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self.clients:
            client.join()
        self._elapsed = time.monotonic() - self._started

    @property
    def failures(self) -> list[str]:
        return [failure for client in self.clients for failure in client.failures]

    @property
    def sent(self) -> list[str]:
        return [text for client in self.clients for text in client.sent]

    @property
    def worst_seconds(self) -> float:
        """How long the slowest answer took."""
        return max(second for client in self.clients for second in client.seconds)

    def report(self) -> str:
        """Say how many there were and how long they took."""
        seconds = sorted(second for client in self.clients for second in client.seconds)
        return (
            f"{len(seconds)} requests, {len(seconds) / self._elapsed:.0f}/s; "
            f"p50 {seconds[len(seconds) // 2] * 1000:.1f} ms, "
            f"p99 {seconds[len(seconds) * 99 // 100] * 1000:.1f} ms, "
            f"worst {seconds[-1] * 1000:.1f} ms"
        )


def transcripts(gateway: Gateway, token: str) -> dict[str, list[dict[str, Any]]]:
    """Give every message that a tenant has, by session."""
    rows = gateway.rpc(token, "sessions.list", limit=1000)["sessions"]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        messages: list[dict[str, Any]] = []
        more: dict[str, int] = {}
        while True:
            page = gateway.rpc(token, "chat.history", sessionKey=row["key"], limit=1000, **more)
            messages = [*page["messages"], *messages]
            if not page.get("hasMore"):
                break
            more = {"beforeSeq": messages[0]["seq"]}
        found[row["key"]] = messages
    return found


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def said_once(messages: list[dict[str, Any]], texts: list[str]) -> None:
    """Check that each text was said once, and that each turn has one message and one answer."""
    users = Counter(text_of(message) for message in messages if message["role"] == "user")
    assert {text: users[text] for text in texts} == dict.fromkeys(texts, 1)
    turns = Counter((message["runId"], message["role"]) for message in messages)
    assert set(turns.values()) == {1}
    runs = {message["runId"] for message in messages}
    assert {(run, role) for run in runs for role in ("user", "assistant")} == set(turns)
