"""Runs of agents through the real gateway: models of both wires, tools in a real sandbox."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway
from tests.upstream.fake import FakeUpstream

KEY = "agent:main:e2e"
WRITE = '[[call write {"path": "a.sh", "content": "echo from $PWD"}]]'
RUN = '[[call exec {"argv": ["sh", "/work/a.sh"]}]][[call read {"path": "a.sh"}]]'
EDIT = '[[call edit {"path": "a.sh", "old": "$PWD", "new": "here"}]]'
FAULTS = ("503", "reset-middle", "end-middle", "malformed-middle", "hang-middle", "shape-middle")


class House:
    """A gateway whose agents talk to the fake upstream, and a tenant of it."""

    def __init__(self, gateway: Gateway, upstream: FakeUpstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.token = gateway.create("acme")
        self._sessions = 0

    def session(self, **agent: Any) -> str:
        """Configure the agent and give the key of a new session."""
        self.gateway.rpc(self.token, "config.set", raw=json.dumps({"agent": agent}))
        self._sessions += 1
        return f"{KEY}-{self._sessions}"

    def run(self, key: str, text: str) -> dict[str, Any]:
        """Have a turn run to its end; gives how it ended."""
        sent = self.gateway.rpc(self.token, "chat.send", sessionKey=key, message=text)
        return self.end(sent["runId"])

    def end(self, run_id: str) -> dict[str, Any]:
        ended: dict[str, Any] = self.gateway.rpc(
            self.token, "agent.wait", runId=run_id, timeoutMs=20_000
        )
        assert ended["status"] != "timeout"
        return ended

    def told(self) -> list[dict[str, Any]]:
        """The messages that a model was told last."""
        body = json.loads(self.upstream.seen()["last"]["body"])
        messages: list[dict[str, Any]] = body["messages"]
        return messages

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The transcript, in which each call is answered before anything else is said."""
        rows: list[dict[str, Any]] = self.gateway.rpc(self.token, "chat.history", sessionKey=key)[
            "messages"
        ]
        waiting: list[str] = []
        for row in rows:
            parts = {part["type"]: part for part in row["content"]}
            if row["role"] == "tool":
                assert waiting.pop(0) == parts["toolResult"]["callId"]
            else:
                assert waiting == []
                calls = (each for each in row["content"] if each["type"] == "toolCall")
                waiting = [each["callId"] for each in calls]
        assert waiting == []
        return rows


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    state_dir = make_state_dir()
    with FakeUpstream() as upstream:
        config = {
            "providers": {
                "one": {"type": "openai", "base_url": upstream.base_url},
                "two": {"type": "anthropic", "base_url": upstream.anthropic_url},
            },
            "models": {
                "gpt": {"provider": "one"},
                "claude": {"provider": "two"},
                "small": {"provider": "one", "context_window": 4000},
            },
            "agents": {"model": "gpt", "max_tool_calls": 20},
            "billing": {"rate_card": {"*": {"input": 1, "output": 2}}},
            "egress": {
                "allow_hosts": [upstream.host_port],
                "retries": 0,
                "first_byte_seconds": 1,
                "idle_seconds": 0.5,
                "total_seconds": 10,
            },
        }
        (state_dir / "config.yaml").write_text(json.dumps(config))
        with Gateway(state_dir) as gateway:
            yield House(gateway, upstream)
    remove_tree(state_dir)


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_a_turn_with_tools_in_a_sandbox(house: House, model: str) -> None:
    key = house.session(model=model)
    text = f"Write it. {WRITE}[[then]]Run it. {RUN}[[then]]{EDIT}[[then]]Again. {RUN}"
    assert house.run(key, text)["status"] == "ok"
    rows = house.rows(key)
    assert [row["role"] for row in rows] == [
        *("user", "assistant", "tool", "assistant", "tool", "tool"),
        *("assistant", "tool", "assistant", "tool", "tool", "assistant"),
    ]
    said = [part for row in rows for part in row["content"] if part["type"] == "toolResult"]
    assert [part["name"] for part in said] == ["write", "exec", "read", "edit", "exec", "read"]
    assert not any(part.get("isError") for part in said)
    assert "\nfrom /work\n" in said[1]["text"]
    assert "\necho from $PWD\n" in said[2]["text"]
    assert "\nfrom here\n" in said[4]["text"]
    answers = [row for row in rows if row["role"] == "assistant"]
    assert all(row["model"] == model and row["usage"]["input"] > 0 for row in answers)
    assert sum(row["usage"]["costMicroUsd"] for row in answers) > 0
    # What the model was told last is what the tools have said.
    assert "from here" in json.dumps(house.told())


