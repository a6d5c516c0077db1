"""What the workers live in."""

from typing import Protocol

from protocol.egress import Place as EgressPlace
from protocol.launching import Place
from protocol.spawn import WorkerSettings
from supervisor.caps.tenants import TenantGroups
from supervisor.egress_process import EgressProcess
from supervisor.front_process import FrontProcess
from supervisor.launcher_process import LauncherProcess
from supervisor.meters import Meters
from supervisor.reconcile import Wanted
from supervisor.storage import Storage
from supervisor.zygote.spec import JailSpec
from supervisor.zygote_process import ZygoteProcess


class Surroundings(Protocol):
    """What the workers live in; the supervisor provides it."""

    @property
    def meters(self) -> Meters:
        """Where is counted what happens to them."""

    @property
    def front(self) -> FrontProcess | None:
        """Who gets links; None while it is being replaced."""

    @property
    def launcher(self) -> LauncherProcess | None:
        """Who gets the other links; None while it is being replaced."""

    @property
    def groups(self) -> TenantGroups:
        """Their cgroups."""

    @property
    def storage(self) -> Storage:
        """Who may write; it is told who has processes."""

    @property
    def egress(self) -> EgressProcess | None:
        """Who gets the third; None while it is being replaced."""

    @property
    def worker_settings(self) -> WorkerSettings:
        """What a worker that starts now goes by."""

    def concurrent_runs(self, tenant: str) -> int | None:
        """Say how many turns of a tenant may run at a time, None for the bound."""

    async def zygote(self) -> ZygoteProcess:
        """Give who forks, after a while if it is just being replaced.

        Raises:
            SpawnError: there is none.
        """

    def wanted(self, tenant: str) -> Wanted:
        """Say what the registry wants of a tenant's worker."""

    async def jail_of(self, tenant: str) -> JailSpec:
        """Say how a tenant is jailed; its directory exists when this returns.

        Raises:
            GatewayError: there is no such tenant, or it may not run.
        """

    def place_of(self, tenant: str, generation: int) -> Place:
        """Say what the launcher is told of a worker."""

    def egress_place_of(self, tenant: str, generation: int) -> EgressPlace:
        """Say what egress is told of a worker."""

    def next_generation(self) -> int:
        """Give a number that no worker of any tenant has had."""

    def unix_ms(self) -> int:
        """Give the time of day."""

    def alert(self, tenant: str, reason: str) -> None:
        """Tell somebody that a tenant is out of service until an operator acts."""
