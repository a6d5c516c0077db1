from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode
from tests.worker.harness import SECONDS, GatedProvider, catalogue_of, running_worker
from worker.channels import webhook


def inbound(
    text: str, *, account: str = "default", user: str = "u1", **more: Any
) -> dict[str, Any]:
    envelope = {"user": {"id": user}, "content": {"type": "text", "text": text}, **more}
    return {"account": account, "envelope": envelope}


async def test_message_makes_a_session_and_is_answered(tenant_dir: Path) -> None:
    params = {
        "account": "default",
        "envelope": {
            "tenant": "acme",
            "channel": "webhook",
            "user": {"id": "wa:+15550100", "display_name": "Ada"},
            "session_id": "wa:+15550100:default",
            "content": {"type": "text", "text": "Hello, is anybody there?"},
            "received_at": "2026-06-03T10:14:22Z",
        },
    }
    async with running_worker() as rig:
        result = await rig.front.call("channels.inbound", params)
        assert result["ok"]
        assert result["status"] == "ok"
        assert result["reply"] == {"type": "text", "text": "echo: Hello, is anybody there?"}
        assert result["usage"] == {"input": 6, "output": 8}
        key = "agent:main:webhook:default:direct:wa%3a+15550100:wa%3a+15550100%3adefault"
        assert result["sessionKey"] == key
        row = (await rig.front.call("sessions.get", {"key": key}))["session"]
        assert (row["displayName"], row["channel"]) == ("Ada", "webhook")
        again = await rig.front.call("channels.inbound", params)
        assert again["sessionKey"] == key
        assert again["runId"] != result["runId"]
        history = await rig.front.call("chat.history", {"sessionKey": key})
        assert len(history["messages"]) == 4


async def test_conversations_are_apart(tenant_dir: Path) -> None:
    variants = [
        inbound("x"),
        inbound("x", user="U1"),
        inbound("x", user="%551"),
        inbound("x", account="other"),
        inbound("x", channel="whatsapp"),
        inbound("x", session_id="u1:second"),
        inbound("x", user="u1:second"),
    ]
    async with running_worker() as rig:
        keys = [(await rig.front.call("channels.inbound", each))["sessionKey"] for each in variants]
    assert len(set(keys)) == len(variants)


@pytest.mark.parametrize("tenant", ["globex", "no-such-tenant"])
async def test_envelope_of_another_tenant_is_refused(tenant_dir: Path, tenant: str) -> None:
    async with running_worker() as rig:
        error = await rig.front.refused("channels.inbound", inbound("x", tenant=tenant))
        assert error.code is ErrorCode.FORBIDDEN
        assert error.details == {"field": "envelope.tenant"}
        assert tenant not in error.message
        assert (await rig.front.call("sessions.list"))["total"] == 0


async def test_redelivery_gets_the_first_answer(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        first = await front.call("channels.inbound", inbound("x", message_id="m1"))
        assert await front.call("channels.inbound", inbound("x", message_id="m1")) == first
        both = await front.call("channels.inbound", inbound("x", message_id="m1"), key="k")
        assert both == first
        by_header = await front.call("channels.inbound", inbound("y"), key="k1")
        assert await front.call("channels.inbound", inbound("y"), key="k1") == by_header
        # The channel's own numbering starts anew on each account, and is not the clients'.
        other = await front.call("channels.inbound", inbound("x", account="b", message_id="m1"))
        assert other["runId"] != first["runId"]
        assert (await front.call("channels.inbound", inbound("z"), key="m1"))["ok"]
        error = await front.refused("channels.inbound", inbound("changed", message_id="m1"))
        assert error.code is ErrorCode.CONFLICT


async def test_slow_answer_is_in_flight_and_comes_with_the_redelivery(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "REPLY_SECONDS", 0.01)
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        slow = await rig.front.call("channels.inbound", inbound("x", message_id="m"))
        assert (slow["ok"], slow["status"]) == (True, "in_flight")
        assert "reply" not in slow
        provider.open("x")
        await rig.front.finished(slow["runId"], slow["sessionKey"])
        done = await rig.front.call("channels.inbound", inbound("x", message_id="m"))
        assert (done["runId"], done["status"]) == (slow["runId"], "ok")
        assert done["reply"]["text"] == "answer to x"


async def test_stream(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        call = rig.front.stream("channels.inbound", inbound("one two"))
        result = await call.result()
        assert call.text == "echo: one two" == result["reply"]["text"]
        assert {chunk["sessionKey"] for chunk in call.chunks} == {result["sessionKey"]}


async def test_waiting_message_is_in_flight_when_the_worker_drains(tenant_dir: Path) -> None:
    """Nobody answers it: the next worker will."""
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        first = rig.front.stream("channels.inbound", inbound("x"))
        await first.until("answer")
        second = rig.front.stream("channels.inbound", inbound("y"))
        rig.links.drain(SECONDS)
        await rig.worker.services.turns._draining.wait()
        provider.open("x")
        assert (await first.result())["status"] == "ok"
        assert (await second.result())["status"] == "in_flight"


async def test_waiting_message_is_answered_by_the_next_generation(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider), generation=1) as old:
        first = old.front.stream("channels.inbound", inbound("x"))
        await first.until("answer")
        second = old.front.stream("channels.inbound", inbound("y"))
        async with running_worker(catalogue_of(provider), generation=2, living=(1,)):
            old.links.drain(SECONDS)
            await old.worker.services.turns._draining.wait()
            provider.open("y")
            provider.open("x")
            assert (await first.result())["status"] == "ok"
            assert (await second.result())["reply"]["text"] == "answer to y"


async def test_failed_turn_is_not_ok(tenant_dir: Path) -> None:
    async with running_worker(catalogue_of(GatedProvider())) as rig:
        call = rig.front.stream("channels.inbound", inbound("x"))
        await call.until("answer")
        rig.links.drain(0)
        result = await call.result()
        assert (result["ok"], result["status"]) == (False, "interrupted")
        assert "reply" not in result
        assert result["error"]
