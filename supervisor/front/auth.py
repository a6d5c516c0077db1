"""Who may call: the table of token digests, and the one look-up that every request goes through."""

import hmac
from collections.abc import Iterable
from typing import Final, NamedTuple

from protocol import names
from protocol.spawn import TenantAccess
from supervisor.front.tenants import Tenant

_DUMMY: Final = bytes(32)


class Grant(NamedTuple):
    """What a valid token gives. Scopes are bits of `protocol.methods.Scope`."""

    tenant: Tenant
    scopes: int
    digest: bytes
    enabled: bool


class TokenTable:
    """Digests of tokens and what they grant.

    `version` grows with every change: whoever remembers a grant asks again when it has.
    """

    def __init__(self) -> None:
        self.version = 0
        self._grants: dict[bytes, Grant] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}

    def put(self, tenant: Tenant, access: TenantAccess) -> None:
        """Replace all that is known of a tenant's tokens.

        Raises:
            ValueError: a digest is not 32 bytes in hex; nothing is changed.
        """
        grants = [
            Grant(tenant, scopes, _digest(text), access.enabled)
            for text, scopes in access.tokens.items()
        ]
        self.remove([access.tenant])
        self._digests[access.tenant] = tuple(grant.digest for grant in grants)
        for grant in grants:
            self._grants[grant.digest] = grant

    def remove(self, tenants: Iterable[str]) -> None:
        """Forget tenants and their tokens."""
        self.version += 1
        for tenant in tenants:
            for digest in self._digests.pop(tenant, ()):
                grant = self._grants.get(digest)
                if grant is not None and grant.tenant.name == tenant:
                    del self._grants[digest]

    def knows(self, tenant: str) -> bool:
        """Say whether a tenant is in the table."""
        return tenant in self._digests

    def digests(self, tenant: str) -> tuple[bytes, ...]:
        """Give the digests of a tenant's tokens."""
        return self._digests.get(tenant, ())

    def holds(self, grant: Grant) -> bool:
        """Say whether a grant given earlier is still good."""
        return grant.enabled and self._grants.get(grant.digest) == grant

    def look_up(self, secret: str) -> Grant | None:
        """Give what a secret grants.

        Unknown tenant, wrong secret, revoked and disabled take the same way: one digest, one
        look-up, one comparison in constant time.
        """
        digest = names.digest(secret)
        grant = self._grants.get(digest)
        same = hmac.compare_digest(digest, _DUMMY if grant is None else grant.digest)
        if grant is None or not same or not grant.enabled:
            return None
        return grant


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != len(_DUMMY):
        msg = f"a digest has {len(_DUMMY)} bytes"
        raise ValueError(msg)
    return digest
