"""What can be done to a tenant's tokens: registry and audit kept in step. It blocks on the disk.

A *name* is a place for a secret. Rotation puts a new secret in that place; the old ones of the name
end at once, or a while later, but never later than they would have ended anyway.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from protocol import limits
from protocol.control.shapes import (
    CreatedToken,
    CreateToken,
    RotateToken,
    TokenView,
    scope_bits,
    scope_names,
)
from protocol.errors import ErrorCode, GatewayError
from protocol.moments import rfc3339
from protocol.names import (
    TOKEN_ID_PATTERN,
    TOKEN_NAME_PATTERN,
    hide_secrets,
    is_token_id,
    is_token_name,
)
from supervisor.refusals import disk_refusals
from supervisor.registry import DEFAULT_TOKEN, NewToken, Registry, Tenant, Token

_PLAIN: Final = RotateToken()


class Record(Protocol):
    """Writes a line of the audit."""

    def __call__(self, action: str, actor: str, tenant: str | None, **detail: object) -> None:
        """See `supervisor.tenants.TenantDesk.record`."""


class TokenDesk:
    """The operations. One thread at a time; each raises GatewayError UNAVAILABLE for a bad disk.

    Args:
        registry: Where tokens are kept.
        change: Gives a context whose changes are kept together or not at all.
        record: Writes to the audit; a change and its line are kept together.
        row: Gives a tenant, or raises NOT_FOUND.
        now_ms: The clock.
    """

    def __init__(
        self,
        registry: Registry,
        change: Callable[[], AbstractContextManager[None]],
        record: Record,
        row: Callable[[str], Tenant],
        now_ms: Callable[[], int],
    ) -> None:
        self._registry: Final = registry
        self._change: Final = change
        self._record: Final = record
        self._row: Final = row
        self._now_ms: Final = now_ms

    @disk_refusals()
    def list(self, tenant: str) -> list[TokenView]:
        """Give a tenant's tokens, oldest first.

        Raises:
            GatewayError: NOT_FOUND.
        """
        self._row(tenant)
        now_ms = self._now_ms()
        return [self._view(tenant, token, now_ms) for token in self._registry.tokens(tenant)]

    @disk_refusals()
    def get(self, tenant: str, token_id: str) -> TokenView:
        """Give one token.

        Raises:
            GatewayError: NOT_FOUND.
        """
        return self._view(tenant, self._token(tenant, token_id), self._now_ms())

    @disk_refusals()
    def create(self, tenant: str, wanted: CreateToken, *, actor: str) -> CreatedToken:
        """Make a token.

        Raises:
            GatewayError: NOT_FOUND, INVALID_REQUEST, or CONFLICT: the name is taken, or the tenant
                has as many tokens as it may.
        """
        self._row(tenant)
        if not is_token_name(wanted.name):
            msg = f"name: must match {TOKEN_NAME_PATTERN}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="name")
        if hide_secrets(wanted.name) != wanted.name:
            msg = "name: must not hold a token or an admin key"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="name")
        now_ms = self._now_ms()
        seconds = wanted.expires_in_seconds
        with self._change():
            self._drop_expired(tenant, now_ms)
            if any(token.name == wanted.name for token in self._registry.tokens(tenant)):
                msg = f"a token named {wanted.name} exists; rotate it, or take another name"
                raise GatewayError(ErrorCode.CONFLICT, msg)
            self._check_room(tenant)
            new = self._registry.add_token(
                tenant,
                wanted.name,
                scope_bits(wanted.scopes),
                now_ms=now_ms,
                expires_at=None if seconds is None else now_ms + seconds * 1000,
            )
            self._record("token.created", actor, tenant, after=_facts(new.token))
        return self._created(tenant, new)

    @disk_refusals()
    def revoke(self, tenant: str, token_id: str, *, actor: str) -> None:
        """Forget a token.

        Raises:
            GatewayError: NOT_FOUND.
        """
        token = self._token(tenant, token_id)
        with self._change():
            self._registry.remove_token(token.id)
            self._record("token.revoked", actor, tenant, before=_facts(token))

    @disk_refusals()
    def rotate(self, tenant: str, wanted: RotateToken = _PLAIN, *, actor: str) -> CreatedToken:
        """Replace every token of a name with a new one, of the same scopes and as long a life.

        Raises:
            GatewayError: NOT_FOUND, or CONFLICT: the old ones would be too many beside the new one.
        """
        self._row(tenant)
        now_ms = self._now_ms()
        model = self._model(tenant, wanted.token_id)
        life = None if model.expires_at is None else model.expires_at - model.created_at
        ends_at = now_ms + wanted.overlap_seconds * 1000
        with self._change():
            replaced = [old for old in self._registry.tokens(tenant) if old.name == model.name]
            for old in replaced:
                if wanted.overlap_seconds:
                    self._registry.end_token(old.id, ends_at)
                else:
                    self._registry.remove_token(old.id)
            self._drop_expired(tenant, now_ms)
            self._check_room(tenant)
            new = self._registry.add_token(
                tenant,
                model.name,
                model.scopes,
                now_ms=now_ms,
                expires_at=None if life is None else now_ms + life,
            )
            self._record(
                "token.rotated",
                actor,
                tenant,
                before=[_facts(old) for old in replaced],
                after=_facts(new.token),
                overlapSeconds=wanted.overlap_seconds,
            )
        return self._created(tenant, new)

    def _model(self, tenant: str, token_id: str | None) -> Token:
        if token_id is not None:
            return self._token(tenant, token_id)
        named = [token for token in self._registry.tokens(tenant) if token.name == DEFAULT_TOKEN]
        if not named:
            msg = f"no token is named {DEFAULT_TOKEN}; say tokenId"
            raise GatewayError(ErrorCode.NOT_FOUND, msg, field="tokenId")
        return named[-1]

    def _token(self, tenant: str, token_id: str) -> Token:
        self._row(tenant)
        if not is_token_id(token_id):
            msg = f"tokenId: must match {TOKEN_ID_PATTERN}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="tokenId")
        for token in self._registry.tokens(tenant):
            if token.id == token_id:
                return token
        raise GatewayError(ErrorCode.NOT_FOUND, f"no such token: {token_id}", field="tokenId")

    def _check_room(self, tenant: str) -> None:
        if len(self._registry.tokens(tenant)) >= limits.TOKENS_PER_TENANT_MAX:
            msg = f"a tenant has at most {limits.TOKENS_PER_TENANT_MAX} tokens; revoke one first"
            raise GatewayError(ErrorCode.CONFLICT, msg)

    def _drop_expired(self, tenant: str, now_ms: int) -> None:
        for token in self._registry.tokens(tenant):
            if token.expired(now_ms):
                self._registry.remove_token(token.id)
                self._record("token.expired", "gateway", tenant, before=_facts(token))

    def _view(self, tenant: str, token: Token, now_ms: int) -> TokenView:
        return TokenView(
            token_id=token.id,
            tenant_id=tenant,
            name=token.name,
            scopes=scope_names(token.scopes),
            created_at=rfc3339(token.created_at),
            expires_at=None if token.expires_at is None else rfc3339(token.expires_at),
            expired=token.expired(now_ms),
        )

    def _created(self, tenant: str, new: NewToken) -> CreatedToken:
        return CreatedToken(
            token_id=new.token.id,
            tenant_id=tenant,
            name=new.token.name,
            scopes=scope_names(new.token.scopes),
            created_at=rfc3339(new.token.created_at),
            expires_at=None if new.token.expires_at is None else rfc3339(new.token.expires_at),
            token=new.secret,
        )


def _facts(token: Token) -> dict[str, object]:
    return {
        "tokenId": token.id,
        "name": token.name,
        "scopes": scope_names(token.scopes),
        "expiresAt": token.expires_at,
    }
