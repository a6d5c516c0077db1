"""What can be done to tenants: registry, directory and audit kept in step.

Used by the gateway (on its disk thread) and, while there is no gateway, by the command line
directly under the lock of the state root. Everything here blocks on the disk.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import apsw
import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.names import TENANT_ID_PATTERN, is_tenant_id
from supervisor.audit import Audit, AuditError
from supervisor.config import Config
from supervisor.registry import (
    Quota,
    Registry,
    RegistryError,
    Tenant,
    TenantExistsError,
    UnknownTenantError,
)
from supervisor.state import TENANT_FOLDERS, StateRoot
from supervisor.wipe import wipe

SHARED_UIDS: Final = 16
"""The first uids of the range belong to the shared processes; the front has the very first."""


def unix_ms() -> int:
    """Give the time of day in Unix ms."""
    return time.time_ns() // 1_000_000


class TenantView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A tenant as an operator sees it. `state_dir` is relative to the state root."""

    tenant_id: str
    display_name: str | None = None
    created_at: str
    disabled: bool
    state: str
    quota: Quota
    state_dir: str


class CreatedTenant(TenantView, frozen=True, kw_only=True):
    """A new tenant, with the only copy of its token."""

    token: str


class Snapshot(NamedTuple):
    """All rows, and by tenant its token digests (hex) with their scopes."""

    rows: list[Tenant]
    tokens: dict[str, dict[str, int]]


