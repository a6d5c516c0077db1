"""A tenant's disk fails under a real, jailed worker: reads go on, and it recovers by itself."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.ledger import Ack, check
from tests.e2e.gateway import Reply
from tests.workers.crowd import Crowd
from tests.workers.faults import NAME, Orders

TENANT = "always-faulty"
KEY = "agent:main:faults:s"
MANY = 100


class Disk(Crowd):
    """A gateway with one tenant on a disk that obeys."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.token = self.create(TENANT)
        self.rpc(self.token, "sessions.create", key=KEY)
        self.orders = Orders(str(state_dir / "tenants" / TENANT / NAME))
        self.acks = [Ack("session", "test", TENANT, key=KEY)]

    def send(self, text: str) -> dict[str, Any]:
        call = {"jsonrpc": "2.0", "id": 1, "method": "sessions.send"}
        call["params"] = {"key": KEY, "message": text}
        reply = self.post("/rpc", self.token, call, **{"Idempotency-Key": text.replace(" ", "-")})
        body = self.typed(reply)
        if "result" in body:
            run: str = body["result"]["runId"]
            ack = Ack("turn", "test", TENANT, key=KEY, text=text, run=run)
            if ack not in self.acks:
                self.acks.append(ack)
        return body

    @staticmethod
    def typed(reply: Reply) -> dict[str, Any]:
        """Give an answer, which is a result or says that the disk refuses."""
        body: dict[str, Any] = reply.json
        if "error" in body:
            assert (reply.status, body["error"]["data"]["code"]) == (503, "UNAVAILABLE")
            assert body["error"]["data"]["retryable"] is True
            assert body["error"]["message"].startswith("storage ")
        return body

    def wait_ended(self, run: str) -> None:
        """Wait for a turn's end, which may not have been written when the disk refused."""
        wait = {"runId": run, "timeoutMs": 20_000}
        while "error" in (body := self.typed(self.rpc_reply(self.token, "agent.wait", wait))):
            pass
        assert body["result"]["status"] in ("ok", "error")

    def storage(self) -> dict[str, Any]:
        said: dict[str, Any] = self.rpc(self.token, "health")["storage"]
        return said

    def reads(self) -> None:
        """What was acknowledged can be read."""
        history = self.rpc(self.token, "chat.history", sessionKey=KEY, limit=1000)["messages"]
        texts = [row["content"][0]["text"] for row in history if row["role"] == "user"]
        said = [ack.text for ack in self.acks if ack.what == "turn"]
        assert [text for text in texts if text in said] == said
        assert self.rpc(self.token, "sessions.list")["total"] == 1


@pytest.fixture
def disk(state_dir: Path) -> Iterator[Disk]:
    with Disk(state_dir) as running:
        yield running


@pytest.mark.timeout(180)
def test_every_change_of_a_turn_fails_in_turn(disk: Disk, state_dir: Path) -> None:
    refused = 0
    for number in (errno.EIO, errno.ENOSPC):
        for after in range(1, MANY):
            text = f"message {number} {after}"
            disk.orders.arm(after, number, lasting=True)
            body = disk.send(text)
            if "error" in body:
                refused += 1
                assert disk.storage() == {"writable": False, "reason": body["error"]["message"]}
            else:  # accepted; its end may still fail
                wait = {"runId": body["result"]["runId"], "timeoutMs": 20_000}
                disk.typed(disk.rpc_reply(disk.token, "agent.wait", wait))
            disk.reads()
            hits = disk.orders.disarm()
            run = disk.send(text)["result"]["runId"]  # the disk is well: so is the tenant
            disk.wait_ended(run)
            assert disk.storage() == {"writable": True}
            if not hits:
                break
        else:
            raise AssertionError(f"after {MANY} changes there are more")
    assert refused > 4
    assert check(state_dir, disk.acks) == []
    assert len(disk.workers(TENANT)) == 1
    assert disk.status(TENANT)["deaths"] == 0
    said = disk.output_of(TENANT)
    assert "storage is read-only" in said
    assert "storage takes writes again" in said
