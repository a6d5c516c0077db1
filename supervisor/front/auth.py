"""Who may call: the table of token digests, and the one look-up that every request goes through."""

import hmac
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, NamedTuple

from protocol import names
from protocol.spawn import TenantAccess
from supervisor.front.tenants import Tenant

_DUMMY: Final = bytes(32)


def _unix_ms() -> float:
    return time.time() * 1000


class Grant(NamedTuple):
    """What a valid token gives. Scopes are bits of `protocol.methods.Scope`.

    `expires_at` is its end in Unix ms, infinity for none.
    """

    tenant: Tenant
    scopes: int
    digest: bytes
    enabled: bool
    token_id: str
    expires_at: float


class TokenTable:
    """Digests of tokens and what they grant.

    `version` grows with every change: whoever remembers a grant asks again when it has.

    Args:
        clock: The time of day, in Unix ms.
    """

    def __init__(self, clock: Callable[[], float] = _unix_ms) -> None:
        self.version = 0
        self._clock: Final = clock
        self._grants: dict[bytes, Grant] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        # Those that end, and when to look at them: never after the first of them.
        self._ending: dict[bytes, float] = {}
        self._next_end = inf

    def put(self, tenant: Tenant, access: TenantAccess) -> frozenset[bytes]:
        """Replace all that is known of a tenant's tokens; gives the digests that are good no more.

        Raises:
            ValueError: a digest is not 32 bytes in hex; nothing is changed.
        """
        grants = [
            Grant(
                tenant,
                given.scopes,
                _digest(text),
                access.enabled,
                given.id,
                inf if given.expires_at is None else given.expires_at,
            )
            for text, given in access.tokens.items()
        ]
        dropped = self.remove([access.tenant])
        self._digests[access.tenant] = tuple(grant.digest for grant in grants)
        for grant in grants:
            self._grants[grant.digest] = grant
            if grant.expires_at < inf:
                self._ending[grant.digest] = grant.expires_at
                self._next_end = min(self._next_end, grant.expires_at)
        return dropped - {grant.digest for grant in grants if grant.enabled}

    def remove(self, tenants: Iterable[str]) -> frozenset[bytes]:
        """Forget tenants and their tokens; gives the digests that are good no more."""
        self.version += 1
        dropped = set()
        for tenant in tenants:
            for digest in self._digests.pop(tenant, ()):
                grant = self._grants.get(digest)
                if grant is not None and grant.tenant.name == tenant:
                    del self._grants[digest]
                    self._ending.pop(digest, None)
                    dropped.add(digest)
        return frozenset(dropped)

    def expire(self) -> frozenset[bytes]:
        """Forget the tokens whose time is over; gives their digests.

        They are refused from that time on without this; it is for what they have opened.
        """
        now = self._clock()
        if now < self._next_end:
            return frozenset()
        over = frozenset(digest for digest, end in self._ending.items() if end <= now)
        for digest in over:
            del self._ending[digest]
            del self._grants[digest]
        self._next_end = min(self._ending.values(), default=inf)
        if over:
            self.version += 1
        return over

    def knows(self, tenant: str) -> bool:
        """Say whether a tenant is in the table."""
        return tenant in self._digests

    def holds(self, grant: Grant) -> bool:
        """Say whether a grant given earlier is still good; its end may have been moved."""
        present = self._grants.get(grant.digest)
        return (
            present is not None
            and present.tenant is grant.tenant
            and present.scopes == grant.scopes
            and present.enabled
            and not self.is_over(present)
        )

    def is_over(self, grant: Grant) -> bool:
        """Say whether a token's time is over."""
        return grant.expires_at < inf and grant.expires_at <= self._clock()

    def look_up(self, secret: str) -> Grant | None:
        """Give what a secret grants.

        Unknown tenant, wrong secret, revoked, expired and disabled take the same way: one digest,
        one look-up, one comparison in constant time.
        """
        digest = names.digest(secret)
        grant = self._grants.get(digest)
        same = hmac.compare_digest(digest, _DUMMY if grant is None else grant.digest)
        if grant is None or not same or not grant.enabled or self.is_over(grant):
            return None
        return grant


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != len(_DUMMY):
        msg = f"a digest has {len(_DUMMY)} bytes"
        raise ValueError(msg)
    return digest