@pytest.mark.parametrize("model", ["gpt", "claude"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_after_a_round_of_tools_ends_the_turn_and_not_the_session(
    house: House, model: str, fault: str
) -> None:
    key = house.session(model=model)
    assert house.run(key, f"{WRITE}[[then]]done")["status"] == "ok"
    house.upstream.reset()
    ended = house.run(key, f"[[fault:{fault} times:1]] a word or two or more")
    assert ended["status"] == "error"
    assert ended["errorCode"] in ("UNAVAILABLE", "TIMEOUT"), ended
    rows = house.rows(key)
    if fault.endswith("-middle") and rows[-1]["role"] == "assistant":
        assert rows[-1]["stopReason"] == "error"
    assert house.run(key, "still there?")["status"] == "ok"


def test_an_abort_at_any_point_leaves_a_transcript_that_goes_on(house: House) -> None:
    key = house.session(model="gpt")
    slow = "one two [[chunks:500 pace:20]]"
    sleeps = '[[call exec {"argv": ["sleep", "30"]}]][[call clock {}]]'
    for text, there in ((slow, "answering"), (sleeps, "tool")):
        house.upstream.reset()
        sent = house.gateway.rpc(house.token, "chat.send", sessionKey=key, message=text)
        if there == "answering":
            house.upstream.wait(answering=1)
        else:
            deadline = time.monotonic() + REQUEST_SECONDS
            while not house.gateway.rpc(house.token, "sandbox.list")["sandboxes"]:
                assert time.monotonic() < deadline
        aborted = house.gateway.rpc(house.token, "chat.abort", sessionKey=key)
        assert aborted["runIds"] == [sent["runId"]]
        assert house.end(sent["runId"])["status"] == "interrupted"
        house.upstream.wait(answering=0)
    rows = house.rows(key)
    texts = [part["text"] for row in rows if row["role"] == "tool" for part in row["content"]]
    assert texts[0].startswith("cut off: ")
    assert house.run(key, "on with it")["status"] == "ok"


def test_the_bounds_of_a_turn_hold(house: House) -> None:
    call = "[[call clock {}]]"
    loop = "[[then]]".join([call] * 30)
    for agent, why in (
        ({"maxRounds": 3}, "after 3 rounds"),
        ({"maxToolCalls": 2}, "after 2 tool calls"),
        ({"maxTokens": 2000}, "after 2000 tokens"),
        ({"maxToolCalls": 500}, "after 20 tool calls"),
    ):
        key = house.session(model="gpt", **agent)
        ended = house.run(key, loop)
        assert (ended["status"], why in ended["error"]) == ("error", True), ended
        house.rows(key)


def test_a_conversation_longer_than_the_window_goes_on(house: House) -> None:
    key = house.session(model="small", tools={"allow": []})
    for number in range(6):
        assert house.run(key, f"{number} " + "word " * 300)["status"] == "ok"
    told = house.told()
    assert "were left out here" in json.dumps(told[0])
    assert len(house.rows(key)) == 12
    ended = house.run(key, "word " * 3000)
    assert (ended["status"], ended["errorCode"]) == ("error", "PAYLOAD_TOO_LARGE")
    assert "the message is too big for the model" in ended["error"]


def test_a_message_on_the_way_is_delivered_with_the_reply(house: House) -> None:
    house.session(model="gpt")
    told = house.gateway.inbound(house.token, '[[call message {"text": "half way"}]][[then]]there')
    assert told.json["reply"] == {"type": "text", "text": "there", "messages": ["half way"]}
    key = told.json["sessionKey"]
    assert [row.get("stopReason") for row in house.rows(key)] == [
        *(None, "tool_calls", None, "message", "stop"),
    ]
    # It is no part of what the model is told later.
    assert house.run(key, "and now")["status"] == "ok"
    roles = [each["role"] for each in house.told()]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_tool_calls_are_told_as_they_come(house: House) -> None:
    key = house.session(model="gpt")
    cursor = house.gateway.rpc(house.token, "events.poll")["cursor"]
    found: list[Any] = []
    listener = threading.Thread(
        target=lambda: found.append(house.run(key, "look [[call clock {}]][[then]]done"))
    )
    listener.start()
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + REQUEST_SECONDS
    while not any(each["payload"].get("data", {}).get("phase") == "end" for each in events):
        assert time.monotonic() < deadline
        polled = house.gateway.rpc(house.token, "events.poll", cursor=cursor, waitMs=5000)
        cursor = polled["cursor"]
        events += polled["events"]
    listener.join()
    agent = [each["payload"] for each in events if each["event"] == "agent"]
    assert [(each["stream"], each["data"]["phase"]) for each in agent] == [
        *(("lifecycle", "start"), ("tool", "start"), ("tool", "result"), ("lifecycle", "end")),
    ]
    assert (agent[1]["data"]["name"], agent[1]["data"]["arguments"]) == ("clock", "{}")
    assert found[0]["status"] == "ok"
