"""What a tenant may ask of the supervisor itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from protocol.control.shapes import CreateToken
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import ALL_SCOPES, Scope
from protocol.names import digest
from protocol.quotas import Quota
from protocol.spawn import TenantRequest
from supervisor.config import Config
from supervisor.state import StateRoot
from supervisor.tenant_requests import TenantRequests
from supervisor.tenants import TenantDesk
from tests.supervisor.desk_actions import DeskActions


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


@pytest.fixture
def desk(state_dir: Path) -> Iterator[TenantDesk]:
    state = StateRoot(state_dir / "state")
    state.prepare()
    desk = TenantDesk(state, Config(), now_ms=lambda: 0)
    for tenant in ("acme", "globex"):
        desk.create(
            tenant, actor="test", display_name=tenant.upper(), quota=Quota(tokens_per_day=5)
        )
    yield desk
    desk.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def requests(desk: TenantDesk, clock: Clock) -> TenantRequests:
    return TenantRequests(DeskActions(desk), clock.now)


async def ask(
    requests: TenantRequests, method: str, scopes: int = int(ALL_SCOPES), **params: Any
) -> Any:
    (token,) = await requests._actions.list_tokens("acme")
    request = TenantRequest(
        tenant="acme",
        token_id=token.token_id,
        scopes=scopes,
        method=method,
        params=json.dumps(params).encode(),
    )
    return json.loads(await requests.answer(request))


async def refused(requests: TenantRequests, method: str, **params: Any) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await ask(requests, method, **params)
    return raised.value


async def test_a_tenant_sees_itself(requests: TenantRequests) -> None:
    seen = {
        "tenantId": "acme",
        "displayName": "ACME",
        "createdAt": "1970-01-01T00:00:00.000Z",
        "quota": {"tokensPerDay": 5},
        "scopes": ["read"],
    }
    assert await ask(requests, "tenants.get", int(Scope.READ)) == seen
    assert await ask(requests, "tenants.get", int(Scope.READ), tenantId="acme") == seen


async def test_another_tenant_is_refused_whether_there_is_one_or_not(
    requests: TenantRequests, desk: TenantDesk
) -> None:
    for method in ("tenants.get", "tenants.rotate", "tenants.delete"):
        confirm = {"confirm": "globex"} if method == "tenants.delete" else {}
        errors = [
            await refused(requests, method, tenantId=name, **confirm)
            for name in ("globex", "nobody")
        ]
        assert errors[0].message == errors[1].message
        assert [(error.code, error.details) for error in errors] == [
            (ErrorCode.FORBIDDEN, {"field": "tenantId"})
        ] * 2
    assert len(desk.list()) == 2


async def test_rotation_gives_the_one_good_token_and_is_audited(
    requests: TenantRequests, desk: TenantDesk, state_dir: Path
) -> None:
    (before,) = desk.tokens.list("acme")
    token = (await ask(requests, "tenants.rotate"))["token"]
    assert list(desk.registry.tokens_of("acme")) == [digest(token).hex()]
    text = (state_dir / "state" / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[-1]["action"] == "token.rotated"
    assert lines[-1]["actor"] == f"token:{before.token_id}"


async def test_a_token_rotates_itself_and_no_other(
    requests: TenantRequests, desk: TenantDesk
) -> None:
    (own,) = desk.tokens.list("acme")
    other = desk.tokens.create("acme", CreateToken(name="ci", scopes=("read",)), actor="me")
    request = TenantRequest(
        tenant="acme", token_id=own.token_id, scopes=4, method="tenants.rotate", params=b"{}"
    )
    await requests.answer(request)
    assert {token.name: token.token_id for token in desk.tokens.list("acme")}["ci"] == (
        other.token_id
    )
    with pytest.raises(GatewayError) as raised:  # it is gone
        await requests.answer(request)
    assert raised.value.code is ErrorCode.NOT_FOUND


async def test_rotations_are_bounded_so_that_the_audit_is(
    requests: TenantRequests, clock: Clock
) -> None:
    for _ in range(limits.TOKEN_ROTATIONS_MAX):
        await ask(requests, "tenants.rotate")
    clock.seconds = limits.TOKEN_ROTATIONS_WINDOW_SECONDS - 1
    error = await refused(requests, "tenants.rotate")
    assert (error.code, error.details) == (ErrorCode.RATE_LIMITED, {"retryAfterMs": 1001})
    clock.seconds += 1
    await ask(requests, "tenants.rotate")


async def test_deletion_wants_the_tenants_name(requests: TenantRequests, desk: TenantDesk) -> None:
    assert (await refused(requests, "tenants.delete")).details == {"field": "confirm"}
    assert (await refused(requests, "tenants.delete", confirm="globex")).details == {
        "field": "confirm"
    }
    assert await ask(requests, "tenants.delete", confirm="acme") == {
        "tenantId": "acme",
        "deleted": True,
    }
    assert [row.tenant_id for row in desk.list()] == ["globex"]
    assert (await refused(requests, "tenants.get")).code is ErrorCode.NOT_FOUND


async def test_nothing_else_is_answered(requests: TenantRequests) -> None:
    for method in ("health", "sessions.list", "tenants.create", ""):
        assert (await refused(requests, method)).code is ErrorCode.METHOD_NOT_FOUND
    body = TenantRequest(
        tenant="acme", token_id="tok_1", scopes=7, method="tenants.get", params=b"{1"
    )
    with pytest.raises(GatewayError) as raised:
        await requests.answer(body)
    assert raised.value.code is ErrorCode.PARSE_ERROR
