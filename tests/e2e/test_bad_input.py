"""Bad input on every route and method: a typed error that names the field, and nothing happens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode
from protocol.methods import METHODS, answered_by
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway, Reply
from tests.methods import OF_TENANTS, example, schema_of

GOOD = {name: example(METHODS[name]) for name in OF_TENANTS}
# What is checked by a pattern; other ids are looked for, and not found.
PATTERNED = ("key", "sessionKey", "agentId", "tenantId")
RPC_CODES = {code.rpc_code: code for code in ErrorCode}
HOSTILE_TEXTS = ("../../etc/passwd", "..", "/etc/shadow", "a\0b", "%2e%2e%2f", "a" * 10_000, "")


class Fixed:
    """One gateway for the whole module, and a count of what it holds."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.token = gateway.create("acme")
        self.gateway.rpc(self.token, "health", probe=True)
        # A tenant has so many calls of these a while: each is one tenant's here.
        asked = sorted(answered_by("supervisor"))
        self._tokens = {method: gateway.create(method.replace(".", "-")) for method in asked}
        self.tenants = gateway.openclaw_json("tenants", "list")

    def ask(self, method: str, params: object) -> Reply:
        token = self._tokens.get(method, self.token)
        return self.gateway.rpc_reply(token, method, params)

    def sessions(self) -> int:
        total: int = self.gateway.rpc(self.token, "sessions.list")["total"]
        return total

    def files(self) -> set[str]:
        return {str(path) for path in self.gateway.state_dir.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def fixed() -> Iterator[Fixed]:
    path = make_state_dir()
    try:
        with Gateway(path) as gateway:
            yield Fixed(gateway)
    finally:
        remove_tree(path)


def check_refusal(reply: Reply, fixed: Fixed, names: str | None = None) -> None:
    """A typed error with the status of its code, which names the field and leaks nothing."""
    if reply.headers["content-type"] == "application/problem+json":
        code, said = ErrorCode[reply.json["code"]], reply.json["detail"]
        assert reply.json["status"] == reply.status
    else:
        error = reply.json["error"]
        code, said = RPC_CODES[error["code"]], error["message"]
        assert error["data"]["code"] == code.name
    assert reply.status == code.http_status
    assert 400 <= reply.status < 500, reply.body
    assert said
    if names is not None:
        assert names in said
    for leak in (str(fixed.gateway.state_dir), "Traceback", "site-packages", ".py", fixed.token):
        assert leak.encode() not in reply.body
    assert b"\0" not in reply.body


@pytest.mark.parametrize("method", sorted(GOOD))
def test_unknown_and_missing_keys(fixed: Fixed, method: str) -> None:
    before = fixed.sessions()
    reply = fixed.ask(method, {**GOOD[method], "surplus": 1})
    check_refusal(reply, fixed, "surplus")
    for name in GOOD[method]:
        params = {key: value for key, value in GOOD[method].items() if key != name}
        check_refusal(fixed.ask(method, params), fixed, name)
    assert fixed.sessions() == before


@pytest.mark.parametrize("method", sorted(GOOD))
@pytest.mark.parametrize("params", [[], [1], "x", 1, True, None], ids=repr)
def test_params_that_are_no_object(fixed: Fixed, method: str, params: object) -> None:
    check_refusal(fixed.ask(method, params), fixed, "params")


@pytest.mark.parametrize("method", sorted(GOOD))
def test_wrong_types_of_every_declared_field(fixed: Fixed, method: str) -> None:
    document = fixed.gateway.rpc(fixed.token, "rpc.discover")
    declared = next(entry for entry in document["methods"] if entry["name"] == method)
    before = fixed.sessions()
    for param in declared["params"]:
        name = param["name"]
        for value in ({"surplus": 1}, [["x"]]):  # no field takes either
            reply = fixed.ask(method, {**GOOD[method], name: value})
            # What is wrong in a body of OpenAI's API is named as its clients know it.
            check_refusal(reply, fixed, None if name == "body" else name)
    assert fixed.sessions() == before


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: repr(text)[:20])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        (method, name)
        for method in OF_TENANTS
        for name in schema_of(METHODS[method].params)[0]["properties"]
        if name in PATTERNED
    ],
)
def test_path_like_and_hostile_ids(fixed: Fixed, method: str, name: str, text: str) -> None:
    before, files = fixed.sessions(), fixed.files()
    reply = fixed.ask(method, {**GOOD[method], name: text})
    check_refusal(reply, fixed, name)
    assert fixed.sessions() == before
    assert fixed.files() == files


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"user": {}}, "id"),
        ({"user": {"id": "a b"}}, "id"),
        ({"user": {"id": "x" * 121}}, "id"),
        ({"user": "me"}, "user"),
        ({"content": {"type": "image", "url": "x"}}, "content"),
        ({"content": {"type": "text"}}, "text"),
        ({"content": {"type": "text", "text": ""}}, "text"),
        ({"content": {"type": "text", "text": "a\0b"}}, "text"),
        ({"session_id": "../x y"}, "session_id"),
        ({"surplus": 1}, "surplus"),
        ({"channel": "../x"}, "channel"),
        ({"message_id": ""}, "message_id"),
    ],
    ids=repr,
)
def test_webhook_envelopes(fixed: Fixed, change: dict[str, Any], names: str) -> None:
    before = fixed.sessions()
    envelope = {**GOOD["channels.inbound"]["envelope"], **change}
    reply = fixed.gateway.post("/channels/webhook/default", fixed.token, envelope)
    check_refusal(reply, fixed, names)
    assert fixed.sessions() == before


