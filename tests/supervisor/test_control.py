import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.names import digest
from protocol.quotas import Quota
from protocol.spawn import ControlRequest
from supervisor.config import Config
from supervisor.control.plane import ControlPlane
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk
from tests.supervisor.desk_actions import DeskActions

KEY = "ak_the-admin-key"
TENANTS = "/v1/tenants"
ACME = "/v1/tenants/acme"
ROTATE = "/v1/tenants/acme/token/rotate"


@pytest.fixture
def desk(state_dir: Path) -> Iterator[TenantDesk]:
    state = StateRoot(state_dir / "state")
    state.prepare()
    desk = TenantDesk(state, Config(), now_ms=lambda: 0)
    yield desk
    desk.close()


@pytest.fixture
def plane(desk: TenantDesk) -> ControlPlane:
    return ControlPlane(digest(KEY), DeskActions(desk))


async def ask(
    plane: ControlPlane,
    verb: str,
    path: str,
    body: Any = b"",
    *,
    secret: str = KEY,
    query: str = "",
) -> tuple[int, Any]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = ControlRequest(secret=secret, verb=verb, path=path, query=query, body=payload)
    response = await plane.answer(request)
    return response.status, json.loads(bytes(response.body))


async def refusal(plane: ControlPlane, verb: str, path: str, body: Any = b"") -> tuple[int, str]:
    status, answer = await ask(plane, verb, path, body)
    assert {"type", "title", "status", "detail", "code"} <= set(answer)
    assert answer["status"] == status
    return status, answer["code"]


# --- routes


async def test_a_tenants_life(plane: ControlPlane) -> None:
    assert await ask(plane, "GET", TENANTS) == (200, {"tenants": []})
    body = {
        "tenantId": "acme",
        "displayName": "Acme",
        "quota": {"tokensPerDay": 0, "costPerDayMicroUsd": 2**53},
    }
    status, created = await ask(plane, "POST", TENANTS, body)
    token = created.pop("token")
    assert status == 201
    assert created == {
        **body,
        "createdAt": "1970-01-01T00:00:00.000Z",
        "disabled": False,
        "state": "enabled",
        "limits": {},
        "effectiveLimits": created["effectiveLimits"],
        "stateDir": "/tenants/acme",
    }
    assert await ask(plane, "GET", ACME) == (200, created)
    assert await ask(plane, "GET", TENANTS) == (200, {"tenants": [created]})
    status, rotated = await ask(plane, "POST", ROTATE)
    assert (status, rotated["tenantId"]) == (200, "acme")
    assert rotated["token"] != token
    assert await ask(plane, "DELETE", ACME) == (200, {"deleted": True, "tenantId": "acme"})
    for verb, path in (("GET", ACME), ("DELETE", ACME), ("POST", ROTATE)):
        assert await refusal(plane, verb, path) == (404, "NOT_FOUND")


async def test_a_tenant_is_taken_out_of_service_and_back(plane: ControlPlane) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    for _ in range(2):
        status, shown = await ask(plane, "POST", f"{ACME}/suspend")
        assert (status, shown["state"], shown["disabled"]) == (200, "suspended", True)
    for _ in range(2):
        status, shown = await ask(plane, "POST", f"{ACME}/resume")
        assert (status, shown["state"], shown["disabled"]) == (200, "enabled", False)
    status, shown = await ask(plane, "GET", f"{ACME}/status")
    assert (status, shown) == await ask(plane, "GET", "/v1/status")
    assert shown["tenants"][0]["tenantId"] == "acme"
    assert await refusal(plane, "POST", f"{ACME}/restart") == (409, "CONFLICT")
    for what in ("suspend", "resume", "restart"):
        assert await refusal(plane, "POST", f"{TENANTS}/nobody/{what}") == (404, "NOT_FOUND")
    assert await refusal(plane, "GET", f"{TENANTS}/nobody/status") == (404, "NOT_FOUND")


