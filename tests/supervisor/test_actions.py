"""Registry and front kept in step, whatever is asked for at once."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from protocol.control.shapes import (
    AuditQuery,
    CreateTenant,
    LimitsChange,
    Reloaded,
    RotateToken,
    TenantLimits,
    UpdateTenant,
)
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import Caps
from protocol.moments import unix_ms
from protocol.names import digest
from protocol.quotas import Use
from protocol.spawn import TenantsUpdate
from supervisor.actions import Actions
from supervisor.caps.tenants import TenantGroups
from supervisor.config import Config
from supervisor.disk import Disk
from supervisor.logs import open_log
from supervisor.meters import Meters
from supervisor.quotas import Quotas
from supervisor.reconcile import Wanted
from supervisor.registry import Tenant
from supervisor.state import StateRoot
from supervisor.tenants import TenantDesk
from supervisor.workers import Workers
from tests.supervisor.storing import storage

ROUNDS = 10


class Around:
    """What the front is told, in the order in which it hears it; it can be slow to listen."""

    front = None
    launcher = None

    def __init__(self, desk: TenantDesk, disk: Disk) -> None:
        self.quotas = Quotas(
            desk.registry, disk, self, lambda work: work.close(), unix_ms, structlog.get_logger()
        )
        self.told: list[TenantsUpdate] = []
        self.listens = asyncio.Event()
        self.listens.set()
        self.meters = Meters()
        self.pids = {"supervisor": os.getpid()}
        self.storage = storage()
        self.limited: list[str] = []
        self.groups = TenantGroups(None, lambda _: Caps())

    async def tell_front(self, *changes: TenantsUpdate) -> None:
        waits, self.listens = self.listens, asyncio.Event()
        self.listens.set()
        await waits.wait()
        self.told.extend(changes)

    def row(self, _tenant: str) -> Tenant | None:
        return None

    async def limit_spending(self, *_tenants: str) -> None:
        return

    def forget_spending(self, _tenant: str) -> None:
        return

    async def spent(self, _tenant: str) -> tuple[Use, ...]:
        return ()

    async def apply_limits(self, *tenants: str) -> tuple[str, ...]:
        self.limited.extend(tenants)
        return ("it is not in force yet",)

    def wanted(self, _tenant: str) -> Wanted:
        return Wanted.GONE

    async def reload(self) -> Reloaded:
        raise AssertionError


class Stage:
    """A desk with its thread, and actions around it; no worker runs."""

    def __init__(self, state_dir: Path) -> None:
        state = StateRoot(state_dir / "state")
        state.prepare()
        self.desk = TenantDesk(state, Config())
        self.disk = Disk("disk")
        self.around = Around(self.desk, self.disk)
        log = open_log(state.log)
        # The workers' surroundings are for those that run.
        workers = Workers(cast("Any", self.around), log)
        self.actions = Actions(self.desk, self.disk, self.around, workers, log)

    async def settle(self) -> None:
        """Let everything go on that waits for nobody."""
        for _ in range(ROUNDS):
            await self.disk(lambda: None)
            await asyncio.sleep(0)


@pytest.fixture
async def stage(state_dir: Path) -> AsyncIterator[Stage]:
    stage = Stage(state_dir)
    await stage.actions.create_tenant(CreateTenant(tenant_id="acme"), actor="me")
    yield stage
    await stage.actions.close()
    await stage.disk(stage.desk.close)
    stage.disk.close()


async def test_of_two_rotations_at_once_the_front_hears_the_later_one_last(stage: Stage) -> None:
    stage.around.listens.clear()
    held = stage.around.listens
    asked = []
    for _ in range(2):
        rotation = stage.actions.rotate_token("acme", RotateToken(), actor="me")
        asked.append(asyncio.create_task(rotation))
        await stage.settle()
    held.set()
    first, second = [await task for task in asked]
    kept = await stage.disk(stage.desk.registry.tokens_of, "acme")
    assert set(kept) == {digest(second.token).hex()}
    assert stage.around.told[-1].known[0].tokens == kept
    assert first.token != second.token


async def test_from_its_deletion_on_nothing_of_a_tenant_is_wanted(stage: Stage) -> None:
    stage.around.listens.clear()
    held = stage.around.listens
    deletion = asyncio.create_task(stage.actions.delete_tenant("acme", actor="me"))
    await stage.settle()
    assert stage.actions.wanted("acme") is Wanted.GONE
    held.set()
    await deletion


async def test_a_late_deletion_leaves_a_new_tenant_of_the_id_alone(stage: Stage) -> None:
    await stage.actions.delete_tenant("acme", actor="me")
    await stage.actions.create_tenant(CreateTenant(tenant_id="acme"), actor="me")
    await stage.actions._finish_delete("acme", "me")
    assert stage.desk.get("acme").state == "enabled"
    assert stage.desk._state.tenant_directory("acme").is_dir()


async def test_two_deletions_at_once_are_one(stage: Stage) -> None:
    deletions = [stage.actions.delete_tenant("acme", actor="me") for _ in range(2)]
    assert await asyncio.gather(*deletions) == [None, None]
    page = await stage.actions.read_audit(AuditQuery())
    assert [entry.action for entry in page.entries].count("tenant.deleted") == 1
    assert stage.actions.rows == {}
    with pytest.raises(GatewayError) as refused:
        await stage.actions.delete_tenant("acme", actor="me")
    assert refused.value.code is ErrorCode.NOT_FOUND


async def test_limits_are_in_force_when_their_change_is_answered(stage: Stage) -> None:
    change = UpdateTenant(limits=LimitsChange(pids=64))
    view = await stage.actions.update_tenant("acme", change, actor="me")
    assert stage.around.limited == ["acme"]
    assert view.warnings == ("it is not in force yet",)
    assert stage.actions.rows["acme"].limits == TenantLimits(pids=64)
    (row,) = await stage.actions.status("", 10)
    assert row.limits == view.effective_limits
    assert (await stage.actions.tenant_status("acme")).limits == row.limits
    view = await stage.actions.update_tenant("acme", UpdateTenant(display_name="x"), actor="me")
    assert view.warnings == ()
    assert stage.around.limited == ["acme"], "a name limits nobody"


async def test_metrics_without_a_front_tell_of_the_rest(stage: Stage) -> None:
    text = await stage.actions.metrics()
    assert 'openclaw_tenants{state="absent"} 1.0' in text
    assert "openclaw_requests" not in text


async def test_metrics_that_cannot_be_written_are_refused_and_nothing_ends(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if an upgrade had taken the program away before the first scrape.
    monkeypatch.setitem(sys.modules, "supervisor.metrics", None)
    with pytest.raises(GatewayError) as refused:
        await stage.actions.metrics()
    assert refused.value.code is ErrorCode.INTERNAL
