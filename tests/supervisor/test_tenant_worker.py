"""Passes over one tenant's worker, whose time of day and registry are set by hand."""

import pytest
import structlog

from protocol.egress import Place as EgressPlace
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import Caps, Place
from protocol.spawn import WorkerSettings
from supervisor.caps.tenants import TenantGroups
from supervisor.egress_process import EgressProcess
from supervisor.front_process import FrontProcess
from supervisor.launcher_process import LauncherProcess
from supervisor.lifecycle import State
from supervisor.memory import Memory
from supervisor.meters import Meters
from supervisor.reconcile import Step, Wanted
from supervisor.tenant_worker import TenantWorker
from supervisor.zygote.spec import JailSpec
from supervisor.zygote_process import SpawnError, ZygoteProcess
from tests.supervisor.storing import storage


class Nowhere:
    """Surroundings in which no process can be had."""

    worker_settings = WorkerSettings(idle_seconds=0.0)
    front: FrontProcess | None = None
    launcher: LauncherProcess | None = None
    egress: EgressProcess | None = None

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.wants = Wanted.ENABLED
        self.alerts: list[str] = []
        self.meters = Meters()
        self.groups = TenantGroups(None, lambda _: Caps())
        self.storage = storage()

    async def zygote(self) -> ZygoteProcess:
        raise SpawnError

    def concurrent_runs(self, tenant: str) -> int | None:
        return None

    def wanted(self, tenant: str) -> Wanted:
        return self.wants

    async def jail_of(self, tenant: str) -> JailSpec:
        raise GatewayError(ErrorCode.UNAVAILABLE, "nothing runs here")

    def place_of(self, tenant: str, generation: int) -> Place:
        raise GatewayError(ErrorCode.UNAVAILABLE, "nothing runs here")

    def egress_place_of(self, tenant: str, generation: int) -> EgressPlace:
        raise GatewayError(ErrorCode.UNAVAILABLE, "nothing runs here")

    def next_generation(self) -> int:
        return 1

    def unix_ms(self) -> int:
        return self.now_ms

    def alert(self, tenant: str, reason: str) -> None:
        self.alerts.append(reason)


@pytest.fixture
def around() -> Nowhere:
    return Nowhere()


@pytest.fixture
async def worker(around: Nowhere) -> TenantWorker:
    return TenantWorker("acme", around, Memory(), structlog.get_logger())


async def test_a_parked_worker_wakes_by_the_time_of_day(
    worker: TenantWorker, around: Nowhere
) -> None:
    worker.life.state = State.PARKED
    worker.wake_at_ms = around.now_ms + 3_600_000
    assert worker.reconcile() is Step.NOTHING
    around.now_ms += 3_599_999  # the machine slept: no timer of ours has seen it pass
    assert worker.reconcile() is Step.NOTHING
    around.now_ms += 1
    assert worker.reconcile() is Step.WAKE
    assert worker.life.state is State.STARTING


async def test_a_parked_worker_without_a_time_sleeps_on(worker: TenantWorker) -> None:
    worker.life.state = State.PARKED
    assert worker.reconcile() is Step.NOTHING


async def test_passes_follow_the_registry_and_are_harmless(
    worker: TenantWorker, around: Nowhere
) -> None:
    for wanted, taken, state in (
        (Wanted.SUSPENDED, Step.SUSPEND, State.SUSPENDED),
        (Wanted.ENABLED, Step.RESUME, State.ABSENT),
        (Wanted.SUSPENDED, Step.SUSPEND, State.SUSPENDED),
        (Wanted.GONE, Step.STOP, State.ABSENT),
    ):
        around.wants = wanted
        assert worker.reconcile() is taken
        assert worker.life.state is state
        assert worker.reconcile() in (Step.NOTHING, Step.FORGET)
        assert worker.life.state is state
    assert worker.reconcile() is Step.FORGET


async def test_who_waits_hears_that_the_tenant_was_taken_away(
    worker: TenantWorker, around: Nowhere
) -> None:
    worker.life.state = State.SUSPENDED
    with pytest.raises(GatewayError) as refused:
        await worker.wake()
    assert refused.value.code is ErrorCode.UNAVAILABLE
    around.wants = Wanted.GONE
    assert worker.reconcile() is Step.STOP
    with pytest.raises(GatewayError) as refused:
        await worker.wake()
    assert "ending" in refused.value.message
