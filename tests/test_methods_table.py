"""Every method with every scope and with another tenant's ids, made from the declarations.

Each method is asked of what answers it in the gateway: a worker behind a link, or the supervisor's
handlers over a real registry.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import ALL_SCOPES, METHODS, Scope, answered_by
from protocol.quotas import Quota
from protocol.spawn import TenantRequest
from supervisor.config import Config
from supervisor.state import StateRoot
from supervisor.tenant_requests import TenantRequests
from supervisor.tenants import TenantDesk
from tests.methods import ALL, OF_TENANTS, example, ids_of
from tests.supervisor.desk_actions import DeskActions
from tests.worker.harness import Front, running_worker
from tests.worker.launcher import RUNS, LauncherEnd
from tests.worker.real_egress import running_egress

TENANTS = ("acme", "globex")


class Tenant(Protocol):
    """One tenant of a gateway, as the front sees it."""

    async def ask(self, method: str, params: object, scopes: int) -> Any:
        """Give the result, or raise the refusal."""


class Both:
    """A worker of the tenant, and the supervisor."""

    def __init__(self, tenant: str, front: Front, supervisor: TenantRequests) -> None:
        self._tenant = tenant
        self._front = front
        self._supervisor = supervisor

    async def ask(self, method: str, params: object, scopes: int = int(ALL_SCOPES)) -> Any:
        if METHODS[method].answered_by == "worker":
            return await self._front.call(method, params, scopes=scopes)
        (token,) = await self._supervisor._actions.list_tokens(self._tenant)
        request = TenantRequest(
            tenant=self._tenant,
            token_id=token.token_id,
            scopes=scopes,
            method=method,
            params=msgspec.json.encode(params),
        )
        return msgspec.json.decode(await self._supervisor.answer(request))


@pytest.fixture
def supervisor(state_dir: Path) -> Iterator[TenantRequests]:
    state = StateRoot(state_dir / "state")
    state.prepare()
    desk = TenantDesk(state, Config(), now_ms=lambda: 0)
    for tenant in TENANTS:
        desk.create(tenant, actor="test", quota=Quota())
    yield TenantRequests(DeskActions(desk), lambda: 0.0)
    desk.close()


@asynccontextmanager
async def tenant(
    name: str, root: Path, supervisor: TenantRequests, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Both]:
    """One tenant, working in a directory of its own."""
    directory = root / name
    directory.mkdir(mode=0o700)
    monkeypatch.chdir(directory)
    ledger = root / f"{name}.ledger"
    ledger.mkdir(mode=0o700)
    async with running_egress(ledger) as egress, running_worker(tenant=name) as rig:
        egress.meet(rig.links.channel, name)
        launcher = LauncherEnd()
        if name != "acme":
            launcher.runs = ()
        await launcher.meet(rig.links.channel)
        yield Both(name, rig.front, supervisor)


@pytest.mark.parametrize("method", OF_TENANTS)
async def test_every_method_needs_its_scope_and_no_other(
    method: str, state_dir: Path, supervisor: TenantRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = METHODS[method].scope
    params = example(METHODS[method], confirm="acme")
    async with tenant("acme", state_dir, supervisor, monkeypatch) as acme:
        narrower = [int(scope) for scope in Scope if scope < needed]
        for scopes in (0, *narrower, sum(narrower)):
            with pytest.raises(GatewayError) as refused:
                await acme.ask(method, params, scopes)
            assert refused.value.code is ErrorCode.FORBIDDEN
            assert refused.value.message == f"missing scope: {str(needed.name).lower()}"
            assert refused.value.details == {"requiredScope": str(needed.name).lower()}
        for scope in (scope for scope in Scope if scope >= needed):
            assert await code_of(acme.ask(method, params, int(scope))) is not ErrorCode.FORBIDDEN


@pytest.mark.parametrize("method", sorted(answered_by("operator")))
@pytest.mark.parametrize("scopes", [*map(int, Scope), 0, int(ALL_SCOPES)])
async def test_no_scope_is_an_operators(
    method: str, scopes: int, supervisor: TenantRequests
) -> None:
    for params in (b"{}", b'{"tenantId":"acme"}', b"["):
        request = TenantRequest(
            tenant="acme", token_id="tok_1", scopes=scopes, method=method, params=params
        )
        with pytest.raises(GatewayError) as refused:
            await supervisor.answer(request)
        assert refused.value.code is ErrorCode.FORBIDDEN
        assert "admin key as bearer on POST /rpc" in refused.value.message


async def code_of(asking: Awaitable[Any]) -> ErrorCode | None:
    """What is refused with; None: it is not."""
    try:
        await asking
    except GatewayError as error:
        return error.code
    return None


async def things_of(acme: Both) -> dict[str, Any]:
    """Make one of everything that has an id; gives the ids by the names of parameters."""
    made = await acme.ask("sessions.create", {"key": "agent:main:mine", "message": "hi"})
    await acme.ask("agent.wait", {"runId": made["runId"]})
    return {
        "key": made["key"],
        "keys": [made["key"]],
        "sessionKey": made["key"],
        "sessionKeys": [made["key"]],
        "sessionId": made["sessionId"],
        "runId": made["runId"],
        "tenantId": "acme",
        # With a launcher that launches, tests/e2e/test_terminals.py asks for another's.
        "terminalId": "0123456789abcdef",
        "sandboxId": RUNS.sandbox_id,
    }


# What a method makes has an id, a number and a time of its own.
NEW_EACH_TIME = re.compile(
    r'[0-9a-f]{8}-[0-9a-f-]{27}|\b1[0-9]{12}\b|(?<="messageSeq":)\d+|(?<="durationMs":)[\d.e-]+'
    r'|\b(?:chatcmpl-|resp_|msg_)[0-9a-f]{32}\b|(?<="created":)\d+|(?<="created_at":)\d+'
)
ABSENT = {
    "key": "agent:main:none",
    "keys": ["agent:main:none"],
    "sessionKey": "agent:main:none",
    "sessionKeys": ["agent:main:none"],
    "sessionId": "00000000-0000-4000-8000-000000000000",
    "runId": "00000000-0000-4000-8000-000000000000",
    "tenantId": "nobody",
    "terminalId": "fedcba9876543210",
    "sandboxId": "0000000000000000",
}


@pytest.mark.parametrize("method", [name for name in ALL if ids_of(METHODS[name])])
async def test_another_tenants_ids_are_as_absent_ones(
    method: str, state_dir: Path, supervisor: TenantRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant("acme", state_dir, supervisor, monkeypatch) as acme:
        theirs = await things_of(acme)
        async with tenant("globex", state_dir, supervisor, monkeypatch) as globex:
            for name in ids_of(METHODS[method]):
                assert name in theirs, f"{method}: what is a {name}? Make one in things_of"
                answers = [
                    await outcome(globex, method, name, things) for things in (theirs, ABSENT)
                ]
                assert answers[0] == answers[1], name


async def outcome(globex: Both, method: str, name: str, things: dict[str, Any]) -> Any:
    """What globex is told, with the id itself and what always differs taken out."""
    declared = METHODS[method]
    params = example(declared, **{name: things[name]}, confirm="globex")
    if method == "sessions.resolve":
        params = {name: things[name]}
    try:
        said = await globex.ask(method, params)
    except GatewayError as error:
        return error.code, error.message, error.details
    text = msgspec.json.encode(said).decode()
    for own in things[name] if isinstance(things[name], list) else [things[name]]:
        text = text.replace(own, "<id>")
    return NEW_EACH_TIME.sub("<new>", text)
