"""A gateway in which good and misbehaving tenants live together."""

import contextlib
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply
from tests.patience import PATIENCE

PROGRAM = str(Path(__file__).with_name("gateway_program.py"))
WAIT_SECONDS = 30.0 * PATIENCE
POLL_SECONDS = 0.05
BETWEEN_CALLS_SECONDS = 0.005
SETTINGS = {
    "protocol.limits": {
        "WORKER_READY_SECONDS": 3.0 * PATIENCE,
        "HOLD_SECONDS": 5.0 * PATIENCE,
        "PING_INTERVAL_SECONDS": 0.5 * PATIENCE,
        "ABORT_GRACE_SECONDS": 0.3,
        "DRAIN_SECONDS": 1.0,
    },
    "supervisor.zygote_process": {"START_SECONDS": 10.0 * PATIENCE},
    "supervisor.front_process": {"UPDATE_SECONDS": 10.0 * PATIENCE},
    "supervisor.lifecycle": {"BACKOFF_SECONDS_MIN": 0.02},
    "supervisor.main": {"FRONT_DRAIN_SECONDS": 1.0, "WORKER_DRAIN_SECONDS": 1.0},
}


class Crowd(Gateway):
    """The gateway of `gateway_program`, with short deadlines."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir, command=(sys.executable, PROGRAM, json.dumps(SETTINGS)))
        self.admin_key = (state_dir / "admin.key").read_text().strip()

    def control(self, verb: str, path: str, body: object = None) -> Reply:
        """Ask the control plane, as the commands do but without a process for each."""
        data = None if body is None else json.dumps(body).encode()
        return self.request(verb, path, token=self.admin_key, body=data)

    def create(self, tenant: str) -> str:
        reply = self.control("POST", "/v1/tenants", {"tenantId": tenant})
        assert reply.status == 201, reply.body
        token: str = reply.json["token"]
        return token

    def status(self, tenant: str) -> dict[str, Any]:
        reply = self.control("GET", f"/v1/tenants/{tenant}/status")
        assert reply.status == 200, reply.body
        row: dict[str, Any] = reply.json["tenants"][0]
        return row

    def wait_for(self, tenant: str, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for a tenant's status until `what` holds of it; nobody tells of a change."""
        deadline = time.monotonic() + WAIT_SECONDS
        never = threading.Event()
        while not what(row := self.status(tenant)):
            assert time.monotonic() < deadline, row
            never.wait(POLL_SECONDS)
        return row

    def wait_for_state(self, tenant: str, state: str, *, deaths: int) -> dict[str, Any]:
        """Wait until a tenant's worker has died so often and is where it should be.

        What is given back is what an operator's command says then, and that no process is there
        beside the one it names has been looked at.
        """
        self.wait_for(tenant, lambda row: (row["state"], row["deaths"]) == (state, deaths))
        row: dict[str, Any]
        (row,) = self.openclaw_json("tenants", "status", tenant)
        assert (row["state"], row["deaths"]) == (state, deaths), row
        assert [worker.pid for worker in self.workers(tenant)] == [
            row[key] for key in ("pid",) if key in row
        ]
        return row

    def workers(self, tenant: str) -> list[psutil.Process]:
        """The processes that a tenant has."""
        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(child.cmdline()).strip() == f"openclaw: worker {tenant}":
                    found.append(child)
        return found

    def log_of(self, tenant: str) -> list[dict[str, Any]]:
        return [line for line in self.log_lines() if line.get("tenant") == tenant]

    def output_of(self, tenant: str) -> str:
        """What a tenant's workers have written to standard error, as the log has it."""
        lines = [line["line"] for line in self.log_of(tenant) if line["event"] == "output"]
        return "\n".join(lines)


class Neighbour(threading.Thread):
    """A good tenant's client: one call after another until it is told to stop."""

    CALLS = ("health", "sessions.list")

    def __init__(self, gateway: Gateway, token: str) -> None:
        super().__init__(name="neighbour", daemon=True)
        self._address = gateway.address
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._end = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=REQUEST_SECONDS)
        with contextlib.closing(connection):
            while not self._end.wait(BETWEEN_CALLS_SECONDS):
                for method in self.CALLS:
                    self._call(connection, method)

    def _call(self, connection: http.client.HTTPConnection, method: str) -> None:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
        started = time.monotonic()
        try:
            connection.request("POST", "/rpc", json.dumps(call), self._headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.failures.append(f"{method}: {error!r}")
            return
        self.seconds.append(time.monotonic() - started)
        if response.status == 200 and "result" in json.loads(body):
            self.answered += 1
        else:
            self.failures.append(f"{method}: {response.status} {body!r}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()