async def test_what_is_not_given_is_not_shown(plane: ControlPlane) -> None:
    status, created = await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    assert status == 201
    assert created["quota"] == {}
    assert "displayName" not in created


async def test_an_id_that_is_taken_is_a_conflict(plane: ControlPlane, desk: TenantDesk) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    tokens = desk.registry.token_digests()
    assert await refusal(plane, "POST", TENANTS, {"tenantId": "acme"}) == (409, "CONFLICT")
    assert desk.registry.token_digests() == tokens


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((TENANTS, {"GET", "POST"}), (ACME, {"GET", "PATCH", "DELETE"}), (ROTATE, {"POST"})),
        *((f"{ACME}/tokens", {"GET", "POST"}), ("/v1/audit", {"GET"})),
        *(("/v1/status", {"GET"}), (f"{ACME}/status", {"GET"}), (f"{ACME}/restart", {"POST"})),
        *((f"{ACME}/suspend", {"POST"}), (f"{ACME}/resume", {"POST"})),
    ],
)
async def test_a_wrong_verb_is_told_the_right_ones(
    plane: ControlPlane, desk: TenantDesk, path: str, allowed: set[str]
) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    before = desk.registry.token_digests()
    for verb in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "get", "", "X" * 16} - allowed:
        status, answer = await ask(plane, verb, path, {"tenantId": "new"})
        assert (status, answer["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert set(answer["allowed"]) == allowed
    assert desk.registry.token_digests() == before


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//", "/v1", "/v1/", "v1/tenants", "/v2/tenants", "/V1/TENANTS", "//v1/tenants"),
        *("/v1//tenants", "/v1/tenants/acme/", "/v1/tenants/acme/token", "/v1/tenants/acme/rotate"),
        *("/v1/tenants/acme/token/rotate/", "/v1/tenants/acme/../acme", "/v1%2Ftenants"),
        *("/v1/tenants%2Facme", "/v1/tenants%00", "/v1/tenants;x", "/v1/ten\0ants", "/" * 2048),
    ],
)
async def test_an_unknown_route_is_not_found(plane: ControlPlane, path: str) -> None:
    for verb in ("GET", "POST", "DELETE"):
        assert await refusal(plane, verb, path, {"tenantId": "acme"}) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "tenant",
    [
        *(
            "",
            ".",
            "..",
            "%2e",
            "%2e%2e",
            "%2E%2e",
            "%252e%252e",
            "..%2f..%2fetc",
            "acme%2F..",
            "%",
        ),
        *("acme%00", "%00", "a%0ab", "a%0d%0ab", "acme%20", "%61cme%2f", "%c0%ae", "%ff"),
        *(
            "ACME",
            "acme%3fx",
            "acme%23",
            "%2e%2e%2fother",
            "%ed%a0%80",
            "a" * 41,
            "acm\u0435",
            "%zz",
        ),
    ],
)
async def test_a_path_is_no_way_out(plane: ControlPlane, desk: TenantDesk, tenant: str) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    before = desk.registry.token_digests()
    for verb, path in (
        ("GET", f"{TENANTS}/{tenant}"),
        ("DELETE", f"{TENANTS}/{tenant}"),
        ("POST", f"{TENANTS}/{tenant}/token/rotate"),
        ("POST", f"{TENANTS}/{tenant}/suspend"),
        ("GET", f"{TENANTS}/{tenant}/status"),
    ):
        status, answer = await ask(plane, verb, path)
        assert status == 400
        assert (answer["code"], answer["field"]) == ("INVALID_REQUEST", "tenantId")
    assert desk.registry.token_digests() == before


