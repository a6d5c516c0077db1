"""How tenants stand with their quotas, told when it changes.

By what was settled alone: what is set aside for calls under way may come back in a moment, and who
is blocked is blocked until the window's end. A window is over also when a call did not fit into it
and hardly one could: see `Books.over`.
"""

from collections.abc import Callable
from typing import Final

from protocol.quotas import (
    SPENDING,
    Metric,
    Quota,
    Reached,
    Standing,
    limit_of,
    soft_limit,
    window_end,
)


class Standings:
    """Of all tenants.

    Args:
        settled: Says what a tenant has spent of a metric in its present window.
        tell: Called with every standing that is another than before.
    """

    def __init__(
        self, settled: Callable[[str, Metric], int], tell: Callable[[Standing], None]
    ) -> None:
        self._settled: Final = settled
        self._tell: Final = tell
        self._quotas: Final[dict[str, Quota]] = {}
        self._limited: Final[dict[str, tuple[tuple[Metric, int, int], ...]]] = {}
        """By tenant: metric, limit and where the warning begins, of what is limited."""
        self._told: Final[dict[str, Standing]] = {}
        """Those that are not at ease."""
        self._over: Final[dict[str, dict[Metric, int]]] = {}
        """By tenant: what is over although not all is used, and when that window ends."""

    def quota(self, tenant: str) -> Quota | None:
        """Give what a tenant may spend; None: it is not known."""
        return self._quotas.get(tenant)

    def limit(self, tenant: str, quota: Quota) -> None:
        """Take what a tenant may spend from here on; `look` is to follow."""
        self._quotas[tenant] = quota
        self._over.pop(tenant, None)
        limits = [(metric, limit_of(quota, metric)) for metric in SPENDING]
        limited = tuple(
            (metric, limit, soft_limit(quota, limit))
            for metric, limit in limits
            if limit is not None
        )
        if limited:
            self._limited[tenant] = limited
        else:
            self._limited.pop(tenant, None)

    def forget(self, tenant: str) -> None:
        """The tenant is gone."""
        for known in (self._quotas, self._limited, self._told, self._over):
            known.pop(tenant, None)

    def end(self, tenant: str, metric: Metric, now_ms: int) -> None:
        """A call did not fit into what little is left: the window is over for the tenant."""
        self._over.setdefault(tenant, {})[metric] = window_end(metric, now_ms)
        self.look(tenant, now_ms)

    def of(self, tenant: str, now_ms: int) -> Standing:
        """Say how a tenant stands now."""
        over = self._over.get(tenant, {}).items()
        reached = [
            Reached(metric=metric, limit=limit, used=used, resets_at_ms=end)
            for metric, limit, soft in self._limited.get(tenant, ())
            for used, end in [(self._settled(tenant, metric), window_end(metric, now_ms))]
            if used >= soft or (metric, end) in over
        ]
        full = [
            each
            for each in reached
            if each.used >= each.limit or (each.metric, each.resets_at_ms) in over
        ]
        return Standing(
            tenant=tenant,
            blocked=max(full, key=lambda each: each.resets_at_ms, default=None),
            warned=tuple(reached),
        )

    def look(self, tenant: str, now_ms: int) -> None:
        """Tell how a tenant stands, if that has changed: in another limit, or another window."""
        limited = self._limited.get(tenant, ())
        known = tenant in self._told or tenant in self._over
        if not known and not any(
            self._settled(tenant, metric) >= soft for metric, _, soft in limited
        ):
            return  # after nearly every call
        now, before = self.of(tenant, now_ms), self._told.get(tenant)
        if _gist(now) == _gist(before or Standing(tenant=tenant)):
            return
        if now.warned:
            self._told[tenant] = now
        else:
            self._told.pop(tenant, None)
        self._tell(now)

    def look_at_all(self, now_ms: int) -> None:
        """The windows are others: look at whom that may concern."""
        for tenant in list(self._limited):
            self.look(tenant, now_ms)


def _gist(standing: Standing) -> tuple[object, ...]:
    """What of a standing is news: how much is used beyond a limit is none."""

    def of(reached: Reached | None) -> object:
        return reached and (reached.metric, reached.limit, reached.resets_at_ms)

    return of(standing.blocked), *map(of, standing.warned)
