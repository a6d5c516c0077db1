"""A gateway whose tenants are restarted, and a client that follows a long answer."""

import contextlib
import http.client
import json
import sys
import threading
from pathlib import Path
from typing import Any

import apsw

from tests.e2e.gateway import REQUEST_SECONDS, Gateway
from tests.workers import slow
from tests.workers.crowd import PROGRAM, SETTINGS, Crowd

LIMITS = {**SETTINGS["protocol.limits"], "DRAIN_SECONDS": 30.0, "HOLD_SECONDS": 10.0}


class Restarting(Crowd):
    """The tests' gateway with the usual patience for what is in flight."""

    def __init__(self, state_dir: Path) -> None:
        settings = {**SETTINGS, "protocol.limits": LIMITS}
        Gateway.__init__(self, state_dir, command=(sys.executable, PROGRAM, json.dumps(settings)))
        self.admin_key = (state_dir / "admin.key").read_text().strip()

    def restart(self, tenant: str) -> tuple[int, dict[str, Any]]:
        reply = self.control("POST", f"/v1/tenants/{tenant}/restart")
        return reply.status, reply.json

    def next_start(self, tenant: str, how: str | None) -> None:
        """Say how later generations of `always-slow` start; None: well."""
        path = self.state_dir / "tenants" / tenant / slow.NEXT
        if how is None:
            path.unlink()
        else:
            path.write_text(how)
            path.chmod(0o644)

    def schema_of_tomorrow(self, tenant: str) -> None:
        """Have the tenant's store say that a later program has changed it."""
        path = self.state_dir / "tenants" / tenant / "sessions" / "sessions.sqlite"
        with contextlib.closing(apsw.Connection(str(path))) as connection:
            connection.pragma("user_version", 99)


class Stream(threading.Thread):
    """A turn whose text comes in pieces, from its start to its result."""

    def __init__(self, gateway: Gateway, token: str, key: str, text: str, **headers: str) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(gateway.address, timeout=REQUEST_SECONDS)
        params = {"key": key, "message": text}
        call = {"jsonrpc": "2.0", "id": 1, "method": "sessions.send", "params": params}
        accept = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        self._request = json.dumps(call), {**accept, "Authorization": f"Bearer {token}", **headers}
        self.text = ""
        self.run_id = ""
        self.response: dict[str, Any] = {}
        self.begun = threading.Event()

    def run(self) -> None:
        with contextlib.closing(self._connection):
            body, headers = self._request
            self._connection.request("POST", "/rpc", body, headers)
            event = ""
            for line in self._connection.getresponse():
                field, _, value = line.decode().strip().partition(": ")
                if field == "event":
                    event = value
                elif field == "data" and event == "chat":
                    delta = json.loads(value)
                    self.run_id = delta["runId"]
                    self.text += delta["deltaText"]
                    self.begun.set()
                elif field == "data":
                    self.response = json.loads(value)
                elif line.startswith(b"{"):  # refused before it began
                    self.response = json.loads(line)
        self.begun.set()

    def under_way(self) -> "Stream":
        self.start()
        assert self.begun.wait(REQUEST_SECONDS)
        assert self.text, self.response
        return self

    def result(self) -> dict[str, Any]:
        self.join(REQUEST_SECONDS)
        assert not self.is_alive()
        result: dict[str, Any] = self.response["result"]
        return result


def session(gateway: Gateway, token: str, name: str) -> str:
    key = f"agent:main:test:{name}"
    gateway.rpc(token, "sessions.create", key=key)
    return key


def talk(number: int, seconds: float) -> str:
    return f"word{number} for {seconds} s"
