"""Programs that run in sandboxes beside a test."""

import threading
import time
from typing import Any

from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply


def running(gateway: Gateway, token: str) -> list[dict[str, Any]]:
    """What runs for a tenant now, beside its terminals."""
    listed: list[dict[str, Any]] = gateway.rpc(token, "sandbox.list")["sandboxes"]
    return [each for each in listed if each["kind"] == "run"]


def wait_running(gateway: Gateway, token: str, count: int) -> list[dict[str, Any]]:
    """Wait until so many run for a tenant."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while len(found := running(gateway, token)) != count:
        assert time.monotonic() < deadline, found
    return found


class Run(threading.Thread):
    """A program that is waited for beside the test."""

    def __init__(
        self, gateway: Gateway, token: str, *argv: str, refused: bool = False, **given: Any
    ) -> None:
        super().__init__(daemon=True)
        self._refused = refused
        self._gateway, self._token = gateway, token
        self._params = {"argv": list(argv), "timeoutMs": 60_000, **given}
        self.result: dict[str, Any] = {}
        self.reply: Reply
        self.start()

    def run(self) -> None:
        try:
            self.reply = self._gateway.rpc_reply(self._token, "sandbox.run", self._params)
        except OSError:
            assert self._refused  # the gateway was ended
            return
        if not self._refused:
            self.result = self.reply.json["result"]