async def test_an_encoded_letter_is_that_letter(plane: ControlPlane) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    status, shown = await ask(plane, "GET", "/v1/%74enants/%61cm%65")
    assert (status, shown["tenantId"]) == (200, "acme")


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        *((ACME, "limit=1", "query"), (TENANTS, "limit=1&limit=2", "query")),
        *((TENANTS, f"limit={limit}", "limit") for limit in ("0", "1001", "x")),
        *((TENANTS, "page=2", "page"), (TENANTS, "cursor=../x", "cursor")),
        *(("/v1/audit", "cursor=-1", "cursor"), ("/v1/audit", "since=yesterday", "since")),
    ],
)
async def test_a_query_that_does_not_fit_is_refused(
    plane: ControlPlane, path: str, query: str, field: str
) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    status, answer = await ask(plane, "GET", path, query=query)
    assert (status, answer["code"], answer["field"]) == (400, "INVALID_REQUEST", field)


# --- bodies


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "tenantId: required, but missing"),
        ({"tenantId": None}, "tenantId: "),
        ({"tenantId": 1}, "tenantId: "),
        ({"tenantId": ["acme"]}, "tenantId: "),
        ({"tenantId": "../acme"}, "tenantId"),
        ({"tenantId": "acme\0"}, "tenantId"),
        ({"tenantId": "a" * 100_000}, "tenantId"),
        ({"tenant_id": "acme"}, "tenant_id"),
        ({"tenantId": "acme", "token": "mine"}, "token: unknown field"),
        ({"tenantId": "acme", "displayName": 1}, "displayName: "),
        ({"tenantId": "acme", "displayName": "x" * 501}, "displayName"),
        ({"tenantId": "acme", "displayName": "a\nb"}, "displayName"),
        ({"tenantId": "acme", "quota": None}, "quota"),
        ({"tenantId": "acme", "quota": {"tokens": 1}}, "quota.tokens: unknown field"),
        ({"tenantId": "acme", "quota": {"tokensPerDay": -1}}, "quota.tokensPerDay"),
        ({"tenantId": "acme", "quota": {"tokensPerDay": 2**53 + 1}}, "quota.tokensPerDay"),
        ({"tenantId": "acme", "quota": {"tokensPerDay": 10**400}}, "quota.tokensPerDay"),
        ({"tenantId": "acme", "quota": {"tokensPerDay": 1.5}}, "quota.tokensPerDay"),
        ({"tenantId": "acme", "quota": {"tokensPerDay": "1"}}, "quota.tokensPerDay"),
        ({"tenantId": "acme", "quota": {"tokensPerDay": True}}, "quota.tokensPerDay"),
        ({"tenantId": "acme", "quota": {"costPerDayMicroUsd": -1}}, "quota.costPerDayMicroUsd"),
        ([], "array"),
        ("acme", "str"),
        (None, "null"),
    ],
)
async def test_a_body_that_does_not_fit_is_told_where(
    plane: ControlPlane, desk: TenantDesk, body: Any, said: str
) -> None:
    status, answer = await ask(plane, "POST", TENANTS, body)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
    assert said in answer["detail"]
    assert len(answer["detail"]) < 300
    assert desk.list() == []


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"tenantId=acme", b"\xff", b'{"tenantId":"\xff"}', b"NaN", b"{'a':1}"),
        *(b'{"tenantId":"acme"}x', b'{"tenantId":"\\ud800"}'),
        *(b'\xef\xbb\xbf{"tenantId":"acme"}', '{"tenantId":"acme"}'.encode("utf-16")),
    ],
    ids=lambda body: ascii(body)[:24],
)
async def test_a_body_that_is_no_json_is_a_parse_error(
    plane: ControlPlane, desk: TenantDesk, body: bytes
) -> None:
    assert await refusal(plane, "POST", TENANTS, body) == (400, "PARSE_ERROR")
    assert desk.list() == []


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"a":' * 10_000, b'{"quota":' * 7_000])
async def test_a_body_nested_deeply_is_refused(
    plane: ControlPlane, desk: TenantDesk, body: bytes
) -> None:
    # Which of its two faults is found first is the decoder's.
    status, code = await refusal(plane, "POST", TENANTS, body)
    assert (status, code in {"PARSE_ERROR", "INVALID_REQUEST"}) == (400, True)
    assert desk.list() == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)


