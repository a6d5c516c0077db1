"""Every method through the real gateway: HTTP, front, worker or supervisor, and back."""

import http.client
import json
import os
from contextlib import closing
from typing import Any

import jsonschema_rs
import msgspec

from protocol.methods import METHODS, events
from tests.e2e.gateway import Gateway
from tests.e2e.sandboxes import Run, wait_running
from tests.methods import ALL, SESSION_KEY, example

# What takes away what the others need comes last.
LAST = (
    "terminal.close",
    "sandbox.files.delete",
    "sessions.delete",
    "tenants.rotate",
    "tenants.delete",
)
ECHO = "builtin/echo"
ON_A_SOCKET = {events.SUBSCRIBE.name, events.UNSUBSCRIBE.name}


class Document:
    """What `rpc.discover` says of the methods."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = document["components"]
        self._methods = {method["name"]: method for method in document["methods"]}

    def check(self, method: str, params: dict[str, Any], result: Any) -> None:
        """Hold a call and its result against it."""
        described = self._methods[method]
        schemas = {param["name"]: param["schema"] for param in described["params"]}
        required = {param["name"] for param in described["params"] if param["required"]}
        assert required <= params.keys() <= schemas.keys()
        for name, value in params.items():
            self._validate(schemas[name], value)
        self._validate(described["result"]["schema"], result)

    def _validate(self, schema: dict[str, Any], value: Any) -> None:
        jsonschema_rs.validate({**schema, "components": self._components}, value)


def result_of(gateway: Gateway, token: str, method: str, params: dict[str, Any]) -> Any:
    """The result, which is what the method is declared to give."""
    reply = gateway.rpc_reply(token, method, params)
    assert reply.status == 200, (method, reply.body)
    result = reply.json["result"]
    declared = msgspec.convert(result, METHODS[method].result)
    assert json.loads(msgspec.json.encode(declared)) == result, method
    return result


def test_every_method_answers_what_it_declares(gateway: Gateway) -> None:
    token = gateway.create("acme")
    document = Document(gateway.rpc(token, "rpc.discover"))
    made = gateway.rpc(token, "sessions.create", key=SESSION_KEY, label="x", message="hello")
    gateway.rpc(token, "agent.wait", runId=made["runId"])
    gateway.rpc(token, "sandbox.files.put", **example(METHODS["sandbox.files.put"]))
    terminal = {"terminalId": gateway.rpc(token, "terminal.spawn", cmd="cat")["terminalId"]}
    # Optional parameters without which nothing can be asked for.
    given = {
        "agent.wait": {"runId": made["runId"]},
        "chat.inject": {"message": "a note"},
        "openai.chat": {"body": {"model": ECHO, "messages": [{"role": "user", "content": "hi"}]}},
        "openai.model": {"model": ECHO},
        "openai.responses": {"body": {"model": ECHO, "input": "hi"}},
        "sessions.abort": {"runId": made["runId"]},
        "sessions.patch": {"label": "y"},
        "sessions.resolve": {"key": SESSION_KEY},
        "tenants.delete": {"confirm": "acme"},
        "terminal.attach": terminal,
        "terminal.close": terminal,
        "terminal.resize": terminal,
        "terminal.write": {**terminal, "data": "x"},
    }
    for method in sorted(
        ALL, key=lambda name: (name in LAST, LAST.index(name) if name in LAST else 0)
    ):
        if method == "sandbox.kill":
            check_kill(gateway, token, document)
            continue
        params = example(METHODS[method], **given.get(method, {}))
        if METHODS[method].answered_by == "operator":
            assert gateway.rpc_reply(token, method, params).status == 403
            continue
        if method in ON_A_SOCKET:
            refused = gateway.rpc_reply(token, method, params)
            assert (refused.status, refused.json["error"]["data"]["field"]) == (400, "method")
            continue
        if method == "openai.embeddings":  # no model here makes any
            asked = {"model": ECHO, "input": "hi"}
            refused = gateway.rpc_reply(token, method, {"body": asked})
            assert (refused.status, refused.json["error"]["data"]["field"]) == (400, "model")
            continue
        if method == "models.keys.set":  # no provider is configured here
            refused = gateway.rpc_reply(token, method, params)
            assert (refused.status, refused.json["error"]["data"]["field"]) == (400, "provider")
            continue
        result = result_of(gateway, token, method, params)
        document.check(method, params, result)
        token = result.get("token", token)
    assert not (gateway.state_dir / "tenants" / "acme").exists()
    assert gateway.rpc_reply(token, "health", {}).status == 401


def check_kill(gateway: Gateway, token: str, document: Document) -> None:
    """Have something run, which is then ended."""
    run = Run(gateway, token, "sleep", "60")
    (found,) = wait_running(gateway, token, 1)
    params = {"sandboxId": found["sandboxId"]}
    document.check("sandbox.kill", params, result_of(gateway, token, "sandbox.kill", params))
    run.join()
    assert run.result["signal"] == 9


def test_a_tenant_rotates_its_own_token_and_the_old_one_is_cut_off(gateway: Gateway) -> None:
    old, other = gateway.create("acme"), gateway.create("globex")
    # On a connection that is kept: the answer still comes there, the next request is refused.
    with closing(http.client.HTTPConnection(gateway.address)) as kept:
        headers = {"Authorization": f"Bearer {old}", "Content-Type": "application/json"}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tenants.rotate", "params": {}}
        kept.request("POST", "/rpc", json.dumps(call), headers)
        new = json.loads(kept.getresponse().read())["result"]["token"]
    assert gateway.rpc_reply(old, "health", {}).status == 401
    assert gateway.rpc(new, "tenants.get")["tenantId"] == "acme"
    assert gateway.rpc_reply(other, "health", {}).status == 200
    audit = (gateway.state_dir / "audit.jsonl").read_text()
    assert '"actor":"token:tok_' in audit
    assert new not in audit


def test_a_tenant_deletes_itself_and_nobody_else(gateway: Gateway) -> None:
    acme, globex = gateway.create("acme"), gateway.create("globex")
    gateway.inbound(acme, "a secret of acme")
    for params, status in (
        ({}, 400),
        ({"confirm": "acme"}, 400),
        ({"confirm": "acme", "tenantId": "acme"}, 403),
    ):
        assert gateway.rpc_reply(globex, "tenants.delete", params).status == status
    assert gateway.rpc(acme, "tenants.get")["tenantId"] == "acme"
    assert gateway.rpc(acme, "tenants.delete", confirm="acme")["deleted"]
    assert not (gateway.state_dir / "tenants" / "acme").exists()
    assert "openclaw: worker acme" not in gateway.processes()
    assert gateway.rpc_reply(acme, "health", {}).status == 401
    assert gateway.rpc_reply(globex, "health", {}).status == 200


def test_asking_the_supervisor_wakes_no_worker(gateway: Gateway) -> None:
    token = gateway.create("acme")
    gateway.rpc(token, "tenants.get")
    assert "openclaw: worker acme" not in gateway.processes()


def test_configuration_and_search_work_in_the_jail_and_outlive_it(gateway: Gateway) -> None:
    token = gateway.create("acme")
    raw = "skills: {entries: {maps: {apiKey: hunter2}}}"
    gateway.rpc(token, "config.set", raw=raw)
    gateway.rpc(token, "chat.send", sessionKey=SESSION_KEY, message="the zebra crosses")
    assert gateway.openclaw("tenants", "restart", "acme").returncode == 0
    found = gateway.rpc(token, "sessions.search", query="zebra")["results"]
    assert {hit["sessionKey"] for hit in found} == {SESSION_KEY}
    got = gateway.rpc(token, "config.get")
    assert "hunter2" not in str(got)
    assert "hunter2" in (gateway.state_dir / "tenants/acme/config.yaml").read_text()
    assert "hunter2" not in (gateway.state_dir / "gateway.log").read_text()


def test_files_of_sandboxes_work_in_the_jail_and_are_their_tenants_own(gateway: Gateway) -> None:
    acme, globex = gateway.create("acme"), gateway.create("globex")
    gateway.rpc(acme, "sandbox.files.put", path="a/b/c", data="aGk=", encoding="base64")
    work = gateway.state_dir / "tenants/acme/sandbox/main"
    (work / "a/link").symlink_to("/etc/passwd")
    os.mkfifo(work / "a/pipe")
    again = {"path": "a/b/c", "data": "x", "overwrite": False}
    assert gateway.rpc_reply(acme, "sandbox.files.put", again).status == 409
    assert gateway.rpc(acme, "sandbox.files.get", path="/work/a/b/c")["data"] == "hi"
    assert gateway.rpc_reply(acme, "sandbox.files.get", {"path": "a/link"}).status == 400
    assert gateway.rpc_reply(acme, "sandbox.files.get", {"path": "a/pipe"}).status == 409
    listed = gateway.rpc(acme, "sandbox.files.list", path="a")["entries"]
    assert [entry["type"] for entry in listed] == ["directory", "link", "other"]
    # What another tenant has is as if it were nowhere.
    theirs, absent = (
        gateway.rpc_reply(globex, "sandbox.files.get", {"name": name, "path": "a/b/c"}).body
        for name in ("main", "none")
    )
    assert theirs == absent
    done = gateway.rpc(acme, "sandbox.files.delete", path="a", recursive=True)
    assert done == {"deleted": 5, "done": True}
    assert list(work.iterdir()) == []
