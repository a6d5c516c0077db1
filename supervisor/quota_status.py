"""What a tenant's quota has come to, put together for who asks."""

from collections.abc import Iterable

from protocol.methods.tenants import QuotaStatus, QuotaWindow
from protocol.moments import rfc3339
from protocol.quotas import Quota, Reached, Standing, Use, soft_limit


def quota_status(
    quota: Quota, uses: Iterable[Use], standing: Standing, disk: tuple[int, int] | None
) -> QuotaStatus:
    """Put it together.

    Args:
        quota: What holds.
        uses: Of each metric that is known, in the present windows.
        standing: What egress has decided; its window goes on.
        disk: Bytes that the tenant has and may have, where both are known.
    """
    windows = [_window(use, quota) for use in uses]
    blocked = standing.blocked or _full(windows, uses)
    disk_percent = None if disk is None else _percent(*disk)
    return QuotaStatus(
        tenant_id=standing.tenant,
        quotas=quota,
        windows=windows,
        token_usage_percent=_most(windows, "tokens"),
        cost_usage_percent=_most(windows, "cost"),
        disk_usage_percent=disk_percent,
        is_over_token_limit=_is_over(windows, "tokens"),
        is_over_cost_limit=_is_over(windows, "cost"),
        is_over_disk_limit=disk is not None and disk[0] >= disk[1],
        is_at_soft_limit=any(window.is_at_soft_limit for window in windows),
        is_blocked=blocked is not None,
        blocked_by=blocked.metric if blocked else None,
        next_window_at=rfc3339(blocked.resets_at_ms) if blocked else None,
    )


def _window(use: Use, quota: Quota) -> QuotaWindow:
    limit = use.limit
    return QuotaWindow(
        metric=use.metric,
        used=use.used,
        limit=limit,
        percent=None if limit is None else _percent(use.used, limit),
        is_over=limit is not None and use.used >= limit,
        is_at_soft_limit=limit is not None and use.used >= soft_limit(quota, limit),
        next_window_at=None if use.metric == "concurrentRuns" else rfc3339(use.resets_at_ms),
    )


def _full(windows: Iterable[QuotaWindow], uses: Iterable[Use]) -> Reached | None:
    """Give the full window that ends last; who waits for a run's end is not blocked by it."""
    full = [
        Reached(
            metric=use.metric, limit=use.limit or 0, used=use.used, resets_at_ms=use.resets_at_ms
        )
        for window, use in zip(windows, uses, strict=True)
        if window.is_over and use.metric != "concurrentRuns"
    ]
    return max(full, key=lambda reached: reached.resets_at_ms, default=None)


def _percent(used: int, limit: int) -> float:
    """Give how much of a limit is used; of nothing all is."""
    return round(100 * used / limit, 2) if limit else 100.0


def _most(windows: Iterable[QuotaWindow], kind: str) -> float | None:
    percents = (window.percent for window in windows if window.metric.startswith(kind))
    return max((percent for percent in percents if percent is not None), default=None)


def _is_over(windows: Iterable[QuotaWindow], kind: str) -> bool:
    return any(window.is_over for window in windows if window.metric.startswith(kind))