# One desk for all examples: what one has created only makes the next more interesting.
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    path=st.just(TENANTS) | st.text(max_size=30).map(lambda text: f"{TENANTS}/{text}"),
    body=st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()),
)
async def test_nothing_raises(plane: ControlPlane, verb: str, path: str, body: bytes) -> None:
    status, answer = await ask(plane, verb, path, body)
    assert status in (200, 201, 400, 404, 405, 409)
    assert (status >= 400) == ("code" in answer)


# --- the admin key


@pytest.mark.parametrize(
    "secret",
    [
        *("", " ", KEY[:-1], KEY + "x", KEY.upper(), KEY + "\n", " " + KEY, "x" * 100_000),
        *("ä🦀", "\0", digest(KEY).hex()),
    ],
    ids=lambda secret: ascii(secret)[:20],
)
async def test_without_the_admin_key_every_answer_is_the_same(
    plane: ControlPlane, desk: TenantDesk, secret: str
) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    before = desk.registry.token_digests()
    answers = [
        await ask(plane, verb, path, body, secret=secret, query=query)
        for verb in ("GET", "POST", "DELETE", "PUT")
        for path in (TENANTS, ACME, ROTATE, f"{ACME}/suspend", f"{TENANTS}/%2e%2e", "/nowhere")
        for body in (b"", {"tenantId": "new"}, b"{")
        for query in ("", "a=b")
    ]
    assert {json.dumps(answer) for answer in answers} == {json.dumps(answers[0])}
    status, answer = answers[0]
    assert (status, answer["code"]) == (401, "UNAUTHORIZED")
    assert desk.registry.token_digests() == before


async def test_a_tenants_token_is_no_admin_key(plane: ControlPlane, desk: TenantDesk) -> None:
    _, created = await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    wrong = await ask(plane, "GET", ACME, secret="wrong")
    assert await ask(plane, "GET", ACME, secret=created["token"]) == wrong
    assert wrong[0] == 401
    (digest_hex,) = desk.registry.tokens_of("acme")
    assert await ask(plane, "GET", ACME, secret=digest_hex) == wrong


async def test_what_the_control_plane_does_is_audited_as_the_admins(
    plane: ControlPlane, desk: TenantDesk, state_dir: Path
) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    await ask(plane, "POST", ROTATE)
    await ask(plane, "DELETE", ACME)
    text = (state_dir / "state" / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["actor"], line["action"], line["tenant"]) for line in lines] == [
        ("admin", "tenant.created", "acme"),
        ("admin", "token.rotated", "acme"),
        ("admin", "tenant.deleting", "acme"),
        ("admin", "tenant.deleted", "acme"),
    ]


# --- changes


async def test_what_a_change_names_changes_and_nothing_else(
    plane: ControlPlane, desk: TenantDesk, state_dir: Path
) -> None:
    body = {"tenantId": "acme", "displayName": "Acme", "quota": {"tokensPerDay": 5}}
    await ask(plane, "POST", TENANTS, body)
    steps: list[tuple[Any, str | None, Any]] = [
        ({}, "Acme", {"tokensPerDay": 5}),
        (
            {"quota": {"costPerDayMicroUsd": 7}},
            "Acme",
            {"tokensPerDay": 5, "costPerDayMicroUsd": 7},
        ),
        ({"displayName": None}, None, {"tokensPerDay": 5, "costPerDayMicroUsd": 7}),
        ({"displayName": "Ä", "quota": {"tokensPerDay": None}}, "Ä", {"costPerDayMicroUsd": 7}),
        ({"quota": {"costPerDayMicroUsd": 0.0}}, "Ä", {"costPerDayMicroUsd": 0}),
    ]
    for change, name, quota in steps:
        status, shown = await ask(plane, "PATCH", ACME, change)
        assert (status, shown.get("displayName"), shown["quota"]) == (200, name, quota)
        assert await ask(plane, "GET", ACME) == (200, shown)
    updates = [line for line in audit_of(state_dir) if line["action"] == "tenant.updated"]
    assert len(updates) == len(steps) - 1, "one changed nothing"
    assert updates[1]["detail"]["before"]["displayName"] == "Acme"
    assert updates[1]["detail"]["after"]["displayName"] is None
    for bad in ({"tenantId": "x"}, {"quota": None}, {"state": "suspended"}, {"displayName": "\n"}):
        assert await refusal(plane, "PATCH", ACME, bad) == (400, "INVALID_REQUEST")
    assert await refusal(plane, "PATCH", f"{TENANTS}/nobody", {}) == (404, "NOT_FOUND")
    assert desk.get("acme").quota == Quota(cost_per_day_micro_usd=0)


