"""Secrets go in everywhere and come out nowhere: a canary in every input, and every output read.

What a tenant gives to be kept, such as a message, a label or a name, comes back to that tenant, and
lies in its own directory; it is nobody else's, and in no log. What nobody should have sent there,
such as a token in a header that is not for tokens, comes back to nobody.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from protocol import limits
from protocol.methods import METHODS
from tests.attack.harness import holds
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import OPENCLAW, Gateway, Reply
from tests.methods import ALL, example
from tests.upstream.fake import FakeUpstream

OURS, THEIRS = "acme", "globex"
SECONDS = 20.0
A_KEY = "a provider's key"
# Providers that repeat the key they were sent in what they say of an error.
MODELS = {
    f"{provider}/{fault}": {"provider": provider, "upstream_model": f"fake/fault:{fault}"}
    for provider in ("written", "named")
    for fault in ("key", "key-400")
}
HEADERS = (
    "Cookie",
    "X-Api-Key",
    "X-Forwarded-For",
    "X-Request-Id",
    "Origin",
    "User-Agent",
    "Referer",
    "Proxy-Authorization",
    "Idempotency-Key",
    "Accept",
    "Content-Encoding",
    "Expect",
)


class Canaries:
    """Makes canaries, each with its place in it, and remembers them."""

    def __init__(self) -> None:
        self.all: dict[str, str] = {}

    def new(self, place: str) -> str:
        canary = f"5ec4e7{len(self.all):04x}{'c0ffee' * 3}ca5e"
        self.all[canary] = place
        return canary

    def token(self, place: str, tenant: str = OURS) -> str:
        """One that looks like a tenant's token."""
        return f"tk_{tenant}_{self.new(place)}"

    def found(self, text: bytes) -> list[str]:
        """Give the places of those that are in a text."""
        return [place for canary, place in self.all.items() if canary.encode() in text]


