"""A message from outside reaches a tenant's own process and is answered."""

import http.client
import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from protocol.limits import MESSAGE_CHARS_MAX
from tests.e2e.gateway import Gateway

ROOT = Path(__file__).resolve().parents[2]


def test_an_inbound_message_is_answered(gateway: Gateway) -> None:
    token = gateway.create("acme")
    reply = gateway.post(
        "/channels/webhook/default",
        token,
        {
            "tenant": "acme",
            "channel": "whatsapp",
            "user": {"id": "wa:+15550100", "display_name": "Ada"},
            "session_id": "wa:+15550100:default",
            "content": {"type": "text", "text": "Hello from outside"},
            "received_at": "2026-06-03T10:14:22Z",
        },
    )
    assert reply.status == 200, reply.body
    answer = reply.json
    assert answer["ok"] is True
    assert answer["status"] == "ok"
    assert "Hello from outside" in answer["reply"]["text"]
    assert answer["usage"]["input"] > 0
    assert answer["usage"]["output"] > 0
    history = gateway.rpc(token, "chat.history", sessionKey=answer["sessionKey"])
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"]


def test_the_seeds_curl_works_verbatim(gateway: Gateway) -> None:
    token = gateway.create("acme")
    body = b'{"jsonrpc":"2.0","id":1,"method":"sessions.create","params":{}}'
    reply = gateway.request("POST", "/rpc", token=token, body=body)
    assert reply.status == 200
    assert reply.json["jsonrpc"] == "2.0"
    assert reply.json["id"] == 1
    assert reply.json["result"]["ok"] is True
    assert reply.json["result"]["key"].startswith("agent:main:")


def test_a_turn_is_streamed(gateway: Gateway) -> None:
    token = gateway.create("acme")
    key = gateway.rpc(token, "sessions.create")["key"]
    text = "one two three four five six seven eight nine ten"
    connection = http.client.HTTPConnection(gateway.address, timeout=30)
    call = {
        "jsonrpc": "2.0",
        "id": "s",
        "method": "sessions.send",
        "params": {"key": key, "message": text},
    }
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
    }
    connection.request("POST", "/rpc", json.dumps(call), headers)
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("content-type", "").startswith("text/event-stream")
    events = [part for part in response.read().decode().split("\n\n") if part.strip()]
    connection.close()
    kinds = [part.split("\n")[0].removeprefix("event: ") for part in events]
    bodies = [json.loads(part.split("\ndata: ")[1]) for part in events]
    assert kinds[-1] == "result"
    assert set(kinds[:-1]) == {"chat"}
    assert len(kinds) > 2, "a stream of one piece is none"
    streamed = "".join(body["deltaText"] for body in bodies[:-1])
    result = bodies[-1]["result"]
    assert result["status"] == "ok"
    assert text in streamed
    assert streamed == "".join(part["text"] for part in result["reply"]["content"])


def test_message_ids_that_repeat_in_every_conversation(gateway: Gateway) -> None:
    token = gateway.create("acme")
    first = gateway.inbound(token, "one", user="u1", message_id="5").json
    other = gateway.inbound(token, "two", user="u2", message_id="5").json
    again = gateway.inbound(token, "one", user="u1", message_id="5").json
    assert "two" in other["reply"]["text"]
    assert again["runId"] == first["runId"]
    changed = gateway.inbound(token, "three", user="u1", message_id="5")
    assert changed.status == 409
    assert changed.json["error"]["data"]["field"] == "envelope.message_id"


def test_the_longest_message_is_answered(gateway: Gateway) -> None:
    token = gateway.create("acme")
    answer = gateway.inbound(token, "x" * MESSAGE_CHARS_MAX).json
    assert answer["status"] == "ok"
    assert answer["reply"]["text"].endswith("x" * MESSAGE_CHARS_MAX)


def test_the_transcript_survives_a_restart_of_the_gateway(state_dir: Path) -> None:
    with Gateway(state_dir) as first:
        token = first.create("acme")
        key = first.inbound(token, "remember me").json["sessionKey"]
        assert first.stop()[0] == 0
    with Gateway(state_dir) as second:
        history = second.rpc(token, "chat.history", sessionKey=key)
    assert history["messages"][0]["content"][0]["text"] == "remember me"


@pytest.mark.timeout(120)
def test_scripts_start_shows_the_first_minute_and_can_be_run_again(state_dir: Path) -> None:
    for _ in range(2):
        process = subprocess.Popen(
            [ROOT / "scripts" / "start", "--port", "0"],
            env={**os.environ, "OPENCLAW_STATE_DIR": str(state_dir)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        shown = b""
        while b"The gateway runs" not in shown and select.select([process.stdout], [], [], 60)[0]:
            shown += os.read(process.stdout.fileno(), 65536)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
        text = (shown + rest).decode()
        assert process.returncode == 0, text
        assert "→ Ada: Hello, is anybody there?" in text
        assert "← acme:" in text
        assert "Hello, is anybody there?" in text.split("← acme:")[1]
        assert "curl -sS http://127.0.0.1:" in text