async def test_limits_are_the_gateways_until_a_change_names_them(plane: ControlPlane) -> None:
    own = {"memoryBytes": 2**27, "diskBytes": "unlimited"}
    _, created = await ask(plane, "POST", TENANTS, {"tenantId": "acme", "limits": own})
    assert created["limits"] == own
    default = Config().caps
    assert created["effectiveLimits"] == {
        "memoryBytes": 2**27,
        "cpus": "unlimited",
        "pids": default.pids,
        "diskBytes": "unlimited",
        "diskInodes": default.disk_inodes,
    }
    _, shown = await ask(plane, "PATCH", ACME, {"limits": {"cpus": 2, "memoryBytes": None}})
    assert shown["limits"] == {"cpus": 2.0, "diskBytes": "unlimited"}
    assert shown["effectiveLimits"]["memoryBytes"] == default.memory_bytes
    assert await ask(plane, "GET", ACME) == (200, shown)


@pytest.mark.parametrize(
    ("limits", "field", "reason"),
    [
        ({"memoryBytes": 2**20}, "limits.memoryBytes", "expected int >= 67108864"),
        ({"memoryBytes": "512M"}, "limits.memoryBytes", "matching regex '^unlimited$'"),
        ({"cpus": 0.001}, "limits.cpus", "expected float >= 0.01"),
        ({"pids": 15}, "limits.pids", "expected int >= 16"),
        ({"pids": 20.5}, "limits.pids", "expected int | str | null"),
        ({"diskBytes": 2**60}, "limits.diskBytes", "expected int <= 9007199254740992"),
        ({"diskInodes": -1}, "limits.diskInodes", "expected int >= 100"),
        ({"memory": 2**30}, "limits.memory", "unknown field"),
        (None, "limits", "expected object, got null"),
    ],
)
async def test_an_absurd_limit_is_named(
    plane: ControlPlane, limits: Any, field: str, reason: str
) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    for verb, path, body in (
        ("PATCH", ACME, {"limits": limits}),
        ("POST", TENANTS, {"tenantId": "globex", "limits": limits}),
    ):
        status, problem = await ask(plane, verb, path, body)
        assert (status, problem["code"], problem["field"]) == (400, "INVALID_REQUEST", field)
        assert reason in problem["detail"]
    _, shown = await ask(plane, "GET", ACME)
    assert shown["limits"] == {}