@pytest.mark.parametrize("account", ["..", "A", "a b", "%2e%2e", "a%00", "a/b", "", "x" * 65])
def test_webhook_accounts(fixed: Fixed, account: str) -> None:
    path = "/channels/webhook/" + account.replace(" ", "%20")
    reply = fixed.gateway.post(path, fixed.token, GOOD["channels.inbound"]["envelope"])
    assert reply.status in (400, 404)
    check_refusal(reply, fixed)


BROKEN_BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "invalid UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"health","params":{"\xff\xfe":1}}',
    "invalid UTF-8 in the id": b'{"jsonrpc":"2.0","id":"\xff","method":"health"}',
    "NUL": b'{"jsonrpc":"2.0",\0"id":1,"method":"health"}',
    "deep": b'{"jsonrpc":"2.0","id":1,"method":"health","params":' + b"[" * 100_000,
    "deep and closed": b'{"jsonrpc":"2.0","id":1,"method":"health","params":{"a":'
    + b"[" * 50_000
    + b"]" * 50_000
    + b"}}",
    "two values": b'{"jsonrpc":"2.0","id":1,"method":"health"}{}',
    "version": b'{"jsonrpc":"1.0","id":1,"method":"health"}',
    "no version": b'{"id":1,"method":"health"}',
    "no method": b'{"jsonrpc":"2.0","id":1}',
    "object as id": b'{"jsonrpc":"2.0","id":{},"method":"health"}',
    "surplus member": b'{"jsonrpc":"2.0","id":1,"method":"health","extra":1}',
    "array": b"[]",
    "text": b'"hello"',
    "method of 100 kB": b'{"jsonrpc":"2.0","id":1,"method":"' + b"a" * 100_000 + b'"}',
}


@pytest.mark.parametrize("name", sorted(BROKEN_BODIES))
def test_broken_requests(fixed: Fixed, name: str) -> None:
    reply = fixed.gateway.request("POST", "/rpc", token=fixed.token, body=BROKEN_BODIES[name])
    check_refusal(reply, fixed)
    assert reply.json["jsonrpc"] == "2.0"


@pytest.mark.parametrize("name", ["empty", "no JSON", "NUL", "deep", "two values", "array"])
def test_broken_webhook_bodies(fixed: Fixed, name: str) -> None:
    reply = fixed.gateway.request(
        "POST", "/channels/webhook/default", token=fixed.token, body=BROKEN_BODIES[name]
    )
    check_refusal(reply, fixed)


def test_unknown_methods(fixed: Fixed) -> None:
    for method in ("nothing.here", "__class__", "sessions.create\n", "Sessions.Create"):
        reply = fixed.ask(method, {})
        check_refusal(reply, fixed)
        assert reply.status == 404


def test_a_body_over_the_bound(fixed: Fixed) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "health", "params": "x" * 9_000_000})
    reply = fixed.gateway.request("POST", "/rpc", token=fixed.token, body=body.encode())
    check_refusal(reply, fixed)
    assert reply.status == 413


def test_a_message_over_the_bound(fixed: Fixed) -> None:
    key = fixed.gateway.rpc(fixed.token, "sessions.create")["key"]
    reply = fixed.gateway.rpc_reply(
        fixed.token, "sessions.send", {"key": key, "message": "x" * 300_000}
    )
    check_refusal(reply, fixed, "message")
    assert fixed.gateway.rpc(fixed.token, "chat.history", sessionKey=key)["messages"] == []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"{}", "tenantId"),
        (b'{"tenantId":1}', "tenantId"),
        (b'{"tenantId":"../x"}', "tenantId"),
        (b'{"tenantId":"Acme"}', "tenantId"),
        (b'{"tenantId":"a\\u0000"}', "tenantId"),
        (b'{"tenantId":"' + b"a" * 41 + b'"}', "tenantId"),
        (b'{"tenantId":"ok","surplus":1}', "surplus"),
        (b'{"tenantId":"ok","displayName":"a\\nb"}', "displayName"),
        (b'{"tenantId":"ok","quota":{"tokensPerDay":-1}}', "tokensPerDay"),
        (b'{"tenantId":"ok","quota":{"tokensPerDay":"5"}}', "tokensPerDay"),
        (b"[]", ""),
        (b"{", ""),
        (b'{"tenantId":"\xff"}', ""),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_control_plane_bodies(fixed: Fixed, body: bytes, names: str) -> None:
    admin = (fixed.gateway.state_dir / "admin.key").read_text().strip()
    reply = fixed.gateway.request("POST", "/v1/tenants", token=admin, body=body)
    check_refusal(reply, fixed, names)
    assert admin.encode() not in reply.body
    assert fixed.gateway.openclaw_json("tenants", "list") == fixed.tenants


@pytest.mark.parametrize(
    "path", ["/v1/tenants/..", "/v1/tenants/%2e%2e", "/v1/tenants/a%2Fb", "/v1/tenants/A"]
)
def test_control_plane_paths(fixed: Fixed, path: str) -> None:
    admin = (fixed.gateway.state_dir / "admin.key").read_text().strip()
    for verb in ("GET", "DELETE"):
        reply = fixed.gateway.request(verb, path, token=admin)
        assert reply.status in (400, 404)
        check_refusal(reply, fixed)
    assert Path(fixed.gateway.state_dir, "tenants", "acme").is_dir()