def view(tenant: Tenant) -> TenantView:
    """Give what an operator may see of a registry row."""
    seconds, ms = divmod(tenant.created_at, 1000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return TenantView(
        tenant_id=tenant.id,
        display_name=tenant.display_name,
        created_at=f"{moment}.{ms:03d}Z",
        disabled=tenant.state != "enabled",
        state=tenant.state,
        quota=tenant.quota,
        state_dir=f"/tenants/{tenant.id}",
    )


@contextlib.contextmanager
def _disk_refusals() -> Iterator[None]:
    """Turn a disk that is full or broken into an answer: it must not end the gateway."""
    try:
        yield
    except OSError as error:
        msg = f"the disk refuses {error.filename or 'a write'}: {error.strerror or error}"
        raise GatewayError(ErrorCode.UNAVAILABLE, msg) from error
    except (apsw.Error, AuditError) as error:
        msg = f"the disk refuses registry or audit: {error}"
        raise GatewayError(ErrorCode.UNAVAILABLE, msg) from error


class TenantDesk:
    """The operations. One thread at a time.

    A change and its line in the audit are kept together or not at all, but for a crash or a failing
    disk just between the two: then the audit has a line too many (followed by `change.undone` if
    the disk takes it), never one too few. Every operation raises
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
        self._now_ms: Final = now_ms
        self.registry: Final = Registry(state.registry)
        try:
            self.audit: Final = Audit(state.audit)
            cut = self.audit.repaired_bytes
            if cut:
                self._note("audit.repaired", "gateway", None, bytes_cut=cut)
        except BaseException:
            self.registry.close()
            raise

    def close(self) -> None:
        """Close registry and audit."""
        try:
            self.registry.close()
        finally:
            self.audit.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        before = self.audit.seq
        try:
            with self.registry.atomically():
                yield
        except BaseException:
            if self.audit.seq != before:
                # The line stays: a commit that failed may still be found committed after a crash.
                with contextlib.suppress(OSError, AuditError):
                    self._note("change.undone", "gateway", None, seq=self.audit.seq)
            raise

    def _note(self, action: str, actor: str, tenant: str | None, **detail: object) -> None:
        self.audit.append(action, actor=actor, now_ms=self._now_ms(), tenant=tenant, **detail)

    @_disk_refusals()
    def create(
        self, tenant: str, *, actor: str, display_name: str | None = None, quota: Quota
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
            with self._change():
                token = self.registry.create(
                    tenant,
                    uid_first=uids[0] if uids else None,
                    uid_count=uids[1] if uids else 0,
                    display_name=display_name,
                    quota=quota,
                    now_ms=self._now_ms(),
                )
                self._note("tenant.created", actor, tenant, quota=msgspec.to_builtins(quota))
        except TenantExistsError as error:
            raise GatewayError(ErrorCode.CONFLICT, f"tenant {tenant} exists already") from error
        except RegistryError as error:
            raise GatewayError(ErrorCode.UNAVAILABLE, str(error)) from error
        row = self.registry.get(tenant)
        self.ensure_directory(row)
        return CreatedTenant(**msgspec.structs.asdict(view(row)), token=token)

    def _tenant_uids(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        first = self._isolation.uid_first + SHARED_UIDS
        return first, self._isolation.uid_count - SHARED_UIDS

    def ensure_directory(self, tenant: Tenant) -> Path:
        """Make a tenant's directory unless it is there; also before each start of its worker.

        A crash between the row and the directory is healed here, so that neither is ever undone.
        """
        directory = self._state.tenant_directory(tenant.id)
        if directory.is_dir():
            return directory
        # Complete under another name first: half a directory must not pass for a whole one.
        fresh = directory.with_name(f".new-{tenant.id}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for folder in TENANT_FOLDERS:
            (fresh / folder).mkdir(mode=0o700)
        if tenant.uid is not None:
            for path in (*fresh.iterdir(), fresh):
                os.chown(path, tenant.uid, tenant.uid, follow_symlinks=False)
        fresh.rename(directory)
        return directory

    @_disk_refusals()
    def get(self, tenant: str) -> TenantView:
        """Give one tenant.

        Raises:
            GatewayError: NOT_FOUND.
        """
        return view(self._row(tenant))

    @_disk_refusals()
    def access(self, tenant: str) -> tuple[Tenant, dict[str, int]]:
        """Give a tenant's row, and its token digests (hex) with their scopes.

        Raises:
            GatewayError: NOT_FOUND.
        """
        return self._any_row(tenant), self.registry.tokens_of(tenant)

    @_disk_refusals()
    def token_digests(self) -> dict[str, dict[str, int]]:
        """Give, by tenant, its token digests (hex) with their scopes."""
        return self.registry.token_digests()

    @_disk_refusals()
    def list(self) -> list[TenantView]:
        """Give all tenants by id."""
        return [view(tenant) for tenant in self.registry.tenants()]

    @_disk_refusals()
    def snapshot(self) -> Snapshot:
        """Give the whole registry as it is now."""
        return Snapshot(self.registry.tenants(), self.registry.token_digests())

    @_disk_refusals()
    def rotate(self, tenant: str, *, actor: str) -> str:
        """Replace a tenant's tokens; gives the new one.

        Raises:
            GatewayError: NOT_FOUND.
        """
        self._row(tenant)
        with self._change():
            token = self.registry.rotate(tenant, self._now_ms())
            self._note("token.rotated", actor, tenant)
        return token

    @_disk_refusals()
    def set_state(self, tenant: str, state: Literal["enabled", "suspended"], *, actor: str) -> None:
        """Suspend a tenant or take it back into service; to be so already is no error.

        Raises:
            GatewayError: NOT_FOUND.
        """
        before = self._row(tenant).state
        if before != state:
            with self._change():
                self.registry.set_state(tenant, state)
                self._note(f"tenant.{state}", actor, tenant, before=before)

    @_disk_refusals()
    def begin_delete(self, tenant: str, *, actor: str) -> None:
        """Take a tenant's tokens away. Its worker must end before `finish_delete`.

        It can be repeated, for a deletion that could not be finished.

        Raises:
            GatewayError: NOT_FOUND.
        """
        self._any_row(tenant)
        with self._change():
            self.registry.begin_delete(tenant)
            self._note("tenant.deleting", actor, tenant)

    @_disk_refusals()
    def finish_delete(self, tenant: str, *, actor: str) -> None:
        """Wipe a tenant's directory and forget it; a crash in between is finished by `recover`.

        Nothing happens to a tenant that is not being deleted: another call has finished it.

        Raises:
            GatewayError: UNAVAILABLE, when something cannot be removed: the tenant stays marked.
        """
        row = self.registry.find(tenant)
        if row is None or row.state != "deleting":
            return
        wipe(self._state.tenant_directory(tenant))
        with self._change():
            self.registry.finish_delete(tenant)
            self._note("tenant.deleted", actor, tenant)

    @_disk_refusals()
    def recover(self) -> None:
        """Finish deletions that a crash cut off. Called at the start, before any worker runs."""
        for tenant in self.registry.tenants():
            if tenant.state == "deleting":
                # What cannot be removed stays listed as `deleting`; nobody else waits for it.
                with contextlib.suppress(GatewayError):
                    self.finish_delete(tenant.id, actor="gateway")

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
    if len(name) > limits.DISPLAY_NAME_CHARS_MAX or not name.isprintable():
        msg = f"displayName: at most {limits.DISPLAY_NAME_CHARS_MAX} printable characters"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="displayName")