def audit_of(state_dir: Path) -> list[Any]:
    text = (state_dir / "state" / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# --- pages


async def test_pages_hold_every_tenant_once(plane: ControlPlane) -> None:
    names = [f"t{number:02}" for number in range(7)]
    for name in reversed(names):
        await ask(plane, "POST", TENANTS, {"tenantId": name})
    for path in (TENANTS, "/v1/status"):
        for limit in (1, 3, 7, 1000):
            found, query = [], f"limit={limit}"
            while query:
                _, page = await ask(plane, "GET", path, query=query)
                assert 0 < len(page["tenants"]) <= limit
                found += [row["tenantId"] for row in page["tenants"]]
                cursor = page.get("nextCursor")
                query = f"limit={limit}&cursor={cursor}" if cursor else ""
            assert found == names


# --- tokens

TOKENS = f"{ACME}/tokens"


async def test_a_tenants_tokens(plane: ControlPlane, desk: TenantDesk) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    wanted = {"name": "ci", "scopes": ["read", "read"], "expiresInSeconds": 60}
    status, created = await ask(plane, "POST", TOKENS, wanted)
    token = created.pop("token")
    assert status == 201
    assert created == {
        "tokenId": created["tokenId"],
        "tenantId": "acme",
        "name": "ci",
        "scopes": ["read"],
        "createdAt": "1970-01-01T00:00:00.000Z",
        "expiresAt": "1970-01-01T00:01:00.000Z",
    }
    grant = desk.registry.tokens_of("acme")[digest(token).hex()]
    assert (grant.id, grant.scopes, grant.expires_at) == (created["tokenId"], 1, 60_000)
    one = f"{TOKENS}/{created['tokenId']}"
    assert await ask(plane, "GET", one) == (200, created)
    _, listed = await ask(plane, "GET", TOKENS)
    assert [row["name"] for row in listed["tokens"]] == ["default", "ci"] or [
        row["name"] for row in listed["tokens"]
    ] == ["ci", "default"], "both were made at the same time"
    assert token not in json.dumps(listed)
    assert await refusal(plane, "POST", TOKENS, wanted) == (409, "CONFLICT")
    status, gone = await ask(plane, "DELETE", one)
    assert (status, gone["revoked"]) == (200, True)
    for verb in ("GET", "DELETE"):
        assert await refusal(plane, verb, one) == (404, "NOT_FOUND")
        assert await refusal(plane, verb, f"{TOKENS}/tok_x") == (400, "INVALID_REQUEST")
    assert digest(token).hex() not in desk.registry.tokens_of("acme")


async def test_a_token_of_another_tenant_is_not_there(plane: ControlPlane) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    await ask(plane, "POST", TENANTS, {"tenantId": "globex"})
    _, listed = await ask(plane, "GET", f"{TENANTS}/globex/tokens")
    foreign = listed["tokens"][0]["tokenId"]
    for verb, path in (("GET", f"{TOKENS}/{foreign}"), ("DELETE", f"{TOKENS}/{foreign}")):
        assert await refusal(plane, verb, path) == (404, "NOT_FOUND")
    assert await refusal(plane, "POST", ROTATE, {"tokenId": foreign}) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "ci"}, "scopes"),
        ({"name": "ci", "scopes": []}, "scopes"),
        ({"name": "ci", "scopes": ["root"]}, "root"),
        ({"name": "ci", "scopes": ["read"] * 9}, "scopes"),
        ({"name": "CI", "scopes": ["read"]}, "name"),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "ci\n", "scopes": ["read"]}, "name"),
        ({"name": "ci", "scopes": ["read"], "expiresInSeconds": 0}, "expiresInSeconds"),
        ({"name": "ci", "scopes": ["read"], "expiresInSeconds": 10**12}, "expiresInSeconds"),
        ({"name": "ci", "scopes": ["read"], "token": "mine"}, "token"),
    ],
)
async def test_a_token_that_does_not_fit_is_refused(
    plane: ControlPlane, desk: TenantDesk, body: Any, said: str
) -> None:
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    status, answer = await ask(plane, "POST", TOKENS, body)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
    assert said in answer["detail"]
    assert len(desk.tokens.list("acme")) == 1


# --- requests that are repeated


async def repeat(
    plane: ControlPlane, key: str, verb: str, path: str, body: Any = b""
) -> tuple[int, Any]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = ControlRequest(
        secret=KEY, verb=verb, path=path, query="", body=payload, idempotency_key=key
    )
    response = await plane.answer(request)
    return response.status, json.loads(bytes(response.body))


