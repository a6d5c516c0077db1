"""WebSockets through the whole gateway: turns as they happen, and the ends of tokens."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.e2e.gateway import Gateway

SECONDS = 20.0
KEY = "agent:main:main"


@contextmanager
def websocket(gateway: Gateway, token: str, **more: Any) -> Iterator[ClientConnection]:
    protocols = [Subprotocol("openclaw.v1"), Subprotocol(f"bearer.{token}")]
    address = f"ws://{gateway.address}/ws"
    with connect(address, subprotocols=protocols, compression=None, **more) as client:
        yield client


def ask(client: ClientConnection, method: str, **params: Any) -> list[Any]:
    """Call, and give what comes up to the answer, the answer last."""
    call = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
    client.send(json.dumps(call))
    received = [json.loads(client.recv(SECONDS))]
    while received[-1].get("id") != method:
        received.append(json.loads(client.recv(SECONDS)))
    assert "result" in received[-1], received[-1]
    return received


def until(client: ClientConnection, event: str, **members: Any) -> list[Any]:
    """Give the events up to one of this name and with these members."""
    events: list[Any] = []
    while True:
        message = json.loads(client.recv(SECONDS))
        events.append(message["params"])
        found = events[-1]
        if found["event"] == event and members.items() <= found["payload"].items():
            return events


def test_a_turn_is_heard_by_its_tenant_alone(gateway: Gateway) -> None:
    acme, globex = gateway.create("acme"), gateway.create("globex")
    with websocket(gateway, acme) as ours, websocket(gateway, globex) as theirs:
        for client in (ours, theirs):
            ask(client, "events.subscribe")
        gateway.rpc(acme, "sessions.create", key=KEY, message="a word of acme")
        events = until(ours, "session.changed", reason="turn")
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        (final,) = [e for e in events if e["payload"].get("state") == "final"]
        assert "a word of acme" in final["payload"]["message"]["content"][0]["text"]
        # What the other hears next is its own.
        gateway.rpc(globex, "sessions.create", key=KEY)
        (heard,) = until(theirs, "session.changed")
        assert heard["seq"] == 1
        assert "acme" not in json.dumps(heard)


def test_a_streamed_turn_and_a_batch(gateway: Gateway) -> None:
    token = gateway.create("acme")
    with websocket(gateway, token) as client:
        ask(client, "sessions.create", key=KEY)
        params = {"key": KEY, "message": "hello"}
        call = {"jsonrpc": "2.0", "id": 1, "method": "sessions.send", "params": params}
        client.send(json.dumps(call | {"stream": True}))
        pieces = ""
        while "result" not in (message := json.loads(client.recv(SECONDS))):
            assert message["params"]["id"] == 1
            pieces += message["params"]["payload"]["deltaText"]
        assert message["result"]["reply"]["content"][0]["text"] == pieces
        calls = [{"jsonrpc": "2.0", "id": i, "method": "health"} for i in range(5)]
        client.send(json.dumps([*calls, {"jsonrpc": "2.0", "method": "health"}]))
        answers = json.loads(client.recv(SECONDS))
        assert [answer["id"] for answer in answers] == [0, 1, 2, 3, 4]
        assert all(answer["result"]["ok"] for answer in answers)


def test_a_batch_over_http_and_polling(gateway: Gateway) -> None:
    token = gateway.create("acme")
    cursor = gateway.rpc(token, "events.poll")["cursor"]
    calls = [
        {"jsonrpc": "2.0", "id": 1, "method": "sessions.create", "params": {"key": KEY}},
        {"jsonrpc": "2.0", "id": 2, "method": "no.such"},
    ]
    reply = gateway.post("/rpc", token, calls)
    assert reply.status == 200
    assert reply.json[0]["result"]["created"]
    assert reply.json[1]["error"]["code"] == -32601
    polled = gateway.rpc(token, "events.poll", cursor=cursor, waitMs=10_000)
    assert [event["event"] for event in polled["events"]] == ["session.changed"]
    assert gateway.openclaw("tenants", "restart", "acme").returncode == 0
    assert gateway.rpc(token, "events.poll", cursor=polled["cursor"])["reset"] is True


def closed_code(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        client.recv(SECONDS)
    return client.close_code


@pytest.mark.parametrize(
    "command",
    [
        ("tenants", "token", "rotate", "acme"),
        ("tenants", "suspend", "acme"),
        ("tenants", "delete", "acme", "--confirm"),
    ],
    ids=["rotation", "suspension", "deletion"],
)
def test_the_end_of_a_token_cuts_its_connections(
    gateway: Gateway, command: tuple[str, ...]
) -> None:
    acme, globex = gateway.create("acme"), gateway.create("globex")
    with websocket(gateway, acme) as ours, websocket(gateway, globex) as theirs:
        for client in (ours, theirs):
            ask(client, "events.subscribe")
        assert gateway.openclaw(*command).returncode == 0
        assert closed_code(ours) == 1008
        ask(theirs, "health")
        with pytest.raises(InvalidStatus) as refused, websocket(gateway, acme):
            pass
        assert refused.value.response.status_code in (401, 403)


def test_a_tenant_gets_its_next_token_on_the_connection_of_the_last(gateway: Gateway) -> None:
    token = gateway.create("acme")
    with websocket(gateway, token) as client:
        renewed = ask(client, "tenants.rotate")[-1]["result"]["token"]
        assert closed_code(client) == 1008
    with websocket(gateway, renewed) as client:
        assert ask(client, "tenants.delete", confirm="acme")[-1]["result"]["deleted"] is True
        assert closed_code(client) == 1008


def test_a_restart_leaves_connections_and_says_what_may_be_missing(gateway: Gateway) -> None:
    token = gateway.create("acme")
    with websocket(gateway, token) as client:
        ask(client, "events.subscribe")
        ask(client, "sessions.create", key=KEY)
        assert gateway.openclaw("tenants", "restart", "acme").returncode == 0
        until(client, "events.reset")
        ask(client, "sessions.send", key=KEY, message="after it")
        until(client, "chat", state="final")


def test_the_end_of_the_gateway_says_so(gateway: Gateway) -> None:
    with websocket(gateway, gateway.create("acme")) as client:
        ask(client, "health")
        gateway.stop()
        assert closed_code(client) == 1001


def test_only_listed_pages_are_heard(state_dir: Path) -> None:
    (state_dir / "config.yaml").write_text(
        "gateway: {port: 0, allowed_origins: [https://app.example.org]}\n"
    )
    with Gateway(state_dir) as gateway:
        token = gateway.create("acme")
        for origin in ("https://app.example.org", f"http://{gateway.address}"):
            with websocket(gateway, token, origin=Origin(origin)) as client:
                ask(client, "health")
        with (
            pytest.raises(InvalidStatus) as refused,
            websocket(gateway, token, origin=Origin("https://evil.example")),
        ):
            pass
        assert refused.value.response.status_code == 403
        assert token not in (gateway.state_dir / "gateway.log").read_text()
