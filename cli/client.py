"""How a command reaches the tenants: through the gateway when there is one, else directly.

Whoever holds the lock on the state root is the writer. A gateway that holds it has written down
where it serves; without one the command takes the lock itself and works on the files.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import quote, urlsplit

import click
import msgspec

from cli.exits import ExitCode, fail, refuse
from protocol import limits
from protocol.control.shapes import (
    CreateTenant,
    CreateToken,
    Problem,
    RotateToken,
    TenantStatus,
    UpdateTenant,
)
from protocol.errors import ErrorCode, GatewayError
from supervisor import config as gateway_config
from supervisor.state import LOCK_WAIT_SECONDS, LockedError, StateError, StateRoot, default_root

if TYPE_CHECKING:
    import http.client
    import ssl

    from supervisor.tenants import TenantDesk

REQUEST_SECONDS: Final = 60.0
# A little longer than the front waits: what it says then is better than silence.
WIPE_SECONDS: Final = limits.CALL_SECONDS_MAX + 10.0


class SilentGatewayError(GatewayError):
    """The gateway does not answer, or what answers is none."""


class Tenants(Protocol):
    """What the tenant commands need; JSON as the control plane gives it."""

    def create(self, wanted: CreateTenant) -> dict[str, Any]:
        """Make a tenant."""

    def everyone(self) -> list[dict[str, Any]]:
        """Give all tenants."""

    def get(self, tenant: str) -> dict[str, Any]:
        """Give one tenant."""

    def update(self, tenant: str, change: UpdateTenant) -> dict[str, Any]:
        """Change its name, quota or limits."""

    def quota(self, tenant: str) -> dict[str, Any]:
        """Give its quota, and what is used of it as far as that is known."""

    def delete(self, tenant: str) -> dict[str, Any]:
        """Remove it."""

    def set_state(self, tenant: str, verb: Literal["suspend", "resume"]) -> dict[str, Any]:
        """Take it out of service, or back."""

    def restart(self, tenant: str) -> dict[str, Any]:
        """Have its next generation serve."""

    def status(self, tenant: str | None) -> list[dict[str, Any]]:
        """Say how its worker is, or how all are."""

    def tokens(self, tenant: str) -> list[dict[str, Any]]:
        """Give its tokens."""

    def create_token(self, tenant: str, wanted: CreateToken) -> dict[str, Any]:
        """Make a token."""

    def revoke_token(self, tenant: str, token_id: str) -> dict[str, Any]:
        """Forget a token."""

    def rotate(self, tenant: str, wanted: RotateToken) -> dict[str, Any]:
        """Replace a token."""


class DirectTenants:
    """Works on the files, with the lock held."""

    def __init__(self, desk: "TenantDesk") -> None:
        self._desk: Final = desk
        self._actor: Final = f"cli:{os.getuid()}"

    def create(self, wanted: CreateTenant) -> dict[str, Any]:
        """See `Tenants`."""
        created = self._desk.create(
            wanted.tenant_id,
            actor=self._actor,
            display_name=wanted.display_name,
            quota=wanted.quota,
            limits=wanted.limits,
        )
        return _plain(created)

    def everyone(self) -> list[dict[str, Any]]:
        """See `Tenants`."""
        return [_plain(tenant) for tenant in self._desk.list()]

    def get(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`."""
        return _plain(self._desk.get(tenant))

    def update(self, tenant: str, change: UpdateTenant) -> dict[str, Any]:
        """See `Tenants`."""
        return _plain(self._desk.update(tenant, change, actor=self._actor))

    def quota(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`. What is used only a gateway tells."""
        quota = _plain(self._desk.get(tenant).quota)
        return {"tenantId": tenant, "quotas": quota, "windows": [], "isBlocked": False}

    def delete(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`."""
        self._desk.begin_delete(tenant, actor=self._actor)
        self._desk.wipe(tenant)
        self._desk.finish_delete(tenant, actor=self._actor)
        return {"deleted": True, "tenantId": tenant}

    def set_state(self, tenant: str, verb: Literal["suspend", "resume"]) -> dict[str, Any]:
        """See `Tenants`."""
        wanted: Literal["enabled", "suspended"] = "suspended" if verb == "suspend" else "enabled"
        self._desk.set_state(tenant, wanted, actor=self._actor)
        return self.get(tenant)

    def restart(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`. Nothing runs, so nothing can be restarted."""
        self._desk.get(tenant)
        raise GatewayError(ErrorCode.UNAVAILABLE, "no gateway is running on this state directory")

    def status(self, tenant: str | None) -> list[dict[str, Any]]:
        """See `Tenants`."""
        rows = self._desk.list() if tenant is None else [self._desk.get(tenant)]
        found = [(row, "suspended" if row.state == "suspended" else "absent") for row in rows]
        return [
            _plain(
                TenantStatus(tenant_id=row.tenant_id, state=state, deaths=0, in_flight=0, held=0)
            )
            for row, state in found
        ]

    def tokens(self, tenant: str) -> list[dict[str, Any]]:
        """See `Tenants`."""
        return [_plain(token) for token in self._desk.tokens.list(tenant)]

    def create_token(self, tenant: str, wanted: CreateToken) -> dict[str, Any]:
        """See `Tenants`."""
        return _plain(self._desk.tokens.create(tenant, wanted, actor=self._actor))

    def revoke_token(self, tenant: str, token_id: str) -> dict[str, Any]:
        """See `Tenants`."""
        self._desk.tokens.revoke(tenant, token_id, actor=self._actor)
        return {"revoked": True, "tenantId": tenant, "tokenId": token_id}

    def rotate(self, tenant: str, wanted: RotateToken) -> dict[str, Any]:
        """See `Tenants`."""
        return _plain(self._desk.tokens.rotate(tenant, wanted, actor=self._actor))


class RemoteTenants:
    """Asks the gateway's control plane."""

    def __init__(self, url: str, admin_key: str, tls_directory: Path) -> None:
        parts = urlsplit(url)
        self._address: Final = parts.netloc
        self._admin_key: Final = admin_key
        self._tls: Final = tls_directory if parts.scheme == "https" else None

    @property
    def address(self) -> str:
        """Host and port."""
        return self._address

    def tls_context(self) -> "ssl.SSLContext | None":
        """Give how it is checked that it is the gateway; None for one that speaks without TLS."""
        if self._tls is None:
            return None
        # Imported late: it brings TLS along.
        from supervisor import tls  # noqa: PLC0415

        return tls.client_context(self._tls)

    def connection(self, seconds: float) -> "http.client.HTTPConnection":
        """Give a connection, not made yet, whose waits are bounded by `seconds`."""
        # Imported late: it brings TLS and e-mail along, and there may be no gateway to ask.
        import http.client  # noqa: PLC0415

        context = self.tls_context()
        if context is None:
            return http.client.HTTPConnection(self._address, timeout=seconds)
        return http.client.HTTPSConnection(self._address, timeout=seconds, context=context)

    def _ask(self, verb: str, path: str, body: Any = None) -> Any:
        import http.client  # noqa: PLC0415 - see `connection`

        connection = self.connection(WIPE_SECONDS if verb == "DELETE" else REQUEST_SECONDS)
        headers = {"Authorization": f"Bearer {self._admin_key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            payload = None if body is None else _sent(body)
            connection.request(verb, path, payload, headers)
            response = connection.getresponse()
            answer = msgspec.json.decode(response.read(limits.FRAME_BYTES_MAX))
            if response.status >= http.client.BAD_REQUEST:
                refusal = msgspec.convert(answer, Problem)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            msg = f"the gateway at {self._address} does not answer: {error}"
            raise SilentGatewayError(ErrorCode.UNAVAILABLE, msg) from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            code = ErrorCode.__members__.get(refusal.code, ErrorCode.INTERNAL)
            raise GatewayError(code, refusal.detail)
        return answer

    def _pages(self, path: str) -> list[dict[str, Any]]:
        """Give the tenants of all pages."""
        found: list[dict[str, Any]] = []
        query = f"?limit={limits.CONTROL_PAGE_MAX}"
        while True:
            page = self._ask("GET", path + query)
            found += page["tenants"]
            if "nextCursor" not in page:
                return found
            query = f"?limit={limits.CONTROL_PAGE_MAX}&cursor={quote(page['nextCursor'], safe='')}"

    def create(self, wanted: CreateTenant) -> dict[str, Any]:
        """See `Tenants`."""
        created: dict[str, Any] = self._ask("POST", "/v1/tenants", wanted)
        return created

    def everyone(self) -> list[dict[str, Any]]:
        """See `Tenants`."""
        return self._pages("/v1/tenants")

    def get(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`."""
        found: dict[str, Any] = self._ask("GET", _path(tenant))
        return found

    def update(self, tenant: str, change: UpdateTenant) -> dict[str, Any]:
        """See `Tenants`."""
        changed: dict[str, Any] = self._ask("PATCH", _path(tenant), change)
        return changed

    def quota(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`."""
        found: dict[str, Any] = self._ask("GET", f"{_path(tenant)}/quota")
        return found

    def delete(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`."""
        deleted: dict[str, Any] = self._ask("DELETE", _path(tenant))
        return deleted

    def set_state(self, tenant: str, verb: Literal["suspend", "resume"]) -> dict[str, Any]:
        """See `Tenants`."""
        changed: dict[str, Any] = self._ask("POST", f"{_path(tenant)}/{verb}", {})
        return changed

    def restart(self, tenant: str) -> dict[str, Any]:
        """See `Tenants`."""
        restarted: dict[str, Any] = self._ask("POST", f"{_path(tenant)}/restart", {})
        return restarted

    def reload(self) -> dict[str, Any]:
        """Have the gateway read its configuration again."""
        reloaded: dict[str, Any] = self._ask("POST", "/v1/reload", {})
        return reloaded

    def status(self, tenant: str | None) -> list[dict[str, Any]]:
        """See `Tenants`."""
        if tenant is None:
            return self._pages("/v1/status")
        found: list[dict[str, Any]] = self._ask("GET", f"{_path(tenant)}/status")["tenants"]
        return found

    def tokens(self, tenant: str) -> list[dict[str, Any]]:
        """See `Tenants`."""
        found: list[dict[str, Any]] = self._ask("GET", f"{_path(tenant)}/tokens")["tokens"]
        return found

    def create_token(self, tenant: str, wanted: CreateToken) -> dict[str, Any]:
        """See `Tenants`."""
        created: dict[str, Any] = self._ask("POST", f"{_path(tenant)}/tokens", wanted)
        return created

    def revoke_token(self, tenant: str, token_id: str) -> dict[str, Any]:
        """See `Tenants`."""
        path = f"{_path(tenant)}/tokens/{quote(token_id, safe='')}"
        revoked: dict[str, Any] = self._ask("DELETE", path)
        return revoked

    def rotate(self, tenant: str, wanted: RotateToken) -> dict[str, Any]:
        """See `Tenants`."""
        rotated: dict[str, Any] = self._ask("POST", f"{_path(tenant)}/token/rotate", wanted)
        return rotated


def _path(tenant: str) -> str:
    return f"/v1/tenants/{quote(tenant, safe='')}"


def _sent(body: Any) -> bytes:
    """Give a body as JSON; what equals its default, as null does mostly, need not be sent."""
    plain = msgspec.to_builtins(body)
    if not isinstance(body, UpdateTenant):
        plain = {name: value for name, value in plain.items() if value is not None}
    return msgspec.json.encode(plain)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


@contextlib.contextmanager
def open_tenants() -> Iterator[Tenants]:
    """Give a way to the tenants, and end the command with a message where there is none."""
    try:
        with _open() as tenants:
            yield tenants
    except GatewayError as error:
        refuse(error)
    except gateway_config.ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)
    except (StateError, OSError) as error:
        fail(str(error))


def exists(tenant: str) -> bool | None:
    """Say whether there is a tenant; None where that cannot be found out just now."""
    try:
        with _open() as tenants:
            tenants.get(tenant)
    except GatewayError as error:
        return False if error.code is ErrorCode.NOT_FOUND else None
    except (gateway_config.ConfigError, StateError, OSError):
        return None
    return True


@contextlib.contextmanager
def open_gateway() -> Iterator[RemoteTenants]:
    """Give the gateway that runs, and end the command with a message where there is none."""
    try:
        yield _running_gateway()
    except GatewayError as error:
        refuse(error)
    except (StateError, OSError) as error:
        fail(str(error))


def _running_gateway() -> RemoteTenants:
    state = StateRoot(default_root())
    try:
        with state.acquire():
            fail("no gateway is running on this state directory")
    except LockedError as error:
        return _remote(state, error)


def _remote(state: StateRoot, locked: LockedError) -> RemoteTenants:
    if not locked.holder.url:
        fail(f"{locked} and does not serve", ExitCode.TRY_LATER)
    return RemoteTenants(locked.holder.url, state.admin_key(), state.tls)


@contextlib.contextmanager
def _open() -> Iterator[Tenants]:
    state = StateRoot(default_root())
    config = gateway_config.load(state.config)
    state.prepare()
    try:
        lock = state.acquire(LOCK_WAIT_SECONDS)
    except LockedError as error:
        yield _remote(state, error)
        return
    # Imported late: with a gateway it is the gateway that opens the registry.
    from supervisor.tenants import TenantDesk  # noqa: PLC0415

    with lock, contextlib.closing(TenantDesk(state, config)) as desk:
        if desk.audit.repaired_bytes:
            cut = desk.audit.repaired_bytes
            click.echo(f"openclaw: the audit's torn last line was cut ({cut} bytes)", err=True)
        desk.recover()
        yield DirectTenants(desk)