async def test_a_repeat_gets_the_first_answer(plane: ControlPlane, state_dir: Path) -> None:
    first = await repeat(plane, "k1", "POST", TENANTS, {"tenantId": "acme"})
    assert first[0] == 201
    assert await repeat(plane, "k1", "POST", TENANTS, {"tenantId": "acme"}) == first
    rotated = await repeat(plane, "k2", "POST", ROTATE)
    assert await repeat(plane, "k2", "POST", ROTATE) == rotated
    deleted = await repeat(plane, "k3", "DELETE", ACME)
    assert await repeat(plane, "k3", "DELETE", ACME) == deleted
    refused = await repeat(plane, "k4", "PATCH", ACME, {})
    await ask(plane, "POST", TENANTS, {"tenantId": "acme"})
    assert await repeat(plane, "k4", "PATCH", ACME, {}) == refused
    assert refused[0] == 404
    actions = [line["action"] for line in audit_of(state_dir)]
    assert actions.count("tenant.created") == 2
    assert actions.count("token.rotated") == 1
    text = "".join(
        path.read_text(errors="replace")
        for path in (state_dir / "state").rglob("*")
        if path.is_file()
    )
    assert first[1]["token"] not in text


async def test_a_key_is_one_requests_alone(plane: ControlPlane, desk: TenantDesk) -> None:
    await repeat(plane, "k", "POST", TENANTS, {"tenantId": "acme"})
    others: list[tuple[str, str, Any]] = [
        ("POST", TENANTS, {"tenantId": "globex"}),
        ("POST", ROTATE, b""),
        ("DELETE", ACME, b""),
    ]
    for verb, path, body in others:
        status, answer = await repeat(plane, "k", verb, path, body)
        assert (status, answer["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert [row.tenant_id for row in desk.list()] == ["acme"]
    # Reading has no key, and who has no admin key has no replays.
    assert (await repeat(plane, "k", "GET", ACME))[0] == 200
    stranger = ControlRequest(
        secret="x", verb="POST", path=TENANTS, query="", body=b"", idempotency_key="k"
    )
    assert (await plane.answer(stranger)).status == 401


# --- the audit


async def test_the_audit_is_read_in_pages(plane: ControlPlane) -> None:
    for name in ("acme", "globex"):
        await ask(plane, "POST", TENANTS, {"tenantId": name})
    await ask(plane, "POST", ROTATE)
    _, whole = await ask(plane, "GET", "/v1/audit")
    assert [(line["seq"], line["tenant"]) for line in whole["entries"]] == [
        (1, "acme"),
        (2, "globex"),
        (3, "acme"),
    ]
    assert "nextCursor" not in whole
    _, page = await ask(plane, "GET", "/v1/audit", query="limit=1&tenant=acme&cursor=1")
    assert page == {"entries": [whole["entries"][2]], "nextCursor": "3"}
    assert await ask(plane, "GET", "/v1/audit", query="cursor=3") == (200, {"entries": []})
    assert await ask(plane, "GET", "/v1/audit", query="since=1") == (200, {"entries": []})


async def test_what_looks_like_a_secret_is_not_said_again(
    plane: ControlPlane, state_dir: Path
) -> None:
    secrets = ("tk_acme_" + "ab" * 16, "ak_" + "cd" * 32)
    for secret in secrets:
        for body in (
            {secret: 1},
            {"tenantId": "acme", "displayName": secret},
            {"tenantId": secret},
        ):
            status, answer = await ask(plane, "POST", TENANTS, body)
            assert status == 400
            assert secret not in json.dumps(answer)
        status, answer = await ask(plane, "GET", f"{ACME}/tokens/{secret}")
        assert secret not in json.dumps(answer)
        assert secret not in json.dumps(await ask(plane, "GET", TENANTS, query=f"{secret}=1"))
    assert not [secret for secret in secrets if secret in json.dumps(audit_of(state_dir))]