class Aviary:
    """A gateway with two tenants, into which every canary has been sent."""

    def __init__(self, gateway: Gateway, canaries: Canaries) -> None:
        self.gateway = gateway
        self.canaries = canaries
        self.tokens = {tenant: gateway.create(tenant) for tenant in (OURS, THEIRS)}
        before = self.tokens[OURS]
        self.tokens[OURS] = gateway.openclaw_json("tenants", "token", "rotate", OURS)["token"]
        for secret in (before, *self.tokens.values()):
            canaries.all[secret[-32:]] = "a token"
        self.admin_key = gateway.env["OPENCLAW_ADMIN_KEY"]
        self.answers: list[tuple[str, Reply]] = []

    def sent(self, place: str, reply: Reply) -> None:
        self.answers.append((place, reply))

    def send_everything(self) -> None:
        self._headers()
        self._targets()
        self._bodies()
        self._methods()
        self._control()
        self._sockets()
        self._models()

    def _headers(self) -> None:
        token = self.tokens[OURS]
        call = {"jsonrpc": "2.0", "id": 1, "method": "health"}
        for name in HEADERS:
            value = self.canaries.token(f"header:{name}")
            self.sent(name, self.gateway.post("/rpc", token, call, **{name: value}))
        for name in ("Host", "Authorization"):
            value = self.canaries.token(f"header:{name}")
            self.sent(name, self.gateway.post("/rpc", None, call, **{name: value}))
        for tenant in (OURS, "nobody"):
            guess = self.canaries.token(f"guess:{tenant}", tenant)
            self.sent("guess", self.gateway.post("/rpc", guess, call))
            self.sent("guess", self.gateway.request("GET", "/v1/tenants", token=guess))

    def _targets(self) -> None:
        for token in (None, self.tokens[OURS], self.admin_key):
            for template in ("/{}", "/rpc?token={}", "/v1/tenants/{}", "/channels/webhook/{}"):
                for verb in ("GET", "POST", "DELETE"):
                    place = f"target:{template} {verb}"
                    canaries = (self.canaries.token(place), f"ak_{self.canaries.new(place)}")
                    for target in map(template.format, canaries):
                        body = b"{}" if verb == "POST" else None
                        self.sent(place, self.gateway.request(verb, target, token=token, body=body))

    def _bodies(self) -> None:
        token = self.tokens[OURS]
        for path in ("/rpc", "/channels/webhook/default"):
            for number, shape in enumerate(("{}", '{{"{}":1}}', '["{}"]', '{{"a":"{}', '"{}')):
                place = f"body:{path} {number}"
                text = shape.format(self.canaries.token(place))
                self.sent(
                    place, self.gateway.request("POST", path, token=token, body=text.encode())
                )
        unread = self.canaries.token("body:no JSON")
        headers = {"Content-Type": "text/plain"}
        reply = self.gateway.request("POST", "/rpc", body=unread.encode(), headers=headers)
        self.sent("no JSON", reply)

    def _methods(self) -> None:
        """Each method with a canary in each of its parameters, and as one it does not have."""
        token = self.tokens[OURS]
        for name in sorted(set(ALL) - {"tenants.rotate", "tenants.delete"}):
            good = example(METHODS[name])
            place = f"params:{name}"
            params = {**good, self.canaries.token(place): 1}
            self.sent(place, self.gateway.rpc_reply(token, name, params))
            for member, value in good.items():
                canary = self.canaries.new(f"{place} {member}")
                if isinstance(value, str):
                    bad = f"agent:main:{canary}" if value.startswith("agent:") else canary
                    params = {**good, member: bad}
                    self.sent(place, self.gateway.rpc_reply(token, name, params))
                params = {**good, member: {canary: [canary]}}
                self.sent(place, self.gateway.rpc_reply(token, name, params))
        wrong = self.canaries.token("params:method")[: limits.METHOD_NAME_CHARS_MAX]
        self.sent("method", self.gateway.rpc_reply(token, wrong, {}))
        secret = self.canaries.new("overlay:")
        overlay = json.dumps({"channels": {"webhook": {"secret": secret}}})
        self.sent("overlay", self.gateway.rpc_reply(token, "config.set", {"raw": overlay}))
        text = self.canaries.new("kept:message")
        self.sent("kept", self.gateway.inbound(token, text, user=self.canaries.new("kept:user")))

    def _models(self) -> None:
        """What a provider says of its key; and canaries where a model is asked."""
        token = self.tokens[OURS]
        for model in MODELS:
            asked = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            reply = self.gateway.post("/v1/chat/completions", token, asked)
            assert reply.status >= 400, reply
            self.sent(model, reply)
            self.gateway.rpc(token, "config.set", raw=json.dumps({"agent": {"model": model}}))
            reply = self.gateway.inbound(token, "hello", user=model)
            assert reply.json["status"] == "error", reply
            self.sent(model, Reply(400, reply.headers, reply.body))
        for path in ("chat/completions", "responses", "embeddings"):
            for shape in ('{{"model": "{}"}}', '{{"{}": 1}}', '{{"model": "x", "messages": "{}"}}'):
                place = f"body:/v1/{path}"
                body = shape.format(self.canaries.token(place)).encode()
                reply = self.gateway.request("POST", f"/v1/{path}", token=token, body=body)
                self.sent(place, reply)

    def _control(self) -> None:
        """What an operator may send by mistake: a secret in place of a name."""
        for shape in (
            ("POST", "/v1/tenants", {"tenantId": "{}"}),
            ("POST", "/v1/tenants", {"{}": 1}),
            ("POST", "/v1/tenants", {"tenantId": "x", "displayName": "my {}"}),
            ("PATCH", "/v1/tenants/acme", {"displayName": "{}"}),
            ("PATCH", "/v1/tenants/acme", {"quota": {"{}": 1}}),
            ("POST", "/v1/tenants/acme/tokens", {"name": "{}", "scopes": ["read"]}),
            ("POST", "/v1/tenants/acme/tokens", {"name": "x", "scopes": ["{}"]}),
            ("POST", "/v1/tenants/acme/token/rotate", {"tokenId": "{}"}),
            ("GET", "/v1/tenants/{}", None),
            ("DELETE", "/v1/tenants/acme/tokens/{}", None),
            ("GET", "/v1/audit?tenant={}", None),
            ("GET", "/v1/tenants?{}=1", None),
        ):
            verb, path, body = shape
            place = f"control:{verb} {path} {body}"
            for canary in (
                self.canaries.token(place),
                self.canaries.token(place, "nobody"),
                f"ak_{self.canaries.new(place)}",
            ):
                data = None if body is None else json.dumps(body).replace("{}", canary).encode()
                reply = self.gateway.request(
                    verb, path.replace("{}", canary), token=self.admin_key, body=data
                )
                assert reply.status in (400, 401, 404), (place, reply)
                self.sent(place, reply)

    def _sockets(self) -> None:
        token = self.tokens[OURS]
        address = f"ws://{self.gateway.address}/ws"
        for protocols in (
            ["openclaw.v1", f"bearer.{self.canaries.token('socket:bearer')}"],
            [self.canaries.token("socket:protocol"), f"bearer.{token}"],
        ):
            offered = [Subprotocol(protocol) for protocol in protocols]
            with pytest.raises(InvalidStatus) as refused, connect(address, subprotocols=offered):
                pass
            response = refused.value.response
            reply = Reply(
                response.status_code, dict(response.headers.raw_items()), bytes(response.body)
            )
            self.sent("socket", reply)
        offered = [Subprotocol("openclaw.v1"), Subprotocol(f"bearer.{token}")]
        for frame in (
            self.canaries.token("socket:frame"),
            json.dumps({self.canaries.token("socket:member"): 1}),
            self.canaries.token("socket:binary").encode(),
        ):
            with connect(address, subprotocols=offered, compression=None) as client:
                client.send(frame)
                try:
                    said = str(client.recv(SECONDS))
                except ConnectionClosed as closed:
                    said = str(closed)
                self.sent("socket", Reply(400, {}, said.encode()))


