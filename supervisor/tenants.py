"""What can be done to tenants: registry, directory and audit kept in step.

Used by the gateway (on its disk thread) and, while there is no gateway, by the command line
directly under the lock of the state root. Everything here blocks on the disk.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from protocol import limits
from protocol.control.shapes import (
    NO_LIMITS,
    AuditPage,
    AuditQuery,
    CreatedTenant,
    TenantLimits,
    TenantView,
    UpdateTenant,
)
from protocol.errors import ErrorCode, GatewayError
from protocol.moments import rfc3339, unix_ms
from protocol.names import (
    TENANT_ID_PATTERN,
    encode_shown,
    hide_secrets,
    is_display_name,
    is_tenant_id,
)
from protocol.quotas import Quota
from protocol.spawn import TokenGrant
from supervisor import audit_reading
from supervisor.audit import Audit
from supervisor.caps.effective import shown
from supervisor.config import CapsSection, Config
from supervisor.refusals import disk_refusals
from supervisor.registry import (
    Registry,
    RegistryError,
    Tenant,
    TenantExistsError,
    UnknownTenantError,
)
from supervisor.state import TENANT_FOLDERS, StateRoot
from supervisor.tokens import TokenDesk
from supervisor.wipe import WipeStoppedError, wipe

SHARED_UIDS: Final = 16
"""The first uids of the range belong to the shared processes; the front has the very first."""


class Snapshot(NamedTuple):
    """All rows, and by tenant its token digests (hex) with what they grant."""

    rows: list[Tenant]
    tokens: dict[str, dict[str, TokenGrant]]


def view(tenant: Tenant, caps: CapsSection) -> TenantView:
    """Give what an operator may see of a registry row."""
    return TenantView(
        tenant_id=tenant.id,
        display_name=tenant.display_name,
        created_at=rfc3339(tenant.created_at),
        disabled=tenant.state != "enabled",
        state=tenant.state,
        quota=tenant.quota,
        limits=tenant.limits,
        effective_limits=shown(tenant.limits, caps),
        state_dir=f"/tenants/{tenant.id}",
    )


class TenantDesk:
    """The operations. One thread at a time.

    A change and its line in the audit are kept together or not at all, but for a crash just between
    the two: then the audit has a line too many, never one too few. Every operation raises
    GatewayError UNAVAILABLE when the disk refuses.

    Args:
        state: The state root, held by the caller.
        config: The gateway's configuration.
        now_ms: The clock.
    """

    def __init__(
        self, state: StateRoot, config: Config, now_ms: Callable[[], int] = unix_ms
    ) -> None:
        self._state: Final = state
        self._isolation: Final = config.isolation
        self.caps = config.caps
        """What limits are where a tenant has none of its own."""
        self._now_ms: Final = now_ms
        self.registry: Final = Registry(state.registry)
        try:
            self.audit: Final = Audit(state.audit)
            cut = self.audit.repaired_bytes
            if cut:
                self.record("audit.repaired", "gateway", None, bytesCut=cut)
        except BaseException:
            self.registry.close()
            raise
        self.tokens: Final = TokenDesk(self.registry, self.change, self.record, self._row, now_ms)

    @property
    def tenants_directory(self) -> str:
        """Where the tenants' directories are."""
        return str(self._state.tenants)

    def close(self) -> None:
        """Close registry and audit."""
        try:
            self.registry.close()
        finally:
            self.audit.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Give a context whose changes are all kept at its end, or none if it raises."""
        before = self.audit.seq
        try:
            with self.registry.atomically():
                yield
        except BaseException:
            if self.audit.seq != before:
                # The line stays: a commit that failed may still be found committed after a crash.
                with contextlib.suppress(GatewayError):
                    self.record("change.undone", "gateway", None, seq=self.audit.seq)
            raise

    @disk_refusals()
    def record(self, action: str, actor: str, tenant: str | None, **detail: object) -> None:
        """Write a line of the audit; what looks like a secret in it is hidden.

        Args:
            action: What was done, `<thing>.<verb>`.
            actor: `admin`, `cli:<uid>`, `token:<id>`, `tenant` or `gateway`.
            tenant: Whom it concerns.
            detail: JSON values; `before` and `after` where something changed.

        Raises:
            GatewayError: UNAVAILABLE: it cannot be written.
        """
        shown = msgspec.json.decode(encode_shown(detail))
        self.audit.append(action, actor=actor, now_ms=self._now_ms(), tenant=tenant, **shown)

    @disk_refusals()
    def create(
        self,
        tenant: str,
        *,
        actor: str,
        display_name: str | None = None,
        quota: Quota,
        limits: TenantLimits = NO_LIMITS,
    ) -> CreatedTenant:
        """Make a tenant: its row, its first token, its directory.

        Raises:
            GatewayError: INVALID_REQUEST, CONFLICT, or UNAVAILABLE when the disk refuses.
        """
        check_tenant_id(tenant)
        check_display_name(display_name)
        directory = self._state.tenant_directory(tenant)
        if self.registry.find(tenant) is not None:
            raise GatewayError(ErrorCode.CONFLICT, f"tenant {tenant} exists already")
        if os.path.lexists(directory):
            msg = f"{directory} exists but belongs to no tenant; move it away first"
            raise GatewayError(ErrorCode.CONFLICT, msg)
        uids = self._tenant_uids()
        try:
            with self.change():
                token = self.registry.create(
                    tenant,
                    uid_first=uids[0] if uids else None,
                    uid_count=uids[1] if uids else 0,
                    display_name=display_name,
                    quota=quota,
                    limits=limits,
                    now_ms=self._now_ms(),
                )
                row = self.registry.get(tenant)
                self.record("tenant.created", actor, tenant, after=_facts(row))
        except TenantExistsError as error:
            raise GatewayError(ErrorCode.CONFLICT, f"tenant {tenant} exists already") from error
        except RegistryError as error:
            raise GatewayError(ErrorCode.UNAVAILABLE, str(error)) from error
        self.ensure_directory(row)
        return CreatedTenant(**msgspec.structs.asdict(view(row, self.caps)), token=token)

    def _tenant_uids(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        first = self._isolation.uid_first + SHARED_UIDS
        return first, self._isolation.uid_count - SHARED_UIDS

    @disk_refusals()
    def access(self, tenant: str) -> tuple[Tenant, dict[str, TokenGrant]]:
        """Give a tenant's row, and what its tokens give by their digests (hex).

        Raises:
            GatewayError: NOT_FOUND.
        """
        return self._any_row(tenant), self.registry.tokens_of(tenant)

    @disk_refusals()
    def read_audit(self, query: AuditQuery) -> AuditPage:
        """Give a page of the audit; on any thread."""
        return audit_reading.page(self._state.audit, query)

    def ensure_directory(self, tenant: Tenant) -> Path:
        """Make a tenant's directory unless it is there; also before each start of its worker.

        A crash between the row and the directory is healed here, so that neither is ever undone.
        """
        directory = self._state.tenant_directory(tenant.id)
        if directory.is_dir():
            return directory
        # Complete under another name first: half a directory must not pass for a whole one.
        fresh = _unfinished(directory)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for folder in TENANT_FOLDERS:
            (fresh / folder).mkdir(mode=0o700)
        if tenant.uid is not None:
            for path in (*fresh.iterdir(), fresh):
                os.chown(path, tenant.uid, tenant.uid, follow_symlinks=False)
        fresh.rename(directory)
        return directory

    @disk_refusals()
    def get(self, tenant: str) -> TenantView:
        """Give one tenant.

        Raises:
            GatewayError: NOT_FOUND.
        """
        return view(self._row(tenant), self.caps)

    @disk_refusals()
    def token_digests(self) -> dict[str, dict[str, TokenGrant]]:
        """Give, by tenant, its token digests (hex) with what they grant."""
        return self.registry.token_digests()

    @disk_refusals()
    def snapshot(self) -> Snapshot:
        """Give the whole registry as it is now."""
        return Snapshot(self.registry.tenants(), self.registry.token_digests())

    @disk_refusals()
    def list(self, after: str = "", limit: int = -1) -> list[TenantView]:
        """Give tenants by id: so many of those after `after`, all for a negative number."""
        return [view(tenant, self.caps) for tenant in self.registry.tenants(after, limit)]

    @disk_refusals()
    def update(self, tenant: str, change: UpdateTenant, *, actor: str) -> TenantView:
        """Change what is named in `change`.

        Raises:
            GatewayError: NOT_FOUND or INVALID_REQUEST.
        """
        before = self._row(tenant)
        name = before.display_name if change.display_name is UNSET else change.display_name
        check_display_name(name)
        quota = before.quota
        if change.quota is not UNSET:
            quota = msgspec.structs.replace(quota, **_given(change.quota))
        limits = before.limits
        if change.limits is not UNSET:
            limits = msgspec.structs.replace(limits, **_given(change.limits))
        with self.change():
            self.registry.update(tenant, display_name=name, quota=quota, limits=limits)
            after = self.registry.get(tenant)
            if after != before:
                self.record(
                    "tenant.updated", actor, tenant, before=_facts(before), after=_facts(after)
                )
        return view(after, self.caps)

    @disk_refusals()
    def set_state(self, tenant: str, state: Literal["enabled", "suspended"], *, actor: str) -> None:
        """Suspend a tenant or take it back into service; to be so already is no error.

        Raises:
            GatewayError: NOT_FOUND.
        """
        before = self._row(tenant).state
        if before != state:
            with self.change():
                self.registry.set_state(tenant, state)
                self.record(f"tenant.{state}", actor, tenant, before=before, after=state)

    @disk_refusals()
    def begin_delete(self, tenant: str, *, actor: str) -> None:
        """Take a tenant's tokens away. Its worker must end before `finish_delete`.

        It can be repeated, for a deletion that could not be finished.

        Raises:
            GatewayError: NOT_FOUND.
        """
        before = self._any_row(tenant).state
        with self.change():
            self.registry.begin_delete(tenant)
            self.record("tenant.deleting", actor, tenant, before=before, after="deleting")

    @disk_refusals()
    def wipe(self, tenant: str, stopped: threading.Event | None = None) -> None:
        """Remove the files of a tenant that is being deleted; can take long, on any thread.

        Raises:
            GatewayError: UNAVAILABLE, when something cannot be removed, or `stopped` was set: the
                tenant stays marked.
        """
        directory = self._state.tenant_directory(tenant)
        try:
            wipe(_unfinished(directory), stopped)
            wipe(directory, stopped)
        except WipeStoppedError as error:
            msg = "the gateway is stopping; the deletion is finished at its next start"
            raise GatewayError(ErrorCode.UNAVAILABLE, msg) from error

    @disk_refusals()
    def finish_delete(self, tenant: str, *, actor: str) -> None:
        """Forget a tenant whose files have been wiped.

        Nothing happens to a tenant that is not being deleted: another call has finished it.
        """
        row = self.registry.find(tenant)
        if row is None or row.state != "deleting":
            return
        self.registry.drop_copies()
        with self.change():
            self.registry.finish_delete(tenant)
            self.record("tenant.deleted", actor, tenant, before="deleting")

    @disk_refusals()
    def deleting(self) -> tuple[str, ...]:
        """Give the tenants whose deletion a crash or a disk has cut off."""
        rows = self.registry.tenants()
        return tuple(row.id for row in rows if row.state == "deleting")

    def recover(self) -> None:
        """Finish deletions that were cut off. No worker may run."""
        for tenant in self.deleting():
            # What cannot be removed stays listed as `deleting`; nobody else waits for it.
            with contextlib.suppress(GatewayError):
                self.wipe(tenant)
                self.finish_delete(tenant, actor="gateway")

    def _any_row(self, tenant: str) -> Tenant:
        check_tenant_id(tenant)
        try:
            return self.registry.get(tenant)
        except UnknownTenantError as error:
            raise GatewayError(ErrorCode.NOT_FOUND, f"no such tenant: {tenant}") from error

    def _row(self, tenant: str) -> Tenant:
        row = self._any_row(tenant)
        if row.state == "deleting":
            raise GatewayError(ErrorCode.NOT_FOUND, f"no such tenant: {tenant}")
        return row


def check_tenant_id(tenant: str) -> None:
    """Refuse what is no tenant id.

    Raises:
        GatewayError: INVALID_REQUEST, naming the field and the rule.
    """
    if not is_tenant_id(tenant):
        msg = (
            "tenantId: 1 to 40 lower-case letters, digits and hyphens, "
            f"no hyphen first or last ({TENANT_ID_PATTERN})"
        )
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="tenantId")


def check_display_name(name: str | None) -> None:
    """Refuse a display name that is too long or holds control characters.

    Raises:
        GatewayError: INVALID_REQUEST, naming the field.
    """
    if name is None:
        return
    if not is_display_name(name):
        msg = f"displayName: at most {limits.DISPLAY_NAME_CHARS_MAX} characters, all visible"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="displayName")
    if hide_secrets(name) != name:
        msg = "displayName: must not hold a token or an admin key"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="displayName")


def _unfinished(directory: Path) -> Path:
    """Give the name under which a tenant's directory is made."""
    return directory.with_name(f".new-{directory.name}")


def _facts(tenant: Tenant) -> dict[str, object]:
    return {"displayName": tenant.display_name, "quota": tenant.quota, "limits": tenant.limits}


def _given(change: msgspec.Struct) -> dict[str, Any]:
    values = msgspec.structs.asdict(change)
    return {name: value for name, value in values.items() if value is not UNSET}
