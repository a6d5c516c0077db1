"""The handlers of `tenants.usage`, `usage.*` and `sessions.usage`."""

from typing import Final

import msgspec

from protocol import limits, periods, usage
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import usage as declared
from protocol.periods import Period, PeriodError
from protocol.usage import DaysUse, ProviderUse, SessionUse, Use
from worker.dispatch import CallContext, handles
from worker.services import Services
from worker.sessions import keys, reads

_MS: Final = 1000
_months_decoder: Final = msgspec.json.Decoder(dict[str, Use])
_days_decoder: Final = msgspec.json.Decoder(DaysUse)
_providers_decoder: Final = msgspec.json.Decoder(list[ProviderUse])
_sessions_decoder: Final = msgspec.json.Decoder(list[SessionUse])


@handles(declared.SNAPSHOT)
async def snapshot(call: CallContext, asked: declared.SnapshotParams) -> declared.Snapshot:
    """Give this month."""
    services = call.services
    _check_tenant(services, asked.tenant_id)
    (month,) = await _months(services, 1)
    if not services.sessions.exists():
        return msgspec.structs.replace(month, total_sessions=0, active_sessions=0)
    counts = reads.counts(services.sessions.read())
    return msgspec.structs.replace(
        month, total_sessions=counts.sessions, active_sessions=counts.running
    )


@handles(declared.HISTORY)
async def history(call: CallContext, asked: declared.HistoryParams) -> declared.HistoryResult:
    """Give months, newest first."""
    _check_tenant(call.services, asked.tenant_id)
    return declared.HistoryResult(history=await _months(call.services, asked.months))


@handles(declared.STATUS)
async def status(call: CallContext, _asked: declared.StatusParams) -> declared.StatusResult:
    """Give what was asked of each provider."""
    now = call.services.clock.now_ms()
    today = periods.day_of(now)
    wanted = usage.ProvidersAsked(day=today, month=today[:7])
    body = await _ask(call.services, wanted)
    return declared.StatusResult(updated_at=now, providers=_providers_decoder.decode(body))


@handles(declared.COST)
async def cost(call: CallContext, asked: declared.CostParams) -> declared.CostResult:
    """Give what days and models have cost."""
    now = call.services.clock.now_ms()
    span = _span(asked.start_date, asked.end_date, now, asked.days)
    first, last = periods.day_of(span.start_ms), periods.day_of(span.end_ms - 1)
    body = await _ask(call.services, usage.DaysAsked(first=first, last=last))
    found = _days_decoder.decode(body)
    everything = Use()
    for use in found.days.values():
        everything += use
    return declared.CostResult(
        updated_at=now,
        days=(span.end_ms - span.start_ms) // periods.DAY_MS,
        daily=[declared.DailyCost(date=day, **_cost(use)) for day, use in found.days.items()],
        models=[
            declared.ModelCost(
                kind=each.kind, provider=each.provider, model=each.model, **_cost(each)
            )
            for each in found.models
        ],
        totals=declared.Cost(**_cost(everything)),
    )


@handles(declared.REPORT)
async def report(call: CallContext, asked: declared.ReportParams) -> msgspec.Raw:
    """Give a page of rows, as egress has written it."""
    try:
        period = periods.period(asked.period, call.services.clock.now_ms())
    except PeriodError as error:
        raise GatewayError(ErrorCode.INVALID_REQUEST, f"period: {error}", field="period") from None
    wanted = usage.ReportAsked(
        start_ms=period.start_ms,
        end_ms=period.end_ms,
        format=asked.format,
        limit=asked.limit,
        cursor=asked.cursor,
    )
    return msgspec.Raw(await _ask(call.services, wanted))


@handles(declared.SESSIONS)
async def sessions(call: CallContext, asked: declared.SessionsParams) -> declared.SessionsResult:
    """Give what sessions have used."""
    key = None if asked.key is None else keys.checked(asked.key, "key")
    now = call.services.clock.now_ms()
    span = _span(asked.start_date, asked.end_date, now, limits.USAGE_DAYS_DEFAULT)
    wanted = usage.SessionsAsked(
        start_ms=span.start_ms, end_ms=span.end_ms, limit=asked.limit, key=key
    )
    body = await _ask(call.services, wanted)
    return declared.SessionsResult(sessions=_sessions_decoder.decode(body))


async def _ask(services: Services, asked: usage.Asked) -> bytes:
    return await services.egress.call(usage.USAGE, usage.Question(asked=asked))


def _check_tenant(services: Services, named: str | None) -> None:
    if named not in (None, services.spec.tenant):
        # The same for a tenant that exists and one that does not.
        message = "tenantId is another tenant's than the token's"
        raise GatewayError(ErrorCode.FORBIDDEN, message, field="tenantId")


def _span(first: str | None, last: str | None, now_ms: int, days: int) -> Period:
    try:
        span = periods.span(first, last, now_ms, days)
    except PeriodError as error:
        field = "endDate" if first is None else "startDate"
        message = f"{field}: {error}"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field=field) from None
    if span.end_ms - span.start_ms > limits.USAGE_DAYS_MAX * periods.DAY_MS:
        message = f"startDate: at most {limits.USAGE_DAYS_MAX} days at a time"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="startDate")
    return span


async def _months(services: Services, count: int) -> list[declared.Snapshot]:
    now = services.clock.now_ms()
    months = periods.months_back(now, count)
    asked = usage.MonthsAsked(months=tuple(name for name, _ in months))
    found = _months_decoder.decode(await _ask(services, asked))
    return [
        _snapshot(services.spec.tenant, name, period, found.get(name, Use()), now)
        for name, period in months
    ]


def _snapshot(tenant: str, name: str, period: Period, use: Use, now_ms: int) -> declared.Snapshot:
    return declared.Snapshot(
        tenant_id=tenant,
        period=name,
        total_tokens=use.total_tokens,
        input_tokens=use.input_tokens,
        cache_read_tokens=use.cache_read_tokens,
        cache_write_tokens=use.cache_write_tokens,
        output_tokens=use.output_tokens,
        reasoning_tokens=use.reasoning_tokens,
        total_cost_micro_usd=use.cost_micro_usd,
        model_calls=use.calls,
        estimated_calls=use.estimated_calls,
        tool_calls=use.tool_calls,
        sandbox_seconds=use.sandbox_wall_ms / _MS,
        sandbox_cpu_seconds=use.sandbox_cpu_ms / _MS,
        egress_bytes=use.egress_bytes,
        updated_at=now_ms,
        quota_reset_at=period.end_ms,
    )


def _cost(use: Use) -> dict[str, int]:
    return {
        "calls": use.calls,
        "input": use.input_tokens,
        "output": use.output_tokens,
        "cache_read": use.cache_read_tokens,
        "cache_write": use.cache_write_tokens,
        "reasoning": use.reasoning_tokens,
        "total_tokens": use.total_tokens,
        "total_cost_micro_usd": use.cost_micro_usd,
        "missing_cost_entries": use.estimated_calls,
    }