@pytest.fixture(scope="module")
def aviary() -> Iterator[Aviary]:
    state_dir = make_state_dir()
    canaries = Canaries()
    alert = canaries.new("config:alerts.command")
    environment = {
        "OPENCLAW_ADMIN_KEY": f"ak_{canaries.new('environment:OPENCLAW_ADMIN_KEY')}",
        "SOME_PROVIDER_KEY": canaries.new(f"{A_KEY} in the environment"),
    }
    command = ("/usr/bin/env", *(f"{k}={v}" for k, v in environment.items()), OPENCLAW, "gateway")
    try:
        with FakeUpstream() as upstream, ExitStack() as stack:
            provider = {"type": "openai", "base_url": upstream.base_url}
            config = {
                "gateway": {"port": 0},
                "alerts": {"command": ["/bin/true", alert]},
                "providers": {
                    "written": {**provider, "api_key": canaries.new(f"{A_KEY} in config.yaml")},
                    "named": {**provider, "api_key": "${SOME_PROVIDER_KEY}"},
                },
                "models": MODELS,
                "billing": {"unpriced": "allow"},
                "egress": {"allow_hosts": [upstream.host_port]},
            }
            (state_dir / "config.yaml").write_text(json.dumps(config))
            gateway = stack.enter_context(Gateway(state_dir, command=command))
            gateway.env |= environment
            built = Aviary(gateway, canaries)
            built.send_everything()
            yield built
    finally:
        remove_tree(state_dir)


def test_none_comes_back_in_a_refusal(aviary: Aviary) -> None:
    """But for the names a caller gave itself, which no secret can be taken for."""
    secrets = [canary for canary, place in aviary.canaries.all.items() if "params" not in place]
    for place, reply in aviary.answers:
        if reply.status >= 400:
            said = reply.body + json.dumps(reply.headers).encode()
            found = [aviary.canaries.all[secret] for secret in secrets if secret.encode() in said]
            assert not found, (place, reply)
            assert not re.search(rb"tk_\w+_5ec4e7", said), (place, reply)


def _processes(gateway: Gateway) -> list[psutil.Process]:
    top = psutil.Process(gateway.pid)
    return [top, *top.children(recursive=True)]


def test_none_is_in_what_a_process_shows(aviary: Aviary) -> None:
    for process in _processes(aviary.gateway):
        shown = " ".join(process.cmdline()).encode()
        assert aviary.canaries.found(shown) == []
        if process.pid != aviary.gateway.pid:  # who was given the environment has it
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            except PermissionError:
                continue  # closed to its owner too
            assert aviary.canaries.found(environment) == []


@pytest.mark.root  # nobody else may look at what is not dumpable
def test_a_providers_key_is_in_no_memory_but_egresss(aviary: Aviary) -> None:
    keys = [key for key, place in aviary.canaries.all.items() if place.startswith(A_KEY)]
    assert len(keys) == 2
    processes = aviary.gateway.processes()
    egress = processes.pop("openclaw: egress").pid
    assert all(holds(egress, key.encode()) for key in keys), "they would be found"
    assert f"openclaw: worker {OURS}" in processes
    for title, process in processes.items():
        assert not any(holds(process.pid, key.encode()) for key in keys), title


def test_none_is_in_the_log_the_audit_or_what_is_left_on_disk(aviary: Aviary) -> None:
    gateway = aviary.gateway
    for path in gateway.state_dir.rglob("*"):
        if not path.is_file() or path.name == "admin.key" or path.parent == gateway.state_dir:
            if path.name in ("gateway.log", "audit.jsonl", "registry.sqlite"):
                assert aviary.canaries.found(path.read_bytes()) == [], path
            continue
        parts = path.relative_to(gateway.state_dir).parts
        if parts[0] == "ledger":  # it keeps which session a call was for, by the tenant's name
            found = aviary.canaries.found(path.read_bytes())
            assert all(re.match("params:.* |kept:user", place) for place in found), (path, found)
        elif parts[:2] != ("tenants", OURS):
            assert aviary.canaries.found(path.read_bytes()) == [], path
        assert not path.name.startswith("core"), path
    log = (gateway.state_dir / "gateway.log").read_text()
    assert re.search(r"tk_acme_(?!\w)", log), "the prefix is there to be found by"
    kept = b"".join(
        path.read_bytes()
        for path in (gateway.state_dir / "tenants" / OURS).rglob("*")
        if path.is_file()
    )
    assert "kept:message" in aviary.canaries.found(kept), "one would be found if it were there"


def test_none_is_told_to_another_tenant_or_on_a_public_page(aviary: Aviary) -> None:
    gateway, token = aviary.gateway, aviary.tokens[THEIRS]
    said = b""
    for name in sorted(set(ALL) - {"tenants.rotate", "tenants.delete"}):
        said += gateway.rpc_reply(token, name, example(METHODS[name])).body
    for path in ("/healthz", "/readyz", "/openapi.json", "/openrpc.json", "/metrics"):
        said += gateway.request("GET", path).body
    assert aviary.canaries.found(said) == []


def test_an_operator_sees_none(aviary: Aviary) -> None:
    """In status, lists and audit: names that were taken are names, and no secret was."""
    said = b""
    for path in ("/v1/tenants", "/v1/status", "/v1/audit", "/v1/tenants/acme/tokens"):
        said += aviary.gateway.request("GET", path, token=aviary.admin_key).body
    assert aviary.canaries.found(said) == []
