"""Clients that ask again until they are answered, and take down what the answer promised."""

import contextlib
import http.client
import itertools
import json
import threading
import time
from typing import Any, NamedTuple

from tests.chaos.ledger import Ack, Ledger

PATIENCE_SECONDS = 60.0
"""How long a client asks again; being unanswered for longer is a broken promise."""
PAUSE_SECONDS = 0.02
ANSWER_SECONDS = 40.0
AGAIN_EVERY = 4
"""Each how manieth request is sent once more after its answer, as a careful client would."""


class Answer(NamedTuple):
    """`asked` says how often it took."""

    status: int
    body: Any
    asked: int


class UnansweredError(Exception):
    """Nothing but refusals to be retried, for too long, or one that is not to be."""


class Caller:
    """One connection to a gateway that may be away at any time."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: http.client.HTTPConnection | None = None
        self._never = threading.Event()

    def ask(
        self, verb: str, path: str, secret: str, body: object = None, key: str | None = None
    ) -> Answer:
        """Ask until there is an answer that says no "try again".

        Raises:
            UnansweredError: there was none in time.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        sent = None if body is None else json.dumps(body)
        last: object = None
        for asked in itertools.count(1):
            try:
                status, answer = self._once(verb, path, sent, headers)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                last = repr(error)
            else:
                if not _again(answer):
                    return Answer(status, answer, asked)
                last = answer
            if time.monotonic() > deadline:
                break
            self._never.wait(PAUSE_SECONDS)
        raise UnansweredError(f"{verb} {path} {sent}: {last}")

    def _once(self, verb: str, path: str, body: str | None, headers: dict[str, str]) -> Any:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._address, timeout=ANSWER_SECONDS)
        self._connection.request(verb, path, body, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def rpc(self, token: str, method: str, params: object, key: str | None = None) -> Any:
        """Call a method of a tenant; gives its result.

        Raises:
            UnansweredError: it was refused, or not answered in time.
        """
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self.ask("POST", "/rpc", token, call, key)
        if "result" not in answer.body:
            raise UnansweredError(f"{method} {params}: {answer.status} {answer.body}")
        return answer.body["result"]


def _again(answer: Any) -> bool:
    if not isinstance(answer, dict):
        return False
    # The error of a turn that was cut off is a sentence: that one is an answer. The control plane
    # answers with problem details, which say it at the top.
    error = answer.get("error")
    details = error.get("data", {}) if isinstance(error, dict) else answer
    return details.get("retryable") is True


class Client:
    """Does one thing after another until it is told to stop; what it began it finishes."""

    def __init__(self, name: str, address: str, ledger: Ledger) -> None:
        self.name = name
        self._caller = Caller(address)
        self._ledger = ledger
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            for step in itertools.count():
                self.act(step)
                if self._over.is_set():
                    break
        except UnansweredError as error:
            self._ledger.blame(f"{self.name}: {error}")
        except Exception as error:  # noqa: BLE001 - told where it is looked at
            self._ledger.blame(f"{self.name}: {error!r}")
        finally:
            self._caller.close()

    def act(self, step: int) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        self._over.set()

    def add(self, ack: Ack) -> None:
        self._ledger.add(ack)


class Writer(Client):
    """Makes sessions and sends messages, by method and by channel."""

    def __init__(self, name: str, address: str, ledger: Ledger, tenant: str, token: str) -> None:
        super().__init__(name, address, ledger)
        self._tenant, self._token = tenant, token
        self._key = f"agent:main:chaos:{name}"

    def act(self, step: int) -> None:
        acts = (self._create, self._send, self._send, self._inbound)
        acts[step % len(acts)](f"{self.name}-{step}", again=step % AGAIN_EVERY == 0)

    def _create(self, name: str, *, again: bool) -> None:
        params = {"key": self._key}
        self._caller.rpc(self._token, "sessions.create", params)
        self.add(Ack("session", self.name, self._tenant, key=self._key))
        made = {
            self._caller.rpc(self._token, "sessions.create", {}, f"made-{name}")["key"]
            for _ in range(1 + again)
        }
        for key in made:
            self.add(Ack("session", self.name, self._tenant, key=key))
        self._one(made, f"sessions.create {name}")

    def _send(self, name: str, *, again: bool) -> None:
        params = {"key": self._key, "message": f"sent {name}"}
        runs = set()
        for _ in range(1 + again):
            runs.add(self._caller.rpc(self._token, "sessions.send", params, f"key-{name}")["runId"])
        self._turn("turn", f"sent {name}", self._key, runs)

    def _inbound(self, name: str, *, again: bool) -> None:
        text = f"inbound {name}"
        body = {
            "user": {"id": self.name},
            "content": {"type": "text", "text": text},
            "message_id": name,
        }
        for _ in range(1 + again):
            path = "/channels/webhook/default"
            answer = self._caller.ask("POST", path, self._token, body)
            if answer.status != http.client.OK:
                raise UnansweredError(f"{path} {body}: {answer.status} {answer.body}")
            said = answer.body
            self._turn(
                "reply" if said["status"] == "ok" else "turn",
                text,
                said["sessionKey"],
                {said["runId"]},
            )

    def _turn(self, what: Any, text: str, key: str, runs: set[str]) -> None:
        self._one(runs, text)
        for run in runs:
            self.add(Ack(what, self.name, self._tenant, key=key, text=text, run=run))

    def _one(self, found: set[str], what: str) -> None:
        if len(found) != 1:
            self._ledger.blame(f"{self.name}: {what} was done {len(found)} times: {found}")


class Operator(Client):
    """Makes tenants, uses them, rotates their tokens, and deletes all but every eighth."""

    KEPT_EVERY = 8

    def __init__(self, name: str, address: str, ledger: Ledger, admin_key: str) -> None:
        super().__init__(name, address, ledger)
        self._admin_key = admin_key

    def act(self, step: int) -> None:
        tenant = f"{self.name}-{step}"
        first = self._create(tenant)
        token = self._rotate(tenant)
        refused = self._caller.ask("POST", "/rpc", first, {}) if first else None
        if refused is not None and refused.status != http.client.UNAUTHORIZED:
            self._ledger.blame(f"{tenant}: a token that was replaced gets {refused.status}")
        key = self._caller.rpc(token, "sessions.create", {}, "once")["key"]
        self.add(Ack("session", self.name, tenant, key=key))
        if step % self.KEPT_EVERY:
            self._delete(tenant)

    def _create(self, tenant: str) -> str:
        body = {"tenantId": tenant}
        answer = self._caller.ask("POST", "/v1/tenants", self._admin_key, body)
        token: str = answer.body.get("token", "")
        if not token and (answer.status != http.client.CONFLICT or answer.asked == 1):
            raise UnansweredError(f"create {tenant}: {answer.status} {answer.body}")
        if token:  # else an earlier try was heard and not answered, and the token is lost
            self.add(Ack("created", self.name, tenant, token=token))
        return token

    def _rotate(self, tenant: str) -> str:
        path = f"/v1/tenants/{tenant}/token/rotate"
        answer = self._caller.ask("POST", path, self._admin_key)
        if answer.status != http.client.OK:
            raise UnansweredError(f"rotate {tenant}: {answer.status} {answer.body}")
        token: str = answer.body["token"]
        self.add(Ack("rotated", self.name, tenant, token=token))
        return token

    def _delete(self, tenant: str) -> None:
        answer = self._caller.ask("DELETE", f"/v1/tenants/{tenant}", self._admin_key)
        gone = answer.status == http.client.NOT_FOUND and answer.asked > 1
        if answer.status != http.client.OK and not gone:
            raise UnansweredError(f"delete {tenant}: {answer.status} {answer.body}")
        self.add(Ack("deleted", self.name, tenant))
